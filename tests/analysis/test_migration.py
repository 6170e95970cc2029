"""Means, differences and figures of migration metrics, against other libraries and published numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats as scipy_stats

from analysis.made_episodes import ALONE, BEGINS_ANEW, DIES_OUT, FAMILY, ONE_STEP, Node, story
from durotaxis.analysis import migration_figures
from durotaxis.analysis.metrics import METRIC_COLUMNS, NUMBERS
from durotaxis.analysis.migration import (
    SUMMARY_COLUMNS,
    Group,
    all_turning_angles,
    comparisons,
    difference,
    displacement_curve,
    episode_rows,
    estimate,
    findings,
    load_group,
    rate_difference,
    summary_text,
    welch_interval,
)
from durotaxis.analysis.migration_figures import FIGURES, TITLES, metrics_figure, write_figures
from durotaxis.records import write_episodes

METRICS = {column.name: column for column in NUMBERS}


def drifting(speed: float, wobble: float, steps: int, seed: int):
    """A colony of one node after another, each born further on while its mother dies."""
    rng = np.random.default_rng(seed)
    place, frames = np.array([5.0, 50.0]), []
    for step in range(steps + 1):
        frames.append([Node(step, *place.tolist(), kind=1)])
        place = place + np.array([speed, 0.0]) + rng.normal(0.0, wobble, 2)
    # A node may not spawn and die at once, so each lives two steps.
    whole = [frames[0]]
    for before, now in itertools.pairwise(frames):
        mother = before[0]._replace(kind=2)
        whole.append([mother, now[0]._replace(parent=mother.id)])
    return whole


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> list[Group]:
    """Two policies in two worlds, four seeds each, and one episode that dies out at once."""
    place = tmp_path_factory.mktemp("groups")
    made = []
    for index, (policy, scenario, speed) in enumerate(
        [
            ("agent", "linear", 1.0),
            ("random", "linear", 0.0),
            ("agent", "uniform", 0.3),
            ("random", "uniform", 0.0),
        ]
    ):
        seeds = range(20, 24)
        episodes = [
            story(
                drifting(speed, 1.0, 24, 10 * index + seed), seed=seed, scenario=scenario, success=seed > 21
            )
            for seed in seeds
        ]
        episodes.append(story(DIES_OUT, seed=24, scenario=scenario))
        write_episodes(place / f"{policy}-{scenario}", episodes)
        made.append(load_group(place / f"{policy}-{scenario}", policy, range(5)))
    return made


def test_a_group_holds_its_episodes(groups):
    agent = groups[0]
    assert agent.name == "agent in linear"
    assert [one.seed for one in agent.episodes] == [20, 21, 22, 23, 24]
    assert [len(path) for path in agent.paths] == [25, 25, 25, 25, 2]
    assert list(agent.values("directness")) == [20, 21, 22, 23], "undefined where nothing moved"
    rows = episode_rows(groups)
    assert len(rows) == 20
    assert list(rows[0]) == [column.name for column in METRIC_COLUMNS]


def test_who_is_compared_with_whom(groups):
    names = [(a.name, b.name) for a, b in comparisons(groups)]
    assert names == [
        ("agent in linear", "agent in uniform"),
        ("random in linear", "random in uniform"),
        ("agent in linear", "random in linear"),
    ]
    flat = [groups[2], groups[3]]
    assert comparisons(flat) == [(groups[2], groups[3])], "the null world has no null"


def test_means_and_paired_differences(groups):
    agent, null = groups[0], groups[2]
    metric = METRICS["velocity"]
    values = np.array([one.velocity for one in agent.episodes])
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    found = estimate(agent, "velocity")
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), *expected))
    others = np.array([one.velocity for one in null.episodes])
    both = difference(agent, null, metric)
    expected = scipy_stats.ttest_rel(values, others).confidence_interval()
    assert both.paired
    assert (both.estimate.mean, both.estimate.low, both.estimate.high) == pytest.approx(
        ((values - others).mean(), *expected)
    )
    assert both.estimate.count == 5


def test_other_seeds_are_not_paired(groups):
    agent, null = groups[0], groups[2]
    fewer = Group(null.policy, null.scenario, null.minutes_per_step, null.episodes[:3], null.paths[:3])
    found = difference(agent, fewer, METRICS["velocity"])
    first = [one.velocity for one in agent.episodes]
    second = [one.velocity for one in fewer.episodes]
    assert found.paired is False
    assert found.estimate == welch_interval(first, second)


def test_welch(groups):
    rng = np.random.default_rng(3)
    first, second = rng.normal(2, 1, 9).tolist(), rng.normal(0, 4, 6).tolist()
    expected = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    found = welch_interval(first, second)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.count == 15
    assert welch_interval(first, []).mean is None
    alone = welch_interval(first, [1.0])
    assert alone.mean == pytest.approx(np.mean(first) - 1)
    assert alone.low is None
    flat = welch_interval([2.0, 2.0], [1.0, 1.0])
    assert (flat.mean, flat.low, flat.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)  # fmt: skip
def test_rates_as_newcombe_published_them(first, second, low, high):
    values = [dict(enumerate([1.0] * a + [0.0] * (n - a))) for a, n in (first, second)]
    found = rate_difference(*values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert rate_difference(values[0], {}).mean is None


def test_findings_are_tidy(groups):
    found = findings(groups)
    rows = [one.row() for one in found]
    assert all(list(row) == [column.name for column in SUMMARY_COLUMNS] for row in rows)
    assert len(rows) == len(NUMBERS) * (4 + 3)
    keys = {
        (r["policy"], r["scenario"], r["metric"], r["against_policy"], r["against_scenario"]) for r in rows
    }
    assert len(keys) == len(rows)
    by_metric = {
        r["metric"]: r
        for r in rows
        if (r["policy"], r["scenario"], r["against_policy"]) == ("agent", "linear", "")
    }
    assert by_metric["success"]["unit"] == "1"
    assert by_metric["success"]["mean"] == pytest.approx(0.4)
    assert by_metric["velocity"]["paired"] == ""
    assert math.isnan(by_metric["persistence"]["mean"]) or by_metric["persistence"]["count"] > 0
    text = summary_text(groups, found)
    assert "minus agent in uniform" in text
    assert "minus random in linear" in text
    assert [line.split()[0] for line in text.splitlines()[2 : 2 + len(NUMBERS)]] == list(METRICS)


def test_displacement_is_the_geometric_mean_of_those_that_are_long_enough(groups):
    hours, curve = displacement_curve(groups[0])
    assert hours == pytest.approx(np.arange(1, 7) / 6)
    assert {value.count for value in curve} == {4}
    path = groups[0].paths
    expected = [np.log(np.mean(((p[3:] - p[:-3]) ** 2).sum(1))) for p in path[:4]]
    assert curve[2].mean == pytest.approx(math.exp(np.mean(expected)))
    assert curve[2].low < curve[2].mean < curve[2].high
    assert len(all_turning_angles(groups[0])) == 4 * 23


def test_every_metric_has_a_title():
    assert list(TITLES) == list(METRICS)


def test_points_are_the_estimates(groups):
    panel = metrics_figure(groups).axes[list(METRICS).index("velocity")]
    points = [line for line in panel.get_lines() if line.get_marker() not in ("None", "")]
    expected = [estimate(group, "velocity").mean for group in groups]
    assert [float(line.get_xdata()[0]) for line in points] == pytest.approx(expected)
    segments = [
        line.get_xdata()
        for line in panel.get_lines()
        if line.get_linestyle() == "-" and len(line.get_xdata()) == 2
    ]
    first = estimate(groups[0], "velocity")
    assert segments[0] == pytest.approx([first.low, first.high])


def test_figures_are_written(groups, tmp_path, monkeypatch):
    monkeypatch.setattr(migration_figures, "FIGURES", {"metrics-msd": FIGURES["metrics-msd"]})
    paths = write_figures(groups, tmp_path / "new")
    assert [path.name for path in paths] == ["metrics-msd.png", "metrics-msd.svg"]
    for path in paths[::2]:
        with Image.open(path) as image:
            assert image.width > 900


def test_figures_of_next_to_nothing(tmp_path):
    small = []
    for name, frames in {"alone": ALONE, "one": ONE_STEP, "anew": BEGINS_ANEW, "family": FAMILY}.items():
        write_episodes(tmp_path / name, [story(frames)])
        small.append(load_group(tmp_path / name, name, [0]))
    for draw in FIGURES.values():
        assert draw(small).axes
    assert summary_text(small, findings(small))
    hours, curve = displacement_curve(small[0])
    assert (len(hours), curve) == (0, [])
