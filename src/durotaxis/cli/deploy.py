"""What `durotaxis export RUN policy` does."""

from __future__ import annotations

from pathlib import Path

from durotaxis.console import make_console
from durotaxis.core.errors import UserError
from durotaxis.records import RunDirectory

FOLDER = "policy"


def export_policy(target: str | Path, out: Path | None) -> None:
    """Write the policy of a run or checkpoint as one file with a program that loads it, and say where.

    Args:
        target: a run directory, or a checkpoint in one.
        out: folder; default `policy` in the run directory.
    """
    from durotaxis.study import deploy
    from durotaxis.study.evaluation import open_run

    path = Path(target)
    run = RunDirectory.open(path.parent.parent if path.suffix == ".pt" else path)
    folder = out or run.path / FOLDER
    if folder.is_file():
        raise UserError(f"--out {folder} is a file; a policy is written into a folder")
    written = deploy.export_policy(open_run(target), folder)
    console = make_console()
    console.print(f"written to {written.policy}", markup=False, soft_wrap=True)
    many = f"{written.num_observations} observations"
    console.print(f"read back, its outputs differ by at most {written.difference:.1e} in {many}")
    console.print(f"play an episode with it: python {written.loader}", markup=False, soft_wrap=True)
