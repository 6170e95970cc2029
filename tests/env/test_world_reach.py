"""The goal can be reached on every scenario; soft ground cannot be crossed blindly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from durotaxis.env import SCENARIOS, Action, EnvConfig, Kind, Reason, reset, step, stiffness
from durotaxis.env.substrate import clamp, coordinates
from durotaxis.env.substrate.config import OVERLAYS
from reference.colonies import action_of


def front_slot(s, alive):
    return torch.where(alive, s, -torch.inf).argmax(1)


def steps_to_goal(substrate, row, spacing=2.0):
    """Steps that perfect spawning needs from each point of a lattice to the goal side, [I,J].

    The shortest paths over a lattice of stiffness (Dijkstra), eight neighbours each, at the reach of the longest
    noiseless step.
    """
    width, height = substrate.size[row].tolist()
    x, y = torch.arange(0.0, width + 0.1, spacing), torch.arange(0.0, height + 0.1, spacing)
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    one = substrate[row : row + 1]
    local = stiffness(points.reshape(1, -1, 2), one)[0].double().numpy()
    slowness = 1 / (10.0 / (1 + (2.0 / local) ** 2))
    index = np.arange(local.size).reshape(len(y), len(x))
    ends = []
    for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rows, columns = slice(0, len(y) - di), slice(max(0, -dj), len(x) - max(0, dj))
        start = index[rows, columns]
        ends.append((start.ravel(), (start + di * len(x) + dj).ravel(), spacing * math.hypot(di, dj)))
    i, j = (np.concatenate([end[k] for end in ends]) for k in (0, 1))
    length = np.concatenate([np.full(len(end[0]), end[2]) for end in ends])
    graph = csr_matrix((length * (slowness[i] + slowness[j]) / 2, (i, j)), shape=(local.size,) * 2)
    s, _ = coordinates(points.reshape(1, -1, 2), one)
    goal = np.flatnonzero(s[0].numpy() >= float(one.extent[0, 0]) - 1e-3)
    steps = dijkstra(graph, directed=False, indices=goal, min_only=True)
    return torch.from_numpy(steps).float().view(len(y), len(x))


def look_up(lattice, position, substrate):
    """lattice [B,I,J] over the substrate, bilinear at positions [B,K,2]."""
    unit = 2.0 * position / substrate.size[:, None] - 1.0
    values = torch.nn.functional.grid_sample(
        lattice[:, None], unit[:, None], align_corners=True, padding_mode="border"
    )
    return values[:, 0, 0]


def walk(config, seeds, limit):
    """Always the foremost node, longest steps without noise; [B] steps, limit + 1 where it does not arrive.

    Over open ground straight ahead; where there are obstacles, on the quickest way that a sighted walker finds.
    """
    colony, substrate = reset(config, seeds)
    sighted = config.substrate.kind in OVERLAYS
    if sighted:
        lattice = torch.stack([steps_to_goal(substrate, row) for row in range(len(seeds))])
    num_steps = torch.full_like(seeds, limit + 1)
    rows = torch.arange(len(seeds))
    low, high = config.spawn_bounds.low, config.spawn_bounds.high
    angles = torch.arange(-40, 41) / 40 * 3.1
    for t in range(limit):
        s, _ = coordinates(colony.position, substrate)
        ahead = -look_up(lattice, colony.position, substrate) if sighted else s
        front = front_slot(ahead, colony.alive)
        action = action_of(colony, {}, (high[0], low[1], 0.0, 0.0))
        if sighted:
            place = colony.position[rows, front][:, None]
            reach = 10.0 / (1 + (2.0 / stiffness(place, substrate)) ** 2)
            heading = angles + config.substrate.direction
            ways = torch.stack([heading.cos(), heading.sin()], -1)
            ends = clamp(place + reach[..., None] * ways, substrate)
            action.parameters[rows, front, 3] = angles[look_up(lattice, ends, substrate).argmin(1)]
        action.kind[rows, front] = int(Kind.SPAWN)
        ahead = ahead.masked_fill(~colony.alive, -torch.inf)
        keep = ahead >= ahead.topk(5, 1).values[:, -1:]  # hold the colony small: the rear goes
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


@pytest.mark.parametrize("direction", [math.pi / 2, math.pi, 0.7, 2.5, -1.1])
@pytest.mark.parametrize("kind", ["stripes", "patches"])
def test_obstacles_leave_a_way_in_any_direction(kind, direction):
    config = EnvConfig(scenario=kind, substrate={"direction": direction})
    assert (walk(config, torch.arange(6), config.max_steps) <= config.max_steps).all()


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
