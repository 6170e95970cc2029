"""Graphs as tensors: what models that read graphs are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from durotaxis.core.errors import UserError


@dataclass(frozen=True)
class GraphInput:
    """A batch of B graphs with n nodes and E edges in all."""

    nodes: Tensor  # [n,F] float32, node features of order 1
    edge_index: Tensor  # [2,E] int64, rows of source and target
    edges: Tensor  # [E,G] float32, edge features
    batch: Tensor  # [n] int64 in [0,B), graph of each node, not decreasing
    graph: Tensor  # [B,H] float32, graph features

    def check(self) -> None:
        """Raise UserError unless the shapes fit each other and every edge stays inside one graph."""
        n, e = len(self.nodes), self.edge_index.shape[-1]
        if self.nodes.dim() != 2 or self.graph.dim() != 2:
            raise UserError("a graph input needs nodes [n, F] and graph [B, H]")
        if self.edge_index.shape != (2, e) or self.edges.dim() != 2 or len(self.edges) != e:
            raise UserError(
                f"edge_index has shape {list(self.edge_index.shape)} and edges {list(self.edges.shape)}; "
                "they must be [2, E] and [E, G]"
            )
        if self.batch.shape != (n,):
            raise UserError(f"batch has shape {list(self.batch.shape)}, but there are {n} nodes")
        if n and not 0 <= int(self.batch.min()) <= int(self.batch.max()) < len(self.graph):
            raise UserError(f"batch must lie in [0, {len(self.graph)})")
        if e and not 0 <= int(self.edge_index.min()) <= int(self.edge_index.max()) < n:
            raise UserError(f"edge_index must lie in [0, {n})")
        if e and not bool(torch.equal(*self.batch[self.edge_index])):
            raise UserError("an edge joins nodes of two graphs; see `batch`")
