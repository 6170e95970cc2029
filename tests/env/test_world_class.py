"""What the class that holds a world refuses: seeds, masks, devices, other worlds' states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, EnvConfig, Reason, step
from durotaxis.env.types import empty_action


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (torch.tensor([0.5, 1.7]), "whole numbers"),
        ([True, False], "whole numbers"),
        ([2**63, 0], "whole numbers"),
        ([1], r"shape \[2\], not \[1\]"),
    ],
)
def test_seeds_that_are_none_are_refused(seeds, message):
    with pytest.raises(UserError, match=message):
        DurotaxisEnv(EnvConfig(), 2).reset(seeds)


@pytest.mark.parametrize("mask", [torch.tensor([True]), torch.tensor([1, 0])])
def test_masks_that_are_none_are_refused(mask):
    world = DurotaxisEnv(EnvConfig(), 2)
    world.reset([0, 1])
    with pytest.raises(UserError, match=r"mask must be bool of shape \[2\]"):
        world.reset_where(mask, torch.tensor([5, 6]))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99"])
def test_devices_that_are_none_are_refused(device):
    with pytest.raises(UserError, match="has no device"):
        DurotaxisEnv(EnvConfig(), 2, device)


@pytest.mark.parametrize("other", [{"kind": "patches"}, {"size": (50.0, 50.0)}])
def test_a_saved_world_on_other_ground_is_refused(other):
    saved, world = DurotaxisEnv(EnvConfig(), 2), DurotaxisEnv(EnvConfig(substrate=other), 2)
    saved.reset([0, 1])
    with pytest.raises(UserError, match="another kind or size of substrate"):
        world.load_state_dict(saved.state_dict())


def test_a_saved_world_with_more_milestones_passed_than_there_are_is_refused():
    world = DurotaxisEnv(EnvConfig(), 2)
    world.reset([0, 1])
    state = world.state_dict()
    state["colony"]["milestones"] = torch.tensor([0, 3])
    fewer, enough = (
        DurotaxisEnv(EnvConfig(reward={"milestones": m}), 2) for m in ((0.5, 0.9), (0.5, 0.7, 0.9))
    )
    with pytest.raises(UserError, match=r"have passed 3 milestones, env\.reward\.milestones has 2; keep at"):
        fewer.load_state_dict(state)
    enough.load_state_dict(state)
    unchanged = torch.zeros(2, dtype=torch.bool)
    seen = enough.reset_where(unchanged, torch.tensor([0, 1]))
    assert seen.graph[:, -1].tolist() == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("direction", [0.0972, 0.1915, 0.3172])
def test_the_goal_is_reached_in_the_farthest_corner_without_a_margin(direction):
    config = EnvConfig(goal_margin=0.0, substrate={"direction": direction, "slope": 0.03})
    world = DurotaxisEnv(config, 1)
    world.reset([0])
    corner = torch.tensor(config.substrate.size)
    colony = replace(world.colony, position=torch.where(world.colony.alive[..., None], corner, 0.0))
    result = step(colony, empty_action(colony), world.substrate, config)
    assert int(result.reason) == Reason.SUCCESS
