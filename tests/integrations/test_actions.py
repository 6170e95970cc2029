"""The rules that turn a few numbers into an action of every node."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from integration_cases import GOOD

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.env import DurotaxisEnv, EnvConfig, Kind, check_action
from durotaxis.integrations import global_action, preferred_action

CONFIG = EnvConfig()


def grown(num_colonies=6, num_steps=12, config=CONFIG):
    """Colonies of different sizes and shapes."""
    world = DurotaxisEnv(config, num_colonies)
    world.reset(torch.arange(num_colonies))
    for _ in range(num_steps):
        world.step(SCRIPTED["random"](world.colony, world.substrate, config))
    return world


def rule(s, num_nodes, fraction, config=CONFIG):
    """The documented rule for one colony, in plain words: kinds by slot."""
    order = sorted(range(num_nodes), key=lambda n: -s[n])
    num_spawning = -(-num_nodes // 2) if num_nodes < config.critical_nodes else -(-num_nodes // 4)
    num_deleting = (
        min(int(fraction * num_nodes), num_nodes - num_spawning) if num_nodes > config.min_nodes else 0
    )
    kinds = [Kind.REST] * num_nodes
    for n in order[:num_spawning]:
        kinds[n] = Kind.SPAWN
    for n in order[num_nodes - num_deleting :]:
        kinds[n] = Kind.DELETE
    return kinds


@pytest.mark.parametrize("first", [-1.0, -0.5, 0.2, 1.0])
@pytest.mark.parametrize("num_steps", [0, 12])
def test_the_global_rule_is_as_documented(first, num_steps):
    world = grown(num_steps=num_steps)
    action = torch.tensor([[first, 1.0, -1.0, 0.5, -0.25]]).repeat(6, 1)
    result = global_action(world.colony, world.substrate, CONFIG, action)
    check_action(world.colony, result, CONFIG)
    for b in range(6):
        n = int(world.colony.num_nodes[b])
        s = world.colony.position[b, :n, 0].tolist()  # direction is +x
        assert result.kind[b, :n].tolist() == rule(s, n, (first + 1) / 2)
        assert not result.kind[b, n:].any()
    np.testing.assert_allclose(result.parameters[0, 0], [10.0, 2.0, 0.375, -np.pi / 4], rtol=1e-6)
    low, high = (
        global_action(world.colony, world.substrate, CONFIG, torch.full((6, 5), v)) for v in (-1.0, 1.0)
    )
    assert torch.equal(low.parameters[2, 3], torch.tensor(CONFIG.spawn_bounds.low))
    assert torch.equal(high.parameters[2, 3], torch.tensor(CONFIG.spawn_bounds.high))


def test_a_constant_action_reaches_the_goal_below_max_nodes():
    """What makes the id worth learning: one fixed action holds N near critical_nodes and wins."""
    world = DurotaxisEnv(CONFIG, 16)
    world.reset(torch.arange(16))
    ended, won, most = torch.zeros(16, dtype=torch.bool), torch.zeros(16, dtype=torch.bool), 0
    for _ in range(CONFIG.max_steps):
        action = global_action(world.colony, world.substrate, CONFIG, torch.tensor([GOOD]).repeat(16, 1))
        transition = world.step(action)
        most = max(most, int(transition.colony.num_nodes[~ended].max()))
        won |= (transition.reason == 1) & ~ended
        ended |= transition.terminated | transition.truncated
        if bool(ended.all()):
            break
    assert won.all()
    assert CONFIG.critical_nodes <= most <= CONFIG.critical_nodes + 8


def test_nobody_deletes_the_whole_colony():
    world = DurotaxisEnv(CONFIG, 6)
    world.reset(torch.arange(6))
    everything = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]).repeat(6, 1)
    for _ in range(10):
        after = world.step(global_action(world.colony, world.substrate, CONFIG, everything))
        assert (after.colony.num_nodes > 0).all()


def test_preferences_choose_the_best_allowed_kind():
    world = DurotaxisEnv(EnvConfig(num_initial_nodes=2), 1)
    world.reset([0])
    numbers = torch.zeros(1, 120, 7)
    numbers[..., 2] = 1.0  # delete, which is masked at two nodes
    numbers[0, 0, 1] = 0.5
    action = preferred_action(world.colony, world.config, numbers)
    check_action(world.colony, action, world.config)
    assert action.kind[0, :3].tolist() == [Kind.SPAWN, Kind.REST, Kind.REST]
    np.testing.assert_allclose(action.parameters[0, 0], [5.5, 11.0, 0.25, 0.0], atol=1e-6)
    grown_up = grown(1)
    assert (
        preferred_action(grown_up.colony, CONFIG, numbers).kind[grown_up.colony.alive][1:] == Kind.DELETE
    ).all()
