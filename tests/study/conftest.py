"""A tiny trained run with recorded episodes, made once per process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from study_cases import TINY_AGENT, TINY_TRAINING

from durotaxis import cli


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory) -> Path:
    """Not to be written into."""
    place = tmp_path_factory.mktemp("kept") / "run"
    assert cli.run(["train", *TINY_AGENT, *TINY_TRAINING, f"run.directory={place}"]) == 0
    assert cli.run(["evaluate", str(place), "--seeds", "4", "--record", "3"]) == 0
    return place


@pytest.fixture
def recorded_run(kept_run, tmp_path, monkeypatch) -> Path:
    """A copy of it as `run` in a directory of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(kept_run, tmp_path / "run").name)


@pytest.fixture
def call(capsys):
    """The command line: arguments -> (exit code, output, errors)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
