"""What a run is condensed into."""

from __future__ import annotations

import dataclasses
import gc
import json

import numpy as np
import pytest
import torch

from durotaxis.core.config import load_config
from durotaxis.core.errors import UserError
from durotaxis.records import EPISODES, METRICS
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.cost import _PeakOfTensors, measure_cost
from durotaxis.study.execute import Assignment, attention, curve, failed_record, rounded
from durotaxis.study.plan import under_condition

RNG = np.random.default_rng(0)


def episodes(count=400, total=1000):
    steps = np.sort(RNG.integers(1, total + 1, count))
    return [
        {
            "step": int(step),
            "return": float(RNG.normal()),
            "success": bool(RNG.random() < 0.3),
            "final/front_progress": float(RNG.random()),
        }
        for step in steps
    ]


def test_a_curve_keeps_every_episode_once_with_its_weight():
    rows = episodes()
    found = curve(rows, 1000)
    count = np.array(found["episodes"])
    assert count.sum() == len(rows)
    for column, key in (
        ("return", "return"),
        ("success_rate", "success"),
        ("front_progress", "final/front_progress"),
    ):
        whole = np.average(found[column], weights=count)
        assert whole == pytest.approx(np.mean([row[key] for row in rows]), abs=1e-5)
    edges = np.linspace(0, 1000, 26)
    for step, low, high in zip(found["step"], edges[:-1], edges[1:], strict=True):
        assert low < step <= high


def test_empty_bins_are_left_out_and_the_last_step_is_in():
    rows = [{"step": step, "return": 1.0, "success": True, "final/front_progress": 1.0} for step in (1, 1000)]
    assert curve(rows, 1000)["step"] == [1, 1000]
    assert curve([], 1000)["step"] == []


def test_attention_weighs_colonies_the_same():
    rows = [
        {"step": 950, "phase": "early", "colonies": 3, "value/attention": [0.9, 0.1]},
        {"step": 1000, "phase": "early", "colonies": 1, "value/attention": [0.1, 0.9]},
        {"step": 10, "phase": "early", "colonies": 9, "value/attention": [0.0, 1.0]},
        {
            "step": 1000,
            "phase": "all",
            "colonies": 4,
            "value/attention": [0.6, 0.4],
            "value/effective_models": 1.9,
            "value/ptm_names": ["a", "b"],
        },
    ]
    found = attention(rows, 1000)
    assert found["phases"] == {"early": [0.7, 0.3]}
    assert (found["names"], found["step"], found["weight"], found["effective"]) == (
        ["a", "b"],
        [1000],
        [[0.6, 0.4]],
        [1.9],
    )
    assert attention([], 1000) is None


def test_six_digits_are_kept():
    assert rounded(1234567.0) == 1234570.0
    assert rounded(0.000123456789) == 0.000123457


def test_a_condition_is_seen_as_in_training():
    env = load_config(find_config("quick"), RootConfig).env
    crowded = under_condition(env, {"max_nodes": 200}, "condition")
    assert crowded.max_nodes == 200
    assert crowded.count_scale == env.count_scale
    with pytest.raises(UserError, match="condition x: max_node: unknown key"):
        under_condition(env, {"max_node": 200}, "condition x")


def test_peak_memory_is_what_lives_at_once():
    """Two of three vectors live at the same time; a view of one of them costs nothing."""
    gc.collect()
    with _PeakOfTensors() as peak:
        first = torch.zeros(1000, dtype=torch.float64)
        second = first.view(10, 100)[2:]
        third = torch.ones(500, dtype=torch.float64)
        del third
        fourth = torch.ones(250, dtype=torch.float64)
    assert peak.most == 8 * 1500
    assert (len(second), len(fourth)) == (8, 250)


def test_costs_are_of_the_same_colonies_and_count_parameters(monkeypatch):
    monkeypatch.setattr("durotaxis.study.cost.GROWTH_STEPS", 3)
    small = ["ppo.num_colonies=2", "ppo.rollout_steps=2", "ppo.num_minibatches=2", "encoder.num_layers=1"]
    cnn = "actor_critic.backbone={model_type: graph_cnn, freeze: false, tap: block1}"
    base = ["actor_critic.use_wsa=false", cnn]
    configs = {
        "one": load_config(find_config("quick"), RootConfig, [*small, *base]),
        "same": load_config(find_config("quick"), RootConfig, [*small, *base, "ppo.learning_rate=2e-3"]),
        "wide": load_config(find_config("quick"), RootConfig, [*small, *base, "actor_critic.hidden_dim=256"]),
    }
    cost = measure_cost(configs, "quick", turns=1)
    one, same, wide = (cost.arms[name] for name in configs)
    assert len(one.forward_s) == len(one.update_s) == 1
    assert one.num_parameters == same.num_parameters < wide.num_parameters
    assert one.peak_memory_mb == pytest.approx(same.peak_memory_mb, rel=0.02)
    assert one.peak_memory_mb < wide.peak_memory_mb
    assert len(set(cost.num_nodes.values())) == 1
    assert dataclasses.asdict(cost)["steps_per_rollout"] == 4


def test_steps_of_a_lesson_are_on_the_axis_of_what_follows(tmp_path):
    rows = [{"step": step, "return": 1.0, "success": 0, "final/front_progress": 0.2} for step in (8, 16)]
    append_rows(tmp_path / EPISODES, rows)
    append_rows(
        tmp_path / METRICS,
        [{"step": step, "episodes": step // 8, "elapsed_s": 2.0, "host_memory_mb": 1.0} for step in (8, 16)],
    )
    made = {start: failed_record(assignment_of(tmp_path, start), 1, "no memory") for start in (None, 32)}
    assert made[None].curve["step"] == [8, 16]
    assert made[32].curve["step"] == [40, 48]
    assert (made[None].steps, made[32].steps) == (16, 48)
    assert made[None].cost["steps_per_s"] == made[32].cost["steps_per_s"] == 8.0
    assert made[None].curve["return"] == made[32].curve["return"] == [1.0, 1.0]
    (tmp_path / "none").mkdir()
    assert failed_record(assignment_of(tmp_path / "none", 32), 1, "no memory").steps == 32


def append_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def assignment_of(directory, start_steps):
    by = None if start_steps is None else "distillation"
    parent = ("p", "1" * 16)
    return Assignment(
        "s", "taught", "moat", 0, "c.yaml", "0" * 16, str(directory), *parent, by, start_steps, ()
    )
