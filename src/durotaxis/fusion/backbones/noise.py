"""A control: features that say nothing about what is in the picture."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, hash_keys, normal
from durotaxis.fusion.backbones import Backbone
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.registry import PTMRecord

_STRIDES = {"block1": 2, "block2": 4, "block3": 8}


class Noise(Backbone):
    """A map of standard normal numbers drawn from a hash of the picture's own bits, shaped as `GraphCNN`'s.

    One picture has one map, whatever its companions, the moment or the device; two pictures that differ in
    one bit have unrelated ones. Nothing can be learned from it that carries over to another picture.
    """

    def __init__(self, width: int, stride: int, seed: int) -> None:
        super().__init__()
        self.width = width
        self.stride = stride
        self.seed = seed

    def forward(self, image: Tensor) -> Tensor:
        """Map at the tap, [B, F, h, w], without gradient."""
        height, breadth = (-(-side // self.stride) for side in image.shape[-2:])
        places = torch.arange(self.width * height * breadth, device=image.device)
        keys = picture_keys(image.detach(), self.seed)
        return normal(keys[:, None], places).view(len(image), self.width, height, breadth)


def picture_keys(image: Tensor, seed: int) -> Tensor:
    """One int64 per picture [B], made of the bits of all its pixels and their places; -0 counts as 0."""
    bits = (image.float() + 0.0).view(torch.int32).flatten(1).long()
    places = torch.arange(bits.shape[1], device=bits.device)
    # Wrapping integer sums are exact in any order, so that no device or batch size changes them.
    return hash_keys(seed, Purpose.NOISE_FEATURES, hash_keys(bits, places).sum(1))


def build_noise(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """The control; other seeds give other numbers."""
    seed = 0 if config.seed is None else config.seed
    backbone = Noise(record.width, _STRIDES[record.tap], seed)
    return backbone, dataclasses.replace(record, source=f"control: noise from seed {seed}")
