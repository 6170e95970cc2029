"""The command `durotaxis evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from durotaxis.cli.shared import Overrides, require_writable_file
from durotaxis.console import counting_view, make_console
from durotaxis.records import NUM_RECORDED, write_episodes, write_json

group = typer.Typer()


@group.command(
    epilog="Examples:\n\n"
    "durotaxis evaluate runs/quick-1\n\n"
    "durotaxis evaluate runs/quick-1/checkpoints/last.pt --scenario moat\n\n"
    "durotaxis evaluate runs/quick-1 --seeds 200 --out table.json env.max_steps=300"
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
    out: Annotated[Path | None, typer.Option(help="JSON file; default in the run directory.")] = None,
) -> None:
    """Play held-out episodes, print a table with 95 % intervals and write it as JSON."""
    from durotaxis.analysis import samples_of_scores, summarise, text_table
    from durotaxis.study.evaluation import evaluate_run, open_run
    from durotaxis.study.score import NORMALISERS, scenario_scores

    console = make_console()
    job = open_run(target, scenario, overrides or [])
    path = out or job.default_output(deterministic)
    require_writable_file(path)
    with counting_view(console, "episodes", seeds) as advance:
        result = evaluate_run(job, seeds, deterministic, advance, num_recorded=record)
    references = samples_of_scores(scenario_scores(job.config.env), NORMALISERS)
    summary = summarise("agent", result.rows, *references)
    write_json(path, {"summary": dataclasses.asdict(summary), **result.to_json()})
    world = job.config.env.scenario
    console.print(f"{job.checkpoint_path} on {world}, {seeds} held-out episodes", markup=False)
    typer.echo(text_table([summary]))
    if result.recorded:
        folder = write_episodes(job.run.path, result.recorded)
        console.print(f"{len(result.recorded)} episodes step by step: {folder}", markup=False, soft_wrap=True)
    console.print(f"written to {path}", markup=False, soft_wrap=True)
