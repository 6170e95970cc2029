"""Aggregates and comparisons of arms against scipy, slow loops, symmetries and simulation."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from durotaxis.analysis import (
    MIN_BOOTSTRAP,
    Estimate,
    aggregate,
    difference,
    interquartile_mean,
    mean_interval,
    paired_effect,
    performance_profile,
    probability_of_improvement,
    ratio_of_means,
    scores,
    spread_ratio,
    wilson,
)

STATISTICS = ("iqm", "mean", "median")
COMPARISONS = (difference, ratio_of_means, probability_of_improvement, spread_ratio)


def draw(sizes, seed=0, scale=1.0, shift=3.0):
    rng = np.random.default_rng(seed)
    return [shift + scale * rng.normal(0.5 * task, 1.0, size) for task, size in enumerate(sizes)]


def numbers(estimate):
    return [estimate.mean, estimate.low, estimate.high]


# Points


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 50])
def test_interquartile_mean_equals_scipy(count):
    values = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)
    assert interquartile_mean(values.tolist()) == interquartile_mean(values)


@pytest.mark.parametrize("sizes", [(5,), (3, 7, 4), (12, 10, 11, 15)])
def test_points_equal_those_of_plain_numpy(sizes):
    first, second = draw(sizes), draw(sizes, 1)
    slow = {
        "iqm": lambda tasks: stats.trim_mean(np.concatenate(tasks), 0.25),
        "mean": lambda tasks: np.mean([task.mean() for task in tasks]),
        "median": lambda tasks: np.median([task.mean() for task in tasks]),
    }
    for name, oracle in slow.items():
        found = aggregate(first, name)
        assert found.mean == pytest.approx(oracle(first), rel=1e-12)
        assert found.count == sum(sizes)
        expected = oracle(second) - oracle(first)
        assert difference(first, second, name).mean == pytest.approx(expected, rel=1e-9)
    assert ratio_of_means(first, second).mean == pytest.approx(slow["mean"](second) / slow["mean"](first))
    ratios = [b.std(ddof=1) / a.std(ddof=1) for a, b in zip(first, second, strict=True)]
    assert spread_ratio(first, second).mean == pytest.approx(stats.gmean(ratios), rel=1e-12)


def test_probability_of_improvement_equals_mann_whitney_with_ties():
    rng = np.random.default_rng(2)
    first = [rng.integers(0, 6, size).astype(float) for size in (4, 12)]
    second = [rng.integers(1, 7, size).astype(float) for size in (6, 11)]
    for a, b in ((first, second), (first[1:], second[1:])):
        shares = [stats.mannwhitneyu(y, x).statistic / (len(x) * len(y)) for x, y in zip(a, b, strict=True)]
        assert probability_of_improvement(a, b).mean == pytest.approx(np.mean(shares), rel=1e-12)


def test_profile_counts_runs_above():
    tasks = [np.array([0.0, 0.5, 1.0]), np.array([0.5, 0.9])]
    found = performance_profile(tasks, [-1.0, 0.0, 0.5, 0.95, 1.0])
    assert [point.mean for point in found] == pytest.approx([1.0, 0.8, 0.4, 0.2, 0.0])
    assert found[2] == wilson(2, 5)


# Intervals of few seeds


def test_mean_of_few_seeds_of_one_task_has_students_interval():
    task = draw((6,))[0]
    for statistic in ("mean", "median"):
        expected = mean_interval(task.tolist(), 0.9)
        assert numbers(aggregate([task], statistic, confidence=0.9)) == pytest.approx(numbers(expected))


def test_iqm_of_few_seeds_of_one_task_has_the_interval_of_tukey_and_mclaughlin():
    # By hand: 1 3 4 6 20 loses 1 and 20; Winsorised 3 3 4 6 6, mean 4.4, squares 9.2; h = 3.
    found = aggregate([np.array([20.0, 3.0, 4.0, 1.0, 6.0])], "iqm")
    half = stats.t.ppf(0.975, 2) * math.sqrt(9.2 / (3 * 2))
    assert numbers(found) == pytest.approx([13 / 3, 13 / 3 - half, 13 / 3 + half])


def test_unpaired_difference_of_few_seeds_has_welchs_interval():
    (a,), (b,) = draw((5,)), draw((8,), 1, scale=3.0)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    found = difference([a], [b], "mean", paired=False)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("size", [3, 5, 8])
def test_unpaired_iqm_difference_of_few_seeds_has_yuens_interval(size):
    (a,), (b,) = draw((size,)), draw((size,), 1, scale=3.0)
    expected = stats.ttest_ind(b, a, equal_var=False, trim=0.25).confidence_interval(0.95)
    found = difference([a], [b], "iqm", paired=False)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_paired_difference_of_few_seeds_has_the_interval_of_differences():
    first, second = draw((5, 5)), draw((5, 5), 1)
    found = difference(first[:1], second[:1], "mean")
    expected = mean_interval((second[0] - first[0]).tolist())
    assert numbers(found) == pytest.approx(numbers(expected))
    # Over two tasks the squared errors add.
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    assert numbers(difference(first, second, "mean")) == pytest.approx(numbers(aggregate(gaps, "mean")))


def test_what_is_common_to_pairs_cancels():
    first = draw((5, 6), scale=50.0)
    second = [task + np.random.default_rng(3).normal(1.0, 0.1, len(task)) for task in first]
    for statistic in STATISTICS:
        paired, apart = (difference(first, second, statistic, paired=paired) for paired in (True, False))
        assert paired.mean == apart.mean
        assert paired.high - paired.low < 0.05 * (apart.high - apart.low)


def test_median_of_few_seeds_looks_at_the_middle_tasks_only():
    tasks = [task + 100 * index for index, task in enumerate(draw((5, 6, 7, 5)))]
    odd, even = aggregate(tasks[:3], "median"), aggregate(tasks, "median")
    assert numbers(odd) == pytest.approx(numbers(mean_interval(tasks[1].tolist())))
    assert numbers(even) == pytest.approx(numbers(aggregate(tasks[1:3], "mean")))


@pytest.mark.parametrize("paired", [True, False])
def test_fiellers_limits_are_t_standard_errors_away(paired):
    first, second = draw((5, 6), shift=6.0), draw((5, 6), 1, shift=9.0)
    found = ratio_of_means(first, second, paired=paired)

    def parts(r):  # squared errors of mean(second) - r mean(first), and their degrees of freedom
        for a, b in zip(first, second, strict=True):
            n = len(a)
            groups = [b - r * a] if paired else [b, r * a]
            yield from ((group.var(ddof=1) / n / 4, n - 1) for group in groups)

    v = list(parts(found.mean))
    freedom = sum(x for x, _ in v) ** 2 / sum(x * x / f for x, f in v)
    a, b = (np.mean([task.mean() for task in arm]) for arm in (first, second))
    for limit in (found.low, found.high):
        error = math.sqrt(sum(x for x, _ in parts(limit)))
        assert abs(b - limit * a) == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=1e-9)


def test_fieller_of_one_task_is_exact():
    (a,), (b,) = draw((5,), shift=6.0), draw((5,), 1, shift=9.0)
    found = ratio_of_means([a], [b])
    for limit in (found.low, found.high):
        assert stats.ttest_rel(b, limit * a).pvalue == pytest.approx(0.05, rel=1e-6)


def test_ratio_is_undefined_where_the_denominator_may_be_0():
    noise = [np.array([-1.0, 1.0, 0.5, -0.4])]
    steady = [np.array([2.0, 2.1, 1.9, 2.0])]
    assert ratio_of_means(noise, steady) == Estimate(None, None, None, 4)
    many = [np.linspace(-1.0, 1.2, 20)]
    assert ratio_of_means(many, [task + 5 for task in many]) == Estimate(None, None, None, 20)
    assert ratio_of_means([np.zeros(1)], [np.ones(1)]).mean is None
    assert ratio_of_means(steady, noise).mean == pytest.approx(0.025 / 2.0)


@pytest.mark.parametrize("count", [1, 4, 20])
def test_ratio_is_undefined_where_the_denominator_is_below_0(count):
    """Twice as far below 0 is worse, not twice as good."""
    below = np.linspace(-2.0, -1.9, count)
    assert ratio_of_means([below], [2 * below]) == Estimate(None, None, None, count)
    assert ratio_of_means([-below], [2 * below]).mean == pytest.approx(-2.0)


def test_improvement_without_overlap_is_no_certainty():
    for size in (5, 10):
        first, second = [np.arange(size) + 0.0], [np.arange(size) + 100.0]
        found = probability_of_improvement(first, second)
        assert found.mean == found.high == 1.0
        assert 0.5 < found.low < 0.9


def test_newcombes_limits_solve_his_equation():
    first, second = draw((6,)), draw((7,), 1, shift=3.5)
    found = probability_of_improvement(first, second)
    m, n = 6, 7
    for limit in (found.low, found.high):
        # Hanley and McNeil's variance with (m + n)/2 in place of m and n.
        q1, q2, p = limit / (2 - limit), 2 * limit**2 / (1 + limit), limit
        other = ((m + n) / 2 - 1) * ((q1 - p * p) + (q2 - p * p)) + p * (1 - p)
        assert (p - found.mean) ** 2 == pytest.approx(stats.t.ppf(0.975, m + n - 2) ** 2 * other / (m * n))


def test_jackknife_of_the_spread_equals_a_loop():
    arms = draw((5, 7)), draw((6, 8), 1)
    parts = []
    for arm in arms:
        for task in arm:
            n = len(task)
            left = [math.log(np.delete(task, i).std(ddof=1)) for i in range(n)]
            parts.append(((n - 1) / n * sum((x - np.mean(left)) ** 2 for x in left) / 4, n - 1))
    error = math.sqrt(sum(v for v, _ in parts))
    freedom = error**4 / sum(v * v / f for v, f in parts)
    found = spread_ratio(*arms)
    half = stats.t.ppf(0.975, freedom) * error
    assert found.high / found.mean == pytest.approx(math.exp(half), rel=1e-9)
    assert found.mean / found.low == pytest.approx(math.exp(half), rel=1e-9)


# Bootstrap


def test_bootstrap_begins_at_ten_seeds_in_every_task():
    enough, few = draw((10, 12)), draw((10, 9))
    for statistic in STATISTICS:
        by_seed = [aggregate(enough, statistic, seed=seed) for seed in (0, 0, 1)]
        assert by_seed[0] == by_seed[1] != by_seed[2]
        assert aggregate(few, statistic, seed=0) == aggregate(few, statistic, seed=1)
    assert MIN_BOOTSTRAP == 10


def test_bootstrap_of_a_mean_is_the_expanded_normal_interval():
    # The bootstrapped mean of 30 runs is nearly normal, with divisor n: its standard deviation is known.
    tasks = draw((30, 30))
    found = aggregate(tasks, "mean", resamples=20000)
    error = math.sqrt(sum(task.var(ddof=1) / 30 for task in tasks)) / 2
    v = [task.var(ddof=1) for task in tasks]
    half = stats.t.ppf(0.975, sum(v) ** 2 / sum(x * x / 29 for x in v)) * error
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.06 * half)


def test_bootstrap_equals_a_loop_over_resamples():
    first, second = draw((10, 11)), draw((10, 11), 1)
    found = difference(first, second, "iqm", seed=5, resamples=200)
    rng = np.random.default_rng(5)
    picks = [rng.integers(size, size=(200, size)) for size in (10, 11)]

    def iqm(arm, i):
        chosen = [task[pick[i]] for task, pick in zip(arm, picks, strict=True)]
        return stats.trim_mean(np.concatenate(chosen), 0.25)

    draws = [iqm(second, i) - iqm(first, i) for i in range(200)]
    below, above = np.array(draws) < found.low - 1e-9, np.array(draws) > found.high + 1e-9
    for limit in (found.low, found.high):
        assert np.abs(np.array(draws) - limit).min() < 1e-12
    # Wider than the plain percentiles, which leave 5 of 200 out on each side.
    assert 0 < below.sum() < 5
    assert 0 < above.sum() < 5


def test_bootstrap_is_quick():
    import time

    tasks = draw((10,) * 5)
    aggregate(tasks, "iqm")
    start = time.process_time()
    for seed in range(5):
        aggregate(tasks, "iqm", seed=seed)
    assert (time.process_time() - start) / 5 < 0.1
    assert scores.RESAMPLES == 2000


# Symmetries


@pytest.mark.parametrize("sizes", [(5, 7), (10, 12)])
def test_units_and_origin_change_what_they_should(sizes):
    first, second = draw(sizes), draw(sizes, 1)
    moved = [[10.0 * task + 7.0 for task in arm] for arm in (first, second)]
    for statistic in STATISTICS:
        plain = numbers(aggregate(first, statistic))
        assert numbers(aggregate(moved[0], statistic)) == pytest.approx([10 * v + 7 for v in plain])
        for paired in (True, False):
            plain = numbers(difference(first, second, statistic, paired=paired))
            found = numbers(difference(*moved, statistic, paired=paired))
            assert found == pytest.approx([10 * v for v in plain], abs=1e-9)
    assert numbers(spread_ratio(*moved)) == pytest.approx(numbers(spread_ratio(first, second)))
    found, plain = (probability_of_improvement(*arms) for arms in (moved, (first, second)))
    assert numbers(found) == pytest.approx(numbers(plain))
    scaled = [[10.0 * task for task in arm] for arm in (first, second)]
    assert numbers(ratio_of_means(*scaled)) == pytest.approx(numbers(ratio_of_means(first, second)))


@pytest.mark.parametrize("sizes", [(5, 7), (10, 12)])
def test_swapping_the_arms_mirrors(sizes):
    first, second = draw(sizes, shift=6.0), draw(sizes, 1, shift=7.0)
    exact = sizes == (5, 7)
    near = 1e-9 if exact else 0.15  # bootstrapped: other draws
    for paired in (True, False):
        for statistic in STATISTICS:
            a = difference(first, second, statistic, paired=paired)
            b = difference(second, first, statistic, paired=paired)
            assert [a.mean, a.low, a.high] == pytest.approx([-b.mean, -b.high, -b.low], abs=near)
        a, b = (ratio_of_means(*arms, paired=paired) for arms in ((first, second), (second, first)))
        assert [a.mean, a.low, a.high] == pytest.approx([1 / b.mean, 1 / b.high, 1 / b.low], rel=near)
    a, b = spread_ratio(first, second), spread_ratio(second, first)
    assert [a.mean, a.low, a.high] == pytest.approx([1 / b.mean, 1 / b.high, 1 / b.low], rel=near)
    a, b = probability_of_improvement(first, second), probability_of_improvement(second, first)
    assert [a.mean, a.low, a.high] == pytest.approx([1 - b.mean, 1 - b.high, 1 - b.low], abs=near)


def test_the_order_of_runs_and_tasks_does_not_matter():
    first, second = draw((5, 7, 6)), draw((5, 7, 6), 1)
    turned = [[task[::-1] for task in arm[::-1]] for arm in (first, second)]
    for statistic in STATISTICS:
        assert numbers(aggregate(first, statistic)) == pytest.approx(numbers(aggregate(turned[0], statistic)))
    for compare in COMPARISONS:
        assert numbers(compare(first, second)) == pytest.approx(numbers(compare(*turned)))


# Degenerate and wrong input


def test_a_single_seed_has_no_interval():
    one, two = [np.array([1.0]), np.array([2.0, 3.0])], [np.array([2.0]), np.array([3.0, 5.0])]
    for statistic in STATISTICS:
        assert aggregate(one, statistic).low is aggregate(one, statistic).high is None
        assert difference(one, two, statistic).low is None
        assert difference(one, two, statistic, paired=False).low is None
    assert ratio_of_means(one, two) == Estimate(3.0 / 1.75, None, None, 3)
    assert probability_of_improvement(one[:1], two[:1]) == Estimate(1.0, None, None, 2)
    assert spread_ratio(one, two) == Estimate(None, None, None, 6)


@pytest.mark.parametrize("size", [3, 5, 10])
def test_equal_scores(size):
    flat = [np.full(size, 0.1), np.full(size, 0.1)]
    above = [task + 1.0 for task in flat]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in STATISTICS:
            assert numbers(aggregate(flat, statistic)) == pytest.approx([0.1] * 3)
            assert numbers(difference(flat, above, statistic)) == pytest.approx([1.0] * 3)
        assert numbers(ratio_of_means(flat, above)) == pytest.approx([11.0] * 3)
        assert spread_ratio(flat, draw((size, size))) == Estimate(None, None, None, 4 * size)
        even = probability_of_improvement(flat, flat)
    assert even.mean == 0.5
    assert even.low == pytest.approx(1 - even.high)


def test_a_spread_that_hangs_on_one_run_has_no_interval():
    lone, wide = [np.array([1.0, 1.0, 1.0, 0.2])], draw((4,))
    found = spread_ratio(lone, wide)
    assert found.mean > 0
    assert found.low is found.high is None
    assert spread_ratio(draw((2,)), wide).low is None
    saturated = [np.array([1.0] * 9 + [0.2])]
    assert spread_ratio(saturated, draw((10,))).low is None


def test_profile_has_wilsons_interval_where_all_tasks_agree():
    tasks = draw((10, 10))
    low, high = performance_profile(tasks, [-99.0, 99.0])
    assert low == wilson(20, 20)
    assert high == wilson(0, 20)
    apart = [tasks[0], tasks[1] + 50]
    assert performance_profile(apart, [25.0]) == [wilson(10, 20)]
    # Elsewhere what differs between tasks is no noise.
    one, other = draw((40, 40))
    (partly,), pooled = performance_profile([one, other + 50], [np.median(one)]), wilson(60, 80)
    assert partly.mean == 0.75
    assert 0.5 < partly.low < 0.75 < partly.high < 1.0
    assert partly.high - partly.low < pooled.high - pooled.low


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aggregate([], "iqm"), "scores: no tasks"),
        (lambda: aggregate([np.ones(3), np.ones(0)], "iqm"), r"scores\[1\]: no runs"),
        (lambda: aggregate([np.array([1.0, np.nan])], "mean"), "scores: not finite at 1"),
        (lambda: aggregate([np.ones((2, 2))], "mean"), r"one dimension expected, found shape \(2, 2\)"),
        (lambda: aggregate([np.ones(12)], "mean", confidence=95.0), "confidence of 95.0"),
        (lambda: aggregate([np.ones(12)], "mean", resamples=0), "0 resamples"),
        (lambda: interquartile_mean([]), "values: no runs"),
        (lambda: difference([np.ones(3)], [np.ones(4)]), "task 0: 3 runs in first, 4 in second"),
        (lambda: paired_effect([np.ones(3)], [np.ones(4)]), "task 0: 3 runs in first, 4 in second"),
        (lambda: difference([np.ones(3)], [np.ones(3)] * 2), "first has 1 tasks, second 2"),
        (lambda: spread_ratio([np.ones(3)], [np.array([np.inf])]), "second: not finite at 0"),
        (lambda: performance_profile([np.ones(3)], [np.nan]), "thresholds: not finite at 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Effect size


def test_effect_of_a_known_case():
    first, second = [np.array([1.0, 2.0, 3.0, 4.0])], [np.array([2.0, 4.0, 2.5, 8.0])]
    found = paired_effect(first, second)
    gaps = np.array([1.0, 2.0, -0.5, 4.0])
    assert found.difference == difference(first, second, "mean")
    assert found.cohen_dz == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    # J(3) = Γ(1.5) / (sqrt(1.5) Γ(1)) = 0.7236 (Hedges, 1981, table 1: 0.7236).
    assert found.hedges_g / found.cohen_dz == pytest.approx(0.7236, abs=5e-5)
    assert found.rank_biserial == pytest.approx((2 + 3 + 4 - 1) / 10)
    assert found.p_wilcoxon == pytest.approx(0.25)


def test_signed_rank_p_equals_all_flips_of_sign():
    gaps = np.random.default_rng(0).normal(0.4, 1.0, 8)
    ranks = stats.rankdata(np.abs(gaps))
    seen = abs(np.sign(gaps) @ ranks)
    flips = [abs(np.array(signs) @ ranks) for signs in itertools.product((-1, 1), repeat=8)]
    found = paired_effect([np.zeros(4), np.zeros(4)], [gaps[:4], gaps[4:]])
    assert found.p_wilcoxon == pytest.approx(np.mean([flip >= seen - 1e-9 for flip in flips]))


def test_hedges_g_is_unbiased():
    found = paired_effect(
        [np.zeros(3), np.zeros(4)], [np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.0, 2.0, 1.0])]
    )
    # Seven pairs of two tasks: sqrt(7) d_z has a noncentral t of 5 degrees of freedom, whose mean is known.
    mean_dz = stats.nct.mean(5, 0.8 * math.sqrt(7)) / math.sqrt(7)
    assert mean_dz * found.hedges_g / found.cohen_dz == pytest.approx(0.8, rel=1e-9)


def test_effects_without_scatter():
    zeros, ones = [np.zeros(3)], [np.ones(3)]
    none = paired_effect(zeros, zeros)
    assert (none.cohen_dz, none.hedges_g, none.rank_biserial, none.p_wilcoxon) == (0.0, 0.0, 0.0, 1.0)
    same = paired_effect(zeros, ones)
    assert (same.cohen_dz, same.hedges_g, same.rank_biserial) == (None, None, 1.0)
    assert same.p_wilcoxon == pytest.approx(0.25)
    single = paired_effect([np.zeros(1)], [np.ones(1)])
    assert (single.cohen_dz, single.hedges_g, single.rank_biserial, single.p_wilcoxon) == (
        None,
        None,
        1.0,
        1.0,
    )
    assert single.difference == Estimate(1.0, None, None, 1)
    pair = paired_effect([np.zeros(2)], [np.array([1.0, 2.0])])
    assert pair.cohen_dz > 0
    assert pair.hedges_g is None


# Coverage


def normal(rng, size):
    return rng.normal(0.5, 0.2, size)


def skewed(rng, size):
    return rng.beta(5.0, 1.0, size)


def bimodal(rng, size):
    """Three runs in four near 1, the others near 0."""
    return np.where(rng.random(size) < 0.75, rng.beta(20.0, 2.0, size), rng.beta(1.0, 10.0, size))


FAMILIES = {"normal": normal, "skewed": skewed, "bimodal": bimodal}
# Lower than elsewhere, as found with 800 trials: of 5 bimodal runs one set in four shows one mode only.
LOWEST = {
    ("bimodal", 1, 5, "mean"): 0.70,
    ("bimodal", 1, 5, "spread"): 0.80,
    ("bimodal", 1, 5, "iqm"): 0.85,
}


@pytest.fixture(scope="module")
def plain():
    """The module without the type checks of the tests, which take five times the time of a call."""
    spec = importlib.util.spec_from_file_location("plain_scores", scores.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def shares_covered(cases, family, tasks, runs, trials):
    """Per case (interval of two arms, truth) the share of trials whose interval holds the truth."""
    hits = dict.fromkeys(cases, 0)
    for first, second in family(np.random.default_rng([tasks, runs]), (trials, 2, tasks, runs)):
        for case, (interval, truth) in cases.items():
            found = interval(list(first), list(second))
            hits[case] += found.low <= truth <= found.high
    return {case: count / trials for case, count in hits.items()}


@pytest.mark.parametrize(("tasks", "runs"), [(1, 5), (1, 10), (4, 5), (4, 10)])
@pytest.mark.parametrize("name", FAMILIES)
def test_intervals_cover(name, tasks, runs, plain):
    # Three standard errors of the simulation are 0.046 at 0.95.
    family, quick = FAMILIES[name], {"resamples": 200}
    everyone = family(np.random.default_rng(8), 400_000)
    cases = {
        "iqm": (lambda a, b: plain.aggregate(a, "iqm", **quick), stats.trim_mean(everyone, 0.25)),
        "mean": (lambda a, b: plain.aggregate(a, "mean", **quick), everyone.mean()),
        "difference": (lambda a, b: plain.difference(a, b, **quick), 0.0),
        "profile": (lambda a, b: plain.performance_profile(a, [0.7], **quick)[0], (everyone > 0.7).mean()),
    }
    for case, share in shares_covered(cases, family, tasks, runs, 200).items():
        assert LOWEST.get((name, tasks, runs, case), 0.88) <= share, (case, share)
        assert share <= 0.99 or case in ("difference", "profile"), (case, share)


@pytest.mark.parametrize(("tasks", "runs"), [(1, 5), (1, 10), (4, 5)])
@pytest.mark.parametrize("name", ["normal", "bimodal"])
def test_intervals_of_improvement_and_spread_cover(name, tasks, runs, plain):
    # Three standard errors of the simulation are 0.053 at 0.95.
    family, quick = FAMILIES[name], {"resamples": 200}
    everyone = family(np.random.default_rng(8), 400_000)
    others = family(np.random.default_rng(9), 400_000)
    better = [
        np.searchsorted(np.sort(everyone), others + shift).mean() / len(others) for shift in (0.15, 0.6)
    ]
    cases = {
        "improvement": (
            lambda a, b: plain.probability_of_improvement(a, shifted(b, 0.15), **quick),
            better[0],
        ),
        "certain": (lambda a, b: plain.probability_of_improvement(a, shifted(b, 0.6), **quick), better[1]),
        "spread": (lambda a, b: plain.spread_ratio(a, b, **quick), 1.0),
    }
    for case, share in shares_covered(cases, family, tasks, runs, 150).items():
        assert LOWEST.get((name, tasks, runs, case), 0.87) <= share, (case, share)


def shifted(tasks, by):
    return [task + by for task in tasks]


def test_two_equal_differences_are_no_certainty():
    same = np.zeros(2), np.full(2, 0.5)
    assert difference([same[0]], [same[1]], "mean", paired=True) == Estimate(0.5, None, None, 2)
    three = difference([np.zeros(3)], [np.full(3, 0.5)], "mean", paired=True)
    assert (three.low, three.high) == (0.5, 0.5)
