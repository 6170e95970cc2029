"""Migration metrics of paths and stories whose values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.made_episodes import (
    ALONE,
    BEGINS_ANEW,
    DIES_OUT,
    FAMILY,
    ONE_STEP,
    STORIES,
    Node,
    story,
)
from durotaxis.analysis.metrics import (
    LABELS,
    METRIC_COLUMNS,
    NUMBERS,
    EpisodeMetrics,
    autocorrelation_at,
    balance,
    direction_autocorrelation,
    directness,
    durotaxis_index,
    forward_births,
    forward_index,
    front_speed,
    log_slope,
    mean_squared_displacement,
    mean_turning,
    metrics_of,
    msd_exponent,
    path_length,
    path_of,
    persistence,
    row_of,
    speed,
    turning_angles,
    velocity,
)
from durotaxis.analysis.tracks import centroids_of, tracks_of

STRAIGHT = np.stack([3.0 * np.arange(41), 4.0 * np.arange(41)], axis=1)
THERE_AND_BACK = np.array([[0.0, 0.0], [2.0, 0.0]] * 10)
STILL = np.full((9, 2), 5.0)


def polygon(turn: float, steps: int) -> np.ndarray:
    """Unit steps, each turned left by the same angle; the first one goes along."""
    heading = turn * np.arange(steps)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)])


def walk(heading: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)])


def measured(frames, **info) -> EpisodeMetrics:
    episode = story(frames, **info)
    tracks = tracks_of(episode, 2)
    return metrics_of(episode, tracks, centroids_of(episode, tracks))


def test_a_straight_path():
    assert velocity(STRAIGHT, 0.5) == pytest.approx(6.0)
    assert speed(STRAIGHT, 0.5) == pytest.approx(10.0)
    assert path_length(STRAIGHT) == pytest.approx(200.0)
    assert forward_index(STRAIGHT) == pytest.approx(0.6)
    assert forward_index(STRAIGHT[::-1]) == pytest.approx(-0.6)
    assert directness(STRAIGHT) == pytest.approx(1.0)
    assert turning_angles(STRAIGHT) == pytest.approx(np.zeros(39), abs=1e-12)
    assert direction_autocorrelation(STRAIGHT) == pytest.approx(np.ones(11))
    assert math.isnan(persistence(STRAIGHT, 0.5)), "it is kept longer than can be told"
    assert mean_squared_displacement(STRAIGHT) == pytest.approx(25.0 * np.arange(1, 11) ** 2)
    assert msd_exponent(STRAIGHT) == pytest.approx(2.0)


def test_there_and_back():
    assert velocity(THERE_AND_BACK, 1.0) == pytest.approx(2.0 / 19)
    assert forward_index(THERE_AND_BACK) == directness(THERE_AND_BACK) == pytest.approx(1 / 19)
    assert mean_turning(THERE_AND_BACK) == pytest.approx(math.pi)
    assert direction_autocorrelation(THERE_AND_BACK) == pytest.approx([1, -1, 1, -1, 1])
    assert persistence(THERE_AND_BACK, 1.0) == pytest.approx((1 - 1 / math.e) / 2)
    assert mean_squared_displacement(THERE_AND_BACK) == pytest.approx([4, 0, 4, 0])


def test_a_regular_polygon():
    turn, steps = 2 * math.pi / 40, 20
    path = polygon(turn, steps)
    assert turning_angles(path) == pytest.approx(np.full(steps - 1, turn))
    assert turning_angles(path * [1, -1]) == pytest.approx(np.full(steps - 1, -turn))
    # The chord over half of a polygon of 40 sides of length 1 is the diameter of its circle.
    assert directness(path) == pytest.approx(1 / math.sin(turn / 2) / steps)
    assert direction_autocorrelation(polygon(turn, 60)) == pytest.approx(np.cos(turn * np.arange(16)))
    lags = np.arange(1, 16)
    chords = (np.sin(lags * turn / 2) / math.sin(turn / 2)) ** 2
    assert mean_squared_displacement(polygon(turn, 60)) == pytest.approx(chords)
    # cos(turn k) passes 1/e between k = 7 and 8.
    low, high = math.cos(7 * turn), math.cos(8 * turn)
    assert low > 1 / math.e > high
    assert persistence(polygon(turn, 60), 0.5) == pytest.approx(0.5 * (7 + (low - 1 / math.e) / (low - high)))


def test_metrics_do_not_depend_on_where_a_path_lies_and_some_not_on_how_it_lies(rng):
    path = np.cumsum(rng.normal(size=(60, 2)), axis=0)
    moved = path + np.array([50.0, -20.0])
    turned = path @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    for measure in (directness, msd_exponent, mean_turning, path_length):
        assert measure(moved) == pytest.approx(measure(path))
        assert measure(turned) == pytest.approx(measure(path))
    assert forward_index(moved) == pytest.approx(forward_index(path))
    assert forward_index(path * [-1, 1]) == pytest.approx(-forward_index(path))


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_squared_displacement_by_loops(rng):
    path = rng.normal(size=(23, 2))
    expected = []
    for lag in range(1, 6):
        pairs = [(path[i], path[i + lag]) for i in range(len(path) - lag)]
        expected.append(sum((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 for a, b in pairs) / len(pairs))
    assert mean_squared_displacement(path) == pytest.approx(expected)


def test_a_random_walk_has_exponent_one_and_right_angles(rng):
    paths = [walk(rng.uniform(-math.pi, math.pi, 400)) for _ in range(40)]
    mean_curve = np.mean([mean_squared_displacement(path) for path in paths], axis=0)
    assert log_slope(mean_curve) == pytest.approx(1.0, abs=0.05)
    # The logarithm of a noisy curve is low on average, most where lags are long: single paths have less.
    assert np.mean([msd_exponent(path) for path in paths]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([mean_turning(path) for path in paths]) == pytest.approx(math.pi / 2, abs=0.02)
    assert all(persistence(path, 1.0) < 1.0 for path in paths)


def test_the_persistence_of_a_persistent_walk_is_its_time(rng):
    # Headings that diffuse: E cos(difference after k steps) = exp(-k spread² / 2).
    spread, step_h = 0.3, 0.25
    times = [persistence(walk(np.cumsum(rng.normal(0.0, spread, 1000))), step_h) for _ in range(30)]
    assert np.mean(times) == pytest.approx(step_h * 2 / spread**2, rel=0.1)


def test_steps_of_no_length_have_no_direction():
    path = np.array([[0, 0], [1, 0], [1, 0], [2, 0], [2, 1], [2, 2], [2, 2], [2, 3], [2, 4]], dtype=float)
    assert turning_angles(path) == pytest.approx([math.pi / 2, 0, 0])
    # Steps: E - E N N - N N. One apart both moved: EN NN NN; two apart: EE, EN, NN.
    assert direction_autocorrelation(path) == pytest.approx([1.0, 2 / 3, 2 / 3])


@pytest.mark.parametrize("path", [STILL, np.zeros((1, 2)), np.zeros((0, 2))], ids=["still", "one", "none"])
def test_what_does_not_move_has_no_indices(path):
    for measure in (directness, forward_index, mean_turning, msd_exponent):
        assert math.isnan(measure(path)), measure
    assert math.isnan(persistence(path, 1.0))
    assert math.isnan(autocorrelation_at(path, 1))


def test_speeds_of_what_stays_and_of_what_has_no_time():
    assert velocity(STILL, 1.0) == speed(STILL, 1.0) == front_speed(STILL[:, 0], 1.0) == 0.0
    for path in (np.zeros((1, 2)), np.zeros((0, 2))):
        assert math.isnan(velocity(path, 1.0))
        assert math.isnan(speed(path, 1.0))
        assert math.isnan(front_speed(path[:, 0], 1.0))


def test_the_front_counts_what_was_reached():
    assert front_speed(np.array([2.0, 8.0, 12.0, 7.0, 6.0]), 0.5) == pytest.approx(5.0)
    assert front_speed(np.array([9.0, 8.0, 7.0]), 0.5) == 0.0


def test_a_slope_of_logarithms():
    assert log_slope(3.0 * np.arange(1, 9) ** 1.3) == pytest.approx(1.3)
    assert log_slope(np.array([4.0, 0.0, 36.0])) == pytest.approx(2.0), "zeros have no logarithm"
    assert math.isnan(log_slope(np.array([4.0])))


def test_an_hour_is_the_nearest_lag():
    path = polygon(0.1, 40)
    assert autocorrelation_at(path, 6) == pytest.approx(math.cos(0.6))
    assert math.isnan(autocorrelation_at(path, 0)), "steps longer than two hours"
    assert math.isnan(autocorrelation_at(path, 11)), "beyond a quarter"


def test_balance():
    assert balance(np.array([3.0, 0.2, 5.0, -1.0, 0.0])) == 0.5
    assert balance(np.array([3.0, 0.2, 5.0, -1.0, 0.0]), 0.5) == pytest.approx(1 / 3)
    assert math.isnan(balance(np.zeros(3)))
    assert math.isnan(balance(np.zeros(0)))


def births(gains: list[float], step: float = 1.0) -> list[list[Node]]:
    """A founder that bears one child per step, on ground stiffer by these gains, each a step further on."""
    frames, children = [], []
    for index, gain in enumerate([*gains, None]):
        frames.append([Node(0, 10.0, kind=1, kpa=5.0), *children])
        if gain is not None:
            children = [*children, Node(index + 1, 10.0 + step, float(index), 0, kpa=5.0 + gain)]
    return frames


def test_the_durotaxis_index_counts_births_onto_stiffer_ground():
    up = tracks_of(story(births([0.5, 0.1, -0.2, 0.3, 0.0])))
    assert durotaxis_index(up) == pytest.approx((3 - 1) / 4)
    assert forward_births(up) == 1.0
    back = tracks_of(story(births([-0.5, -0.1], step=-2.0)))
    assert durotaxis_index(back) == forward_births(back) == -1.0


def test_without_a_gradient_there_is_no_durotaxis_index():
    flat = measured(births([0.0, 0.0, 1e-6, -1e-6]))
    assert math.isnan(flat.durotaxis_index)
    assert math.isnan(flat.durotaxis_index_colony)
    assert flat.forward_births == 1.0


def test_metrics_of_a_family():
    found = measured(FAMILY, direction=0.0, minutes_per_step=30.0, success=True, reason="success")
    assert (found.episode, found.seed, found.policy, found.success) == (2, 7, "agent", True)
    assert found.hours == 2.0
    # Centroids: (2, 0), (4, 1), (18/4, 1), (10/3, 1/3), (3, 1/2).
    way = math.hypot(2, 1) + 0.5 + math.hypot(7 / 6, 2 / 3) + math.hypot(1 / 3, 1 / 6)
    assert found.velocity == pytest.approx(0.5)
    assert found.speed == pytest.approx(way / 2)
    assert found.forward_index == pytest.approx(1 / way)
    assert found.directness == pytest.approx(math.hypot(1, 0.5) / way)
    assert found.front_speed == pytest.approx(2.0)
    assert (found.birth_rate, found.death_rate) == (1.0, 1.0)
    assert found.durotaxis_index == found.forward_births == 0.0, "2 further on, 3 back from there"
    # The mean stiffness follows the mean x: up, up, down, down.
    assert found.durotaxis_index_colony == 0.0
    assert found.num_nodes == pytest.approx(14 / 5)
    assert found.hull_area == pytest.approx((6 + 7 + 2) / 5)
    assert (found.generation, found.generation_max) == (1.0, 2.0)


def test_a_direction_turns_the_axes():
    up = measured([[Node(0, 1.0, 1.0)], [Node(0, 1.0, 1.0)]], direction=math.pi / 2)
    assert up.velocity == 0.0
    frames = [[Node(0, 1.0, 1.0, kind=1)], [Node(0, 1.0, 1.0), Node(1, 1.0, 5.0, 0)]]
    assert measured(frames, direction=math.pi / 2).forward_index == pytest.approx(1.0)
    assert measured(frames, direction=-math.pi / 2).forward_index == pytest.approx(-1.0)
    assert measured(frames).forward_index == pytest.approx(0.0)


def test_a_colony_that_dies_out_is_measured_while_it_lives():
    found = measured(DIES_OUT)
    assert found.velocity == found.speed == 0.0
    assert math.isnan(found.directness)
    assert (found.birth_rate, found.death_rate) == (0.0, pytest.approx(6.0))
    assert found.num_nodes == pytest.approx(4 / 3)
    assert (found.generation, found.hull_area) == (0.0, 0.0)


def test_one_that_begins_anew_jumps_back():
    found = measured(BEGINS_ANEW)
    assert found.birth_rate == pytest.approx(3.0)
    assert found.velocity == pytest.approx((16 / 3 - 2) / (1 / 3))


@pytest.mark.parametrize(
    "frames", [ALONE, ONE_STEP, [[Node(0, 1.0, kind=2)], []]], ids=["alone", "one step", "gone"]
)
def test_the_least_episodes_have_nothing_that_is_made_up(frames):
    found = row_of(measured(frames))
    assert list(found) == [column.name for column in METRIC_COLUMNS]
    for name in ("persistence", "autocorrelation", "turning", "msd_exponent"):
        assert math.isnan(found[name]), name


def test_every_metric_is_a_number_or_nothing():
    for frames in STORIES.values():
        row = row_of(measured(frames))
        assert all(isinstance(row[column.name], float | bool) for column in NUMBERS)
        assert not any(math.isinf(row[column.name]) for column in NUMBERS)
        assert set(LABELS) < set(row)


def test_the_path_is_the_centroids_along_and_across():
    episode = story(FAMILY, direction=math.pi / 2, origin=[1.0, 2.0])
    path = path_of(centroids_of(episode, tracks_of(episode)))
    assert path[1] == pytest.approx([1.0 - 1.0, -4.0 - 2.0])
