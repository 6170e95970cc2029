"""What commands share: options, exit codes, and how they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from durotaxis.core.errors import UserError
from durotaxis.records import RecordError, require_writable

USER_FAULT = 2
INTERRUPTED = 130

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="A YAML file, or the name of one that comes with the package.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values that replace those of the file.")
]


def require_writable_file(path: Path) -> None:
    """Refuse an output file before the work for it is done."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a directory" if path.is_dir() else "lies in a directory that does not exist"
        raise UserError(f"cannot write {path}: it {what}; name another file")
    require_writable(path.absolute().parent)


def refuse_error(error: UserError | RecordError) -> int:
    return refuse(str(error), prefix="" if hasattr(error, "lines") else "durotaxis: ")


def refuse(message: str, prefix: str = "durotaxis: ") -> int:
    typer.echo(prefix + message, err=True)
    return USER_FAULT
