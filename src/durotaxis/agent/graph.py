"""Padded observations as one flat graph: the living nodes of all colonies, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from durotaxis.env.types import Observation
from durotaxis.fusion import GraphInput


@dataclass(frozen=True)
class FlatGraph:
    """A batch of B forests with n nodes in all; edge i runs from parent[i] to node i."""

    nodes: Tensor  # [n,F] float32, node features
    edges: Tensor  # [n,3] float32, features of the edge from the node's parent; 0 for roots
    parent: Tensor  # [n] int64, row of the node's parent, -1 for roots
    batch: Tensor  # [n] int64, colony of each node, not decreasing
    graph: Tensor  # [B,G] float32, graph features

    def to_input(self) -> GraphInput:
        """The same graphs with an explicit list of edges, as pre-trained models of graphs take them."""
        child = (self.parent >= 0).nonzero().squeeze(1)
        edge_index = torch.stack([self.parent[child], child])
        return GraphInput(self.nodes, edge_index, self.edges[child], self.batch, self.graph)


def flatten(observation: Observation) -> FlatGraph:
    """Gather the living nodes of a padded observation [B,N,...], in slot order."""
    mask = observation.node_mask
    row = (mask.flatten().cumsum(0) - 1).view(mask.shape)
    parent = torch.where(
        observation.parent >= 0, row.gather(1, observation.parent.clamp_min(0)), observation.parent
    )
    return FlatGraph(
        nodes=observation.nodes[mask],
        edges=observation.edges[mask],
        parent=parent[mask],
        batch=mask.nonzero()[:, 0],
        graph=observation.graph,
    )
