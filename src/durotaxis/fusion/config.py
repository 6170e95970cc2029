"""Configuration of the fusion layer: which pre-trained models, and how they are combined."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from durotaxis.core.config import Config
from durotaxis.core.errors import UserError
from durotaxis.fusion.registry import ptm_type, token_advice

Model = TypeVar("Model", bound=Config)
PositiveInt = Annotated[int, Field(ge=1)]
Pooling = Literal["mean", "max", "token"]
Width = Annotated[int, Field(ge=1, le=65_536)]


class PTMConfig(Config):
    """One pre-trained model.

    Attributes:
        model_type: a name of the registry, such as `resnet18_random`.
        name: unique within the extractor; by default the model type, then `..._2`, `..._3`.
        freeze: keep the backbone's weights as they are (its projection is trained all the same).
        seed: of a random initialisation. Default: for `resnetNN_random` the lowest seed unused by that
            type in the list; for `graph_cnn` drawn from the run's own random numbers.
        tap: where the backbone stops; default as in the registry.
        pooling: how a map (or a graph's nodes) becomes one vector: `mean`, `max`, or `token`, the model's own
            summary where it has one.
        weights: file or directory of pre-trained weights; default the hub's cache, then the hub.
        sha256: expected digest of the weights file (64 hex digits), or its beginning (at least 8).
        upsample: side in pixels to which images are enlarged before the backbone; default the type's own.
    """

    model_type: str
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.\-]+$")
    freeze: bool = True
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    tap: str | None = None
    pooling: Pooling = "mean"
    weights: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    upsample: int | None = Field(default=None, ge=8, le=512)

    @field_validator("model_type")
    @classmethod
    def _known(cls, value: str) -> str:
        ptm_type(value)
        return value

    @model_validator(mode="after")
    def _fits_type(self) -> PTMConfig:
        entry = ptm_type(self.model_type)
        record = entry.record
        if record.taps:  # else known only once the model is read
            if self.tap is not None and self.tap not in record.taps:
                raise ValueError(
                    f"{self.model_type} has no tap '{self.tap}'; it has {', '.join(record.taps)}"
                )
            at_tap = dataclasses.replace(record, tap=self.tap or record.tap)
            if self.pooling == "token" and at_tap.tap != at_tap.token_tap:
                raise ValueError(token_advice(at_tap))
        if self.upsample is not None and record.reads == "graph":
            raise ValueError(f"{self.model_type} reads graphs and has no image to enlarge; remove 'upsample'")
        for option in ("seed", "weights", "sha256"):
            if getattr(self, option) is not None and option not in entry.options:
                raise ValueError(f"{self.model_type} does not read '{option}'; remove the key")
        return self


GUIDE_TRIO = (
    PTMConfig(model_type="resnet18_imagenet", freeze=True),
    PTMConfig(model_type="graph_cnn", freeze=False),
    PTMConfig(model_type="resnet18_random", freeze=False),
)
"""The three models of the integration guide."""


def resolve_ptms(ptms: Sequence[PTMConfig]) -> tuple[PTMConfig, ...]:
    """Give every model a unique name, and every random ResNet a seed of its own.

    Raises UserError if two models were given the same name.
    """
    names = [ptm.name for ptm in ptms if ptm.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two PTMs are named '{name}'; give each its own name")
    seeds = {(ptm.model_type, ptm.seed) for ptm in ptms}
    resolved = []
    for ptm in ptms:
        changes: dict[str, Any] = {}
        if ptm.name is None:
            changes["name"] = _unused_name(ptm_type(ptm.model_type).record.name, names)
            names.append(changes["name"])
        if ptm.seed is None and ptm.model_type.endswith("_random"):
            changes["seed"] = next(s for s in range(len(ptms)) if (ptm.model_type, s) not in seeds)
            seeds.add((ptm.model_type, changes["seed"]))
        resolved.append(ptm.model_copy(update=changes))
    return tuple(resolved)


def _unused_name(base: str, taken: Sequence[str]) -> str:
    count = 1
    while (name := base if count == 1 else f"{base}_{count}") in taken:
        count += 1
    return name


class WSAConfig(Config):
    """Several pre-trained models into one representation.

    Attributes:
        integration: `full` (an actor built around the extractor) or `features` (the extractor inside the
            plain actor, heads unchanged).
        fusion: `wsa` (weight sharing attention) or `mean` (all models weigh the same).
        embedding_dim: width D of every embedding and of the representation.
        context_dim: width C of the context that conditions attention.
        ptms: the models, resolved to unique names.
        attention_temperature: of the softmax over models; lower is sharper.
        learn_temperature: start there and learn it.
        num_heads: D is split into so many parts, each with its own attention.
        hidden_dims: widths of the two hidden layers of the shared scorer.
    """

    integration: Literal["full", "features"] = "full"
    fusion: Literal["wsa", "mean"] = "wsa"
    embedding_dim: Width = 256
    context_dim: Width = 128
    ptms: tuple[PTMConfig, ...] = Field(default=GUIDE_TRIO, min_length=1)
    attention_temperature: float = Field(default=1.0, ge=1e-3, le=1e3)
    learn_temperature: bool = False
    num_heads: PositiveInt = 1
    hidden_dims: tuple[PositiveInt, PositiveInt] = (256, 128)

    @field_validator("ptms")
    @classmethod
    def _resolve(cls, value: tuple[PTMConfig, ...]) -> tuple[PTMConfig, ...]:
        return resolve_ptms(value)

    @model_validator(mode="after")
    def _heads_fit(self) -> WSAConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not divisible by num_heads {self.num_heads}"
            )
        return self


def validated(model: type[Model], **values: Any) -> Model:
    """Build a config from Python values, with all errors in one UserError line."""
    try:
        return model(**values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or model.__name__}: {_message(e)}" for e in error.errors()]
        raise UserError("; ".join(lines)) from error


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
