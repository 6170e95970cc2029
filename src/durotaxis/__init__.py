"""Durotaxis as a growing and shrinking graph, learned with Weight Sharing Attention over pre-trained models.

The layers are `durotaxis.env` (the world), `durotaxis.fusion` (several pre-trained models, one
representation), `durotaxis.agent` (actor and critic), `durotaxis.ppo` (learning) and `durotaxis.study`
(whole runs). Importing this package alone is cheap: a layer is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAYERS = ("agent", "core", "env", "fusion", "integrations", "ppo", "records", "study")


def __getattr__(name: str) -> Any:
    if name in _LAYERS:
        return import_module(f"durotaxis.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("durotaxis")
    raise AttributeError(f"module 'durotaxis' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAYERS, "__version__"])
