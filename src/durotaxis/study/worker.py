"""One run of a study in a process of its own: `python -m durotaxis.study.worker TASK.json RESULT.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from durotaxis.ppo import Status
from durotaxis.records import write_json
from durotaxis.study.execute import Assignment
from durotaxis.study.launchers import USER_FAULT, attempt

CRASHED = 1
INTERRUPTED = 130
LOG_S = 10.0


def main(task: Path, result: Path) -> int:
    """Make the run; returns the exit code, after writing the record or one line why there is none."""
    values = json.loads(task.read_text("utf-8"))
    assignment = Assignment(**values["assignment"])
    parent, shown = os.getppid(), [0.0]

    def report(status: Status) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt  # the study was killed: nobody would take the record
        if time.monotonic() - shown[0] >= LOG_S:
            shown[0] = time.monotonic()
            success = "-" if status.success_rate is None else f"{status.success_rate:.2f}"
            print(f"step {status.step:,} of {status.total_steps:,}  success {success}", flush=True)  # noqa: T201

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = attempt(assignment, values["attempts"], report)
    except KeyboardInterrupt:
        return INTERRUPTED
    if outcome.record is not None:
        write_json(result, outcome.record.to_json(), indent=None)
        return 0
    print(outcome.refusal or outcome.crash, flush=True)  # noqa: T201
    return USER_FAULT if outcome.refusal is not None else CRASHED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
