"""Scenes and examples: seeded, late states included, and equal to what the world itself observes."""

from dataclasses import replace

import pytest
import torch

from durotaxis.agent.graph import flatten
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, observe, reset
from durotaxis.pretrain import scenes
from durotaxis.pretrain.examples import Examples, examine, observed_graph, with_edges
from durotaxis.pretrain.scenes import random_scenes, rollout_scenes
from durotaxis.pretrain.worlds import HELD_OUT, TRAINING, world


@pytest.fixture(scope="module")
def rollouts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "_ROLLOUT_STEPS", 90)
        return rollout_scenes(world("linear"), 1, 150)


def test_every_world_is_a_valid_configuration_and_none_is_held_out_and_shown():
    configs = {name: world(name) for name in (*TRAINING, *HELD_OUT)}
    assert all(config.observation.field for config in configs.values())
    for held_out in HELD_OUT:
        assert all(configs[held_out].substrate != configs[name].substrate for name in TRAINING)
    shown = {configs[name].substrate.kind for name in TRAINING}
    assert {configs[name].substrate.kind for name in HELD_OUT} - shown == {"patches", "noise"}
    with pytest.raises(UserError, match="did you mean 'moat'"):
        world("moet")


def test_rollouts_are_seeded_and_reach_late_states(rollouts, monkeypatch):
    monkeypatch.setattr(scenes, "_ROLLOUT_STEPS", 12)
    first, again, other = (rollout_scenes(world("linear"), seed, 96) for seed in (1, 1, 2))
    assert first.colony.batch_size == 96
    assert torch.equal(first.colony.position, again.colony.position)
    assert torch.equal(first.links, again.links)
    assert first.colony.position.shape != other.colony.position.shape or not torch.equal(
        first.colony.position, other.colony.position
    )
    assert 140 <= rollouts.colony.batch_size <= 160
    assert float(rollouts.colony.front.max()) > 150  # of 200 µm
    assert int(rollouts.colony.num_nodes.max()) >= 20
    assert float(rollouts.next[:, 0].nan_to_num().max()) > 0


def test_scenes_of_one_seed_are_states_of_one_episode(rollouts):
    # A slot is looked at every 90 * 48 // 150 steps, and an episode counts its own.
    episode, step = rollouts.colony.seed, rollouts.colony.step
    several = 0
    for seed in episode.unique():
        mine = step[episode == seed]
        assert set(mine.diff().tolist()) <= {28}
        several += len(mine) > 1
    assert several >= 20
    assert len(episode.unique()) >= 48


def test_more_colonies_play_where_every_step_of_them_is_not_enough(monkeypatch):
    monkeypatch.setattr(scenes, "_ROLLOUT_STEPS", 6)
    drawn = {count: rollout_scenes(world("linear"), 1, count).colony for count in (200, 288, 289, 400)}
    assert {count: colony.batch_size for count, colony in drawn.items()} == {
        200: 288,
        288: 288,
        289: 306,
        400: 414,
    }
    assert len(drawn[400].seed.unique()) >= 69


def test_a_third_of_the_colonies_each_is_random_delete_left_or_mixed():
    config = world("linear")
    colony, substrate = reset(config, torch.arange(60))
    policy = torch.arange(60) % 3
    chosen = scenes._behave(colony, substrate, config, policy)
    is_random, is_left = (
        (chosen.kind == SCRIPTED[name](colony, substrate, config).kind).all(1)
        for name in ("random", "delete-left")
    )
    assert bool(is_random[policy == 0].all())
    assert bool(is_left[policy == 1].all())
    assert bool((is_random | is_left)[policy == 2].all())
    mixed_left = int((is_left & ~is_random)[policy == 2].sum())
    assert 2 <= mixed_left <= 18


def test_a_colony_is_seen_as_the_agent_sees_it(rollouts):
    seen = observe(rollouts.colony, rollouts.substrate, rollouts.config)
    expected = flatten(seen).to_input()
    bare = replace(rollouts.colony, parent=torch.full_like(rollouts.colony.parent, -1))
    found = observed_graph(observe(bare, rollouts.substrate, rollouts.config), rollouts.links)
    found.check()
    torch.testing.assert_close(found.nodes, expected.nodes)
    assert torch.equal(found.edge_index, expected.edge_index)
    torch.testing.assert_close(found.edges, expected.edges)
    torch.testing.assert_close(found.graph, expected.graph)
    examples = examine(rollouts, "graph", 0)
    unmarked = (examples.of_scene["joined"] < 0).nonzero()[:, 0]
    assert torch.equal(examples.field[unmarked], seen.field[unmarked])


def test_leaving_out_edges_is_seeing_a_forest_without_them(rollouts):
    seen = observe(rollouts.colony, rollouts.substrate, rollouts.config)
    whole = flatten(seen).to_input()
    keep = torch.rand(len(whole.edges), generator=torch.Generator().manual_seed(0)) < 0.5
    cut = rollouts.colony.parent.clone()
    scene, _, child = rollouts.links[:, ~keep]
    cut[scene, child] = -1
    expected = flatten(observe(replace(rollouts.colony, parent=cut), rollouts.substrate, rollouts.config))
    found = with_edges(whole, keep)
    torch.testing.assert_close(found.nodes, expected.nodes)
    torch.testing.assert_close(found.graph, expected.graph)
    assert torch.equal(found.edge_index, expected.to_input().edge_index)


def test_random_graphs_are_seeded_lie_on_the_substrate_and_need_not_be_forests():
    config = EnvConfig(observation={"field": True})
    drawn, again = random_scenes(config, 7, 40), random_scenes(config, 7, 40)
    assert torch.equal(drawn.colony.position, again.colony.position)
    assert torch.equal(drawn.links, again.links)
    alive = drawn.colony.alive
    assert bool((drawn.colony.position <= drawn.substrate.size[:, None])[alive].all())
    scene, source, target = drawn.links
    assert bool(alive[scene, source].all())
    assert bool(alive[scene, target].all())
    edges = torch.bincount(scene, minlength=40)
    assert bool((edges >= alive.sum(1)).any())
    assert bool((edges < alive.sum(1)).any())


def test_taking_scenes_is_examining_them_alone():
    examples = examine(random_scenes(world("stripes"), 7, 12), "graph", 0)
    rows = torch.tensor([7, 2, 2, 11])
    taken = examples.take(rows)
    taken.graph.check()
    parts = Examples.cat([examples.take(rows[i : i + 1]) for i in range(4)])
    for one in (taken, parts):
        assert torch.equal(one.field, examples.field[rows])
        assert len(one) == 4
    assert torch.equal(taken.graph.nodes, parts.graph.nodes)
    assert torch.equal(taken.graph.edge_index, parts.graph.edge_index)
    assert torch.equal(taken.pair, parts.pair)
    assert torch.equal(taken.group, examples.group[rows])
    assert torch.equal(parts.group, examples.group[rows])
    assert taken.source.tolist() == parts.source.tolist() == [scenes.Source.RANDOM] * 4
    assert torch.equal(taken.of_node["blocked"], parts.of_node["blocked"])
    first = (examples.graph.batch == 7).nonzero()[:, 0]
    assert torch.equal(taken.graph.nodes[: len(first)], examples.graph.nodes[first])
    for row in range(4):
        if taken.pair[row, 0] >= 0:
            old = examples.pair[rows[row]]
            assert torch.equal(taken.graph.nodes[taken.pair[row]], examples.graph.nodes[old])
