"""The table of pre-trained models: `model_type` -> where it comes from and how it is built.

Where a model comes from is data: a `PTMRecord` states source, hash, licence, input statistics, taps and
widths. This file needs no torch, so that configuration can be checked without importing it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, overload

from durotaxis.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from durotaxis.fusion.backbones import Backbone, GraphBackbone
    from durotaxis.fusion.config import PTMConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
"""Mean and std of models without a pre-training of their own: [0, 1] becomes [-1, 1]."""


@dataclass(frozen=True)
class PTMRecord:
    """What is known about one pre-trained model.

    `name` is unique within an extractor. `source` says in words or as an address where the weights come
    from; `revision` and `sha256` are known once weights have been read. `input_size` is the side in pixels
    that the backbone sees (None: the image as it is). `mean` and `std` normalise an image in [0, 1], per
    channel. `taps` maps each place where the backbone may stop to its number of channels; `tap` is the one
    in use. `reads` says what the model is given. A model that reads graphs was made for `node_dim` features
    per node and `edge_dim` per edge, and has no mean and std. `token_tap` is the tap at which the model has
    a summary of the image of its own (`pooling: token`).
    """

    name: str
    model_type: str
    source: str
    revision: str | None
    sha256: str | None
    licence: str
    input_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tap: str
    taps: Mapping[str, int]
    reads: Literal["image", "graph"] = "image"
    node_dim: int | None = None
    edge_dim: int | None = None
    token_tap: str | None = None

    @property
    def width(self) -> int:
        """Channels of the tapped map, or features per node."""
        return self.taps[self.tap]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values (with `width`), ready for JSON."""
        return {**dataclasses.asdict(self), "taps": dict(self.taps), "width": self.width}


def token_advice(record: PTMRecord) -> str:
    """What is wrong with `pooling: token` at a tap without a summary of the model's own."""
    if record.token_tap is None:
        return f"{record.model_type} has no summary of its own; use pooling 'mean' or 'max'"
    return (
        f"{record.model_type} has a summary of its own at tap '{record.token_tap}' alone, not at "
        f"'{record.tap}'; set that tap, or use pooling 'mean' or 'max'"
    )


Builder = Callable[["PTMConfig", PTMRecord], tuple["Backbone | GraphBackbone", PTMRecord]]
"""Builds a backbone that stops at `record.tap`; returns it with the record completed (source, hash)."""


@dataclass(frozen=True)
class PTMType:
    """One entry of the registry.

    Attributes:
        record: the template of every record of this type, with its default tap.
        build: see `Builder`.
        options: which of the keys `seed`, `weights`, `sha256` the type reads; the others are refused.
        hub: repository on the hub with `model.safetensors`, for types that need pre-trained weights.
        is_packaged: its weights are made by `durotaxis pretrain`; those that ship lie in the package
            (`fusion/data/<model_type>.safetensors`).
        twin: the type of the same architecture that needs no weights when it is frozen.
        is_control: its features follow from the picture's bits and mean nothing; it has nothing to learn.
    """

    record: PTMRecord
    build: Builder
    options: frozenset[str] = field(default_factory=frozenset)
    hub: str | None = None
    is_packaged: bool = False
    twin: str | None = None
    is_control: bool = False


_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_REGISTRY: dict[str, PTMType] = {}


@overload
def register_ptm(model_type: PTMType) -> None: ...


@overload
def register_ptm(
    model_type: str,
    make: Callable[[], nn.Module],
    *,
    width: int,
    mean: Sequence[float] = ...,
    std: Sequence[float] = ...,
    input_size: int | None = ...,
    weights: str | Path | None = ...,
    source: str = ...,
    licence: str = ...,
    reads: Literal["image", "graph"] = ...,
    node_dim: int | None = ...,
    edge_dim: int | None = ...,
) -> None: ...


def register_ptm(
    model_type: str | PTMType,
    make: Callable[[], nn.Module] | None = None,
    *,
    width: int = 0,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    input_size: int | None = None,
    weights: str | Path | None = None,
    source: str = "registered by the user",
    licence: str = "unknown",
    reads: str = "image",
    node_dim: int | None = None,
    edge_dim: int | None = None,
) -> None:
    """Add a model of your own, to be used by its name as `model_type`.

    The module is held in eval mode throughout; whether it learns is up to `freeze`.

    Args:
        model_type: the name.
        make: gives the module: a class, or a function without arguments. An image model maps [B, 3, H, W]
            to [B, width, h, w], or to [B, width]; a graph model maps a `GraphInput` to [n, width].
        width: number of features.
        mean, std: per channel, of images in [0, 1]; by default [0, 1] becomes [-1, 1].
        input_size: side in pixels to which images are enlarged; None takes them as they are.
        weights: file of the module's state dict; None keeps what `make` gives. `PTMConfig.weights` and
            `sha256` come first, and `seed` makes `make` repeatable.
        source, licence: for the record.
        reads: `image` or `graph`.
        node_dim, edge_dim: features of nodes and edges that a graph model was made for.

    In place of all that, one `PTMType` (for types that fetch weights or have several taps).

    Raises UserError if the name is taken or a value is out of range.
    """
    if isinstance(model_type, PTMType):
        _add(model_type)
        return
    if not _NAME.fullmatch(model_type):
        raise UserError(f"model_type '{model_type}' must be made of letters, digits, '_', '-' and '.'")
    if not callable(make):
        raise UserError(f"register_ptm('{model_type}', ...) needs a class or function that makes the module")
    if width < 1 or (input_size is not None and input_size < 1):
        raise UserError(f"register_ptm('{model_type}', ...): width and input_size must be at least 1")
    if reads not in ("image", "graph"):
        raise UserError(
            f"register_ptm('{model_type}', ...): reads is '{reads}'; it must be 'image' or 'graph'"
        )
    fits = len(mean) == len(std) == 3 and all(map(is_finite_number, [*mean, *std])) and min(std) > 0
    if reads == "image" and not fits:
        raise UserError(
            f"register_ptm('{model_type}', ...): mean and std must be three numbers, finite, std positive"
        )
    if reads == "graph" and (node_dim is None or edge_dim is None):
        raise UserError(f"register_ptm('{model_type}', ...): a graph model needs node_dim and edge_dim")
    record = PTMRecord(
        name=model_type,
        model_type=model_type,
        source=source,
        revision=None,
        sha256=None,
        licence=licence,
        input_size=input_size if reads == "image" else None,
        mean=tuple(mean) if reads == "image" else (),
        std=tuple(std) if reads == "image" else (),
        tap="output",
        taps={"output": width},
        reads="graph" if reads == "graph" else "image",
        node_dim=node_dim,
        edge_dim=edge_dim,
    )
    build = partial(_build_module, make, None if weights is None else Path(weights))
    _add(PTMType(record, build, frozenset({"seed", "weights", "sha256"})))


def is_finite_number(value: object) -> bool:
    """Whether it is an int or float (no bool) that is neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _add(entry: PTMType) -> None:
    model_type = entry.record.model_type
    if model_type in _REGISTRY:
        raise UserError(f"model_type '{model_type}' is already registered; choose another name")
    _REGISTRY[model_type] = entry


def ptm_type(model_type: str) -> PTMType:
    """The registry's entry, or the one that a family (`hf:...`, `timm:...`) makes for this name.

    Nothing is read or imported for it. Raises UserError with the nearest name if there is none.
    """
    if model_type in _REGISTRY:
        return _REGISTRY[model_type]
    prefix, colon, place = model_type.partition(":")
    if colon and prefix in _FAMILIES:
        return _family_type(model_type, place)
    near = difflib.get_close_matches(model_type, _REGISTRY, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    known = ", ".join([*sorted(_REGISTRY), *family_forms()])
    raise UserError(f"unknown model_type '{model_type}'; {hint}known are {known}")


def _family_type(model_type: str, place: str) -> PTMType:
    family = _FAMILIES[model_type.partition(":")[0]]
    if not place.strip():
        raise UserError(f"model_type '{model_type}' names no model; write {family.form}")
    name = re.sub(r"[^A-Za-z0-9_.\-]", "_", PurePath(place).name) or model_type.partition(":")[0]
    record = PTMRecord(
        name=name,
        model_type=model_type,
        source=family.form,
        revision=None,
        sha256=None,
        licence="known once the model is read",
        input_size=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        tap="",
        taps={},
    )
    return PTMType(record, family.build, family.options)


def family_forms() -> tuple[str, ...]:
    """How model types of a family are written, such as `hf:<repository or directory>`."""
    return tuple(family.form for family in _FAMILIES.values())


def list_ptms() -> tuple[PTMRecord, ...]:
    """One record per registered model type, by name."""
    return tuple(_REGISTRY[name].record for name in sorted(_REGISTRY))


_RESNET_WIDTHS = {
    18: {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
    34: {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
    50: {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048},
}
IMAGENET_SIDE = 96
"""Pixels. A 24-pixel image ends at 1x1 in a ResNet; at 96 the taps are 24, 12, 6 and 3 pixels wide."""


def _build_module(
    make: Callable[[], nn.Module], weights: Path | None, config: PTMConfig, record: PTMRecord
) -> tuple[Backbone | GraphBackbone, PTMRecord]:
    from durotaxis.fusion.backbones.module import build_module

    return build_module(make, weights, config, record)


def _built_by(module: str, name: str) -> Builder:
    """The builder `name` of `fusion.backbones.<module>`, imported, with torch, when it is first called."""

    def build(config: PTMConfig, record: PTMRecord) -> tuple[Backbone | GraphBackbone, PTMRecord]:
        builder: Builder = getattr(importlib.import_module(f"durotaxis.fusion.backbones.{module}"), name)
        return builder(config, record)

    return build


@dataclass(frozen=True)
class Family:
    """Model types that begin with a prefix and a colon; what they are is known once they are built."""

    form: str
    build: Builder
    options: frozenset[str]


_FAMILIES = {
    "hf": Family("hf:<repository or directory>", _built_by("hf", "build_hf"), frozenset({"sha256"})),
    "timm": Family("timm:<name>", _built_by("timm", "build_timm"), frozenset({"sha256", "weights"})),
}


def _register_builtin() -> None:
    for depth, taps in _RESNET_WIDTHS.items():
        hub = f"timm/resnet{depth}.tv_in1k"
        imagenet = PTMRecord(
            name=f"resnet{depth}_imagenet",
            model_type=f"resnet{depth}_imagenet",
            source=f"torchvision IMAGENET1K_V1 (hub: {hub})",
            revision=None,
            sha256=None,
            licence="BSD-3-Clause",
            input_size=IMAGENET_SIDE,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            tap="layer2",
            taps=taps,
        )
        random = dataclasses.replace(
            imagenet,
            name=f"resnet{depth}_random",
            model_type=f"resnet{depth}_random",
            source="random initialisation",
            licence="MIT",
            input_size=None,
            mean=HALF,
            std=HALF,
        )
        register_ptm(
            PTMType(
                imagenet,
                _built_by("resnet", "build_pretrained_resnet"),
                frozenset({"weights", "sha256"}),
                hub,
                twin=random.model_type,
            )
        )
        register_ptm(PTMType(random, _built_by("resnet", "build_random_resnet"), frozenset({"seed"})))
    graph_cnn = dataclasses.replace(
        random,
        name="graph_cnn",
        model_type="graph_cnn",
        tap="block3",
        taps={"block1": 64, "block2": 128, "block3": 256},
    )
    register_ptm(PTMType(graph_cnn, _built_by("graph_cnn", "build_graph_cnn"), frozenset({"seed"})))
    noise = dataclasses.replace(
        graph_cnn, name="noise", model_type="noise", source="control: noise", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    register_ptm(PTMType(noise, _built_by("noise", "build_noise"), frozenset({"seed"}), is_control=True))
    graph_gnn = dataclasses.replace(
        graph_cnn,
        name="graph_gnn",
        model_type="graph_gnn",
        mean=(),
        std=(),
        tap="layer4",
        taps={"layer1": 64, "layer2": 64, "layer3": 64, "layer4": 64},
        reads="graph",
        node_dim=13,
        edge_dim=3,
    )
    register_ptm(PTMType(graph_gnn, _built_by("graph_gnn", "build_graph_gnn"), frozenset({"seed"})))
    for plain, build in (
        (graph_cnn, _built_by("graph_cnn", "build_pretrained_graph_cnn")),
        (graph_gnn, _built_by("graph_gnn", "build_pretrained_graph_gnn")),
    ):
        name = f"{plain.name}_connectivity"
        made_here = dataclasses.replace(
            plain, name=name, model_type=name, source="made by `durotaxis pretrain`"
        )
        options = frozenset({"weights", "sha256"})
        register_ptm(PTMType(made_here, build, options, is_packaged=True, twin=plain.model_type))


_register_builtin()
