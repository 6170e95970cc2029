"""The page about pre-training names every task, world and setting."""

import re
from pathlib import Path

from durotaxis.pretrain import HELD_OUT, TASKS, TASKS_OF, TRAINING, PretrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text("utf-8")


def rows(title):
    """First cell in backticks -> the others, of a section's table."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `([\w ]+)` \| (.*) \|$", section, re.M)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in lines}


def test_tasks():
    table = rows("Tasks")
    assert list(table) == list(TASKS)
    for name, cells in table.items():
        both = zip(("graph_cnn", "graph_gnn"), cells, strict=True)
        asked = {model for model, cell in both if not cell.startswith("not asked")}
        assert asked == {model for model, names in TASKS_OF.items() if name in names}


def test_worlds():
    for name in (*TRAINING, *HELD_OUT):
        assert f"`{name}`" in PAGE


def test_settings():
    config = PretrainConfig()
    assert {name: cells[0] for name, cells in rows("Settings").items()} == {
        name: str(getattr(config, name)) for name in PretrainConfig.model_fields
    }
