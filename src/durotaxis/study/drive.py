"""Make the runs of a study that are left: hand them to a launcher, settle how they ended, record it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from durotaxis.core.config import to_yaml
from durotaxis.core.errors import UserError
from durotaxis.records import (
    CONFIGS,
    FAILED,
    FINISHED,
    METRICS,
    TRAINED,
    RunRecord,
    read_record,
    record_path,
    write_atomic,
    write_record,
)
from durotaxis.study.execute import Assignment, failed_record
from durotaxis.study.launchers import Launcher, Outcome, lock_path
from durotaxis.study.plan import Key, PlannedRun
from durotaxis.study.provenance import own_version
from durotaxis.study.study import State, ends, is_trained, log, run_directory

POLL_S = 1.0
MAX_STILLBORN = 3
"""Runs in a row that break down before any iteration: then the study stops."""


@dataclass(frozen=True)
class Running:
    """A run under way, for the progress table."""

    name: str
    step: int
    total_steps: int
    success_rate: float | None  # of the latest training episodes
    started: float  # time.monotonic()


Report = Callable[[State, Sequence[Running], str | None], None]
"""Called now and then with the state, what is running, and a line to be shown once."""


def run_study(state: State, launcher: Launcher, report: Report = lambda state, running, line: None) -> State:
    """Make every run that is left; within `alone`.

    A run that breaks down is started again, `attempts` times in all, and then recorded as failed, with those
    that start from it. Ctrl-C saves what is running and passes through.

    Raises:
        UserError: a run was refused; the others go on first.
        RecordError: the directory cannot be written.
    """
    driver = _Driver(state, launcher, report)
    try:
        driver.run()
    finally:
        launcher.stop()
    if driver.refused:
        raise UserError("; ".join(f"{'/'.join(map(str, key))}: {why}" for key, why in driver.refused.items()))
    return driver.state


class _Driver:
    """Hands runs to a launcher and settles how they ended."""

    def __init__(self, state: State, launcher: Launcher, report: Report) -> None:
        self.state, self.launcher, self.report = state, launcher, report
        self.crashes, self.retries = ends(state.directory, "crashed"), ends(state.directory, "retried")
        self.waiting = list(state.left)
        self.running: dict[Key, float] = {}  # since when
        self.refused: dict[Key, str] = {}
        self.has_worked = False
        self.stillborn: dict[Key, str] = {}  # broke down before any iteration, since one fared better

    def run(self) -> None:
        """Until nothing waits or runs."""
        while self.waiting or self.running:
            self.start_what_is_ready()
            for outcome in self.launcher.wait(POLL_S):
                self.tell(self.settle(outcome))
            self.stop_where_nothing_begins()
            self.give_up_orphans()
            self.tell(self.why_idle())

    def start_what_is_ready(self) -> None:
        """In the order of the plan, while there is room."""
        for run in [run for run in self.waiting if self.is_ready(run)]:
            if not self.launcher.has_room:
                return
            self.waiting.remove(run)
            self.running[run.key] = time.monotonic()
            log(self.state.directory, "started", run)
            write_atomic(self.config_path(run), to_yaml(run.config))
            self.tell(None)
            self.launcher.start(self.assignment(run), self.crashes[run.digest] + 1)

    def settle(self, outcome: Outcome) -> str:
        """Record how an attempt ended, or put the run back; returns what to tell."""
        directory = self.state.directory
        run = self.state.study.run(outcome.assignment.key)
        seconds = time.monotonic() - self.running.pop(run.key)
        if outcome.record is not None or (outcome.refusal is None and outcome.has_progressed):
            self.stillborn.clear()
            self.has_worked = True
        if outcome.record is not None:
            if run.key not in self.state.records:  # else it was made again for its weights
                self.keep(outcome.record)
            log(directory, "finished", run)
            own = next(s for s in outcome.record.scores if (s.condition, s.intervention) == (TRAINED, "none"))
            return f"{run.name}: finished in {seconds:.0f} s, success {own.successes / own.episodes:.2f}"
        if outcome.refusal is not None:
            self.refused[run.key] = outcome.refusal
            log(directory, "refused", run, outcome.refusal)
            return f"{run.name}: refused: {outcome.refusal}"
        why = outcome.crash or "it ended without a word"
        self.crashes[run.digest] += 1
        log(directory, "crashed", run, why)
        allowed = self.state.study.config.attempts * (1 + self.retries[run.digest])
        if not outcome.has_progressed:
            self.stillborn[run.key] = why
        if self.crashes[run.digest] < allowed:
            # What did not even begin lets others go first: they show whether the fault is its own.
            self.waiting.insert(0 if outcome.has_progressed else len(self.waiting), run)
            return f"{run.name}: crashed, {why}; it is started again"
        return self.give_up(run, self.crashes[run.digest], why)

    def give_up(self, run: PlannedRun, attempts: int, why: str) -> str:
        """Record that a run failed. What it reported before, made again for its weights or scores, stands."""
        if self.record_of_before(run) is not None:
            self.refused[run.key] = f"{why}; its record of before stands"
            log(self.state.directory, "refused", run, self.refused[run.key])
            return f"{run.name}: {self.refused[run.key]}"
        self.keep(failed_record(self.assignment(run), attempts, why))
        return f"{run.name}: failed after {attempts} attempts, {why}"

    def stop_where_nothing_begins(self) -> None:
        """Raise UserError where one run after the other breaks down at once: none of them is at fault.

        Their crashes do not count. Where other arms do work it takes runs of two arms: one may be broken.
        """
        is_one_arm = len({arm for arm, _, _ in self.stillborn}) == 1
        if len(self.stillborn) < MAX_STILLBORN or (is_one_arm and self.has_worked):
            return
        for key, why in self.stillborn.items():
            log(self.state.directory, "retried", self.state.study.run(key), why)
        *_, why = self.stillborn.values()
        raise UserError(
            f"{len(self.stillborn)} runs in a row broke down before any iteration, so the study was "
            f"stopped; the last: {why}. Mend that, and start the same command again"
        )

    def give_up_orphans(self) -> None:
        """Runs whose parent was refused are refused, those whose parent failed have failed."""
        for run in tuple(self.waiting):
            parent = run.parent
            if parent is None:
                continue
            record = self.state.records.get(parent)
            name = "/".join(map(str, parent))
            busy = parent in self.running or any(each.key == parent for each in self.waiting)
            if parent in self.refused:
                self.refused[run.key] = f"starts from {name}, which was refused"
            elif record is not None and record.status == FAILED:
                self.give_up(run, 0, f"starts from {name}, which failed")
            elif not (busy or is_trained(self.state.directory, self.state.study.run(parent))):
                self.refused[run.key] = f"starts from {name}, which was trained on another machine"
            else:
                continue
            self.waiting.remove(run)

    def is_ready(self, run: PlannedRun) -> bool:
        """Whether what it starts from is trained, and no process of before is still at it."""
        if run.parent is not None:
            parent = self.state.study.run(run.parent)
            if run.parent in self.running or not is_trained(self.state.directory, parent):
                return False
        return not _is_held(run_directory(self.state.directory, run.key))

    def why_idle(self) -> str | None:
        """What is waited for although nothing runs."""
        if self.running or not self.waiting:
            return None
        held = [run.name for run in self.waiting if _is_held(run_directory(self.state.directory, run.key))]
        if held:
            time.sleep(POLL_S)
            return f"waiting: a process of before is still at {held[0]}; it ends within seconds"
        reason = self.launcher.waits_for
        return None if reason is None else f"waiting: {reason}"

    def keep(self, record: RunRecord) -> None:
        """Write a record."""
        write_record(self.state.directory, record)
        self.state = replace(self.state, records={**self.state.records, record.key: record})

    def tell(self, line: str | None) -> None:
        """Report the state."""
        shown = []
        for key, began in self.running.items():
            row = _last_row(run_directory(self.state.directory, key) / METRICS)
            run = self.state.study.run(key)
            success = row.get("success_rate")
            shown.append(Running(run.name, row.get("step", 0), run.total_steps, success, began))
        self.report(self.state, shown, line)

    def config_path(self, run: PlannedRun) -> Path:
        """The file of a run's configuration."""
        return self.state.directory / CONFIGS / f"{run.digest}.yaml"

    def assignment(self, run: PlannedRun) -> Assignment:
        """All that is needed to make a run."""
        directory, study = self.state.directory, self.state.study
        start, parent = run.start_from, run.parent
        arm, scenario, seed = run.key
        return Assignment(
            study=study.name,
            arm=arm,
            scenario=scenario,
            seed=seed,
            config=str(self.config_path(run)),
            digest=run.digest,
            directory=str(run_directory(directory, run.key)),
            parent=None if parent is None else str(run_directory(directory, parent)),
            parent_digest=None if parent is None else study.run(parent).digest,
            start_by=None if start is None else start.by,
            start_steps=None if start is None else start.steps,
            probes=tuple(probe.plain() for probe in run.probes),
            known=self.known_scores(run),
        )

    def known_scores(self, run: PlannedRun) -> tuple[dict[str, Any], ...]:
        """What a record of before says of the same run, which then lacks others."""
        before = self.record_of_before(run)
        return () if before is None else tuple(asdict(score) for score in before.scores)

    def record_of_before(self, run: PlannedRun) -> RunRecord | None:
        """The record of the same run, finished, where there is one."""
        path = record_path(self.state.directory, *run.key)
        record = read_record(path) if path.exists() else None
        own = (FINISHED, run.digest, own_version())
        is_own = record is not None and (record.status, record.config, record.version) == own
        return record if is_own else None


def _is_held(directory: Path) -> bool:
    """Whether a process of a study that was killed is still at this run; it ends within seconds."""
    path = lock_path(directory)
    if not path.exists():
        return False
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _last_row(path: Path) -> Mapping[str, Any]:
    """The last whole line of a JSONL file that is being written; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            return row if isinstance(row, dict) else {}
    return {}
