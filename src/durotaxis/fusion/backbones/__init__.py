"""Trunks that turn an image into one spatial map, or a graph into features of its nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.graph import GraphInput


class Trunk(nn.Module, ABC):
    """A network that is always in eval mode: `train()` changes nothing.

    A policy gradient compares log-probabilities of the rollout with those of the update, so batch
    statistics and dropout must not differ between the two; whether the weights learn is the business of
    `requires_grad` alone.
    """

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)


class Backbone(Trunk):
    """A trunk for images that stops at its tap."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] to a map [B, F, h, w]."""

    def with_token(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The map [B, F, h, w], and the model's own summary of each image [B, F].

        Raises UserError unless the model has a summary of its own at this tap (`PTMRecord.token_tap`).
        """
        raise UserError(f"{type(self).__name__} has no summary of its own; use pooling 'mean' or 'max'")


class GraphBackbone(Trunk):
    """A trunk for graphs."""

    @abstractmethod
    def forward(self, graph: GraphInput) -> Tensor:
        """Features of every node, [n, F]."""


def initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all weights anew, in place: convolutions as in He et al. 2015 (normal, fan-out), norms 1 and 0.

    With `generator` the result depends on nothing else; without, on torch's global random numbers.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(child, nn.BatchNorm2d | nn.GroupNorm):
            child.reset_parameters()


def seeded_generator(seed: int | None) -> torch.Generator | None:
    """A generator of its own for `seed`, or None for torch's global one."""
    return None if seed is None else torch.Generator().manual_seed(seed)
