"""One pre-trained model inside the policy: normalise, run the trunk, read out, project.

image [0,1] -> upsample -> (x - mean)/std -> backbone up to its tap -> readout -> Linear -> E_i
graph ------------------------------------> graph backbone ----------> readout -> Linear -> E_i
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float
from durotaxis.fusion.backbones import Backbone, GraphBackbone, batch_norms, is_unset
from durotaxis.fusion.config import Pooling, PTMConfig
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.readout import pool_map, pool_nodes, sample_map
from durotaxis.fusion.registry import PTMRecord, ptm_type, token_advice

Readout = Literal["pooled", "sampled"]


class PTM(nn.Module):
    """A backbone with its input statistics, readout and projection.

    Readouts of an image model: `pooled`, one row per image, the mean or maximum over the tapped map, or the
    model's own summary (`pooling`); `sampled`, one row per point, the map sampled there, followed by the
    pooled vector of its image. Readouts of a graph model: `pooled`, one row per graph, over its nodes (0 for
    an empty graph); `sampled`, one row per node, its features followed by the pooled vector of its graph.

    Whether the backbone learns is read from its parameters' `requires_grad` at every call, so setting that
    by hand takes effect at once. A frozen backbone runs without gradient, unless its input itself needs one.

    Attributes:
        backbone: the trunk; `backbone.parameters()` may be frozen and unfrozen at will.
        projection: Linear to the common width; always trained.
        record: what is known about the model; `name` is its name.
    """

    mean: Tensor
    std: Tensor
    calibrated: Tensor

    def __init__(
        self,
        backbone: Backbone | GraphBackbone,
        record: PTMRecord,
        embedding_dim: int,
        readout: Readout = "pooled",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        if pooling == "token" and record.tap != record.token_tap:
            raise UserError(token_advice(record))
        self.backbone = backbone
        self.record = record
        self.readout = readout
        self.pooling = pooling
        self.projection = nn.Linear(record.width * (2 if readout == "sampled" else 1), embedding_dim)
        self.register_buffer("mean", torch.tensor(record.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(record.std).view(1, -1, 1, 1), persistent=False)
        uncalibrated = record.sha256 is None and any(map(is_unset, batch_norms(backbone)))
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
        return self._look(image)[0]

    def nodes(self, graph: GraphInput | None) -> Float[Tensor, "n F"]:
        """Features of each node, by a model that reads graphs.

        Raises UserError if there is no graph, or one with other features than the model was made for.
        """
        if graph is None:
            raise UserError(f"{self.name} reads graphs, but was given none; hand one over as `graph`")
        for what, made_for, given in (
            ("node", self.record.node_dim, graph.nodes.shape[1]),
            ("edge", self.record.edge_dim, graph.edges.shape[1]),
        ):
            if made_for is not None and made_for != given:
                raise UserError(
                    f"{self.name} was made for graphs with {made_for} {what} features, but this graph has "
                    f"{given}; use a model made for these features"
                )
        constant = self.is_frozen and not (graph.nodes.requires_grad or graph.edges.requires_grad)
        with torch.no_grad() if constant else nullcontext():
            return self.backbone(graph)

    def pooled(self, given: Float[Tensor, "B 3 H W"] | GraphInput) -> Float[Tensor, "B F"]:
        """One vector per image, or per graph for a model that reads graphs, whatever the readout."""
        if isinstance(given, GraphInput):
            return pool_nodes(self.nodes(given), given.batch, len(given.graph), self.pooling)
        return self._look(given)[1]

    def features(
        self,
        image: Float[Tensor, "B 3 H W"],
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
    ) -> Tensor:
        """What may be cached: see `MultiPTMFeatureExtractor.precompute`.

        With `pooling: token` and no points, [B, 1 + h*w, F]: the summary, then the map's cells row by row.
        """
        if isinstance(self.backbone, GraphBackbone):
            return self._read_graph(len(image), points, graph)
        maps, pooled = self._look(image)
        if self.readout == "pooled":
            return pooled
        if points is not None and batch is not None:
            return torch.cat([sample_map(maps, points, batch), pooled[batch]], dim=1)
        cells = maps.permute(0, 2, 3, 1)
        return cells if self.pooling != "token" else torch.cat([pooled[:, None], cells.flatten(1, 2)], dim=1)

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        points: Tensor | None = None,
        batch: Tensor | None = None,
        cached: Tensor | None = None,
        graph: GraphInput | None = None,
    ) -> Float[Tensor, "R D"]:
        """Embedding of each row: images (`pooled`), or points (`sampled`, which needs points and batch).

        `cached` replaces the backbone's work by an output of `features` for the same input (and points).
        Models that read graphs need `graph`; their rows are its graphs or its nodes, as many as images or
        points.
        """
        if cached is not None and cached.dim() == 2:
            return self.projection(cached)
        if isinstance(self.backbone, GraphBackbone):
            return self.projection(self._read_graph(len(image), points, graph))
        maps, pooled = self._look(image) if cached is None else self._unpack(cached)
        if self.readout == "pooled":
            return self.projection(pooled)
        if points is None or batch is None:
            raise UserError(f"{self.name}: readout 'sampled' needs points [n, 2] and batch [n]")
        # One Linear on [sampled ; pooled], with the pooled half computed once per image.
        at_points, at_image = self.projection.weight.split(self.record.width, dim=1)
        sampled = functional.linear(sample_map(maps, points, batch), at_points, self.projection.bias)
        return sampled + functional.linear(pooled, at_image).index_select(0, batch)

    def _look(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map and pooled vector of each image."""
        assert isinstance(self.backbone, Backbone)
        constant = self.is_frozen and not image.requires_grad
        with torch.no_grad() if constant else nullcontext():
            if self.pooling == "token":
                return self.backbone.with_token(self.prepare(image))
            maps = self.backbone(self.prepare(image))
        return maps, pool_map(maps, self.pooling)

    def _unpack(self, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Map and pooled vector of each image from what `features` gave without points."""
        if self.pooling == "token":
            side = math.isqrt(cached.shape[1] - 1)
            return cached[:, 1:].mT.unflatten(2, (side, side)), cached[:, 0]
        maps = cached.permute(0, 3, 1, 2)
        return maps, pool_map(maps, self.pooling)

    def _read_graph(self, num_images: int, points: Tensor | None, graph: GraphInput | None) -> Tensor:
        """Pooled vectors [B, F], or per node [n, 2F]; as many as there are images or points."""
        nodes = self.nodes(graph)
        assert graph is not None
        num_graphs = len(graph.graph)
        if num_graphs != num_images:
            raise UserError(f"{self.name}: there are {num_graphs} graphs, but {num_images} images")
        pooled = pool_nodes(nodes, graph.batch, num_graphs, self.pooling)
        if self.readout == "pooled":
            return pooled
        if points is not None and len(points) != len(nodes):
            raise UserError(f"{self.name}: there are {len(nodes)} nodes, but {len(points)} points")
        return torch.cat([nodes, pooled[graph.batch]], dim=1)


def build_ptm(config: PTMConfig, embedding_dim: int, readout: Readout = "pooled") -> PTM:
    """The model that `config` asks for, with weights loaded or drawn, frozen if `config.freeze`.

    Raises UserError for weights that are missing or do not fit.
    """
    entry = ptm_type(config.model_type)
    changes: dict[str, Any] = {
        "name": config.name,
        "tap": config.tap,
        "input_size": config.upsample,
    }
    template = dataclasses.replace(entry.record, **{k: v for k, v in changes.items() if v is not None})
    backbone, record = entry.build(config, template)
    backbone.requires_grad_(not config.freeze)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return PTM(backbone, record, embedding_dim, readout, config.pooling)
