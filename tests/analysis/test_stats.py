"""Estimates against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from durotaxis.analysis.stats import (
    CensoredSteps,
    Estimate,
    Sample,
    area_under_curve,
    detectable,
    mean_interval,
    normalised_return,
    restricted_mean_steps,
    scatter_within,
    spread,
    steps_to_reach,
    wilson,
)


@pytest.mark.parametrize("count", [1, 5, 20, 100, 1000])
def test_wilson_equals_scipy(count):
    for successes in sorted({0, 1, count // 3, count - 1, count}):
        ours = wilson(successes, count)
        theirs = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
        assert ours.mean == successes / count
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)
        assert 0.0 <= ours.low <= ours.mean <= ours.high <= 1.0
        assert ours.count == count


@pytest.mark.parametrize("count", [3, 5, 10])
def test_a_detectable_mean_is_detected_as_often_as_promised(count):
    studies = np.random.default_rng(1).normal(detectable(count, 0.8), 1.0, (4000, count))
    clear = [mean_interval(values).low > 0 for values in studies.tolist()]
    assert wilson(sum(clear), len(clear), 0.999).low < 0.8 < wilson(sum(clear), len(clear), 0.999).high


def test_scatter_within_a_margin_is_where_the_interval_ends_at_it():
    values = np.array([-1.0, 1.0, -1.0, 1.0, 0.0])
    values *= scatter_within(0.1, 5) / values.std(ddof=1)
    around = mean_interval(values.tolist())
    assert (around.low, around.high) == (pytest.approx(-0.1), pytest.approx(0.1))


@pytest.mark.parametrize("of", [detectable, lambda count: scatter_within(0.1, count)])
def test_one_value_detects_nothing(of):
    with pytest.raises(ValueError, match="two values"):
        of(1)


def test_wilson_of_nothing_and_of_nonsense():
    assert wilson(0, 0) == Estimate(None, None, None, 0)
    with pytest.raises(ValueError, match="5 successes in 3 trials"):
        wilson(5, 3)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_mean_interval_equals_scipy(confidence):
    rng = np.random.default_rng(0)
    for count in (2, 3, 30):
        values = rng.normal(5.0, 2.0, count)
        ours = mean_interval(values.tolist(), confidence)
        low, high = stats.t.interval(confidence, count - 1, values.mean(), stats.sem(values))
        assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), low, high), rel=1e-9)


def test_mean_interval_of_few_values():
    assert mean_interval([]) == Estimate(None, None, None, 0)
    assert mean_interval([3.0]) == Estimate(3.0, None, None, 1)
    assert mean_interval([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0, 3)


def test_normalised_return_with_exact_constants_is_the_scaled_t_interval():
    values = [1.0, 4.0, 2.5, 3.0, 0.5]
    plain = mean_interval(values)
    ours = normalised_return(Sample.of(values), Sample(-2.0, 0.0, 1000), Sample(6.0, 0.0, 1000))
    expected = [(v + 2.0) / 8.0 for v in (plain.mean, plain.low, plain.high)]
    assert [ours.mean, ours.low, ours.high] == pytest.approx(expected, rel=1e-12)


def test_normalised_return_of_the_references_themselves():
    random, reference = Sample(-2.0, 0.1, 1000), Sample(6.0, 0.2, 1000)
    zero = normalised_return(Sample(-2.0, 0.0, 10), random, reference)
    one = normalised_return(Sample(6.0, 0.0, 10), random, reference)
    t = stats.t.ppf(0.975, 999)
    # Only the error of the policy that was met remains: se / span.
    assert (zero.mean, zero.high) == pytest.approx((0.0, t * 0.1 / 8.0), rel=1e-9)
    assert (one.mean, one.high) == pytest.approx((1.0, 1.0 + t * 0.2 / 8.0), rel=1e-9)


def test_normalised_return_has_no_reference_below_random():
    """It would turn better into worse."""
    found = normalised_return(Sample(3.0, 0.4, 20), Sample(6.0, 0.2, 40), Sample(-2.0, 0.1, 50))
    assert (found.mean, found.low, found.high, found.count) == (None, None, None, 20)


def test_normalised_return_does_not_depend_on_unit_and_origin():
    args = (Sample(3.0, 0.4, 20), Sample(-2.0, 0.1, 50), Sample(6.0, 0.2, 40))
    moved = [Sample(10.0 * s.mean + 7.0, 10.0 * s.standard_error, s.count) for s in args]
    first, second = normalised_return(*args), normalised_return(*moved)
    assert (first.mean, first.low, first.high) == pytest.approx((second.mean, second.low, second.high))


def test_normalised_return_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(1)
    truth, hits, trials = (3.0 - -2.0) / (6.0 - -2.0), 0, 2000
    for _ in range(trials):
        samples = [
            Sample.of(rng.normal(mean, sigma, count).tolist())
            for mean, sigma, count in ((3.0, 4.0, 12), (-2.0, 3.0, 60), (6.0, 4.0, 80))
        ]
        found = normalised_return(*samples)
        hits += found.low <= truth <= found.high
    # Three standard errors of the simulation are 0.015.
    assert abs(hits / trials - 0.95) < 0.02


def test_normalised_return_is_withheld_where_the_denominator_is_noise():
    value = Sample(1.0, 0.1, 20)
    assert normalised_return(value, Sample(0.0, 0.15, 50), Sample(1.0, 0.15, 50)).mean is None
    assert normalised_return(value, Sample(0.0, 0.1, 50), Sample(1.0, 0.1, 50)).mean == 1.0
    assert normalised_return(value, Sample(1.0, 0.0, 50), Sample(1.0, 0.0, 50)).mean is None
    assert normalised_return(value, Sample(0.0, math.inf, 1), Sample(1.0, 0.1, 50)).mean is None


def test_a_single_episode_has_a_normalised_return_without_interval():
    found = normalised_return(Sample.of([3.0]), Sample(-2.0, 0.1, 50), Sample(6.0, 0.1, 50))
    assert found.mean == pytest.approx(0.625)
    assert found.low is found.high is None


def test_spread_has_the_chi_square_interval():
    values = np.random.default_rng(0).normal(5.0, 2.0, 8)
    found = spread(values, 0.9)
    squares = np.square(values - values.mean()).sum()
    high, low = (math.sqrt(squares / stats.chi2.ppf(tail, 7)) for tail in (0.05, 0.95))
    assert [found.mean, found.low, found.high] == pytest.approx([values.std(ddof=1), low, high])
    assert spread(10 * values + 3).high == pytest.approx(10 * spread(values).high)
    assert spread([2.0]) == Estimate(None, None, None, 1)
    assert spread([0.1, 0.1, 0.1]) == Estimate(0.0, 0.0, 0.0, 3)


def test_spread_covers_the_truth_of_normal_values():
    found = [spread(values) for values in np.random.default_rng(1).normal(0.0, 3.0, (2000, 5))]
    # Three standard errors of the simulation are 0.015.
    assert abs(np.mean([e.low <= 3.0 <= e.high for e in found]) - 0.95) < 0.02


def test_area_of_known_curves():
    assert area_under_curve([0, 10], [0.0, 1.0], 10) == 0.5
    assert area_under_curve([5], [0.3], 10) == pytest.approx(0.3)
    # Flat 0 to 2, up to 4 at 6, flat to 10: (0 + 8 + 16) / 10.
    assert area_under_curve([2, 6], [0.0, 4.0], 10) == pytest.approx(2.4)
    # Beyond the budget only what leads there counts: 0 to 0.5 at 5 of 10.
    assert area_under_curve([0, 10], [0.0, 1.0], 5) == 0.25


def test_area_equals_a_fine_sum_and_is_affine():
    rng = np.random.default_rng(0)
    steps, values = np.cumsum(rng.integers(1, 50, 20)), rng.normal(size=20)
    total = 700.0
    fine = (np.arange(200_000) + 0.5) / 200_000 * total
    expected = np.interp(fine, steps, values).mean()
    assert area_under_curve(steps, values, total) == pytest.approx(expected, abs=1e-6)
    moved = area_under_curve(steps * 3, values * 2 + 1, total * 3)
    assert moved == pytest.approx(2 * expected + 1, abs=1e-6)


def test_missing_points_of_a_curve_are_bridged():
    whole = ([0, 10, 20], [0.0, 1.0, 2.0])
    for hole in (None, math.nan):
        values = [0.0, hole, 2.0]
        assert area_under_curve(whole[0], values, 20) == area_under_curve(*whole, 20) == 1.0
        assert area_under_curve(whole[0], [hole, 1.0, hole], 20) == 1.0
        assert steps_to_reach(whole[0], values, 1.0, window=1) == 10.0


def test_steps_to_reach_by_hand():
    steps = [0, 10, 20, 30, 40]
    assert steps_to_reach(steps, [0.0, 1.0, 2.0, 3.0, 4.0], 2.5) == 25.0  # a line stays as it is
    assert steps_to_reach([0, 10, 40, 50], [0.0, 1.0, 4.0, 5.0], 2.0) == pytest.approx(20.0)
    # Its running means are 1, 1, 1: a lone spike is no arrival at 3.
    spike = [0.0, 0.0, 3.0, 0.0, 0.0]
    assert steps_to_reach(steps, spike, 3.0, window=1) == 20.0
    assert steps_to_reach(steps, spike, 3.0) is None
    assert steps_to_reach(steps, spike, 1.0) == 10.0
    assert steps_to_reach(steps, [0.0, 0.0, 0.0, 3.0, 6.0], 2.0) == 25.0
    assert steps_to_reach(steps, [5.0] * 5, 4.0) == 10.0
    assert steps_to_reach(steps, [5.0] * 5, 6.0) is None
    assert steps_to_reach([3, 5], [1.0, 2.0], 1.5) == 4.0  # fewer points than the window
    # It may fall again: the first arrival counts.
    assert steps_to_reach(steps, [0.0, 4.0, 0.0, 0.0, 9.0], 2.0, window=1) == 5.0


def test_steps_to_stay_are_where_a_dense_curve_is_below_for_the_last_time():
    rng = np.random.default_rng(3)
    for _ in range(200):
        steps = np.cumsum(rng.integers(1, 20, rng.integers(1, 9))).astype(float)
        values, level = rng.normal(size=len(steps)), float(rng.normal())
        dense = np.linspace(steps[0], steps[-1], 20_001)
        below = dense[np.interp(dense, steps, values) < level]
        found = steps_to_reach(steps, values, level, window=1, to_stay=True)
        if values[-1] < level:
            assert found is None
        else:
            last = below[-1] if len(below) else steps[0]
            assert found == pytest.approx(last, abs=2 * (steps[-1] - steps[0]) / 20_000)
            assert found >= steps_to_reach(steps, values, level, window=1)


def test_restricted_mean_counts_those_that_never_arrive():
    found = restricted_mean_steps([100.0, None, 300.0, None], 500)
    assert found == CensoredSteps(mean_interval([100.0, 500.0, 300.0, 500.0]), 2)
    assert restricted_mean_steps([None], 500) == CensoredSteps(Estimate(500.0, None, None, 1), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: area_under_curve([0, 1], [None, math.nan], 5), "values: nothing but NaN"),
        (lambda: area_under_curve([], [], 5), r"steps: a row of numbers expected, found shape \(0,\)"),
        (lambda: area_under_curve([0, 1, 1], [1.0, 2.0, 3.0], 5), "steps do not rise at 2"),
        (lambda: area_under_curve([0, 1], [1.0], 5), r"2 steps for values of shape \(1,\)"),
        (lambda: area_under_curve([0, 1], [1.0, math.inf], 5), "values: not finite at 1"),
        (lambda: area_under_curve([0, 1], [1.0, 2.0], 0), "total_steps of 0"),
        (lambda: steps_to_reach([0, 1], [1.0, 2.0], math.nan), "a level of nan"),
        (lambda: steps_to_reach([0, 1], [1.0, 2.0], 1.0, window=0), "a window of 0 points"),
        (lambda: restricted_mean_steps([600.0], 500), "steps from 600 to 600; a run has 0 to 500"),
        (lambda: restricted_mean_steps([], 500), "reached: a row of numbers expected"),
        (lambda: spread([1.0, math.nan]), "values: not finite at 1"),
    ],
)
def test_wrong_curves(call, message):
    with pytest.raises(ValueError, match=message):
        call()
