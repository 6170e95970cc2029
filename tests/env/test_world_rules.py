"""The rules of one step on small colonies written down by hand, with answers known beforehand."""

from __future__ import annotations

import math
from fractions import Fraction

import networkx as nx
import pytest
import torch

from durotaxis.core.randomness import Purpose, normal
from durotaxis.env import Colony, EnvConfig, Kind, Reason, reset, reset_where, step, stiffness
from reference.colonies import action_of, colony_at, random_action, tensors_of

REST, SPAWN, DELETE = Kind.REST, Kind.SPAWN, Kind.DELETE


def world(**values):
    return EnvConfig(**{"max_nodes": 12, "critical_nodes": 8, **values})


def run(colony, action, config, seed=0):
    _, substrate = reset(config, torch.tensor([seed]))
    return step(colony, action, substrate, config)


def living(colony, name):
    return getattr(colony, name)[0, colony.alive[0]].tolist()


@pytest.mark.parametrize(
    ("kind", "values", "length"),
    [
        ("uniform", {"base": 1.0}, 2.0),
        ("uniform", {"base": 6.0}, 9.0),
        ("uniform", {"base": 0.15}, 10 / (1 + (2 / 0.15) ** 2)),
        ("linear", {}, 10 / (1 + (2 / 3.5) ** 2)),
    ],
)
@pytest.mark.parametrize("direction", [0.0, 0.6, math.pi / 2])
@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5])
def test_a_child_lies_at_the_stated_distance_and_angle(kind, values, length, direction, angle):
    config = world(substrate={"kind": kind, "direction": direction, "size": (100.0, 100.0), **values})
    if kind == "linear":  # a point 50 µm along: 3.5 kPa
        half = config.substrate.extent[0] / 2
        x = 50.0 + (50.0 - half) * math.cos(direction)
        y = 50.0 + (50.0 - half) * math.sin(direction)
    else:
        x, y = 50.0, 50.0
    colony = colony_at([(x, y), (60.0, 60.0)], config)
    after = run(colony, action_of(colony, {0: SPAWN}, (10.0, 2.0, 0.0, angle)), config).colony
    child = after.position[0, 2]
    assert child.tolist() == pytest.approx(
        [x + length * math.cos(direction + angle), y + length * math.sin(direction + angle)], abs=2e-5
    )
    assert living(after, "parent") == [-1, 0, 0]
    assert living(after, "newborn") == [False, False, True]
    assert living(after, "age") == [1, 1, 0]


def test_noise_scales_the_step_and_is_clipped_at_nothing_and_twice():
    config = world(substrate={"kind": "uniform"}, spawn_bounds={"noise": (0.0, 1.5)})
    places = [(50.0, 50.0), (60.0, 50.0)]
    colony = Colony.cat([colony_at(places, config, seed=seed, step=7) for seed in range(200)])
    _, substrate = reset(config, torch.arange(200))
    after = step(colony, action_of(colony, {1: SPAWN}, (10.0, 2.0, 1.5, 0.0)), substrate, config).colony
    factors = ((after.position[:, 2, 0] - 60.0) / 9.0).tolist()
    for seed, factor in enumerate(factors):
        draw = float(normal(seed, Purpose.SPAWN_NOISE, 7, 1))
        assert factor == pytest.approx(min(max(1 + 1.5 * draw, 0.0), 2.0), abs=1e-5)
    assert min(factors) == 0.0
    assert max(factors) == pytest.approx(2.0, abs=1e-5)


def test_the_child_is_clamped_or_left_outside():
    near = [(199.0, 99.5), (100.0, 50.0)]
    clamp, leave = world(goal_margin=0.0, scenario="uniform"), world(scenario="uniform", boundary="terminate")
    colony = colony_at(near, clamp)
    action = action_of(colony, {0: SPAWN}, (10.0, 2.0, 0.0, math.pi / 4))
    held = run(colony, action, clamp)
    assert held.colony.position[0, 2].tolist() == [200.0, 100.0]
    assert int(held.reason) == Reason.SUCCESS
    side = action_of(colony, {0: SPAWN}, (10.0, 2.0, 0.0, math.pi / 2))
    left = run(colony_at([(100.0, 99.5), (90.0, 50.0)], leave), side, leave)
    assert left.colony.position[0, 2].tolist() == pytest.approx([100.0, 108.5], abs=1e-4)
    assert int(left.reason) == Reason.OUT_OF_BOUNDS
    assert bool(left.terminated)
    assert float(left.terms["termination"]) == leave.reward.out_of_bounds


def test_children_of_the_deleted_go_to_the_nearest_surviving_ancestor():
    config = world()
    #      0 - 1 - 2 - 3 - 4     2 and 3 go: 4 to 1.    5 - 6, 5 goes: 6 becomes a root.
    points = [(10.0 + k, 50.0) for k in range(7)]
    colony = colony_at(points, config, parents=[-1, 0, 1, 2, 3, -1, 5])
    after = run(colony, action_of(colony, {2: DELETE, 3: DELETE, 5: DELETE}), config).colony
    assert living(after, "node_id") == [0, 1, 4, 6]
    assert living(after, "parent") == [-1, 0, 1, -1]


def test_a_child_born_in_the_step_keeps_its_parent_through_the_packing():
    config = world()
    colony = colony_at([(10.0 + k, 50.0) for k in range(4)], config, parents=[-1, 0, 1, 2])
    after = run(colony, action_of(colony, {0: DELETE, 1: DELETE, 2: SPAWN, 3: SPAWN}), config).colony
    assert living(after, "node_id") == [2, 3, 4, 5]
    assert living(after, "parent") == [-1, 0, 0, 1]
    assert living(after, "newborn") == [False, False, True, True]


def test_deep_chains_are_re_attached_at_once():
    config = world(max_nodes=60)
    colony = colony_at([(5.0 + k, 50.0) for k in range(40)], config)
    after = run(colony, action_of(colony, dict.fromkeys(range(1, 39), DELETE)), config).colony
    assert living(after, "node_id") == [0, 39]
    assert living(after, "parent") == [-1, 0]


def test_a_colony_stays_a_forest_whose_ancestry_only_loses_the_dead():
    """networkx: each surviving node's ancestors afterwards are its surviving ancestors before."""
    config = world(max_nodes=30, capacity=40, max_steps=1000)
    generator = torch.Generator().manual_seed(5)
    colony, substrate = reset(config, torch.arange(4))
    for t in range(50):
        action = random_action(colony, config, generator, [[2, 4, 3], [3, 3, 3], [1, 6, 5], [4, 2, 2]])
        after = step(colony, action, substrate, config).colony
        for row in range(4):
            before_graph, after_graph = (to_networkx(c, row) for c in (colony, after))
            assert len(after_graph) == 0 or nx.is_branching(after_graph)
            survivors = set(before_graph) & set(after_graph)
            for node in survivors:
                assert nx.ancestors(after_graph, node) == nx.ancestors(before_graph, node) & survivors
        ended = (after.num_nodes > config.max_nodes) | (after.num_nodes == 0)
        colony, substrate = reset_where(after, substrate, ended, torch.arange(4) + 100 * t, config)


def to_networkx(colony, row):
    ids, graph = colony.node_id[row].tolist(), nx.DiGraph()
    graph.add_nodes_from(ids[k] for k in colony.alive[row].nonzero().flatten().tolist())
    edges = colony.is_edge[row].nonzero().flatten().tolist()
    graph.add_edges_from((ids[int(colony.parent[row, k])], ids[k]) for k in edges)
    return graph


def test_where_slots_are_short_parents_in_slot_order_win():
    config = world(max_nodes=4, capacity=5, num_initial_nodes=3)
    colony = colony_at([(10.0, 50.0), (11.0, 50.0), (12.0, 50.0), (13.0, 50.0)], config)
    transition = run(colony, action_of(colony, {0: DELETE, 1: SPAWN, 2: SPAWN, 3: SPAWN}), config)
    assert living(transition.colony, "node_id") == [1, 2, 3, 4]
    assert living(transition.colony, "parent") == [-1, 0, 1, 0]
    assert {k: int(v) for k, v in transition.counts.items()} == {"spawned": 1, "deleted": 1, "dropped": 2}
    assert int(transition.colony.next_id) == 5


def test_ids_are_never_used_twice():
    config = world(max_nodes=20, capacity=24, max_steps=1000)
    generator = torch.Generator().manual_seed(1)
    colony, substrate = reset(config, torch.arange(3))
    seen = [set(colony.node_id[row][colony.alive[row]].tolist()) for row in range(3)]
    for _ in range(120):
        action = random_action(colony, config, generator, [[2, 5, 3], [2, 4, 3], [1, 5, 3]])
        colony = step(colony, action, substrate, config).colony
        for row in range(3):
            born = colony.node_id[row][colony.newborn[row]].tolist()
            assert born == sorted(born)
            assert not seen[row] & set(born)
            seen[row] |= set(born)
            ids = living(colony[row : row + 1], "node_id")
            assert ids == sorted(set(ids)), "older first, each once"
            assert set(ids) <= seen[row]
    assert min(len(ids) for ids in seen) > 30


@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.29, 0.7, 1.0])
def test_the_number_of_marks(fraction):
    config = world(max_nodes=220, critical_nodes=10, mark_fraction=fraction, delta_time=0)
    for num in (9, 10, 11, 16, 17, 20, 30, 50, 70, 110, 210):
        points = [(1.0 + 0.9 * k, 50.0) for k in range(num)]
        marks = run(colony_at(points, config), action_of(colony_at(points, config), {}), config).colony.marked
        quota = max(1, math.floor(Fraction(str(fraction)) * (num - 10))) if num > 10 else 0
        soft = math.ceil(num / 2) if num % 2 == 0 else num // 2
        assert marks[0].nonzero().flatten().tolist() == list(range(min(quota, soft))), num


def test_marks_fall_on_old_soft_nodes_alone():
    config = world(max_nodes=12, critical_nodes=4, mark_fraction=1.0, delta_time=3)
    points = [(10.0, 9.0), (20.0, 9.0), (30.0, 9.0), (40.0, 9.0), (150.0, 9.0), (160.0, 9.0), (170.0, 9.0)]
    colony = colony_at(points, config, ages=[1, 2, 3, 9, 9, 9, 9])
    after = run(colony, action_of(colony, {}), config).colony
    assert living(after, "marked") == [False, True, True, True, False, False, False]
    few = run(after, action_of(after, {0: DELETE, 1: DELETE, 2: DELETE}), config).colony
    assert few.num_nodes.tolist() == [4]
    assert not few.marked.any(), "at N_c no node is marked, and old marks are gone"


def test_equally_soft_nodes_are_marked_by_age_of_id():
    config = world(max_nodes=12, critical_nodes=4, mark_fraction=0.4, delta_time=0)
    colony = colony_at([(150.0, 9.0), *[(10.0, 3.0 + k) for k in range(8)]], config)
    after = run(colony, action_of(colony, {}), config).colony
    assert living(after, "marked") == [False, True, True] + [False] * 6


@pytest.mark.parametrize("base", [0.1, 0.7, 1.3, 6.0, 41.3])
def test_on_uniform_ground_no_node_is_softer_than_the_mean(base):
    config = world(max_nodes=60, critical_nodes=4, delta_time=0, substrate={"kind": "uniform", "base": base})
    for num in range(5, 60):
        colony = colony_at([(1.0 + 3 * k, 50.0) for k in range(num)], config)
        assert not run(colony, action_of(colony, {}), config).colony.marked.any(), num


def test_drift_counts_falling_back_and_ends_at_the_limit():
    config = world(left_moves_limit=3)
    points = [(100.0, 50.0), (90.0, 50.0), (80.0, 50.0), (70.0, 50.0), (60.0, 50.0), (50.0, 50.0)]
    colony = colony_at(points, config)
    for expected in (1, 2, 0, 1, 2, 3):  # a child of the last node pulls back, standing still starts afresh
        action = {} if expected == 0 else {len(living(colony, "age")) - 1: SPAWN}
        transition = run(colony, action_of(colony, action, (1.0, 20.0, 0.0, math.pi)), config)
        colony = transition.colony
        assert int(colony.drift_count) == expected
    assert int(transition.reason) == Reason.DRIFT
    assert float(transition.terms["termination"]) == config.reward.drift


def test_the_first_reason_counts():
    config = world(max_nodes=6, capacity=12, critical_nodes=3, max_steps=10)
    crowd = [(198.5, 50.0), *[(150.0 + k, 50.0) for k in range(6)]]
    for points, plain, reason in (
        (crowd, {"step": 9}, Reason.SUCCESS),
        (crowd[1:], {"step": 9}, Reason.MAX_STEPS),
        ([*crowd[1:], (149.0, 50.0)], {"step": 9}, Reason.OVERCROWDED),
        (crowd[1:], {"step": 8}, Reason.RUNNING),
    ):
        colony = colony_at(points, config, **plain)
        transition = run(colony, action_of(colony, {}), config)
        assert int(transition.reason) == reason
        assert bool(transition.truncated) == (reason == Reason.MAX_STEPS)
        assert bool(transition.terminated) == (reason not in (Reason.RUNNING, Reason.MAX_STEPS))


def test_an_empty_colony_is_extinct_and_all_zero():
    config = world(min_nodes=2, reward={"survival": 0.0})
    colony = colony_at([(10.0, 50.0), (11.0, 50.0), (12.0, 50.0)], config, drift_count=4)
    transition = run(colony, action_of(colony, {0: DELETE, 1: DELETE, 2: DELETE}), config)
    assert int(transition.reason) == Reason.EXTINCT
    assert int(transition.colony.drift_count) == 0
    seen = transition.observation
    for part in (seen.nodes, seen.edges, seen.graph, seen.position):
        assert not part.any()
    assert (seen.parent == -1).all()
    again = run(transition.colony, action_of(transition.colony, {}), config)
    assert int(again.reason) == Reason.EXTINCT
    assert torch.isfinite(again.reward).all()
    assert all(
        not again.terms[name].any() for name in ("progress_centroid", "progress_front", "spawn", "delete")
    )


def test_milestones_are_paid_once_and_may_come_together():
    config = world(goal_margin=0.01)
    colony = colony_at([(48.0, 50.0), (20.0, 50.0)], config)
    ahead = (10.0, 2.0, 0.0, 0.0)
    first = run(colony, action_of(colony, {0: SPAWN}, ahead), config)
    assert float(first.terms["milestone"]) == pytest.approx(0.25)
    back = run(first.colony, action_of(first.colony, {2: DELETE}), config)
    assert float(back.terms["milestone"]) == 0.0
    again = run(back.colony, action_of(back.colony, {0: SPAWN}, ahead), config)
    assert float(again.terms["milestone"]) == 0.0
    assert int(again.colony.milestones) == 1
    many = run(colony_at([(181.0, 50.0), (20.0, 50.0)], config), action_of(colony, {}), config)
    assert float(many.terms["milestone"]) == pytest.approx(1.0)


def test_a_child_that_dies_young_pays_its_share_back():
    config = world(delta_time=3, reward={"spawn": 0.5})
    colony = colony_at([(50.0, 50.0), (40.0, 50.0)], config)
    born = run(colony, action_of(colony, {0: SPAWN}, (10.0, 2.0, 0.0, 0.0)), config)
    assert float(born.terms["spawn"]) == pytest.approx(0.25)
    for wait, paid in ((0, -0.25), (3, -0.25), (4, 0.0)):
        colony = born.colony
        for _ in range(wait):
            colony = run(colony, action_of(colony, {}), config).colony
        assert int(colony.age[0, 2]) == wait
        gone = run(colony, action_of(colony, {2: DELETE}), config)
        assert float(gone.terms["spawn"]) == pytest.approx(paid)
    down = run(born.colony, action_of(born.colony, {0: SPAWN}, (10.0, 2.0, 0.0, math.pi)), config)
    assert float(down.terms["spawn"]) == pytest.approx(-0.5 / 3)
    lost = run(down.colony, action_of(down.colony, {3: DELETE}), config)
    assert float(lost.terms["spawn"]) == 0.0, "no share was paid for a step down"


def test_the_true_parent_is_compared_even_when_packing_moves_it():
    """The parent's own stiffness counts, not that of whoever stands in its slot after packing."""
    config = world()
    colony = colony_at([(10.0, 50.0), (100.0, 50.0), (150.0, 50.0)], config, parents=[-1, -1, -1])
    action = action_of(colony, {0: DELETE, 1: SPAWN}, (10.0, 2.0, 0.0, 0.0))
    transition = run(colony, action, config)
    assert float(transition.terms["spawn"]) == pytest.approx(config.reward.spawn / 3)
    assert float(transition.terms["edge_direction"]) == pytest.approx(config.reward.edge_direction / 3)


def test_step_changes_none_of_its_inputs():
    config = world(scenario="moat")
    colony, substrate = reset(config, torch.arange(4))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        action = random_action(colony, config, generator, [[1, 2, 1]] * 4)
        copies = [{k: v.clone() for k, v in tensors_of(part).items()} for part in (colony, action, substrate)]
        transition = step(colony, action, substrate, config)
        for part, copy in zip((colony, action, substrate), copies, strict=True):
            for name, value in tensors_of(part).items():
                assert torch.equal(value, copy[name]), name
        colony = transition.colony


def test_stiffness_seen_is_that_of_the_ground():
    config = world(scenario="exponential")
    colony, substrate = reset(config, torch.arange(3))
    seen = stiffness(colony.position, substrate)
    assert seen[0, 0].item() == pytest.approx(math.exp(0.0075 * float(colony.position[0, 0, 0])), rel=1e-6)
