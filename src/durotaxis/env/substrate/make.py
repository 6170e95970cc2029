"""The substrates of episodes, from a configuration and seeds; and how different ones share a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.env.substrate.config import RANDOM_EXPONENTIAL, RANDOM_LINEAR, SubstrateConfig
from durotaxis.env.substrate.field import EXPONENTIAL, LINEAR, MAP, STEP, UNIFORM, Substrate
from durotaxis.env.substrate.parts import Moat, Noise, Part, Patches, Pixels, Step, Stripes
from durotaxis.env.substrate.patches import draw_discs
from durotaxis.env.substrate.plane import Plane, room_for_bridges

_LAWS = {"uniform": UNIFORM, "linear": LINEAR, "exponential": EXPONENTIAL, "step": STEP, "map": MAP}
_PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {"step": Step, "pixels": Pixels, "noise": Noise, "stripes": Stripes, "patches": Patches, "moat": Moat}
)
# Keys of the draws under Purpose.SUBSTRATE.
_KIND, _SLOPE, _BASE, _BRIDGES, _NOISE = 0, 1, 2, 10, 30


def make_substrate(config: SubstrateConfig, seeds: Tensor) -> Substrate:
    """The substrates of the episodes with these seeds.

    Which parts there are and how long their rows are depends on the configuration alone, so that rows of
    different calls fit into one batch.

    Args:
        seeds: [B] int64 episode seeds; they decide all that is random.
    """
    return _make(config.kind, config, seeds)


def join(substrates: Sequence[Substrate]) -> Substrate:
    """One batch [B1 + B2 + ...] of substrates of any kinds: what a row lacks is filled neutrally."""
    parts: dict[str, Any] = {}
    for name, kind in _PARTS.items():
        found = [getattr(substrate, name) for substrate in substrates]
        if any(part is not None for part in found):
            sizes = [substrate.ground.shape[0] for substrate in substrates]
            parts[name] = _join_parts(kind, found, sizes)
    nothing: dict[str, Any] = dict.fromkeys(_PARTS)
    bare = [replace(substrate, **nothing) for substrate in substrates]
    return replace(Substrate.cat(bare), **parts)


def _make(kind: str, config: SubstrateConfig, seeds: Tensor) -> Substrate:
    if kind == "random":
        return _make_random(config, seeds)
    if kind in _OVERLAYS:
        overlay: dict[str, Any] = {kind: _OVERLAYS[kind](config, seeds)}
        return replace(_make(config.ground_kind, config, seeds), **overlay)
    slope = torch.full(seeds.shape, config.slope_of(kind), device=seeds.device)
    base = 1.0 if kind in ("step", "map") else config.base_of(kind)
    return _make_ground(kind, config, slope, torch.full_like(slope, base))


def _make_random(config: SubstrateConfig, seeds: Tensor) -> Substrate:
    """One of the listed kinds per seed."""
    kinds = config.random.kinds
    choice = (uniform(seeds, Purpose.SUBSTRATE, _KIND) * len(kinds)).to(torch.int64)
    rows = [(choice == index).nonzero()[:, 0] for index in range(len(kinds))]
    drawn = join([_make_drawn(kind, config, seeds[row]) for kind, row in zip(kinds, rows, strict=True)])
    return drawn[torch.cat(rows).argsort()]


def _make_drawn(kind: str, config: SubstrateConfig, seeds: Tensor) -> Substrate:
    ranges = {"linear": RANDOM_LINEAR, "exponential": RANDOM_EXPONENTIAL}.get(kind)
    if ranges is None:
        return _make(kind, config, seeds)
    slope, base = (
        low + uniform(seeds, Purpose.SUBSTRATE, key) * (high - low)
        for key, (low, high) in zip((_SLOPE, _BASE), ranges, strict=True)
    )
    return _make_ground(kind, config, slope, base)


def _make_ground(kind: str, config: SubstrateConfig, slope: Tensor, base: Tensor) -> Substrate:
    plane, device = Plane.of(config), slope.device
    full = _filler(len(slope), device)
    return Substrate(
        size=full(*plane.size),
        direction=full(*plane.along),
        origin=full(*plane.origin),
        extent=full(*config.extent),
        ground=torch.full(slope.shape, _LAWS[kind], device=device),
        slope=slope,
        base=base,
        step=_make_step(config, full) if kind == "step" else None,
        pixels=_make_pixels(config, len(slope), device) if kind == "map" else None,
    )


def _make_step(config: SubstrateConfig, full: Callable[..., Tensor]) -> Step:
    step = config.step
    position = step.position * config.extent[0]
    return Step(*(full(value)[:, 0] for value in (position, step.ramp, step.low, step.high)))


def _make_pixels(config: SubstrateConfig, batch: int, device: torch.device) -> Pixels:
    table = config.map.table(device)
    return Pixels(
        table=torch.zeros(batch, dtype=torch.int64, device=device),
        shape=torch.tensor(table.shape, device=device).expand(batch, 2).contiguous(),
        pixel=torch.full((batch,), config.map.micrometres_per_pixel, device=device),
        tables=table[None],
    )


def _make_noise(config: SubstrateConfig, seeds: Tensor) -> Noise:
    noise, device = config.noise, seeds.device
    rows, columns = (
        torch.arange(math.ceil(extent / noise.length) + 1, device=device) for extent in config.extent
    )
    keys = (seeds[:, None, None], Purpose.SUBSTRATE, _NOISE, rows[:, None], columns)
    full = _filler(len(seeds), device)
    return Noise(full(noise.amplitude)[:, 0], full(noise.length)[:, 0], 2.0 * uniform(*keys) - 1.0)


def _make_stripes(config: SubstrateConfig, seeds: Tensor) -> Stripes:
    stripes, plane, full = config.stripes, Plane.of(config), _filler(len(seeds), seeds.device)
    start = 0.5 * (config.extent[1] - stripes.lane_width)
    # Along a slanted direction clamping takes founders out of the lane in the middle.
    first = 0.0 if 0.0 in plane.along else plane.start_end + 0.5 * stripes.gap
    values = (stripes.stiffness, start, stripes.lane_width, stripes.shift_every, stripes.gap, first)
    return Stripes(*(full(value)[:, 0] for value in values))


def _make_patches(config: SubstrateConfig, seeds: Tensor) -> Patches:
    centre, radius = draw_discs(config, seeds)
    return Patches(_filler(len(seeds), seeds.device)(config.patches.stiffness)[:, 0], centre, radius)


def _make_moat(config: SubstrateConfig, seeds: Tensor) -> Moat:
    moat, length, device = config.moat, config.extent[0], seeds.device
    full = _filler(len(seeds), device)
    keys = _BRIDGES + torch.arange(moat.num_bridges, device=device)
    places = uniform(seeds[:, None], Purpose.SUBSTRATE, keys)
    lowest, highest = room_for_bridges(config)
    return Moat(
        stiffness=full(moat.stiffness)[:, 0],
        first=full(0.5 * (length - moat.width))[:, 0],
        last=full(0.5 * (length + moat.width))[:, 0],
        bridges=lowest + 0.5 * moat.bridge_width + places * (highest - lowest - moat.bridge_width),
        bridge_width=full(moat.bridge_width)[:, 0],
    )


_OVERLAYS: Mapping[str, Callable[[SubstrateConfig, Tensor], Part]] = MappingProxyType(
    {"stripes": _make_stripes, "patches": _make_patches, "moat": _make_moat, "noise": _make_noise}
)


def _filler(batch: int, device: torch.device) -> Callable[..., Tensor]:
    """A function from k numbers to [B,k] float32, every row the same."""

    def full(*values: float) -> Tensor:
        return (
            torch.tensor(values, dtype=torch.float32, device=device).expand(batch, len(values)).contiguous()
        )

    return full


def _join_parts(kind: type[Part], parts: Sequence[Any], sizes: Sequence[int]) -> Part:
    """The parts of substrates of these sizes, where None stands for neutral rows."""
    shared: dict[str, Tensor] = {}
    if kind is Pixels:
        parts, shared["tables"] = _join_tables(parts)
    template = next(part for part in parts if part is not None)

    def column(name: str) -> Tensor:
        like, filling = getattr(template, name), kind.neutral.get(name, 0.0)
        empty = [0] * (like.dim() - 1)
        values = [
            like.new_full((size, *empty), filling) if part is None else getattr(part, name)
            for part, size in zip(parts, sizes, strict=True)
        ]
        return _stack_padded(values, filling)

    own = [f.name for f in fields(template) if f.name not in shared]
    return kind(**{name: column(name) for name in own}, **shared)


def _stack_padded(values: Sequence[Tensor], filling: float) -> Tensor:
    """values [B1,...], [B2,...], ... below each other, filled up to the largest size in every dimension."""
    inner = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    result = values[0].new_full((sum(len(value) for value in values), *inner), filling)
    start = 0
    for value in values:
        place = (slice(start, start + len(value)), *(slice(0, size) for size in value.shape[1:]))
        result[place] = value
        start += len(value)
    return result


def _join_tables(parts: Sequence[Pixels | None]) -> tuple[list[Pixels | None], Tensor]:
    """Pixels whose `table` counts in one stack of different maps, and that stack."""
    tables: list[Tensor] = []
    joined: list[Pixels | None] = []
    for part in parts:
        if part is None:
            joined.append(None)
            continue
        number = next((i for i, known in enumerate(tables) if _is_same(known, part.tables)), len(tables))
        if number == len(tables):
            tables.append(part.tables)
        offset = sum(len(table) for table in tables[:number])
        joined.append(replace(part, table=part.table + offset))
    return joined, tables[0] if len(tables) == 1 else _stack_padded(tables, 0.0)


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first is second or torch.equal(first, second)
