"""Estimates against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from durotaxis.analysis.stats import Estimate, Sample, mean_interval, normalised_return, wilson


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
