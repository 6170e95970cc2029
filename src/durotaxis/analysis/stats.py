"""Estimates with their uncertainty: small functions on plain numbers.

All intervals are two-sided; 95 % unless asked otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtri, nctdtrinc, ndtri, stdtr, stdtrit

CONFIDENCE = 0.95
MIN_SIGNAL = 5.0
"""A normalised return is given only where its denominator is so many standard errors away from 0."""


@dataclass(frozen=True)
class Estimate:
    """A point estimate (a mean unless said otherwise) with an interval. None where it is undefined."""

    mean: float | None  # the point estimate
    low: float | None
    high: float | None
    count: int  # values it rests on

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Estimate:
        """From a record with these four keys."""
        return cls(values["mean"], values["low"], values["high"], values["count"])


NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True)
class CensoredSteps:
    """Steps to an event that some runs never saw."""

    mean: Estimate  # of min(steps, total_steps)
    censored: int  # runs without the event, counted as total_steps


@dataclass(frozen=True)
class Sample:
    """What is kept of independent values: enough for a t interval of their mean."""

    mean: float
    standard_error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Mean and standard error (with n - 1) of at least one value; the error of one value is infinite."""
        count = len(values)
        centre = math.fsum(values) / count
        if count == 1:
            return cls(centre, math.inf, 1)
        variance = math.fsum((value - centre) ** 2 for value in values) / (count - 1)
        return cls(centre, math.sqrt(variance / count), count)


def samples_of_scores(
    scores: Mapping[str, Mapping[str, float]] | None, policies: Sequence[str]
) -> tuple[Sample | None, ...]:
    """Returns of the named policies from scenario scores, `{policy: {return_mean, return_se, episodes}}`.

    One entry per name; all None without scores.
    """
    if scores is None:
        return (None,) * len(policies)
    rows = [scores[policy] for policy in policies]
    return tuple(Sample(row["return_mean"], row["return_se"], int(row["episodes"])) for row in rows)


def wilson(successes: int, count: int, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion with Wilson's score interval, which stays within [0, 1] and is honest near its ends.

        (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if count == 0:
        return NOTHING
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes in {count} trials")
    z = float(ndtri(0.5 + confidence / 2))
    share = successes / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At 0 and n successes the formula gives exactly 0 and 1, but for rounding.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == count else (centre + half) / scale
    return Estimate(share, low, high, count)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """A mean with Student's t interval; a single value has no interval, no value no mean."""
    if not len(values):
        return NOTHING
    sample = Sample.of(values)
    return t_interval(sample.mean, sample.standard_error, sample.count - 1.0, sample.count, confidence)


def p_of_mean(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's one-sample test that the mean is 0; None of fewer than three values.

    Two values would do for the formula, but no two of anything should decide.
    """
    if len(values) < 3:
        return None
    sample = Sample.of(values)
    if sample.standard_error == 0:
        return 1.0 if sample.mean == 0 else 0.0
    return float(2 * stdtr(sample.count - 1, -abs(sample.mean) / sample.standard_error))


def detectable(count: int, power: float = 0.8, confidence: float = CONFIDENCE) -> float:
    """The true mean, in standard deviations, from which on a t interval is clear of 0 with that power.

    By the noncentral t distribution, for `count` >= 2 independent normal values; that the interval may be
    clear on the wrong side is left out. Source: J. Cohen, "Statistical Power Analysis for the Behavioral
    Sciences" (1988), chapter 2.
    """
    if count < 2:
        raise ValueError(f"count of {count}; an interval needs two values or more")
    critical = stdtrit(count - 1, 0.5 + confidence / 2)
    return float(nctdtrinc(count - 1, 1 - power, critical)) / math.sqrt(count)


def scatter_within(margin: float, count: int, confidence: float = CONFIDENCE) -> float:
    """Up to which standard deviation a t interval of `count` >= 2 values around 0 is within a margin."""
    if count < 2:
        raise ValueError(f"count of {count}; an interval needs two values or more")
    return margin * math.sqrt(count) / float(stdtrit(count - 1, 0.5 + confidence / 2))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number: to reject where they are below a is wrong at all with at most a.

    Sorted, the i-th of n (from 0) is multiplied by n - i, made to rise, and cut at 1. Holds however tests
    depend on each other. None is left out. Source: S. Holm, "A simple sequentially rejective multiple test
    procedure" (1979).
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted


def spread(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Standard deviation (n - 1) with its chi-square interval; undefined of fewer than two values.

        s sqrt((n - 1) / chi²(1 - a/2)) .. s sqrt((n - 1) / chi²(a/2)),  a = 1 - confidence

    Exact for normal values (e.g. Snedecor and Cochran, "Statistical Methods", 1967), and for no others:
    at 10 values 95 % intervals covered 0.95 of normal, 0.89 of Beta(5, 1), 0.94 of nearly bimodal and 0.68
    of lognormal ones, at 5 values 0.95, 0.90, 0.76 and 0.78.
    """
    array = _finite("values", np.asarray(values, dtype=float))
    freedom = len(array) - 1
    if freedom < 1:
        return Estimate(None, None, None, len(array))
    deviation = float(array.std(ddof=1)) if array.min() < array.max() else 0.0
    tail = (1 - confidence) / 2
    low, high = (deviation * math.sqrt(freedom / chdtri(freedom, above)) for above in (tail, 1 - tail))
    return Estimate(deviation, low, high, len(array))


def area_under_curve(
    steps: Sequence[float] | np.ndarray, values: Sequence[float | None] | np.ndarray, total_steps: float
) -> float:
    """Mean height over [0, total_steps] of the piecewise linear curve, extended flat at both ends.

    None and NaN are left out, so that the curve runs straight across them; a curve of nothing else is an
    error. Trapezoidal rule, exact for such a curve.
    """
    if not (math.isfinite(total_steps) and total_steps > 0):
        raise ValueError(f"total_steps of {total_steps}; a positive number is needed")
    x, y = _curve(steps, values)
    corners = np.concatenate([[0.0], x[(x > 0) & (x < total_steps)], [float(total_steps)]])
    return float(np.trapezoid(np.interp(corners, x, y), corners) / total_steps)


def steps_to_reach(
    steps: Sequence[float] | np.ndarray,
    values: Sequence[float | None] | np.ndarray,
    level: float,
    window: int = 3,
    *,
    to_stay: bool = False,
) -> float | None:
    """First step at which the smoothed curve is at or above `level`; None if it never is.

    With `to_stay`, the step from which on it is there until its end; None if it ends below.

    The smoothed curve joins the running means, of steps as of values, of each `window` points in a row (all
    points, if they are fewer) by straight lines; a straight curve is left as it is. It may fall again
    later. A curve that starts at the level has reached it at its first smoothed point. None and NaN are
    left out.
    """
    if window < 1:
        raise ValueError(f"a window of {window} points")
    if not math.isfinite(level):
        raise ValueError(f"a level of {level}")
    x, y = _curve(steps, values)
    width = min(window, len(x))
    x, y = (np.lib.stride_tricks.sliding_window_view(line, width).mean(axis=1) for line in (x, y))
    reached = y >= level
    if not (reached[-1] if to_stay else reached.any()):
        return None
    arrivals = np.flatnonzero(reached & ~np.append(False, reached[:-1]))
    at = int(arrivals[-1 if to_stay else 0])
    if at == 0:
        return float(x[0])
    share = (level - y[at - 1]) / (y[at] - y[at - 1])
    return float(x[at - 1] + share * (x[at] - x[at - 1]))


def restricted_mean_steps(
    reached: Sequence[float | None], total_steps: float, confidence: float = CONFIDENCE
) -> CensoredSteps:
    """Mean over runs of the steps to reach a level, runs that never did (None) counting as `total_steps`.

    The restricted mean E min(T, total_steps) (Irwin, 1949) with Student's t interval: a lower bound of the
    mean of T where runs are censored. A run that reached it after `total_steps` is an error.
    """
    times = _finite("reached", np.array([total_steps if step is None else step for step in reached], float))
    if times.min() < 0 or times.max() > total_steps:
        raise ValueError(f"steps from {times.min():g} to {times.max():g}; a run has 0 to {total_steps:g}")
    return CensoredSteps(mean_interval(times.tolist(), confidence), sum(step is None for step in reached))


def normalised_return(
    values: Sample, random: Sample, reference: Sample, confidence: float = CONFIDENCE
) -> Estimate:
    """(value - random) / (reference - random): 0 is chance, 1 the reference policy.

    The interval carries the errors of all three means, to first order:

        se² = (se_v² + (x - 1)² se_random² + x² se_reference²) / (reference - random)²,

    and Student's t with the degrees of freedom of Welch and Satterthwaite.

    Returns:
        The estimate; without numbers where the reference is not above random by MIN_SIGNAL standard errors.
    """
    span = reference.mean - random.mean
    noise = math.hypot(random.standard_error, reference.standard_error)
    if span <= 0 or not span >= MIN_SIGNAL * noise:
        return Estimate(None, None, None, values.count)
    x = (values.mean - random.mean) / span
    weighted = [
        (values.standard_error / span, values.count),
        ((x - 1) * random.standard_error / span, random.count),
        (x * reference.standard_error / span, reference.count),
    ]
    variance = math.fsum(error * error for error, _ in weighted)
    if not math.isfinite(variance):
        return Estimate(x, None, None, values.count)
    scatter = math.fsum(error**4 / (count - 1) for error, count in weighted if error and count > 1)
    freedom = variance * variance / scatter if scatter else math.inf
    return t_interval(x, math.sqrt(variance), freedom, values.count, confidence)


def t_interval(mean: float, error: float, freedom: float, count: int, confidence: float) -> Estimate:
    """An estimate ± Student's quantile of its standard errors; of an infinite error no interval."""
    if not math.isfinite(error):
        return Estimate(mean, None, None, count)
    quantile = 0.5 + confidence / 2
    factor = float(ndtri(quantile) if math.isinf(freedom) else stdtrit(freedom, quantile))
    return Estimate(mean, mean - factor * error, mean + factor * error, count)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: a row of numbers expected, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: not finite at {int(np.flatnonzero(~np.isfinite(values))[0])}")
    return values


def _curve(
    steps: Sequence[float] | np.ndarray, values: Sequence[float | None] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values without the points that have none."""
    x, y = _finite("steps", np.asarray(steps, dtype=float)), np.asarray(values, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} steps for values of shape {y.shape}")
    if (np.diff(x) <= 0).any():
        raise ValueError(f"steps do not rise at {int(np.flatnonzero(np.diff(x) <= 0)[0]) + 1}")
    known = ~np.isnan(y)
    if not known.any():
        raise ValueError("values: nothing but NaN")
    return x[known], _finite("values", y[known])
