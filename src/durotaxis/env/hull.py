"""Convex hulls of whole batches of point sets, exactly, for any number of points and any degeneracy."""

from __future__ import annotations

import torch
from torch import Tensor


def convex_hull(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hull vertices and area by gift wrapping (Jarvis 1973), all sets at once.

    One pass over the points finds the next vertex of every hull, in a tournament of orientation tests:
    differences of float32 coordinates and their products are exact in float64 (for coordinates of similar
    magnitude), so collinear points are recognised as such. Points on an edge are no vertices; every point at
    a vertex's place is.

    Args:
        points: [B,N,2] float32.
        mask: [B,N] bool, which points exist.

    Returns:
        vertex [B,N] bool, area [B] float32 (0 for fewer than three points or collinear ones).
    """
    batch, count = mask.shape
    vertex = torch.zeros_like(mask)
    area = torch.zeros(batch, dtype=torch.float64, device=points.device)
    if count == 0:
        return vertex, area.to(points.dtype)
    place = points.to(torch.float64)
    start_slot = _leftmost(place, mask)
    start = _at(place, start_slot)
    current = start
    open_ = mask.any(1)
    # A hull has at most as many vertices as there are points; the loop ends when every hull has closed.
    for _ in range(count):
        vertex |= (place == current[:, None]).all(-1) & mask & open_[:, None]
        following = _most_clockwise(place - current[:, None], mask) + current
        turn = current[:, 0] * following[:, 1] - current[:, 1] * following[:, 0]
        area += torch.where(open_, turn, 0.0)
        open_ = open_ & (following != start).any(-1)
        current = torch.where(open_[:, None], following, current)
        if not bool(open_.any()):
            break
    return vertex, (0.5 * area.abs()).to(points.dtype)


def _leftmost(place: Tensor, mask: Tensor) -> Tensor:
    """The slot of the smallest x, and among those of the smallest y, [B] int64."""
    x = torch.where(mask, place[..., 0], torch.inf)
    first = x == x.amin(1, keepdim=True)
    return torch.where(first & mask, place[..., 1], torch.inf).argmin(1)


def _at(place: Tensor, slot: Tensor) -> Tensor:
    return place.gather(1, slot[:, None, None].expand(-1, 1, 2))[:, 0]


def _most_clockwise(offset: Tensor, mask: Tensor) -> Tensor:
    """The offset [B,2] to the point that leaves all others on its left, the farthest of collinear ones.

    Offsets of 0 (the current point and its doubles, and empty slots) are as near as can be, so they lose.
    """
    offset = torch.where(mask[..., None], offset, 0.0).transpose(1, 2)
    # Channels x, y and squared length; each round halves the field of candidates.
    best = torch.cat([offset, offset.square().sum(1, keepdim=True)], 1)
    while best.shape[2] > 1:
        half = best.shape[2] // 2
        first, second, odd = best[..., :half], best[..., half : 2 * half], best[..., 2 * half :]
        cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
        take = (cross < 0) | ((cross == 0) & (second[:, 2] > first[:, 2]))
        best = torch.where(take[:, None], second, first)
        if odd.shape[2]:
            best = torch.cat([best, odd], 2)
    return best[:, :2, 0]
