"""Trunks that turn an image into one spatial map, or a graph into features of its nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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

    def blocks(self) -> list[nn.Module]:
        """Parts, one after the other, of which gradient checkpointing keeps only what goes in.

        By default there is one, the whole.
        """
        return [self]


class Backbone(Trunk):
    """A trunk for images that stops at its tap."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] to a map [B, F, h, w]."""

    def with_token(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The map [B, F, h, w], and the model's own summary of each image [B, F].

        Only for models whose record states a `token_tap`, and there alone.
        """
        raise NotImplementedError(f"{type(self).__name__} has no summary of its own")


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


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers that keep running statistics, of whatever dimension."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def is_unset(norm: _BatchNorm) -> bool:
    """Whether a BatchNorm's statistics are still those of its construction, mean 0 and variance 1."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())


def seeded_generator(seed: int | None) -> torch.Generator | None:
    """A generator of its own for `seed`, or None for torch's global one."""
    return None if seed is None else torch.Generator().manual_seed(seed)
