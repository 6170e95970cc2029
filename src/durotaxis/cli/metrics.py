"""What `durotaxis analyse RUN metrics` does."""

from __future__ import annotations

from pathlib import Path

import typer

from durotaxis.console import make_console
from durotaxis.core.errors import UserError
from durotaxis.records import RunDirectory, episode_numbers, read_episode, require_writable

ANALYSIS = "analysis"
"""Folder of a run that is written to by default."""


def analyse_metrics(target: Path, out: Path | None, seeds: int | None = None, play: bool = True) -> None:
    """Measure how a run's recorded episodes migrate, against scripted policies and against no gradient.

    Prints a table; writes `metrics.csv`, `metrics-summary.csv` and three figures, each as PNG and SVG. What
    the episodes are compared with is recorded under `references/` of the run, once.

    Args:
        target: a run directory with recorded episodes.
        out: folder to write to; by default `analysis` in the run.
        play: record what there is to compare with where it does not lie there; else refuse.
        seeds: take so many of the recorded episodes, the first ones; by default all.

    Raises:
        UserError, RecordError: no run, no episodes, fewer than asked for, another world, or no way to write.
    """
    from durotaxis.analysis.export import arrays_of, write_csv
    from durotaxis.analysis.metrics import METRIC_COLUMNS
    from durotaxis.analysis.migration import (
        SUMMARY_COLUMNS,
        episode_rows,
        findings,
        load_group,
        summary_text,
    )
    from durotaxis.analysis.migration_figures import write_figures
    from durotaxis.study.references import make_references

    console = make_console()
    run = RunDirectory.open(target)
    folder = run.path / ANALYSIS if out is None else out
    require_writable(folder)
    numbers = _first(run, seeds)
    episodes = [read_episode(run.path, number) for number in numbers]

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    references = make_references(run, episodes, say, play)
    groups = [load_group(run.path, "agent", numbers)]
    groups += [load_group(one.place, one.policy, one.numbers) for one in references]
    found = findings(groups)
    typer.echo(summary_text(groups, found))
    written = [
        write_csv(folder / "metrics.csv", arrays_of(episode_rows(groups)), METRIC_COLUMNS),
        write_csv(folder / "metrics-summary.csv", arrays_of([one.row() for one in found]), SUMMARY_COLUMNS),
    ]
    written += write_figures(groups, folder)
    console.print(
        f"written to {folder}: {', '.join(path.name for path in written)}", markup=False, soft_wrap=True
    )


def _first(run: RunDirectory, count: int | None) -> list[int]:
    """Numbers of the first recorded episodes."""
    known = episode_numbers(run.path)
    if not known:
        return [0]  # reading it says what is missing
    if count is not None and not 1 <= count <= len(known):
        raise UserError(
            f"{run.path} has {len(known)} recorded episodes, {count} cannot be taken; "
            f"record more: durotaxis evaluate {run.path} --seeds N --record N"
        )
    return known[:count]
