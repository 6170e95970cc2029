"""The named worlds that results are reported on."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

_NO_BOUNDARY = {"boundary": 0.0, "boundary_safe": 0.0}

SCENARIOS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quick": {"substrate": {"kind": "linear"}},
        "linear": {"substrate": {"kind": "linear"}},
        "exponential": {"substrate": {"kind": "exponential"}},
        "random": {"substrate": {"kind": "random"}},
        "stripes": {"substrate": {"kind": "stripes"}, "reward": _NO_BOUNDARY},
        "patches": {"substrate": {"kind": "patches"}, "reward": _NO_BOUNDARY},
        "moat": {"substrate": {"kind": "moat"}, "reward": _NO_BOUNDARY},
        "uniform": {"substrate": {"kind": "uniform"}},
        "full": {
            "substrate": {"kind": "linear", "size": (600.0, 400.0)},
            "critical_nodes": 75,
            "max_nodes": 250,
            "max_steps": 1000,
        },
    }
)
"""Scenario name -> the values of EnvConfig that differ from its defaults."""

ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "quick": "a plain gradient, the first thing to try",
        "linear": "a plain gradient: look at one's own node and climb",
        "exponential": "a gradient that starts soft and steepens",
        "random": "a gradient of another law and steepness in every episode",
        "stripes": "soft lanes that shift: straight ahead is a blind alley, the way leads by the gaps",
        "patches": "soft discs at random: one has to see where the corridor goes",
        "moat": "a soft band across the way: one has to see where the bridge is",
        "uniform": "no gradient at all: only `direction` says where to go",
        "full": "the large substrate, with a large colony",
    }
)
"""Scenario name -> what is special about it."""


def scenario_values(name: str) -> dict[str, Any]:
    """The values of a scenario.

    Raises:
        ValueError: unknown name; the message gives the nearest one.
    """
    if name not in SCENARIOS:
        near = get_close_matches(name, SCENARIOS, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"unknown scenario '{name}'{hint}; known: {', '.join(SCENARIOS)}")
    return dict(SCENARIOS[name])
