"""Migration metrics of several policies in several worlds: means over episodes, and differences from a null.

A group is one policy in one world. The null of a group is the same policy without a gradient: what is left
of its directed movement there is not durotaxis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from durotaxis.analysis.metrics import (
    NUMBERS,
    RATES,
    EpisodeMetrics,
    mean_squared_displacement,
    metrics_of,
    path_of,
    row_of,
    turning_angles,
)
from durotaxis.analysis.stats import CONFIDENCE, Estimate, Sample, mean_interval, t_interval, wilson
from durotaxis.analysis.tracks import centroids_of, tracks_of
from durotaxis.records import Column, Episode, read_episode

NULL = ("uniform", "uniform changed")
"""The scenario without a gradient."""

SUMMARY_COLUMNS = (
    Column("policy", "name", "who played"),
    Column("scenario", "name", "world that it was played in"),
    Column("metric", "name", "a column of metrics"),
    Column("unit", "name", "of the metric"),
    Column("against_policy", "name", "whose mean is subtracted; empty: nobody's, the row holds the mean"),
    Column("against_scenario", "name", "in which world; empty likewise"),
    Column("mean", "varies", "over episodes, or the difference of two such means; empty where undefined"),
    Column("low", "varies", "lower end of the 95 % interval; empty of fewer than two episodes"),
    Column("high", "varies", "upper end"),
    Column("count", "count", "episodes with a value; of a difference pairs, or episodes on both sides"),
    Column("paired", "true/false", "whether the difference is taken per seed; empty for means"),
)
"""Columns of the summary: one row per group, metric and comparison."""


@dataclass(frozen=True, eq=False)
class Group:
    """Episodes of one policy in one world. Two groups are equal if they are the same object."""

    policy: str
    scenario: str
    minutes_per_step: float
    episodes: Sequence[EpisodeMetrics]
    paths: Sequence[np.ndarray]  # per episode [R,2], of the centroid along and across, µm

    @property
    def name(self) -> str:
        """`policy in scenario`."""
        return f"{self.policy} in {self.scenario}"

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> value, of the episodes that have one."""
        found = ((one.seed, float(getattr(one, metric))) for one in self.episodes)
        return {seed: value for seed, value in found if not math.isnan(value)}


@dataclass(frozen=True)
class Finding:
    """The mean of a metric over the episodes of a group, or its difference from that of another group."""

    group: Group
    against: Group | None
    metric: Column
    estimate: Estimate
    paired: bool | None  # None for a mean

    def row(self) -> dict[str, object]:
        """Name -> value, in the order of `SUMMARY_COLUMNS`; NaN where there is no number."""
        mean, low, high = (
            math.nan if value is None else value
            for value in (self.estimate.mean, self.estimate.low, self.estimate.high)
        )
        return {
            "policy": self.group.policy,
            "scenario": self.group.scenario,
            "metric": self.metric.name,
            "unit": unit_of(self.metric),
            "against_policy": "" if self.against is None else self.against.policy,
            "against_scenario": "" if self.against is None else self.against.scenario,
            "mean": mean,
            "low": low,
            "high": high,
            "count": self.estimate.count,
            "paired": "" if self.paired is None else str(self.paired).lower(),
        }


def load_group(place: Path, policy: str, numbers: Sequence[int]) -> Group:
    """A group from recorded episodes of a directory.

    Args:
        policy: what to call who played.
        numbers: of the episodes, at least one.

    Raises:
        RecordError: as `read_episode`.
    """
    return group_of([read_episode(place, number) for number in numbers], policy, numbers)


def group_of(episodes: Sequence[Episode], policy: str, numbers: Sequence[int]) -> Group:
    """A group from episodes; see `load_group`."""
    tracks = [tracks_of(episode, number) for episode, number in zip(episodes, numbers, strict=True)]
    colonies = [centroids_of(*pair) for pair in zip(episodes, tracks, strict=True)]
    return Group(
        policy=policy,
        scenario=episodes[0].info.scenario,
        minutes_per_step=episodes[0].info.minutes_per_step,
        episodes=[metrics_of(*parts, policy) for parts in zip(episodes, tracks, colonies, strict=True)],
        paths=[path_of(colony) for colony in colonies],
    )


def episode_rows(groups: Sequence[Group]) -> list[dict[str, object]]:
    """The metrics of every episode of all groups, one row each."""
    return [row_of(one) for group in groups for one in group.episodes]


def findings(groups: Sequence[Group]) -> list[Finding]:
    """All means, then all differences that `comparisons` names."""
    means = [
        Finding(group, None, metric, estimate(group, metric.name), None)
        for group in groups
        for metric in NUMBERS
    ]
    differences = [
        difference(group, other, metric) for group, other in comparisons(groups) for metric in NUMBERS
    ]
    return means + differences


def comparisons(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Which group is compared with which.

    Every policy with itself in the null world, then the first group with the others of its own world.
    """
    own, null = groups[0].scenario, {group.policy: group for group in groups if group.scenario in NULL}
    played = [group for group in groups if group.scenario == own]
    against_null = [
        (group, null[group.policy]) for group in played if own not in NULL and group.policy in null
    ]
    return against_null + [(groups[0], group) for group in played[1:]]


def estimate(group: Group, metric: str) -> Estimate:
    """Mean over episodes: Wilson's interval for rates, Student's t for the others."""
    values = list(group.values(metric).values())
    return wilson(round(sum(values)), len(values)) if metric in RATES else mean_interval(values)


def difference(group: Group, other: Group, metric: Column) -> Finding:
    """Mean of a group minus that of another one, with its 95 % interval.

    Where both played the same seeds: the mean of the differences per seed, Student's t. Else: Welch's
    interval. Rates: Newcombe's interval for independent proportions, paired or not.
    """
    first, second = group.values(metric.name), other.values(metric.name)
    paired = {one.seed for one in group.episodes} == {one.seed for one in other.episodes}
    if metric.name in RATES:
        return Finding(group, other, metric, rate_difference(first, second), False)
    if paired:
        gaps = [value - second[seed] for seed, value in first.items() if seed in second]
        return Finding(group, other, metric, mean_interval(gaps), True)
    return Finding(group, other, metric, welch_interval(list(first.values()), list(second.values())), False)


def welch_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """Difference of the means of independent values, first minus second; `count` is that of both together.

    Source: Welch (1947), with the degrees of freedom of Welch and Satterthwaite.
    """
    count = len(first) + len(second)
    if not (first and second):
        return Estimate(None, None, None, count)
    a, b = Sample.of(first), Sample.of(second)
    gap, error = a.mean - b.mean, math.hypot(a.standard_error, b.standard_error)
    if not math.isfinite(error):
        return Estimate(gap, None, None, count)
    scatter = math.fsum(s.standard_error**4 / (s.count - 1) for s in (a, b))
    return t_interval(gap, error, error**4 / scatter if scatter else math.inf, count, confidence)


def rate_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """Difference of two proportions from values of 0 and 1, first minus second.

    The interval joins those of Wilson, so that none is of width 0 where all or none succeed.

    Source: Newcombe (1998), method 10 for independent proportions.
    """
    a, b = (wilson(round(sum(values.values())), len(values)) for values in (first, second))
    count = a.count + b.count
    if a.mean is None or a.low is None or a.high is None or b.mean is None or b.low is None or b.high is None:
        return Estimate(None, None, None, count)
    gap = a.mean - b.mean
    low = gap - math.hypot(a.mean - a.low, b.high - b.mean)
    high = gap + math.hypot(a.high - a.mean, b.mean - b.low)
    return Estimate(gap, low, high, count)


def displacement_curve(group: Group) -> tuple[np.ndarray, list[Estimate]]:
    """Mean squared displacement over lag: lags in hours, and geometric means over episodes in µm².

    Up to the lag that half of the episodes have, over those that have it and moved: always the same ones, so
    that the curve has no jumps where an episode ends. Intervals are Student's t of the logarithms.
    """
    curves = [mean_squared_displacement(path) for path in group.paths]
    length = sorted(map(len, curves))[len(curves) // 2]
    logs = [np.log(curve[:length]) for curve in curves if len(curve) >= length and (curve[:length] > 0).all()]
    hours = np.arange(1, length + 1) * group.minutes_per_step / 60.0
    return hours, [_exp(mean_interval([float(log[lag]) for log in logs])) for lag in range(length)]


def _exp(value: Estimate) -> Estimate:
    mean, low, high = (None if x is None else math.exp(x) for x in (value.mean, value.low, value.high))
    return Estimate(mean, low, high, value.count)


def unit_of(metric: Column) -> str:
    """The unit of a metric's mean: 1 for what is true or false in an episode."""
    return "1" if metric.name in RATES else metric.unit


def all_turning_angles(group: Group) -> np.ndarray:
    """The turning angles of the centroid in all episodes, in radians."""
    return np.concatenate([turning_angles(path) for path in group.paths])


def summary_text(groups: Sequence[Group], found: Sequence[Finding]) -> str:
    """A table for a terminal: the first group's means, and what it differs by; ends with a newline."""
    first = groups[0]
    columns = [None, *(other for group, other in comparisons(groups) if group is first)]
    known = {(f.metric.name, f.against): f.estimate for f in found if f.group is first}
    heading = [
        "metric",
        "unit",
        first.name,
        *(f"minus {other.name}" for other in columns if other is not None),
        "episodes",
    ]
    cells = [
        [
            metric.name,
            unit_of(metric),
            *(_cell(known[metric.name, other]) for other in columns),
            str(known[metric.name, None].count),
        ]
        for metric in NUMBERS
    ]
    lines = [heading, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    note = (
        f"Mean [95 % interval] over those of {len(first.episodes)} episodes in which it is defined: so many "
        "under episodes."
    )
    return "\n".join(line.rstrip() for line in [*text, "", note]) + "\n"


def _cell(value: Estimate) -> str:
    if value.mean is None:
        return "-"
    if value.low is None or value.high is None:
        return _number(value.mean)
    return f"{_number(value.mean)} [{_number(value.low)}, {_number(value.high)}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
