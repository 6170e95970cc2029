"""Estimates with their uncertainty: small functions on plain numbers.

All intervals are two-sided; 95 % unless asked otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
MIN_SIGNAL = 5.0
"""A normalised return is given only where its denominator is so many standard errors away from 0."""


@dataclass(frozen=True)
class Estimate:
    """A mean with an interval. None where there are too few values for it."""

    mean: float | None
    low: float | None
    high: float | None
    count: int  # values it rests on

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Estimate:
        """From a record with these four keys."""
        return cls(values["mean"], values["low"], values["high"], values["count"])


NOTHING = Estimate(None, None, None, 0)


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
    return _with_interval(sample.mean, sample.standard_error, sample.count - 1.0, sample.count, confidence)


def normalised_return(
    values: Sample, random: Sample, reference: Sample, confidence: float = CONFIDENCE
) -> Estimate:
    """(value - random) / (reference - random): 0 is chance, 1 the reference policy.

    The interval carries the errors of all three means, to first order:

        se² = (se_v² + (x - 1)² se_random² + x² se_reference²) / (reference - random)²,

    and Student's t with the degrees of freedom of Welch and Satterthwaite.

    Returns:
        The estimate; without numbers where the denominator is under MIN_SIGNAL of its standard errors.
    """
    span = reference.mean - random.mean
    noise = math.hypot(random.standard_error, reference.standard_error)
    if span == 0 or not abs(span) >= MIN_SIGNAL * noise:
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
    spread = math.fsum(error**4 / (count - 1) for error, count in weighted if error and count > 1)
    freedom = variance * variance / spread if spread else math.inf
    return _with_interval(x, math.sqrt(variance), freedom, values.count, confidence)


def _with_interval(mean: float, error: float, freedom: float, count: int, confidence: float) -> Estimate:
    if not math.isfinite(error):
        return Estimate(mean, None, None, count)
    quantile = 0.5 + confidence / 2
    factor = float(ndtri(quantile) if math.isinf(freedom) else stdtrit(freedom, quantile))
    return Estimate(mean, mean - factor * error, mean + factor * error, count)
