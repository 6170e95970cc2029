"""ResNet 18, 34 and 50 (He et al. 2016) in plain torch, with torchvision's key names.

Only the stem and the layers up to the tap exist: nothing later is computed, stored or trained. The stem is
the one the weights were trained with, never replaced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from durotaxis.fusion.backbones import Backbone, initialise, seeded_generator
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.registry import PTMRecord, ptm_type
from durotaxis.fusion.sources import WeightsFile, find_weights
from durotaxis.fusion.weights import image_statistics, load_matching, read_resnet

Norm = Callable[[int], nn.Module]


def batch_norm(channels: int) -> nn.Module:
    """BatchNorm with constant statistics (the backbone stays in eval mode)."""
    return nn.BatchNorm2d(channels)


def group_norm(channels: int) -> nn.Module:
    """GroupNorm of 32 groups (Wu and He 2018), for networks trained with small or changing batches."""
    return nn.GroupNorm(32, channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)
        self.downsample = _shortcut(channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, width, H/stride, W/stride]."""
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu_(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in torchvision) and 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 4 width, H/stride, W/stride]."""
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = torch.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu_(out + self.downsample(x))


def _shortcut(channels: int, width: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), norm(width))


_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class ResNet(Backbone):
    """Stem and residual layers up to `tap`; parameters are not initialised (see `initialise`)."""

    def __init__(self, depth: int, tap: str = "layer4", norm: Norm = batch_norm) -> None:
        super().__init__()
        block, counts = _DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, name in enumerate(_LAYERS[: _LAYERS.index(tap) + 1]):
            blocks = []
            for position in range(counts[index]):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, 64 << index, stride, norm))
                channels = (64 << index) * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map at the tap, [B, F, h, w]."""
        for child in self.children():
            image = child(image)
        return image

    def blocks(self) -> list[nn.Module]:
        """The residual blocks."""
        return [block for layer in self.children() if isinstance(layer, nn.Sequential) for block in layer]


def _depth(record: PTMRecord) -> int:
    return int(record.model_type.removeprefix("resnet").split("_")[0])


def build_random_resnet(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """A seeded random ResNet: BatchNorm if frozen (to be calibrated on images), GroupNorm if trained."""
    seed = config.seed or 0
    norm = batch_norm if config.freeze else group_norm
    with torch.device("meta"):
        backbone = ResNet(_depth(record), record.tap, norm)
    backbone.to_empty(device="cpu")
    initialise(backbone, seeded_generator(seed))
    label = "BatchNorm" if config.freeze else "GroupNorm"
    return backbone, dataclasses.replace(record, source=f"random initialisation from seed {seed}, {label}")


def build_pretrained_resnet(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """A ResNet with ImageNet weights from a file, a directory, the hub's cache or the hub.

    Raises UserError (MissingWeightsError) if the weights cannot be had or do not fit to the last key.
    """
    file = find_weights(record.model_type, ptm_type(record.model_type).hub, config.weights, config.sha256)
    with torch.device("meta"):
        whole = ResNet(_depth(record)).state_dict()
        backbone = ResNet(_depth(record), record.tap)
    backbone.to_empty(device="cpu")
    load_matching(backbone, read_resnet(file.path), whole, file.path)
    mean, std = image_statistics(file.path) or (record.mean, record.std)
    return backbone, dataclasses.replace(record, **_provenance(file, config), mean=mean, std=std)


def _provenance(file: WeightsFile, config: PTMConfig) -> dict[str, Any]:
    changes = {"revision": file.revision, "sha256": file.sha256}
    return changes | ({"source": str(file.path)} if config.weights is not None else {})
