"""Which model has how much attention, and where: from recorded episodes, by statistics over episodes.

Steps of one episode are alike, so that thousands of them are not thousands of observations. Everything here
is computed within an episode first; means and Student's t intervals are over episodes (of a study: over
runs, each the mean of its episodes). A pattern is a difference of attention between two parts of the same
episode, so that what distinguishes episodes is no pattern. Tests are corrected by Holm's method over all
models and all places that are looked at, and, apart from them, over all models and reward terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from durotaxis.analysis.stats import Estimate, holm, mean_interval, p_of_mean
from durotaxis.analysis.tracks import hull_area
from durotaxis.records import PHASES, Episode

NUM_BINS = 5
MIN_ROWS = 10
"""Of fewer steps (or nodes) of an episode nothing is said about its patterns."""
SIGNIFICANT = 0.05
FEW = 3
"""Of fewer units nothing is tested."""
SMALL = 0.01
"""A difference of attention below this is no pattern, however certain: it hardly changes the sum."""
DIGITS = 9
"""Decimals of attention that are not rounding errors; it is recorded with fewer."""
REACH = 10.0
"""µm; how far around a node stiffness is looked at for its contrast: as far as a child can be born."""
FIRST_MILESTONE = 0.25
"""Share of the length that the front must have passed for phase `migrating`."""


@dataclass(frozen=True)
class Factor:
    """Something attention may follow."""

    label: str  # of an axis
    noun: str  # in a sentence
    more: str  # where there is much of it
    per_node: bool = False


FACTORS: Mapping[str, Factor] = MappingProxyType(
    {
        "nodes": Factor("number of nodes", "node count", "with more nodes"),
        "density": Factor("nodes per 1,000 µm² of hull", "density", "in denser colonies"),
        "elongation": Factor("elongation (0 round, 1 a line)", "colony shape", "in longer, thinner colonies"),
        "stiffness": Factor("stiffness under the node, kPa", "stiffness", "on stiffer ground", True),
        "contrast": Factor(
            f"stiffness contrast within {REACH:.0f} µm",
            "stiffness contrast",
            "where stiffness changes more around a node",
            True,
        ),
        "progress": Factor("centroid, share of the way", "progress", "nearer to the goal"),
    }
)
PHASE = "phase"
HIGH, MIDDLE = "high", "middle"
"""Places of a factor: its highest fifth against its lowest; the three middle fifths against these two."""


@dataclass(frozen=True)
class Seen:
    """One episode with attention: T steps, R rows of a factor (steps, or nodes at all steps), K models."""

    share: np.ndarray  # [T,K], mean over nodes
    effective: np.ndarray  # [T], mean over nodes of exp(entropy)
    phase: np.ndarray  # [T] int, index into PHASES
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]  # name -> values [R], NaN undefined; shares [R,K]
    terms: Mapping[str, np.ndarray]  # reward term -> [T]


@dataclass(frozen=True)
class Unit:
    """What one episode, or one run, says; NaN where it says nothing."""

    share: np.ndarray  # [K]
    effective: float
    bins: Mapping[str, np.ndarray]  # factor or PHASE -> [bins,K], mean attention
    contrasts: Mapping[tuple[str, str], np.ndarray]  # factor, place -> [K], difference of attention
    terms: Mapping[str, np.ndarray]  # reward term -> [K], Spearman's rank correlation with attention


@dataclass(frozen=True)
class Pattern:
    """How attention to a model differs in one place."""

    factor: str  # of FACTORS, or PHASE
    place: str  # HIGH, MIDDLE, or a phase
    ptm: str
    change: Estimate  # of attention: its highest fifth minus its lowest, and so on
    p: float | None  # corrected

    @property
    def is_certain(self) -> bool:
        """Whether it is more than chance."""
        return self.p is not None and self.p < SIGNIFICANT

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance, and not too small to matter."""
        return self.is_certain and abs(self.change.mean or 0.0) >= SMALL


@dataclass(frozen=True)
class Relation:
    """How attention to a model goes with a reward term, step by step within an episode."""

    term: str
    ptm: str
    rho: Estimate  # Spearman's rank correlation, mean over episodes
    p: float | None  # corrected

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance."""
        return self.p is not None and self.p < SIGNIFICANT


def seen(episode: Episode) -> Seen | None:
    """An episode as numbers; None where it has no attention. Steps of an empty colony are left out."""
    if not episode.info.ptms:
        return None
    info = episode.info
    steps = [row for row in episode.steps if row["nodes"]]
    weights = [np.array(row["attention"], dtype=np.float64) for row in steps]  # [n or 1, K] each
    positions = [np.array(row["nodes"], dtype=np.float64) for row in steps]
    # Rounding errors of a mean of equal weights would have ranks, and go with the number of nodes.
    share = np.round([weight.mean(0) for weight in weights], DIGITS)
    along = [p @ [math.cos(info.direction), math.sin(info.direction)] - info.origin[0] for p in positions]
    fronts = np.maximum.accumulate([s.max() for s in along])
    counts = np.array([len(p) for p in positions])
    by_node = {
        "stiffness": [np.array(row["stiffness"], dtype=np.float64) for row in steps],
        "contrast": _contrasts(episode, positions),
    }
    per_step = {
        "nodes": counts.astype(np.float64),
        "density": np.array(
            [len(p) / area * 1000 if (area := hull_area(p)) > 1 else np.nan for p in positions]
        ),
        "elongation": np.array([elongation(p) for p in positions]),
        "progress": np.array([s.mean() for s in along]) / info.goal,
    }
    factors = {}
    for name, factor in FACTORS.items():
        if not factor.per_node:
            factors[name] = (per_step[name], share)
        elif info.attention_rows == "node":
            factors[name] = (np.concatenate(by_node[name]), np.concatenate(weights))
        else:
            factors[name] = (np.array([values.mean() for values in by_node[name]]), share)
    migrating = fronts >= FIRST_MILESTONE * info.extent[0]
    return Seen(
        share=share,
        effective=np.array([_effective(weight).mean() for weight in weights]),
        phase=np.where(counts > info.critical_nodes, 2, migrating.astype(int)),
        factors=factors,
        terms={name: np.array([row[f"term/{name}"] for row in steps], float) for name in episode.terms},
    )


def elongation(positions: np.ndarray) -> float:
    """1 - the ratio of the short to the long standard deviation of places [n,2]; NaN of a point."""
    small, large = np.linalg.eigvalsh(np.cov(positions.T, bias=True)) if len(positions) > 1 else (0.0, 0.0)
    return 1.0 - math.sqrt(max(small, 0.0) / large) if large > 0 else math.nan


def contrast_map(field: np.ndarray, pixel: float) -> np.ndarray:
    """Coefficient of variation of stiffness in a square of REACH to each side: [rows, columns] as `field`.

    Args:
        pixel: µm per pixel.
    """
    from scipy.ndimage import uniform_filter

    size = 2 * round(REACH / pixel) + 1
    mean = uniform_filter(field, size, mode="nearest")
    square = uniform_filter(field**2, size, mode="nearest")
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.divide(deviation, mean, out=np.zeros_like(mean), where=mean > 0)


def _contrasts(episode: Episode, positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    field = np.array(episode.info.field, dtype=np.float64)
    (rows, columns), (width, height) = field.shape, episode.info.size
    around = contrast_map(field, width / columns)
    found = []
    for places in positions:
        column = np.clip((places[:, 0] / width * columns).astype(int), 0, columns - 1)
        row = np.clip(((1 - places[:, 1] / height) * rows).astype(int), 0, rows - 1)  # row 0 = largest y
        found.append(around[row, column])
    return found


def _effective(weights: np.ndarray) -> np.ndarray:
    """exp(entropy) of weights [..., K]."""
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return np.exp(-(weights * logs).sum(-1))


def bin_edges(episodes: Sequence[Seen]) -> dict[str, np.ndarray]:
    """Outer and inner borders of NUM_BINS bins, or fewer where values repeat, per factor that varies."""
    edges = {}
    for name in FACTORS:
        values = np.concatenate([episode.factors[name][0] for episode in episodes])
        values = values[~np.isnan(values)]
        if len(values) and values.min() < values.max():
            edges[name] = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)))
    return edges


def unit_of(episode: Seen, edges: Mapping[str, np.ndarray]) -> Unit:
    """What an episode says, with the borders of bins that all episodes share."""
    bins = {name: _binned(*episode.factors[name], borders) for name, borders in edges.items()}
    contrasts: dict[tuple[str, str], np.ndarray] = {}
    for name in edges:
        for place, difference in zip((HIGH, MIDDLE), _differences(*episode.factors[name]), strict=True):
            contrasts[name, place] = difference
    members = [episode.phase == index for index in range(len(PHASES))]
    bins[PHASE] = np.stack([_mean(episode.share[rows]) for rows in members])
    whole = episode.share.mean(0)
    for phase, rows, mean in zip(PHASES, members, bins[PHASE], strict=True):
        contrasts[PHASE, phase] = (
            np.full_like(whole, np.nan) if rows.all() else np.round(mean - whole, DIGITS)
        )
    return Unit(
        share=whole,
        effective=float(episode.effective.mean()),
        bins=bins,
        contrasts=contrasts,
        terms={name: _rank_correlations(values, episode.share) for name, values in episode.terms.items()},
    )


def mean_unit(units: Sequence[Unit]) -> Unit:
    """The mean of some units, such as a run's of its episodes; where all say nothing, it does not either."""

    def means(name: str) -> dict:
        return {
            key: _mean(np.stack([getattr(unit, name)[key] for unit in units]))
            for key in getattr(units[0], name)
        }

    return Unit(
        share=_mean(np.stack([unit.share for unit in units])),
        effective=float(np.mean([unit.effective for unit in units])),
        bins=means("bins"),
        contrasts=means("contrasts"),
        terms=means("terms"),
    )


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(rows)
    count = known.sum(0)
    total = np.where(known, rows, 0.0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _binned(values: np.ndarray, share: np.ndarray, borders: np.ndarray) -> np.ndarray:
    place = np.clip(np.searchsorted(borders, values, side="right") - 1, 0, len(borders) - 2)
    place[np.isnan(values)] = -1
    return np.stack([_mean(share[place == index]) for index in range(len(borders) - 1)])


def _differences(values: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest minus lowest fifth of the episode's own values; the middle minus the mean of these two: [K]."""
    nothing = np.full(share.shape[1], np.nan)
    known = ~np.isnan(values)
    values, share = values[known], share[known]
    if len(values) < MIN_ROWS:
        return nothing, nothing
    below, above = np.quantile(values, [1 / NUM_BINS, 1 - 1 / NUM_BINS])
    if below == above:
        return nothing, nothing
    low, middle, high = (
        _mean(share[rows]) for rows in (values <= below, (values > below) & (values < above), values >= above)
    )
    return np.round(high - low, DIGITS), np.round(middle - (low + high) / 2, DIGITS)


def _rank_correlations(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Spearman's correlation of values [T] with each column of share [T,K]; NaN where one is constant."""
    from scipy.stats import rankdata

    if len(values) < MIN_ROWS:
        return np.full(share.shape[1], np.nan)
    x, y = rankdata(values), rankdata(share, axis=0)
    x, y = x - x.mean(), y - y.mean(0)
    scale = np.sqrt((x @ x) * (y * y).sum(0))
    return np.divide(x @ y, scale, out=np.full(share.shape[1], np.nan), where=scale > 0)


def known(values: Sequence[float] | np.ndarray) -> list[float]:
    """Values without NaN."""
    return [float(value) for value in values if not math.isnan(value)]


def share_estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean attention with its interval over units, within [0, 1]."""
    return bounded(mean_interval(known(values)), 0.0, 1.0)


def bounded(value: Estimate, low: float, high: float) -> Estimate:
    """An estimate of something that lies in [low, high]: its interval goes no further."""
    if value.low is None or value.high is None:
        return value
    return Estimate(value.mean, max(low, value.low), min(high, value.high), value.count)


def effective_estimate(values: Sequence[float], num_ptms: int) -> Estimate:
    """Mean effective number of models with its interval over units, within [1, K]."""
    return bounded(mean_interval(values), 1.0, float(num_ptms))


def shares(units: Sequence[Unit]) -> list[Estimate]:
    """Attention to each model."""
    return [share_estimate(column) for column in np.stack([unit.share for unit in units]).T]


def binned_shares(units: Sequence[Unit], factor: str) -> list[list[Estimate]]:
    """Attention per bin of a factor and model, over the units that have been there."""
    stack = np.stack([unit.bins[factor] for unit in units])  # [U,bins,K]
    return [
        [share_estimate(stack[:, row, k]) for k in range(stack.shape[2])] for row in range(stack.shape[1])
    ]


def patterns(units: Sequence[Unit], ptms: Sequence[str]) -> list[Pattern]:
    """Every place and model that is looked at, with corrected p-values. One model has no patterns."""
    if len(ptms) < 2:
        return []
    found = [
        (key, ptm, known(np.stack([unit.contrasts[key] for unit in units])[:, k]))
        for key in units[0].contrasts
        for k, ptm in enumerate(ptms)
    ]
    found = [entry for entry in found if entry[2]]
    adjusted = holm([p_of_mean(values) for _, _, values in found])
    return [
        Pattern(*key, ptm, mean_interval(values), p)
        for (key, ptm, values), p in zip(found, adjusted, strict=True)
    ]


def relations(units: Sequence[Unit], ptms: Sequence[str]) -> list[Relation]:
    """Every reward term that varies and model, with corrected p-values. One model has none."""
    if len(ptms) < 2:
        return []
    found = [
        (term, ptm, known(np.stack([unit.terms[term] for unit in units])[:, k]))
        for term in units[0].terms
        for k, ptm in enumerate(ptms)
    ]
    found = [entry for entry in found if entry[2]]
    adjusted = holm([p_of_mean(values) for _, _, values in found])
    return [
        Relation(term, ptm, bounded(mean_interval(values), -1.0, 1.0), p)
        for (term, ptm, values), p in zip(found, adjusted, strict=True)
    ]


def leader(units: Sequence[Unit]) -> tuple[int, bool]:
    """Index of the model with most attention, and whether it is clearly ahead of every other."""
    share = np.stack([unit.share for unit in units])
    top = int(share.mean(0).argmax())
    leads = [mean_interval((share[:, top] - share[:, k]).tolist()) for k in range(share.shape[1]) if k != top]
    return top, all(lead.low is not None and lead.low > 0 for lead in leads)


def other_leaders(units: Sequence[Unit], top: int) -> tuple[bool, list[tuple[str, int, int]]]:
    """Where others lead: whether the leader's mean is highest in every bin; (factor, bin, model) of those
    where another one is clearly ahead of it, corrected over all bins and models by Holm's method."""
    everywhere = True
    tried: list[tuple[str, int, int, float | None]] = []
    for factor in units[0].bins:
        stack = np.stack([unit.bins[factor] for unit in units])
        for row in range(stack.shape[1]):
            there = stack[~np.isnan(stack[:, row, 0]), row]
            if not len(there):
                continue
            everywhere = everywhere and int(there.mean(0).argmax()) == top
            if len(there) < FEW:
                continue
            for other in range(there.shape[1]):
                ahead = there[:, other] - there[:, top]
                if other != top:
                    tried.append((factor, row, other, p_of_mean(ahead.tolist()) if ahead.mean() > 0 else 1.0))
    adjusted = holm([p for *_, p in tried])
    return everywhere, [
        (factor, row, other)
        for (factor, row, other, _), p in zip(tried, adjusted, strict=True)
        if p is not None and p < SIGNIFICANT
    ]
