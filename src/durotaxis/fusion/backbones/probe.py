"""A trial run of somebody else's network, before it becomes part of a policy."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones import Backbone, GraphBackbone
from durotaxis.fusion.graph import GraphInput

_TOLERANCE = 1e-3
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError)
"""What a network raises for an input that it was not made for."""


@torch.no_grad()
def try_image_backbone(backbone: Backbone, name: str, width: int | None, side: int) -> int:
    """Run a backbone on two seeded images; return the width of its map.

    Args:
        name: appears in errors.
        width: the width that is expected; None takes what comes.
        side: of the images, in pixels.

    Raises UserError if it cannot take such images, gives no map [B, F, h, w] of finite numbers, answers
    differently when asked again, or lets an image's map depend on the other images of its batch. What the
    backbone itself refuses (UserError) is passed on.
    """
    images = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    try:
        maps = backbone(images)
        again, alone = backbone(images), backbone(images[:1])
    except UserError:
        raise
    except _FAILURES as error:
        raise UserError(
            f"{name}: cannot take images of {side}x{side} pixels ({first_line(error)})"
        ) from error
    fits = isinstance(maps, Tensor) and maps.dim() == 4 and len(maps) == 2 and maps.numel() > 0
    if not fits or (width is not None and maps.shape[1] != width):
        given = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        wanted = "F" if width is None else width
        raise UserError(
            f"{name}: gives {given} for images [2, 3, {side}, {side}]; wanted is [2, {wanted}, h, w]"
        )
    _compare(name, maps, again, alone)
    return maps.shape[1]


@torch.no_grad()
def try_graph_backbone(backbone: GraphBackbone, name: str, width: int, node_dim: int, edge_dim: int) -> None:
    """Run a backbone on two seeded graphs, as `try_image_backbone` does on images."""
    graph = random_graphs(2, node_dim, edge_dim)
    first = first_graph(graph)
    try:
        nodes = backbone(graph)
        again, alone = backbone(graph), backbone(first)
    except _FAILURES as error:
        raise UserError(
            f"{name}: cannot take graphs with {node_dim} node and {edge_dim} edge features "
            f"({first_line(error)})"
        ) from error
    if not isinstance(nodes, Tensor) or nodes.shape != (len(graph.nodes), width):
        given = list(nodes.shape) if isinstance(nodes, Tensor) else type(nodes).__name__
        raise UserError(f"{name}: gives {given} for {len(graph.nodes)} nodes; wanted is [n, {width}]")
    _compare(name, nodes, again, alone)


def random_graphs(count: int, node_dim: int, edge_dim: int, num_nodes: int = 12) -> GraphInput:
    """Seeded trees: every node but the first of a graph hangs on an earlier one; features N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(1, num_nodes)
    parents = (torch.rand((count, num_nodes - 1), generator=generator) * own).long()
    first = torch.arange(count)[:, None] * num_nodes
    return GraphInput(
        nodes=torch.randn((count * num_nodes, node_dim), generator=generator),
        edge_index=torch.stack([(parents + first).flatten(), (own + first).flatten()]),
        edges=torch.randn((count * (num_nodes - 1), edge_dim), generator=generator),
        batch=torch.arange(count).repeat_interleave(num_nodes),
        graph=torch.randn((count, 16), generator=generator),
    )


def first_graph(graph: GraphInput) -> GraphInput:
    """The first graph of a batch, alone."""
    inside = graph.batch[graph.edge_index[0]] == 0
    return GraphInput(
        graph.nodes[graph.batch == 0],
        graph.edge_index[:, inside],
        graph.edges[inside],
        graph.batch[graph.batch == 0],
        graph.graph[:1],
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _compare(name: str, together: Tensor, again: Tensor, alone: Tensor) -> None:
    if not bool(together.isfinite().all()):
        raise UserError(f"{name}: gives NaN or infinite features; its weights are damaged or not set")
    if not torch.equal(together, again):
        raise UserError(
            f"{name}: answers differently to the same input; it draws random numbers in eval mode "
            "(dropout called with training=True?), which a policy gradient cannot bear"
        )
    part = together[: len(alone)]
    if float((part - alone).abs().max()) > _TOLERANCE * max(float(part.abs().max()), 1.0):
        raise UserError(
            f"{name}: what it says of an input depends on the others in the batch "
            "(BatchNorm without running statistics?)"
        )
