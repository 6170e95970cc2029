"""The commands `durotaxis scenario ...`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from durotaxis.cli.shared import Overrides, require_writable_file
from durotaxis.console import counting_view, make_console, table
from durotaxis.core.errors import UserError
from durotaxis.records import write_json

group = typer.Typer(no_args_is_help=True, help="The named worlds that results are reported on.")


@group.command("list", epilog="Example:\n\ndurotaxis scenario list")
def list_all() -> None:
    """Name the scenarios, with the success rates of two scripted policies."""
    from durotaxis.study.scenario import LIST_COLUMNS, list_rows

    make_console().print(table("", LIST_COLUMNS, list_rows()))


@group.command(
    "show",
    epilog="Examples:\n\ndurotaxis scenario show patches\n\n"
    "durotaxis scenario show stripes env.substrate.direction=[1,1] --seed 7 --out stripes.png",
)
def show(
    name: Annotated[str, typer.Argument(help="A scenario.")],
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed of the episode that is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG file; default NAME.png here.")] = None,
) -> None:
    """Draw a scenario with its first colony; print its numbers and the scripted policies' scores."""
    from durotaxis.study.scenario import SCORE_COLUMNS, draw_scenario, facts, scenario_config, score_rows

    console = make_console()
    config = scenario_config(name, overrides or [])
    path = out or Path(f"{name}.png")
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path} must end in .png")
    require_writable_file(path)
    draw_scenario(config, seed).save(path)
    for line in facts(config, seed):
        console.print(line, markup=False, soft_wrap=True)
    if rows := score_rows(config):
        console.print(table("scripted policies", SCORE_COLUMNS, rows))
    else:
        console.print("scripted policies: no scores are kept of this world")
    console.print(f"written to {path}", markup=False, soft_wrap=True)


@group.command(
    "score",
    epilog="Examples:\n\ndurotaxis scenario score\n\n"
    "durotaxis scenario score quick --seeds 100 --out scores.json",
)
def score(
    name: Annotated[str | None, typer.Argument(help="One scenario; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Episodes per scripted policy.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="JSON file; default the one in the package.")] = None,
) -> None:
    """Play the scripted policies and remake the constants that returns are normalised with."""
    from durotaxis.agent.scripted import SCRIPTED
    from durotaxis.env.scenarios import SCENARIOS
    from durotaxis.study.scenario import SCORE_COLUMNS, require_scenario, row_of
    from durotaxis.study.score import score_scenario

    console = make_console()
    names = list(SCENARIOS) if name is None else [name]
    for one in names:
        require_scenario(one)
    path = out or Path(str(resources.files("durotaxis.env") / "scores.json"))
    require_writable_file(path)
    scores = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for one in names:
        with counting_view(console, one, seeds * len(SCRIPTED)) as advance:
            scores[one] = score_scenario(one, seeds, advance)
        rows = [row_of(policy, row) for policy, row in scores[one].items()]
        console.print(table(one, SCORE_COLUMNS, rows))
        write_json(path, {known: scores[known] for known in SCENARIOS if known in scores})
    console.print(f"written to {path}", markup=False, soft_wrap=True)
