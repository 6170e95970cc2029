"""How an episode begins."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import Substrate, clamp, coordinates, from_coordinates
from durotaxis.env.types import Colony

START_ALONG = 0.1
"""Nodes start within this first part of the extent along `direction`."""
START_ACROSS = (0.4, 0.6)
"""Nodes start within this part of the extent across."""


def initial_colony(substrate: Substrate, seeds: Tensor, config: EnvConfig) -> Colony:
    """A chain of `num_initial_nodes` nodes at the soft end, its edges running forward in order of s.

    Args:
        seeds: [B] int64 episode seeds.
    """
    batch, slots, count = seeds.shape[0], config.num_slots, config.num_initial_nodes
    device = seeds.device
    node = torch.arange(count, device=device)
    length, breadth = substrate.extent[:, 0, None], substrate.extent[:, 1, None]
    s = START_ALONG * length * uniform(seeds[:, None], Purpose.INITIAL, 0, node)
    low, high = START_ACROSS
    t = breadth * (low + (high - low) * uniform(seeds[:, None], Purpose.INITIAL, 1, node))
    living = clamp(from_coordinates(s, t, substrate), substrate)
    order = coordinates(living, substrate)[0].argsort(1)
    living = living.gather(1, order[..., None].expand_as(living))

    slot = torch.arange(slots, device=device).expand(batch, slots)
    alive = slot < count
    position = torch.zeros(batch, slots, 2, device=device)
    position[:, :count] = living
    zeros = torch.zeros(batch, slots, dtype=torch.int64, device=device)
    nothing = torch.zeros(batch, slots, dtype=torch.bool, device=device)
    counter = torch.zeros(batch, dtype=torch.int64, device=device)
    front = coordinates(living, substrate)[0].amax(1)
    return Colony(
        position=position,
        alive=alive,
        parent=torch.where(alive, slot - 1, -1),
        node_id=torch.where(alive, slot, -1),
        age=zeros,
        newborn=nothing,
        marked=nothing,
        spawn_share=torch.zeros(batch, slots, device=device),
        step=counter,
        seed=seeds.clone(),
        next_id=counter + count,
        drift_count=counter,
        milestones=milestones_reached(front, substrate, config),
        front=front,
    )


def milestones_reached(front: Tensor, substrate: Substrate, config: EnvConfig) -> Tensor:
    """How many milestones a front at s [B] µm has reached, [B] int64."""
    marks = torch.tensor(config.reward.milestones, device=front.device)
    return (front[:, None] >= marks * substrate.extent[:, 0, None]).sum(1)
