"""One step of life: spawn, delete, pack, age, mark, recover. Pure functions of (colony, action, substrate)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, normal
from durotaxis.env.config import EnvConfig
from durotaxis.env.initial import found, milestones_reached
from durotaxis.env.response import step_length
from durotaxis.env.substrate import Substrate, clamp, stiffness
from durotaxis.env.survey import Survey, node_mean, survey
from durotaxis.env.types import Action, Colony, Kind


def advance(before: Survey, action: Action, config: EnvConfig) -> Survey:
    """The colony one decision period later: births, deaths, then age, marks and counters."""
    colony, substrate = before.colony, before.substrate
    grown = _delete(_spawn(before, action, config), action, config)
    aged = replace(
        grown,
        age=torch.where(grown.alive & ~grown.newborn, grown.age + 1, 0),
        step=colony.step + 1,
    )
    if config.max_recoveries:
        aged = _recover(aged, substrate, config)
    after = survey(aged, substrate)
    front = after.front.maximum(colony.front)
    fell = (after.centroid_s < before.centroid_s) & (after.num_nodes > 0)
    fell &= aged.recoveries == colony.recoveries
    settled = replace(
        aged,
        marked=mark(after, config),
        drift_count=torch.where(fell, colony.drift_count + 1, 0),
        milestones=milestones_reached(front, substrate, config),
        front=front,
    )
    return replace(after, colony=settled)


def placed_spawns(colony: Colony, action: Action, config: EnvConfig) -> Tensor:
    """Nodes whose child finds a free slot, [B,N] bool: parents in slot order win."""
    spawning = colony.alive & action.spawns
    free = config.num_usable_slots - colony.num_nodes
    return spawning & (spawning.cumsum(1) <= free[:, None])


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
    if not torch.compiler.is_compiling() and not bool((quota > 0).any()):
        return torch.zeros_like(candidate)
    # Slots are in order of node_id, so a stable sort breaks ties by it.
    order = torch.where(candidate, local, torch.inf).argsort(dim=1, stable=True)
    chosen = torch.arange(colony.capacity, device=order.device) < quota[:, None]
    return torch.zeros_like(candidate).scatter(1, order, chosen) & candidate


def _spawn(before: Survey, action: Action, config: EnvConfig) -> Colony:
    colony, substrate = before.colony, before.substrate
    placed = placed_spawns(colony, action, config)
    local = before.stiffness
    child = _child_position(colony, action, local, substrate, config)
    uphill = stiffness(child, substrate) > local * (1.0 + config.reward.spawn_threshold)
    share = config.reward.spawn / before.num_nodes.clamp_min(1).to(torch.float32)
    order = placed.cumsum(1) - 1
    # Children that are not placed land in one extra slot, which is then dropped.
    slot = torch.where(placed, before.num_nodes[:, None] + order, colony.capacity)

    def put(values: Tensor, born: Tensor) -> Tensor:
        extended = torch.cat([values, values[:, :1]], 1)
        where = slot if values.dim() == 2 else slot[..., None].expand_as(born)
        return extended.scatter(1, where, born)[:, :-1]

    me = torch.arange(colony.capacity, device=slot.device).expand_as(slot)
    nothing = torch.zeros_like(colony.alive)
    return replace(
        colony,
        position=put(colony.position, child),
        alive=put(colony.alive, placed),
        parent=put(colony.parent, me),
        node_id=put(colony.node_id, colony.next_id[:, None] + order),
        age=put(colony.age, torch.zeros_like(colony.age)),
        newborn=put(nothing, placed),
        marked=nothing,
        spawn_share=put(colony.spawn_share, share[:, None] * uphill),
        next_id=colony.next_id + placed.sum(1),
    )


def _child_position(
    colony: Colony, action: Action, local: Tensor, substrate: Substrate, config: EnvConfig
) -> Tensor:
    max_step, half_saturation, noise, angle = action.parameters.unbind(-1)
    xi = normal(colony.seed[:, None], Purpose.SPAWN_NOISE, colony.step[:, None], colony.node_id)
    length = step_length(max_step, half_saturation, local, config.response)
    length = length * (1.0 + noise * xi).clamp(0.0, 2.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    towards = torch.stack([cos * dx - sin * dy, cos * dy + sin * dx], -1)
    child = colony.position + length[..., None] * towards
    if config.boundary == "clamp":
        child = clamp(child, substrate)
    return child


def _delete(colony: Colony, action: Action, config: EnvConfig) -> Colony:
    """Remove nodes that chose delete, hand their children to surviving ancestors, and pack the slots."""
    slots = colony.capacity
    leaving = colony.alive & action.deletes & ~colony.newborn
    keep = colony.alive & ~leaving
    parent = _surviving_ancestor(colony.parent, leaving, config.num_slots)
    rank = torch.where(keep, keep.cumsum(1) - 1, slots)
    new_slot = torch.cat([rank, torch.full_like(rank[:, :1], -1)], 1)  # entry -1 maps "no parent" to itself
    parent = new_slot.gather(1, torch.where(parent >= 0, parent, slots))
    me = torch.arange(slots, device=rank.device).expand_as(rank)
    source = torch.zeros_like(new_slot).scatter(1, rank, me)[:, :-1]
    alive = me < keep.sum(1)[:, None]

    def pack(name: str, values: Tensor) -> Tensor:
        if values.dim() == 3:
            packed = values.gather(1, source[..., None].expand_as(values))
            return torch.where(alive[..., None], packed, Colony.node_fields[name])
        return torch.where(alive, values.gather(1, source), Colony.node_fields[name])

    moved = ("position", "node_id", "age", "newborn", "spawn_share")
    return replace(
        colony,
        alive=alive,
        parent=pack("parent", parent),
        **{name: pack(name, getattr(colony, name)) for name in moved},
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
        if not torch.compiler.is_compiling() and torch.equal(following, jump):
            break
        jump = following
    ancestor = jump.gather(1, above)
    return torch.where(ancestor == slots, -1, ancestor)


def _recover(colony: Colony, substrate: Substrate, config: EnvConfig) -> Colony:
    """Start anew where nobody lives, `max_recoveries` times: at the start, with new ids, marks of progress kept."""
    again = ~colony.alive.any(1) & (colony.recoveries < config.max_recoveries)
    recoveries = colony.recoveries + again
    anew = found(substrate, colony.seed, recoveries, colony.next_id, config, colony.capacity)
    fields = {
        name: torch.where(again.view(-1, *(1,) * (value.dim() - 1)), value, getattr(colony, name))
        for name, value in anew.items()
    }
    count = config.num_initial_nodes
    return replace(colony, **fields, next_id=colony.next_id + count * again, recoveries=recoveries)
