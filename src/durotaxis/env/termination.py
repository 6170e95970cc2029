"""When an episode ends, and why. Terminated and truncated are never both true."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import is_inside
from durotaxis.env.survey import Survey
from durotaxis.env.types import Reason


def end_reason(now: Survey, config: EnvConfig) -> Tensor:
    """The first reason that applies, in the order of `Reason`, [B] int64; RUNNING where none does."""
    colony, substrate = now.colony, now.substrate
    never = torch.zeros_like(now.num_nodes, dtype=torch.bool)
    # The farthest corner's s may fall short of L by its last bits; it must do even without a margin.
    goal = substrate.extent[:, 0] * (1.0 - config.goal_margin - 1e-6)
    crowded, outside, drifted = never, never, never
    if config.overcrowding == "terminate":
        crowded = now.num_nodes > config.max_nodes
    if config.boundary == "terminate":
        outside = (colony.alive & ~is_inside(colony.position, substrate)).any(1)
    if config.left_moves_limit is not None:
        drifted = colony.drift_count >= config.left_moves_limit
    checks = (
        (Reason.SUCCESS, now.front >= goal),
        (Reason.EXTINCT, now.num_nodes == 0),
        (Reason.OVERCROWDED, crowded),
        (Reason.OUT_OF_BOUNDS, outside),
        (Reason.DRIFT, drifted),
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
