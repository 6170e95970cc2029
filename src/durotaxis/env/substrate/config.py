"""Configuration of the field under the colony. What stands in a section counts for its own kind only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from torch import Tensor

from durotaxis.core.config import Config, KeyedError
from durotaxis.core.errors import UserError
from durotaxis.env.substrate.files import MapFile, file_hash, read_map
from durotaxis.env.substrate.limits import STIFFNESS_MAX, STIFFNESS_MIN

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stiffness = Annotated[float, Field(ge=STIFFNESS_MIN, le=STIFFNESS_MAX)]
GroundKind = Literal["linear", "exponential", "uniform", "step", "map", "random"]
DrawnKind = Literal["linear", "exponential", "uniform", "step", "stripes", "patches", "moat", "noise"]
SubstrateKind = Literal[
    "linear", "exponential", "uniform", "step", "stripes", "patches", "moat", "noise", "map", "random"
]
OVERLAYS = ("stripes", "patches", "moat", "noise")
"""Kinds that lie over a ground."""
SECTIONS = ("step", "stripes", "patches", "moat", "noise", "map", "random")
"""Kinds with a section of their own."""

RANDOM_LINEAR = ((0.01, 0.1), (0.5, 2.0))
"""Ranges of slope (kPa/µm) and base (kPa) of a random linear ground."""
RANDOM_EXPONENTIAL = ((0.004, 0.008), (0.8, 1.5))
"""Ranges of slope (1/µm) and base (kPa) of a random exponential ground."""

RAMP_MIN = 0.2
"""µm; on a narrower ramp the gradient would leave the space of observations."""
NOISE_VALUES_MAX = 1_000_000
"""Values of the lattice of noise, per colony."""
SNAP = 1e-5
"""Directions nearer to a right angle than this, in radians, are that right angle."""
START_ALONG = 0.1
"""Nodes start within this first part of the extent along `direction`."""
START_ACROSS = (0.4, 0.6)
"""Nodes start within this part of the extent across."""

Read = TypeVar("Read")

_DEFAULT_SLOPE = {"linear": 0.05, "exponential": 0.0075}
_DEFAULT_BASE = {"linear": 1.0, "exponential": 1.0, "uniform": 6.0}


def _to_angle(value: Any) -> Any:
    """The angle of a vector [dx, dy]; anything else passes."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    numbers = [
        v for v in value if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
    if len(value) != 2 or len(numbers) != 2:
        raise ValueError("a direction is an angle in radians, or a vector of two finite numbers [dx, dy]")
    if not any(numbers):
        raise ValueError("the vector [0, 0] points nowhere; give one that is longer than zero")
    return math.atan2(numbers[1], numbers[0])


def _snap(angle: float) -> float:
    """The right angle that an angle all but is, so that a typed 3.14159 runs along a side; else the angle."""
    right = round(angle / (0.5 * math.pi)) * (0.5 * math.pi)
    return right if abs(angle - right) <= SNAP else angle


Direction = Annotated[
    Finite,
    BeforeValidator(_to_angle, json_schema_input_type=float | tuple[float, float]),
    AfterValidator(_snap),
]


def _keyed(key: str, read: Callable[[], Read]) -> Read:
    """What `read` gives; its errors blame `key`."""
    try:
        return read()
    except UserError as error:
        raise KeyedError(key, str(error)) from None


class StepConfig(Config):
    """One stiffness before a line across the way, another behind it, and a linear ramp between."""

    position: float = Field(default=0.5, ge=0, le=1)  # of the extent along `direction`; the ramp's middle
    low: Stiffness = 1.0  # kPa, before the line
    high: Stiffness = 10.0  # kPa, behind it
    ramp: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # µm, its width; 0: a sharp jump

    @field_validator("ramp")
    @classmethod
    def _jump_or_ramp(cls, value: float) -> float:
        if 0 < value < RAMP_MIN:
            raise ValueError(f"a ramp is at least {RAMP_MIN:g} µm wide; 0 is a sharp jump")
        return value


class MoatConfig(Config):
    """A soft band across the way, crossed by bridges of the ground's own stiffness."""

    width: Positive = 30.0  # µm, centred at half the extent along `direction`
    stiffness: Stiffness = 0.15  # kPa
    num_bridges: int = Field(default=1, ge=0, le=8)
    bridge_width: Positive = 16.0  # µm, at seeded places across


class StripesConfig(Config):
    """Lanes along `direction`, ground and soft by turns, shifted by one lane now and then.

    The middle lane is ground at the start; along a slanted direction all lanes are, as far as nodes start.
    Where lanes shift, a gap without soft lanes joins old and new.
    """

    lane_width: Positive = 20.0  # µm
    stiffness: Stiffness = 0.15  # kPa, of every other lane
    shift_every: Positive = 60.0  # µm along `direction`
    gap: Positive = 16.0  # µm along `direction`, centred where lanes shift

    @model_validator(mode="after")
    def _check_gap(self) -> StripesConfig:
        if self.gap >= self.shift_every:
            raise KeyedError("gap", f"must be below shift_every, {self.shift_every:g} µm")
        return self


class PatchesConfig(Config):
    """Seeded soft discs, drawn again until a corridor joins start and goal; at worst fewer than drawn."""

    radius: tuple[Positive, Positive] = (10.0, 25.0)  # µm, uniform in this range
    stiffness: Stiffness = 0.15  # kPa
    covered: float = Field(default=0.35, gt=0, lt=0.8)  # share of the area
    corridor: Positive = 12.0  # µm, width of the way from start to goal; half of it is kept free at the start

    @field_validator("radius")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 5 <= value[0] <= value[1]:
            raise ValueError(f"the range must rise from 5 µm or more, not {value[0]:g} to {value[1]:g}")
        return value


class NoiseConfig(Config):
    """A seeded smooth field z in [-1, 1] over the ground: E = ground · exp(amplitude · z)."""

    amplitude: Annotated[float, Field(gt=0, le=math.log(STIFFNESS_MAX / STIFFNESS_MIN))] = 0.5  # of log E
    length: Positive = 20.0  # µm, spacing of the lattice of independent values


class MapConfig(Config):
    """Measured stiffness: a CSV file of kPa, or a grey PNG image; the first row is the largest y.

    Between the centres of pixels stiffness is bilinear. A relative path starts at the working directory.
    """

    file: str | None = None  # ends in .csv or .png
    micrometres_per_pixel: Positive = 1.0  # µm
    stiffness: tuple[Stiffness, Stiffness] | None = None  # PNG: kPa of black and of white
    sha256: str | None = None  # of the file's bytes; filled in when the file is first read

    def table(self, device: torch.device | str = "cpu") -> Tensor:
        """The stiffness [rows, columns] float32 in kPa; row 0 = largest y."""
        if self.file is None:
            raise UserError(
                "env.substrate.map.file: missing; kind `map` needs a CSV or PNG file of stiffness"
            )
        return read_map(MapFile(self.file, self.stiffness, self.sha256 or file_hash(self.file)), device)

    @model_validator(mode="after")
    def _check_file(self) -> MapConfig:
        if self.file is None:
            return self
        found = _keyed("file", lambda: file_hash(str(self.file)))
        if self.sha256 not in (None, found):
            raise KeyedError(
                "sha256", f"{self.file} has sha256 {found}: it is another file, or it was changed"
            )
        # Frozen for everybody else: the hash completes what was read.
        object.__setattr__(self, "sha256", found)
        _keyed("file", self.table)
        return self


class RandomConfig(Config):
    """Which kinds a random substrate draws from, one per episode.

    Linear and exponential draw their numbers too (RANDOM_LINEAR, RANDOM_EXPONENTIAL); other kinds are as
    configured.
    """

    kinds: tuple[DrawnKind, ...] = Field(default=("linear", "exponential"), min_length=1)

    @field_validator("kinds")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a kind is listed twice")
        return value


class SubstrateConfig(Config):
    """The field under the colony: E(s, t), with s along `direction` and t across, in µm."""

    kind: SubstrateKind = "linear"
    size: tuple[Positive, Positive] = (200.0, 100.0)  # µm, width and height; a map brings its own
    direction: Direction = 0.0  # radians, counter-clockwise from +x; a vector [dx, dy] is turned into it
    slope: Finite | None = None  # linear: kPa/µm (0.05); exponential: 1/µm (0.0075)
    base: Stiffness | None = None  # kPa at s = 0 (linear and exponential 1, uniform 6)
    ground: GroundKind | None = None  # what stripes, patches, moat and noise lie over (linear)
    step: StepConfig = StepConfig()
    stripes: StripesConfig = StripesConfig()
    patches: PatchesConfig = PatchesConfig()
    moat: MoatConfig = MoatConfig()
    noise: NoiseConfig = NoiseConfig()
    map: MapConfig = MapConfig()
    random: RandomConfig = RandomConfig()

    @property
    def ground_kind(self) -> str:
        """What obstacles lie over."""
        return self.ground or "linear"

    @property
    def has_overlay(self) -> bool:
        """Whether an episode may have something that lies over a ground."""
        return any(
            kind in OVERLAYS for kind in (self.kind, *(self.random.kinds if self.kind == "random" else ()))
        )

    @property
    def kinds_in_use(self) -> frozenset[str]:
        """Every kind that an episode may need: those drawn from and grounds under overlays as well."""
        kinds = {self.kind, self.ground_kind} if self.has_overlay else {self.kind}
        return frozenset(kinds | set(self.random.kinds) if "random" in kinds else kinds)

    @property
    def laws_in_use(self) -> list[Law]:
        """Every ground law that an episode may have."""
        laws = _laws(self.kind, self)
        return [
            *laws,
            *(law for law in _laws(self.ground_kind, self) if self.has_overlay and law not in laws),
        ]

    @property
    def extent(self) -> tuple[float, float]:
        """(L, M): the substrate's extent along `direction` and across it, in µm."""
        c, s = abs(math.cos(self.direction)), abs(math.sin(self.direction))
        width, height = self.size
        return width * c + height * s, width * s + height * c

    def slope_of(self, law: str) -> float:
        """`slope`, or the default of a law; 0 where it has none."""
        return self.slope if self.slope is not None else _DEFAULT_SLOPE.get(law, 0.0)

    def base_of(self, law: str) -> float:
        """`base` in kPa, or the default of a law."""
        return self.base if self.base is not None else _DEFAULT_BASE[law]

    @model_validator(mode="after")
    def _check(self) -> SubstrateConfig:
        _check_keys(self)
        if "map" in self.kinds_in_use:
            _take_size_of_map(self)
        for law in self.laws_in_use:
            _check_law(law, self)
        if "noise" in self.kinds_in_use:
            _check_noise(self)
        _check_sizes(self)
        return self


@dataclass(frozen=True)
class Law:
    """A ground law, and whether its numbers are drawn anew in every episode."""

    kind: str
    is_drawn: bool


def _laws(kind: str, config: SubstrateConfig) -> list[Law]:
    """The laws behind a kind; overlays have none of their own."""
    kinds = config.random.kinds if kind == "random" else (kind,)
    return [Law(each, kind == "random") for each in kinds if each not in OVERLAYS]


def stiffness_range(law: Law, config: SubstrateConfig) -> tuple[float, float]:
    """The least and the largest stiffness of a ground in kPa, whatever is drawn."""
    length = config.extent[0]
    if law.kind == "map":
        table = config.map.table()
        return float(table.min()), float(table.max())
    if law.kind == "step":
        return min(config.step.low, config.step.high), max(config.step.low, config.step.high)
    if law.is_drawn and law.kind == "linear":
        (_, steepest), (lowest, highest) = RANDOM_LINEAR
        return lowest, highest + steepest * length
    if law.is_drawn and law.kind == "exponential":
        (_, steepest), (lowest, highest) = RANDOM_EXPONENTIAL
        return lowest, _exponential(steepest, highest, length)
    ends = [_stiffness_at(law, s, config) for s in (0.0, length)]
    return min(ends), max(ends)


def _stiffness_at(law: Law, s: float, config: SubstrateConfig) -> float:
    slope, base = config.slope_of(law.kind), config.base_of(law.kind)
    return _exponential(slope, base, s) if law.kind == "exponential" else base + slope * s


def _exponential(slope: float, base: float, s: float) -> float:
    return base * math.exp(min(slope * s, 700.0))  # large enough to be refused, small enough to be a number


def _check_keys(config: SubstrateConfig) -> None:
    """Refuse keys that nothing would read, and a random ground that cannot be."""
    used = config.kinds_in_use
    for name in SECTIONS:
        if name not in used and getattr(config, name) != type(config).model_fields[name].default:
            raise KeyedError(name, f"counts for kind `{name}` only, not for `{config.kind}`; remove it")
    if config.ground is not None and not config.has_overlay:
        overlays = ", ".join(OVERLAYS)
        raise KeyedError("ground", f"counts under {overlays} only, not for kind `{config.kind}`; remove it")
    if config.ground == "random":
        if config.kind == "random":
            raise KeyedError("ground", "kind `random` draws already; name one law for the ground")
        for kind in config.random.kinds:
            if kind in OVERLAYS:
                raise KeyedError("random.kinds", f"`{kind}` is no ground; take it out, or set kind: random")
    if "map" in used and config.map.file is None:
        raise KeyedError("map.file", "missing; kind `map` needs a CSV or PNG file of stiffness")
    given = [name for name in ("slope", "base") if getattr(config, name) is not None]
    if "random" in used and given:
        raise ValueError("the random substrate draws its slope and base itself; remove these keys")
    if "uniform" in used and config.slope:
        raise ValueError("a uniform substrate has no slope; remove the key or choose `linear`")
    for law in ("step", "map"):
        if law in used and given:
            raise KeyedError(given[0], f"a ground of kind `{law}` does not read it; remove it")


def _take_size_of_map(config: SubstrateConfig) -> None:
    rows, columns = config.map.table().shape
    pixel = config.map.micrometres_per_pixel
    size = (columns * pixel, rows * pixel)
    if "size" not in config.model_fields_set:
        # Frozen for everybody else: the file completes what was read.
        object.__setattr__(config, "size", size)
    elif any(not math.isclose(*pair, rel_tol=1e-6) for pair in zip(config.size, size, strict=True)):
        raise KeyedError(
            "size",
            f"{config.map.file} has {columns} x {rows} pixels of {pixel:g} µm, so the size is "
            f"[{size[0]:g}, {size[1]:g}]; remove the key",
        )


def _check_law(law: Law, config: SubstrateConfig) -> None:
    """Refuse grounds outside STIFFNESS_MIN to STIFFNESS_MAX; steps, maps and regions are checked before."""
    length = config.extent[0]
    if law.is_drawn:
        highest = stiffness_range(law, config)[1]
        if highest > STIFFNESS_MAX:
            raise ValueError(
                f"a random substrate {length:g} µm long could reach {highest:.4g} kPa, above "
                f"{STIFFNESS_MAX:g}; make it shorter"
            )
    elif law.kind in _DEFAULT_BASE:
        for s in (0.0, length):
            value = _stiffness_at(law, s, config)
            if not STIFFNESS_MIN <= value <= STIFFNESS_MAX:
                raise ValueError(
                    f"stiffness would be {value:.3g} kPa at s = {s:g} µm, outside "
                    f"{STIFFNESS_MIN:g} to {STIFFNESS_MAX:g} kPa; change `slope` or `base`"
                )


def _check_noise(config: SubstrateConfig) -> None:
    if math.prod(extent / config.noise.length + 1.0 for extent in config.extent) > NOISE_VALUES_MAX:
        raise KeyedError(
            "noise.length",
            f"the lattice would have more than {NOISE_VALUES_MAX:,} values; choose a larger length",
        )
    factor = math.exp(config.noise.amplitude)
    ranges = [stiffness_range(law, config) for law in _laws(config.ground_kind, config)]
    low, high = min(low for low, _ in ranges) / factor, max(high for _, high in ranges) * factor
    if not STIFFNESS_MIN <= low <= high <= STIFFNESS_MAX:
        raise KeyedError(
            "noise.amplitude",
            f"stiffness could come to {low:.3g} or {high:.3g} kPa, outside {STIFFNESS_MIN:g} to "
            f"{STIFFNESS_MAX:g} kPa; lower it, or change the ground",
        )


def _check_sizes(config: SubstrateConfig) -> None:
    """Refuse obstacles that do not fit the substrate."""
    used, (length, breadth) = config.kinds_in_use, config.extent
    if "moat" in used and config.moat.width >= length:
        raise KeyedError("moat.width", f"must be below the substrate's extent, {length:g} µm")
    if "moat" in used:
        _check_bridges(config)
    if "stripes" in used and config.stripes.lane_width >= breadth:
        raise KeyedError("stripes.lane_width", f"must be below the extent across, {breadth:g} µm")
    if "patches" in used and 2 * config.patches.radius[1] > min(config.size):
        raise KeyedError("patches.radius", f"discs must fit into the substrate, {min(config.size):g} µm")
    if "patches" in used and config.patches.corridor >= min(config.size):
        raise KeyedError("patches.corridor", f"must be below the substrate's size, {min(config.size):g} µm")


def _check_bridges(config: SubstrateConfig) -> None:
    """Refuse bridges that do not lie on the substrate across the whole band."""
    from durotaxis.env.substrate.plane import room_for_bridges

    lowest, highest = room_for_bridges(config)
    if config.moat.num_bridges and config.moat.bridge_width > highest - lowest:
        raise KeyedError(
            "moat.bridge_width",
            f"is above the extent across that the substrate has along the whole moat, "
            f"{max(highest - lowest, 0.0):g} µm; narrow the bridges or the moat",
        )
