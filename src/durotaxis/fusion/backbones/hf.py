"""Image models of transformers as backbones: `hf:<repository or directory>`.

Where the structure of a model is known, only the layers up to the tap are kept. Weights are read by our own
reader (no pickle with code, nothing damaged, no NaN) and handed to transformers, which renames older keys;
what it would quietly initialise anew is an error here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones import Backbone
from durotaxis.fusion.backbones.probe import first_line, try_image_backbone
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.registry import IMAGENET_SIDE, PTMRecord
from durotaxis.fusion.sources import checked_sha256, find_directory
from durotaxis.fusion.weights import (
    foreign_types,
    image_statistics,
    licence_of,
    listed,
    not_finite,
    read_state,
    refuse_misfit,
)

_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "head.", "decoder.")
"""Beginnings of keys that belong to a task's head, which a backbone has no use for."""
_OTHER_SIDES = (32, 64, 96, 128, 192, 224, 256)
_LAST = "last"
"""The only tap of a model whose structure is not known."""


@dataclass(frozen=True)
class Family:
    """How a kind of model is built: where its stages or layers are, and the norm after the last of them."""

    parts: str
    norm: str | None = None
    has_tokens: bool = False
    pooler: str | None = None


_CONVNEXT = Family("encoder.stages", norm="layernorm")
_DINO = Family("encoder.layer", norm="layernorm", has_tokens=True)
FAMILIES = {
    "resnet": Family("encoder.stages"),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "vit": Family("layers", norm="layernorm", has_tokens=True, pooler="pooler"),
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_vit": Family("model.layer", norm="norm", has_tokens=True),
}


class NoMapError(UserError):
    """A model ran, but what it gave cannot be laid out as a map."""


class HFBackbone(Backbone):
    """An image model of transformers.

    Args:
        model: its `last_hidden_state` is a map [B, F, h, w], or tokens [B, extra + h*w, F], whose extra ones
            (class, registers) come first.
        patch: side of a patch in pixels, for models of tokens.
    """

    def __init__(self, model: nn.Module, patch: int | None) -> None:
        super().__init__()
        self.model = model
        self.patch = patch
        self.options = (
            {"interpolate_pos_encoding": True}
            if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
            else {}
        )
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map at the tap, [B, F, h, w]."""
        output = self.model(image, **self.options)
        return self._map(getattr(output, "last_hidden_state", None), image)

    def with_token(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, F, h, w], and the model's own pooled output [B, F]."""
        output = self.model(image, **self.options)
        return self._map(output.last_hidden_state, image), output.pooler_output.flatten(1)

    def blocks(self) -> list[nn.Module]:
        """Stages or layers, where the structure is known; else the whole."""
        family = FAMILIES.get(getattr(getattr(self.model, "config", None), "model_type", ""))
        return [self.model] if family is None else list(self.model.get_submodule(family.parts).children())

    def _map(self, states: Tensor | None, image: Tensor) -> Tensor:
        if states is None:
            raise NoMapError("it has no last_hidden_state")
        if states.dim() == 4:
            return states
        if states.dim() != 3:
            raise NoMapError(f"it is {list(states.shape)}, neither a map nor tokens")
        if self.patch is None:
            raise NoMapError("it is made of tokens, but its config has no patch_size to lay them out by")
        rows, columns = (side // self.patch for side in image.shape[-2:])
        if states.shape[1] < rows * columns:
            raise NoMapError(f"it has {states.shape[1]} tokens for {rows}x{columns} patches")
        return states[:, -rows * columns :].mT.unflatten(2, (rows, columns))


def build_hf(config: PTMConfig, record: PTMRecord) -> tuple[Backbone, PTMRecord]:
    """The image model that `hf:<repository or directory>` names, with its weights, up to its tap.

    Raises UserError (MissingWeightsError) if it cannot be had, is no image model, takes no images of
    `config.upsample` pixels, has no such tap, or if its weights do not fit to the last key.
    """
    name = config.model_type
    directory = find_directory(name, name.removeprefix("hf:"))
    settings = _read_settings(name, directory.path)
    weights = directory.weights(name)
    statistics = image_statistics(weights)
    if statistics is None:
        raise UserError(
            f"{name}: {directory.path} has no preprocessor_config.json with mean and std, so images cannot "
            "be normalised as in pre-training; save the model's image processor there too"
        )
    digest = checked_sha256(name, weights, config.sha256)
    taps, default = _taps(settings)
    tap = config.tap or default
    if tap not in taps:
        raise UserError(f"{name} has no tap '{tap}'; it has {', '.join(taps)}")
    side = _side(name, settings, tap, config.upsample)
    model, has_pooler = _load(settings, read_state(weights), weights)
    family = FAMILIES.get(settings.model_type)
    is_last = tap == list(taps)[-1]
    if family is not None:
        position = list(taps).index(tap) + 1
        _cut(model, family, position, is_last, is_last and config.pooling == "token")
    backbone = HFBackbone(model, _patch(settings) if family is None or family.has_tokens else None)
    side, width = _try(backbone, name, taps[tap], _sides(settings, side, config.upsample))
    if family is None:
        has_summary = has_pooler and _has_summary(backbone, side, width)
    else:
        has_summary = has_pooler and getattr(settings, "pooler_output_size", width) in (None, width)
    return backbone, dataclasses.replace(
        record,
        source=directory.source,
        revision=directory.revision,
        sha256=digest,
        licence=licence_of(directory.path),
        input_size=side,
        mean=statistics[0],
        std=statistics[1],
        tap=tap,
        taps={place: features or width for place, features in taps.items()},
        token_tap=list(taps)[-1] if has_summary else None,
    )


def _read_settings(name: str, directory: Path) -> Any:
    """The model's config of transformers. Raises UserError if it is none of an image model we can use."""
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{name}: {directory} has no config.json; it must be in transformers' format")
    try:
        settings = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no config of a model that transformers knows ({first_line(error)})"
        ) from error
    if "swin" in settings.model_type:
        raise UserError(
            f"{name}: Swin models are not supported: their position biases fit one image size alone, and a "
            "failed call at another size changes the model; use ViT, DINOv2, ConvNeXt or ResNet"
        )
    if getattr(settings, "num_channels", 3) != 3:
        raise UserError(f"{name}: reads images of {settings.num_channels} channels; 3 are needed")
    return settings


def _taps(settings: Any) -> tuple[dict[str, int | None], str]:
    """Widths by tap, and the default: the stage or layer that ends the first half of the blocks."""
    family = FAMILIES.get(settings.model_type)
    if family is None:
        return {_LAST: None}, _LAST
    if family.has_tokens:
        count = settings.num_hidden_layers
        return {f"layer{i + 1}": settings.hidden_size for i in range(count)}, f"layer{(count + 1) // 2}"
    passed = list(accumulate(settings.depths))
    half = next(i for i, blocks in enumerate(passed, start=1) if 2 * blocks >= passed[-1])
    return {f"stage{i + 1}": width for i, width in enumerate(settings.hidden_sizes)}, f"stage{half}"


def _patch(settings: Any) -> int | None:
    patch = getattr(settings, "patch_size", None)
    return patch if isinstance(patch, int) else None


def _unit(settings: Any, tap: str) -> int:
    """Images must be a multiple of so many pixels, or the map would not cover them."""
    if settings.model_type == "resnet":
        return 1  # its convolutions are padded
    patch = _patch(settings) or 1
    return patch << (int(tap.removeprefix("stage")) - 1) if tap.startswith("stage") else patch


def _side(name: str, settings: Any, tap: str, asked: int | None) -> int:
    """Side in pixels that the model sees. Raises UserError for one that the tap cannot take."""
    unit = _unit(settings, tap)
    default = unit * math.ceil(IMAGENET_SIDE / unit)
    if asked is not None and asked % unit:
        examples = ", ".join(str(unit * k) for k in range(max(1, asked // unit), max(1, asked // unit) + 3))
        raise UserError(
            f"{name}: upsample {asked} does not fit: {settings.model_type} at tap '{tap}' takes multiples of "
            f"{unit} pixels, such as {examples} (default {default})"
        )
    return asked or default


def _load(settings: Any, state: dict[str, Tensor], path: Path) -> tuple[nn.Module, bool]:
    """The whole model with its weights, and whether they hold its pooler.

    Raises UserError if they do not fit.
    """
    from transformers import MODEL_MAPPING

    try:
        kind = MODEL_MAPPING.get(type(settings), None)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"transformers cannot import its '{settings.model_type}' ({first_line(error)}). The usual "
            "cause is a torchvision not built for this torch: uninstall it, or install the one that was"
        ) from error
    if not isinstance(kind, type) or getattr(kind, "main_input_name", None) != "pixel_values":
        raise UserError(
            f"{path.parent}: '{settings.model_type}' is no image model; name one that reads images"
        )
    problems = [listed("wrong type", foreign_types(state)), listed("not finite", not_finite(state))]
    refuse_misfit(path, problems)
    try:
        with _quiet():
            # Eager attention: its results and gradients are the same on every run, on every device.
            model, found = kind.from_pretrained(
                None,
                config=settings,
                state_dict=state,
                output_loading_info=True,
                attn_implementation="eager",
                dtype=torch.float32,
            )
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: these weights do not fit: {_misfit(settings, kind, state, error)}"
        ) from error
    missing = sorted(found["missing_keys"])
    # Models trained with a classifier on the class token are saved without a pooler.
    saved_without = not any("pooler." in key for key in state)
    lacks_pooler = bool(missing) and saved_without and all(key.startswith("pooler.") for key in missing)
    unexpected = sorted(key for key in found["unexpected_keys"] if not key.startswith(_HEADS))
    refuse_misfit(
        path, [listed("missing", [] if lacks_pooler else missing), listed("unexpected", unexpected)]
    )
    return model, not lacks_pooler


def _misfit(settings: Any, kind: Any, state: dict[str, Tensor], error: Exception) -> str:
    """Which keys have another shape than the model's; transformers only logs them."""
    with torch.device("meta"):
        whole = kind(settings).state_dict()
    prefix = f"{kind.base_model_prefix}."
    own = {key.removeprefix(prefix): value for key, value in state.items()}
    wrong = [
        f"{key} {list(own[key].shape)} instead of {list(whole[key].shape)}"
        for key in sorted(own.keys() & whole.keys())
        if own[key].shape != whole[key].shape
    ]
    return listed("wrong shape", wrong) or first_line(error)


def _cut(model: nn.Module, family: Family, count: int, is_last: bool, with_summary: bool) -> None:
    """Remove what lies behind the first `count` parts, and what only the summary needs, in place."""
    del model.get_submodule(family.parts)[count:]  # type: ignore[operator]
    if family.norm and not (is_last and (family.has_tokens or with_summary)):
        setattr(model, family.norm, nn.Identity())
    if family.pooler and not with_summary:
        setattr(model, family.pooler, None)
    embeddings = getattr(model, "embeddings", None)
    if getattr(embeddings, "mask_token", None) is not None:
        embeddings.mask_token = None  # type: ignore[union-attr]  # read in pre-training alone


def _sides(settings: Any, side: int, asked: int | None) -> tuple[int, ...]:
    """Sides to try, in order: that one; for a model of unknown structure by default also its own."""
    own = getattr(settings, "image_size", None)
    known = settings.model_type in FAMILIES
    return (side,) if known or asked is not None or not isinstance(own, int) else (side, own)


def _try(backbone: HFBackbone, name: str, width: int | None, sides: tuple[int, ...]) -> tuple[int, int]:
    """The first side that works, and the width of the map. The error names other sides that work.

    No other sides are tried where the model takes the images but gives no map: the size is not at fault.
    """
    for side in sides:
        try:
            return side, try_image_backbone(backbone, name, width, side)
        except UserError as error:
            refusal = error
    if isinstance(refusal, NoMapError):
        raise UserError(
            f"{name}: its output cannot be laid out as a map ({refusal}); take a model that gives one, or "
            "one token per patch"
        ) from refusal
    working = [str(other) for other in _OTHER_SIDES if _works(backbone, name, width, other)]
    advice = f"; set upsample to one of {', '.join(working)}" if working else ""
    raise UserError(f"{refusal}{advice}") from refusal


def _works(backbone: HFBackbone, name: str, width: int | None, side: int) -> bool:
    try:
        try_image_backbone(backbone, name, width, side)
    except UserError:
        return False
    return True


@torch.no_grad()
def _has_summary(backbone: HFBackbone, side: int, width: int) -> bool:
    """Whether a model of unknown structure has a pooled output of its map's width."""
    pooled = getattr(backbone.model(torch.zeros(1, 3, side, side), **backbone.options), "pooler_output", None)
    return pooled is not None and pooled.flatten(1).shape == (1, width)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no report on stderr while transformers loads; findings are read from its answer."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
