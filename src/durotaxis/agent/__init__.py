"""The agent: graph encoder, pictures, actors, critic, and the hybrid action distribution."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durotaxis.agent.actor import Actor as Actor
    from durotaxis.agent.actor import WSAEnhancedActor as WSAEnhancedActor
    from durotaxis.agent.actor_critic import HybridActorCritic as HybridActorCritic
    from durotaxis.agent.actor_critic import PTMFeatures as PTMFeatures
    from durotaxis.agent.actor_critic import build_actor as build_actor
    from durotaxis.agent.config import ActorCriticConfig as ActorCriticConfig
    from durotaxis.agent.config import EncoderConfig as EncoderConfig
    from durotaxis.agent.config import ImageConfig as ImageConfig
    from durotaxis.agent.config import SimplicialConfig as SimplicialConfig
    from durotaxis.agent.critic import Critic as Critic
    from durotaxis.agent.critic import ValueHead as ValueHead
    from durotaxis.agent.critic import state_value as state_value
    from durotaxis.agent.distributions import ActionDistribution as ActionDistribution
    from durotaxis.agent.distributions import ActionParameters as ActionParameters
    from durotaxis.agent.distributions import ActionSample as ActionSample
    from durotaxis.agent.encoder import Encoder as Encoder
    from durotaxis.agent.graph import FlatGraph as FlatGraph
    from durotaxis.agent.graph import flatten as flatten
    from durotaxis.agent.image import View as View
    from durotaxis.agent.portable import agent_to_bytes as agent_to_bytes
    from durotaxis.agent.portable import load_agent as load_agent
    from durotaxis.agent.portable import read_about as read_about
    from durotaxis.agent.simplicial import SimplicialEmbedding as SimplicialEmbedding
    from durotaxis.agent.weights import Transfer as Transfer
    from durotaxis.agent.weights import transfer as transfer

_HOME = {
    "Actor": "actor",
    "WSAEnhancedActor": "actor",
    "HybridActorCritic": "actor_critic",
    "PTMFeatures": "actor_critic",
    "build_actor": "actor_critic",
    "ActorCriticConfig": "config",
    "EncoderConfig": "config",
    "ImageConfig": "config",
    "SimplicialConfig": "config",
    "Critic": "critic",
    "ValueHead": "critic",
    "state_value": "critic",
    "ActionDistribution": "distributions",
    "ActionParameters": "distributions",
    "ActionSample": "distributions",
    "Encoder": "encoder",
    "FlatGraph": "graph",
    "flatten": "graph",
    "View": "image",
    "agent_to_bytes": "portable",
    "load_agent": "portable",
    "read_about": "portable",
    "SimplicialEmbedding": "simplicial",
    "Transfer": "weights",
    "transfer": "weights",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that reading a config does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'durotaxis.agent' has no attribute '{name}'")
    return getattr(importlib.import_module(f"durotaxis.agent.{_HOME[name]}"), name)
