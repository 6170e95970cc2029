"""The commands `durotaxis config ...`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from durotaxis.cli.shared import ConfigOption, Overrides

group = typer.Typer(no_args_is_help=True, help="Look at configurations and check them.")


@group.command(
    "show",
    epilog="Examples:\n\ndurotaxis config show\n\ndurotaxis config show --config configs/wsa.yaml run.seed=3",
)
def show(overrides: Overrides = None, config: ConfigOption = "quick") -> None:
    """Print every value of a configuration, defaults included, as YAML that can be used as it is."""
    from durotaxis.core.config import load_config, to_yaml
    from durotaxis.study.config import RootConfig, find_config

    sys.stdout.write(to_yaml(load_config(find_config(config), RootConfig, overrides or [])))


@group.command("schema", epilog="Example:\n\ndurotaxis config schema > durotaxis.schema.json")
def schema() -> None:
    """Print the JSON Schema of a configuration, for editors and other tools."""
    from durotaxis.core.config import to_schema
    from durotaxis.study.config import RootConfig

    sys.stdout.write(json.dumps(to_schema(RootConfig), indent=2) + "\n")


@group.command(
    "check", epilog="Examples:\n\ndurotaxis config check mine.yaml\n\ndurotaxis config check quick run.seed=3"
)
def check(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with the package.")],
    overrides: Overrides = None,
) -> None:
    """Check a configuration; every error is named with its line and column."""
    from durotaxis.core.config import load_config
    from durotaxis.study.config import RootConfig, find_config

    path = find_config(file)
    config = load_config(path, RootConfig, overrides or [])
    for note in config.actor_critic.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{path}: valid")
