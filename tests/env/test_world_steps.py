"""Hundreds of random steps against the one-colony-at-a-time reference: every field, every term, every end."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from durotaxis.env import observe, reset, reset_where, step
from durotaxis.env.config import EnvConfig
from durotaxis.env.types import Reason
from reference.colonies import random_action
from reference.ground import read_ground
from reference.maps import write_csv
from reference.views import (
    edge_features,
    frame,
    graph_features,
    node_features,
    scale_edges,
    scale_graph,
    scale_nodes,
)
from reference.world import read_world, step_world

SMALL = {"max_nodes": 14, "capacity": 18, "critical_nodes": 6, "num_initial_nodes": 5, "max_steps": 40}
WORLDS = {
    "quick": {"scenario": "quick", **SMALL},
    "exponential": {"scenario": "exponential", **SMALL, "capacity": 15, "mark_fraction": 0.4},
    "random": {"scenario": "random", **SMALL, "min_nodes": 0, "num_initial_nodes": 1},
    "uniform": {"scenario": "uniform", **SMALL, "substrate": {"base": 2.7}, "min_nodes": 3},
    "moat": {"scenario": "moat", **SMALL, "substrate": {"moat": {"num_bridges": 2, "width": 60.0}}},
    "full": {
        "scenario": "full",
        "critical_nodes": 12,
        "max_nodes": 40,
        "capacity": 48,
        "num_initial_nodes": 9,
    },
    "slanted": {
        **SMALL,
        "substrate": {"direction": 2.4, "size": (60.0, 45.0), "slope": 0.09},
        "goal_margin": 0.45,
        "left_moves_limit": 3,
        "delta_time": 1,
        "response": {"exponent": 1.5},
        "observation": {"count_scale": 33, "frame_size": 50.0},
        "reward": {"spawn_threshold": 0.1, "boundary_safe": 0.3, "survival": 0.05, "milestones": (0.1, 0.6)},
    },
    "biphasic": {
        **SMALL,
        "response": {"law": "biphasic", "optimum": 2.5, "exponent": 1.3},
        "overcrowding": "cap",
        "left_moves_limit": None,
        "reward": {"milestones": ()},
    },
    "recovering": {
        **SMALL,
        "min_nodes": 0,
        "max_recoveries": 2,
        "mark_fraction": 0.0,
        "response": {"law": "threshold", "threshold": 1.6},
        "substrate": {"direction": 0.7, "size": (50.0, 40.0)},
    },
    "stripes": {
        **SMALL,
        "substrate": {
            "kind": "stripes",
            "size": (60.0, 45.0),
            "stripes": {"lane_width": 9.0, "shift_every": 25.0, "gap": 8.0, "stiffness": 0.4},
        },
        "goal_margin": 0.3,
    },
    "patches": {
        **SMALL,
        "substrate": {
            "kind": "patches",
            "ground": "exponential",
            "base": 2.0,
            "direction": 2.0,
            "patches": {"covered": 0.2, "stiffness": 0.6},
        },
        "left_moves_limit": 3,
    },
    "noise": {
        **SMALL,
        "substrate": {"kind": "noise", "size": (50.0, 60.0), "direction": [1, 1], "noise": {"length": 8.0}},
        "goal_margin": 0.4,
    },
    "step": {
        **SMALL,
        "substrate": {
            "kind": "step",
            "size": (60.0, 40.0),
            "step": {"position": 0.3, "high": 6.0, "ramp": 9.0},
        },
        "goal_margin": 0.3,
    },
    "map": {**SMALL, "substrate": {"kind": "map", "direction": -0.4}, "goal_margin": 0.4},
    "leaving": {
        **SMALL,
        "boundary": "terminate",
        "substrate": {"kind": "exponential", "size": (60.0, 80.0), "direction": -1.5707963267948966},
        "spawn_bounds": {"max_step": (5.0, 40.0), "half_saturation": (0.5, 2.0)},
    },
}
PLAIN = ("step", "seed", "next_id", "drift_count", "milestones", "recoveries")


def config_of(name, folder):
    """A world; that of a map is written to a file first."""
    values = WORLDS[name]
    if name == "map":
        given = {"file": write_csv(folder / "map.csv"), "micrometres_per_pixel": 4.0}
        values = {**values, "substrate": {**values["substrate"], "map": given}}
    return EnvConfig(**values)


def assert_close(ours, theirs, what, atol=1e-5, rtol=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if not (ours.shape == theirs.shape and np.allclose(ours, theirs, atol=atol, rtol=rtol)):
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=rtol, err_msg=what)


def compare_colony(world, colony, row, where):
    ours = read_world(colony, row)
    assert len(ours.nodes) == len(world.nodes), where
    assert not colony.alive[row, len(ours.nodes) :].any(), f"{where}: living nodes fill the first slots"
    for mine, reference in zip(ours.nodes, world.nodes, strict=True):
        for name in ("node_id", "parent", "age", "newborn", "marked"):
            assert getattr(mine, name) == getattr(reference, name), f"{where} node {mine.node_id}: {name}"
        assert mine.share == pytest.approx(reference.share, abs=1e-7), f"{where} node {mine.node_id}: share"
    places = [np.array([[n.x, n.y] for n in w.nodes]) for w in (ours, world)]
    assert_close(*places, f"{where} position", 1e-4, 1e-6)
    for name in PLAIN:
        assert getattr(ours, name) == getattr(world, name), f"{where}: {name}"
    assert ours.front == pytest.approx(world.front, abs=1e-4), where
    empty = ~colony.alive[row]
    assert (colony.parent[row, empty] == -1).all(), where
    assert (colony.node_id[row, empty] == -1).all(), where
    for field in (colony.age, colony.newborn, colony.marked, colony.spawn_share, colony.position):
        assert not field[row, empty].any(), where


def compare_observation(world, raw, scaled, row, ground, config, where):
    n = len(world.nodes)
    nodes, edges = node_features(world, ground), edge_features(world)
    graph = graph_features(world, ground, config)
    for observation, name, wanted in (
        (raw, "raw", (nodes, edges, graph)),
        (
            scaled,
            "scaled",
            (scale_nodes(nodes, ground), scale_edges(edges), scale_graph(graph, ground, config)),
        ),
    ):
        assert_close(observation.nodes[row, :n], wanted[0], f"{where} {name} nodes", 2e-5)
        assert_close(observation.edges[row, :n], wanted[1], f"{where} {name} edges", 2e-5)
        assert_close(
            observation.graph[row], wanted[2], f"{where} {name} graph", 2e-4 if name == "raw" else 1e-5
        )
        for part in (observation.nodes, observation.edges, observation.position):
            assert not part[row, n:].any(), where
        assert observation.node_mask[row].tolist() == [k < n for k in range(config.num_slots)]
        ids = [node.node_id for node in world.nodes]
        parents = [-1 if node.parent is None else ids.index(node.parent) for node in world.nodes]
        assert observation.parent[row].tolist() == parents + [-1] * (config.num_slots - n), where
        allowed = [[True, True, n > config.min_nodes]] * n + [[True, False, False]] * (config.num_slots - n)
        assert observation.action_mask[row].tolist() == allowed, where
        if n:
            low, high = frame(world, ground, config)
            assert_close(observation.frame_low[row], low, f"{where} frame", 1e-4)
            assert_close(observation.frame_high[row], high, f"{where} frame", 1e-4)


def compare_outcome(outcome, transition, row, where):
    assert set(transition.terms) == set(outcome.terms)
    names = list(outcome.terms)
    terms = [float(transition.terms[name][row]) for name in names]
    assert_close(terms, [outcome.terms[name] for name in names], f"{where} {names}", 5e-6)
    assert int(transition.reason[row]) == outcome.reason, where
    assert bool(transition.terminated[row]) == outcome.terminated, where
    assert bool(transition.truncated[row]) == outcome.truncated, where
    assert {k: int(v[row]) for k, v in transition.counts.items()} == outcome.counts, where


@pytest.mark.parametrize("name", WORLDS)
def test_random_steps_equal_the_reference(name, tmp_path):
    config, batch, num_steps = config_of(name, tmp_path), 6, 50
    generator = torch.Generator().manual_seed(len(name))
    colony, substrate = reset(config, torch.arange(batch) + 100)
    mix = [[3, 4, 3], [5, 3, 2], [2, 6, 2], [2, 4, 4], [1, 1, 1], [0.5, 4.0, 3.5]]
    doubts, reasons = Counter(), Counter()
    for t in range(num_steps):
        action = random_action(colony, config, generator, mix)
        transition = step(colony, action, substrate, config)
        raw = observe(transition.colony, substrate, config, scaled=False)
        total = torch.stack(list(transition.terms.values())).sum(0)
        assert_close(transition.reward, total, f"{name} reward", 1e-6, 1e-5)
        for row in range(batch):
            where = f"{name} step {t} colony {row}"
            ground = read_ground(config, substrate, row)
            world = read_world(colony, row)
            kinds, parameters = action.kind[row].tolist(), action.parameters[row].tolist()
            outcome = step_world(world, kinds, parameters, ground, config)
            now = read_world(transition.colony, row)
            if t % 5 == 0 and not any(ground.near_edge(n.x, n.y) for n in now.nodes):
                compare_observation(now, raw, transition.observation, row, ground, config, where)
            doubts.update(outcome.doubts)
            if not outcome.doubts:
                compare_colony(outcome.world, transition.colony, row, where)
                compare_outcome(outcome, transition, row, where)
                reasons[outcome.reason] += 1
        ended = transition.terminated | transition.truncated
        colony, substrate = reset_where(
            transition.colony, substrate, ended, torch.arange(batch) + 1000 * (t + 1), config
        )
    assert doubts.total() < 0.05 * batch * num_steps, doubts
    assert reasons[Reason.RUNNING] > 0.3 * batch * num_steps
    assert len(reasons) > 1, "no episode ended"


def test_every_way_to_end_is_met():
    """The worlds above reach every reason, so that none goes unchecked; ends never come together."""
    met, batch = set(), 9
    mix = [[2, 5, 3], [1, 1, 8], [6, 2, 2]] * (batch // 3)
    ground = {"kind": "uniform", "size": (30.0, 20.0), "base": 60.0}
    near = {**SMALL, "substrate": ground, "goal_margin": 0.6, "max_steps": 12}
    for values in (near, WORLDS["slanted"], WORLDS["leaving"]):
        config = EnvConfig(**values)
        generator = torch.Generator().manual_seed(3)
        colony, substrate = reset(config, torch.arange(batch))
        for t in range(30):
            transition = step(colony, random_action(colony, config, generator, mix), substrate, config)
            met |= {Reason(r) for r in transition.reason.tolist()}
            assert not (transition.terminated & transition.truncated).any()
            ended = transition.terminated | transition.truncated
            assert (ended == (transition.reason != Reason.RUNNING)).all()
            seeds = torch.arange(batch) + 1000 * (t + 1)
            colony, substrate = reset_where(transition.colony, substrate, ended, seeds, config)
    assert met == set(Reason)
