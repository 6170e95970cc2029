"""Several pre-trained models, one representation: models, context and fusion rule in one module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.combine import Fusion, MeanFusion
from durotaxis.fusion.config import PTMConfig, WSAConfig, validated
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.ptm import PTM, Readout, build_ptm
from durotaxis.fusion.registry import PTMRecord
from durotaxis.fusion.state_encoder import StateEncoder
from durotaxis.fusion.wsa import WeightSharingAttention


class Intervention(StrEnum):
    """What an evaluation may force, to learn whether the agent uses what it was given."""

    UNIFORM = "uniform"
    """Attention uniform over the open models, whatever was learned."""
    ZERO = "zero"
    """The representation set to zero."""


class MultiPTMFeatureExtractor(nn.Module):
    """Images and contexts to fused representations.

    Args:
        embedding_dim: width D of embeddings and representation.
        context_dim: width C of the context.
        ptms: models, as `PTMConfig` or mappings with its keys; None means the integration guide's trio
            (which needs ImageNet weights).
        context_input_dim: width of `context_input`, what the context is encoded from.
        readout: `pooled` (a row per image) or `sampled` (a row per point).
        temperature, num_heads, learn_temperature, hidden_dims: see `WeightSharingAttention`.
        fusion: `wsa` or `mean` (which reads no context and has no state encoder).
        context: `graph`, `context_input` has a row per image; `node`, a row per point (`sampled` only).

    Raises UserError for values out of range, and MissingWeightsError where weights cannot be had.

    Attributes:
        ptms: nn.ModuleList of `PTM`, in the order given; `ptms[i].backbone` is the trunk.
        embedding_dim: width of the representation.
    """

    def __init__(
        self,
        embedding_dim: int = 256,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        *,
        context_input_dim: int = 64,
        readout: str = "pooled",
        temperature: float = 1.0,
        num_heads: int = 1,
        learn_temperature: bool = False,
        hidden_dims: tuple[int, int] = (256, 128),
        fusion: str = "wsa",
        context: str = "graph",
    ) -> None:
        super().__init__()
        values: dict[str, Any] = {} if ptms is None else {"ptms": tuple(ptms)}
        config = validated(
            WSAConfig,
            fusion=fusion,
            embedding_dim=embedding_dim,
            context_dim=context_dim,
            attention_temperature=temperature,
            learn_temperature=learn_temperature,
            num_heads=num_heads,
            hidden_dims=hidden_dims,
            **values,
        )
        if readout not in get_args(Readout):
            raise UserError(f"readout '{readout}' must be 'pooled' or 'sampled'")
        if context not in ("graph", "node") or (context == "node" and readout == "pooled"):
            raise UserError(f"context '{context}' must be 'graph', or 'node' with readout 'sampled'")
        if context_input_dim < 1:
            raise UserError(f"context_input_dim {context_input_dim} must be at least 1")
        self.readout = readout
        self.context_input_dim = context_input_dim
        self.embedding_dim = embedding_dim
        self.context = context
        self.ptms = nn.ModuleList(
            build_ptm(ptm, embedding_dim, cast(Readout, readout)) for ptm in config.ptms
        )
        self.fusion = _build_fusion(config)
        self.state_encoder = (
            StateEncoder(context_input_dim, context_dim) if self.fusion.reads_context else nn.Identity()
        )
        self._uniform = MeanFusion()
        self._intervention: Intervention | None = None

    @classmethod
    def from_config(
        cls, config: WSAConfig, *, context_input_dim: int, readout: str = "pooled"
    ) -> MultiPTMFeatureExtractor:
        """The extractor that a `wsa_config` section asks for."""
        return cls(
            config.embedding_dim,
            config.context_dim,
            config.ptms,
            context_input_dim=context_input_dim,
            readout=readout,
            temperature=config.attention_temperature,
            num_heads=config.num_heads,
            learn_temperature=config.learn_temperature,
            hidden_dims=config.hidden_dims,
            fusion=config.fusion,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the order of attention's columns."""
        return tuple(ptm.name for ptm in self._ptms())

    @property
    def records(self) -> tuple[PTMRecord, ...]:
        """What is known about each model, in the same order."""
        return tuple(ptm.record for ptm in self._ptms())

    def forward(
        self,
        image: Tensor,
        context_input: Tensor,
        *,
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
        cached: Mapping[str, Tensor] | None = None,
        gates: Tensor | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Representation [rows, D], or (representation, attention [rows, K]) with `return_attention`.

        Args:
            image: [B, 3, H, W] in [0, 1]; 24x24 in this project.
            context_input: [B, context_input_dim], a row per image; or [n, ...] if built with
                `context="node"`.
            points: `sampled` only: [n, 2], places (x right, y down) in [-1, 1], as for `grid_sample`.
            batch: image index of each point, int64; may be left out when there is one image.
            graph: for models that read graphs; image models do not look at it.
            cached: outputs of `precompute` by model name, for the same images and points. Entries of models
                that are no longer frozen are not used.
            gates: see `Fusion`, [K] or [rows, K].

        Raises UserError for inputs whose shapes do not fit.
        """
        batch = self._check(image, points, batch, cached)
        context = self._context(context_input, image.shape[0], batch)
        stored = cached or {}
        embeddings = torch.stack(
            [
                ptm(image, points, batch, stored.get(ptm.name) if ptm.is_frozen else None, graph)
                for ptm in self._ptms()
            ],
            dim=1,
        )
        fusion = self._uniform if self._intervention is Intervention.UNIFORM else self.fusion
        representation, attention = fusion(context, embeddings, gates)
        if self._intervention is Intervention.ZERO:
            representation = torch.zeros_like(representation)
        return (representation, attention) if return_attention else representation

    def precompute(
        self,
        image: Tensor,
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of the frozen models, {name: tensor}, to hand to `forward` as `cached`; no gradient.

        - `pooled`: [B, F].
        - `sampled` without points: the maps, channels last, [B, h, w, F]; any points may be read from them
          later. Smaller than the next form when maps are small (3x3 or 6x6) and points many.
        - `sampled` with points (and batch): [n, 2F], the sampled vector followed by the pooled one.

        Models that read graphs are left out when no graph is given, else [B, F] or [n, 2F].
        They can feed a trainable projection (made under `no_grad`, not `inference_mode`).
        """
        if points is not None:
            batch = self._check(image, points, batch, None)
        with torch.no_grad():
            return {
                ptm.name: ptm.features(image, points, batch, graph).contiguous()
                for ptm in self._ptms()
                if ptm.is_frozen and (graph is not None or ptm.record.reads == "image")
            }

    def cacheable(self) -> list[str]:
        """Names of the models that are frozen now."""
        return [ptm.name for ptm in self._ptms() if ptm.is_frozen]

    def needs_calibration(self) -> list[str]:
        """Names of frozen random models whose BatchNorm statistics were never set (see `calibrate`)."""
        return [ptm.name for ptm in self._ptms() if ptm.is_frozen and not bool(ptm.calibrated)]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by part: `ptm:<name>` for each learning backbone, `fusion` for the rest."""
        groups = {
            f"ptm:{ptm.name}": [p for p in ptm.backbone.parameters() if p.requires_grad]
            for ptm in self._ptms()
            if not ptm.is_frozen
        }
        backbones = {id(p) for ptm in self._ptms() for p in ptm.backbone.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in backbones]
        return groups | {"fusion": rest}

    def frozen_hash(self) -> str:
        """sha256 (hex) over names, shapes and bytes of the frozen backbones' parameters and buffers."""
        digest = hashlib.sha256()
        for ptm in self._ptms():
            if not ptm.is_frozen:
                continue
            for key, value in sorted(ptm.backbone.state_dict().items()):
                digest.update(f"{ptm.name}.{key}{list(value.shape)}{value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def intervene(self, intervention: Intervention | str | None) -> Iterator[None]:
        """Force uniform attention or a zero representation within the `with` block; None changes nothing.

        Raises UserError for an unknown intervention.
        """
        if intervention is not None and intervention not in list(Intervention):
            raise UserError(f"intervention '{intervention}' must be one of {', '.join(Intervention)}")
        before = self._intervention
        self._intervention = None if intervention is None else Intervention(intervention)
        try:
            yield
        finally:
            self._intervention = before

    def _ptms(self) -> list[PTM]:
        return cast(list[PTM], list(self.ptms))

    def _check(
        self,
        image: Tensor,
        points: Tensor | None,
        batch: Tensor | None,
        cached: Mapping[str, Tensor] | None,
    ) -> Tensor | None:
        """Validate shapes; return the image index of each point (None for `pooled`)."""
        if image.dim() != 4 or image.shape[1] != 3:
            raise UserError(f"image has shape {list(image.shape)}; it must be [B, 3, H, W]")
        unknown = sorted(set(cached or ()) - set(self.names))
        if unknown:
            raise UserError(f"cached holds '{unknown[0]}', which is none of {', '.join(self.names)}")
        if self.readout == "pooled":
            return None
        if points is None or points.dim() != 2 or points.shape[1] != 2:
            raise UserError("readout 'sampled' needs points [n, 2]")
        if batch is None:
            if image.shape[0] != 1:
                raise UserError(f"batch [n] is needed to tell which of {image.shape[0]} images a point is in")
            batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        if batch.shape != points.shape[:1]:
            raise UserError(f"batch has shape {list(batch.shape)}, points have {list(points.shape)}")
        return batch

    def _context(self, context_input: Tensor, num_images: int, batch: Tensor | None) -> Tensor:
        """Contexts of all rows, [rows, C]."""
        if context_input.dim() != 2 or context_input.shape[1] != self.context_input_dim:
            raise UserError(
                f"context_input has shape {list(context_input.shape)}; "
                f"it must be [rows, {self.context_input_dim}]"
            )
        rows = len(batch) if self.context == "node" and batch is not None else num_images
        if len(context_input) != rows:
            what = "points" if self.context == "node" else "images"
            raise UserError(f"context_input has {len(context_input)} rows, but there are {rows} {what}")
        context = self.state_encoder(context_input)
        return context if batch is None or self.context == "node" else context[batch]


def _build_fusion(config: WSAConfig) -> Fusion:
    if config.fusion == "mean":
        return MeanFusion()
    return WeightSharingAttention(
        config.embedding_dim,
        config.context_dim,
        config.attention_temperature,
        config.num_heads,
        learn_temperature=config.learn_temperature,
        hidden_dims=config.hidden_dims,
    )
