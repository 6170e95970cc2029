"""The field under the colony: stiffness E(position) in kPa and its gradient, analytic, one field per colony.

`s` is the coordinate along `direction` and `t` the one across (to its left), both in µm and 0 at the
substrate's lowest corner. Stiffness is a ground law, perhaps times noise, with soft regions laid over it.
A batch pays for the parts it has, whatever values they hold; `lattice_coordinates` alone looks at values, to
keep what axis-aligned batches compute small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from durotaxis.core.struct import Struct
from durotaxis.env.substrate.parts import Moat, Noise, Patches, Pixels, Region, Step, Stripes, per_row

UNIFORM, LINEAR, EXPONENTIAL, STEP, MAP = 0, 1, 2, 3, 4
"""Codes of the ground laws."""


@final
@dataclass(frozen=True)
class Substrate(Struct):
    """One stiffness field per colony. Parts that no colony of the batch has are None."""

    size: Tensor  # [B,2] float32, µm, width and height
    direction: Tensor  # [B,2] float32, unit vector
    origin: Tensor  # [B,2] float32, µm, what to subtract from the projections so that s, t start at 0
    extent: Tensor  # [B,2] float32, µm, L along direction and M across
    ground: Tensor  # [B] int64, code of the ground law
    slope: Tensor  # [B] float32, linear kPa/µm, exponential 1/µm
    base: Tensor  # [B] float32, kPa at s = 0 of uniform, linear and exponential ground
    step: Step | None = None  # of the law STEP
    pixels: Pixels | None = None  # of the law MAP
    noise: Noise | None = None
    stripes: Stripes | None = None
    patches: Patches | None = None
    moat: Moat | None = None

    @property
    def regions(self) -> list[Region]:
        """The soft regions; where they overlap, the last one counts."""
        return [region for region in (self.stripes, self.patches, self.moat) if region is not None]


def coordinates(position: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """(s, t) in µm, each [B,N], of positions [B,N,2]."""
    x, y = position[..., 0], position[..., 1]
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    s = x * dx + y * dy - substrate.origin[:, 0, None]
    t = y * dx - x * dy - substrate.origin[:, 1, None]
    return s, t


def from_coordinates(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    """Positions [B,N,2] in µm of coordinates s, t [B,N]."""
    return torch.stack(_place(s, t, substrate), -1)


def stiffness(position: Tensor, substrate: Substrate) -> Tensor:
    """E in kPa, [B,N] float32, at positions [B,N,2]; outside the substrate that of the nearest edge."""
    return stiffness_at(*coordinates(clamp(position, substrate), substrate), substrate)


def stiffness_at(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    """E in kPa at coordinates s and t in µm, of shapes [B,...] that broadcast against each other."""
    value = _ground_stiffness(s, t, substrate)
    if substrate.noise is not None:
        value = value * substrate.noise.factor(s, t)
    for region in substrate.regions:
        value = torch.where(region.contains(s, t), per_row(region.stiffness, s), value)
    return value


def log_gradient(position: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """d log E along and across `direction`, each [B,N] in 1/µm.

    At a jump it is the gradient of the piece the point lies in; outside the substrate that of the edge.
    """
    s, t = coordinates(clamp(position, substrate), substrate)
    along, across = _ground_log_gradient(s, t, substrate)
    if substrate.noise is not None:
        noise = substrate.noise.log_gradient(s, t)
        along, across = along + noise[0], across + noise[1]
    for region in substrate.regions:
        is_flat = region.contains(s, t)
        along, across = torch.where(is_flat, 0.0, along), torch.where(is_flat, 0.0, across)
    return along, across


def lattice_coordinates(x: Tensor, y: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """(s, t) of the lattice points (x[b,j], y[b,i]), broadcastable to [B,I,J].

    Along an axis-aligned direction each depends on one coordinate alone and keeps a dimension of 1, which
    makes a picture of the field cheap.

    Args:
        x: [B,J] µm. y: [B,I] µm.
    """
    x, y = x[:, None, :], y[:, :, None]
    dx, dy = per_row(substrate.direction[:, 0], x), per_row(substrate.direction[:, 1], x)
    s0, t0 = per_row(substrate.origin[:, 0], x), per_row(substrate.origin[:, 1], x)
    if bool((dy == 0).all()):
        return x * dx - s0, y * dx - t0
    if bool((dx == 0).all()):
        return y * dy - s0, -x * dy - t0
    return x * dx + y * dy - s0, y * dx - x * dy - t0


def stiffness_lattice(substrate: Substrate, index: int, longest: int) -> Tensor:
    """E in kPa of one colony's field at the centres of a lattice of square pixels, [H,W] float32.

    Row 0 is that of the largest y.

    Args:
        longest: pixels along the longer side.
    """
    one = substrate[index : index + 1]
    width, height = (float(side) for side in one.size[0])
    columns, rows = (max(2, round(longest * side / max(width, height))) for side in (width, height))
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) / columns * width
    y = (1.0 - (torch.arange(rows, dtype=torch.float32) + 0.5) / rows) * height
    grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], -1)
    return stiffness(grid.reshape(1, -1, 2).to(one.size.device), one).reshape(rows, columns)


def clamp(position: Tensor, substrate: Substrate) -> Tensor:
    """The nearest positions [B,N,2] on the substrate."""
    return position.clamp_min(0.0).minimum(substrate.size[:, None])


def is_inside(position: Tensor, substrate: Substrate) -> Tensor:
    """[B,N] bool: the position lies on the substrate, edges included."""
    return ((position >= 0) & (position <= substrate.size[:, None])).all(-1)


def _place(s: Tensor, t: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """(x, y) in µm of coordinates that broadcast against each other."""
    s, t = s + per_row(substrate.origin[:, 0], s), t + per_row(substrate.origin[:, 1], t)
    dx, dy = per_row(substrate.direction[:, 0], s), per_row(substrate.direction[:, 1], s)
    return s * dx - t * dy, s * dy + t * dx


def _ground_stiffness(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    law, slope, base = (per_row(v, s) for v in (substrate.ground, substrate.slope, substrate.base))
    value = torch.where(law == EXPONENTIAL, base * torch.exp(slope * s), base + slope * s)
    if substrate.step is not None:
        value = torch.where(law == STEP, substrate.step.stiffness(s), value)
    if substrate.pixels is not None:
        value = torch.where(law == MAP, substrate.pixels.stiffness(*_place(s, t, substrate)), value)
    return value


def _ground_log_gradient(s: Tensor, t: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    law, slope = per_row(substrate.ground, s), per_row(substrate.slope, s)
    value = _ground_stiffness(s, t, substrate)
    along = torch.where(law == EXPONENTIAL, slope, slope / value)
    across = torch.zeros_like(along)
    if substrate.step is not None:
        along = torch.where(law == STEP, substrate.step.slope(s) / value, along)
    if substrate.pixels is not None:
        by_x, by_y = substrate.pixels.slope(*_place(s, t, substrate))
        dx, dy = per_row(substrate.direction[:, 0], s), per_row(substrate.direction[:, 1], s)
        along = torch.where(law == MAP, (by_x * dx + by_y * dy) / value, along)
        across = torch.where(law == MAP, (by_y * dx - by_x * dy) / value, across)
    return along, across
