"""The records of a study: one small JSON file per run, and the plan they belong to.

    study.json                             what was planned: arms, scenarios, seeds, references
    configs/<digest>.yaml                  every resolved configuration, named by what it holds
    records/<arm>/<scenario>/<seed>.json   what is left of a finished or failed run: a few kB
    cost.json                              all arms measured in one process
    runs/<arm>/<scenario>/<seed>/          the run directories; nothing reads them once there is a record

A study goes on, and is reported, from the first four alone: they can be carried to another machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from durotaxis.records.run import RecordError, write_json

FORMAT = 1
STUDY = "study.json"
CONFIGS = "configs"
RECORDS = "records"
COST = "cost.json"
RUNS = "runs"
"""Folder of the run directories in a study directory."""

FINISHED, FAILED = "finished", "failed"


TRAINED = "trained"
"""The condition under which an agent is judged in the world as it was trained in, but for the scenario."""

TUNING, REPORT = "tuning", "report"


@dataclass(frozen=True)
class ArmPlan:
    """One arm: what it is, and what distinguishes it."""

    name: str
    description: str
    changes: Mapping[str, Any]  # dotted key -> value, over the configuration that all arms share
    tried: Sequence[str]  # variants of it that were looked at on tuning seeds before, a line each
    start_from: Mapping[str, Any] | None  # whose trained weights it begins with
    factors: Mapping[str, str] = field(default_factory=dict)  # factor -> level, of crossed arms
    use_wsa: bool | None = None  # whether its actor fuses several models; null: not known
    learns_attention: bool | None = None  # whether its attention depends on what it sees; null: not known


@dataclass(frozen=True)
class ScenarioPlan:
    """One world or setting that every arm is trained in."""

    name: str
    scenario: str  # of the package, which it is or is made from
    changes: Mapping[str, Any]  # dotted key -> value, for every arm
    is_control: bool  # where no difference is expected; not part of the aggregate
    world: str  # digest of its configuration
    references: Mapping[str, Mapping[str, float]] | None
    """Scripted policies: {random, delete-left: {return_mean, return_se, episodes, success_rate, ...}}; null
    where returns cannot be normalised."""


@dataclass(frozen=True)
class RunPlan:
    """One run of the plan."""

    arm: str
    scenario: str
    seed: int
    config: str  # digest of its resolved configuration

    @property
    def key(self) -> tuple[str, str, int]:
        """Arm, scenario, seed."""
        return (self.arm, self.scenario, self.seed)


@dataclass(frozen=True)
class StudyPlan:
    """`study.json`: what a study is. The first arm listed in `runs` order is drawn first everywhere."""

    name: str
    question: str
    purpose: str  # tuning (seeds 0 to 4: nothing of it is a result) or report (seeds from 100 on)
    baseline: str  # the arm that the others are compared with
    arms: Sequence[ArmPlan]
    scenarios: Sequence[ScenarioPlan]
    seeds: Sequence[int]
    total_steps: int  # environment steps of each run, in whole rollouts
    episodes: int  # held-out episodes of each score
    evaluated_in: Mapping[str, Mapping[str, Mapping[str, float]] | None]
    """Scenario that agents are judged in besides their own -> its references, as in ScenarioPlan."""
    conditions: Mapping[str, Mapping[str, Any]]  # name -> changes of the world that agents are judged under
    interventions: Sequence[str]
    runs: Sequence[RunPlan]
    command: str
    version: str  # of durotaxis
    changes: Sequence[str] = ()  # of this plan since reported runs had records, a line each
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ArmCost:
    """One arm's cost; one entry per turn, in which every arm had its turn in the same process."""

    num_parameters: int
    num_trainable: int
    forward_s: Sequence[float]  # one forward pass of the policy over `colonies` colonies
    collect_s: Sequence[float]  # one rollout
    update_s: Sequence[float]  # one update
    peak_memory_mb: float  # most that tensors of the rollout and update took, parameters included


@dataclass(frozen=True)
class StudyCost:
    """`cost.json`: all arms of a study measured in one process, by turns."""

    machine: str
    device: str
    threads: int
    scenario: str
    colonies: int
    steps_per_rollout: int
    num_nodes: Mapping[str, float]  # arm -> living nodes per colony in its rollouts
    arms: Mapping[str, ArmCost]
    date: str
    version: str
    configs: Mapping[str, str] = field(default_factory=dict)  # arm -> digest of what was measured
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def outdated(self, runs: Sequence[RunPlan]) -> tuple[str, ...]:
        """Arms that were measured with a configuration which none of these runs has."""
        planned = {(run.arm, run.config) for run in runs}
        return tuple(arm for arm, digest in self.configs.items() if (arm, digest) not in planned)


def read_cost(study: Path) -> StudyCost | None:
    """Read `cost.json`; None where there is none.

    Raises:
        RecordError: it is damaged, or of another format.
    """
    path = study / COST
    if not path.exists():
        return None
    data = read_object(path)
    if data.get("format") != FORMAT:
        raise RecordError(f"{path}: of format {data.get('format')}, this version reads {FORMAT}; remove it")
    _require_keys(path, data, StudyCost)
    for cost in data["arms"].values():
        _require_keys(path, cost, ArmCost)
    return StudyCost(**{**data, "arms": {name: ArmCost(**cost) for name, cost in data["arms"].items()}})


def write_plan(study: Path, plan: StudyPlan) -> Path:
    """Write `study.json` whole or not at all; returns the file."""
    write_json(study / STUDY, plan.to_json())
    return study / STUDY


def read_plan(study: Path) -> StudyPlan:
    """Read `study.json` of a study directory.

    Raises:
        RecordError: there is none, it is damaged, or of another format.
    """
    path = study / STUDY
    if not path.exists():
        raise RecordError(f"{study} is not a study directory: it has no {STUDY}")
    data = read_object(path)
    if data.get("format") != FORMAT:
        raise RecordError(f"{path}: of format {data.get('format')}, this version reads {FORMAT}")
    _require_keys(path, data, StudyPlan)
    parts: dict[str, Any] = {}
    for name, kind in (("arms", ArmPlan), ("scenarios", ScenarioPlan), ("runs", RunPlan)):
        for entry in data[name]:
            _require_keys(path, entry, kind)
        parts[name] = tuple(kind(**entry) for entry in data[name])
    return StudyPlan(**{**data, **parts})


JUDGED_BY = ("scenario", "condition", "intervention", "episodes", "world")
"""What makes two scores of a run the same: these fields of a `Score`."""


@dataclass(frozen=True)
class Score:
    """Held-out episodes of one trained agent, in one world, under one intervention."""

    scenario: str  # the world it was judged in: its own, or one of `evaluated_in`
    condition: str  # TRAINED, or a name of `conditions`
    intervention: str  # none; of R: zero, shuffled (that of another colony); of attention: uniform
    world: str  # digest of the world's configuration
    deterministic: bool
    episodes: int
    return_mean: float
    return_se: float  # standard error over episodes
    successes: int
    front_progress: float  # furthest front over goal, mean over episodes, 0 to 1
    length_mean: float  # steps
    steps_to_success: float | None  # mean over successful episodes


@dataclass(frozen=True)
class RunRecord:
    """What is kept of one run. `curve` and `attention` are columns of equal length.

    curve: step, return, success_rate, front_progress, episodes: training episodes averaged in bins of equal
    width in environment steps; bins in which none ended are left out.
    attention: null, or names [K], step [T], weight [T][K], effective [T] (effective number of models), and
    phases {phase: [K]} of the last tenth of training.
    cost: elapsed_s, steps_per_s, host_memory_mb, num_parameters, num_trainable.
    provenance: started, commit, modified, versions, platform, device, device_name, threads, ptms.
    """

    study: str
    arm: str
    scenario: str
    seed: int
    config: str  # digest of the resolved configuration
    status: str  # finished, failed
    attempts: int  # how often it was started anew after a crash, and once
    error: str | None  # why it failed
    steps: int  # environment steps, those of a lesson before (`by: distillation`) among them
    episodes: int  # finished training episodes
    curve: Mapping[str, Sequence[float]]
    scores: Sequence[Score]
    attention: Mapping[str, Any] | None
    warnings: Mapping[str, int]  # name -> how often it was raised while training
    cost: Mapping[str, float]
    provenance: Mapping[str, Any]
    version: str  # of durotaxis
    format: int = FORMAT

    @property
    def key(self) -> tuple[str, str, int]:
        """Arm, scenario, seed."""
        return (self.arm, self.scenario, self.seed)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path | str = "record") -> RunRecord:
        """The inverse. Raises RecordError, naming `where`, for another format or other keys."""
        if data.get("format") != FORMAT:
            raise RecordError(
                f"{where}: of format {data.get('format')}, this version reads {FORMAT}; make the run again"
            )
        _require_keys(where, data, cls)
        for score in data["scores"]:
            _require_keys(where, score, Score)
        return cls(**{**data, "scores": tuple(Score(**score) for score in data["scores"])})


def record_path(study: Path, arm: str, scenario: str, seed: int) -> Path:
    """The file of one run's record in a study directory."""
    return study / RECORDS / arm / scenario / f"{seed}.json"


def write_record(study: Path, record: RunRecord) -> Path:
    """Write a record whole or not at all; returns its file."""
    path = record_path(study, *record.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; choose another --directory") from error
    write_json(path, record.to_json(), indent=None)
    return path


def read_record(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        RecordError: it is none, is damaged, or is of another format.
    """
    return RunRecord.from_json(read_object(path), path)


def read_records(study: Path) -> Iterator[RunRecord]:
    """All records of a study directory (or of a folder of records), ordered by path.

    Raises:
        RecordError: one of them cannot be read, or lies where another run's belongs.
    """
    folder = study / RECORDS if (study / RECORDS).is_dir() else study
    for path in sorted(folder.glob("*/*/*.json")):
        record = read_record(path)
        place = (path.parts[-3], path.parts[-2], path.stem)
        if place != (record.arm, record.scenario, str(record.seed)):
            raise RecordError(f"{path} holds the record of {'/'.join(map(str, record.key))}; put it there")
        yield record


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object. Raises RecordError when the file is missing, damaged or holds something else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error}); the file is damaged, remove it") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: holds no JSON object; the file is damaged, remove it")
    return value


def _require_keys(path: Path | str, data: Any, kind: type) -> None:
    """Raise RecordError unless `data` has the fields of a dataclass; those with a default may be missing."""
    names = {part.name for part in fields(kind)}
    needed = {part.name for part in fields(kind) if part.default is part.default_factory is MISSING}
    given = set(data) if isinstance(data, Mapping) else set()
    if not needed <= given <= names:
        what = ", ".join(sorted((needed - given) | (given - names)))
        raise RecordError(f"{path}: not a record of this version ({what}); make the run again")
