"""The command `durotaxis export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from durotaxis.console import make_console
from durotaxis.core.errors import UserError
from durotaxis.records import TRACES, Episode, RunDirectory, episode_numbers, read_episode, require_writable

EXPORTS = "exports"
"""Folder that is written to by default, in what is exported."""

group = typer.Typer()


class What(StrEnum):
    """What can be exported."""

    TRACKS = "tracks"
    GRAPHS = "graphs"
    METRICS = "metrics"
    POLICY = "policy"


@group.command(
    "export",
    epilog="Examples:\n\n"
    "durotaxis export runs/quick-1 tracks\n\n"
    "durotaxis export runs/quick-1 tracks --episode 0 --episode 3 --format parquet --out tables\n\n"
    "durotaxis export runs/quick-1 graphs --every 10 --format json\n\n"
    "durotaxis export runs/quick-1 metrics\n\n"
    "durotaxis export runs/quick-1 policy --out agent",
)
def export(
    target: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or another one with recorded episodes.")
    ],
    what: Annotated[What, typer.Argument(help="Tables of nodes, graphs per step, metrics, or the agent.")],
    episode: Annotated[
        list[int] | None, typer.Option(help="Number of a recorded episode, from 0; repeatable; default all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default `exports` in the run, `policy` for a policy.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="csv (default) or parquet for tables; graphml (default) or json for graphs.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Graphs of every so many steps alone, and of the end.")
    ] = 1,
) -> None:
    """Write what a run recorded as files that other programs read."""
    given = {"--episode": bool(episode), "--format": form is not None, "--every": every != 1}
    if what is What.POLICY:
        _refuse(what, [option for option, is_given in given.items() if is_given])
        from durotaxis.cli.deploy import export_policy

        export_policy(target, out)
        return
    if what is not What.GRAPHS:
        _refuse(what, ["--every"] if given["--every"] else [])
    chosen = _format(what, form)
    if not (target / TRACES).is_dir():
        RunDirectory.open(target)
    folder = target / EXPORTS if out is None else out
    require_writable(folder)
    episodes = _read(target, episode)
    if what is What.GRAPHS:
        written = _write_graphs(folder, episodes, chosen, every)
    else:
        written = _write_tables(folder, what, episodes, chosen)
    for path in written:
        make_console().print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)


def _refuse(what: What, options: list[str]) -> None:
    if options:
        raise UserError(f"{', '.join(options)}: nothing to choose for `{what}`; leave it out")


def _format(what: What, form: str | None) -> str:
    """The format that was asked for, or the first that there is."""
    from durotaxis.analysis.export import GRAPH_FORMATS, TABLE_FORMATS

    known = GRAPH_FORMATS if what is What.GRAPHS else TABLE_FORMATS
    if form not in (None, *known):
        raise UserError(f"--format {form}: {what} come as {' or '.join(known)}")
    return form or known[0]


def _read(place: Path, numbers: list[int] | None) -> dict[int, Episode]:
    """Recorded episodes by number, all of them before anything is written."""
    wanted = (
        sorted(set(numbers)) if numbers else episode_numbers(place) or [0]
    )  # reading 0 says what is missing
    return {number: read_episode(place, number) for number in wanted}


def _write_tables(folder: Path, what: What, episodes: dict[int, Episode], form: str) -> list[Path]:
    from durotaxis.analysis.export import arrays_of, table_columns, write_table
    from durotaxis.analysis.metrics import METRIC_COLUMNS, metrics_of, row_of
    from durotaxis.analysis.tracks import Centroids, Tracks, centroids_of, joined, tracks_of

    tracks = {number: tracks_of(episode, number) for number, episode in episodes.items()}
    colonies = {number: centroids_of(episode, tracks[number]) for number, episode in episodes.items()}
    if what is What.METRICS:
        rows = [row_of(metrics_of(one, tracks[n], colonies[n])) for n, one in episodes.items()]
        return [write_table(folder, "metrics", arrays_of(rows), METRIC_COLUMNS, form)]
    tables: dict[str, Tracks | Centroids] = {
        "tracks": joined(list(tracks.values())),
        "centroids": joined(list(colonies.values())),
    }
    return [write_table(folder, name, *table_columns(table), form) for name, table in tables.items()]


def _write_graphs(folder: Path, episodes: dict[int, Episode], form: str, every: int) -> list[Path]:
    from durotaxis.analysis.export import write_graphs
    from durotaxis.analysis.tracks import tracks_of

    return [
        write_graphs(folder / f"graphs-{number}.{form}.zip", tracks_of(one, number), one.info, form, every)
        for number, one in episodes.items()
    ]
