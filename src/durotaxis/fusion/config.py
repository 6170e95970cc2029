"""Configuration of the fusion layer: which pre-trained models, and how they are combined."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from durotaxis.core.config import Config, ConfigError, KeyedError, build_config
from durotaxis.core.errors import UserError
from durotaxis.core.schedule import Clock, Moment, Schedule, as_clock
from durotaxis.core.schedule import at as value_at
from durotaxis.fusion.registry import ptm_type, token_advice

Model = TypeVar("Model", bound=Config)
PositiveInt = Annotated[int, Field(ge=1)]
Pooling = Literal["mean", "max", "token"]
Width = Annotated[int, Field(ge=1, le=65_536)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
NonNegative = Annotated[float, Field(ge=0)]
Coefficient = NonNegative | Schedule[NonNegative]
Rule = Literal["wsa", "mean", "first", "concat", "projected_concat", "dot_product", "paper"]


class PTMConfig(Config):
    """One pre-trained model.

    Attributes:
        model_type: a name of the registry, such as `resnet18_random`; or `hf:<repository or directory>`, an
            image model of transformers; or `timm:<name>`.
        name: unique within the extractor; by default the model type (of `hf:` and `timm:` the last part of
            the path), then `..._2`, `..._3`.
        freeze: keep the backbone's weights as they are (its projection is trained all the same).
        seed: of a random initialisation. Default: for `resnetNN_random` the lowest seed unused by that
            type in the list (so for `noise`); for `graph_cnn` drawn from the run's own random numbers.
        tap: where the backbone stops; default as in the registry.
        pooling: how a map (or a graph's nodes) becomes one vector: `mean`, `max`, or `token`, the model's own
            summary where it has one.
        weights: file or directory of pre-trained weights; default the hub's cache, then the hub.
        sha256: expected digest of the weights file (64 hex digits), or its beginning (at least 8).
        upsample: side in pixels to which images are enlarged before the backbone; default the type's own.
        enters_at: moment at which the model enters; before it, it is left out exactly. A number of
            environment steps, `{episode: 500}` or `{stage: optimise}`, like every moment.
        ramp_steps: environment steps until it counts in full; its gate rises from 0.001 to 1, geometrically.
        unfreeze_at: moment from which a frozen backbone learns, at the rate that
            `ppo.learning_rate_factors` gives its part `ptm:<name>`. BatchNorm statistics stay constants.
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
    enters_at: Moment = 0
    ramp_steps: int = Field(default=0, ge=0)
    unfreeze_at: Moment | None = None

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
        if entry.is_control and not self.freeze:
            raise KeyedError("freeze", f"{self.model_type} is a control that cannot learn; remove the key")
        for option in ("unfreeze_at", "upsample"):
            if entry.is_control and getattr(self, option) is not None:
                raise KeyedError(option, f"{self.model_type} is a control without it; remove the key")
        if self.unfreeze_at == 0:
            raise KeyedError("unfreeze_at", "0 lets the model learn from the start; set `freeze: false`")
        if self.unfreeze_at is not None and not self.freeze:
            raise KeyedError("unfreeze_at", "the model learns from the start; set `freeze: true`")
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
        numbered = ptm.model_type.endswith("_random") or ptm_type(ptm.model_type).is_control
        if ptm.seed is None and numbered and ":" not in ptm.model_type:
            changes["seed"] = next(s for s in range(len(ptms)) if (ptm.model_type, s) not in seeds)
            seeds.add((ptm.model_type, changes["seed"]))
        resolved.append(ptm.model_copy(update=changes))
    return tuple(resolved)


def _unused_name(base: str, taken: Sequence[str]) -> str:
    count = 1
    while (name := base if count == 1 else f"{base}_{count}") in taken:
        count += 1
    return name


class TemperatureSchedule(Schedule[Temperature]):
    """A temperature that changes while training; unless asked otherwise, by the same factor at every step."""

    shape: Literal["linear", "geometric", "cosine"] = "geometric"


class WSAConfig(Config):
    """Several pre-trained models into one representation.

    Attributes:
        integration: `full` (an actor built around the extractor) or `features` (the extractor inside the
            plain actor, heads unchanged).
        fusion: `wsa` (weight sharing attention), `mean` (all models weigh the same), `first` (the first model
            alone), `concat` (all embeddings side by side), `projected_concat` (the same, projected to D),
            `dot_product` (scaled dot-product attention), `paper` (attention as published).
        match_parameters: give the rule a residual MLP, so that it has as many parameters as `wsa`.
        embedding_dim: width D of every embedding, and of the representation unless fusion is `concat`.
        context_dim: width C of the context that conditions attention.
        ptms: the models, resolved to unique names.
        attention_temperature: of the softmax over models; lower is sharper. A number or a schedule. Read by
            `wsa` alone.
        learn_temperature: start there and learn it. `wsa` alone.
        attention_entropy_coefficient: of the penalty on attention that is sharp in a row; a number or a
            schedule. For `wsa`, `dot_product` and `paper`.
        attention_balance_coefficient: of the penalty on attention that prefers a model on average. As above.
        model_dropout: probability that a model is left out of one colony's step while training.
        num_heads: D is split into so many parts, each with its own attention. `wsa` alone.
        hidden_dims: widths of the two hidden layers of the shared scorer. `wsa` alone.
    """

    integration: Literal["full", "features"] = "full"
    fusion: Rule = "wsa"
    match_parameters: bool = False
    embedding_dim: Width = 256
    context_dim: Width = 128
    ptms: tuple[PTMConfig, ...] = GUIDE_TRIO
    attention_temperature: Temperature | TemperatureSchedule = 1.0
    learn_temperature: bool = False
    attention_entropy_coefficient: Coefficient = 0.0
    attention_balance_coefficient: Coefficient = 0.0
    model_dropout: float = Field(default=0.0, ge=0, lt=1)
    num_heads: PositiveInt = 1
    hidden_dims: tuple[PositiveInt, PositiveInt] = (256, 128)

    @field_validator("ptms")
    @classmethod
    def _resolve(cls, value: tuple[PTMConfig, ...]) -> tuple[PTMConfig, ...]:
        require_open(value)
        return resolve_ptms(value)

    @model_validator(mode="after")
    def _heads_fit(self) -> WSAConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not divisible by num_heads {self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _rule_reads_what_is_set(self) -> WSAConfig:
        scheduled = isinstance(self.attention_temperature, TemperatureSchedule)
        learned = ("wsa", "dot_product", "paper")
        for option, is_set, rules in (
            ("learn_temperature", self.learn_temperature, ("wsa",)),
            ("attention_temperature", self.attention_temperature != 1.0, ("wsa",)),
            ("attention_entropy_coefficient", self.attention_entropy_coefficient != 0, learned),
            ("attention_balance_coefficient", self.attention_balance_coefficient != 0, learned),
        ):
            if is_set and self.fusion not in rules:
                raise KeyedError(
                    option,
                    f"fusion '{self.fusion}' does not read {option}; remove the key, or use fusion "
                    f"{' or '.join(rules)}",
                )
        if scheduled and self.learn_temperature:
            raise KeyedError("learn_temperature", "the temperature follows a schedule; remove one of the two")
        return self

    @property
    def initial_temperature(self) -> float:
        """Temperature at step 0."""
        temperature = self.attention_temperature
        return temperature.start if isinstance(temperature, TemperatureSchedule) else temperature

    def temperature_at(self, when: Clock | int) -> float:
        """Temperature at a moment (a clock, or environment steps), unless it is learned."""
        return value_at(self.attention_temperature, as_clock(when))

    def penalty_coefficients_at(self, when: Clock | int) -> tuple[float, float]:
        """Coefficients of the entropy and of the balance penalty at a moment."""
        clock = as_clock(when)
        return (
            value_at(self.attention_entropy_coefficient, clock),
            value_at(self.attention_balance_coefficient, clock),
        )


def require_open(ptms: Sequence[PTMConfig]) -> None:
    """Raises ValueError for no models, and for models that all enter later than step 0."""
    if not ptms:
        raise ValueError("there is no PTM; name at least one")
    if all(ptm.enters_at != 0 for ptm in ptms):
        raise ValueError("no PTM is open at step 0; give at least one of them `enters_at: 0`")


def validated(model: type[Model], **values: Any) -> Model:
    """Build a config from Python values, with all errors in one UserError line."""
    try:
        return build_config(model, values, model.__name__)
    except ConfigError as error:
        lines = [line.removeprefix(f"{model.__name__}: ") for line in error.lines]
        raise UserError("; ".join(lines)) from error
