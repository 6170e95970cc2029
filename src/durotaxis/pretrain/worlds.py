"""The worlds that pre-training draws from, and those it never sees."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from durotaxis.core.config import build_config
from durotaxis.core.errors import UserError
from durotaxis.core.spelling import did_you_mean
from durotaxis.env import EnvConfig

TRAINING: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "linear": {"scenario": "linear"},
        "exponential": {"scenario": "exponential"},
        "random": {"scenario": "random"},
        "stripes": {"scenario": "stripes"},
        "moat": {"scenario": "moat"},
        "uniform": {"scenario": "uniform"},
        "full": {"scenario": "full"},
        "closed moat": {"scenario": "moat", "substrate": {"moat": {"num_bridges": 0, "width": 16.0}}},
        "open moat": {"scenario": "moat", "substrate": {"ground": "uniform", "moat": {"num_bridges": 3}}},
        "narrow moat": {
            "scenario": "moat",
            "substrate": {"size": (160.0, 120.0), "moat": {"width": 20.0, "bridge_width": 12.0}},
        },
        "wide stripes": {
            "scenario": "stripes",
            "substrate": {"stripes": {"lane_width": 28.0, "shift_every": 75.0, "gap": 24.0}},
        },
        "closed stripes": {
            "scenario": "stripes",
            "substrate": {"stripes": {"lane_width": 12.0, "shift_every": 900.0, "gap": 0.01}},
        },
        "checkers": {
            "scenario": "stripes",
            "substrate": {"stripes": {"lane_width": 20.0, "shift_every": 45.0, "gap": 0.01}},
        },
    }
)
"""Name -> values of EnvConfig. `quick` is `linear` under another name, `patches` is held out."""

HELD_OUT: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "patches": {"scenario": "patches"},
        "islands": {
            "substrate": {
                "kind": "noise",
                "ground": "uniform",
                "base": 0.35,
                "noise": {"amplitude": 1.25, "length": 20.0},
            },
        },
        "other moat": {
            "scenario": "moat",
            "substrate": {
                "ground": "exponential",
                "size": (240.0, 140.0),
                "moat": {"width": 24.0, "bridge_width": 20.0},
            },
        },
    }
)
"""Name -> values of worlds for probes alone: two kinds of obstacle, and a moat, that training never shows."""


PARTED = ("closed moat", "closed stripes", "checkers")
"""Worlds whose ground falls into pieces: a colony gets nowhere there, so random graphs alone are drawn."""


def world(name: str) -> EnvConfig:
    """The configuration of a world, with the picture observed.

    Raises:
        UserError: unknown name.
    """
    known = {**TRAINING, **HELD_OUT}
    if name not in known:
        raise UserError(f"unknown world '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")
    return build_config(EnvConfig, {**known[name], "observation": {"field": True}}, f"world {name}")
