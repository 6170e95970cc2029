"""Refuse invalid actions, naming the first colony and node that is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.env.config import EnvConfig
from durotaxis.env.observation import action_mask
from durotaxis.env.types import NUM_KINDS, PARAMETERS, Action, Colony, Kind


class ActionError(UserError):
    """An action that the world refuses."""


def check_action(colony: Colony, action: Action, config: EnvConfig) -> None:
    """Check shape, dtype, kind and mask, and the parameters of spawning nodes.

    Raises:
        ActionError: says what is wrong, for which colony and node, and what is allowed.
    """
    shape = tuple(colony.alive.shape)
    _check_tensor("kind", action.kind, shape, torch.int64)
    _check_tensor("parameters", action.parameters, (*shape, 4), torch.float32)
    kind, alive = action.kind, colony.alive
    _refuse(
        alive & ((kind < 0) | (kind >= NUM_KINDS)),
        lambda b, n: f"kind {int(kind[b, n])}; it must be 0 (rest), 1 (spawn) or 2 (delete)",
    )
    allowed = action_mask(colony, config).gather(-1, kind.clamp(0, NUM_KINDS - 1)[..., None])[..., 0]
    _refuse(
        alive & ~allowed,
        lambda b, n: (
            f"{Kind(int(kind[b, n])).name.lower()} is masked: the colony has {int(alive[b].sum())} "
            f"nodes and min_nodes is {config.min_nodes}"
        ),
    )
    spawning = alive & (kind == Kind.SPAWN)
    for index, name in enumerate(PARAMETERS):
        value = action.parameters[..., index]
        low, high = config.spawn_bounds.low[index], config.spawn_bounds.high[index]
        # Bounds such as pi are rounded when they become float32.
        slack = 1e-6 * max(abs(low), abs(high))
        _refuse(
            spawning & ~((value >= low - slack) & (value <= high + slack)),
            lambda b, n, name=name, value=value, low=low, high=high: (
                f"{name} is {float(value[b, n]):g}; it must be finite and within [{low:g}, {high:g}]"
            ),
        )


def _check_tensor(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not isinstance(value, Tensor):
        raise ActionError(f"action.{name} must be a tensor, not {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ActionError(f"action.{name} must have shape {list(shape)}, not {list(value.shape)}")
    if value.dtype != dtype:
        raise ActionError(f"action.{name} must be {dtype}, not {value.dtype}")


def _refuse(wrong: Tensor, message) -> None:  # type: ignore[no-untyped-def]
    if bool(wrong.any()):
        colony, node = (int(i) for i in wrong.nonzero()[0])
        raise ActionError(f"invalid action, colony {colony}, node {node}: {message(colony, node)}")
