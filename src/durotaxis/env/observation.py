"""What an agent sees of its colony: node, edge and graph features, raw or scaled, and the field picture."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from durotaxis.env.config import STIFFNESS_MAX, STIFFNESS_MIN, EnvConfig
from durotaxis.env.dynamics import centroid
from durotaxis.env.hull import convex_hull
from durotaxis.env.substrate import Substrate, lattice_coordinates, log_gradient, stiffness, stiffness_at
from durotaxis.env.types import FIELD_SIZE, NUM_KINDS, Colony, Kind, Observation

LENGTH_SCALE = 10.0
"""µm: the longest noiseless step; lengths and gradients are measured in it."""
MAX_CENTRALITY = 100.0
_AGE_LIMIT = 50.0
_DEGREE_SCALE = 4.0
_DEGREE_LIMIT = 12.0
_CENTRALITY_LIMIT = 10.0
_NODES_PER_PIXEL = 4.0
_SUBGRID = 3


def observe(colony: Colony, substrate: Substrate, config: EnvConfig, scaled: bool = True) -> Observation:
    """The observation of every colony: `scaled` for networks (order 1 everywhere), raw for people.

    Args:
        scaled: False gives physical units (µm, kPa, steps).
    """
    width = max(1, int(colony.num_nodes.max()))
    living = _crop(colony, width)
    raw = _raw(living, substrate, config)
    seen = _scale(raw, substrate, config) if scaled else raw
    return replace(
        seen,
        **{
            name: torch.nn.functional.pad(
                value := getattr(seen, name),
                (0, 0) * (value.dim() - 2) + (0, colony.capacity - width),
                value=-1 if name == "parent" else 0,
            )
            for name in Observation.node_fields
            if name != "action_mask"
        },
        action_mask=action_mask(colony, config),
    )


def action_mask(colony: Colony, config: EnvConfig) -> Tensor:
    """Which kinds are allowed, [B,N,3] bool: no delete at N <= min_nodes, rest alone in empty slots."""
    may_delete = colony.num_nodes > config.min_nodes
    mask = colony.alive[..., None].expand(*colony.alive.shape, NUM_KINDS).clone()
    mask[..., Kind.REST] = True
    mask[..., Kind.DELETE] &= may_delete[:, None]
    return mask


def frame(colony: Colony, substrate: Substrate, config: EnvConfig) -> tuple[Tensor, Tensor]:
    """Lower left and upper right corner of the picture, each [B,2] µm."""
    if config.observation.frame == "substrate":
        return torch.zeros_like(substrate.size), substrate.size
    middle = centroid(colony.position, colony.alive).to(torch.float32)
    half = 0.5 * config.observation.frame_size
    return middle - half, middle + half


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


def _crop(colony: Colony, width: int) -> Colony:
    """The first `width` slots of every per-node field; living nodes fill the first slots."""
    names = ("position", "alive", "parent", "node_id", "age", "newborn", "marked", "spawn_share")
    return replace(colony, **{name: getattr(colony, name)[:, :width].contiguous() for name in names})


def _raw(colony: Colony, substrate: Substrate, config: EnvConfig) -> Observation:
    alive, position = colony.alive, colony.position
    middle = centroid(position, alive).to(torch.float32)
    vertex, hull_area = convex_hull(position, alive)
    low, high = frame(colony, substrate, config)
    edges = _edges(colony)
    return Observation(
        nodes=_nodes(colony, substrate, middle, vertex),
        node_mask=alive,
        edges=edges,
        parent=torch.where(colony.is_edge, colony.parent, -1),
        graph=_graph(colony, substrate, config, middle, hull_area),
        action_mask=alive[..., None],
        position=position,
        frame_low=low,
        frame_high=high,
        field=field_picture(colony, substrate, low, high) if config.observation.field else None,
    )


def _nodes(colony: Colony, substrate: Substrate, middle: Tensor, vertex: Tensor) -> Tensor:
    alive, position = colony.alive, colony.position
    edge = colony.is_edge
    out_degree = torch.zeros_like(colony.parent).scatter_add(
        1, colony.parent.clamp_min(0), edge.to(torch.int64)
    )
    along, across = log_gradient(position, substrate)
    columns = (
        position[..., 0],
        position[..., 1],
        stiffness(position, substrate),
        edge,
        out_degree,
        _centrality(position, alive),
        (position - middle[:, None]).norm(dim=-1),
        vertex,
        colony.newborn,
        colony.age,
        colony.marked,
        along,
        across,
    )
    features = torch.stack([column.to(torch.float32) for column in columns], -1)
    return torch.where(alive[..., None], features, 0.0)


def _centrality(position: Tensor, alive: Tensor) -> Tensor:
    """10 µm over the mean distance to the other nodes, at most 100; 1 for a node that is alone."""
    distance = torch.cdist(position, position, compute_mode="donot_use_mm_for_euclid_dist")
    total = (distance * alive[:, None]).sum(-1, dtype=torch.float64)
    others = (alive.sum(1) - 1)[:, None]
    mean = (total / others.clamp_min(1)).clamp_min(LENGTH_SCALE / MAX_CENTRALITY)
    return torch.where(others > 0, LENGTH_SCALE / mean, 1.0).to(torch.float32)


def _edges(colony: Colony) -> Tensor:
    parent = colony.parent.clamp_min(0)
    start = colony.position.gather(1, parent[..., None].expand(-1, -1, 2))
    edge = colony.position - start
    length = edge.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, edge / length.clamp_min(1e-12), 0.0)
    return torch.where(colony.is_edge[..., None], torch.cat([length, unit], -1), 0.0)


def _graph(
    colony: Colony, substrate: Substrate, config: EnvConfig, middle: Tensor, hull_area: Tensor
) -> Tensor:
    alive = colony.alive
    count = colony.num_nodes.to(torch.float32)
    edges = colony.is_edge.sum(1).to(torch.float32)
    box_min = torch.where(alive[..., None], colony.position, torch.inf).amin(1)
    box_max = torch.where(alive[..., None], colony.position, -torch.inf).amax(1)
    box = box_max - box_min
    columns = (
        count,
        edges,
        torch.where(count > 1, edges / (count * (count - 1)).clamp_min(1), 0.0),
        *middle.unbind(1),
        *box_min.unbind(1),
        *box_max.unbind(1),
        *box.unbind(1),
        box.prod(1),
        hull_area,
        edges / count.clamp_min(1),
        colony.drift_count / config.left_moves_limit,
        next_milestone(colony, config),
    )
    return torch.where(alive.any(1)[:, None], torch.stack(columns, -1), 0.0)


def next_milestone(colony: Colony, config: EnvConfig) -> Tensor:
    """The next milestone as a fraction of L, [B]; 1 when all are reached."""
    marks = torch.tensor((*config.reward.milestones, 1.0), device=colony.milestones.device)
    return marks[colony.milestones]


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


def _scale(raw: Observation, substrate: Substrate, config: EnvConfig) -> Observation:
    width, height = (substrate.size[:, k, None] for k in (0, 1))
    length, breadth = substrate.extent.unbind(1)
    x, y, local, in_degree, out_degree, central, distance, hull, newborn, age, marked, along, across = (
        raw.nodes.unbind(-1)
    )
    spread = torch.sqrt(length * breadth)[:, None] / 10.0
    nodes = torch.stack(
        [
            x / width,
            y / height,
            scale_stiffness(local.clamp_min(STIFFNESS_MIN)),
            in_degree / _DEGREE_SCALE,
            out_degree.clamp_max(_DEGREE_LIMIT) / _DEGREE_SCALE,
            central.clamp_max(_CENTRALITY_LIMIT),
            distance / spread,
            hull,
            newborn,
            age.clamp_max(_AGE_LIMIT) / _AGE_LIMIT,
            marked,
            along * LENGTH_SCALE,
            across * LENGTH_SCALE,
        ],
        -1,
    )
    return replace(
        raw,
        nodes=torch.where(raw.node_mask[..., None], nodes, 0.0),
        edges=torch.cat([raw.edges[..., :1] / LENGTH_SCALE, raw.edges[..., 1:]], -1),
        graph=raw.graph / _graph_scales(substrate, config),
    )


def _graph_scales(substrate: Substrate, config: EnvConfig) -> Tensor:
    width, height = substrate.size.unbind(1)
    one = torch.ones_like(width)
    counts = config.count_scale * one
    places = (width, height) * 4
    return torch.stack([counts, counts, one, *places, width * height, width * height, one, one, one], 1)
