"""The goal can be reached on every scenario; the moat cannot be crossed blindly."""

from __future__ import annotations

import math

import pytest
import torch

from durotaxis.env import SCENARIOS, Action, EnvConfig, Kind, Reason, reset, step
from durotaxis.env.substrate import coordinates
from reference.colonies import action_of


def front_slot(s, alive):
    return torch.where(alive, s, -torch.inf).argmax(1)


def walk(config, seeds, limit):
    """Always the front node, longest steps without noise, around the moat by way of a bridge; [B] steps."""
    colony, substrate = reset(config, seeds)
    num_steps = torch.full_like(seeds, limit + 1)
    rows = torch.arange(len(seeds))
    low, high = config.spawn_bounds.low, config.spawn_bounds.high
    for t in range(limit):
        s, across = coordinates(colony.position, substrate)
        front = front_slot(s, colony.alive)
        action = action_of(colony, {}, (high[0], low[1], 0.0, 0.0))
        if config.substrate.kind == "moat":
            ahead = substrate.moat.bridges[:, 0] - across[rows, front]
            to_edge = (substrate.moat.first - s[rows, front]).clamp_min(1.0)
            aside = (ahead.abs() > 4.0) & (s[rows, front] < substrate.moat.last)
            angle = torch.where(aside, torch.atan2(ahead, to_edge), 0.0)
            action.parameters[rows, front, 3] = angle.clamp(-1.5, 1.5)
        action.kind[rows, front] = int(Kind.SPAWN)
        keep = colony.alive & (s >= s.topk(5, 1).values[:, -1:])  # hold the colony small: the rear goes
        kind = torch.where(colony.alive & ~keep, int(Kind.DELETE), action.kind)
        kind = torch.where((colony.num_nodes > 5)[:, None], kind, action.kind)
        transition = step(colony, Action(kind=kind, parameters=action.parameters), substrate, config)
        colony = transition.colony
        won = (transition.reason == Reason.SUCCESS) & (num_steps > limit)
        num_steps = torch.where(won, t + 1, num_steps)
        if (num_steps <= limit).all():
            break
    return num_steps


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_the_goal_can_be_reached(scenario):
    config = EnvConfig(scenario=scenario)
    assert (walk(config, torch.arange(8), config.max_steps) <= config.max_steps).all()


def test_quick_takes_at_least_22_perfect_steps_uphill():
    assert int(walk(EnvConfig(scenario="quick"), torch.arange(64), 60).min()) >= 22


def test_random_ground_takes_at_most_85_perfect_steps():
    """All corners of the drawn ranges, from s = 0, by the stated law."""
    corners = [("linear", m, b) for m in (0.01, 0.1) for b in (0.5, 2.0)]
    corners += [("exponential", m, b) for m in (0.004, 0.008) for b in (0.8, 1.5)]
    for kind, slope, base in corners:
        s, num_steps = 20.0, 0
        while s < 198.0:
            stiffness = base + slope * s if kind == "linear" else base * math.exp(slope * s)
            s += 10.0 / (1 + (2.0 / stiffness) ** 2)
            num_steps += 1
        assert num_steps <= 85, (kind, slope, base)
    assert int(walk(EnvConfig(scenario="random"), torch.arange(128), 85).max()) <= 85


def test_a_blind_walker_with_full_noise_does_not_cross_the_moat():
    """Every node spawns straight ahead with the largest noise; no bridge anywhere."""
    config = EnvConfig(
        scenario="moat",
        substrate={"moat": {"num_bridges": 0}},
        max_nodes=12,
        capacity=24,
    )
    colony, substrate = reset(config, torch.arange(60))
    crossed = torch.zeros(60, dtype=torch.bool)
    high = config.spawn_bounds.high
    for _ in range(config.max_steps):
        s, _ = coordinates(colony.position, substrate)
        ahead = s.masked_fill(~colony.alive, -torch.inf)
        crossed |= ahead.amax(1) > substrate.moat.last
        rank = ahead.argsort(1, descending=True).argsort(1)
        kind = torch.where(rank < 6, int(Kind.SPAWN), int(Kind.REST))
        kind = torch.where((rank >= 6) & (colony.num_nodes > 2)[:, None], int(Kind.DELETE), kind)
        kind = torch.where(colony.alive, kind, int(Kind.REST))
        action = action_of(colony, {}, (high[0], 2.0, high[2], 0.0))
        colony = step(colony, Action(kind=kind, parameters=action.parameters), substrate, config).colony
    assert float(crossed.float().mean()) < 0.05
    s, _ = coordinates(colony.position, substrate)
    assert float(s.masked_fill(~colony.alive, -torch.inf).amax(1).median()) > 80, "it came to the moat"
