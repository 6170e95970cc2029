"""What a substrate may have beside its ground law: soft regions, noise, a step, a map. One row per colony.

Each part is a value with pure methods of the coordinates s and t (µm, shapes [B,...] that broadcast against
each other). `neutral` is what a row holds that has no such part, so that batches can mix kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from durotaxis.core.struct import Struct


def per_row(value: Tensor, other: Tensor) -> Tensor:
    """One value per colony [B], shaped to broadcast against `other` [B,...]."""
    return value.view(-1, *(1,) * (other.dim() - 1))


Cell = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], list[Tensor]]
"""Of each point: two numbers about its place in its cell along either axis, and values at four corners."""


class Part(Struct):
    """Abstract: a part of a substrate."""

    neutral: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Field -> what fills rows without this part, and entries beyond a row's own; 0 for other fields."""


class Region(Part, ABC):
    """Abstract: a part of the substrate where stiffness is a constant."""

    stiffness: Tensor  # [B] float32, kPa

    @abstractmethod
    def contains(self, s: Tensor, t: Tensor) -> Tensor:
        """Whether points lie in the region, bool of the broadcast shape."""


@final
@dataclass(frozen=True)
class Moat(Region):
    """A band across the way, crossed by K bridges."""

    neutral: ClassVar[Mapping[str, float]] = MappingProxyType({"first": 1.0, "bridges": torch.inf})

    stiffness: Tensor  # [B] float32, kPa
    first: Tensor  # [B] float32, µm, where the band begins along `direction`
    last: Tensor  # [B] float32, µm, where it ends; before `first`: no band
    bridges: Tensor  # [B,K] float32, µm, t at the middle of each bridge; infinite: no bridge
    bridge_width: Tensor  # [B] float32, µm

    def contains(self, s: Tensor, t: Tensor) -> Tensor:
        """In the band and on no bridge."""
        inside = (s >= per_row(self.first, s)) & (s <= per_row(self.last, s))
        half = per_row(0.5 * self.bridge_width, t)
        for middle in self.bridges.unbind(1):
            inside = inside & ((t - per_row(middle, t)).abs() > half)
        return inside


@final
@dataclass(frozen=True)
class Stripes(Region):
    """Every other lane along `direction`; lanes shift by one at multiples of a length, amid gaps."""

    neutral: ClassVar[Mapping[str, float]] = MappingProxyType(
        {"lane_width": 1.0, "shift_every": 1.0, "gap": 1.0}
    )

    stiffness: Tensor  # [B] float32, kPa
    middle: Tensor  # [B] float32, µm, t at the lower side of lane 0, which is no stripe at s = 0
    lane_width: Tensor  # [B] float32, µm
    shift_every: Tensor  # [B] float32, µm along `direction`
    gap: Tensor  # [B] float32, µm along `direction`, without stripes; as long as `shift_every`: no stripes
    first: Tensor  # [B] float32, µm, s before which there are no stripes

    def contains(self, s: Tensor, t: Tensor) -> Tensor:
        """Where lane + number of shifts is odd, but neither in a gap nor before `first`."""
        lane = torch.floor((t - per_row(self.middle, t)) / per_row(self.lane_width, t))
        every, gap = per_row(self.shift_every, s), per_row(self.gap, s)
        odd = torch.remainder(lane + torch.floor(s / every), 2.0) == 1.0
        behind_gap = (torch.remainder(s + 0.5 * gap, every) >= gap) & (s >= per_row(self.first, s))
        return odd & behind_gap


@final
@dataclass(frozen=True)
class Patches(Region):
    """P discs; those of radius 0 are none."""

    stiffness: Tensor  # [B] float32, kPa
    centre: Tensor  # [B,P,2] float32, µm, s and t
    radius: Tensor  # [B,P] float32, µm

    def contains(self, s: Tensor, t: Tensor) -> Tensor:
        """Inside any disc."""
        inside = torch.zeros((), dtype=torch.bool, device=s.device)
        for centre, radius in zip(self.centre.unbind(1), self.radius.unbind(1), strict=True):
            ds, dt = s - per_row(centre[:, 0], s), t - per_row(centre[:, 1], t)
            # On a lattice each side has one coordinate alone.
            inside = inside | (ds * ds < per_row(radius * radius, t) - dt * dt)
        return inside


@final
@dataclass(frozen=True)
class Noise(Part):
    """A smooth field z in [-1, 1] that multiplies the ground by exp(amplitude · z).

    Value noise: independent values on a square lattice, joined by the quintic 6f⁵ - 15f⁴ + 10f³, whose first
    two derivatives are 0 at either end (Perlin 2002, "Improving noise"), so that z has two of its own.
    """

    neutral: ClassVar[Mapping[str, float]] = MappingProxyType({"length": 1.0})

    amplitude: Tensor  # [B] float32, of log E; 0: no noise
    length: Tensor  # [B] float32, µm, spacing of the lattice
    values: Tensor  # [B,I,J] float32 in [-1, 1], z at s = i · length, t = j · length

    def factor(self, s: Tensor, t: Tensor) -> Tensor:
        """exp(amplitude · z)."""
        (f, _), (g, _), corners = self._cell(s, t)
        return torch.exp(per_row(self.amplitude, corners[0]) * _blend(f, g, corners))

    def log_gradient(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """d log factor along and across, 1/µm."""
        (f, df), (g, dg), corners = self._cell(s, t)
        low_low, low_high, high_low, high_high = corners
        scale = per_row(self.amplitude / self.length, low_low)
        along = df * ((high_low - low_low) * (1.0 - g) + (high_high - low_high) * g)
        across = dg * ((low_high - low_low) * (1.0 - f) + (high_high - high_low) * f)
        return scale * along, scale * across

    def _cell(self, s: Tensor, t: Tensor) -> Cell:
        """(fade, its slope) along and across, and the values at the corners of each point's cell."""
        _, rows, columns = self.values.shape
        i, f = _split(s / per_row(self.length, s), rows)
        j, g = _split(t / per_row(self.length, t), columns)
        first = i * columns + j
        flat = self.values.flatten(1)
        corners = [_pick(flat, first + k) for k in (0, 1, columns, columns + 1)]
        return _fade(f), _fade(g), corners


@final
@dataclass(frozen=True)
class Step(Part):
    """A ground law: one stiffness before a line across the way, another behind it, a linear ramp between."""

    position: Tensor  # [B] float32, µm, s at the middle of the ramp
    ramp: Tensor  # [B] float32, µm, its width; 0: a sharp jump
    low: Tensor  # [B] float32, kPa, before it
    high: Tensor  # [B] float32, kPa, behind it

    def stiffness(self, s: Tensor) -> Tensor:
        """E in kPa."""
        low, high = per_row(self.low, s), per_row(self.high, s)
        return low + (high - low) * self._share(s)

    def slope(self, s: Tensor) -> Tensor:
        """dE/ds in kPa/µm."""
        share, ramp = self._share(s), per_row(self.ramp, s)
        rise = per_row(self.high - self.low, s) / torch.where(ramp > 0, ramp, 1.0)
        return torch.where((share > 0) & (share < 1), rise, 0.0)

    def _share(self, s: Tensor) -> Tensor:
        ramp, behind = per_row(self.ramp, s), s - per_row(self.position, s)
        smooth = (behind / torch.where(ramp > 0, ramp, 1.0) + 0.5).clamp(0.0, 1.0)
        return torch.where(ramp > 0, smooth, (behind >= 0).to(s.dtype))


@final
@dataclass(frozen=True)
class Pixels(Part):
    """A ground law: bilinear between the centres of pixels, constant beyond the outermost centres."""

    shared: ClassVar[tuple[str, ...]] = ("tables",)
    neutral: ClassVar[Mapping[str, float]] = MappingProxyType({"pixel": 1.0, "shape": 2})

    table: Tensor  # [B] int64, which table
    shape: Tensor  # [B,2] int64, its rows and columns; at least 2
    pixel: Tensor  # [B] float32, µm, side of a pixel
    tables: Tensor  # [M,H,W] float32, kPa, of all maps of the batch; row 0 = largest y; padded

    def stiffness(self, x: Tensor, y: Tensor) -> Tensor:
        """E in kPa at x and y in µm."""
        (_, f), (_, g), corners = self._cell(x, y)
        return _blend(f, g, corners)

    def slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx and dE/dy in kPa/µm."""
        (f_slope, f), (g_slope, g), corners = self._cell(x, y)
        low_low, low_high, high_low, high_high = corners
        by_row = f_slope * ((high_low - low_low) * (1.0 - g) + (high_high - low_high) * g)
        by_column = g_slope * ((low_high - low_low) * (1.0 - f) + (high_high - high_low) * f)
        return by_column, by_row

    def _cell(self, x: Tensor, y: Tensor) -> Cell:
        """(slope, fraction) down the rows and along the columns, and the pixels around each point.

        A slope is the change of the fraction per µm of y or x: 0 beyond the outermost centres.
        """
        pixel, rows, columns = per_row(self.pixel, x), self.shape[:, 0], self.shape[:, 1]
        i, f, down = _between(per_row(rows, y) - 0.5 - y / pixel, per_row(rows, y))
        j, g, right = _between(x / pixel - 0.5, per_row(columns, x))
        _, height, width = self.tables.shape
        first = per_row(self.table * (height * width), x) + i * width + j
        flat = self.tables.flatten()
        corners = [flat[first + k] for k in (0, 1, width, width + 1)]
        return (-down / pixel, f), (right / pixel, g), corners


def _between(place: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the lower of two centres, fraction towards the upper, and 1 where the point lies between."""
    last = count.to(place.dtype) - 1.0
    inside = place.clamp_min(0.0).minimum(last)
    lower = torch.floor(inside).minimum(last - 1.0)
    return lower.to(torch.int64), inside - lower, (place == inside).to(place.dtype)


def _split(place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Index of the lattice value below, and the fraction towards the next, within a lattice of `count`."""
    lower = torch.floor(place).clamp(0.0, float(count - 2))
    return lower.to(torch.int64), (place - lower).clamp(0.0, 1.0)


def _fade(f: Tensor) -> tuple[Tensor, Tensor]:
    """6f⁵ - 15f⁴ + 10f³ and its derivative."""
    return f**3 * (f * (6.0 * f - 15.0) + 10.0), 30.0 * (f * (1.0 - f)) ** 2


def _pick(flat: Tensor, index: Tensor) -> Tensor:
    """flat [B,Q] at index [B,...]."""
    return flat.gather(1, index.flatten(1)).view(index.shape)


def _blend(f: Tensor, g: Tensor, corners: list[Tensor]) -> Tensor:
    """Bilinear: f from the first pair of corners to the second, g within each pair."""
    low_low, low_high, high_low, high_high = corners
    low = low_low + (low_high - low_low) * g
    high = high_low + (high_high - high_low) * g
    return low + (high - low) * f
