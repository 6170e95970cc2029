"""How an episode begins, and how an extinct colony starts anew."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import (
    START_ACROSS,
    START_ALONG,
    Substrate,
    clamp,
    coordinates,
    from_coordinates,
)
from durotaxis.env.types import Colony


def initial_colony(substrate: Substrate, seeds: Tensor, config: EnvConfig) -> Colony:
    """A chain of `num_initial_nodes` nodes at the soft end, its edges running forward in order of s.

    Args:
        seeds: [B] int64 episode seeds.
    """
    counter = torch.zeros(len(seeds), dtype=torch.int64, device=seeds.device)
    founders = found(substrate, seeds, counter, counter, config, config.num_slots)
    nothing = torch.zeros_like(founders["alive"])
    front = coordinates(founders["position"][:, : config.num_initial_nodes], substrate)[0].amax(1)
    return Colony(
        **founders,
        newborn=nothing,
        marked=nothing,
        step=counter,
        seed=seeds.clone(),
        next_id=counter + config.num_initial_nodes,
        drift_count=counter,
        milestones=milestones_reached(front, substrate, config),
        front=front,
        recoveries=counter,
    )


def found(
    substrate: Substrate, seeds: Tensor, attempt: Tensor, first_id: Tensor, config: EnvConfig, slots: int
) -> dict[str, Tensor]:
    """The nodes of a fresh colony, {name: [B,slots]} for position, alive, parent, node_id, age, spawn_share.

    Args:
        seeds: [B] int64 episode seeds.
        attempt: [B] int64, 0 at the start of an episode, r for its r-th recovery; another draw each.
        first_id: [B] int64, node_id of the first founder.
        slots: at least `num_initial_nodes`.
    """
    count, device = config.num_initial_nodes, seeds.device
    node = torch.arange(count, device=device)
    length, breadth = substrate.extent[:, 0, None], substrate.extent[:, 1, None]
    along, across = (
        uniform(seeds[:, None], Purpose.INITIAL, 2 * attempt[:, None] + axis, node) for axis in (0, 1)
    )
    low, high = START_ACROSS
    places = from_coordinates(
        START_ALONG * length * along, breadth * (low + (high - low) * across), substrate
    )
    living = clamp(places, substrate)
    order = coordinates(living, substrate)[0].argsort(1)
    living = living.gather(1, order[..., None].expand_as(living))

    slot = torch.arange(slots, device=device).expand(len(seeds), slots)
    alive = slot < count
    return {
        "position": torch.nn.functional.pad(living, (0, 0, 0, slots - count)),
        "alive": alive,
        "parent": torch.where(alive, slot - 1, -1),
        "node_id": torch.where(alive, first_id[:, None] + slot, -1),
        "age": torch.zeros_like(slot),
        "spawn_share": torch.zeros(slot.shape, device=device),
    }


def milestones_reached(front: Tensor, substrate: Substrate, config: EnvConfig) -> Tensor:
    """How many milestones a front at s [B] µm has reached, [B] int64."""
    marks = torch.tensor(config.reward.milestones, device=front.device)
    return (front[:, None] >= marks * substrate.extent[:, 0, None]).sum(1)
