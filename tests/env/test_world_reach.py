"""The goal can be reached on every scenario; soft ground cannot be crossed blindly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from durotaxis.env import SCENARIOS, Action, EnvConfig, Kind, Reason, reset, step, stiffness
from durotaxis.env.substrate import coordinates
from durotaxis.env.substrate.config import OVERLAYS
from reference.colonies import action_of


def front_slot(s, alive):
    return torch.where(alive, s, -torch.inf).argmax(1)


SPACING = 2.0
"""µm between the points of the lattice that the sighted walker plans on."""


def plan(substrate, row):
    """The quickest way to the goal from every point of a lattice (Dijkstra, eight neighbours each).

    Returns points [n,2], the number of longest noiseless steps to the goal [n], and the next point [n].
    """
    width, height = substrate.size[row].tolist()
    x, y = torch.arange(0.0, width + 0.1, SPACING), torch.arange(0.0, height + 0.1, SPACING)
    shape = len(y), len(x)
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(-1, 2)
    one = substrate[row : row + 1]
    local = stiffness(points[None], one).view(shape).double().numpy()
    slowness = 1 / reach_on(minimum_filter(local, 3)).ravel()  # cracks narrower than the lattice are no way
    index = np.arange(local.size).reshape(shape)
    first, second, length = [], [], []
    for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
        start = index[: shape[0] - di, max(0, -dj) : shape[1] - max(0, dj)].ravel()
        first.append(start)
        second.append(start + di * shape[1] + dj)
        length.append(np.full(len(start), SPACING * math.hypot(di, dj)))
    i, j = np.concatenate(first), np.concatenate(second)
    cost = np.concatenate(length) * (slowness[i] + slowness[j]) / 2
    s, _ = coordinates(points[None], one)
    goal = np.flatnonzero(s[0].numpy() >= float(one.extent[0, 0]) - 1e-3)
    graph = csr_matrix((cost, (i, j)), shape=(local.size,) * 2)
    steps, following, _ = dijkstra(graph, False, goal, True, min_only=True)
    following = np.where(following < 0, np.arange(local.size), following)
    return points, torch.from_numpy(steps).float(), torch.from_numpy(following).long()


def reach_on(local):
    """Length of the longest noiseless step on stiffness `local`."""
    return 10.0 / (1 + (2.0 / local) ** 2)


class Sight:
    """What a walker with plans of every substrate does."""

    def __init__(self, substrate):
        plans = [plan(substrate, row) for row in range(len(substrate.ground))]
        self.points = plans[0][0]
        self.steps, self.following = (torch.stack([p[k] for p in plans]) for k in (1, 2))
        self.substrate = substrate

    def next_point(self, position):
        """Lattice points [B,N] that follow on those nearest to positions [B,N,2]."""
        columns = round(float(self.points[:, 0].max()) / SPACING) + 1
        nearest = (position / SPACING).round().long()
        return self.following.gather(1, nearest[..., 1] * columns + nearest[..., 0])

    def remaining(self, position):
        """Steps to the goal from positions [B,N,2]."""
        target = self.next_point(position)
        way = (self.points[target] - position).norm(dim=-1)
        return self.steps.gather(1, target) + way / reach_on(stiffness(position, self.substrate))

    def step(self, place):
        """(max_step, angle from +x) [B] from places [B,2]: to the farthest point of the way within reach."""
        reach = reach_on(stiffness(place[:, None], self.substrate))[:, 0]
        target = self.next_point(place[:, None])
        for _ in range(8):
            further = self.following.gather(1, target)
            within = (self.points[further[:, 0]] - place).norm(dim=-1) <= reach
            target = torch.where(within[:, None], further, target)
        way = self.points[target[:, 0]] - place
        share = (way.norm(dim=-1) / reach).clamp(0.1, 1.0)
        return 10.0 * share, torch.atan2(way[:, 1], way[:, 0])


def walk(config, seeds, limit):
    """Always the foremost node, without noise; [B] steps, limit + 1 where it does not arrive.

    Over open ground the longest steps straight ahead; where there are obstacles, along a plan.
    """
    colony, substrate = reset(config, seeds)
    sight = Sight(substrate) if config.substrate.kind in OVERLAYS else None
    num_steps = torch.full_like(seeds, limit + 1)
    rows = torch.arange(len(seeds))
    low, high = config.spawn_bounds.low, config.spawn_bounds.high
    for t in range(limit):
        s, _ = coordinates(colony.position, substrate)
        ahead = s if sight is None else -sight.remaining(colony.position)
        front = front_slot(ahead, colony.alive)
        action = action_of(colony, {}, (high[0], low[1], 0.0, 0.0))
        if sight is not None:
            max_step, heading = sight.step(colony.position[rows, front])
            turn = heading - config.substrate.direction
            action.parameters[rows, front, 0] = max_step
            action.parameters[rows, front, 3] = torch.atan2(turn.sin(), turn.cos())
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
    num_seeds = 40 if config.substrate.kind in OVERLAYS else 8
    assert (walk(config, torch.arange(num_seeds), config.max_steps) <= config.max_steps).all()


@pytest.mark.parametrize("direction", [math.pi / 2, 1.5707963, math.pi, 0.7, 2.5, -1.1])
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
