"""Reading a spatial map at points, and pooling maps and nodes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from durotaxis.core.segments import segment_max, segment_mean
from durotaxis.core.shapes import Float, Int


def sample_map(
    maps: Float[Tensor, "B F h w"], points: Float[Tensor, "n 2"], batch: Int[Tensor, " n"]
) -> Float[Tensor, "n F"]:
    """Bilinear samples of `maps[batch]` at `points`.

    Args:
        maps: one map per image.
        points: (x right, y down) in [-1, 1], where -1 and 1 are the outer edges of the image; points
            beyond the centres of the outermost pixels take the border's value. This is `grid_sample` with
            `align_corners=False` and `padding_mode="border"`.
        batch: which image each point lies in, int64 in [0, B).

    A weighted sum of four rows per point (`embedding_bag`), so that a ragged number of points per image
    needs no padding.
    """
    _, width, rows, columns = maps.shape
    x = (((points[:, 0] + 1) * columns - 1) / 2).clamp(0, columns - 1)
    y = (((points[:, 1] + 1) * rows - 1) / 2).clamp(0, rows - 1)
    left, top = x.detach().floor(), y.detach().floor()
    right_share, bottom_share = x - left, y - top
    column, row = left.long(), top.long()
    next_column, next_row = (column + 1).clamp_max(columns - 1), (row + 1).clamp_max(rows - 1)
    first = batch * (rows * columns)
    cells = torch.stack(
        [
            first + row * columns + column,
            first + row * columns + next_column,
            first + next_row * columns + column,
            first + next_row * columns + next_column,
        ],
        dim=1,
    )
    shares = torch.stack(
        [
            (1 - bottom_share) * (1 - right_share),
            (1 - bottom_share) * right_share,
            bottom_share * (1 - right_share),
            bottom_share * right_share,
        ],
        dim=1,
    )
    table = maps.permute(0, 2, 3, 1).reshape(-1, width)
    return functional.embedding_bag(cells, table, mode="sum", per_sample_weights=shares.to(table.dtype))


def pool_map(maps: Float[Tensor, "B F h w"], pooling: str) -> Float[Tensor, "B F"]:
    """Mean or maximum (`pooling`: `mean`, `max`) over each map."""
    return maps.amax((2, 3)) if pooling == "max" else maps.mean((2, 3))


def pool_nodes(
    nodes: Float[Tensor, "n F"], batch: Int[Tensor, " n"], num_graphs: int, pooling: str
) -> Float[Tensor, "B F"]:
    """Mean or maximum (`pooling`: `mean`, `max`) over the nodes of each graph; 0 for an empty one."""
    return (segment_max if pooling == "max" else segment_mean)(nodes, batch, num_graphs)
