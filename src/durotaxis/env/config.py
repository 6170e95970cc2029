"""Configuration of the world. `scenario` names a starting point; every other key overrides it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from durotaxis.core.config import Config, KeyedError, merge
from durotaxis.env.substrate.config import Finite, MoatConfig, Positive, Stiffness, SubstrateConfig
from durotaxis.env.substrate.limits import STIFFNESS_MAX, STIFFNESS_MIN

__all__ = [
    "STIFFNESS_MAX",
    "STIFFNESS_MIN",
    "EnvConfig",
    "MoatConfig",
    "ObservationConfig",
    "ResponseConfig",
    "RewardConfig",
    "SpawnBounds",
    "SubstrateConfig",
]


MOST = 2**31 - 1
"""The largest count."""


class SpawnBounds(Config):
    """Ranges of the spawn parameters. They are part of the physics: see the environment page."""

    max_step: tuple[Positive, Positive] = (1.0, 10.0)  # µm
    half_saturation: tuple[Positive, Positive] = (2.0, 20.0)  # kPa
    noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.5)  # relative
    angle: tuple[Finite, Finite] = (-math.pi, math.pi)  # radians from `direction`, counter-clockwise

    @field_validator("max_step", "half_saturation", "noise", "angle")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(
                f"the lower bound must be below the upper one, not {value[0]:g} and {value[1]:g}"
            )
        return value

    @property
    def low(self) -> tuple[float, float, float, float]:
        """Lower bounds in the order of PARAMETERS."""
        return self.max_step[0], self.half_saturation[0], self.noise[0], self.angle[0]

    @property
    def high(self) -> tuple[float, float, float, float]:
        """Upper bounds in the order of PARAMETERS."""
        return self.max_step[1], self.half_saturation[1], self.noise[1], self.angle[1]


class ResponseConfig(Config):
    """The law from stiffness to the length of a spawn step; the formulas stand in `env.response`."""

    law: Literal["hill", "biphasic", "threshold"] = "hill"
    exponent: Positive = 2.0  # h, the steepness
    optimum: Stiffness = 6.0  # kPa, where steps are longest (biphasic)
    threshold: Stiffness = 0.5  # kPa, below which nothing grows (threshold)

    @model_validator(mode="after")
    def _constants_of_the_law(self) -> ResponseConfig:
        for name, law in (("optimum", "biphasic"), ("threshold", "threshold")):
            if self.law != law and getattr(self, name) != type(self).model_fields[name].default:
                raise KeyedError(name, f"counts under `law: {law}` only, not under `{self.law}`; remove it")
        return self


class ObservationConfig(Config):
    """What is observed beside nodes, edges and graph."""

    field: bool = False  # the 24x24 picture of stiffness, nodes and marked nodes
    frame: Literal["colony", "substrate"] = "colony"  # a square about the centroid, or the whole substrate
    frame_size: Positive = 120.0  # µm, side of the colony's square
    count_scale: int | None = Field(default=None, ge=1)  # divides counts; default: env.max_nodes


class RewardConfig(Config):
    """Coefficients of the reward terms; each term is described in the environment page."""

    progress_centroid: Finite = 2.0
    progress_front: Finite = 2.0
    spawn: Finite = 0.005
    spawn_threshold: Annotated[float, Field(ge=0)] = 0.0  # relative gain in stiffness a child must exceed
    delete_marked: Finite = 0.01
    keep_marked: Finite = 0.01
    delete_unmarked: Finite = 0.01
    too_few: Finite = 0.1
    too_many: Finite = 0.01
    boundary: Finite = 0.02
    boundary_zones: tuple[float, float, float] = (0.03, 0.08, 0.15)  # of the extent across
    boundary_weights: tuple[float, float, float] = (1.0, 0.5, 0.2)  # cost in danger, warning and edge zone
    boundary_safe: Finite = 0.0  # bonus in the safe centre
    edge_direction: Finite = 0.0025
    effort: Finite = 0.0025
    milestone: Finite = 0.25
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)  # of the extent along `direction`; [] for none
    survival: Finite = 0.0
    success: Finite = 2.0
    extinct: Finite = -2.0
    overcrowded: Finite = -2.0
    out_of_bounds: Finite = -2.0
    drift: Finite = -2.0
    recovery: Finite = -1.0  # each time an extinct colony starts anew

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        inside = all(0 < m <= 1 for m in value)
        if not inside or any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("milestones must increase within (0, 1]")
        return value

    @field_validator("boundary_zones")
    @classmethod
    def _zones(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not 0 <= value[0] <= value[1] <= value[2] <= 0.5:
            raise ValueError("boundary_zones must not decrease and must lie within [0, 0.5]")
        return value


class EnvConfig(Config):
    """One world. `EnvConfig(scenario="moat", max_steps=300)` starts from the scenario's values."""

    scenario: str = "quick"
    substrate: SubstrateConfig = SubstrateConfig()
    num_initial_nodes: int = Field(default=5, ge=1, le=MOST)
    min_nodes: int = Field(default=2, ge=0, le=MOST)  # delete is masked at or below
    critical_nodes: int = Field(default=20, ge=1, le=MOST)  # N_c: above it, soft old nodes are marked
    max_nodes: int = Field(default=60, ge=1, le=MOST)  # above it the episode ends overcrowded
    capacity: int | None = Field(default=None, ge=2, le=MOST)  # node slots; default 2 * max_nodes
    max_steps: int = Field(default=200, ge=1, le=MOST)
    delta_time: int = Field(default=3, ge=0, le=MOST)  # steps after which a node counts as old
    minutes_per_step: Positive = 10.0
    spawn_bounds: SpawnBounds = SpawnBounds()
    response: ResponseConfig = ResponseConfig()
    boundary: Literal["clamp", "terminate"] = "clamp"
    goal_margin: float = Field(default=0.01, ge=0, lt=0.9)  # of L, before the far end
    left_moves_limit: int | None = Field(default=30, ge=1, le=MOST)  # steps running; null: drift ends nothing
    overcrowding: Literal["terminate", "cap"] = "terminate"  # cap: no spawn beyond max_nodes, and no such end
    max_recoveries: int = Field(default=0, ge=0, le=MOST)  # times an extinct colony starts anew
    mark_fraction: float = Field(default=0.15, ge=0, le=1)  # of the nodes above critical_nodes; 0: no marks
    observation: ObservationConfig = ObservationConfig()
    reward: RewardConfig = RewardConfig()

    @classmethod
    def under_override(cls, section: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """Another scenario brings its own values, so what a file has from its own scenario gives way."""
        return beyond_scenario(section) if key == "scenario" else section

    @property
    def num_slots(self) -> int:
        """N: `capacity`, or 2 * max_nodes, so that a colony can double in one step."""
        return self.capacity if self.capacity is not None else 2 * self.max_nodes

    @property
    def num_usable_slots(self) -> int:
        """How many nodes a colony can have: every slot, or max_nodes under `overcrowding: cap`."""
        return self.max_nodes if self.overcrowding == "cap" else self.num_slots

    @property
    def capacity_binds(self) -> bool:
        """Whether a colony can want more nodes than it has slots: one of at most max_nodes can double."""
        return self.overcrowding != "cap" and self.num_slots < 2 * self.max_nodes

    @property
    def count_scale(self) -> float:
        """What node and edge counts are divided by in scaled observations."""
        return float(self.observation.count_scale or self.max_nodes)

    @model_validator(mode="before")
    @classmethod
    def _start_from_scenario(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name = data.get("scenario", "quick")
        if not isinstance(name, str):
            return data
        from durotaxis.env.scenarios import scenario_values

        merged, own = merge(scenario_values(name), data), data.get("substrate")
        if isinstance(own, Mapping) and "map" in (own.get("kind"), own.get("ground")) and "size" not in own:
            merged["substrate"].pop("size", None)  # a map brings its own
        return merged

    @model_validator(mode="after")
    def _check_counts(self) -> EnvConfig:
        if self.num_slots <= self.max_nodes:
            raise ValueError(f"capacity ({self.num_slots}) must be above max_nodes ({self.max_nodes})")
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes ({self.min_nodes}) must not be above max_nodes ({self.max_nodes})")
        if self.num_initial_nodes > self.max_nodes:
            raise ValueError(
                f"num_initial_nodes ({self.num_initial_nodes}) must not be above max_nodes ({self.max_nodes})"
            )
        return self


def beyond_scenario(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a section `env` says beyond its own scenario, from which another scenario can take over.

    Left out are the scenario and every value, leaf by leaf, that equals what that scenario gives. Where it
    names no scenario that there is, nothing is left out, so that it gets its usual error.

    Args:
        values: plain values, as a YAML file holds them, not checked yet.
    """
    from durotaxis.env.scenarios import SCENARIOS

    name = values.get("scenario", "quick")
    if not isinstance(name, str) or name not in SCENARIOS:
        return dict(values)
    return _beyond(values, EnvConfig(scenario=name).model_dump(mode="json"))


def _beyond(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        inner = given.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            rest = _beyond(value, inner)
            if rest:
                kept[key] = rest
        elif key not in given or not _equal(value, inner):
            kept[key] = value
    return kept


def _equal(value: Any, given: Any) -> bool:
    # A number is never a boolean here: `max_recoveries: false` keeps its error.
    return value == given and isinstance(value, bool) == isinstance(given, bool)
