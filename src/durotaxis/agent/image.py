"""The 24x24 picture that pre-trained models look at, and where each node lies in it.

`source: field` takes the observed field as it is. `source: tokens` paints the colony's tokens: each node's
[node token ; graph token] becomes a colour, splatted bilinearly at the node's place; gradients reach the
encoder. `scope: node` projects each node's tokens to a picture of its own and needs nothing but tokens.
Row 0 is the largest y; pictures lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from durotaxis.agent.config import ImageConfig
from durotaxis.core.errors import UserError
from durotaxis.env.types import FIELD_CHANNELS, FIELD_SIZE

NUM_CHANNELS = len(FIELD_CHANNELS)


@dataclass(frozen=True)
class View:
    """What an actor may look at beside the tokens: n nodes of B colonies."""

    position: Tensor  # [n,2] float32, µm
    frame_low: Tensor  # [B,2] float32, µm, lower left corner of the picture
    frame_high: Tensor  # [B,2] float32, µm, upper right corner
    field: Tensor | None = None  # [B,3,24,24] float32 in [0,1]; None when not observed
    graph: Any = None  # what models that read graphs take; handed on as it is
    cached: Mapping[str, Tensor] | None = None  # {PTM name: [B,...] or [n,...]}, outputs of frozen models
    gates: Tensor | None = None  # [B,K] float32 in [0,1], multiply the models' own; None: all 1


@dataclass(frozen=True)
class Picture:
    """Images and, per node, which image it belongs to and where it lies in it."""

    image: Tensor  # [I,3,24,24] float32 in [0,1]; I = B for scope graph, n for scope node
    context: Tensor  # [I,d] float32, the token that stands for each image
    points: Tensor | None  # [n,2] float32 in [-1,1], (x right, y down); None for scope node
    batch: Tensor  # [n] int64, the image of each node


def frame_points(position: Tensor, frame_low: Tensor, frame_high: Tensor, batch: Tensor) -> Tensor:
    """Places in the picture, [n,2] in [-1,1]: x to the right, y down, ±1 at the frame's edges, clamped.

    Args:
        position: [n,2] µm; frame_low, frame_high: [B,2] µm; batch: [n] int64 in [0,B).
    """
    low, high = frame_low[batch], frame_high[batch]
    unit = 2.0 * (position - low) / (high - low) - 1.0
    return torch.stack([unit[:, 0], -unit[:, 1]], -1).clamp(-1.0, 1.0)


def splat(colours: Tensor, points: Tensor, batch: Tensor, num_images: int, size: int = FIELD_SIZE) -> Tensor:
    """Add each node's colour [n,c] to the four pixels around its place; [num_images,c,size,size].

    The weights are bilinear and sum to 1; beyond the centres of the outermost pixels all goes to the border.
    So this is the adjoint of sampling a picture bilinearly at the same points. Points as in `frame_points`.
    """
    place = ((points + 1.0) * (size / 2) - 0.5).clamp(0.0, size - 1.0)
    corner = place.floor().clamp_max(size - 2)
    right, down = (place - corner).unbind(-1)
    column, row = corner.long().unbind(-1)
    first = (batch * size + row) * size + column
    image = colours.new_zeros(num_images * size * size, colours.shape[-1])
    for offset, weight in (
        (0, (1 - right) * (1 - down)),
        (1, right * (1 - down)),
        (size, (1 - right) * down),
        (size + 1, right * down),
    ):
        image = image.index_add(0, first + offset, colours * weight.unsqueeze(-1))
    return image.view(num_images, size, size, -1).permute(0, 3, 1, 2)


def require_field(field: Tensor | None) -> Tensor:
    """The field itself. Raises UserError when it was not observed."""
    if field is None:
        raise UserError("image source `field` needs the field: set env.observation.field=true")
    return field


class ImageMaker(nn.Module):
    """Tokens or the observed field to pictures.

    Args:
        config: source, scope and readout.
        token_dim: width of node and graph tokens.
    """

    def __init__(self, config: ImageConfig, token_dim: int) -> None:
        super().__init__()
        self.config = config
        if config.source == "tokens":
            pixels = FIELD_SIZE**2 if config.scope == "node" else 1
            self.projection = nn.Linear(2 * token_dim, NUM_CHANNELS * pixels)

    @property
    def has_learned_parts(self) -> bool:
        """Whether a picture depends on parameters, so that nothing computed from it may be kept."""
        return self.config.source == "tokens"

    def forward(self, node_tokens: Tensor, graph_token: Tensor, batch: Tensor, view: View | None) -> Picture:
        """Make pictures from node tokens [n,d], graph tokens [B,d], batch [n] and, for scope graph, a view.

        Raises:
            UserError: when scope graph has no view, or source field no field.
        """
        if self.config.scope == "node":
            return self._picture_per_node(node_tokens, graph_token, batch)
        if view is None:
            raise UserError(
                "image scope `graph` needs `view=View(position, frame_low, frame_high, field)`; "
                "without it, use `scope: node`"
            )
        points = frame_points(view.position, view.frame_low, view.frame_high, batch)
        if self.config.source == "field":
            return Picture(require_field(view.field), graph_token, points, batch)
        colours = nn.functional.softplus(self._project(node_tokens, graph_token, batch))
        # 1 - exp(-x) maps sums of colours to [0, 1), leaves empty ground at 0 and never saturates hard.
        image = -torch.expm1(-splat(colours, points, batch, len(graph_token)))
        return Picture(image, graph_token, points, batch)

    def _picture_per_node(self, node_tokens: Tensor, graph_token: Tensor, batch: Tensor) -> Picture:
        pixels = torch.sigmoid(self._project(node_tokens, graph_token, batch))
        image = pixels.view(-1, NUM_CHANNELS, FIELD_SIZE, FIELD_SIZE)
        own = torch.arange(len(batch), device=batch.device)
        return Picture(image, graph_token[batch], None, own)

    def _project(self, node_tokens: Tensor, graph_token: Tensor, batch: Tensor) -> Tensor:
        return self.projection(torch.cat([node_tokens, graph_token[batch]], -1)).float()
