"""What an agent sees of its colony: node, edge and graph features, raw or scaled, and the field picture."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from durotaxis.env.config import STIFFNESS_MAX, STIFFNESS_MIN, EnvConfig
from durotaxis.env.hull import convex_hull
from durotaxis.env.slots import crop, pad
from durotaxis.env.substrate import Substrate, lattice_coordinates, log_gradient, stiffness_at
from durotaxis.env.survey import Survey, survey
from durotaxis.env.types import FIELD_SIZE, NODE_FEATURES, NUM_KINDS, Colony, Kind, Observation

LENGTH_SCALE = 10.0
"""µm: the longest noiseless step; lengths and gradients are measured in it."""
MAX_CENTRALITY = 100.0
DEGREE_SCALE = 4.0
"""Degrees are divided by it, after they were cut at DEGREE_LIMIT."""
DEGREE_LIMIT = 12.0
_AGE_LIMIT = 50.0
_CENTRALITY_LIMIT = 10.0
_NODES_PER_PIXEL = 4.0
_SUBGRID = 3
_PAIRS_AT_ONCE = 1 << 18


def observe(colony: Colony, substrate: Substrate, config: EnvConfig, scaled: bool = True) -> Observation:
    """The observation of every colony: `scaled` for networks (order 1 everywhere), raw for people.

    Args:
        scaled: False gives physical units (µm, kPa, steps).
    """
    living = crop(colony, max(1, int(colony.num_nodes.max())))
    now = survey(living, substrate)
    seen = observe_survey(now, convex_hull(living.position, living.alive), config, scaled)
    return complete(seen, colony, now, config)


def complete(seen: Observation, colony: Colony, now: Survey, config: EnvConfig) -> Observation:
    """An observation of the living slots widened to all slots of `colony`, with action mask and field."""
    field = None
    if config.observation.field:
        field = field_picture(now.colony, now.substrate, seen.frame_low, seen.frame_high)
    return replace(pad(seen, colony.capacity), action_mask=action_mask(colony, config), field=field)


def observe_survey(
    now: Survey, hull: tuple[Tensor, Tensor], config: EnvConfig, scaled: bool = True
) -> Observation:
    """All but the field of surveyed colonies, in their slots alone: pure arithmetic, which can be compiled.

    Args:
        hull: vertex [B,N] bool and area [B] of the living nodes.
    """
    colony = now.colony
    middle = now.centroid.to(torch.float32)
    low, high = _frame(middle, now.substrate, config)
    return Observation(
        nodes=_nodes(now, middle, hull[0], scaled),
        node_mask=colony.alive,
        edges=_edges(colony, scaled),
        parent=torch.where(colony.is_edge, colony.parent, -1),
        graph=_graph(now, config, middle, hull[1], scaled),
        action_mask=action_mask(colony, config),
        position=colony.position,
        frame_low=low,
        frame_high=high,
        field=None,
    )


def action_mask(colony: Colony, config: EnvConfig) -> Tensor:
    """Which kinds are allowed, [B,N,3] bool: no delete at N <= min_nodes, rest alone in empty slots."""
    may_delete = colony.num_nodes > config.min_nodes
    mask = colony.alive[..., None].expand(*colony.alive.shape, NUM_KINDS).clone()
    mask[..., Kind.REST] = True
    mask[..., Kind.DELETE] &= may_delete[:, None]
    return mask


def field_picture(colony: Colony, substrate: Substrate, low: Tensor, high: Tensor) -> Tensor:
    """The picture [B,3,24,24] in [0,1]: scaled stiffness, node density, marked density; row 0 = largest y.

    Stiffness is the mean over a 3x3 grid in each pixel, 0 outside the substrate; density is the number of
    nodes in a pixel over 4, at most 1. A colony without nodes gives an empty picture.
    """
    fine = FIELD_SIZE * _SUBGRID
    ticks = (torch.arange(fine, device=low.device, dtype=torch.float32) + 0.5) / fine
    x = low[:, 0, None] + ticks * (high - low)[:, 0, None]
    y = low[:, 1, None] + (1.0 - ticks) * (high - low)[:, 1, None]
    value = scale_stiffness(stiffness_at(*lattice_coordinates(x, y, substrate), substrate))
    on_it = _within(x, substrate.size[:, 0])[:, None, :] & _within(y, substrate.size[:, 1])[:, :, None]
    value = torch.where(on_it, value, 0.0)  # a law continued beyond the edge may have no logarithm
    ground = torch.nn.functional.avg_pool2d(value[:, None], _SUBGRID)[:, 0]
    nodes = _density(colony, colony.alive, low, high)
    picture = torch.stack([ground, nodes, _density(colony, colony.marked, low, high)], 1)
    return picture * colony.alive.any(1)[:, None, None, None]


def scale_stiffness(value: Tensor) -> Tensor:
    """log(E / 0.1 kPa) / log(2000), in [0, 1] for E in 0.1 to 200 kPa."""
    return torch.log(value / STIFFNESS_MIN) / math.log(STIFFNESS_MAX / STIFFNESS_MIN)


def _within(values: Tensor, size: Tensor) -> Tensor:
    return (values >= 0) & (values <= size[:, None])


def next_milestone(colony: Colony, config: EnvConfig) -> Tensor:
    """The next milestone as a fraction of L, [B]; 1 when all are reached."""
    marks = torch.tensor((*config.reward.milestones, 1.0), device=colony.milestones.device)
    return marks[colony.milestones]


def _frame(middle: Tensor, substrate: Substrate, config: EnvConfig) -> tuple[Tensor, Tensor]:
    """Lower left and upper right corner of the picture, each [B,2] µm."""
    if config.observation.frame == "substrate":
        return torch.zeros_like(substrate.size), substrate.size
    half = 0.5 * config.observation.frame_size
    return middle - half, middle + half


def _nodes(now: Survey, middle: Tensor, vertex: Tensor, scaled: bool) -> Tensor:
    colony, substrate = now.colony, now.substrate
    edge = colony.is_edge.to(torch.float32)
    out_degree = torch.zeros_like(edge).scatter_add(1, colony.parent.clamp_min(0), edge)
    along, across = log_gradient(colony.position, substrate)
    columns = {
        "x": colony.position[..., 0],
        "y": colony.position[..., 1],
        "stiffness": now.stiffness,
        "in_degree": edge,
        "out_degree": out_degree,
        "centrality": _centrality(colony.position, colony.alive, now.num_nodes),
        "centroid_distance": (colony.position - middle[:, None]).square().sum(-1).sqrt(),
        "hull": vertex,
        "newborn": colony.newborn,
        "age": colony.age.to(torch.float32),
        "marked": colony.marked,
        "gradient_along": along,
        "gradient_across": across,
    }
    if scaled:
        columns |= _scale_nodes(columns, substrate)
    features = torch.stack([columns[name].to(torch.float32) for name in NODE_FEATURES], -1)
    return torch.where(colony.alive[..., None], features, 0.0)


def _scale_nodes(raw: dict[str, Tensor], substrate: Substrate) -> dict[str, Tensor]:
    """The columns whose scaled form differs from the raw one."""
    width, height = substrate.size[:, 0, None], substrate.size[:, 1, None]
    spread = substrate.extent.prod(1).sqrt()[:, None] / 10.0
    return {
        "x": raw["x"] / width,
        "y": raw["y"] / height,
        "stiffness": scale_stiffness(raw["stiffness"]),
        "in_degree": raw["in_degree"] / DEGREE_SCALE,
        "out_degree": raw["out_degree"].clamp_max(DEGREE_LIMIT) / DEGREE_SCALE,
        "centrality": raw["centrality"].clamp_max(_CENTRALITY_LIMIT),
        "centroid_distance": raw["centroid_distance"] / spread,
        "age": raw["age"].clamp_max(_AGE_LIMIT) / _AGE_LIMIT,
        "gradient_along": raw["gradient_along"] * LENGTH_SCALE,
        "gradient_across": raw["gradient_across"] * LENGTH_SCALE,
    }


def _centrality(position: Tensor, alive: Tensor, num_nodes: Tensor) -> Tensor:
    """10 µm over the mean distance to the other nodes, at most 100; 1 for a node that is alone."""
    batch, slots = alive.shape
    # Blocks that fit the cache: [B,N,N] is by far the largest tensor of a step. A compiler needs none of it.
    block = batch if torch.compiler.is_compiling() else max(1, _PAIRS_AT_ONCE // slots**2)
    blocks = zip(position.split(block), alive.split(block), strict=True)
    total = torch.cat([_summed_distances(*part) for part in blocks])
    others = (num_nodes - 1)[:, None]
    mean = total / others.clamp_min(1)
    central = LENGTH_SCALE / mean.clamp_min(LENGTH_SCALE / MAX_CENTRALITY)
    return torch.where(others > 0, central, 1.0).to(torch.float32)


def _summed_distances(position: Tensor, alive: Tensor) -> Tensor:
    """From every slot to all living nodes, [B,N] float64, µm."""
    x, y = position.unbind(-1)
    dx, dy = x[:, :, None] - x[:, None], y[:, :, None] - y[:, None]
    distance = dx.mul_(dx).addcmul_(dy, dy).sqrt_().mul_(alive[:, None].to(dx.dtype))
    return distance.sum(-1, dtype=torch.float64)


def _edges(colony: Colony, scaled: bool) -> Tensor:
    parent = colony.parent.clamp_min(0)
    start = colony.position.gather(1, parent[..., None].expand(-1, -1, 2))
    edge = colony.position - start
    length = edge.square().sum(-1, keepdim=True).sqrt()
    unit = edge / length.clamp_min(1e-12)
    features = torch.cat([length / LENGTH_SCALE if scaled else length, unit], -1)
    return torch.where(colony.is_edge[..., None], features, 0.0)


def _graph(now: Survey, config: EnvConfig, middle: Tensor, hull_area: Tensor, scaled: bool) -> Tensor:
    colony, size = now.colony, now.substrate.size
    alive = colony.alive
    count = now.num_nodes.to(torch.float32)
    edges = colony.is_edge.sum(1).to(torch.float32)
    box_min = torch.where(alive[..., None], colony.position, torch.inf).amin(1)
    box_max = torch.where(alive[..., None], colony.position, -torch.inf).amax(1)
    limit = config.left_moves_limit
    drift = torch.zeros_like(count) if limit is None else colony.drift_count / limit
    density = edges / (count * (count - 1)).clamp_min(1)
    degree = edges / count.clamp_min(1)
    places = [middle, box_min, box_max, box_max - box_min]
    area = torch.stack([(box_max - box_min).prod(1), hull_area], 1)
    if scaled:
        count, edges = count / config.count_scale, edges / config.count_scale
        places = [place / size for place in places]
        area = area / size.prod(1, keepdim=True)
    rest = torch.stack([degree, drift, next_milestone(colony, config)], 1)
    features = torch.cat([torch.stack([count, edges, density], 1), *places, area, rest], 1)
    return torch.where((now.num_nodes > 0)[:, None], features, 0.0)


def _density(colony: Colony, which: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[B,24,24]: nodes per pixel over 4, at most 1."""
    batch, size = colony.batch_size, FIELD_SIZE
    place = (colony.position - low[:, None]) / (high - low)[:, None] * size
    inside = which & ((place >= 0) & (place <= size)).all(-1)
    cell = place.floor().to(torch.int64).clamp_max(size - 1)
    pixel = (size - 1 - cell[..., 1]) * size + cell[..., 0]
    counts = torch.zeros(batch, size * size, device=low.device)
    counts = counts.scatter_add(1, torch.where(inside, pixel, 0), inside.to(torch.float32))
    return (counts / _NODES_PER_PIXEL).clamp_max(1.0).view(batch, size, size)
