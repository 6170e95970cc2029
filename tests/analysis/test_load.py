"""Reading a run's records into columns and groups."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from analysis.fake_run import MODELS, STEPS_PER_ITERATION, write_run
from durotaxis.analysis.load import (
    Run,
    attention_over_training,
    by_evaluation,
    column,
    estimate,
    in_bins,
    load_run,
)
from durotaxis.analysis.stats import mean_interval, wilson
from durotaxis.records import ATTENTION, EPISODES, EVALUATIONS, RecordError


def raw(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_read_whole(tmp_path):
    write_run(tmp_path / "a", 12)
    run = load_run(tmp_path / "a")
    assert run.name == "a"
    assert len(run.metrics) == 12
    assert list(run.episodes) == raw(tmp_path / "a" / EPISODES)
    assert list(run.evaluations) == raw(tmp_path / "a" / EVALUATIONS)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is not a run directory"):
        load_run(tmp_path)


def test_columns_turn_null_and_absent_into_nan_and_truth_into_numbers():
    values = column([{"a": 1.5}, {"a": None}, {}, {"a": True}], "a")
    assert values.dtype == np.float64
    assert np.array_equal(values, [1.5, math.nan, math.nan, 1.0], equal_nan=True)


def test_estimates_take_the_interval_that_fits(tmp_path):
    write_run(tmp_path / "a", 12)
    rows = load_run(tmp_path / "a").episodes
    assert estimate(rows, "success_rate") == wilson(sum(row["success"] for row in rows), len(rows))
    assert estimate(rows, "return") == mean_interval([row["return"] for row in rows])
    assert estimate([{"return": None}], "return").mean is None


def test_bins_hold_every_episode_once_and_in_order(tmp_path):
    write_run(tmp_path / "a", 40)
    rows = load_run(tmp_path / "a").episodes
    bins = in_bins(rows, 7)
    assert len(bins) == 7
    assert [row["episode"] for _, group in bins for row in group] == [row["episode"] for row in rows]
    last = 40 * STEPS_PER_ITERATION
    for index, (step, group) in enumerate(bins):
        assert step == pytest.approx(np.mean([row["step"] for row in group]))
        assert all(index * last < row["step"] * 7 <= (index + 1) * last for row in group)


def test_bins_are_no_finer_than_iterations(tmp_path):
    write_run(tmp_path / "a", 3)
    assert len(in_bins(load_run(tmp_path / "a").episodes, 25)) == 3
    assert in_bins([], 25) == []


def test_evaluations_are_grouped_by_step(tmp_path):
    write_run(tmp_path / "a", 30)
    groups = by_evaluation(load_run(tmp_path / "a").evaluations)
    assert list(groups) == [10 * STEPS_PER_ITERATION, 20 * STEPS_PER_ITERATION, 30 * STEPS_PER_ITERATION]
    assert all(len(rows) == 20 for rows in groups.values())


def test_attention_of_all_colonies_and_of_one_phase(tmp_path):
    write_run(tmp_path / "a", 20)
    run = load_run(tmp_path / "a")
    attention = attention_over_training(run)
    assert attention.names == MODELS
    assert attention.weight.shape == (20, 3)
    assert np.allclose(attention.weight.sum(1), 1.0)
    assert np.array_equal(attention.step, np.arange(1, 21) * STEPS_PER_ITERATION)
    dense = attention_over_training(run, "dense")
    rows = [row for row in raw(tmp_path / "a" / ATTENTION) if row["phase"] == "dense"]
    assert np.array_equal(dense.weight, [row["value/attention"] for row in rows])
    assert attention_over_training(run, "no such phase") is None


def test_models_without_names_are_numbered_and_must_not_change(tmp_path):
    row = {"phase": "all", "step": 1, "value/attention": [0.5, 0.5]}
    run = Run(tmp_path, (), (), (row,), ())
    assert attention_over_training(run).names == ("PTM 0", "PTM 1")
    other = {**row, "value/ptm_names": ["a", "b"]}
    with pytest.raises(RecordError, match="models change"):
        attention_over_training(Run(tmp_path, (), (), (row, other), ()))


def test_analysis_needs_no_torch():
    code = (
        "import sys, durotaxis.analysis as a; a.load_run, a.markdown_table; "
        "first = 'matplotlib' in sys.modules; a.learning_curve; "
        "print(first, 'matplotlib' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
