"""Does a pre-trained model load, how large and how fast is it, and does its output say anything?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones.probe import random_graphs
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.ptm import PTM, Readout, build_ptm
from durotaxis.fusion.readout import spread
from durotaxis.fusion.registry import PTMRecord

if TYPE_CHECKING:
    from durotaxis.fusion.extractor import MultiPTMFeatureExtractor

_INPUTS = 64
_REPEATS = 3
SPREAD_FLOOR = 1e-3
"""Below this spread over inputs a model is said to give a constant."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one model: its backbone up to the tap, those of them that learn, its projection."""

    name: str
    backbone: int
    trainable: int
    projection: int


@dataclass(frozen=True)
class PTMCheck:
    """Findings about one model.

    `num_parameters` counts the backbone up to its tap, `num_projection` the adapter behind it;
    `milliseconds` is per 24x24 image or graph of 12 nodes (the fastest of three batches of 64, without
    gradient, on the present threads); `spread` is the standard deviation of pooled features over inputs
    relative to their root mean square, NaN if a feature is not finite; `varies` says whether it is above
    `SPREAD_FLOOR`.
    """

    record: PTMRecord
    num_parameters: int
    num_projection: int
    milliseconds: float
    spread: float
    varies: bool

    @property
    def verdict(self) -> str:
        """`varies`, `CONSTANT OUTPUT` or `NOT FINITE`."""
        if self.varies:
            return "varies"
        return "NOT FINITE" if self.spread != self.spread else "CONSTANT OUTPUT"


@torch.no_grad()
def check_ptm(config: PTMConfig, embedding_dim: int = 256, readout: str = "pooled") -> PTMCheck:
    """Build the model and run it on seeded images (smooth ramps of different slopes with noise) or graphs.

    Args:
        config: the model.
        embedding_dim, readout: decide the size of the projection.

    Raises UserError if it cannot be built, or for an unknown readout.
    """
    if readout not in get_args(Readout):
        raise UserError(f"readout '{readout}' must be 'pooled' or 'sampled'")
    ptm = build_ptm(config, embedding_dim, cast(Readout, readout))
    counts = count_parameters(ptm)
    run = _graph_run(ptm) if ptm.record.reads == "graph" else _image_run(ptm)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        pooled = run()
        seconds.append(time.perf_counter() - start)
    found = spread(pooled)
    return PTMCheck(
        record=ptm.record,
        num_parameters=counts.backbone,
        num_projection=counts.projection,
        milliseconds=1000 * min(seconds) / _INPUTS,
        spread=found,
        varies=found > SPREAD_FLOOR,
    )


def count_parameters(ptm: PTM) -> ParameterCount:
    """Sizes of one model and of its projection."""
    backbone = list(ptm.backbone.parameters())
    return ParameterCount(
        name=ptm.name,
        backbone=sum(parameter.numel() for parameter in backbone),
        trainable=sum(parameter.numel() for parameter in backbone if parameter.requires_grad),
        projection=sum(parameter.numel() for parameter in ptm.projection.parameters()),
    )


def parameter_table(extractor: MultiPTMFeatureExtractor) -> tuple[ParameterCount, ...]:
    """Sizes of every model, in order, so that adapters do not silently outweigh the models."""
    return tuple(count_parameters(ptm) for ptm in extractor.ptms)


def _image_run(ptm: PTM) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    slopes = torch.rand((_INPUTS, 3, 1, 1), generator=generator)
    images = slopes * torch.linspace(0, 1, 24) * torch.rand((_INPUTS, 3, 24, 24), generator=generator)
    return lambda: ptm.pooled(images)


def _graph_run(ptm: PTM) -> Callable[[], Tensor]:
    graph = random_graphs(_INPUTS, ptm.record.node_dim or 1, ptm.record.edge_dim or 1)
    return lambda: ptm.pooled(graph)
