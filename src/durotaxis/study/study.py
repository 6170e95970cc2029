"""Where a study stands: what is planned, what is done, what is left; `study.drive` makes the rest.

The directory holds everything (see `records.study`); what is finished there is never made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.fusion import RULES, WSAConfig
from durotaxis.fusion.baselines import count_parameters
from durotaxis.ppo import misfits
from durotaxis.records import (
    CONFIGS,
    COST,
    DONE,
    FAILED,
    JUDGED_BY,
    REPORT,
    RUNS,
    STUDY,
    ArmPlan,
    RecordError,
    RunRecord,
    ScenarioPlan,
    StudyPlan,
    cannot_write,
    read_cost,
    read_plan,
    read_records,
    record_path,
    require_writable,
    write_json,
    write_plan,
    write_record,
)
from durotaxis.study.config import leaves, shipped_studies
from durotaxis.study.cost import measure_cost
from durotaxis.study.distill import require_alike
from durotaxis.study.execute import is_made_for
from durotaxis.study.plan import Key, PlannedRun, Study, world_digest
from durotaxis.study.provenance import own_version
from durotaxis.study.run import build_policy, check_learning
from durotaxis.study.score import NORMALISERS, SCORE_SEED, play, scenario_scores

STUDIES = Path("runs/studies")
LOG = "study.jsonl"
LOCK = ".lock"
REFERENCE_EPISODES = 250
"""Episodes of each scripted policy in worlds of which the package keeps no scores."""


@dataclass(frozen=True)
class State:
    """Where a study stands."""

    study: Study
    directory: Path
    records: Mapping[Key, RunRecord]
    wanted: frozenset[Key]  # that this call is to make

    @property
    def left(self) -> tuple[PlannedRun, ...]:
        """What is still to be made by this call, in order.

        A run of which only the record is here is made again when another one starts from it.
        """
        keys = {r.key for r in self.study.runs if r.key in self.wanted and r.key not in self.records}
        for run in reversed(self.study.runs):  # children come after their parents
            if run.key not in keys or run.parent is None:
                continue
            if is_trained(self.directory, self.study.run(run.parent)):
                continue
            record = self.records.get(run.parent)
            if record is None or record.status != FAILED:
                keys.add(run.parent)
        return tuple(run for run in self.study.runs if run.key in keys)

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """Runs that were given up."""
        return tuple(record for record in self.records.values() if record.status == FAILED)


@dataclass(frozen=True)
class Selection:
    """The part of a plan that is to be made now; None: all."""

    arms: tuple[str, ...] | None = None
    scenarios: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def of(self, study: Study) -> frozenset[Key]:
        """Keys of the runs, with those that they start from.

        Raises:
            UserError: it names what the study has not.
        """
        chosen = {}
        for what, wanted, known in (
            ("arm", self.arms, list(study.config.arms)),
            ("scenario", self.scenarios, [setting.name for setting in study.settings]),
            ("seed", self.seeds, list(study.config.seeds)),
        ):
            missing = [each for each in wanted or () if each not in known]
            if missing:
                raise UserError(f"the study has no {what} {missing[0]}; it has {', '.join(map(str, known))}")
            chosen[what] = set(known if wanted is None else wanted)
        keys: set[Key] = set()
        for run in study.runs:
            if all(part in chosen[what] for part, what in zip(run.key, chosen, strict=True)):
                keys.add(run.key)
                parent = run.parent
                while parent is not None:
                    keys.add(parent)
                    parent = study.run(parent).parent
        return frozenset(keys)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes from running the study in this directory within the block; a killed one lets go.

    Raises:
        RecordError: another process has it, or it cannot be written.
    """
    require_writable(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("ab")
    except OSError as error:
        raise cannot_write(directory, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecordError(
                f"{directory}: another process runs this study; wait for it, or stop it first"
            ) from error
        yield


def open_study(
    study: Study, directory: Path, selection: Selection = Selection(), write: bool = True
) -> State:
    """See what is done already, and write the plan into the directory.

    Where reported runs have records, what changed of the plan since is kept in it, for the report.

    Args:
        selection: what is to be made now.
        write: False leaves the directory as it is.

    Raises:
        UserError, RecordError: the directory holds another study, records of other versions, or records of
            report seeds made with another configuration.
    """
    wanted, directory = selection.of(study), directory.absolute()
    require_writable(directory)
    known = read_plan(directory) if (directory / STUDY).exists() else None
    if known is not None and known.name != study.name:
        raise UserError(
            f"{directory} holds the study {known.name}, not {study.name}; choose another --directory"
        )
    records = _done(study, directory)  # first: a refused study must not replace the plan of its records
    if write:
        try:
            (directory / CONFIGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(directory, error) from error
        write_plan(directory, _with_changes(_plan(study, known), known, len(records)))
    return State(study, directory, records, wanted)


def require_arms(study: Study) -> dict[str, int]:
    """Build the policy of every arm once, so that what does not fit is said before hours of work.

    Returns:
        Arm -> its number of parameters.

    Raises:
        UserError: weights are not at hand, an arm's settings do not fit each other, or an arm cannot start
            from the one that it names.
    """
    policies: dict[str, HybridActorCritic] = {}
    seed = study.config.seeds[0]
    for run in (run for run in study.runs if run.key[2] == seed):  # children come after their parents
        arm = run.key[0]
        try:
            if arm not in policies:
                policies[arm] = build_policy(run.config, torch.device("cpu"))
            check_learning(run.config, policies[arm], torch.device("cpu"))
            if run.start_from is not None and run.start_from.by == "weights":
                faults = misfits(policies[arm], policies[run.start_from.arm].state_dict())
                if faults:
                    raise UserError(f"cannot take the weights of {run.start_from.arm}, which {faults}")
            if run.start_from is not None and run.parent is not None:
                lesson = run.start_from.by == "distillation"
                words = ("teacher", "student") if lesson else ("parent", "child")
                require_alike(study.run(run.parent).config.env, run.config.env, words)
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error
    return {arm: count_parameters(policies[arm]) for arm in study.config.arms}


def is_trained(directory: Path, run: PlannedRun) -> bool:
    """Whether what the run has learned, as it is planned now, is here."""
    place = run_directory(directory, run.key)
    return (place / DONE).exists() and is_made_for(place, run.digest)


def estimate_seconds(
    state: State, workers: int, advance: Callable[[int], None] = lambda count: None
) -> float | None:
    """Time that the rest will take: by this study's records of the same arm, else by a rollout of each arm.

    None when nothing is left.
    """
    left = state.left
    if not left:
        return None
    speeds: dict[str, list[float]] = {}
    for record in state.records.values():
        if "steps_per_s" in record.cost:
            speeds.setdefault(record.arm, []).append(record.cost["steps_per_s"])
    unknown = {run.key[0]: run.config for run in reversed(left) if run.key[0] not in speeds}
    if unknown:
        cost = measure_cost(unknown, "", 1, advance, with_memory=False)
        for arm, measured in cost.arms.items():
            taken = measured.collect_s[0] + measured.update_s[0]
            speeds[arm] = [cost.steps_per_rollout / taken]
    return sum(run.total_steps / statistics.median(speeds[run.key[0]]) for run in left) / workers


def write_cost(state: State, turns: int, advance: Callable[[int], None] = lambda count: None) -> Path:
    """Measure every arm in this process, in the first scenario, and write `cost.json`."""
    study = state.study
    setting = study.settings[0].name
    runs = {arm: study.run((arm, setting, study.config.seeds[0])) for arm in study.config.arms}
    cost = measure_cost({arm: run.config for arm, run in runs.items()}, setting, turns, advance)
    digests = {arm: run.digest for arm, run in runs.items()}
    write_json(state.directory / COST, replace(cost, configs=digests).to_json())
    return state.directory / COST


def has_cost(state: State) -> bool:
    """Whether `cost.json` is there, and of the arms as they are now."""
    cost = read_cost(state.directory)
    arms = set(state.study.config.arms)
    planned = [run.plan() for run in state.study.runs]
    return cost is not None and arms <= set(cost.arms) and not cost.outdated(planned)


def forget_failures(state: State) -> State:
    """Take the records of failed runs that are wanted away, so that they are tried again.

    The log keeps why they failed, and attempts are counted on: their new records tell that there were more.
    """
    for record in state.failed:
        if record.key in state.wanted:
            log(state.directory, "retried", state.study.run(record.key), record.error or "")
            record_path(state.directory, *record.key).unlink()
    return replace(state, records=_done(state.study, state.directory))


def run_directory(directory: Path, key: Key) -> Path:
    """Where a run lies in a study directory."""
    arm, scenario, seed = key
    return directory / RUNS / arm / scenario / str(seed)


def _done(study: Study, directory: Path) -> dict[Key, RunRecord]:
    """Records that stand for runs of the plan.

    Raises:
        RecordError: one is of another version, or of a report seed and made with another configuration.
    """
    planned = {run.key: run for run in study.runs}
    found: dict[Key, RunRecord] = {}
    for record in read_records(directory):
        path = record_path(directory, *record.key)
        if record.key not in planned:
            raise RecordError(
                f"{path}: the study plans no such run; move the record away, or choose another --directory"
            )
        if record.version != own_version():
            raise RecordError(
                f"{path}: made by durotaxis {record.version}, this is {own_version()}; their results "
                "cannot be mixed; choose another --directory"
            )
        if record.config != planned[record.key].digest:
            if study.config.purpose == REPORT:
                raise _reported_before(path, record, planned[record.key].digest, directory)
            continue
        if record.status == FAILED or _has_scores(planned[record.key], record):
            found[record.key] = record
    return found


def _reported_before(path: Path, record: RunRecord, planned: str, directory: Path) -> RecordError:
    return RecordError(
        f"{path}: this seed was reported with another configuration ({record.config}, now {planned}; compare "
        f"the files in {directory / CONFIGS}); seeds from 100 on are run once: take fresh ones, such as 200 "
        "on, and another --directory"
    )


def _has_scores(run: PlannedRun, record: RunRecord) -> bool:
    """Whether everything was scored that the study asks for, in these very worlds."""

    what = attrgetter(*JUDGED_BY)
    return set(map(what, run.probes)) <= set(map(what, record.scores))


@dataclass(frozen=True)
class Borrowed:
    """What became of another study's records."""

    taken: int
    left: Mapping[str, int]  # why they were left -> how many

    def __str__(self) -> str:
        left = ", ".join(f"{count} {why}" for why, count in self.left.items())
        return f"{self.taken} records fit and were taken" + (f"; left: {left}" if left else "")


def borrow_records(state: State, place: Path, write: bool = True) -> tuple[State, Borrowed]:
    """Take over records of runs made elsewhere with equal settings, perhaps under another arm's name.

    Args:
        write: copy them into the study's directory.

    Raises:
        UserError, RecordError: there is no such directory, a record in it cannot be read, or it reports a run
            of this study with another configuration.
    """
    study, records, left = state.study, dict(state.records), Counter[str]()
    if not place.is_dir():
        raise UserError(f"--records {place}: no such directory")
    wanted = {(run.digest, run.key[1], run.key[2]): run for run in study.runs}
    planned = {run.key: run.digest for run in study.runs}
    for record in read_records(place):
        run = wanted.get((record.config, record.scenario, record.seed))
        now = planned.get(record.key, record.config)
        if study.config.purpose == REPORT and record.study == study.name and record.config != now:
            raise _reported_before(record_path(place, *record.key), record, now, place)
        if run is None:
            left["of runs that this study does not plan"] += 1
        elif record.version != own_version():
            left[f"of durotaxis {record.version}, this is {own_version()}"] += 1
        elif record.status != FAILED and not _has_scores(run, record):
            left["without scores that this study asks for"] += 1
        elif run.key in records:
            left["already there"] += 1
        else:
            records[run.key] = replace(record, study=study.name, arm=run.key[0])
            if write:
                write_record(state.directory, records[run.key])
    return replace(state, records=records), Borrowed(len(records) - len(state.records), left)


def _plan(study: Study, known: StudyPlan | None) -> StudyPlan:
    config = study.config
    first = {run.key[1]: run.config.env for run in reversed(study.runs)}
    agents = {run.key[0]: run.config.actor_critic for run in study.runs}
    arms = [
        ArmPlan(
            name=name,
            description=arm.description,
            changes=dict(leaves(arm.overrides)) if arm.overrides else {},
            tried=arm.tried,
            start_from=None if arm.start_from is None else arm.start_from.model_dump(),
            factors=arm.factors,
            use_wsa=agents[name].use_wsa,
            learns_attention=agents[name].use_wsa and _learns_attention(agents[name].wsa_config),
        )
        for name, arm in config.arms.items()
    ]
    scenarios = [
        ScenarioPlan(
            name=setting.name,
            scenario=setting.scenario,
            changes=dict(leaves(setting.overrides)) if setting.overrides else {},
            is_control=setting.is_control,
            world=world_digest(first[setting.name]),
            references=_references(first[setting.name], known),
        )
        for setting in study.settings
    ]
    elsewhere = {
        probe.scenario: _references(probe.env, known)
        for run in study.runs
        if run.key[2] == config.seeds[0] and run.key[0] == config.baseline
        for probe in run.probes
        if probe.scenario != run.key[1]
    }
    return StudyPlan(
        name=study.name,
        question=config.question,
        purpose=config.purpose,
        baseline=config.baseline,
        arms=arms,
        scenarios=scenarios,
        seeds=config.seeds,
        total_steps=study.total_steps,
        episodes=config.evaluation.episodes,
        evaluated_in=elsewhere,
        conditions=config.evaluation.conditions,
        interventions=config.evaluation.interventions,
        runs=[run.plan() for run in study.runs],
        command=shlex.join(["durotaxis", "study", "run", _argument(study.path)]),
        version=own_version(),
    )


def _learns_attention(config: WSAConfig) -> bool:
    rule = RULES[config.fusion]
    return rule.weighs and rule.reads_context


def _with_changes(plan: StudyPlan, known: StudyPlan | None, num_records: int) -> StudyPlan:
    """The plan with what differs from the one before it, once there are records that it could favour."""
    if known is None:
        return plan
    changes = list(known.changes)
    if plan.purpose == REPORT and num_records:
        date = time.strftime("%Y-%m-%d", time.gmtime())
        before, after = _in_words(known), _in_words(plan)
        changes += [
            f"{date}, when {num_records} runs had records: {what}: {before[what]} -> {after[what]}"
            for what in after
            if before[what] != after[what]
        ]
    return replace(plan, changes=changes)


def _in_words(plan: StudyPlan) -> dict[str, str]:
    """What of a plan bears on how results come out; the configuration of each run is fixed anyway."""
    return {
        "baseline": plan.baseline,
        "arms": ", ".join(arm.name for arm in plan.arms),
        "scenarios": ", ".join(scenario.name for scenario in plan.scenarios),
        "control": ", ".join(s.name for s in plan.scenarios if s.is_control) or "none",
        "seeds": ", ".join(map(str, plan.seeds)),
        "variants tried": ", ".join(f"{arm.name} {len(arm.tried)}" for arm in plan.arms),
    }


def _argument(path: Path) -> str:
    """What names the file on any machine, where it came with the package; else its path."""
    shipped = shipped_studies().get(path.stem)
    return path.stem if shipped is not None and shipped.samefile(path) else str(path)


def _references(env: EnvConfig, known: StudyPlan | None) -> Mapping[str, Mapping[str, Any]]:
    """Scores of the two policies that returns are normalised with; played where the package keeps none."""
    kept = scenario_scores(env)
    if kept is not None:
        return {policy: kept[policy] for policy in NORMALISERS}
    for scenario in known.scenarios if known is not None else ():
        if scenario.world == world_digest(env) and scenario.references is not None:
            return scenario.references
    seeds = torch.arange(REFERENCE_EPISODES, dtype=torch.int64) + SCORE_SEED
    return {policy: play(SCRIPTED[policy], env, seeds).summary() for policy in NORMALISERS}


def log(directory: Path, event: str, run: PlannedRun, message: str = "") -> None:
    """Append to the study's log: what was started, finished, crashed, refused, and when."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = {"time": now, "event": event, "key": run.key, "config": run.digest, "message": message}
    path = directory / LOG
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def _rows(directory: Path) -> list[dict[str, Any]]:
    path = directory / LOG
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line, cut by a kill
            rows.append(json.loads(line))
    return rows


def ends(directory: Path, event: str) -> Counter[str]:
    """How often the run of each digest ended so before."""
    return Counter(row["config"] for row in _rows(directory) if row["event"] == event)
