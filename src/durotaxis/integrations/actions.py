"""Actions of other libraries as actions of the world, in pure functions of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from durotaxis.agent.scripted import front_order
from durotaxis.core.errors import UserError
from durotaxis.env import Action, Colony, EnvConfig, Kind, Substrate, action_mask
from durotaxis.env.types import NUM_KINDS

GLOBAL_ACTIONS = ("deleted_fraction", "max_step", "half_saturation", "noise", "angle")
"""What the five numbers of the global action mean, each in [-1, 1]."""
NODE_NUMBERS = NUM_KINDS + 4
"""Numbers per node of `preferred_action`: three preferences and four parameters."""
_SLACK = 1e-6
"""Relative: bounds such as pi are rounded when they become float32."""


def global_action(colony: Colony, substrate: Substrate, config: EnvConfig, action: Tensor) -> Action:
    """One rule for the whole colony, from five numbers.

    Let N be the living nodes, in order of their coordinate s along `direction`.

    - The foremost spawn: half of them (rounded up) while N < `critical_nodes`, a quarter afterwards.
    - f = (action[0] + 1) / 2 is the fraction of the colony to delete: of those that do not spawn, the
      floor(f · N) rearmost (all, where there are fewer) are deleted, if N > `min_nodes`.
    - The others rest.
    - action[1:] are the spawn parameters of all who spawn: -1 is the lower and 1 the upper spawn bound.

    So f = 1/4 with forward steps is a policy that grows to `critical_nodes` and stays there, as `delete-left`
    does: (-0.5, 1, -1, -1, 0). Someone always spawns, so nobody can delete the whole colony.

    Args:
        action: [B,5] float32 in [-1, 1], in the order of GLOBAL_ACTIONS.
    """
    rank, num_spawning = front_order(colony, substrate, config)
    count = colony.num_nodes[:, None]
    fraction = 0.5 * (action[:, :1] + 1.0)
    num_deleting = (fraction * count).floor().to(torch.int64).minimum(count - num_spawning)
    num_deleting = torch.where(count > config.min_nodes, num_deleting, 0)
    spawning = colony.alive & (rank < num_spawning)
    deleting = colony.alive & (rank >= count - num_deleting)
    kind = torch.where(spawning, Kind.SPAWN, torch.where(deleting, Kind.DELETE, Kind.REST))
    parameters = _physical(action[:, None, 1:], config).expand(*kind.shape, 4)
    return Action(kind, parameters.contiguous())


def preferred_action(colony: Colony, config: EnvConfig, action: Tensor) -> Action:
    """Seven numbers per node: the allowed kind with the largest of the first three, and its parameters.

    Args:
        action: [B,N,7] float32 in [-1, 1]: preferences for rest, spawn and delete, then the four spawn
            parameters from their lower (-1) to their upper bound (1).
    """
    allowed = action_mask(colony, config)
    kind = torch.where(allowed, action[..., :NUM_KINDS], -torch.inf).argmax(-1)
    return Action(kind, _physical(action[..., NUM_KINDS:], config))


def rest_invalid(colony: Colony, action: Action, config: EnvConfig) -> tuple[Action, Tensor]:
    """The action with every choice that the world would refuse replaced by rest.

    Returns:
        The action, and how many living nodes rest instead, [B] int64.
    """
    kind = action.kind
    known = (kind >= 0) & (kind < NUM_KINDS)
    allowed = action_mask(colony, config).gather(-1, torch.where(known, kind, 0)[..., None])[..., 0]
    low, high = _bounds(config, action.parameters)
    slack = _SLACK * torch.maximum(low.abs(), high.abs())
    inside = ((action.parameters >= low - slack) & (action.parameters <= high + slack)).all(-1)
    valid = known & allowed & ((kind != Kind.SPAWN) | inside)
    return replace(action, kind=torch.where(valid, kind, Kind.REST)), (colony.alive & ~valid).sum(1)


def action_tensor(
    name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What a library gave as a part of an action: an array or a tensor of this shape.

    Raises:
        UserError: not of this shape, or no numbers (for int64, no integers).
    """
    try:
        given = value if isinstance(value, Tensor) else np.asarray(value)
    except ValueError:
        raise UserError(f"action: {name} is no array: its rows differ in length") from None
    held = str(given.dtype).removeprefix("torch.")
    kinds = ("int", "uint", "bool") if dtype == torch.int64 else ("float", "bfloat", "int", "uint", "bool")
    if not held.startswith(kinds):
        raise UserError(
            f"action: {name} must hold {'integers' if dtype == torch.int64 else 'numbers'}, not {held}"
        )
    if tuple(given.shape) != shape:
        raise UserError(f"action: {name} must have shape {list(shape)}, not {list(given.shape)}")
    if isinstance(given, Tensor):
        return given.to(device, dtype)
    return torch.tensor(given, dtype=dtype, device=device)


def outside_unit(action: Tensor) -> Tensor:
    """[...] bool: any of the numbers [...,K] is not within [-1, 1], or is no number."""
    return ~(action.abs() <= 1.0 + _SLACK).all(-1)


def refuse_outside_unit(action: Tensor, wrong: Tensor) -> None:
    """Refuse the numbers [...,K] that `wrong` [...] names: of colonies [B], or of nodes [B,N].

    Raises:
        UserError: names the first colony and number that is wrong.
    """
    colony, *node = wrong.nonzero()[0].tolist()
    numbers = action[(colony, *node)]
    number = int((~(numbers.abs() <= 1.0 + _SLACK)).nonzero()[0])
    where = ", ".join([f"colony {colony}", *(f"node {n}" for n in node), f"number {number}"])
    raise UserError(
        f"invalid action, {where}: {float(numbers[number]):g}; "
        "every number must be finite and within [-1, 1]: clip it, "
        "or take invalid_action='rest'"
    )


def _physical(unit: Tensor, config: EnvConfig) -> Tensor:
    """Spawn parameters [...,4] in physical units, of numbers in [-1, 1]."""
    low, high = _bounds(config, unit)
    return (low + 0.5 * (unit + 1.0) * (high - low)).maximum(low).minimum(high)


def _bounds(config: EnvConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    bounds = config.spawn_bounds
    low, high = (
        torch.tensor(bound, dtype=torch.float32, device=like.device) for bound in (bounds.low, bounds.high)
    )
    return low, high
