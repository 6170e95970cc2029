"""The command `durotaxis evaluate`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from durotaxis.cli.shared import Overrides, require_writable_file
from durotaxis.console import counting_view, make_console
from durotaxis.records import FIGURES, NUM_RECORDED, Episode, write_episodes, write_json

if TYPE_CHECKING:
    from durotaxis.study.evaluation import Evaluation

group = typer.Typer()


@group.command(
    epilog="Examples:\n\n"
    "durotaxis evaluate runs/quick-1\n\n"
    "durotaxis evaluate runs/quick-1/checkpoints/last.pt --scenario moat\n\n"
    "durotaxis evaluate runs/quick-1 --seeds 200 --out table.json env.max_steps=300\n\n"
    "durotaxis evaluate runs/quick-1 --map gel.csv env.substrate.map.micrometres_per_pixel=2 --films"
)
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory or a checkpoint.")],
    overrides: Overrides = None,
    scenario: Annotated[str | None, typer.Option(help="Another world than the one trained in.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of held-out episodes.")] = 100,
    deterministic: Annotated[bool, typer.Option(help="The most likely action instead of a sample.")] = False,
    record: Annotated[
        int, typer.Option(min=0, help="Episodes to record step by step, in place of those recorded before.")
    ] = NUM_RECORDED,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Measured substrate: CSV of kPa, or grey PNG.")
    ] = None,
    films: Annotated[
        bool, typer.Option("--films", help="Film the best, the median and the worst episode.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file; default in the run directory.")] = None,
) -> None:
    """Play held-out episodes, print a table with 95 % intervals and write it as JSON."""
    from durotaxis.analysis import samples_of_scores, summarise, text_table
    from durotaxis.study.evaluation import evaluate_run, open_run
    from durotaxis.study.score import NORMALISERS, scenario_scores

    console = make_console()
    job = open_run(target, scenario, overrides or [], map_file)
    path = out or job.default_output(deterministic)
    require_writable_file(path)
    with counting_view(console, "episodes", seeds) as advance:
        result = evaluate_run(job, seeds, deterministic, advance, num_recorded=record)
    references = samples_of_scores(scenario_scores(job.config.env), NORMALISERS)
    summary = summarise("agent", result.rows, *references)
    found = {"summary": dataclasses.asdict(summary), **result.to_json()}
    write_json(path, found)
    console.print(f"{job.checkpoint_path} on {job.world}, {seeds} held-out episodes", markup=False)
    typer.echo(text_table([summary]))
    if result.recorded:
        folder = write_episodes(job.run.path, result.recorded)
        write_json(path, {**found, "migration": _migration(result.recorded)})
        console.print(f"{len(result.recorded)} episodes step by step: {folder}", markup=False, soft_wrap=True)
    if films:
        _film(console, result)
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def _migration(episodes: Sequence[Episode]) -> list[dict[str, object]]:
    """Print how the recorded episodes migrate; returns a row of metrics per episode, undefined ones null."""
    from durotaxis.analysis.migration import episode_rows, findings, group_of, summary_text

    group = group_of(episodes, "agent", range(len(episodes)))
    typer.echo(summary_text([group], findings([group])))
    rows = episode_rows([group])
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows
    ]


def _film(console: Console, result: Evaluation) -> None:
    """GIFs of the episodes with the highest, the middle and the lowest return."""
    from durotaxis.env.render import film
    from durotaxis.study.film import frames_of

    candidate, rows = result.candidate, result.rows
    order = sorted(range(len(rows)), key=lambda number: rows[number]["return"])
    chosen = {"best": order[-1], "median": order[(len(order) - 1) // 2], "worst": order[0]}
    with counting_view(console, "films", len(chosen)) as advance:
        for name, number in chosen.items():
            episode = result.episode(number)
            info, what = episode.info, f"{name} of {len(rows)}"
            path = candidate.run.path / FIGURES / f"{candidate.file_stem(result.deterministic)}-{name}.gif"
            film(*frames_of(episode, f"{info.scenario}, {what}"), path)
            console.print(
                f"{what}: episode {number} (seed {info.seed}), return {info.total_reward:.2f}, film {path}",
                markup=False,
                soft_wrap=True,
            )
            advance(1)
