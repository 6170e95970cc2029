"""What the world is made of: values of tensors, each field with shape, dtype, unit and range.

Dimensions: B colonies, N node slots (the capacity). Living nodes fill the first slots, older first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from durotaxis.core.struct import Struct


class Kind(IntEnum):
    """What a node does in one step."""

    REST = 0
    SPAWN = 1
    DELETE = 2


NUM_KINDS = 3
PARAMETERS = ("max_step", "half_saturation", "noise", "angle")
"""The spawn parameters, in the order of `Action.parameters`: µm, kPa, relative, radians from `direction`."""

NODE_FEATURES = (
    "x",
    "y",
    "stiffness",
    "in_degree",
    "out_degree",
    "centrality",
    "centroid_distance",
    "hull",
    "newborn",
    "age",
    "marked",
    "gradient_along",
    "gradient_across",
)
EDGE_FEATURES = ("length", "unit_x", "unit_y")
GRAPH_FEATURES = (
    "num_nodes",
    "num_edges",
    "density",
    "centroid_x",
    "centroid_y",
    "box_min_x",
    "box_min_y",
    "box_max_x",
    "box_max_y",
    "box_width",
    "box_height",
    "box_area",
    "hull_area",
    "mean_degree",
    "drift",
    "next_milestone",
)
FIELD_CHANNELS = ("stiffness", "nodes", "marked")
FIELD_SIZE = 24


class Reason(IntEnum):
    """Why an episode ended; the first that applies, in this order. RUNNING: it goes on."""

    RUNNING = 0
    SUCCESS = 1
    EXTINCT = 2
    OVERCROWDED = 3
    OUT_OF_BOUNDS = 4
    DRIFT = 5
    MAX_STEPS = 6


@dataclass(frozen=True)
class Colony(Struct):
    """A batch of colonies: forests of nodes on elastic substrates."""

    node_fields: ClassVar[Mapping[str, float | bool]] = MappingProxyType(
        {
            "position": 0.0,
            "alive": False,
            "parent": -1,
            "node_id": -1,
            "age": 0,
            "newborn": False,
            "marked": False,
            "spawn_share": 0.0,
        }
    )
    """Fields with one entry per slot -> what stands in empty slots."""

    position: Tensor  # [B,N,2] float32, µm; 0 in empty slots
    alive: Tensor  # [B,N] bool
    parent: Tensor  # [B,N] int64, slot of the parent; -1 for roots and empty slots
    node_id: Tensor  # [B,N] int64, unique within an episode, never reused; -1 in empty slots
    age: Tensor  # [B,N] int64, steps since birth; 0 in empty slots
    newborn: Tensor  # [B,N] bool, born in the last step
    marked: Tensor  # [B,N] bool, should be deleted
    spawn_share: Tensor  # [B,N] float32, spawn reward this node's birth earned; owed back if it dies young
    step: Tensor  # [B] int64, steps taken in this episode
    seed: Tensor  # [B] int64, episode seed: the only source of the episode's randomness
    next_id: Tensor  # [B] int64, node_id of the next child
    drift_count: Tensor  # [B] int64, steps running in which the centroid fell back
    milestones: Tensor  # [B] int64, how many milestones the front has reached so far
    front: Tensor  # [B] float32, µm, largest s any node has reached so far
    recoveries: Tensor  # [B] int64, how often this colony has started anew after extinction

    @property
    def batch_size(self) -> int:
        """B."""
        return self.alive.shape[0]

    @property
    def capacity(self) -> int:
        """N, the number of node slots."""
        return self.alive.shape[1]

    @property
    def num_nodes(self) -> Tensor:
        """Living nodes per colony, [B] int64."""
        return self.alive.sum(1)

    @property
    def is_edge(self) -> Tensor:
        """Slots whose node has a parent, [B,N] bool: one edge parent -> child each."""
        return self.alive & (self.parent >= 0)


@dataclass(frozen=True)
class Action(Struct):
    """One choice per node slot. Entries of empty slots are ignored; parameters count where kind = spawn."""

    node_fields: ClassVar[Mapping[str, float | bool]] = MappingProxyType({"kind": 0, "parameters": 0.0})

    kind: Tensor  # [B,N] int64, Kind
    parameters: Tensor  # [B,N,4] float32, PARAMETERS in physical units within env.spawn_bounds

    # `int`, because torch.compile takes a tensor to be different from every member of an enumeration.
    @property
    def spawns(self) -> Tensor:
        """[B,N] bool: slots that chose spawn."""
        return self.kind == int(Kind.SPAWN)

    @property
    def deletes(self) -> Tensor:
        """[B,N] bool: slots that chose delete."""
        return self.kind == int(Kind.DELETE)


@dataclass(frozen=True)
class Observation(Struct):
    """What an agent sees, raw (physical units) or scaled (of order 1). Empty slots are 0."""

    node_fields: ClassVar[Mapping[str, float | bool]] = MappingProxyType(
        {"nodes": 0.0, "node_mask": False, "edges": 0.0, "parent": -1, "action_mask": False, "position": 0.0}
    )
    """Fields with one entry per slot -> what stands in empty slots (where rest alone is allowed)."""

    nodes: Tensor  # [B,N,13] float32, NODE_FEATURES
    node_mask: Tensor  # [B,N] bool
    edges: Tensor  # [B,N,3] float32, EDGE_FEATURES of the edge from parent[b,n] to n
    parent: Tensor  # [B,N] int64, -1 where there is no edge
    graph: Tensor  # [B,16] float32, GRAPH_FEATURES
    action_mask: Tensor  # [B,N,3] bool, which kinds are allowed; rest alone in empty slots
    position: Tensor  # [B,N,2] float32, µm, whatever the form
    frame_low: Tensor  # [B,2] float32, µm, lower left corner of the picture
    frame_high: Tensor  # [B,2] float32, µm, upper right corner
    field: Tensor | None  # [B,3,24,24] float32 in [0,1], FIELD_CHANNELS, row 0 = largest y; None when off

    @property
    def edge_mask(self) -> Tensor:
        """[B,N] bool: slots that hold the edge from their parent."""
        return self.parent >= 0


@dataclass(frozen=True)
class Transition(Struct):
    """What one step returns. The observation is the last of its episode where an end is flagged."""

    colony: Colony
    observation: Observation
    reward: Tensor  # [B] float32, the sum of the terms
    terms: dict[str, Tensor]  # {name: [B] float32}, coefficients applied
    terminated: Tensor  # [B] bool, the episode's own end
    truncated: Tensor  # [B] bool, cut by max_steps; never together with terminated
    reason: Tensor  # [B] int64, Reason
    counts: dict[str, Tensor]  # {"spawned", "deleted", "dropped": [B] int64}, dropped: no slot was free


def empty_action(colony: Colony) -> Action:
    """Every node rests; parameters 0."""
    shape = colony.alive.shape
    device = colony.alive.device
    return Action(
        kind=torch.zeros(shape, dtype=torch.int64, device=device),
        parameters=torch.zeros((*shape, 4), dtype=torch.float32, device=device),
    )
