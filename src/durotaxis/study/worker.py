"""One run of a study in a process of its own: `python -m durotaxis.study.worker TASK.json RESULT.json`."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from durotaxis.ppo import Status
from durotaxis.records import write_json
from durotaxis.study.execute import Assignment
from durotaxis.study.launchers import USER_FAULT, attempt, lock_path

CRASHED = 1
INTERRUPTED = 130
LOG_S = 10.0
WATCH_S = 0.5


def main(task: Path, result: Path) -> int:
    """Make the run; returns the exit code, after writing the record or one line why there is none."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        values = json.loads(task.read_text("utf-8"))
        assignment = Assignment(**values["assignment"])
        threading.Thread(target=end_with, args=(values["driver"],), daemon=True).start()
        with lock_path(Path(assignment.directory)).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            outcome = attempt(assignment, values["attempts"], Reporter())
            if outcome.record is not None:
                write_json(result, outcome.record.to_json(), indent=None)
                return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    # One line: the last one of the log is what the study shows.
    print("; ".join(map(str.strip, (outcome.refusal or outcome.crash or "").splitlines())), flush=True)  # noqa: T201
    return USER_FAULT if outcome.refusal is not None else CRASHED


def end_with(driver: int) -> None:
    """Interrupt this process once the study that started it is gone: nobody would take the record."""
    while os.getppid() == driver:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)


class Reporter:
    """Prints a line now and then."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, status: Status) -> None:
        """`progress` of a training."""
        if time.monotonic() - self._shown >= LOG_S:
            self._shown = time.monotonic()
            success = "-" if status.success_rate is None else f"{status.success_rate:.2f}"
            print(f"step {status.step:,} of {status.total_steps:,}  success {success}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
