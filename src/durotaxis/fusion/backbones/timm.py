"""Models of timm as backbones: `timm:<name>`. timm is not required; see `docs/models.md`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones import Backbone
from durotaxis.fusion.backbones.probe import first_line, try_image_backbone
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.registry import IMAGENET_SIDE, PTMRecord
from durotaxis.fusion.sources import find_weights
from durotaxis.fusion.weights import foreign_types, listed, not_finite, read_state, refuse_misfit


class TimmBackbone(Backbone):
    """A model of timm made with `features_only` and one index: images to a list of one map [B, F, h, w]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map at the tap, [B, F, h, w]."""
        return self.model(image)[0]


def build_timm(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """The model of timm that `timm:<name>` names, with its pre-trained weights, up to its tap.

    Raises UserError if timm cannot be imported or knows no such model, or if weights cannot be had or do
    not fit.
    """
    name, architecture = config.model_type, config.model_type.removeprefix("timm:")
    timm, described = describe(name)
    file = find_weights(name, described.hf_hub_id, config.weights, config.sha256)
    state = read_state(file.path)
    refuse_misfit(
        file.path, [listed("wrong type", foreign_types(state)), listed("not finite", not_finite(state))]
    )
    try:
        # With features_only timm ignores missing keys, so the whole model is loaded first, to the last key.
        whole = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}
        )
    except (RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{file.path}: these weights do not fit: {text}") from error
    places = {info["module"]: info for info in whole.feature_info}
    tap = config.tap or list(places)[len(places) // 2]
    if tap not in places:
        raise UserError(f"{name} has no tap '{tap}'; it has {', '.join(places)}")
    side = _side(name, described, places[tap]["reduction"], config.upsample)
    model = timm.create_model(
        architecture,
        pretrained=True,
        features_only=True,
        out_indices=(list(places).index(tap),),
        pretrained_cfg_overlay={"state_dict": dict(state)},
    )
    backbone = TimmBackbone(model)
    try_image_backbone(backbone, name, places[tap]["num_chs"], side)
    return backbone, dataclasses.replace(
        record,
        source=str(file.path) if config.weights else f"timm (hub: {described.hf_hub_id})",
        revision=file.revision,
        sha256=file.sha256,
        licence=described.license or "unknown, see the repository",
        input_size=side,
        mean=tuple(described.mean),
        std=tuple(described.std),
        tap=tap,
        taps={module: info["num_chs"] for module, info in places.items()},
    )


def describe(model_type: str) -> tuple[Any, Any]:
    """The module timm, and its description of a pre-trained model. Raises UserError without either."""
    timm, architecture = _import_timm(), model_type.removeprefix("timm:")
    described = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if described is None:
        raise UserError(f"{model_type}: timm has no such model; see timm.list_models(pretrained=True)")
    return timm, described


def _import_timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"timm cannot be used here ({first_line(error)}). Install it with `pip install durotaxis[timm]`. "
            "It needs a torchvision built for exactly your torch: beside a CPU build of torch the usual "
            "wheel of torchvision does not import, and then transformers' models do not either; see "
            "docs/models.md"
        ) from error
    return timm


def _side(name: str, described: Any, unit: int, asked: int | None) -> int:
    """Side in pixels that the model sees. Raises UserError for one that it cannot take."""
    own = described.input_size[-1]
    if described.fixed_input_size:
        if asked not in (None, own):
            raise UserError(f"{name}: upsample {asked} does not fit: this model takes {own} pixels alone")
        return own
    if asked is not None and asked % unit:
        smaller = max(1, asked // unit) * unit
        raise UserError(
            f"{name}: upsample {asked} does not fit: this tap takes multiples of {unit} pixels, such as "
            f"{smaller} and {smaller + unit}"
        )
    return asked or unit * math.ceil(IMAGENET_SIDE / unit)
