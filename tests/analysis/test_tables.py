"""The results table as text and as Markdown."""

from __future__ import annotations

import dataclasses
import json

import pytest

from durotaxis.analysis.stats import NOTHING, Estimate, Sample, mean_interval, normalised_return, wilson
from durotaxis.analysis.tables import Result, markdown_table, summarise, text_table

RANDOM, REFERENCE = Sample(-2.0, 0.1, 1000), Sample(6.0, 0.1, 1000)
ROWS = [
    {"return": 5.0, "success": True, "length": 40, "final/front_progress": 1.0},
    {"return": 6.0, "success": True, "length": 60, "final/front_progress": 1.0},
    {"return": -1.0, "success": False, "length": 200, "final/front_progress": 0.5},
]


def test_a_result_holds_the_estimates_of_its_episodes():
    result = summarise("agent", ROWS, RANDOM, REFERENCE)
    assert result.success_rate == wilson(2, 3)
    assert result.front_progress == mean_interval([1.0, 1.0, 0.5])
    assert result.episode_return == mean_interval([5.0, 6.0, -1.0])
    assert result.normalised_return == normalised_return(Sample.of([5.0, 6.0, -1.0]), RANDOM, REFERENCE)
    assert result.steps_to_success == mean_interval([40.0, 60.0])  # successes alone


def test_without_constants_or_episodes_numbers_are_undefined():
    assert summarise("agent", ROWS).normalised_return == NOTHING
    empty = summarise("agent", [], RANDOM, REFERENCE)
    assert empty.success_rate.mean is None
    assert empty.normalised_return.mean is None


def test_a_written_result_is_read_back():
    result = summarise("agent", ROWS)
    assert Result.read(json.loads(json.dumps(dataclasses.asdict(result)))) == result


def test_text_columns_are_aligned():
    results = [summarise("random", ROWS), summarise("a much longer name", ROWS, RANDOM, REFERENCE)]
    lines = text_table(results).splitlines()
    assert lines[0].split("  ")[0] == "policy"
    starts = [lines[0].index(word) for word in ("success", "front", "normalised", "steps")]
    for line in lines[2:4]:
        assert all(line[start - 1] == " " and line[start] != " " for start in starts)
    assert set(lines[1]) == {"-", " "}
    assert "95 %" in lines[-1]


def test_markdown_has_a_cell_for_every_column():
    lines = markdown_table([summarise("a|b", ROWS, RANDOM, REFERENCE)]).splitlines()
    assert lines[1] == "|---|---|---|---|---|---|"
    assert lines[2].startswith("| a\\|b | 0.67 [")
    assert lines[0].count("|") == lines[2].replace("\\|", "").count("|") == 7


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (NOTHING, "-"),
        (Estimate(3.14159, None, None, 1), "3.14"),
        (Estimate(0.5, 0.25, 0.75, 9), "0.50 [0.25, 0.75]"),
    ],
)
def test_cells_show_what_is_known(value, cell):
    result = Result("agent", value, NOTHING, NOTHING, NOTHING, NOTHING)
    assert markdown_table([result]).splitlines()[2] == f"| agent | {cell} | - | - | - | - |"
