"""The field under the colony: analytic stiffness E(position) in kPa and its gradient, one field per colony.

`s` is the coordinate along `direction` and `t` the one across (to its left), both in µm and 0 at the
substrate's lowest corner. Stiffness is a ground law in s, with soft regions laid over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.core.struct import Struct
from durotaxis.env.config import RANDOM_EXPONENTIAL, RANDOM_LINEAR, SubstrateConfig

UNIFORM, LINEAR, EXPONENTIAL = 0, 1, 2
_GROUNDS = {"uniform": UNIFORM, "linear": LINEAR, "exponential": EXPONENTIAL}


@dataclass(frozen=True)
class Substrate(Struct):
    """One stiffness field per colony, so that a batch can mix them. B colonies, K bridges."""

    size: Tensor  # [B,2] float32, µm, width and height
    direction: Tensor  # [B,2] float32, unit vector
    origin: Tensor  # [B,2] float32, µm, what to subtract from the projections so that s, t start at 0
    extent: Tensor  # [B,2] float32, µm, L along direction and M across
    ground: Tensor  # [B] int64, UNIFORM, LINEAR or EXPONENTIAL
    slope: Tensor  # [B] float32, linear kPa/µm, exponential 1/µm
    base: Tensor  # [B] float32, kPa at s = 0
    moat: Tensor  # [B,2] float32, µm, first and last s of the soft band; first > last where there is none
    moat_stiffness: Tensor  # [B] float32, kPa
    bridges: Tensor  # [B,K] float32, µm, t at the middle of each bridge
    bridge_width: Tensor  # [B] float32, µm


def make_substrate(config: SubstrateConfig, seeds: Tensor) -> Substrate:
    """The substrates of the episodes with these seeds.

    Args:
        seeds: [B] int64 episode seeds; they decide the random ground and the places of bridges.
    """
    batch, device = seeds.shape[0], seeds.device

    def full(*values: float) -> Tensor:
        return (
            torch.tensor(values, dtype=torch.float32, device=device).expand(batch, len(values)).contiguous()
        )

    along, across = _unit(config.direction), _left(_unit(config.direction))
    ground, slope, base = _draw_ground(config, seeds)
    length, breadth = config.extent
    moat = config.moat if config.kind == "moat" else None
    band = (0.5 * (length - moat.width), 0.5 * (length + moat.width)) if moat else (1.0, 0.0)
    num_bridges = moat.num_bridges if moat else 0
    width = moat.bridge_width if moat else 0.0
    places = uniform(seeds[:, None], Purpose.SUBSTRATE, 10 + torch.arange(num_bridges, device=device))
    return Substrate(
        size=full(*config.size),
        direction=full(*along),
        origin=full(_lowest(along, config.size), _lowest(across, config.size)),
        extent=full(length, breadth),
        ground=ground,
        slope=slope,
        base=base,
        moat=full(*band),
        moat_stiffness=full(moat.stiffness if moat else 0.0)[:, 0],
        bridges=0.5 * width + places * (breadth - width),
        bridge_width=full(width)[:, 0],
    )


def coordinates(position: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """(s, t) in µm, each [B,N], of positions [B,N,2]."""
    x, y = position[..., 0], position[..., 1]
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    s = x * dx + y * dy - substrate.origin[:, 0, None]
    t = y * dx - x * dy - substrate.origin[:, 1, None]
    return s, t


def from_coordinates(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    """Positions [B,N,2] in µm of coordinates s, t [B,N]."""
    s, t = s + substrate.origin[:, 0, None], t + substrate.origin[:, 1, None]
    dx, dy = substrate.direction[:, 0, None], substrate.direction[:, 1, None]
    return torch.stack([s * dx - t * dy, s * dy + t * dx], -1)


def stiffness(position: Tensor, substrate: Substrate) -> Tensor:
    """E in kPa, [B,N] float32, at positions [B,N,2]; outside the substrate that of the nearest edge."""
    return stiffness_at(*coordinates(clamp(position, substrate), substrate), substrate)


def stiffness_at(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    """E in kPa at coordinates s and t in µm, of shapes [B,...] that broadcast against each other."""
    ground = _ground_stiffness(s, substrate)
    return torch.where(_in_moat(s, t, substrate), _like(substrate.moat_stiffness, s), ground)


def log_gradient(position: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """d log E along and across `direction`, each [B,N] in 1/µm.

    At a jump it is the gradient of the piece the point lies in; outside the substrate that of the edge.
    """
    s, t = coordinates(clamp(position, substrate), substrate)
    slope = substrate.slope[:, None]
    linear = slope / _ground_stiffness(s, substrate)
    along = torch.where(substrate.ground[:, None] == EXPONENTIAL, slope, linear)
    along = torch.where(_in_moat(s, t, substrate), torch.zeros_like(along), along)
    return along, torch.zeros_like(along)


def lattice_coordinates(x: Tensor, y: Tensor, substrate: Substrate) -> tuple[Tensor, Tensor]:
    """(s, t) of the lattice points (x[b,j], y[b,i]), broadcastable to [B,I,J].

    Along an axis-aligned direction each depends on one coordinate alone and keeps a dimension of 1, which
    makes a picture of the field cheap.

    Args:
        x: [B,J] µm. y: [B,I] µm.
    """
    x, y = x[:, None, :], y[:, :, None]
    dx, dy = _like(substrate.direction[:, 0], x), _like(substrate.direction[:, 1], x)
    s0, t0 = _like(substrate.origin[:, 0], x), _like(substrate.origin[:, 1], x)
    if bool((dy == 0).all()):
        return x * dx - s0, y * dx - t0
    if bool((dx == 0).all()):
        return y * dy - s0, -x * dy - t0
    return x * dx + y * dy - s0, y * dx - x * dy - t0


def clamp(position: Tensor, substrate: Substrate) -> Tensor:
    """The nearest positions [B,N,2] on the substrate."""
    return position.clamp_min(0.0).minimum(substrate.size[:, None])


def is_inside(position: Tensor, substrate: Substrate) -> Tensor:
    """[B,N] bool: the position lies on the substrate, edges included."""
    return ((position >= 0) & (position <= substrate.size[:, None])).all(-1)


def _ground_stiffness(s: Tensor, substrate: Substrate) -> Tensor:
    slope, base = _like(substrate.slope, s), _like(substrate.base, s)
    exponential = base * torch.exp(slope * s)
    return torch.where(_like(substrate.ground, s) == EXPONENTIAL, exponential, base + slope * s)


def _in_moat(s: Tensor, t: Tensor, substrate: Substrate) -> Tensor:
    inside = (s >= _like(substrate.moat[:, 0], s)) & (s <= _like(substrate.moat[:, 1], s))
    half = _like(0.5 * substrate.bridge_width, t)
    for middle in substrate.bridges.unbind(1):
        inside = inside & ((t - _like(middle, t)).abs() > half)
    return inside


def _like(value: Tensor, other: Tensor) -> Tensor:
    """One value per colony [B], shaped to broadcast against `other` [B,...]."""
    return value.view(-1, *(1,) * (other.dim() - 1))


def _draw_ground(config: SubstrateConfig, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if config.ground != "random":
        ground = torch.full_like(seeds, _GROUNDS[config.ground])
        slope = torch.full(seeds.shape, config.resolved_slope, device=seeds.device)
        return ground, slope, torch.full(seeds.shape, config.resolved_base, device=seeds.device)
    linear = uniform(seeds, Purpose.SUBSTRATE, 0) < 0.5
    draws = [uniform(seeds, Purpose.SUBSTRATE, key) for key in (1, 2)]
    slope, base = (
        torch.where(linear, low_1 + u * (high_1 - low_1), low_2 + u * (high_2 - low_2))
        for u, (low_1, high_1), (low_2, high_2) in zip(draws, RANDOM_LINEAR, RANDOM_EXPONENTIAL, strict=True)
    )
    return torch.where(linear, LINEAR, EXPONENTIAL), slope, base


def _unit(angle: float) -> tuple[float, float]:
    # Right angles must give exact zeros: cos(pi/2) is 6e-17 in floating point.
    return round(math.cos(angle), 12), round(math.sin(angle), 12)


def _left(direction: tuple[float, float]) -> tuple[float, float]:
    return -direction[1], direction[0]


def _lowest(direction: tuple[float, float], size: Sequence[float]) -> float:
    return sum(min(0.0, d * extent) for d, extent in zip(direction, size, strict=True))
