"""One step of life: spawn, delete, pack, age, mark. Pure functions of (colony, action, substrate)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, normal
from durotaxis.env.config import EnvConfig
from durotaxis.env.initial import milestones_reached
from durotaxis.env.substrate import Substrate, clamp, coordinates, stiffness
from durotaxis.env.types import Action, Colony, Kind


def advance(colony: Colony, action: Action, substrate: Substrate, config: EnvConfig) -> Colony:
    """The colony one decision period later: births, deaths, then age, marks and counters."""
    grown = _delete(_spawn(colony, action, substrate, config), action.kind)
    aged = replace(
        grown,
        age=torch.where(grown.alive & ~grown.newborn, grown.age + 1, 0),
        step=colony.step + 1,
    )
    s, _ = coordinates(aged.position, substrate)
    front = torch.where(aged.alive, s, -torch.inf).amax(1).maximum(colony.front)
    fell = centroid(s, aged.alive) < centroid(coordinates(colony.position, substrate)[0], colony.alive)
    fell &= aged.alive.any(1)
    return replace(
        aged,
        marked=mark(aged, substrate, config),
        drift_count=torch.where(fell, colony.drift_count + 1, 0),
        milestones=milestones_reached(front, substrate, config),
        front=front,
    )


def step_length(max_step: Tensor, half_saturation: Tensor, local: Tensor, exponent: float) -> Tensor:
    """Length in µm of a noiseless spawn step: r = max_step / (1 + (half_saturation / E)^h).

    The Hill law of stiffness is a modelling assumption, not a measured law of any organism.

    Args:
        max_step: µm. half_saturation: kPa. local: stiffness E at the parent, kPa. exponent: h.
    """
    return max_step / (1.0 + (half_saturation / local) ** exponent)


def placed_spawns(colony: Colony, action: Action) -> Tensor:
    """Nodes whose child finds a free slot, [B,N] bool: parents in slot order win."""
    spawning = colony.alive & (action.kind == Kind.SPAWN)
    free = colony.capacity - colony.num_nodes
    return spawning & (spawning.cumsum(1) <= free[:, None])


def centroid(values: Tensor, alive: Tensor) -> Tensor:
    """Mean of values [B,N] or [B,N,2] over living nodes; 0 where there is none. float64.

    Sums of a colony's float32 values are exact in float64, so that the result does not depend on the batch.
    """
    mask = alive if values.dim() == 2 else alive[..., None]
    total = torch.where(mask, values, 0.0).sum(1, dtype=torch.float64)
    count = alive.sum(1).clamp_min(1).to(torch.float64)
    return total / (count if values.dim() == 2 else count[:, None])


def mark(colony: Colony, substrate: Substrate, config: EnvConfig) -> Tensor:
    """Which nodes are marked for deletion, [B,N] bool.

    Above `critical_nodes`, among nodes of age >= `delta_time` that are softer than the colony's mean, the
    softest max(1, floor(mark_fraction * (N - critical_nodes))); ties go to the smaller node_id.
    """
    local = stiffness(colony.position, substrate)
    mean = centroid(local, colony.alive)
    candidate = colony.alive & (colony.age >= config.delta_time) & (local.to(torch.float64) < mean[:, None])
    excess = colony.num_nodes - config.critical_nodes
    # A decimal fraction is a little less in binary: 0.29 of 100 must be 29.
    share = config.mark_fraction * excess.to(torch.float64) + 1e-9
    quota = share.floor().to(torch.int64).clamp_min(1)
    quota = torch.where(excess > 0, quota, 0)
    # Slots are in order of node_id, so a stable sort breaks ties by it.
    order = torch.where(candidate, local, torch.inf).argsort(dim=1, stable=True)
    chosen = torch.arange(colony.capacity, device=order.device) < quota[:, None]
    return torch.zeros_like(candidate).scatter(1, order, chosen) & candidate


def _spawn(colony: Colony, action: Action, substrate: Substrate, config: EnvConfig) -> Colony:
    placed = placed_spawns(colony, action)
    local = stiffness(colony.position, substrate)
    child = _child_position(colony, action, local, substrate, config)
    uphill = stiffness(child, substrate) > local * (1.0 + config.reward.spawn_threshold)
    share = config.reward.spawn / colony.num_nodes.clamp_min(1).to(torch.float32)
    order = placed.cumsum(1) - 1
    # Children that are not placed land in one extra slot, which is then dropped.
    slot = torch.where(placed, colony.num_nodes[:, None] + order, colony.capacity)

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
        spawn_share=put(colony.spawn_share, torch.where(uphill, share[:, None], 0.0)),
        next_id=colony.next_id + placed.sum(1),
    )


def _child_position(
    colony: Colony, action: Action, local: Tensor, substrate: Substrate, config: EnvConfig
) -> Tensor:
    max_step, half_saturation, noise, angle = action.parameters.unbind(-1)
    xi = normal(colony.seed[:, None], Purpose.SPAWN_NOISE, colony.step[:, None], colony.node_id)
    length = step_length(max_step, half_saturation, local, config.hill_exponent)
    length = length * (1.0 + noise * xi).clamp(0.0, 2.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    towards = torch.stack([cos * dx - sin * dy, cos * dy + sin * dx], -1)
    child = colony.position + length[..., None] * towards
    if config.boundary == "clamp":
        child = clamp(child, substrate)
    return child


def _delete(colony: Colony, kind: Tensor) -> Colony:
    """Remove nodes that chose delete, hand their children to surviving ancestors, and pack the slots."""
    slots = colony.capacity
    leaving = colony.alive & (kind == Kind.DELETE) & ~colony.newborn
    keep = colony.alive & ~leaving
    parent = _surviving_ancestor(colony.parent, leaving)
    rank = torch.where(keep, keep.cumsum(1) - 1, slots)
    new_slot = torch.cat([rank, torch.full_like(rank[:, :1], -1)], 1)  # entry -1 maps "no parent" to itself
    parent = new_slot.gather(1, torch.where(parent >= 0, parent, slots))
    source = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    alive = keep.gather(1, source)

    def pack(values: Tensor, empty: float | int | bool) -> Tensor:
        if values.dim() == 3:
            packed = values.gather(1, source[..., None].expand_as(values))
            return torch.where(alive[..., None], packed, empty)
        return torch.where(alive, values.gather(1, source), empty)

    return replace(
        colony,
        position=pack(colony.position, 0.0),
        alive=alive,
        parent=pack(parent, -1),
        node_id=pack(colony.node_id, -1),
        age=pack(colony.age, 0),
        newborn=pack(colony.newborn, False),
        spawn_share=pack(colony.spawn_share, 0.0),
    )


def _surviving_ancestor(parent: Tensor, leaving: Tensor) -> Tensor:
    """The nearest ancestor that stays, or -1; by pointer doubling over the leaving nodes."""
    slots = parent.shape[1]
    root = torch.full_like(parent[:, :1], slots)
    me = torch.arange(slots, device=parent.device)
    above = torch.where(parent >= 0, parent, slots)
    jump = torch.cat([torch.where(leaving, above, me), root], 1)
    for _ in range(max(1, slots.bit_length())):
        following = jump.gather(1, jump)
        if torch.equal(following, jump):
            break
        jump = following
    ancestor = jump.gather(1, above)
    return torch.where(ancestor == slots, -1, ancestor)
