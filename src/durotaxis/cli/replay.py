"""The command `durotaxis replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from durotaxis.cli.shared import require_writable_file
from durotaxis.console import make_console
from durotaxis.core.errors import UserError
from durotaxis.records import FIGURES, Episode, RecordError, RunDirectory, episode_numbers, read_episode

group = typer.Typer()


@group.command(
    epilog="Examples:\n\n"
    "durotaxis replay runs/quick-1\n\n"
    "durotaxis replay runs/wsa --episode 3 --beside runs/baseline\n\n"
    "durotaxis replay runs/wsa --out wsa.html"
)
def replay(
    target: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory with episodes that `evaluate` recorded.")
    ],
    episode: Annotated[int, typer.Option(min=0, help="Which of its recorded episodes, from 0.")] = 0,
    beside: Annotated[
        Path | None, typer.Option(help="Another run, whose episode of the same seed is shown beside it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default figures/replay-N.html in the run.")
    ] = None,
) -> None:
    """Write a recorded episode as one page that plays it in any browser, without a server or a network."""
    from durotaxis.analysis.replay import SUFFIX, write_replay

    if out is not None:
        if out.suffix != SUFFIX:
            raise UserError(f"--out {out} must end in {SUFFIX}")
        require_writable_file(out)
    first = _read(target, episode)
    episodes = [first] if beside is None else [first, _of_seed(beside, first.info.seed)]
    other = "" if beside is None else f"-beside-{beside.resolve().name}"
    path = write_replay(episodes, out or target / FIGURES / f"replay-{episode}{other}{SUFFIX}")
    size = path.stat().st_size / 1e6
    make_console().print(f"written to {path} ({size:.1f} MB)", markup=False, highlight=False, soft_wrap=True)


def _read(run: Path, number: int) -> Episode:
    """An episode; of a directory without any it is said first whether it is a run at all."""
    if not episode_numbers(run):
        RunDirectory.open(run)
    return read_episode(run, number)


def _of_seed(run: Path, seed: int) -> Episode:
    """The recorded episode of a seed."""
    seeds = []
    for number in episode_numbers(run) or [0]:
        found = _read(run, number)
        if found.info.seed == seed:
            return found
        seeds.append(str(found.info.seed))
    raise RecordError(
        f"{run} has no episode of seed {seed} to show beside it, only of {', '.join(seeds)}; "
        "choose another --episode, or evaluate both runs on the same seeds"
    )
