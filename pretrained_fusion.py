"""The names of the WSA integration guide, importable from the root of the repository."""

from durotaxis.agent import ActionParameters, Actor, Critic, HybridActorCritic, View, WSAEnhancedActor
from durotaxis.fusion import MultiPTMFeatureExtractor, StateEncoder, WeightSharingAttention

__all__ = [
    "ActionParameters",
    "Actor",
    "Critic",
    "HybridActorCritic",
    "MultiPTMFeatureExtractor",
    "StateEncoder",
    "View",
    "WSAEnhancedActor",
    "WeightSharingAttention",
]
