"""A small convolutional network for pictures of graphs, meant to be trained with the policy."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from durotaxis.fusion.backbones import Backbone, initialise, seeded_generator
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.registry import PTMRecord
from durotaxis.fusion.sources import find_weights
from durotaxis.fusion.weights import load_matching, read_state

_BLOCKS = {"block1": (64, 2), "block2": (128, 2), "block3": (256, 2)}  # channels, stride
_GROUPS = 8


class GraphCNN(Backbone):
    """Up to three blocks of one 3x3 convolution, GroupNorm and ReLU: 64-128-256 channels, strides 2-2-2.

    A 24x24 image becomes a map of 12, 6 or 3 pixels, for the taps block1, block2 and block3.
    """

    def __init__(self, tap: str = "block3") -> None:
        super().__init__()
        channels = 3
        for name, (width, stride) in _BLOCKS.items():
            block = nn.Sequential(
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, width),
                nn.ReLU(inplace=True),
            )
            self.add_module(name, block)
            channels = width
            if name == tap:
                break
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map at the tap, [B, F, h, w]."""
        for block in self.children():
            image = block(image)
        return image

    def blocks(self) -> list[nn.Module]:
        """The convolutions with their norms."""
        return list(self.children())


def build_graph_cnn(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """A freshly initialised `GraphCNN`; without a seed its weights follow torch's global random numbers."""
    backbone = GraphCNN(record.tap)
    initialise(backbone, seeded_generator(config.seed))
    drawn = "the run's random numbers" if config.seed is None else f"seed {config.seed}"
    return backbone, dataclasses.replace(record, source=f"random initialisation from {drawn}")


def build_pretrained_graph_cnn(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """A `GraphCNN` with the weights of the package, or of the file that `config.weights` names.

    Raises UserError (MissingWeightsError) if they cannot be had or do not fit.
    """
    file = find_weights(record.model_type, None, config.weights, config.sha256)
    backbone = GraphCNN(record.tap)
    load_matching(backbone, read_state(file.path), GraphCNN().state_dict(), file.path)
    source = record.source if config.weights is None else str(file.path)
    return backbone, dataclasses.replace(record, sha256=file.sha256, source=source)
