"""Which worlds the scores of the scripted policies hold for."""

from __future__ import annotations

import pytest
import torch

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.env import EnvConfig
from durotaxis.study.config import RootConfig
from durotaxis.study.score import is_scenario, play, scenario_scores, world_name

CROWDED = {"max_nodes": 12, "critical_nodes": 4, "num_initial_nodes": 5, "max_steps": 6}


@pytest.mark.parametrize("overcrowding", ["terminate", "cap"])
@pytest.mark.parametrize("capacity", [13, 20, 24, 25, 60])
def test_slots_that_no_colony_can_fill_change_no_episode(overcrowding, capacity):
    """Where all spawn at every step, colonies grow as fast as they can."""
    plain = EnvConfig(**CROWDED, overcrowding=overcrowding)
    other = EnvConfig(**CROWDED, overcrowding=overcrowding, capacity=capacity)
    one, two = (play(SCRIPTED["grow-only"], config, torch.arange(4)) for config in (plain, other))
    same = all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("returns", "length"))
    assert same or other.capacity_binds
    if (overcrowding, capacity) == ("terminate", 13):  # 5, 10, and 20 nodes
        assert other.capacity_binds
        assert not same


def test_a_run_with_a_curriculum_is_its_own_scenario():
    stages = [{"name": "a", "max_steps": 9, "env": {"max_nodes": 90}}, {"name": "b"}]
    root = RootConfig(env={"scenario": "moat"}, training={"curriculum": stages, "total_steps": 90_000})
    env = root.settled().env
    assert env.capacity == 180
    assert is_scenario(env)
    assert world_name(env) == "moat"
    assert scenario_scores(env) is not None
    assert not is_scenario(env.model_copy(update={"capacity": 100}))
    assert not is_scenario(env.model_copy(update={"max_steps": 100}))
