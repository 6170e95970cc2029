"""Does a pre-trained model load, how large and how fast is it, and does its output say anything?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.ptm import build_ptm
from durotaxis.fusion.registry import PTMRecord

_IMAGES = 64
_REPEATS = 3
_SPREAD_FLOOR = 1e-3


@dataclass(frozen=True)
class PTMCheck:
    """Findings about one model.

    `num_parameters` counts the backbone up to its tap; `milliseconds` is per 24x24 image (the fastest of
    three batches of 64, without gradient, on the present threads); `spread` is the standard deviation of
    pooled features over inputs relative to their root mean square; `varies` says whether it is above 0.001.
    """

    record: PTMRecord
    num_parameters: int
    milliseconds: float
    spread: float
    varies: bool


@torch.no_grad()
def check_ptm(config: PTMConfig) -> PTMCheck:
    """Build the model and run it on seeded images: smooth ramps of different slopes with noise.

    Raises UserError if it cannot be built.
    """
    ptm = build_ptm(config, embedding_dim=1)
    generator = torch.Generator().manual_seed(0)
    slopes = torch.rand((_IMAGES, 3, 1, 1), generator=generator)
    images = slopes * torch.linspace(0, 1, 24) * torch.rand((_IMAGES, 3, 24, 24), generator=generator)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        pooled = ptm.features(images)
        seconds.append(time.perf_counter() - start)
    spread = float(pooled.std(0).square().mean().sqrt() / pooled.square().mean().sqrt().clamp_min(1e-12))
    return PTMCheck(
        record=ptm.record,
        num_parameters=sum(parameter.numel() for parameter in ptm.backbone.parameters()),
        milliseconds=1000 * min(seconds) / _IMAGES,
        spread=spread,
        varies=spread > _SPREAD_FLOOR,
    )
