"""Trunks that turn an image into one spatial map."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A trunk that stops at its tap: images [B, 3, H, W], normalised, to a map [B, F, h, w].

    Always in eval mode: `train()` changes nothing. A policy gradient compares log-probabilities of the
    rollout with those of the update, so batch statistics and dropout must not differ between the two;
    whether the weights learn is the business of `requires_grad` alone.
    """

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Map of the image at the tap."""

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)


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
