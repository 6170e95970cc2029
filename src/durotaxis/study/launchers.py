"""Where the runs of a study are made: here, in processes of this machine, or on a Ray cluster.

A launcher takes assignments one by one and gives back outcomes; it decides nothing. All three make the same
records, because a run depends on its assignment alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from durotaxis.core.errors import UserError
from durotaxis.records import METRICS, NotFiniteError, RecordError, RunRecord, read_record, write_json
from durotaxis.study.execute import Assignment, execute

LAUNCHERS = ("inline", "process", "ray")
USER_FAULT = 2
POLL_S = 0.2


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a run ended: with a record, with a crash, or with an input that must be mended."""

    assignment: Assignment
    record: RunRecord | None = None
    crash: str | None = None  # why it broke down; it may be started anew
    refusal: str | None = None  # what is wrong with its configuration: starting anew will not help
    has_progressed: bool = True  # False: it crashed before any iteration of this attempt


class Launcher(ABC):
    """Makes runs. `start` while `has_room`, and `wait` for outcomes; `stop` at the end, whatever happened."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether another run would begin at once."""

    @property
    def waits_for(self) -> str | None:
        """Why nothing has room although nothing runs; None when that is not so."""
        return None

    @abstractmethod
    def start(self, assignment: Assignment, attempts: int) -> None:
        """Begin a run. `attempts`: which start this is."""

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Outcomes since the last call; waits for one for so long at most."""

    @abstractmethod
    def stop(self) -> None:
        """End what is running, saved as far as it is."""


class InlineLauncher(Launcher):
    """One run after the other in this process."""

    def __init__(self) -> None:
        self._ended: list[Outcome] = []

    @property
    def has_room(self) -> bool:
        """As every launcher."""
        return not self._ended

    def start(self, assignment: Assignment, attempts: int) -> None:
        """Make the whole run."""
        self._ended.append(attempt(assignment, attempts))

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """What `start` made."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing is running."""


class ProcessLauncher(Launcher):
    """Every run in a process of its own, `workers` at a time. Its output is in `<run>.log`."""

    def __init__(self, workers: int, threads: int) -> None:
        self._workers, self._threads = workers, threads
        self._running: dict[subprocess.Popen[bytes], tuple[Assignment, Path, int]] = {}

    @property
    def has_room(self) -> bool:
        """As every launcher."""
        return len(self._running) < self._workers

    def start(self, assignment: Assignment, attempts: int) -> None:
        """Start a process."""
        base = Path(assignment.directory)
        base.parent.mkdir(parents=True, exist_ok=True)
        task, result = base.with_name(f"{base.name}.task.json"), base.with_name(f"{base.name}.result.json")
        result.unlink(missing_ok=True)
        size = _size(assignment)
        values = {"assignment": asdict(assignment), "attempts": attempts, "driver": os.getpid()}
        write_json(task, values)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        with base.with_name(f"{base.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "durotaxis.study.worker", str(task), str(result)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
            )
        self._running[process] = (assignment, result, size)

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Poll the processes."""
        end = time.monotonic() + seconds
        while self._running:
            ended = [process for process in self._running if process.poll() is not None]
            if ended:
                return [self._outcome(process) for process in ended]
            if time.monotonic() >= end:
                break
            time.sleep(POLL_S)
        return []

    def stop(self) -> None:
        """Ask every process to save and end, and wait for it."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            process.wait()
        self._running.clear()

    def _outcome(self, process: subprocess.Popen[bytes]) -> Outcome:
        assignment, result, size = self._running.pop(process)
        log = result.with_name(f"{Path(assignment.directory).name}.log")
        if result.exists():
            record = read_record(result)
            for left in (result, result.with_name(result.name.replace(".result.", ".task."))):
                left.unlink(missing_ok=True)
            return Outcome(assignment, record=record)
        said = _last_line(log)
        if process.returncode == USER_FAULT:
            return Outcome(assignment, refusal=said)
        how = f"killed by {signal.Signals(-process.returncode).name}" if process.returncode < 0 else said
        return Outcome(assignment, crash=f"{how} (see {log})", has_progressed=_size(assignment) != size)


class RayLauncher(Launcher):
    """Runs as tasks of a Ray cluster: the local machine, or the one at `address`.

    A task is submitted only when the cluster has free CPUs for it, so that none waits unseen. Run directories
    lie on the machine that makes the run, records come back.
    """

    def __init__(self, address: str | None, threads: int) -> None:
        self._ray = _import_ray()
        self._threads = threads
        options: dict[str, Any] = {} if address is None else {"address": address}
        try:
            self._ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "here" if address is None else f"at {address}"
            raise UserError(f"there is no Ray cluster {where}: {error}") from error
        most = max((node["Resources"].get("CPU", 0.0) for node in self._ray.nodes()), default=0.0)
        if most < self._threads:
            self.stop()
            raise UserError(
                f"no machine of the Ray cluster has {self._threads} CPUs (the largest has {most:g}), so none "
                "would ever begin; lower overrides.run.threads of the study"
            )
        self._task = self._ray.remote(_attempt_as_json)
        self._running: dict[Any, Assignment] = {}

    @property
    def has_room(self) -> bool:
        """As every launcher."""
        return self._free() >= self._threads

    @property
    def waits_for(self) -> str | None:
        """Others have the cluster's CPUs."""
        if self._running or self.has_room:
            return None
        total = self._ray.cluster_resources().get("CPU", 0.0)
        return f"{self._free():g} of the cluster's {total:g} CPUs are free, a run needs {self._threads}"

    def start(self, assignment: Assignment, attempts: int) -> None:
        """Submit a task."""
        text = Path(assignment.config).read_text("utf-8")
        task = self._task.options(num_cpus=self._threads, max_retries=0)
        self._running[task.remote(asdict(assignment), text, attempts, self._threads)] = assignment

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Tasks that ended."""
        if not self._running:
            time.sleep(min(seconds, POLL_S))
            return []
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in ended]

    def stop(self) -> None:
        """Cancel the tasks and leave the cluster."""
        for reference in getattr(self, "_running", {}):
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    def _free(self) -> float:
        available = float(self._ray.available_resources().get("CPU", 0.0))
        total = float(self._ray.cluster_resources().get("CPU", 0.0))
        # What is free is reported with a delay; our own tasks are known at once.
        return min(available, total - self._threads * len(self._running))

    def _outcome(self, reference: Any) -> Outcome:
        assignment = self._running.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(assignment, crash=" ".join(str(error).split())[:300])
        if answer["record"] is None:
            return Outcome(assignment, None, answer["crash"], answer["refusal"], answer["has_progressed"])
        return Outcome(assignment, record=RunRecord.from_json(answer["record"]))


def make_launcher(name: str, workers: int, threads: int, address: str | None = None) -> Launcher:
    """A launcher by name.

    Raises:
        UserError: unknown name, ray is not installed or has no such cluster.
    """
    if name == "inline":
        return InlineLauncher()
    if name == "process":
        return ProcessLauncher(workers, threads)
    if name == "ray":
        return RayLauncher(address, threads)
    raise UserError(f"launcher '{name}' must be one of {', '.join(LAUNCHERS)}")


def lock_path(directory: Path) -> Path:
    """The file that the process which makes a run holds locked until its record is written."""
    return directory.with_name(f"{directory.name}.lock")


def attempt(assignment: Assignment, attempts: int, progress: Any = None) -> Outcome:
    """One attempt at a run in this process. Ctrl-C passes through; any other breakdown is an outcome."""
    from durotaxis.ppo import Interrupted
    from durotaxis.pretrain.distill import DivergedError

    size = _size(assignment)
    try:
        return Outcome(assignment, record=execute(assignment, attempts, progress))
    except Interrupted as error:
        raise KeyboardInterrupt from error
    except Exception as error:  # noqa: BLE001 - whatever breaks one run must not end the study
        ran_away = isinstance(error, (DivergedError, NotFiniteError))
        if isinstance(error, (UserError, RecordError)) and not ran_away:
            return Outcome(assignment, refusal=str(error))
        crash = f"{type(error).__name__}: {error}"
        return Outcome(assignment, crash=crash, has_progressed=ran_away or _size(assignment) != size)


def _attempt_as_json(values: dict[str, Any], config: str, attempts: int, threads: int) -> dict[str, Any]:
    """`attempt` on another machine: values in, values out, the run directory where that machine can write."""
    import torch

    torch.set_num_threads(threads)
    directory = Path(values["directory"])
    path = directory.with_name(f"{directory.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config, "utf-8")
    outcome = attempt(Assignment(**{**values, "config": str(path)}), attempts)
    path.unlink()
    record = None if outcome.record is None else outcome.record.to_json()
    ended = {"crash": outcome.crash, "refusal": outcome.refusal, "has_progressed": outcome.has_progressed}
    return {"record": record, **ended}


def _size(assignment: Assignment) -> int:
    """Bytes of a run's metrics, to which every iteration adds."""
    metrics = Path(assignment.directory) / METRICS
    return metrics.stat().st_size if metrics.exists() else 0


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray needs ray: pip install 'durotaxis[ray]'") from error
    return ray


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
