"""Migration metrics: pure functions on tracks, and one row of numbers per episode.

A path is an array [R,2] of places along and across the direction of the goal (s, t, in µm) at equal times.
What is undefined is NaN: a ratio of nothing, an angle of no step, a path of one place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from durotaxis.analysis.tracks import NOBODY, Centroids, Tracks
from durotaxis.records import Column, Episode

MEASURABLE = 1e-5
"""kPa: the decimals that are recorded; smaller differences of stiffness are none."""
QUARTER = 4
"""Lags go up to this part of a path, so that each mean rests on several stretches of it."""
AN_HOUR = 60.0

METRIC_COLUMNS = (
    Column("episode", "count", "number of the recorded episode, from 0"),
    Column("seed", "int64", "of the episode"),
    Column("scenario", "name", "world that it was played in"),
    Column("policy", "name", "who played"),
    Column("reason", "name", "why it ended"),
    Column("hours", "h", "how long it lasted"),
    Column("success", "true/false", "whether the goal was reached"),
    Column("velocity", "µm/h", "of the centroid, along the direction"),
    Column("speed", "µm/h", "path length of the centroid over time"),
    Column("front_speed", "µm/h", "gain of the furthest s ever reached, over time"),
    Column("forward_index", "1", "forward migration index: net way along the direction over path length"),
    Column("directness", "1", "net way of the centroid over its path length"),
    Column("persistence", "h", "time until the direction of the centroid is forgotten, to 1/e"),
    Column("autocorrelation", "1", "mean cosine between steps of the centroid an hour apart"),
    Column("turning", "rad", "mean size of the centroid's turning angles"),
    Column("msd_exponent", "1", "slope of log mean squared displacement over log lag"),
    Column("durotaxis_index", "1", "births onto stiffer minus softer ground, over both"),
    Column("durotaxis_index_colony", "1", "steps to stiffer minus softer mean ground, over both"),
    Column("forward_births", "1", "births ahead of minus behind the mother, over both"),
    Column("birth_rate", "1/h", "births over time"),
    Column("death_rate", "1/h", "deaths over time"),
    Column("num_nodes", "count", "mean number of living nodes"),
    Column("hull_area", "µm²", "mean area of the colony's convex hull"),
    Column("generation", "count", "mean generation of the nodes alive at the end"),
    Column("generation_max", "count", "largest generation of the nodes alive at the end"),
)
"""Columns of metrics: one row per episode."""
LABELS = ("episode", "seed", "scenario", "policy", "reason", "hours")
"""Columns that say what was measured rather than how it came out."""
RATES = ("success",)
"""Metrics that are true or false in an episode."""
NUMBERS = tuple(column for column in METRIC_COLUMNS if column.name not in LABELS)
"""The metrics proper."""


@dataclass(frozen=True)
class EpisodeMetrics:
    """What is measured of one episode; `METRIC_COLUMNS` says how. NaN where undefined."""

    episode: int
    seed: int
    scenario: str
    policy: str
    reason: str
    hours: float
    success: bool
    velocity: float
    speed: float
    front_speed: float
    forward_index: float
    directness: float
    persistence: float
    autocorrelation: float
    turning: float
    msd_exponent: float
    durotaxis_index: float
    durotaxis_index_colony: float
    forward_births: float
    birth_rate: float
    death_rate: float
    num_nodes: float
    hull_area: float
    generation: float
    generation_max: float


def metrics_of(
    episode: Episode, tracks: Tracks, colony: Centroids, policy: str | None = None
) -> EpisodeMetrics:
    """All metrics of a recorded episode.

    A colony that dies out is measured up to the last step at which somebody lived. One that begins anew
    jumps back to the start, which counts as movement of its centroid.

    Args:
        tracks: of the episode.
        colony: its centroid track.
        policy: what to call who played; by default as it is recorded.
    """
    info = episode.info
    path = path_of(colony)
    lived = colony.num_nodes > 0
    step_h = info.minutes_per_step / 60.0
    hours = info.length * step_h
    return EpisodeMetrics(
        episode=int(colony.episode[0]),
        seed=info.seed,
        scenario=info.scenario,
        policy=info.policy if policy is None else policy,
        reason=info.reason,
        hours=hours,
        success=info.success,
        velocity=velocity(path, step_h),
        speed=speed(path, step_h),
        front_speed=front_speed(colony.front_um[lived], step_h),
        forward_index=forward_index(path),
        directness=directness(path),
        persistence=persistence(path, step_h),
        autocorrelation=autocorrelation_at(path, round(AN_HOUR / info.minutes_per_step)),
        turning=mean_turning(path),
        msd_exponent=msd_exponent(path),
        durotaxis_index=durotaxis_index(tracks),
        durotaxis_index_colony=balance(np.diff(colony.stiffness_kpa[lived]), MEASURABLE),
        forward_births=forward_births(tracks),
        birth_rate=ratio(float(colony.births.sum()), hours),
        death_rate=ratio(float(colony.deaths.sum()), hours),
        num_nodes=float(colony.num_nodes.mean()),
        hull_area=mean(colony.hull_area_um2[lived]),
        generation=last(colony.generation[lived]),
        generation_max=last(colony.generation_max[lived]),
    )


def row_of(metrics: EpisodeMetrics) -> dict[str, object]:
    """Name -> value, in the order of `METRIC_COLUMNS`."""
    return {field.name: getattr(metrics, field.name) for field in fields(metrics)}


def path_of(colony: Centroids) -> np.ndarray:
    """The centroid's path [R,2] along and across the direction, while somebody lives."""
    lived = colony.num_nodes > 0
    return np.stack([colony.s_um[lived], colony.t_um[lived]], axis=1)


def path_length(path: np.ndarray) -> float:
    """Sum of the lengths of the steps of a path, in µm."""
    return float(_lengths(np.diff(path, axis=0)).sum())


def velocity(path: np.ndarray, step_h: float) -> float:
    """Net way along the direction over time, in µm/h; negative where it led back.

    Args:
        step_h: hours from one place to the next.
    """
    return ratio(float(path[-1, 0] - path[0, 0]), (len(path) - 1) * step_h) if len(path) else math.nan


def speed(path: np.ndarray, step_h: float) -> float:
    """Path length over time, in µm/h; at least 0."""
    return ratio(path_length(path), (len(path) - 1) * step_h)


def front_speed(front: np.ndarray, step_h: float) -> float:
    """Gain of the furthest s ever reached over time, in µm/h; at least 0. Ours.

    Args:
        front: largest s of a node at each time, [R] µm.
    """
    return ratio(float(front.max() - front[0]), (len(front) - 1) * step_h) if len(front) else math.nan


def forward_index(path: np.ndarray) -> float:
    """Forward migration index: net way along the direction over path length, -1 to 1.

    Source: the index of chemotaxis assays (Foxman, Kunkel and Butcher 1999), as used for durotaxis by DuChez
    et al. (2019).
    """
    return ratio(float(path[-1, 0] - path[0, 0]), path_length(path)) if len(path) else math.nan


def directness(path: np.ndarray) -> float:
    """Net way over path length, 0 to 1, whatever the direction. It falls with the length of the record.

    Source: Petrie, Doyle and Yamada (2009); the directionality ratio of Gorelik and Gautreau (2014).
    """
    return ratio(float(np.hypot(*(path[-1] - path[0]))), path_length(path)) if len(path) else math.nan


def turning_angles(path: np.ndarray) -> np.ndarray:
    """Signed angles between each step and the next, in (-π, π], left turns positive.

    Steps of length 0 have no direction: the angles on both sides of one are left out.
    """
    step = np.diff(path, axis=0)
    a, b = step[:-1], step[1:]
    moved = (_lengths(a) > 0) & (_lengths(b) > 0)
    cross, dot = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)
    return np.arctan2(cross, dot)[moved]


def mean_turning(path: np.ndarray) -> float:
    """Mean size of the turning angles, 0 (straight on) to π (back and forth); π/2 for a random walk."""
    return mean(np.abs(turning_angles(path)))


def direction_autocorrelation(path: np.ndarray) -> np.ndarray:
    """Mean cosine between the directions of steps that are 0, 1, .. lags apart, -1 to 1.

    Lags go up to a quarter of the steps; steps of length 0 are left out. It levels off above 0 where the
    movement has a bias.

    Returns:
        [lags + 1]; the first is 1. NaN where no two steps are that far apart.

    Source: Gorelik and Gautreau (2014), who take it since it does not depend on speed.
    """
    step = np.diff(path, axis=0)
    length = _lengths(step)
    unit = np.divide(step, length[:, None], out=np.full_like(step, np.nan), where=length[:, None] > 0)
    lags = range(len(step) // QUARTER + 1)
    cosines = ((unit[: len(unit) - lag] * unit[lag:]).sum(1) for lag in lags)
    return np.array([mean(each[~np.isnan(each)]) for each in cosines])


def persistence(path: np.ndarray, step_h: float) -> float:
    """Time at which the autocorrelation of direction first falls to 1/e, in h; linear between lags.

    For a persistent random walk, whose autocorrelation is exp(-time/P), it is P, up to the width of a step.
    No curve is fitted, since one that levels off at a bias is no exponential. NaN where it does not fall that
    far within a quarter of the path: the direction is kept longer than can be told.
    """
    curve = direction_autocorrelation(path)
    below = np.flatnonzero(curve <= 1 / math.e)
    if not len(below):
        return math.nan
    at = int(below[0])
    known = np.flatnonzero(~np.isnan(curve[:at]))[-1]
    share = (curve[known] - 1 / math.e) / (curve[known] - curve[at])
    return float((known + share * (at - known)) * step_h)


def autocorrelation_at(path: np.ndarray, lag: int) -> float:
    """The autocorrelation of direction at one lag, from 1 step to a quarter of the path; NaN elsewhere."""
    curve = direction_autocorrelation(path)
    return float(curve[lag]) if 1 <= lag < len(curve) else math.nan


def mean_squared_displacement(path: np.ndarray) -> np.ndarray:
    """Mean over time of the squared way in 1, 2, .. steps, in µm²; overlapping stretches.

    Returns:
        [lags]; lags go up to a quarter of the steps. Empty for fewer than four steps.

    Source: Gorelik and Gautreau (2014).
    """
    lags = range(1, (len(path) - 1) // QUARTER + 1)
    return np.array([((path[lag:] - path[:-lag]) ** 2).sum(1).mean() for lag in lags])


def log_slope(values: np.ndarray) -> float:
    """Least-squares slope of log values over log 1, 2, ..; NaN for fewer than two values above 0."""
    lags = np.arange(1, len(values) + 1)
    usable = values > 0
    if usable.sum() < 2:
        return math.nan
    x, y = np.log(lags[usable]), np.log(values[usable])
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def msd_exponent(path: np.ndarray) -> float:
    """Exponent α of MSD ~ lag^α: 1 for a random walk, 2 for a straight one, below 1 for confined motion.

    The points of one curve hang together, so an interval from their scatter would be too narrow: intervals
    are those of the mean over episodes.
    """
    return log_slope(mean_squared_displacement(path))


def durotaxis_index(tracks: Tracks) -> float:
    """(n₊ - n₋) / (n₊ + n₋), -1 to 1: children born on stiffer and on softer ground than their mother's.

    Births on equally stiff ground do not count; NaN where all are, as on a uniform substrate. This
    definition is ours: durotactic indices of crawling cells count steps, and nodes take none.
    """
    return balance(birth_gains(tracks, tracks.stiffness_kpa), MEASURABLE)


def forward_births(tracks: Tracks) -> float:
    """(n₊ - n₋) / (n₊ + n₋), -1 to 1: children born further along and further back than their mother. Ours.

    Unlike the durotaxis index it means something on a uniform substrate.
    """
    return balance(birth_gains(tracks, tracks.s_um))


def birth_gains(tracks: Tracks, values: np.ndarray) -> np.ndarray:
    """What a child has more than its mother of something that a node keeps for life, one entry per birth."""
    born = np.flatnonzero(tracks.birth & (tracks.mother_id != NOBODY))
    names = zip(tracks.episode.tolist(), tracks.track_id.tolist(), strict=True)
    first = {name: index for index, name in reversed(list(enumerate(names)))}
    mothers = zip(tracks.episode[born].tolist(), tracks.mother_id[born].tolist(), strict=True)
    return values[born] - values[[first[mother] for mother in mothers]]


def balance(gains: np.ndarray, least: float = 0.0) -> float:
    """(n₊ - n₋) / (n₊ + n₋) of numbers above `least` and below -`least`, -1 to 1; NaN of none."""
    up, down = int((gains > least).sum()), int((gains < -least).sum())
    return ratio(up - down, up + down)


def ratio(part: float, whole: float) -> float:
    """The quotient; NaN where the whole is not above 0."""
    return part / whole if whole > 0 else math.nan


def mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else math.nan


def last(values: np.ndarray) -> float:
    """The last value; NaN of nothing."""
    return float(values[-1]) if len(values) else math.nan


def _lengths(steps: np.ndarray) -> np.ndarray:
    return np.hypot(steps[:, 0], steps[:, 1])
