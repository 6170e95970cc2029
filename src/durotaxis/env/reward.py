"""Reward: named terms, each a pure function of (before, action, after), each a mean over nodes.

All terms are always reported with their coefficients applied; the reward is their sum. None pays for being
alive by default, and progress is potential-based (Ng, Harada and Russell 1999), so moving to and fro earns
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from durotaxis.env.config import EnvConfig
from durotaxis.env.dynamics import Births
from durotaxis.env.substrate import Substrate
from durotaxis.env.survey import Survey, node_mean
from durotaxis.env.types import Action, Colony, Reason


@dataclass(frozen=True)
class Step:
    """What the terms are computed from."""

    was: Survey
    action: Action
    born: Births
    now: Survey
    reason: Tensor  # [B] int64
    config: EnvConfig

    @property
    def before(self) -> Colony:
        """The colonies before the step."""
        return self.was.colony

    @property
    def after(self) -> Colony:
        """The colonies after it."""
        return self.now.colony

    @property
    def substrate(self) -> Substrate:
        """The ground under both."""
        return self.now.substrate

    @property
    def per_node(self) -> Tensor:
        """1 / N before the step, [B]; 0 for an empty colony."""
        count = self.was.num_nodes
        return torch.where(count > 0, 1.0 / count.clamp_min(1).to(torch.float32), 0.0)

    @property
    def deleted(self) -> Tensor:
        """Nodes of `before` that were deleted, [B,N] bool."""
        return self.before.alive & self.action.deletes

    @property
    def extinct(self) -> Tensor:
        """[B] bool: nobody lives after the step."""
        return self.now.num_nodes == 0

    def over_nodes(self, values: Tensor) -> Tensor:
        """Sum of values [B,N] times 1 / N before, [B] float32."""
        return values.sum(1, dtype=torch.float64).to(torch.float32) * self.per_node


def progress_centroid(step: Step) -> Tensor:
    """c · (centroid's s after - before) / L."""
    gain = step.now.centroid_s - step.was.centroid_s
    gain = (gain / step.substrate.extent[:, 0]).to(torch.float32)
    return step.config.reward.progress_centroid * torch.where(step.extinct, 0.0, gain)


def progress_front(step: Step) -> Tensor:
    """c · (front's s after - before) / L."""
    gain = step.now.front - step.was.front
    gain = torch.where(step.extinct | (step.was.num_nodes == 0), 0.0, gain)
    return step.config.reward.progress_front * gain / step.substrate.extent[:, 0]


def spawn(step: Step) -> Tensor:
    """c/N · Σ over children of (+1 on stiffer ground than the parent, else -1), less what dead youths owe."""
    sign = torch.where(step.born.uphill, 1.0, -1.0) * step.born.placed
    young = step.deleted & (step.before.age <= step.config.delta_time)
    owed = torch.where(young, step.before.spawn_share, 0.0).sum(1, dtype=torch.float64)
    return step.config.reward.spawn * step.over_nodes(sign) - owed.to(torch.float32)


def delete(step: Step) -> Tensor:
    """Marked and gone +, marked and kept -, unmarked and gone -, over N."""
    reward, marked, gone = step.config.reward, step.before.marked, step.deleted
    value = (
        reward.delete_marked * (marked & gone).to(torch.float32)
        - reward.keep_marked * (marked & ~gone)
        - reward.delete_unmarked * (~marked & gone)
    )
    return step.over_nodes(value)


def population(step: Step) -> Tensor:
    """-c below 2 nodes; -c · (N - N_c) / N_c above N_c = critical_nodes."""
    reward, count, critical = step.config.reward, step.now.num_nodes, step.config.critical_nodes
    excess = (count - critical).clamp_min(0).to(torch.float32) / critical
    return torch.where(count < 2, -reward.too_few, -reward.too_many * excess)


def boundary(step: Step) -> Tensor:
    """Mean over nodes: a cost in the three zones along the sides, a bonus in the safe centre."""
    reward, t = step.config.reward, step.now.t
    breadth = step.substrate.extent[:, 1, None]
    q = torch.minimum(t, breadth - t) / breadth
    value = torch.full_like(q, reward.boundary_safe)
    for zone, weight in reversed(list(zip(reward.boundary_zones, reward.boundary_weights, strict=True))):
        value = torch.where(q < zone, -reward.boundary * weight, value)
    return node_mean(value, step.after.alive).to(torch.float32)


def edge_direction(step: Step) -> Tensor:
    """c/N · Σ over newborn edges of the cosine between the edge and `direction`."""
    edge = step.born.position - step.before.position
    length = edge.square().sum(-1).sqrt()
    along = (edge * step.substrate.direction[:, None]).sum(-1)
    cosine = along / length.clamp_min(1e-12) * step.born.placed
    return step.config.reward.edge_direction * step.over_nodes(cosine)


def effort(step: Step) -> Tensor:
    """-c/N · Σ over nodes whose child is born of (max_step / 10 µm)² + 2 kPa / half_saturation."""
    max_step, half_saturation = step.action.parameters[..., 0], step.action.parameters[..., 1]
    placed = step.born.placed
    cost = (max_step / 10.0) ** 2 + 2.0 / torch.where(placed, half_saturation, 1.0)
    return -step.config.reward.effort * step.over_nodes(torch.where(placed, cost, 0.0))


def milestone(step: Step) -> Tensor:
    """c for each milestone the front reaches for the first time."""
    reached = step.after.milestones - step.before.milestones
    return step.config.reward.milestone * reached.to(torch.float32)


def survival(step: Step) -> Tensor:
    """c every step; 0 by default, because being alive is no achievement."""
    return torch.full_like(step.per_node, step.config.reward.survival)


def recovery(step: Step) -> Tensor:
    """c each time an extinct colony starts anew (`max_recoveries` allows it)."""
    again = step.after.recoveries - step.before.recoveries
    return step.config.reward.recovery * again.to(torch.float32)


def termination(step: Step) -> Tensor:
    """The coefficient of the reason for which the episode terminated, else 0."""
    reward = step.config.reward
    value = torch.zeros_like(step.per_node)
    for reason, coefficient in (
        (Reason.SUCCESS, reward.success),
        (Reason.EXTINCT, reward.extinct),
        (Reason.OVERCROWDED, reward.overcrowded),
        (Reason.OUT_OF_BOUNDS, reward.out_of_bounds),
        (Reason.DRIFT, reward.drift),
    ):
        value = torch.where(step.reason == int(reason), coefficient, value)
    return value


TERMS: Mapping[str, Callable[[Step], Tensor]] = MappingProxyType(
    {
        term.__name__: term
        for term in (
            progress_centroid,
            progress_front,
            spawn,
            delete,
            population,
            boundary,
            edge_direction,
            effort,
            milestone,
            survival,
            recovery,
            termination,
        )
    }
)
"""Term name -> function of a Step giving [B] float32."""


def reward_terms(step: Step) -> dict[str, Tensor]:
    """Every term by name, [B] float32 each."""
    return {name: term(step) for name, term in TERMS.items()}
