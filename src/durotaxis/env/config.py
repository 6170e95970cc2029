"""Configuration of the world. `scenario` names a starting point; every other key overrides it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from durotaxis.core.config import Config, KeyedError, merge

STIFFNESS_MIN, STIFFNESS_MAX = 0.1, 200.0
"""kPa; values outside are refused."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stiffness = Annotated[float, Field(ge=STIFFNESS_MIN, le=STIFFNESS_MAX)]
GroundKind = Literal["linear", "exponential", "uniform", "random"]

RANDOM_LINEAR = ((0.01, 0.1), (0.5, 2.0))
"""Ranges of slope (kPa/µm) and base (kPa) of a random linear ground."""
RANDOM_EXPONENTIAL = ((0.004, 0.008), (0.8, 1.5))
"""Ranges of slope (1/µm) and base (kPa) of a random exponential ground."""

_DEFAULT_SLOPE = {"linear": 0.05, "exponential": 0.0075, "uniform": 0.0}
_DEFAULT_BASE = {"linear": 1.0, "exponential": 1.0, "uniform": 6.0}


class MoatConfig(Config):
    """A soft band across the way, crossed by bridges of the ground's own stiffness."""

    ground: GroundKind = "linear"
    width: Positive = 30.0  # µm, centred at half the extent along `direction`
    stiffness: Stiffness = 0.15  # kPa
    num_bridges: int = Field(default=1, ge=0, le=8)
    bridge_width: Positive = 16.0  # µm, at seeded places across


class SubstrateConfig(Config):
    """The field under the colony: E(s), with s the coordinate along `direction` in µm."""

    kind: Literal["linear", "exponential", "uniform", "random", "moat"] = "linear"
    size: tuple[Positive, Positive] = (200.0, 100.0)  # µm, width and height
    direction: Finite = 0.0  # radians, counter-clockwise from +x
    slope: Finite | None = None  # linear: kPa/µm (0.05); exponential: 1/µm (0.0075)
    base: Stiffness | None = None  # kPa at s = 0 (linear and exponential 1, uniform 6)
    moat: MoatConfig = MoatConfig()

    @property
    def ground(self) -> str:
        """The law under any obstacles: linear, exponential, uniform or random."""
        return self.moat.ground if self.kind == "moat" else self.kind

    @property
    def resolved_slope(self) -> float:
        """`slope`, or the ground's default."""
        return self.slope if self.slope is not None else _DEFAULT_SLOPE[self.ground]

    @property
    def resolved_base(self) -> float:
        """`base`, or the ground's default."""
        return self.base if self.base is not None else _DEFAULT_BASE[self.ground]

    @property
    def extent(self) -> tuple[float, float]:
        """(L, M): the substrate's extent along `direction` and across it, in µm."""
        c, s = abs(math.cos(self.direction)), abs(math.sin(self.direction))
        width, height = self.size
        return width * c + height * s, width * s + height * c

    @model_validator(mode="after")
    def _check_stiffness(self) -> SubstrateConfig:
        if self.ground == "random":
            if self.slope is not None or self.base is not None:
                raise ValueError("the random substrate draws its slope and base itself; remove these keys")
            steepest = RANDOM_EXPONENTIAL[1][1] * math.exp(RANDOM_EXPONENTIAL[0][1] * self.extent[0])
            if steepest > STIFFNESS_MAX:
                raise ValueError(
                    f"a random substrate {self.extent[0]:g} µm long could reach {steepest:.4g} kPa, above "
                    f"{STIFFNESS_MAX:g}; make it shorter"
                )
            return self
        if self.ground == "uniform" and self.slope:
            raise ValueError("a uniform substrate has no slope; remove the key or choose `linear`")
        for s in (0.0, self.extent[0]):
            if self.ground == "exponential":
                value = self.resolved_base * math.exp(min(self.resolved_slope * s, 700.0))
            else:
                value = self.resolved_base + self.resolved_slope * s
            if not STIFFNESS_MIN <= value <= STIFFNESS_MAX:
                raise ValueError(
                    f"stiffness would be {value:.3g} kPa at s = {s:g} µm, outside "
                    f"{STIFFNESS_MIN:g} to {STIFFNESS_MAX:g} kPa; change `slope` or `base`"
                )
        if self.kind == "moat" and self.moat.width >= self.extent[0]:
            raise ValueError(f"moat.width must be below the substrate's extent, {self.extent[0]:g} µm")
        if self.kind == "moat" and self.moat.bridge_width > self.extent[1]:
            raise ValueError(f"moat.bridge_width is above the extent across, {self.extent[1]:g} µm")
        return self


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
    num_initial_nodes: int = Field(default=5, ge=1)
    min_nodes: int = Field(default=2, ge=0)  # delete is masked at or below
    critical_nodes: int = Field(default=20, ge=1)  # N_c: above it, soft old nodes are marked
    max_nodes: int = Field(default=60, ge=1)  # above it the episode ends overcrowded
    capacity: int | None = Field(default=None, ge=2)  # node slots; default 2 * max_nodes
    max_steps: int = Field(default=200, ge=1)
    delta_time: int = Field(default=3, ge=0)  # steps after which a node counts as old
    minutes_per_step: Positive = 10.0
    spawn_bounds: SpawnBounds = SpawnBounds()
    response: ResponseConfig = ResponseConfig()
    boundary: Literal["clamp", "terminate"] = "clamp"
    goal_margin: float = Field(default=0.01, ge=0, lt=0.9)  # of L, before the far end
    left_moves_limit: int | None = Field(default=30, ge=1)  # steps running; null: drift ends nothing
    overcrowding: Literal["terminate", "cap"] = "terminate"  # cap: no spawn beyond max_nodes, and no such end
    max_recoveries: int = Field(default=0, ge=0)  # times an extinct colony starts anew within its episode
    mark_fraction: float = Field(default=0.15, ge=0, le=1)  # of the nodes above critical_nodes; 0: no marks
    observation: ObservationConfig = ObservationConfig()
    reward: RewardConfig = RewardConfig()

    @property
    def num_slots(self) -> int:
        """N: `capacity`, or 2 * max_nodes, so that a colony can double in one step."""
        return self.capacity if self.capacity is not None else 2 * self.max_nodes

    @property
    def num_usable_slots(self) -> int:
        """How many nodes a colony can have: every slot, or max_nodes under `overcrowding: cap`."""
        return self.max_nodes if self.overcrowding == "cap" else self.num_slots

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

        return merge(scenario_values(name), data)

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
