"""When an episode ends, and why. Terminated and truncated are never both true."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import Substrate, coordinates, is_inside
from durotaxis.env.types import Colony, Reason


def end_reason(colony: Colony, substrate: Substrate, config: EnvConfig) -> Tensor:
    """The first reason that applies, in the order of `Reason`, [B] int64; RUNNING where none does."""
    s, _ = coordinates(colony.position, substrate)
    goal = substrate.extent[:, 0] * (1.0 - config.goal_margin)
    checks = (
        (Reason.SUCCESS, (colony.alive & (s >= goal[:, None])).any(1)),
        (Reason.EXTINCT, ~colony.alive.any(1)),
        (Reason.OVERCROWDED, colony.num_nodes > config.max_nodes),
        (Reason.OUT_OF_BOUNDS, (colony.alive & ~is_inside(colony.position, substrate)).any(1)),
        (Reason.DRIFT, colony.drift_count >= config.left_moves_limit),
        (Reason.MAX_STEPS, colony.step >= config.max_steps),
    )
    reason = torch.full_like(colony.step, Reason.RUNNING)
    for value, applies in reversed(checks):
        reason = torch.where(applies, value, reason)
    return reason


def split_ends(reason: Tensor) -> tuple[Tensor, Tensor]:
    """(terminated, truncated), each [B] bool."""
    truncated = reason == Reason.MAX_STEPS
    return (reason != Reason.RUNNING) & ~truncated, truncated
