"""Policies written by hand: the reference `delete-left`, and those that a sound reward must rank below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import Substrate, coordinates
from durotaxis.env.types import NUM_KINDS, Action, Colony, Kind

ScriptedPolicy = Callable[[Colony, Substrate, EnvConfig], Action]
"""(colony, substrate, config) -> action, a pure function: chance comes from the colony's seed and step."""

LONGEST_STEP = (10.0, 2.0, 0.0, 0.0)
"""max_step µm, half_saturation kPa, noise, angle: as far forward as possible, without noise."""
LEAST_EFFORT = (1.0, 20.0, 0.0, 0.0)


def random(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """Kinds and parameters uniform over what is allowed."""

    def draw(index: int) -> Tensor:
        keys = (colony.seed[:, None], Purpose.SCRIPTED, colony.step[:, None], colony.node_id)
        return uniform(*keys, index)

    allowed = torch.where(_may_delete(colony, config), NUM_KINDS, NUM_KINDS - 1)[:, None]
    kind = (draw(0) * allowed).to(torch.int64)
    low, high = (
        torch.tensor(bound, device=kind.device)
        for bound in (config.spawn_bounds.low, config.spawn_bounds.high)
    )
    unit = torch.stack([draw(1 + index) for index in range(4)], -1)
    return Action(torch.where(colony.alive, kind, Kind.REST), low + unit * (high - low))


def idle(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """Every node rests."""
    return _action(colony, torch.zeros_like(colony.alive), torch.zeros_like(colony.alive))


def grow_only(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """Every node spawns forward, always."""
    return _action(colony, colony.alive, torch.zeros_like(colony.alive))


def delete_only(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """Every node deletes itself where the mask allows it."""
    return _action(
        colony, torch.zeros_like(colony.alive), colony.alive & _may_delete(colony, config)[:, None]
    )


def delete_left(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """Spawn along `direction` from the front, delete the rear, hold N near `critical_nodes`.

    The foremost half spawns while the colony is small, the foremost quarter afterwards; as many of the
    rearmost are deleted as would exceed `critical_nodes`. The strongest rule that looks at nothing but s.
    """
    spawning, deleting = _front_and_rear(colony, substrate, config)
    return _action(colony, spawning, deleting)


def treadmill(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """`delete_left`, but whoever could place a child beyond 90 % of the way is deleted instead."""
    spawning, deleting = _front_and_rear(colony, substrate, config)
    s, _ = coordinates(colony.position, substrate)
    limit = 0.9 * substrate.extent[:, 0, None] - LONGEST_STEP[0]
    too_far = colony.alive & (s >= limit)
    deleting = (deleting | too_far) & _may_delete(colony, config)[:, None]
    return _action(colony, spawning & ~too_far, deleting)


def churn(colony: Colony, substrate: Substrate, config: EnvConfig, age: int | None = None) -> Action:
    """The first nodes spawn uphill with the least effort; every child is deleted at `age`.

    Args:
        age: steps; `delta_time` + 1 by default, when a child's death no longer costs its spawn reward.
    """
    age = config.delta_time + 1 if age is None else age
    founder = colony.node_id < config.num_initial_nodes
    deleting = colony.alive & ~founder & (colony.age >= age) & _may_delete(colony, config)[:, None]
    return _action(colony, colony.alive & founder, deleting, LEAST_EFFORT)


def churn_young(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """`churn` that deletes every child at age 1."""
    return churn(colony, substrate, config, age=1)


SCRIPTED: Mapping[str, ScriptedPolicy] = MappingProxyType(
    {
        "random": random,
        "idle": idle,
        "grow-only": grow_only,
        "delete-only": delete_only,
        "delete-left": delete_left,
        "treadmill": treadmill,
        "churn": churn,
        "churn-young": churn_young,
    }
)
"""Policy name -> policy."""


def front_order(colony: Colony, substrate: Substrate, config: EnvConfig) -> tuple[Tensor, Tensor]:
    """Who is how far in front, and how many of them `delete_left` lets spawn.

    Returns:
        rank [B,N] int64 of the slots by s along `direction`, 0 the foremost, empty slots last; and the number
        of the foremost that spawn, [B,1] int64: half (rounded up) while N < `critical_nodes`, then a quarter.
    """
    s, _ = coordinates(colony.position, substrate)
    ranking = torch.where(colony.alive, s, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(colony.capacity, device=s.device).expand_as(ranking)
    count = colony.num_nodes[:, None]
    share = torch.where(count < config.critical_nodes, 2, 4)
    return torch.zeros_like(ranking).scatter(1, ranking, place), (count + share - 1) // share


def _front_and_rear(colony: Colony, substrate: Substrate, config: EnvConfig) -> tuple[Tensor, Tensor]:
    rank, num_spawning = front_order(colony, substrate, config)
    count = colony.num_nodes[:, None]
    num_deleting = (count + num_spawning - config.critical_nodes).clamp_min(0)
    spawning = colony.alive & (rank < num_spawning)
    deleting = colony.alive & ~spawning & (rank >= count - num_deleting)
    return spawning, deleting & _may_delete(colony, config)[:, None]


def _may_delete(colony: Colony, config: EnvConfig) -> Tensor:
    return colony.num_nodes > config.min_nodes


def _action(
    colony: Colony,
    spawning: Tensor,
    deleting: Tensor,
    parameters: tuple[float, float, float, float] = LONGEST_STEP,
) -> Action:
    kind = torch.where(spawning, Kind.SPAWN, torch.where(deleting, Kind.DELETE, Kind.REST))
    values = torch.tensor(parameters, device=kind.device).expand(*kind.shape, 4)
    return Action(kind, values.contiguous())
