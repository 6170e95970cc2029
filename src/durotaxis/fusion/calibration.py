"""BatchNorm statistics of frozen random backbones, set once from images of the task."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float
from durotaxis.fusion.backbones import batch_norms
from durotaxis.fusion.check import SPREAD_FLOOR
from durotaxis.fusion.extractor import MultiPTMFeatureExtractor
from durotaxis.fusion.ptm import PTM
from durotaxis.fusion.readout import pool_map, spread

MIN_CALIBRATION_IMAGES = 512


@torch.no_grad()
def calibrate(extractor: MultiPTMFeatureExtractor, images: Float[Tensor, "M 3 H W"]) -> list[str]:
    """Set the statistics of every frozen model that still needs them; return their names.

    One pass over all images at once, layer by layer: each BatchNorm takes the mean and variance of its own
    input and normalises with them, so later layers see what they will see in use. Models already
    calibrated, pre-trained or trainable are left alone, so a second call changes nothing. Call it before
    the first rollout, and before `frozen_hash` is taken. The result is part of the state dict.

    Raises UserError for fewer than `MIN_CALIBRATION_IMAGES` images, images that are all equal, or a model
    whose features of them are not finite or all the same.
    """
    names = extractor.needs_calibration()
    if not names:
        return []
    if len(images) < MIN_CALIBRATION_IMAGES:
        raise UserError(f"calibration needs at least {MIN_CALIBRATION_IMAGES} images, got {len(images)}")
    if bool((images == images[:1]).all()):
        raise UserError("calibration images are all equal; take them from a rollout")
    for ptm in cast(list[PTM], list(extractor.ptms)):
        if ptm.name in names:
            features = pool_map(_set_statistics(ptm.backbone, ptm.prepare(images)), "mean")
            found = spread(features)
            if not found > SPREAD_FLOOR:
                what = "NaN or infinite" if found != found else "the same for all of them"
                raise UserError(
                    f"{ptm.name}: its features of the calibration images are {what}; such a model tells the "
                    "agent nothing. Look at it with `durotaxis ptm check`, or take another one"
                )
            ptm.calibrated.fill_(True)
    return names


def _set_statistics(backbone: nn.Module, prepared: Tensor) -> Tensor:
    """Take the statistics of every BatchNorm from its own input; returns the maps that result."""
    norms = batch_norms(backbone)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.training = True
    maps = backbone(prepared)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.training = False
    return maps
