"""Gymnasium spaces of what a colony shows and takes, with bounds that hold for every state of the world."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from durotaxis.env import FIELD_CHANNELS, EnvConfig, Observation
from durotaxis.env.config import STIFFNESS_MAX
from durotaxis.env.types import FIELD_SIZE, NUM_KINDS

Form = Literal["scaled", "raw"]
FORMS: tuple[Form, ...] = ("scaled", "raw")

STEEPEST = 1e4
"""1/µm: no field resolved to 0.2 µm within 0.1 to 200 kPa has a larger gradient of log E."""
_ROUNDING = 1e-4
"""Every bound is widened by this share of its range: float32 sums may end just outside."""

Bounds = tuple[tuple[float, float], ...]


def observation_space(config: EnvConfig, form: Form = "scaled") -> spaces.Space:
    """The space of one colony's observation: padded arrays of N = `config.num_slots` node slots.

    `nodes` [N,13], `node_mask` [N], `edges` [N,3] (slot n holds the edge from n's parent to n), `edge_index`
    [2,N] (parents in row 0, children in row 1, both 0 where `edge_mask` is 0), `edge_mask` [N], `graph` [16],
    `action_mask` [N,3] (which kinds are allowed), and `field` [3,24,24] when it is observed.
    """
    slots = config.num_slots
    node, edge, graph = _bounds(config, form)
    parts: dict[str, spaces.Space] = {
        "nodes": _box(node, (slots,)),
        "node_mask": spaces.MultiBinary(slots),
        "edges": _box(edge, (slots,)),
        "edge_index": spaces.Box(0, slots - 1, (2, slots), np.int64),
        "edge_mask": spaces.MultiBinary(slots),
        "graph": _box(graph, ()),
        "action_mask": spaces.MultiBinary((slots, NUM_KINDS)),
    }
    if config.observation.field:
        low, high = -_ROUNDING, 1.0 + _ROUNDING
        parts["field"] = spaces.Box(low, high, (len(FIELD_CHANNELS), FIELD_SIZE, FIELD_SIZE), np.float32)
    return spaces.Dict(parts)


def node_action_space(config: EnvConfig) -> spaces.Space:
    """`kind` [N] in 0 to 2 and `parameters` [N,4] in physical units; those of empty slots are ignored."""
    slots, bounds = config.num_slots, config.spawn_bounds
    low, high = (np.tile(np.asarray(b, np.float32), (slots, 1)) for b in (bounds.low, bounds.high))
    return spaces.Dict(
        {
            "kind": spaces.MultiDiscrete([NUM_KINDS] * slots),
            "parameters": spaces.Box(low, high, dtype=np.float32),
        }
    )


def observation_tensors(observation: Observation) -> dict[str, Tensor]:
    """The batch [B,...] in the layout of `observation_space`; masks are bool."""
    mask = observation.edge_mask
    child = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    ends = torch.stack([observation.parent, child], 1)
    parts = {
        "nodes": observation.nodes,
        "node_mask": observation.node_mask,
        "edges": observation.edges,
        "edge_index": torch.where(mask[:, None], ends, 0),
        "edge_mask": mask,
        "graph": observation.graph,
        "action_mask": observation.action_mask,
    }
    return parts if observation.field is None else {**parts, "field": observation.field}


def observation_arrays(observation: Observation) -> dict[str, np.ndarray]:
    """The batch [B,...] as numpy arrays in the layout of `observation_space`; masks are int8."""
    tensors = observation_tensors(observation)
    return {
        name: (value.to(torch.int8) if value.dtype == torch.bool else value).cpu().numpy()
        for name, value in tensors.items()
    }


def _bounds(config: EnvConfig, form: Form) -> tuple[Bounds, Bounds, Bounds]:
    """(low, high) of every node, edge and graph feature, in their order."""
    slots = float(config.num_slots)
    width, height = config.substrate.size
    # Where the edge of the substrate ends the episode, the last nodes may lie one step beyond it.
    beyond = 0.0 if config.boundary == "clamp" else 2.0 * config.spawn_bounds.high[0]
    far_x, far_y = width + 2.0 * beyond, height + 2.0 * beyond
    diagonal = math.hypot(far_x, far_y)
    if form == "raw":
        unit_x = unit_y = unit_area = unit_length = unit_spread = count = gradient = 1.0
        stiffest, degree, central, age = STIFFNESS_MAX, (1.0, slots), 100.0, float(config.max_steps)
    else:
        unit_x, unit_y, unit_area, unit_length = width, height, width * height, 10.0
        unit_spread = math.sqrt(math.prod(config.substrate.extent)) / 10.0
        count, gradient = config.count_scale, 0.1
        stiffest, degree, central, age = 1.0, (0.25, 3.0), 10.0, 1.0
    x, y = (-beyond / unit_x, (width + beyond) / unit_x), (-beyond / unit_y, (height + beyond) / unit_y)
    slope, flag = (-STEEPEST / gradient, STEEPEST / gradient), (0.0, 1.0)
    node = (
        x,
        y,
        (0.0, stiffest),
        (0.0, degree[0]),
        (0.0, degree[1]),
        (0.0, central),
        (0.0, diagonal / unit_spread),
        flag,
        flag,
        (0.0, age),
        flag,
        slope,
        slope,
    )
    edge = ((0.0, diagonal / unit_length), (-1.0, 1.0), (-1.0, 1.0))
    box = ((0.0, far_x / unit_x), (0.0, far_y / unit_y), *((0.0, far_x * far_y / unit_area),) * 2)
    graph = (*((0.0, slots / count),) * 2, flag, x, y, x, y, x, y, *box, flag, flag, flag)
    return node, edge, graph


def _box(bounds: Bounds, leading: tuple[int, ...]) -> spaces.Box:
    """Bounds per feature, repeated over the leading dimensions."""
    low, high = np.asarray(bounds).T
    slack = _ROUNDING * (high - low)
    shape = (*leading, len(bounds))
    return spaces.Box(
        np.broadcast_to(low - slack, shape).astype(np.float32),
        np.broadcast_to(high + slack, shape).astype(np.float32),
        dtype=np.float32,
    )
