"""What the tasks ask, computed from scenes and pictures by well-known algorithms.

A picture is what `observation.field` shows; "firm" is ground of at least FIRM kPa. Beyond the substrate
nothing is firm.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from durotaxis.env import FIELD_CHANNELS, Colony, Substrate
from durotaxis.env.substrate import coordinates, is_inside, lattice_coordinates, stiffness, stiffness_at
from durotaxis.env.types import FIELD_SIZE

FIRM = 0.3
"""kPa; between soft ground (0.15 in every scenario) and the softest ground law (0.5)."""
UNKNOWN = -1
"""The class where a question has no answer."""
MAX_COUNT = 5
"""Counts are told apart up to here: the classes are 1, 2, 3, 4, and 5 or more."""
NUM_DIRECTIONS = 8
REACH = (10.0, 25.0)
"""µm, how far ahead of a node the ground is asked about."""
LATTICE = 3 * FIELD_SIZE
LEFT, AHEAD, RIGHT = 0, 1, 2
_NODES = FIELD_CHANNELS.index("nodes")
_FOUR = ndimage.generate_binary_structure(2, 1)
_EIGHT = ndimage.generate_binary_structure(2, 2)


def count_class(count: np.ndarray) -> Tensor:
    """0 to 4 for counts of 1 to 5 or more; UNKNOWN for 0."""
    return torch.from_numpy(np.minimum(count, MAX_COUNT) - 1).to(torch.int64)


def component_of(num_nodes: int, edge_index: Tensor) -> np.ndarray:
    """The number of each node's connected component, [num_nodes] int."""
    first, second = edge_index.numpy()
    ones = np.ones(len(first), dtype=np.int8)
    graph = coo_array((ones, (first, second)), shape=(num_nodes, num_nodes))
    return connected_components(graph, directed=False)[1]


def num_components(component: np.ndarray, batch: np.ndarray, num_scenes: int) -> np.ndarray:
    """How many different components the nodes of each scene have, [S]."""
    pairs = np.unique(np.stack([batch, component]), axis=1)
    return np.bincount(pairs[0], minlength=num_scenes)


def num_clusters(field: Tensor) -> np.ndarray:
    """Groups of pixels that hold a node, [S]; pixels that touch, at a corner too, are one group."""
    return np.array([ndimage.label(picture, _EIGHT)[1] for picture in (field[:, _NODES] > 0).numpy()])


def firm_pieces(substrate: Substrate, low: Tensor, high: Tensor) -> np.ndarray:
    """Connected pieces of firm ground within pictures, [S,72,72] int: 0 where it is not firm.

    Judged on a lattice of 3x3 points per pixel, joined along its sides; row 0 is the largest y.

    Args:
        low, high: [S,2] µm, corners of the pictures.
    """
    ticks = (torch.arange(LATTICE, dtype=torch.float32) + 0.5) / LATTICE
    x = low[:, 0, None] + ticks * (high - low)[:, 0, None]
    y = low[:, 1, None] + (1.0 - ticks) * (high - low)[:, 1, None]
    value = stiffness_at(*lattice_coordinates(x, y, substrate), substrate)
    on_it = ((x >= 0) & (x <= substrate.size[:, :1]))[:, None, :] & ((y >= 0) & (y <= substrate.size[:, 1:]))[
        :, :, None
    ]
    firm = ((value >= FIRM) & on_it).numpy()
    return np.stack([ndimage.label(picture, _FOUR)[0] for picture in firm])


def blocked_ahead(colony: Colony, substrate: Substrate) -> Tensor:
    """Whether the ground at REACH in 8 directions of each slot is soft or none, [S,N,16] bool.

    Directions run counter-clockwise from +x; the last index is 2 · direction + distance.
    """
    angle = torch.arange(NUM_DIRECTIONS) * (2.0 * math.pi / NUM_DIRECTIONS)
    unit = torch.stack([angle.cos(), angle.sin()], 1)
    offset = (unit[:, None] * torch.tensor(REACH)[None, :, None]).flatten(0, 1)
    places = (colony.position[:, :, None] + offset).flatten(1, 2)
    blocked = ~is_inside(places, substrate) | (stiffness(places, substrate) < FIRM)
    return blocked.unflatten(1, (-1, len(offset)))


def bridge_of(colony: Colony, substrate: Substrate, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where the bridge over the moat is, seen from each slot.

    Returns:
        side [S,N] int64: LEFT, AHEAD or RIGHT of the way along `direction`, UNKNOWN without a bridge in the
        picture, or beyond the band; offset [S,N,2] float32: along and across `direction` to the middle of the
        nearest bridge, in units of half the picture.
    """
    shape = colony.alive.shape
    moat = substrate.moat
    if moat is None or moat.bridges.shape[1] == 0:
        return torch.full(shape, UNKNOWN), torch.zeros(*shape, 2)
    s, t = coordinates(colony.position, substrate)
    middle = 0.5 * (moat.first + moat.last)
    corners = torch.stack([low, high], 1)
    bounds_s, bounds_t = coordinates(corners, substrate)
    seen = (moat.bridges > bounds_t.amin(1)[:, None]) & (moat.bridges < bounds_t.amax(1)[:, None])
    seen = seen & ((middle > bounds_s.amin(1)) & (middle < bounds_s.amax(1)))[:, None]
    across = moat.bridges[:, None] - t[..., None]
    away = torch.where(seen[:, None], across.abs(), torch.inf)
    nearest = away.argmin(-1, keepdim=True)
    across = across.gather(-1, nearest)[..., 0]
    before = s < moat.last[:, None]
    known = before & (away.amin(-1) < torch.inf)
    half = 0.5 * moat.bridge_width[:, None]
    side = torch.where(across > half, LEFT, torch.where(across < -half, RIGHT, AHEAD))
    radius = 0.5 * (high - low)[:, :1]
    offset = torch.stack([middle[:, None] - s, across], -1) / radius[..., None]
    return torch.where(known, side, UNKNOWN), torch.where(known[..., None], offset, 0.0)
