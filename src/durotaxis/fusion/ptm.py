"""One pre-trained model inside the policy: normalise, run the trunk, read out, project.

image [0,1] -> upsample -> (x - mean)/std -> backbone up to its tap -> readout -> Linear -> E_i
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float
from durotaxis.fusion.backbones import Backbone
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.readout import sample_map
from durotaxis.fusion.registry import PTMRecord, ptm_type

Readout = Literal["pooled", "sampled"]


class PTM(nn.Module):
    """A backbone with its input statistics, readout and projection.

    Readouts: `pooled`, one row per image, the mean over the tapped map; `sampled`, one row per point, the
    map sampled there, followed by the pooled vector of its image.

    Whether the backbone learns is read from its parameters' `requires_grad` at every call, so setting that
    by hand takes effect at once. A frozen backbone runs without gradient, unless the image itself needs one.

    Attributes:
        backbone: the trunk; `backbone.parameters()` may be frozen and unfrozen at will.
        projection: Linear to the common width; always trained.
        record: what is known about the model; `name` is its name.
    """

    mean: Tensor
    std: Tensor
    calibrated: Tensor

    def __init__(
        self, backbone: Backbone, record: PTMRecord, embedding_dim: int, readout: Readout = "pooled"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.record = record
        self.readout = readout
        self.projection = nn.Linear(record.width * (2 if readout == "sampled" else 1), embedding_dim)
        self.register_buffer("mean", torch.tensor(record.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(record.std).view(1, -1, 1, 1), persistent=False)
        statistics = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        uncalibrated = bool(statistics) and record.sha256 is None
        self.register_buffer("calibrated", torch.tensor(not uncalibrated))

    @property
    def name(self) -> str:
        """Unique within its extractor."""
        return self.record.name

    @property
    def is_frozen(self) -> bool:
        """No parameter of the backbone asks for a gradient."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def prepare(self, image: Float[Tensor, "B 3 H W"]) -> Tensor:
        """The image as the backbone sees it: enlarged, normalised, channels last in memory."""
        side = self.record.input_size
        if side is not None and image.shape[-2:] != (side, side):
            image = functional.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
        return ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def maps(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """Map at the tap for each image in [0, 1]."""
        constant = self.is_frozen and not image.requires_grad
        with torch.no_grad() if constant else nullcontext():
            return self.backbone(self.prepare(image))

    def features(
        self,
        image: Float[Tensor, "B 3 H W"],
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
    ) -> Tensor:
        """What may be cached: see `MultiPTMFeatureExtractor.precompute`."""
        maps = self.maps(image)
        if self.readout == "pooled":
            return maps.mean((2, 3))
        if points is None or batch is None:
            return maps.permute(0, 2, 3, 1)
        return torch.cat([sample_map(maps, points, batch), maps.mean((2, 3))[batch]], dim=1)

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        points: Tensor | None = None,
        batch: Tensor | None = None,
        cached: Tensor | None = None,
        graph: GraphInput | None = None,
    ) -> Float[Tensor, "R D"]:
        """Embedding of each row: images (`pooled`), or points (`sampled`, which needs points and batch).

        `cached` replaces the backbone's work by an output of `features` for the same image (and points).
        """
        if cached is not None and cached.dim() == 2:
            return self.projection(cached)
        maps = self.maps(image) if cached is None else cached.permute(0, 3, 1, 2)
        pooled = maps.mean((2, 3))
        if self.readout == "pooled":
            return self.projection(pooled)
        if points is None or batch is None:
            raise UserError(f"{self.name}: readout 'sampled' needs points [n, 2] and batch [n]")
        # One Linear on [sampled ; pooled], with the pooled half computed once per image.
        at_points, at_image = self.projection.weight.split(self.record.width, dim=1)
        sampled = functional.linear(sample_map(maps, points, batch), at_points, self.projection.bias)
        return sampled + functional.linear(pooled, at_image)[batch]


def build_ptm(config: PTMConfig, embedding_dim: int, readout: Readout = "pooled") -> PTM:
    """The model that `config` asks for, with weights loaded or drawn, frozen if `config.freeze`.

    Raises UserError for weights that are missing or do not fit.
    """
    entry = ptm_type(config.model_type)
    changes: dict[str, Any] = {
        "name": config.name or config.model_type,
        "tap": config.tap,
        "input_size": config.upsample,
    }
    template = dataclasses.replace(entry.record, **{k: v for k, v in changes.items() if v is not None})
    backbone, record = entry.build(config, template)
    backbone.requires_grad_(not config.freeze)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return PTM(backbone, record, embedding_dim, readout)
