"""The page about tracks says what the code says, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.made_episodes import STORIES, story
from durotaxis import cli
from durotaxis.analysis.export import GRAPH_FORMATS, TABLE_FORMATS, column_tables
from durotaxis.analysis.metrics import NUMBERS, RATES
from durotaxis.analysis.migration_figures import FIGURES
from durotaxis.records import write_episodes

PAGE = (Path(__file__).parents[2] / "docs" / "tracks.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_column_tables_are_the_code():
    between = re.search(r"<!-- columns:[^\n]*-->\n(.*?)<!-- end of columns -->", PAGE, re.S)
    assert between
    assert between[1].strip() == column_tables().strip(), (
        "paste durotaxis.analysis.export.column_tables() again"
    )


def test_every_metric_is_defined():
    first = [line.split(" | ")[0] for line in section("Metrics").splitlines() if line.startswith("| `")]
    names = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert names == [column.name for column in NUMBERS if column.name not in RATES]


def test_files_and_figures_are_named():
    for form in GRAPH_FORMATS:
        assert f"`graphs-<n>.{form}.zip`" in section("Files")
    assert {form.lower() for form in re.findall(r"CSV|Parquet", section("Files"))} == set(TABLE_FORMATS)
    for name in FIGURES:
        assert f"`{name}`" in section("Against what")


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_episodes(tmp_path, [story(frames) for frames in STORIES.values()])
    for what in ("tracks", "graphs"):
        assert cli.run(["export", ".", what]) == 0
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "tracks.md", "exec"), names)
    assert names["uphill"] == 0.75, "of the four children, only 3 of the family was born on softer ground"
    assert names["deaths_per_episode"].tolist() == [2, 2, 2, 0, 0]
    assert list(names["lengths"].values()) == [4.0]
    assert names["metrics"].episode == len(STORIES) - 1
