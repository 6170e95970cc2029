"""Somebody else's module as a backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones import Backbone, GraphBackbone
from durotaxis.fusion.backbones.probe import try_graph_backbone, try_image_backbone
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.registry import PTMRecord
from durotaxis.fusion.sources import find_weights
from durotaxis.fusion.weights import load_matching, read_state

IMAGE_SIDE = 24
"""Pixels of the project's pictures: what a module without an `input_size` is tried on."""


class ModuleBackbone(Backbone):
    """A module that maps [B, 3, H, W] to a map [B, F, h, w], or to vectors [B, F] (a map of one pixel)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, F, h, w]."""
        maps = self.module(image)
        return maps[:, :, None, None] if maps.dim() == 2 else maps


class ModuleGraphBackbone(GraphBackbone):
    """A module that maps a `GraphInput` to features of its nodes [n, F]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, graph: GraphInput) -> Tensor:
        """Features [n, F]."""
        return self.module(graph)


def build_module(
    make: Callable[[], nn.Module], weights: Path | None, config: PTMConfig, record: PTMRecord
) -> tuple[Backbone | GraphBackbone, PTMRecord]:
    """Make a registered module, load its weights if there are any, and try it once.

    Without a seed its weights follow torch's global random numbers; with one, on nothing else. Weights are
    those of `config.weights`, else `weights`, in the module's own key names.

    Raises UserError for weights that do not fit, or a module that fails the trial.
    """
    module = _make(make, config, record)
    place = config.weights or (None if weights is None else str(weights))
    if place is not None:
        file = find_weights(record.model_type, None, place, config.sha256)
        load_matching(module, read_state(file.path), module.state_dict(), file.path)
        record = dataclasses.replace(record, source=str(file.path), sha256=file.sha256)
    elif config.sha256 is not None:
        raise UserError(f"{record.model_type}: sha256 is stated, but no weights; name a file in `weights`")
    if record.reads == "graph":
        graphs = ModuleGraphBackbone(module)
        dims = (cast(int, record.node_dim), cast(int, record.edge_dim))
        try_graph_backbone(graphs, record.name, record.width, *dims)
        return graphs, record
    images = ModuleBackbone(module)
    try_image_backbone(images, record.name, record.width, record.input_size or IMAGE_SIDE)
    return images, record


def _make(make: Callable[[], nn.Module], config: PTMConfig, record: PTMRecord) -> nn.Module:
    if config.seed is None:
        module = make()
    else:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            module = make()
    if not isinstance(module, nn.Module):
        raise UserError(f"{record.model_type}: gives a {type(module).__name__} instead of a torch.nn.Module")
    return module
