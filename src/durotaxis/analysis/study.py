"""A study directory as numbers: which runs there are, what each scored, and what is missing.

The unit is the run (arm, scenario, seed), never the episode. A run that failed counts as an agent that learnt
nothing: normalised return 0, success rate 0, front progress of the random policy where that is known, 0
elsewhere. A run without a record is missing; it is named and left out, and only where that was allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from durotaxis.analysis.stats import MIN_SIGNAL, area_under_curve, mean_interval, steps_to_reach
from durotaxis.records import (
    FAILED,
    FINISHED,
    RECORDS,
    STUDY,
    TRAINED,
    ArmPlan,
    RecordError,
    RunPlan,
    RunRecord,
    ScenarioPlan,
    Score,
    StudyCost,
    StudyPlan,
    read_cost,
    read_plan,
    read_records,
    record_path,
)

Measure = Literal["normalised_return", "success_rate", "front_progress"]
Key = tuple[str, str, int]
PerSeed = Mapping[int, float]
"""Seed -> value, in the plan's order of seeds."""

HEADING: Mapping[Measure, str] = {
    "normalised_return": "normalised return",
    "success_rate": "success rate",
    "front_progress": "front progress",
}
LAST, FIRST = 0.9, 0.1
"""The end of training is its last tenth, the beginning its first."""
SHOWN = 5
"""So many offenders are named in an error."""


@dataclass(frozen=True)
class Selection:
    """Which of a run's scores is meant."""

    scenario: str | None = None  # world it was judged in; None: its own
    condition: str = TRAINED
    intervention: str = "none"
    deterministic: bool = False
    episodes: int | None = None  # over so many; None: the first that there is


OWN = Selection()
"""The score that results are about: sampled actions, in the world of training, nothing tampered with."""


@dataclass(frozen=True)
class Scale:
    """Turns returns into normalised returns: (return - random) / (delete-left - random)."""

    random: float
    span: float
    error: float
    """Standard error of the span over the span: how well the unit itself is known."""

    def __call__(self, value: float) -> float:
        """The normalised return."""
        return (value - self.random) / self.span


@dataclass(frozen=True)
class NoScale:
    """Why returns of a world cannot be normalised."""

    reason: str


@dataclass(frozen=True)
class Study:
    """A plan with the records of its runs."""

    path: Path
    plan: StudyPlan
    records: Mapping[Key, RunRecord]
    cost: StudyCost | None
    missing: Sequence[RunPlan]  # planned, without a record
    outdated: Sequence[str] = ()  # arms whose cost was measured with another configuration, and left out

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Names in the order in which runs list them."""
        return tuple(dict.fromkeys(run.arm for run in self.plan.runs))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """All arms but the baseline."""
        return tuple(arm for arm in self.arms if arm != self.plan.baseline)

    @cached_property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the scenarios that runs are planned in."""
        used = {run.scenario for run in self.plan.runs}
        return tuple(scenario.name for scenario in self.plan.scenarios if scenario.name in used)

    @cached_property
    def failed(self) -> tuple[RunRecord, ...]:
        """Runs that failed for good."""
        return tuple(record for record in self.records.values() if record.status == FAILED)

    def _arm(self, name: str) -> ArmPlan:
        return next(arm for arm in self.plan.arms if arm.name == name)

    def tests_wsa(self, arm: str) -> bool:
        """Whether an arm against the baseline is fusion against a single model, as far as is known.

        It is not where one of them starts from what another run learned: that is then compared, too.
        """
        own, base = self._arm(arm), self._arm(self.plan.baseline)
        return not base.use_wsa and own.use_wsa is not False and own.start_from == base.start_from

    def head_start(self, arm: str) -> str | None:
        """The arm whose trained runs this one starts from, where the baseline does not."""
        start, base = self._arm(arm).start_from, self._arm(self.plan.baseline).start_from
        return None if start is None or start == base else str(start["arm"])

    def learns_attention(self, arm: str) -> bool:
        """Whether the arm's attention depends on what it sees, as far as is known."""
        return self._arm(arm).learns_attention is not False

    def scenario(self, name: str) -> ScenarioPlan:
        """The plan of a scenario."""
        return next(scenario for scenario in self.plan.scenarios if scenario.name == name)

    def runs(self, arm: str, scenario: str) -> list[RunRecord]:
        """Records of an arm in a scenario, in the plan's order."""
        keys = [run.key for run in self.plan.runs if (run.arm, run.scenario) == (arm, scenario)]
        return [self.records[key] for key in keys if key in self.records]

    def scale(self, world: str) -> Scale | NoScale:
        """How returns in a world, a scenario of the plan or of `evaluated_in`, are normalised."""
        plans = {scenario.name: scenario.references for scenario in self.plan.scenarios}
        return scale_of({**self.plan.evaluated_in, **plans}.get(world))

    def measure(self, scenario: str) -> Measure:
        """What a scenario's curves and areas are of: the normalised return where it has one."""
        return "normalised_return" if isinstance(self.scale(scenario), Scale) else "success_rate"

    @cached_property
    def main_measure(self) -> Measure:
        """What arms are compared by: the normalised return, where any scenario that counts has one."""
        measures = [self.measure(scenario) for scenario in self._counting]
        return "normalised_return" if "normalised_return" in measures else "success_rate"

    @cached_property
    def main_scenarios(self) -> tuple[str, ...]:
        """Scenarios that are aggregated over: no controls (unless all are) and the main measure defined."""
        return tuple(
            name
            for name in self._counting
            if self.main_measure == "success_rate" or self.measure(name) == self.main_measure
        )

    @cached_property
    def _counting(self) -> tuple[str, ...]:
        return tuple(name for name in self.scenarios if not self.scenario(name).is_control) or self.scenarios

    def values(self, arm: str, scenario: str, measure: Measure, where: Selection = OWN) -> PerSeed:
        """One number per run: a held-out score.

        Empty where the normalised return is undefined. Under a condition the unit is that of the world as it
        was trained in. Runs that were not scored in that way are left out; failed ones count as random.
        """
        runs = self.runs(arm, scenario)
        scored = {run.seed: score_of(run, where) for run in runs if run.status == FINISHED}
        if runs and scored and not any(scored.values()):
            return {}
        world = where.scenario or scenario
        scale = self.scale(world)
        if measure == "normalised_return" and isinstance(scale, NoScale):
            return {}
        values = {}
        for run in runs:
            if run.status == FAILED:
                values[run.seed] = self._of_random(world, measure)
            elif (score := scored[run.seed]) is not None:
                values[run.seed] = _read(score, measure, scale)
        return values

    def _of_random(self, world: str, measure: Measure) -> float:
        if measure != "front_progress" or isinstance(self.scale(world), NoScale):
            return 0.0
        plans = {scenario.name: scenario.references for scenario in self.plan.scenarios}
        references = {**self.plan.evaluated_in, **plans}[world] or {}
        return float(references["random"].get("front_progress") or 0.0)

    def curve(self, run: RunRecord, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
        """A run's training episodes: environment steps [T] and values [T]; of a failed run, random's level.

        Empty where no episode ended, or the normalised return is undefined.
        """
        if run.status == FAILED:
            return np.array([float(self.plan.total_steps)]), np.array(
                [self._of_random(run.scenario, measure)]
            )
        steps = np.array(run.curve["step"], dtype=float)
        if measure != "normalised_return":
            return steps, np.array(run.curve[measure], dtype=float)
        scale = self.scale(run.scenario)
        if isinstance(scale, NoScale):
            return np.zeros(0), np.zeros(0)
        return steps, (np.array(run.curve["return"], dtype=float) - scale.random) / scale.span

    def _of_curves(
        self, arm: str, scenario: str, number: Callable[[np.ndarray, np.ndarray], float]
    ) -> PerSeed:
        curves = {run.seed: self.curve(run, self.measure(scenario)) for run in self.runs(arm, scenario)}
        return {seed: number(steps, values) for seed, (steps, values) in curves.items() if len(steps)}

    def areas(self, arm: str, scenario: str) -> PerSeed:
        """Area under each run's training curve over the length of training: its mean height.

        Of a lesson before the training nothing is known but its end: the curve rises to there from random's
        level in a straight line.
        """
        total, random = self.plan.total_steps, self._of_random(scenario, self.measure(scenario))
        is_taught = (self._arm(arm).start_from or {}).get("by") == "distillation"

        def area(steps: np.ndarray, values: np.ndarray) -> float:
            if is_taught:
                steps, values = np.append(0.0, steps), np.append(random, values)
            return float(area_under_curve(steps, values, total))

        return self._of_curves(arm, scenario, area)

    def beginnings(self, arm: str, scenario: str) -> PerSeed:
        """Mean of each run's training curve over the first tenth (at least its first point).

        Empty for an arm that was taught before: its curve begins after the lesson.
        """
        if (self._arm(arm).start_from or {}).get("by") == "distillation":
            return {}

        def beginning(steps: np.ndarray, values: np.ndarray) -> float:
            early = steps <= FIRST * self.plan.total_steps
            early[0] = True
            return float(values[early].mean())

        return self._of_curves(arm, scenario, beginning)

    def level(self, scenario: str) -> float | None:
        """The baseline's final score in training: its curve's mean over the last tenth, mean over runs."""
        ends = self.endings(self.plan.baseline, scenario)
        return math.fsum(ends.values()) / len(ends) if ends else None

    def endings(self, arm: str, scenario: str) -> PerSeed:
        """Mean of each run's training curve over the last tenth (at least its last point)."""

        def end(steps: np.ndarray, values: np.ndarray) -> float:
            late = steps >= LAST * self.plan.total_steps
            late[-1] = True
            return float(values[late].mean())

        return self._of_curves(arm, scenario, end)

    def learns(self, scenario: str) -> bool:
        """Whether the baseline's curve ends clearly above where it began; if not, its level means nothing."""
        begun, ended = (of(self.plan.baseline, scenario) for of in (self.beginnings, self.endings))
        rise = mean_interval([ended[seed] - begun[seed] for seed in ended if seed in begun])
        return rise.mean is not None and (rise.mean if rise.low is None else rise.low) > 0

    def steps_to_level(self, arm: str, scenario: str, *, to_stay: bool = False) -> Mapping[int, float | None]:
        """Steps until each run first reached the baseline's final score; None: not within the training.

        With `to_stay`: until it was there and never below again.
        """
        level = self.level(scenario)
        if level is None:
            return {}
        curves = {run.seed: self.curve(run, self.measure(scenario)) for run in self.runs(arm, scenario)}
        return {
            seed: steps_to_reach(steps, values, level, to_stay=to_stay)
            for seed, (steps, values) in curves.items()
            if len(steps)
        }

    def steps_below_level(self, arm: str, scenario: str, *, to_stay: bool = False) -> PerSeed:
        """The same, at most the whole training: what a run that never got there counts with."""
        total = float(self.plan.total_steps)
        steps = self.steps_to_level(arm, scenario, to_stay=to_stay)
        return {seed: total if value is None else min(value, total) for seed, value in steps.items()}

    def settings(self) -> dict[str, tuple[str, ...]]:
        """Scenarios that are settings of one and the same: name of that one -> two or more of the plan."""
        groups: dict[str, list[str]] = {}
        for name in self.scenarios:
            groups.setdefault(self.scenario(name).scenario, []).append(name)
        return {base: tuple(names) for base, names in groups.items() if len(names) > 1}


def scale_of(references: Mapping[str, Mapping[str, float]] | None) -> Scale | NoScale:
    """The scale that scripted policies span; none where it is unknown, upside down or drowned in noise."""
    if not references:
        return NoScale("the scripted policies were not played in it")
    if missing := [name for name in ("random", "delete-left") if name not in references]:
        return NoScale(f"no reference of {' and '.join(missing)}")
    low, high = references["random"], references["delete-left"]
    span = high["return_mean"] - low["return_mean"]
    noise = math.hypot(low["return_se"], high["return_se"])
    if span <= 0 or span < MIN_SIGNAL * noise:
        return NoScale(
            f"delete-left ({high['return_mean']:.2f}) is not above random ({low['return_mean']:.2f}) by "
            f"{MIN_SIGNAL:.0f} standard errors"
        )
    return Scale(low["return_mean"], span, noise / span)


def score_of(run: RunRecord, where: Selection = OWN) -> Score | None:
    """A run's score of a selection, if it has one."""
    wanted = (where.scenario or run.scenario, where.condition, where.intervention, where.deterministic)
    for score in run.scores:
        what = (score.scenario, score.condition, score.intervention, score.deterministic)
        if what == wanted and where.episodes in (None, score.episodes):
            return score
    return None


def _read(score: Score, measure: Measure, scale: Scale | NoScale) -> float:
    if measure == "success_rate":
        return score.successes / score.episodes
    if measure == "front_progress":
        return score.front_progress
    assert isinstance(scale, Scale)
    return scale(score.return_mean)


def load_study(path: Path | str, *, allow_partial: bool = False) -> Study:
    """Read a study directory and hold its records to its plan.

    Args:
        path: with `study.json` and `records/`; `cost.json` and `configs/` are optional.
        allow_partial: take it although runs are missing; `Study.missing` names them.

    Raises:
        RecordError: it is no study; a record is damaged or does not belong to the plan (another study,
            version, configuration, arm, scenario or seed); runs are missing and that was not allowed.
    """
    path = Path(path)
    plan = read_plan(path)
    if plan.baseline not in {run.arm for run in plan.runs}:
        raise RecordError(f"{path / STUDY}: the baseline '{plan.baseline}' has no run; plan the study again")
    records = {record.key: record for record in read_records(path)} if (path / RECORDS).is_dir() else {}
    _require_plan(path, plan, records)
    missing = tuple(run for run in plan.runs if run.key not in records)
    _require_complete(path, plan, missing, allow_partial)
    ordered = {run.key: records[run.key] for run in plan.runs if run.key in records}
    cost = read_cost(path)
    outdated = () if cost is None else cost.outdated(plan.runs)
    if cost is not None:
        cost = replace(cost, arms={arm: own for arm, own in cost.arms.items() if arm not in outdated})
    return Study(path, plan, ordered, cost, missing, outdated)


def _require_plan(path: Path, plan: StudyPlan, records: Mapping[Key, RunRecord]) -> None:
    planned = {run.key: run for run in plan.runs}
    wrong = []
    for key, record in records.items():
        problem = _misfit(plan, planned.get(key), record)
        if problem:
            wrong.append(f"{record_path(path, *key)}: {problem}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise RecordError(
            f"{len(wrong)} of {len(records)} records do not belong to {path / STUDY}; remove them, or make "
            f"the runs again: {'; '.join(wrong[:SHOWN])}{more}"
        )


def _misfit(plan: StudyPlan, run: RunPlan | None, record: RunRecord) -> str:
    """Why a record is not one of the plan; empty where it is."""
    if record.study != plan.name:
        return f"of the study '{record.study}', not '{plan.name}'"
    for kind, name, known in (
        ("arm", record.arm, {run.arm for run in plan.runs}),
        ("scenario", record.scenario, {run.scenario for run in plan.runs}),
        ("seed", record.seed, {run.seed for run in plan.runs}),
    ):
        if name not in known:
            return f"{kind} '{name}' is not in the plan"
    if run is None:
        return "this combination of arm, scenario and seed is not in the plan"
    if record.version != plan.version:
        return f"made by durotaxis {record.version}, the plan by {plan.version}"
    if record.config != run.config:
        return f"its configuration is {record.config}, the plan's {run.config}"
    if record.status not in (FINISHED, FAILED):
        return f"its status is '{record.status}', neither {FINISHED} nor {FAILED}"
    score = score_of(record)
    if record.status == FINISHED and (score is None or not score.episodes):
        return "finished, but without held-out episodes in its own world"
    return ""


def _require_complete(path: Path, plan: StudyPlan, missing: Sequence[RunPlan], allow_partial: bool) -> None:
    if len(missing) == len(plan.runs):
        raise RecordError(f"{path}: none of its {len(plan.runs)} runs has a record yet; nothing to report")
    if missing and not allow_partial:
        named = ", ".join("/".join(map(str, run.key)) for run in missing[: 2 * SHOWN])
        more = f" and {len(missing) - 2 * SHOWN} more" if len(missing) > 2 * SHOWN else ""
        raise RecordError(
            f"{path}: {len(missing)} of {len(plan.runs)} runs have no record: {named}{more}; finish the "
            "study, or report it as it stands with --partial"
        )
