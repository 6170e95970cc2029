"""Simplicial embeddings: a token becomes a tuple of points on simplices.

    z [.., L·V]  ->  L groups of V  ->  softmax(z / temperature) within each group  ->  [.., L·V]

Lavoie et al. 2022, "Simplicial embeddings in self-supervised learning and downstream classification"
(arXiv 2204.00616); used on the last hidden features of reinforcement-learning agents by "Simplicial
embeddings improve sample efficiency in actor-critic agents" (arXiv 2510.13704). There are no parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError


class SimplicialEmbedding(nn.Module):
    """Softmax within each of `groups` equal parts of the last dimension.

    Args:
        width: size of the last dimension, divisible by `groups`.
        groups: number of simplices, L.
        temperature: above 0; lower gives sharper simplices.

    Raises:
        UserError: when the width is not divisible or the temperature is not positive.
    """

    def __init__(self, width: int, groups: int = 16, temperature: float = 1.0) -> None:
        super().__init__()
        if groups < 1 or width % groups:
            raise UserError(
                f"simplicial groups: a width of {width} cannot be split into {groups} equal groups; "
                "choose a divisor of out_dim"
            )
        if not temperature > 0:
            raise UserError(f"simplicial temperature: must be above 0, not {temperature:g}")
        self.groups = groups
        self.temperature = temperature

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., width] to simplices [..., width]: each group is positive and sums to 1."""
        # On CPU a softmax over few entries is several times faster along a dimension that is not the last.
        grouped = tokens.unflatten(-1, (self.groups, -1)).transpose(-1, -2)
        return torch.softmax(grouped / self.temperature, -2).transpose(-1, -2).flatten(-2)
