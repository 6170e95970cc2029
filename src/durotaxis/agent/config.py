"""Configuration of the agent: the sections `encoder` and `actor_critic`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, field_validator, model_validator

from durotaxis.core.config import Config, KeyedError
from durotaxis.fusion.config import PTMConfig, WSAConfig, require_open
from durotaxis.fusion.registry import ptm_type


class SimplicialConfig(Config):
    """Simplicial embedding of the encoder's tokens."""

    groups: int = Field(default=16, ge=1)  # simplices per token; divides encoder.out_dim
    temperature: float = Field(default=1.0, gt=0)  # lower gives sharper simplices


class EncoderConfig(Config):
    """The graph encoder."""

    hidden_dim: int = Field(default=128, ge=1, le=65_536)  # width of all layers; divisible by num_heads
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=4, ge=1)
    out_dim: int = Field(default=64, ge=1, le=65_536)  # width of node and graph tokens
    simplicial: SimplicialConfig | Literal["off"] = SimplicialConfig()
    gradient_checkpointing: bool = False  # less memory per layer in the update, for a second forward pass

    @field_validator("simplicial", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    @model_validator(mode="after")
    def _check_widths(self) -> EncoderConfig:
        if self.hidden_dim % self.num_heads:
            raise KeyedError(
                "hidden_dim",
                f"hidden_dim ({self.hidden_dim}) must be divisible by num_heads ({self.num_heads})",
            )
        if self.simplicial != "off" and self.out_dim % self.simplicial.groups:
            raise KeyedError(
                "out_dim",
                f"out_dim ({self.out_dim}) must be divisible by simplicial.groups "
                f"({self.simplicial.groups}); change one of them or set `simplicial: off`",
            )
        if self.simplicial != "off" and self.out_dim == self.simplicial.groups:
            raise KeyedError(
                "out_dim",
                f"out_dim equals simplicial.groups ({self.out_dim}): every group would be a number that is "
                "always 1, and nothing would be learned; use fewer groups or set `simplicial: off`",
            )
        return self


class ImageConfig(Config):
    """The 24x24 picture that pre-trained models look at, and how they are read; the same in both arms."""

    source: Literal["field", "tokens"] = "field"  # the observed field, or the encoder's tokens splatted
    scope: Literal["graph", "node"] = "graph"  # one picture per colony, or one per node
    readout: Literal["sampled", "pooled"] = "sampled"  # per node at its place, or one vector per picture

    @model_validator(mode="after")
    def _check_scope(self) -> ImageConfig:
        if self.scope == "node" and (self.source, self.readout) != ("tokens", "pooled"):
            raise KeyedError(
                "scope",
                "scope `node` needs `source: tokens` and `readout: pooled`, "
                f"not {self.source} and {self.readout}",
            )
        return self


class ActorCriticConfig(Config):
    """Actor and critic. `use_wsa` switches between one backbone and several pre-trained models.

    `use_wsa_enhancement`, `wsa_embedding_dim` and `wsa_num_ptms` are accepted as other spellings; each use
    leaves a line in `notes`.
    """

    use_wsa: bool = False
    backbone: PTMConfig = PTMConfig(model_type="resnet18_random")  # of the plain actor; a bare name will do
    hidden_dim: int = Field(default=128, ge=1, le=65_536)  # of the action and value heads
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)  # pre-training only: PPO's policy is in eval mode
    image: ImageConfig = ImageConfig()
    wsa_config: WSAConfig = WSAConfig()
    value_heads: Literal["total", "terms"] = "total"  # what the critic predicts: the return, or each term's
    cache_budget_mb: float = Field(default=4096.0, gt=0)  # most that a rollout may keep of frozen models
    gradient_checkpointing: bool = False  # the same as the encoder's, for the blocks of models that learn
    precision: Literal["float32", "bfloat16"] = "float32"  # of products in encoder, models, heads
    compile: bool = False  # encoder, heads and models that learn by torch.compile: minutes once, then faster

    other_spellings: ClassVar[Mapping[str, str]] = {
        "use_wsa_enhancement": "use_wsa",
        "wsa_embedding_dim": "wsa_config.embedding_dim",
    }
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per other spelling that was read, for the user to see."""
        return self._notes

    @field_validator("backbone", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"model_type": value} if isinstance(value, str) else value

    @field_validator("backbone")
    @classmethod
    def _open_from_the_start(cls, value: PTMConfig) -> PTMConfig:
        require_open([value])
        if value.ramp_steps:
            raise KeyedError("ramp_steps", "a single backbone has nothing to ramp against; remove the key")
        return value

    @model_validator(mode="after")
    def _controls_see_fixed_pictures(self) -> ActorCriticConfig:
        """A control's features follow from the bits of the picture, which must not change while learning."""
        ptms = {f"wsa_config.ptms.{i}": ptm for i, ptm in enumerate(self.wsa_config.ptms)}
        for key, ptm in (ptms if self.use_wsa else {"backbone": self.backbone}).items():
            if self.image.source == "tokens" and ptm_type(ptm.model_type).is_control:
                raise KeyedError(
                    key,
                    f"{ptm.model_type} needs `image.source: field`, "
                    "because pictures of tokens change with every update",
                )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _read_other_spellings(
        cls, data: Any, handler: ModelWrapValidatorHandler[ActorCriticConfig]
    ) -> ActorCriticConfig:
        if not isinstance(data, Mapping) or not _OTHER_SPELLINGS & data.keys():
            return handler(data)
        values, notes = dict(data), []
        if "use_wsa_enhancement" in values:
            _rename(values, "use_wsa_enhancement", values, "use_wsa")
            notes.append("actor_critic.use_wsa_enhancement is read as actor_critic.use_wsa")
        if "wsa_embedding_dim" in values:
            values["wsa_config"] = dict(values.get("wsa_config") or {})
            _rename(values, "wsa_embedding_dim", values["wsa_config"], "embedding_dim")
            notes.append("actor_critic.wsa_embedding_dim is read as actor_critic.wsa_config.embedding_dim")
        number = values.pop("wsa_num_ptms", None)
        config = handler(values)
        if number is not None:
            config = _keep_first(config, number)
            notes.append(
                f"actor_critic.wsa_num_ptms keeps the first {number} of actor_critic.wsa_config.ptms"
            )
        config._notes = tuple(notes)
        return config


_OTHER_SPELLINGS = {"use_wsa_enhancement", "wsa_embedding_dim", "wsa_num_ptms"}


def _rename(source: dict[str, Any], old: str, target: dict[str, Any], new: str) -> None:
    value = source.pop(old)
    if target.setdefault(new, value) != value:
        raise KeyedError(old, f"{old} ({value}) and {new} ({target[new]}) say different things; keep `{new}`")


def _keep_first(config: ActorCriticConfig, number: Any) -> ActorCriticConfig:
    ptms = config.wsa_config.ptms
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(ptms):
        raise KeyedError(
            "wsa_num_ptms", f"must be between 1 and {len(ptms)}, the number of ptms, not {number}"
        )
    try:
        require_open(ptms[:number])
    except ValueError as error:
        raise KeyedError("wsa_num_ptms", str(error)) from error
    wsa_config = config.wsa_config.model_copy(update={"ptms": ptms[:number]})
    return config.model_copy(update={"wsa_config": wsa_config})
