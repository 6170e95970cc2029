"""The page on integrations says what the code says, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from durotaxis.env import EnvConfig
from durotaxis.fusion.conformance import PROPERTIES
from durotaxis.integrations import GLOBAL_ID, NODE_ID
from durotaxis.integrations.actions import GLOBAL_ACTIONS
from durotaxis.integrations.spaces import observation_space

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def rows(title):
    """Cells of the first table under a heading."""
    text = re.split(rf"^#+ {title}\n", PAGE, flags=re.MULTILINE)[1].split("\n#")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_runs(number):
    exec(compile(BLOCKS[number], "integrations.md", "exec"), {})


def test_there_is_an_example_of_each():
    assert len(BLOCKS) == 9


def test_the_observation_table_is_the_space():
    config = EnvConfig(observation={"field": True})
    space = observation_space(config)
    stated = {name: (shape, dtype) for name, shape, dtype, *_ in rows("Observation")}
    shapes = {
        name: (
            "[" + ", ".join("N" if n == config.num_slots else str(n) for n in part.shape) + "]",
            str(part.dtype),
        )
        for name, part in space.items()
    }
    assert stated == shapes


def test_the_global_action_table_is_in_order():
    assert [(row[0], row[1]) for row in rows("Global action")] == [
        (str(i), n) for i, n in enumerate(GLOBAL_ACTIONS)
    ]


def test_the_properties_of_fusion_rules_are_those_that_are_checked():
    wanted = [(name, " ".join(check.__doc__.split()).rstrip(".")) for name, check in PROPERTIES.items()]
    assert [(row[0], row[1]) for row in rows("Your own fusion rule")] == wanted


def test_the_table_of_examples_names_files_that_exist():
    named = [row[0] for row in rows("Pre-trained models in other stacks")]
    assert len(named) == 3
    assert all((Path(__file__).parents[2] / name).is_file() for name in named)


def test_the_ids():
    assert [row[0] for row in rows("Gymnasium")][:2] == [NODE_ID, GLOBAL_ID]
