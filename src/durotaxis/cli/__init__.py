"""The command line; `main` is the entry point."""

from durotaxis.cli.main import app, main, run

__all__ = ["app", "main", "run"]
