"""The world in the clothes of other libraries: Gymnasium, Stable-Baselines3 and TorchRL.

Importing this package registers `durotaxis/Durotaxis-v0` and `durotaxis/DurotaxisGlobal-v0` with Gymnasium
and loads nothing heavy: an adapter is loaded when it is first used, an optional library with its adapter.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from durotaxis.integrations.registration import GLOBAL_ID, NODE_ID, register_envs

_HOMES = {
    "ColonyEnv": "gymnasium",
    "ColonyVectorEnv": "gymnasium",
    "ColonyVecEnv": "sb3",
    "FollowSchedules": "fusion_sb3",
    "GraphExtractor": "sb3",
    "ColonyTensorEnv": "torchrl",
    "PictureFusion": "picture_fusion",
    "WSAFeaturesExtractor": "fusion_sb3",
    "WSAModule": "fusion_torchrl",
    "calibrate_on": "fusion_sb3",
    "wsa_policy_kwargs": "fusion_sb3",
    "global_action": "actions",
    "preferred_action": "actions",
}

__all__ = [
    "GLOBAL_ID",
    "NODE_ID",
    "ColonyEnv",
    "ColonyTensorEnv",
    "ColonyVecEnv",
    "ColonyVectorEnv",
    "FollowSchedules",
    "GraphExtractor",
    "PictureFusion",
    "WSAFeaturesExtractor",
    "WSAModule",
    "calibrate_on",
    "global_action",
    "preferred_action",
    "register_envs",
    "wsa_policy_kwargs",
]

register_envs()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"durotaxis.integrations.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'durotaxis.integrations' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
