"""Features on shapes whose answers are known, and hulls against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from durotaxis.env import (
    EDGE_FEATURES,
    GRAPH_FEATURES,
    NODE_FEATURES,
    SCENARIOS,
    EnvConfig,
    Kind,
    observe,
    reset,
    reset_where,
    step,
)
from reference.colonies import action_of, colony_at, random_action
from reference.views import hull, polygon_area

WIDE = EnvConfig(max_nodes=160)
GRAPH = {name: k for k, name in enumerate(GRAPH_FEATURES)}
NODE = {name: k for k, name in enumerate(NODE_FEATURES)}


def look(points, config=WIDE, scaled=False, **values):
    colony = colony_at(points, config, **values)
    _, substrate = reset(config, torch.tensor([0]))
    return observe(colony, substrate, config, scaled=scaled)


def flagged(points):
    seen = look(points)
    return seen.nodes[0, : len(points), NODE["hull"]].bool().tolist(), float(
        seen.graph[0, GRAPH["hull_area"]]
    )


@pytest.mark.parametrize("num", [3, 4, 5, 8, 20, 60, 150])
@pytest.mark.parametrize("shape", ["square", "gauss", "circle"])
def test_hulls_of_scattered_points_equal_scipys(num, shape):
    rng = np.random.default_rng(num)
    for _ in range(5):
        if shape == "square":
            points = rng.uniform(10, 90, (num, 2))
        elif shape == "gauss":
            points = np.clip(rng.normal(50, 4, (num, 2)), 0, 100)
        else:
            angle = rng.uniform(0, 2 * math.pi, num)
            points = 50 + 30 * np.stack([np.cos(angle), np.sin(angle)], -1)
        points = points.astype(np.float32).astype(float)
        oracle = ConvexHull(points)
        flags, area = flagged(points.tolist())
        assert set(np.flatnonzero(flags)) == set(oracle.vertices.tolist())
        assert area == pytest.approx(oracle.volume, rel=1e-4)


SHAPES = {
    "one": ([(5.0, 5.0)], [True], 0.0),
    "two": ([(5.0, 5.0), (9.0, 5.0)], [True, True], 0.0),
    "two on one place": ([(5.0, 5.0), (5.0, 5.0)], [True, True], 0.0),
    "five on one place": ([(5.1, 5.3)] * 5, [True] * 5, 0.0),
    "a level line": ([(float(x), 7.0) for x in (3, 1, 2, 9, 5)], [False, True, False, True, False], 0.0),
    "an upright line": ([(7.0, float(y)) for y in (3, 1, 2, 9, 5)], [False, True, False, True, False], 0.0),
    "a slanted line": (
        [(float(k), 2.0 * k) for k in (3, 1, 2, 9, 5)],
        [False, True, False, True, False],
        0.0,
    ),
    "a line with ends twice": (
        [(1.0, 1.0), (4.0, 4.0), (1.0, 1.0), (2.0, 2.0), (4.0, 4.0)],
        [True, True, True, False, True],
        0.0,
    ),
    "a square with all its edges": (
        [(float(x), float(y)) for x in range(4) for y in range(4)],
        [x in (0, 3) and y in (0, 3) for x in range(4) for y in range(4)],
        9.0,
    ),
    "a square with corners twice": (
        [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0), (0.0, 0.0), (2.0, 2.0), (1.0, 1.0)],
        [True] * 6 + [False],
        4.0,
    ),
    "a triangle with a point on a side": (
        [(0.0, 0.0), (8.0, 4.0), (4.0, 2.0), (0.0, 6.0)],
        [True, True, False, True],
        24.0,
    ),
    "a sliver": ([(10.0, 50.0), (190.0, 50.0), (100.0, 50.001)], [True, True, True], None),
    "the corners of the substrate": (
        [(0.0, 0.0), (200.0, 0.0), (200.0, 100.0), (0.0, 100.0), (100.0, 0.0), (0.0, 50.0)],
        [True] * 4 + [False] * 2,
        20000.0,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_hulls_of_awkward_points_are_exact(name):
    points, expected, area = SHAPES[name]
    for shift in ((0.0, 0.0), (64.0, 16.0)):
        moved = (
            points
            if name.startswith(("a sliver", "the corners"))
            else [(x + shift[0], y + shift[1]) for x, y in points]
        )
        flags, got = flagged(moved)
        assert flags == expected, name
        if area is not None:
            assert got == pytest.approx(area, abs=1e-4)


def test_hulls_on_a_grid_equal_exact_arithmetic():
    """Many duplicates and collinear triples: integers, where every turn is decided exactly."""
    rng = np.random.default_rng(7)
    for num in (3, 4, 6, 10, 25, 80):
        for side in (2, 3, 5, 12):
            points = [tuple(map(float, p)) for p in rng.integers(0, side, (num, 2)) + 40]
            corners = hull(points)
            flags, area = flagged(points)
            assert flags == [p in corners for p in points], (num, side)
            assert area == pytest.approx(polygon_area(corners), abs=1e-3)


def test_hulls_of_nearly_collinear_points_are_exact():
    """Single-precision points along a slanted line: the exact turn of the stored numbers decides."""
    rng = np.random.default_rng(11)
    for num in (4, 9, 30):
        for slope in (1 / 3, 0.1, -0.7):
            x = rng.uniform(10, 100, num)
            points = np.stack([x, 80 + slope * x], -1).astype(np.float32).astype(float)
            points = np.clip(points, 0, 100)
            points = [tuple(p) for p in points.tolist()]
            corners = hull(points)
            flags, area = flagged(points)
            assert flags == [p in corners for p in points], (num, slope)
            assert area == pytest.approx(polygon_area(corners), abs=1e-3)


def test_centrality_is_ten_over_the_mean_distance():
    seen = look([(50.0, 50.0), (53.0, 54.0), (50.0, 60.0)]).nodes[0, :, NODE["centrality"]]
    far = math.hypot(3, 6)
    assert seen[:3].tolist() == pytest.approx([10 / 7.5, 20 / (5 + far), 20 / (10 + far)], rel=1e-6)
    assert float(look([(50.0, 50.0)]).nodes[0, 0, NODE["centrality"]]) == 1.0
    together = look([(50.0, 50.0)] * 3).nodes[0, :3, NODE["centrality"]]
    assert together.tolist() == [100.0] * 3


def test_centrality_stays_exact_far_from_the_origin():
    """Distances by inner products lose all digits here; 60 nodes within a tenth of a micrometre."""
    rng = np.random.default_rng(0)
    points = (np.array([190.0, 95.0]) + rng.uniform(0, 0.4, (60, 2))).astype(np.float32).astype(float)
    mean = np.linalg.norm(points[:, None] - points[None], axis=-1).sum(1) / 59
    seen = look(points.tolist()).nodes[0, :60, NODE["centrality"]].numpy()
    np.testing.assert_allclose(seen, np.minimum(10 / mean, 100), rtol=1e-3)


def test_a_small_tree_raw():
    points = [(10.0, 10.0), (13.0, 14.0), (10.0, 18.0), (40.0, 10.0)]
    config = EnvConfig(max_nodes=8)
    seen = look(points, config, parents=[-1, 0, 0, -1], ages=[4, 3, 2, 99], marked=(2,), drift_count=6)
    nodes, graph = seen.nodes[0], seen.graph[0]
    assert nodes[:4, NODE["in_degree"]].tolist() == [0, 1, 1, 0]
    assert nodes[:4, NODE["out_degree"]].tolist() == [2, 0, 0, 0]
    assert nodes[:4, NODE["age"]].tolist() == [4, 3, 2, 99]
    assert nodes[:4, NODE["marked"]].tolist() == [0, 0, 1, 0]
    assert nodes[:4, NODE["stiffness"]].tolist() == pytest.approx([1.5, 1.65, 1.5, 3.0])
    assert nodes[0, NODE["gradient_along"]] == pytest.approx(0.05 / 1.5)
    assert seen.edges[0, 1].tolist() == pytest.approx([5.0, 0.6, 0.8])
    assert seen.edges[0, 2].tolist() == pytest.approx([8.0, 0.0, 1.0])
    assert not seen.edges[0, [0, 3]].any()
    assert seen.edge_mask[0, :4].tolist() == [False, True, True, False]
    expected = {
        "num_nodes": 4, "num_edges": 2, "density": 2 / 12, "centroid_x": 73 / 4, "centroid_y": 13.0,
        "box_min_x": 10, "box_min_y": 10, "box_max_x": 40, "box_max_y": 18, "box_width": 30,
        "box_height": 8, "box_area": 240, "hull_area": 120, "mean_degree": 0.5, "drift": 0.2,
        "next_milestone": 0.25,
    }  # fmt: skip
    for name, value in expected.items():
        assert float(graph[GRAPH[name]]) == pytest.approx(value, rel=1e-5), name
    last = look([(1.0, 2.0)], config, milestones=4).graph[0]
    assert float(last[GRAPH["next_milestone"]]) == 1.0
    assert float(last[GRAPH["density"]]) == 0.0


def test_the_first_features_are_the_published_nine_three_and_fourteen():
    assert NODE_FEATURES[:9] == (
        "x", "y", "stiffness", "in_degree", "out_degree", "centrality", "centroid_distance", "hull", "newborn",
    )  # fmt: skip
    assert EDGE_FEATURES == ("length", "unit_x", "unit_y")
    assert GRAPH_FEATURES[:3] == ("num_nodes", "num_edges", "density")
    assert len(NODE_FEATURES) == 13
    assert len(GRAPH_FEATURES) == 16
    assert GRAPH_FEATURES[14:] == ("drift", "next_milestone")


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_scaled_features_are_of_order_one(scenario):
    config = EnvConfig(scenario=scenario, observation={"field": True}, max_steps=1000)
    colony, substrate = reset(config, torch.arange(4))
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for t in range(40):
        action = random_action(colony, config, generator, [[5, 3, 2]] * 4)
        transition = step(colony, action, substrate, config)
        seen = transition.observation
        nodes = seen.nodes.clone()
        nodes[..., NODE["out_degree"]] = 0  # a hub has as many children as were handed up to it
        for part in (nodes, seen.edges, seen.graph):
            assert torch.isfinite(part).all()
            largest = max(largest, float(part.abs().max()))
        assert float(seen.field.min()) >= 0.0
        assert float(seen.field.max()) <= 1.0
        ended = transition.terminated | transition.truncated
        seeds = torch.arange(4) + 100 * t
        colony, substrate = reset_where(transition.colony, substrate, ended, seeds, config)
    assert largest <= 10.0


def test_coincident_nodes_give_finite_features():
    for scaled in (False, True):
        seen = look([(50.0, 50.0)] * 4, scaled=scaled)
        assert all(torch.isfinite(part).all() for part in (seen.nodes, seen.edges, seen.graph))
        assert not seen.edges.any()


def test_delete_is_masked_at_the_minimum():
    config = EnvConfig(max_nodes=8, min_nodes=3)
    for num, allowed in ((2, False), (3, False), (4, True)):
        mask = look([(10.0 + k, 10.0) for k in range(num)], config).action_mask[0]
        assert mask[:num, Kind.DELETE].tolist() == [allowed] * num
        assert mask[:num, :2].all()
        assert mask[num:].tolist() == [[True, False, False]] * (config.num_slots - num)


def test_the_transition_shows_the_colony_after_the_step():
    config = EnvConfig(observation={"field": True})
    colony, substrate = reset(config, torch.arange(3))
    transition = step(colony, action_of(colony, {0: Kind.SPAWN, 3: Kind.DELETE}), substrate, config)
    again = observe(transition.colony, substrate, config)
    for name, value in vars(transition.observation).items():
        assert torch.equal(value, getattr(again, name)), name
