"""Observations and small agents that several tests use."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from durotaxis.agent import ActorCriticConfig, Encoder, EncoderConfig, HybridActorCritic
from durotaxis.env.types import Observation

SMALL_PTMS = (
    {"model_type": "resnet18_random", "tap": "layer1"},
    {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
)
IMAGES = {
    "field sampled": {"source": "field", "readout": "sampled"},
    "field pooled": {"source": "field", "readout": "pooled"},
    "tokens sampled": {"source": "tokens", "readout": "sampled"},
    "tokens pooled": {"source": "tokens", "readout": "pooled"},
    "node": {"source": "tokens", "scope": "node", "readout": "pooled"},
}


def make_observation(counts: list[int], capacity: int, seed: int = 0) -> Observation:
    """Random colonies with so many living nodes, random forests, and some kinds forbidden."""
    generator = torch.Generator().manual_seed(seed)
    num_colonies = len(counts)

    def normal(*shape: int) -> Tensor:
        return torch.randn(num_colonies, *shape, generator=generator)

    mask = torch.arange(capacity) < torch.tensor(counts)[:, None]
    draw = torch.rand(num_colonies, capacity, generator=generator)
    parent = (draw * (torch.arange(capacity) + 1)).long() - 1  # -1, or an older slot
    parent = torch.where(mask, parent, -1)
    allowed = torch.rand(num_colonies, capacity, 3, generator=generator) < 0.8
    allowed = allowed & mask[..., None]
    allowed[..., 0] = True
    alive = mask[..., None].float()
    return Observation(
        nodes=normal(capacity, 13) * alive,
        node_mask=mask,
        edges=normal(capacity, 3) * (parent >= 0)[..., None],
        parent=parent,
        graph=normal(16),
        action_mask=allowed,
        position=(normal(capacity, 2) * 30 + 60) * alive,
        frame_low=torch.zeros(num_colonies, 2),
        frame_high=torch.full((num_colonies, 2), 120.0),
        field=torch.rand(num_colonies, 3, 24, 24, generator=generator),
    )


def crop(observation: Observation, num_slots: int) -> Observation:
    """The same colonies with fewer slots."""
    names = ("nodes", "node_mask", "edges", "parent", "action_mask", "position")
    return dataclasses.replace(
        observation, **{name: getattr(observation, name)[:, :num_slots] for name in names}
    )


def permute(observation: Observation, order: Tensor) -> Observation:
    """Slot j of the result is slot order[j]; parents are renumbered."""
    place = torch.argsort(order)
    names = ("nodes", "node_mask", "edges", "action_mask", "position")
    moved = {name: getattr(observation, name)[:, order] for name in names}
    parent = observation.parent[:, order]
    return dataclasses.replace(
        observation, **moved, parent=torch.where(parent >= 0, place[parent.clamp_min(0)], -1)
    )


def make_policy(
    seed: int = 0, reward_terms: tuple[str, ...] = (), **actor_critic: object
) -> HybridActorCritic:
    """A small agent in eval mode, its heads loud enough that differences show."""
    values: dict[str, object] = {
        "use_wsa": True,
        "backbone": SMALL_PTMS[0],
        "hidden_dim": 32,
        "wsa_config": {"embedding_dim": 32, "context_dim": 16, "ptms": SMALL_PTMS},
    }
    torch.manual_seed(seed)
    encoder = Encoder(EncoderConfig(hidden_dim=32, num_layers=2, num_heads=4, out_dim=32))
    config = ActorCriticConfig.model_validate(values | actor_critic)
    policy = HybridActorCritic(encoder, config, reward_terms=reward_terms).eval()
    with torch.no_grad():
        policy.actor.heads.discrete_head.weight.mul_(100)
        policy.actor.heads.continuous_head.weight.mul_(100)
    return policy
