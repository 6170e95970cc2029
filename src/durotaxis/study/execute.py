"""One run of a study, from its configuration to its record: train, judge, condense.

An `Assignment` is plain values, so that it can be handed to another process or machine; what comes back is
a record. A run that was interrupted is taken up at its checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durotaxis.core.config import build_config, load_config
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.ppo import Status
from durotaxis.records import (
    ATTENTION,
    CONFIG,
    DISTILLATION_SUMMARY,
    EPISODES,
    EVENTS,
    FAILED,
    FINISHED,
    JUDGED_BY,
    METRICS,
    PHASES,
    PROVENANCE,
    RunDirectory,
    RunRecord,
    Score,
    read_jsonl,
    read_object,
    write_atomic,
)
from durotaxis.study.config import RootConfig
from durotaxis.study.distill import prepare_distillation
from durotaxis.study.evaluation import Candidate, evaluate_run, open_run
from durotaxis.study.provenance import own_version
from durotaxis.study.run import Job, begin_with_weights, prepare, prepare_resume

DIGEST = "digest"
"""File in a run's directory: for which assignment it was made."""
NUM_BINS = 25
ATTENTION_BINS = 10
DIGITS = 6
"""Significant digits of a record's numbers."""


@dataclass(frozen=True)
class Assignment:
    """All that is needed to make one run; plain values but for paths."""

    study: str
    arm: str
    scenario: str  # as the study calls it
    seed: int
    config: str  # the resolved configuration: a YAML file
    digest: str
    directory: str  # of the run
    parent: str | None  # run directory whose weights it begins with
    parent_digest: str | None  # what that run is made for
    start_by: str | None  # weights, distillation
    start_steps: int | None
    probes: tuple[Mapping[str, Any], ...]  # scenario, condition, intervention, episodes, world, env
    known: tuple[Mapping[str, Any], ...] = ()  # scores that it has already, as plain values

    @property
    def key(self) -> tuple[str, str, int]:
        """Arm, scenario, seed."""
        return (self.arm, self.scenario, self.seed)

    @property
    def name(self) -> str:
        """`arm/scenario/seed`."""
        return "/".join(map(str, self.key))


def execute(
    assignment: Assignment, attempts: int = 1, progress: Callable[[Status], None] | None = None
) -> RunRecord:
    """Make a run, or go on with it, and judge the agent.

    Args:
        attempts: which start this is; written into the record.
        progress: called after every iteration.

    Raises:
        UserError, RecordError: what `prepare` refuses, and what another version began.
        InvariantError: training broke down.
        Interrupted: and saved.
    """
    directory = Path(assignment.directory)
    if not is_made_for(directory, assignment.digest) or (
        assignment.parent is not None and not _has_begun(assignment)
    ):
        shutil.rmtree(directory, ignore_errors=True)
    _refuse_other_version(directory)
    if not (directory / CONFIG).exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / DIGEST, assignment.digest)
        _begin(assignment).train(progress)
    elif not RunDirectory.open(directory).is_done:
        prepare_resume(directory).train(progress)
    candidate = open_run(directory)
    known = {what_is_judged(score): Score(**score) for score in assignment.known}
    scores = [known.get(what_is_judged(probe)) or _score(candidate, probe) for probe in assignment.probes]
    return _record(assignment, attempts, scores)


def what_is_judged(score: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two scores of a run the same, of a probe or a score as plain values."""
    return tuple(score[name] for name in JUDGED_BY)


def failed_record(assignment: Assignment, attempts: int, error: str) -> RunRecord:
    """The record of a run that was given up: counted, not dropped. Its curve is as far as it came."""
    return _record(assignment, attempts, (), error)


def _refuse_other_version(directory: Path) -> None:
    """Raise UserError where another version trained so far: its record would pass for one of this version."""
    if not (directory / PROVENANCE).exists():
        return
    before = read_object(directory / PROVENANCE)["versions"]["durotaxis"]
    if before != own_version():
        raise UserError(
            f"{directory} was begun by durotaxis {before}, this is {own_version()}; go on with that version, "
            "or remove the directory to begin anew"
        )


def is_made_for(directory: Path, digest: str) -> bool:
    """Whether a run directory was made for that assignment: the same configuration, and the same parent."""
    path = directory / DIGEST
    return path.exists() and path.read_text("utf-8") == digest


def _begin(assignment: Assignment) -> Job:
    place = f"run.directory={json.dumps(assignment.directory)}"
    if assignment.parent is None:
        return prepare(assignment.config, [place])
    if not RunDirectory.open(assignment.parent).is_done:
        raise UserError(f"{assignment.name} starts from {assignment.parent}, which is not finished")
    if not is_made_for(Path(assignment.parent), assignment.parent_digest or ""):
        raise UserError(f"{assignment.name} starts from {assignment.parent}, which is of another design")
    if assignment.start_by == "weights":
        return begin_with_weights(assignment.parent, assignment.config, [place])
    ppo = load_config(assignment.config, RootConfig).ppo
    like_ppo = [f"distill.{name}={getattr(ppo, name)}" for name in ("num_colonies", "rollout_steps")]
    overrides = [place, *like_ppo]
    lesson = prepare_distillation(assignment.parent, assignment.config, overrides, assignment.start_steps)
    lesson.run(2)
    return prepare_resume(assignment.directory)


def _has_begun(assignment: Assignment) -> bool:
    """Whether a run that starts from another has got what it starts with; it may have been killed before."""
    run = RunDirectory(Path(assignment.directory))
    taught = assignment.start_by == "weights" or (run.path / DISTILLATION_SUMMARY).exists()
    return run.last_checkpoint.exists() and taught


def _score(candidate: Candidate, probe: Mapping[str, Any]) -> Score:
    """Judge the agent in one world, under one intervention."""
    world = build_config(EnvConfig, probe["env"], f"{probe['scenario']}, {probe['condition']}")
    config = candidate.config.model_copy(update={"env": world})
    judged = Candidate(config, candidate.policy, candidate.run, candidate.checkpoint_path, candidate.step)
    rows = evaluate_run(judged, probe["episodes"], intervention=probe["intervention"]).rows
    returns = [row["return"] for row in rows]
    lengths = [row["length"] for row in rows if row["success"]]
    return Score(
        scenario=probe["scenario"],
        condition=probe["condition"],
        intervention=probe["intervention"],
        world=probe["world"],
        deterministic=False,
        episodes=len(rows),
        return_mean=rounded(statistics.fmean(returns)),
        return_se=rounded(statistics.stdev(returns) / math.sqrt(len(rows))),
        successes=sum(row["success"] for row in rows),
        front_progress=rounded(statistics.fmean(row["final/front_progress"] for row in rows)),
        length_mean=rounded(statistics.fmean(row["length"] for row in rows)),
        steps_to_success=rounded(statistics.fmean(lengths)) if lengths else None,
    )


def _record(
    assignment: Assignment, attempts: int, scores: Sequence[Score], error: str | None = None
) -> RunRecord:
    """What is left of a run; with an `error`, of one that failed, whose files may be missing."""
    directory = Path(assignment.directory)

    lesson = assignment.start_steps or 0

    def rows(file: str) -> list[dict[str, Any]]:
        return read_jsonl(directory / file) if (directory / file).exists() else []

    def after_lesson(file: str) -> list[dict[str, Any]]:
        return [{**row, "step": row["step"] + lesson} for row in rows(file)]

    origin = read_object(directory / PROVENANCE) if (directory / PROVENANCE).exists() else {}
    metrics = rows(METRICS)
    steps = lesson + (metrics[-1]["step"] if metrics else 0)
    return RunRecord(
        study=assignment.study,
        arm=assignment.arm,
        scenario=assignment.scenario,
        seed=assignment.seed,
        config=assignment.digest,
        status=FINISHED if error is None else FAILED,
        attempts=attempts,
        error=error,
        steps=steps,
        episodes=metrics[-1]["episodes"] if metrics else 0,
        curve=curve(after_lesson(EPISODES), max(steps, 1)),
        scores=tuple(scores),
        attention=attention(after_lesson(ATTENTION), steps) if error is None else None,
        warnings=_warnings(rows(EVENTS)),
        cost=_cost(metrics, origin),
        provenance=_origin(origin),
        version=own_version(),
    )


def curve(episodes: Sequence[Mapping[str, Any]], total_steps: int, bins: int = NUM_BINS) -> dict[str, list]:
    """Training episodes, averaged in bins of equal width by the step at which they ended.

    Returns:
        Columns step (mean of the bin's), return, success_rate, front_progress, episodes; bins in which no
        episode ended are left out.
    """
    result: dict[str, list] = {
        name: [] for name in ("step", "return", "success_rate", "front_progress", "episodes")
    }
    for group in _binned(episodes, total_steps, bins):
        result["step"].append(round(statistics.fmean(row["step"] for row in group)))
        result["return"].append(rounded(statistics.fmean(row["return"] for row in group)))
        result["success_rate"].append(rounded(statistics.fmean(row["success"] for row in group)))
        result["front_progress"].append(
            rounded(statistics.fmean(row["final/front_progress"] for row in group))
        )
        result["episodes"].append(len(group))
    return result


def attention(rows: Sequence[Mapping[str, Any]], total_steps: int) -> dict[str, Any] | None:
    """Mean attention in bins over training, and by phase in its last tenth; None without attention."""
    weighed = [row for row in rows if "value/attention" in row]
    everyone = [row for row in weighed if row["phase"] == "all"]
    if not everyone:
        return None
    groups = _binned(everyone, total_steps, ATTENTION_BINS)
    late = [row for row in weighed if row["step"] >= 0.9 * total_steps]
    phases = {phase: [row for row in late if row["phase"] == phase] for phase in PHASES}
    return {
        "names": list(everyone[-1]["value/ptm_names"]),
        "step": [round(statistics.fmean(row["step"] for row in group)) for group in groups],
        "weight": [_mean_weight(group) for group in groups],
        "effective": [
            rounded(statistics.fmean(row["value/effective_models"] for row in group)) for group in groups
        ],
        "phases": {phase: _mean_weight(found) for phase, found in phases.items() if found},
    }


def _mean_weight(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean attention [K], colonies weighing the same."""
    total = sum(row["colonies"] for row in rows)
    count = len(rows[0]["value/attention"])
    return [
        rounded(sum(row["colonies"] * row["value/attention"][k] for row in rows) / total)
        for k in range(count)
    ]


def _binned(rows: Sequence[Mapping[str, Any]], total_steps: int, bins: int) -> list[list[Mapping[str, Any]]]:
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(bins)]
    for row in rows:
        groups[min(bins - 1, (row["step"] - 1) * bins // total_steps)].append(row)
    return [group for group in groups if group]


def _warnings(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["name"] for row in events if row["event"] == "warning"))


def _cost(metrics: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]) -> dict[str, float]:
    """Time and memory of the whole training, and parameters."""
    cost = {name: origin[name] for name in ("num_parameters", "num_trainable") if name in origin}
    if metrics:
        last = metrics[-1]
        cost["elapsed_s"] = rounded(last["elapsed_s"])
        cost["steps_per_s"] = rounded(last["step"] / last["elapsed_s"])
        cost["host_memory_mb"] = rounded(last["host_memory_mb"])
    return cost


def _origin(origin: Mapping[str, Any]) -> dict[str, Any]:
    names = ("started", "commit", "modified", "platform", "device", "device_name", "threads", "frozen_hash")
    kept = {name: origin.get(name) for name in names}
    kept["versions"] = origin.get("versions", {})
    wanted = ("name", "model_type", "frozen", "sha256", "seed", "revision")
    kept["ptms"] = [
        {name: ptm[name] for name in wanted if ptm.get(name) is not None} for ptm in origin.get("ptms", [])
    ]
    return kept


def rounded(value: float) -> float:
    """`value` with DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
