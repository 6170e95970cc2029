"""Soft discs at random that leave a way from start to goal.

Whether a disc of the corridor's width can pass is decided exactly, by the duality of percolation in the
plane: something blocks every way from start to goal if and only if a chain of obstacles, each too near to
the next for the corridor to pass between, leads from one wall to the other. So there is nothing to search
through but links between discs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, uniform
from durotaxis.env.substrate.config import SubstrateConfig
from durotaxis.env.substrate.plane import Plane, Point

MAX_ATTEMPTS = 30
_DISCS = 20  # key of the draws under Purpose.SUBSTRATE
_LATTICE = 100  # points per direction of the lattice on which area is measured, roughly
_FINEST = 2.5  # µm between its points, at least


def draw_discs(config: SubstrateConfig, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Centres [B,P,2] (s and t) and radii [B,P] in µm, float32; a radius of 0 is no disc.

    Discs are drawn in a row, those near the start (or near a goal that is a corner) left out, until they
    cover the share of the area nearest to `covered`. Where no corridor is left, all are drawn again under
    the next attempt's number. Where MAX_ATTEMPTS draws leave no corridor, the discs drawn last are left out
    until there is one.

    Args:
        seeds: [B] int64.
    """
    plane, num_discs = Plane.of(config), max_discs(config)
    centre = torch.zeros(len(seeds), num_discs, 2, device=seeds.device)
    radius = torch.zeros(len(seeds), num_discs, device=seeds.device)
    waiting = torch.arange(len(seeds), device=seeds.device)
    for attempt in range(MAX_ATTEMPTS):
        drawn = _draw(config, plane, seeds[waiting], attempt, num_discs)
        good = drawn[2] & has_corridor(*drawn[:2], plane, config.patches.corridor)
        centre[waiting[good]], radius[waiting[good]] = drawn[0][good], drawn[1][good]
        waiting = waiting[~good]
        if len(waiting) == 0:
            break
    else:
        last_centre, last_radius = drawn[0][~good], drawn[1][~good]
        centre[waiting] = last_centre
        radius[waiting] = _thin_out(last_centre, last_radius, plane, config.patches.corridor)
    return _turn(centre, radius, plane), radius


def max_discs(config: SubstrateConfig) -> int:
    """P, the most discs that a row keeps: more than are needed to cover `covered`, on the whole."""
    low, high = config.patches.radius
    area = math.pi * (low * low + low * high + high * high) / 3.0  # its mean over the radius
    needed = -math.log(1.0 - config.patches.covered) * math.prod(config.size) / area
    return math.ceil(1.5 * needed) + 5


def has_corridor(centre: Tensor, radius: Tensor, plane: Plane, corridor: float) -> Tensor:
    """Whether a disc of diameter `corridor` can go from start to goal between discs and walls, [B] bool.

    Args:
        centre: [B,P,2] µm, x and y. radius: [B,P] µm; 0 is no disc.
        corridor: µm.
    """
    is_disc = radius > 0
    gap = _distance(centre[:, :, None], centre[:, None]) - radius[:, :, None] - radius[:, None]
    linked = (gap < corridor) & is_disc[:, :, None] & is_disc[:, None]
    right, left = (is_disc & (_distance_to_line(centre, wall) - radius < corridor) for wall in plane.walls)
    reached = right
    for _ in range(radius.shape[1]):
        further = reached | (linked & reached[:, None]).any(2)
        if torch.equal(further, reached):
            break
        reached = further
    return ~(reached & left).any(1)


def _draw(
    config: SubstrateConfig, plane: Plane, seeds: Tensor, attempt: int, num_discs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [B,P,2] (x and y) and radii [B,P], and whether they cover what they should, [B] bool."""
    patches, index = config.patches, torch.arange(2 * num_discs, device=seeds.device)
    x, y, share = (
        uniform(seeds[:, None], Purpose.SUBSTRATE, _DISCS, attempt, index, part) for part in range(3)
    )
    centre = torch.stack([x * plane.size[0], y * plane.size[1]], -1)
    radius = patches.radius[0] + share * (patches.radius[1] - patches.radius[0])
    free = _is_clear(centre, radius, plane, patches.corridor)
    # Those that may stay come first, in the order in which they were drawn.
    order = (~free).to(torch.int8).argsort(dim=1, stable=True)[:, :num_discs]
    centre, radius = centre.gather(1, order[..., None].expand(-1, -1, 2)), radius.gather(1, order)
    kept = free.gather(1, order)
    areas = _covered(centre, torch.where(kept, radius, 0.0), plane)
    nearest = (areas - patches.covered).abs().argmin(1)
    is_enough = areas[:, -1] > patches.covered
    chosen = torch.arange(num_discs, device=seeds.device) <= nearest[:, None]
    return centre, torch.where(kept & chosen, radius, 0.0), is_enough


def _thin_out(centre: Tensor, radius: Tensor, plane: Plane, corridor: float) -> Tensor:
    """Radii [B,P] of which the last are 0: as few as leave a corridor. Without any disc there is one."""
    batch, num_discs = radius.shape
    index = torch.arange(num_discs, device=radius.device)
    fewest = torch.zeros(batch, dtype=torch.int64, device=radius.device)
    most = torch.full_like(fewest, num_discs)
    for _ in range(num_discs.bit_length()):
        middle = (fewest + most + 1) // 2
        is_open = has_corridor(centre, torch.where(index < middle[:, None], radius, 0.0), plane, corridor)
        fewest, most = torch.where(is_open, middle, fewest), torch.where(is_open, most, middle - 1)
    return torch.where(index < fewest[:, None], radius, 0.0)


def _is_clear(centre: Tensor, radius: Tensor, plane: Plane, corridor: float) -> Tensor:
    """Discs [B,P] that leave the corridor room to start, and to arrive where the goal is a corner."""
    clear = _distance_to_box(_to_coordinates(centre, plane), plane.start_box) - radius >= 0.5 * corridor
    if 0.0 not in plane.along:  # clamped, the start has another shape
        clear &= _distance_to_line(centre, plane.start_outline) - radius >= 0.5 * corridor
    if len(plane.goal_corners) == 1:
        # Into a right-angled corner the corridor reaches up to sqrt(2) times its radius.
        clear &= _distance(centre, centre.new_tensor(plane.goal_corners[0])) - radius >= 1.5 * corridor
    return clear


def _covered(centre: Tensor, radius: Tensor, plane: Plane) -> Tensor:
    """Share of the area covered by the first k + 1 discs, [B,P], on a lattice of points."""
    spacing = max(_FINEST, math.sqrt(math.prod(plane.size)) / _LATTICE)
    x, y = (
        (torch.arange(count := math.ceil(extent / spacing), device=centre.device) + 0.5) * (extent / count)
        for extent in plane.size
    )
    num_discs = radius.shape[1]
    # Which disc covers each point of the lattice first; `num_discs` stands for none.
    first = torch.full((len(radius), len(y), len(x)), num_discs, dtype=torch.int16, device=centre.device)
    for k in reversed(range(num_discs)):
        dx, dy = x - centre[:, k, 0, None], y - centre[:, k, 1, None]
        squared = radius[:, k, None].square()
        first.masked_fill_((dx * dx)[:, None] < (squared - dy * dy)[:, :, None], k)
    row = torch.arange(len(radius), device=centre.device)[:, None] * (num_discs + 1)
    counts = torch.bincount((row + first.flatten(1)).flatten(), minlength=len(radius) * (num_discs + 1))
    counts = counts.view(len(radius), num_discs + 1)[:, :-1].cumsum(1)
    return counts / (len(x) * len(y))


def _turn(centre: Tensor, radius: Tensor, plane: Plane) -> Tensor:
    """Centres as coordinates; those of no disc stay 0."""
    return torch.where(radius[..., None] > 0, _to_coordinates(centre, plane), 0.0)


def _to_coordinates(point: Tensor, plane: Plane) -> Tensor:
    (dx, dy), (s0, t0) = plane.along, plane.origin
    x, y = point.unbind(-1)
    return torch.stack([x * dx + y * dy - s0, y * dx - x * dy - t0], -1)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().sum(-1).sqrt()


def _distance_to_box(point: Tensor, box: tuple[Point, Point]) -> Tensor:
    """From points [B,P,2] to an axis-aligned box; 0 inside."""
    low, high = (point.new_tensor(corner) for corner in box)
    return ((low - point).maximum(point - high)).clamp_min(0.0).square().sum(-1).sqrt()


def _distance_to_line(point: Tensor, line: list[Point]) -> Tensor:
    """From points [B,P,2] to a line through points."""
    places = point.new_tensor(line)
    start, way = places[:-1], places.diff(dim=0)
    offset = point[:, :, None] - start
    share = (offset * way).sum(-1) / way.square().sum(-1).clamp_min(1e-9)
    return _distance(offset, share.clamp(0.0, 1.0)[..., None] * way).amin(-1)
