"""One step of life: spawn, delete, age, mark, recover. Pure functions of colony, action and substrate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, normal
from durotaxis.core.struct import Struct
from durotaxis.env.config import EnvConfig
from durotaxis.env.initial import found, milestones_reached
from durotaxis.env.response import step_length
from durotaxis.env.substrate import Substrate, clamp, stiffness
from durotaxis.env.survey import Survey, node_mean, survey
from durotaxis.env.types import Action, Colony


@final
@dataclass(frozen=True)
class Births(Struct):
    """The children of one step, each in the slot its parent had before the step."""

    placed: Tensor  # [B,N] bool: a child is born
    position: Tensor  # [B,N,2] float32, µm; the node's own place where no child is born
    uphill: Tensor  # [B,N] bool: on stiffer ground than its parent, by the relative `spawn_threshold`


def advance(before: Survey, action: Action, config: EnvConfig) -> tuple[Survey, Births]:
    """The colony one decision period later: births, deaths, then age, marks and counters."""
    colony, substrate = before.colony, before.substrate
    born = births(before, action, config)
    grown = _resettle(before, action, born, config)
    if config.max_recoveries:
        grown = _recover(grown, substrate, config)
    after = survey(grown, substrate)
    front = after.front.maximum(colony.front)
    fell = (after.centroid_s < before.centroid_s) & (after.num_nodes > 0)
    fell &= grown.recoveries == colony.recoveries
    settled = replace(
        grown,
        marked=mark(after, config),
        drift_count=torch.where(fell, colony.drift_count + 1, 0),
        milestones=milestones_reached(front, substrate, config),
        front=front,
    )
    return replace(after, colony=settled), born


def births(before: Survey, action: Action, config: EnvConfig) -> Births:
    """Where the children of spawning nodes land; parents in slot order win the free slots."""
    colony, substrate, local = before.colony, before.substrate, before.stiffness
    spawning = colony.alive & action.spawns
    free = config.num_usable_slots - before.num_nodes
    max_step, half_saturation, noise, angle = action.parameters.unbind(-1)
    length = step_length(max_step, half_saturation, local, config.response)
    length = length * (1.0 + noise * _spawn_noise(colony, spawning)).clamp(0.0, 2.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    towards = torch.stack([cos * dx - sin * dy, cos * dy + sin * dx], -1)
    position = colony.position + length[..., None] * towards
    if config.boundary == "clamp":
        position = clamp(position, substrate)
    placed = spawning & (spawning.cumsum(1) <= free[:, None])
    # Parameters of nodes that don't spawn may be anything, NaN included.
    position = torch.where(placed[..., None], position, colony.position)
    return Births(
        placed=placed,
        position=position,
        uphill=stiffness(position, substrate) > local * (1.0 + config.reward.spawn_threshold),
    )


def slots_needed(colony: Colony, action: Action, config: EnvConfig) -> int:
    """How many slots the fullest colony of the batch needs for this step, at most the capacity."""
    wanted = int((colony.num_nodes + (colony.alive & action.spawns).sum(1)).max())
    if config.max_recoveries:
        wanted = max(wanted, config.num_initial_nodes)
    return max(1, min(colony.capacity, wanted))


def mark(after: Survey, config: EnvConfig) -> Tensor:
    """Which nodes are marked for deletion, [B,N] bool.

    Above `critical_nodes`, among nodes of age >= `delta_time` that are softer than the colony's mean, the
    softest max(1, floor(mark_fraction * (N - critical_nodes))); ties go to the smaller node_id.
    """
    colony = after.colony
    if config.mark_fraction == 0:
        return torch.zeros_like(colony.alive)
    local = after.stiffness
    mean = node_mean(local, colony.alive)
    candidate = colony.alive & (colony.age >= config.delta_time) & (local.to(torch.float64) < mean[:, None])
    excess = after.num_nodes - config.critical_nodes
    # A decimal fraction is a little less in binary: 0.29 of 100 must be 29.
    share = config.mark_fraction * excess.to(torch.float64) + 1e-9
    quota = share.floor().to(torch.int64).clamp_min(1)
    quota = torch.where(excess > 0, quota, 0)
    if not bool((quota > 0).any()):
        return torch.zeros_like(candidate)
    # Slots are in order of node_id, so a stable sort breaks ties by it.
    order = torch.where(candidate, local, torch.inf).argsort(dim=1, stable=True)
    chosen = torch.arange(colony.capacity, device=order.device) < quota[:, None]
    return torch.zeros_like(candidate).scatter(1, order, chosen) & candidate


def _spawn_noise(colony: Colony, spawning: Tensor) -> Tensor:
    """A standard normal draw for every spawning node, [B,N]; 0 elsewhere."""
    row, slot = spawning.nonzero(as_tuple=True)
    draw = normal(colony.seed[row], Purpose.SPAWN_NOISE, colony.step[row], colony.node_id[row, slot])
    return torch.zeros(spawning.shape, device=draw.device).index_put((row, slot), draw)


def _resettle(before: Survey, action: Action, born: Births, config: EnvConfig) -> Colony:
    """Remove nodes that chose delete, hand their children to surviving ancestors, and pack who is there.

    Survivors keep their order and come first, then the children in the order of their parents.
    """
    colony = before.colony
    slots = colony.capacity
    leaving = colony.alive & action.deletes
    keep = colony.alive & ~leaving
    num_kept = keep.sum(1, keepdim=True)
    num_after = num_kept + born.placed.sum(1, keepdim=True)
    order = born.placed.cumsum(1) - 1
    # What has no place afterwards goes to one extra slot, which is then cut off.
    to = torch.where(keep, keep.cumsum(1) - 1, slots)
    child_to = torch.where(born.placed, num_kept + order, slots)
    me = torch.arange(slots, device=to.device)
    alive = me < num_after

    def place(name: str, old: Tensor, child: Tensor | None = None) -> Tensor:
        shape = (old.shape[0], slots + 1, *old.shape[2:])
        placed = old.new_full(shape, Colony.node_fields[name])
        for where, values in ((to, old), (child_to, child)):
            if values is not None:
                where = where if values.dim() == 2 else where[..., None].expand_as(values)
                placed.scatter_(1, where, values)
        return placed[:, :-1].contiguous()

    ancestor = _surviving_ancestor(colony.parent, leaving, config.num_slots)
    parent = torch.where(ancestor >= 0, to.gather(1, ancestor.clamp_min(0)), -1)
    share = config.reward.spawn / before.num_nodes.clamp_min(1).to(torch.float32)
    return replace(
        colony,
        position=place("position", colony.position, born.position),
        alive=alive,
        parent=place("parent", parent, to),
        node_id=place("node_id", colony.node_id, colony.next_id[:, None] + order),
        age=place("age", colony.age + 1),
        newborn=alive & (me >= num_kept),
        marked=torch.zeros_like(alive),
        spawn_share=place("spawn_share", colony.spawn_share, share[:, None] * born.uphill),
        step=colony.step + 1,
        next_id=colony.next_id + born.placed.sum(1),
    )


def _surviving_ancestor(parent: Tensor, leaving: Tensor, capacity: int) -> Tensor:
    """The nearest ancestor that stays, or -1; by pointer doubling over the leaving nodes.

    Args:
        capacity: a bound on the number of nodes, whose logarithm bounds the rounds.
    """
    slots = parent.shape[1]
    root = torch.full_like(parent[:, :1], slots)
    me = torch.arange(slots, device=parent.device)
    above = torch.where(parent >= 0, parent, slots)
    jump = torch.cat([torch.where(leaving, above, me), root], 1)
    for _ in range(capacity.bit_length()):
        following = jump.gather(1, jump)
        if torch.equal(following, jump):
            break
        jump = following
    ancestor = jump.gather(1, above)
    return torch.where(ancestor == slots, -1, ancestor)


def _recover(colony: Colony, substrate: Substrate, config: EnvConfig) -> Colony:
    """Start anew where nobody lives, `max_recoveries` times: with new ids, and what was reached kept."""
    again = ~colony.alive.any(1) & (colony.recoveries < config.max_recoveries)
    recoveries = colony.recoveries + again
    anew = found(substrate, colony.seed, recoveries, colony.next_id, config, colony.capacity)
    fields = {
        name: torch.where(again.view(-1, *(1,) * (value.dim() - 1)), value, getattr(colony, name))
        for name, value in anew.items()
    }
    count = config.num_initial_nodes
    return replace(colony, **fields, next_id=colony.next_id + count * again, recoveries=recoveries)
