"""What attention is analysed of: a run over its episodes, or an arm in a scenario over its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np

from durotaxis.analysis.attention import (
    PHASE,
    SIGNIFICANT,
    Seen,
    Unit,
    bin_edges,
    bounded,
    mean_unit,
    seen,
    unit_of,
)
from durotaxis.analysis.load import attention_over_training, load_run
from durotaxis.analysis.stats import CONFIDENCE, Estimate, holm, mean_interval, p_of_mean, t_interval
from durotaxis.analysis.study import Study, load_study
from durotaxis.analysis.study_figures import resampled
from durotaxis.records import (
    ATTENTION,
    FINISHED,
    PHASES,
    RUNS,
    STUDY,
    Episode,
    EpisodeInfo,
    Probe,
    RecordError,
    RunDirectory,
    RunRecord,
    episode_numbers,
    read_episodes,
    read_probe,
)


@dataclass(frozen=True)
class Training:
    """Mean attention over training: R runs, T steps, K models."""

    step: np.ndarray  # [T]
    weight: np.ndarray  # [R,T,K]
    effective: np.ndarray  # [R,T], effective number of models
    stages: Mapping[str, np.ndarray]  # curriculum stage -> [R,K], over the rollouts of the stage


@dataclass(frozen=True)
class Group:
    """What one part of the page is about."""

    title: str
    name: str  # of its files
    ptms: tuple[str, ...]
    over: str  # what units, and therefore intervals, are over: episodes, runs
    basis: str  # what was looked at, a sentence
    units: Sequence[Unit]
    borders: Mapping[str, np.ndarray]  # of bins, per factor
    training: Training | None
    probes: Sequence[Probe]  # one, or one per run


@dataclass(frozen=True)
class Worth:
    """What one model is worth to the agent as it is: differences over the same episodes."""

    ptm: str
    closed: Estimate  # return without this model minus return with all: negative where it is needed
    p: float | None  # of `closed`, corrected for the number of models
    success: Estimate  # the same of the success rate
    alone: Estimate  # return with this model alone minus return with all
    shapley: Estimate | None  # its Shapley value of the return; None where not all subsets were played

    @property
    def is_clear(self) -> bool:
        """Whether closing it makes a difference."""
        return self.p is not None and self.p < SIGNIFICANT

    @property
    def is_needed(self) -> bool:
        """Whether closing it clearly costs return."""
        return self.is_clear and (self.closed.mean or 0.0) < 0


@dataclass(frozen=True)
class Likeness:
    """How alike the embeddings of two models are."""

    ptms: tuple[str, str]
    cka: Estimate


def load_groups(target: Path) -> list[Group]:
    """The groups of a run directory (one) or a study directory (an arm in a scenario each).

    Raises:
        RecordError: it is neither, a record is damaged, or nothing in it has attention.
    """
    if (target / STUDY).exists():
        return _study_groups(load_study(target, allow_partial=True))
    return [run_group(target)]


def run_group(path: Path) -> Group:
    """A run, over its recorded episodes."""
    directory = RunDirectory.open(path)
    run = load_run(path)
    if not run.attention and not has_attention(path):
        raise RecordError(
            f"{path} has no attention: its agent has one model, or none of its records hold any "
            f"({ATTENTION} is empty); analyse a run with actor_critic.use_wsa=true"
        )
    episodes = list(read_episodes(directory.path))
    info = episodes[0].info
    if not info.ptms:
        raise RecordError(
            f"{path}: its recorded episodes have no attention; record others with durotaxis evaluate"
        )
    found = [one for episode in episodes if (one := seen(episode)) is not None]
    borders = bin_edges(found)
    trained = attention_over_training(run)
    training = None
    if trained is not None and trained.names == tuple(info.ptms):
        training = Training(
            trained.step, trained.weight[None], trained.effective[None], _stages(run.attention)
        )
    trained_for = "an agent" if info.trained_steps is None else f"the agent of {info.trained_steps:,} steps"
    num_steps = sum(len(one.share) for one in found)
    how = "deterministic " if info.deterministic else ""
    rows = "per node" if info.attention_rows == "node" else "one for the whole colony"
    return Group(
        title=run.name,
        name="attention",
        ptms=tuple(info.ptms),
        over="episodes",
        basis=f"{len(found)} recorded {how}episodes of {trained_for} on {info.scenario}, {num_steps:,} "
        f"steps; attention is {rows}",
        units=[unit_of(one, borders) for one in found],
        borders=borders,
        training=training,
        probes=[probe for probe in [read_probe(path)] if probe is not None and _is_of(probe, info)],
    )


def _is_of(probe: Probe, info: EpisodeInfo) -> bool:
    """Whether a probe is of the agent and the scenario that episodes were recorded of."""
    return (probe.step, probe.scenario, probe.deterministic) == (
        info.trained_steps,
        _scenario_of(info),
        info.deterministic,
    )


def _scenario_of(info: EpisodeInfo) -> str:
    """The scenario whose rules held, whatever was changed of it."""
    return str(info.env.get("scenario", info.scenario))


def has_attention(path: Path) -> bool:
    """Whether the recorded episodes of a run directory have attention."""
    return any(episode.info.ptms for episode in _first(path))


def runs_of(study: Path) -> list[Path]:
    """Run directories of a study's finished runs with attention, as far as they still lie in it."""
    loaded = load_study(study, allow_partial=True)
    places = [run_path(loaded, record) for record in loaded.records.values() if _has_models(record)]
    return [path for path in places if (path / ATTENTION).exists()]


def run_path(study: Study, record: RunRecord) -> Path:
    """Where a run's directory lies in its study, if it still does."""
    return study.path / RUNS / record.arm / record.scenario / str(record.seed)


def _study_groups(study: Study) -> list[Group]:
    groups = []
    for arm in study.arms:
        for scenario in study.scenarios:
            records = [record for record in study.runs(arm, scenario) if _has_models(record)]
            if records:
                groups.append(_arm_group(study, arm, scenario, records))
    if not groups:
        raise RecordError(
            f"{study.path}: none of its finished runs has attention; there is nothing to analyse"
        )
    return groups


def _models(record: RunRecord) -> tuple[str, ...]:
    return () if record.attention is None else tuple(record.attention["names"])


def _has_models(record: RunRecord) -> bool:
    return record.status == FINISHED and record.attention is not None and bool(record.attention["step"])


def _arm_group(study: Study, arm: str, scenario: str, records: Sequence[RunRecord]) -> Group:
    """An arm in a scenario, over its runs: from their directories, or their records where all are gone."""
    ptms = _models(records[0])
    alike = [record for record in records if _models(record) == ptms]
    places = [run_path(study, record) for record in alike]
    world = next(each.scenario for each in study.plan.scenarios if each.name == scenario)
    recorded = {path: found for path in places if (found := _seen_in(path, ptms, world))}
    borders: dict[str, np.ndarray] = {}
    if recorded:
        borders = bin_edges([one for episodes in recorded.values() for one in episodes])
        units = [mean_unit([unit_of(one, borders) for one in found]) for found in recorded.values()]
        total = sum(map(len, recorded.values()))
        of = f"{len(recorded)} of {len(records)} runs"
        basis = f"{total} recorded episodes of {of}, each run the mean of its own"
    else:
        units = [_unit_of_record(record) for record in alike]
        of = "the record of 1 run" if len(units) == 1 else f"the records of {len(units)} runs"
        basis = (
            f"{of}, attention in the last tenth of training: no run directory with recorded episodes "
            "lies in the study"
        )
    if len(alike) < len(records):
        basis += f"; {len(records) - len(alike)} runs with other models are left out"
    probes = [probe for path in places if (probe := read_probe(path)) is not None]
    alike_probes = [probe for probe in probes if probe.ptms == probes[0].ptms]
    return Group(
        title=f"{arm} in {scenario}",
        name=f"attention-{arm}-{scenario}",
        ptms=ptms,
        over="runs",
        basis=basis,
        units=units,
        borders=borders,
        training=_training_of(alike, study.plan.total_steps),
        probes=alike_probes if len(alike_probes) > 1 else (),  # one would be over its episodes
    )


def _seen_in(path: Path, ptms: Sequence[str], world: str) -> list[Seen]:
    """Recorded episodes of a run directory with attention to these models in this scenario."""
    if not episode_numbers(path):
        return []
    episodes = [
        one
        for one in read_episodes(path)
        if tuple(one.info.ptms) == tuple(ptms) and _scenario_of(one.info) == world
    ]
    return [found for episode in episodes if (found := seen(episode)) is not None]


def _first(path: Path) -> Iterator[Episode]:
    if episode_numbers(path):
        yield next(iter(read_episodes(path)))


def _unit_of_record(record: RunRecord) -> Unit:
    """What a study keeps of a run: attention in the last tenth of training, by phase."""
    assert record.attention is not None
    share = np.array(record.attention["weight"][-1], dtype=float)
    nothing = np.full_like(share, np.nan)
    phases = record.attention["phases"]
    each = {phase: np.array(phases[phase], float) if phase in phases else nothing for phase in PHASES}
    return Unit(
        share=share,
        effective=float(record.attention["effective"][-1]),
        bins={PHASE: np.stack(list(each.values()))},
        contrasts={(PHASE, phase): mean - share for phase, mean in each.items()},
        terms={},
    )


def _training_of(records: Sequence[RunRecord], total_steps: int) -> Training:
    grid, weight, effective = resampled(
        [record.attention for record in records if record.attention], total_steps
    )
    return Training(grid, weight, effective, {})


def _stages(rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Mean attention [1,K] over the rollouts of each curriculum stage, colonies weighing the same."""
    groups: dict[str, list[Mapping]] = {}
    for row in rows:
        if row["phase"] == "all" and "stage" in row and "value/attention" in row:
            groups.setdefault(row["stage"], []).append(row)
    return {
        stage: np.average(
            [row["value/attention"] for row in group], axis=0, weights=[row["colonies"] for row in group]
        )[None]
        for stage, group in groups.items()
    }


def worths(probes: Sequence[Probe]) -> list[Worth]:
    """The models' worth, from one probe over its episodes, or over several probes, each its mean.

    Probes of several runs must be of the same models.
    """
    if not probes:
        return []
    ptms = probes[0].ptms
    is_complete = all(probe.is_complete for probe in probes)

    def over(values: Callable[[Probe], np.ndarray]) -> list[float]:
        each = [values(probe) for probe in probes]
        return each[0].tolist() if len(each) == 1 else [float(one.mean()) for one in each]

    def against_all(subset: Sequence[str], column: str) -> list[float]:
        return over(lambda probe: _column(probe, subset, column) - _column(probe, ptms, column))

    others = {ptm: [name for name in ptms if name != ptm] for ptm in ptms}
    p_values = holm([p_of_mean(against_all(others[ptm], "returns")) for ptm in ptms])
    found = []
    for ptm, p in zip(ptms, p_values, strict=True):
        values = over(partial(shapley, ptm=ptm)) if is_complete else None
        found.append(
            Worth(
                ptm=ptm,
                closed=mean_interval(against_all(others[ptm], "returns")),
                p=p,
                success=bounded(mean_interval(against_all(others[ptm], "success")), -1.0, 1.0),
                alone=mean_interval(against_all([ptm], "returns")),
                shapley=None if values is None else mean_interval(values),
            )
        )
    return found


def shapley(probe: Probe, ptm: str) -> np.ndarray:
    """A model's Shapley value of the return in each episode [seeds]: what it adds, mean over all orders.

        Σ over sets S without it of |S|! (K - |S| - 1)! / K! (v(S and it) - v(S))

    Over all models they add up to v(all) - v(none). Source: L. S. Shapley, "A value for n-person games"
    (1953).
    """
    others = [name for name in probe.ptms if name != ptm]
    total = np.zeros(len(probe.seeds))
    for size in range(len(others) + 1):
        weight = factorial(size) * factorial(len(others) - size) / factorial(len(others) + 1)
        for subset in combinations(others, size):
            total += weight * (_column(probe, [*subset, ptm], "returns") - _column(probe, subset, "returns"))
    return total


def _column(probe: Probe, ptms: Sequence[str], name: str) -> np.ndarray:
    return np.array(getattr(probe.subset(ptms), name), dtype=float)


def likenesses(probes: Sequence[Probe]) -> list[Likeness]:
    """Linear CKA of every two models.

    The interval of one probe is the jackknife's over its episodes; that of several is over runs.
    """
    if not probes:
        return []
    ptms = probes[0].similarity.ptms
    found = []
    for i, j in combinations(range(len(ptms)), 2):
        if len(probes) == 1:
            similarity = probes[0].similarity
            value = jackknife(similarity.cka[i][j], [one[i][j] for one in similarity.without])
        else:
            value = mean_interval([probe.similarity.cka[i][j] for probe in probes])
        found.append(Likeness((ptms[i], ptms[j]), bounded(value, 0.0, 1.0)))
    return found


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """A statistic of n observations with Student's t interval, from its values without each of them.

    se² = (n - 1)/n Σ (θ_(i) - mean θ_(.))²,   B. Efron, "The jackknife" (1982)
    """
    count = len(without)
    if count < 2:
        return Estimate(value, None, None, count)
    values = np.array(without)
    error = float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))
    return t_interval(value, error, count - 1.0, count, CONFIDENCE)
