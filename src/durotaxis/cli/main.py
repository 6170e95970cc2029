"""The command `durotaxis`: a table from verbs to functions of the package.

Libraries are imported inside the commands, so that `--help` is quick. A wrong input ends with exit code 2
and what is wrong on stderr, without a traceback unless `--debug` is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from durotaxis.cli import analyse, config, evaluation, export, ptm, render, replay, scenario, study, training
from durotaxis.cli.shared import INTERRUPTED, USER_FAULT, refuse, refuse_error
from durotaxis.console import make_console, table
from durotaxis.core.errors import UserError
from durotaxis.records import RecordError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Durotaxis as a growing and shrinking graph, learned with Weight Sharing Attention.",
)
app.add_typer(training.group)
app.add_typer(evaluation.group)
app.add_typer(render.group)
app.add_typer(replay.group)
app.add_typer(analyse.group)
app.add_typer(export.group)
for _name, _group in {
    "scenario": scenario.group,
    "study": study.group,
    "config": config.group,
    "ptm": ptm.group,
}.items():
    app.add_typer(_group, name=_name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(args=rest, prog_name="durotaxis", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (UserError, RecordError) as error:
        if debug:
            raise
        return refuse_error(error)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())  # empty where help was shown instead
        return refuse(f"{message} (see `durotaxis --help`)") if message else USER_FAULT
    except KeyboardInterrupt:
        typer.echo("durotaxis: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a refused input.")] = False,
) -> None:
    """Durotaxis as a growing and shrinking graph, learned with Weight Sharing Attention."""


@app.command(epilog="Example:\n\ndurotaxis doctor")
def doctor() -> None:
    """Show versions, devices and weights at hand, what is missing, and how to get it."""
    from durotaxis.study.doctor import examine

    findings = examine()
    rows = [(f.topic, f.name, f.state if f.is_good else f"! {f.state}", f.advice) for f in findings]
    make_console().print(table("", ("", "what", "found", "what to do"), rows))
