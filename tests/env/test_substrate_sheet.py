"""The contact sheet of substrates: it has every kind, and its command line works."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from durotaxis.env.substrate import SubstrateConfig

EXAMPLE = Path(__file__).parents[2] / "examples" / "substrates.py"


@pytest.fixture(scope="module")
def sheet():
    spec = importlib.util.spec_from_file_location("substrates", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sheet_shows_every_kind_and_a_slanted_direction(sheet, tmp_path, capsys):
    kinds = SubstrateConfig.model_fields["kind"].annotation.__args__
    assert {values["kind"] for values in sheet.PANELS.values()} == set(kinds)
    assert any("direction" in values for values in sheet.PANELS.values())
    assert sheet.main(["--seed", "1", "--out", str(tmp_path / "sheet.png")]) == 0
    assert "written to" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20)) > 200


def test_a_place_that_cannot_be_written_is_one_line(sheet, tmp_path, capsys):
    assert sheet.main(["--out", str(tmp_path / "nowhere" / "sheet.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
