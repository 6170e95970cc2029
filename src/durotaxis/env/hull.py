"""Convex hulls of whole batches of point sets, exactly, for any number of points and any degeneracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from durotaxis.core.struct import Struct


@final
@dataclass(frozen=True)
class Chain(Struct):
    """Lower hulls of C point sets, found from left to right as far as `x`, `y`."""

    x: Tensor  # [C,1] float64, the vertex reached
    y: Tensor  # [C,1] float64
    vertex: Tensor  # [C,N] bool, points at the places of the vertices so far
    area: Tensor  # [C,1] float64, twice the area between the chain so far and the x axis
    open: Tensor  # [C,1] bool, there may be more


def next_vertex(chain: Chain, x: Tensor, y: Tensor) -> Chain:
    """One round of gift wrapping (Jarvis 1973) on every chain: to the farthest point of least slope.

    Args:
        chain: so far.
        x, y: [C,N] float64 coordinates; x is -inf where there is no point.
    """
    dx = x - chain.x
    slope = torch.where(dx > 0, (y - chain.y) / dx, torch.inf)
    best = torch.where(slope == slope.amin(1, keepdim=True), dx, 0.0)
    step = best.amax(1, keepdim=True).clamp_min(0.0)
    is_open = step > 0
    reached = (best == step) & is_open
    here_y = torch.where(reached, y, -torch.inf).amax(1, keepdim=True)
    here_y = torch.where(is_open, here_y, chain.y)
    return Chain(
        x=chain.x + step,
        y=here_y,
        vertex=chain.vertex | reached,
        area=chain.area + step * (chain.y + here_y),
        open=is_open,
    )


def convex_hull(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hull vertices and areas, all sets at once.

    The lower hulls of the sets and of their mirror images (the upper hulls) are wrapped side by side.
    Differences of float32 coordinates are exact in float64 (for coordinates of similar magnitude), and
    correct rounding gives equal quotients to equal slopes, so collinear points are recognised as such.
    Points on an edge are no vertices; every point at a vertex's place is.

    Args:
        points: [B,N,2] float32.
        mask: [B,N] bool, which points exist.

    Returns:
        vertex [B,N] bool, area [B] float32 (0 for fewer than three points or collinear ones).
    """
    batch, count = mask.shape
    if count == 0:
        return torch.zeros_like(mask), points.new_zeros(batch)
    x, y = points.to(torch.float64).unbind(-1)
    x = torch.where(mask, x, -torch.inf).repeat(2, 1)
    y = torch.cat([y, -y])
    chain = _leftmost(x, y)
    # A chain has at most as many vertices as there are points; the loop ends when the last has closed.
    for _ in range(count):
        chain = next_vertex(chain, x, y)
        if not bool(chain.open.any()):
            break
    lower, upper = chain.area[:, 0].chunk(2)
    return chain.vertex[:batch] | chain.vertex[batch:], (-0.5 * (lower + upper)).clamp_min(0.0).to(
        points.dtype
    )


def _leftmost(x: Tensor, y: Tensor) -> Chain:
    """Every chain at its start: the point of the smallest x, and among those of the smallest y."""
    exists = x > -torch.inf
    first_x = torch.where(exists, x, torch.inf).amin(1, keepdim=True)
    left = x == first_x
    first_y = torch.where(left, y, torch.inf).amin(1, keepdim=True)
    start = left & (y == first_y)
    empty = ~exists.any(1, keepdim=True)
    origin = torch.zeros_like(first_x)
    return Chain(
        x=torch.where(empty, origin, first_x),
        y=torch.where(empty, origin, first_y),
        vertex=start,
        area=origin,
        open=~empty,
    )
