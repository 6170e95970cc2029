"""The agent: encoder, actor and critic behind the interface that learning and evaluation use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from durotaxis.agent.actor import Actor, PictureActor, WSAEnhancedActor
from durotaxis.agent.config import ActorCriticConfig, EncoderConfig
from durotaxis.agent.critic import Critic
from durotaxis.agent.distributions import ActionDistribution, ActionSample
from durotaxis.agent.encoder import Encoder
from durotaxis.agent.graph import flatten
from durotaxis.agent.image import View
from durotaxis.core.config import merge
from durotaxis.core.errors import UserError
from durotaxis.core.struct import Struct
from durotaxis.env.types import NUM_KINDS, PARAMETERS, Action, Observation
from durotaxis.fusion import MultiPTMFeatureExtractor
from durotaxis.fusion.config import WSAConfig

Bounds = tuple[tuple[float, ...], tuple[float, ...]]

SPAWN_BOUNDS: Bounds = ((1.0, 2.0, 0.0, -math.pi), (10.0, 20.0, 0.5, math.pi))
"""Lower and upper bounds of the spawn parameters: µm, kPa, relative, radians (the world's defaults)."""


@dataclass(frozen=True)
class PTMFeatures(Struct):
    """Outputs of frozen models on one observation: kept in a rollout, handed back in the update."""

    features: dict[str, Tensor]  # {PTM name: [B,...] float32}: a vector or a map per colony


@final
class HybridActorCritic(nn.Module):
    """A policy over kinds and spawn parameters of every node, and a value per colony.

    Args:
        encoder: the graph encoder; None builds it from the config's section `encoder`.
        config_path: a YAML file, of which the sections `encoder` and `actor_critic` are read; or an
            `ActorCriticConfig`; or an object with such an attribute `actor_critic` (and `encoder`).
        spawn_bounds: lower and upper bounds of the spawn parameters, four each.
        observes_field: whether the critic sees the observed field; by default when the picture is the field.
        overrides: keys of `actor_critic`, over what the config says; mappings are merged.

    Attributes:
        config, encoder, actor, critic; notes: lines for the user about other spellings in the config.

    Raises:
        UserError: for a config that does not hold, or pre-trained weights that are not at hand.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        encoder: Encoder | None = None,
        config_path: str | Path | ActorCriticConfig | Any = "config.yaml",
        *,
        spawn_bounds: Bounds = SPAWN_BOUNDS,
        observes_field: bool | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        encoder_config, config = _read_config(config_path, overrides)
        self.config = config
        self.notes = config.notes
        self.hidden_dim, self.dropout_rate = config.hidden_dim, config.dropout_rate
        self.num_discrete_actions, self.continuous_dim = NUM_KINDS, len(PARAMETERS)
        self.encoder = Encoder(encoder_config) if encoder is None else encoder
        # The critic first: from one seed it starts the same in both arms, whatever the actor draws.
        if observes_field is None:
            observes_field = config.image.source == "field"
        self.critic = Critic(self.encoder.out_dim, self.hidden_dim, self.dropout_rate, observes_field)
        self.actor = build_actor(config, self.encoder.out_dim)
        low, high = spawn_bounds
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))

    def forward(
        self, observation: Observation, cached: PTMFeatures | None = None
    ) -> tuple[ActionDistribution, Tensor]:
        """Distribution over the actions of all nodes, and values [B].

        Args:
            observation: scaled; N may be cropped to the largest living count.
            cached: what `precompute` returned for this observation.
        """
        graph = flatten(observation)
        node_tokens, graph_token = self.encoder(graph)
        view = _view(observation, cached)
        attention = None
        if self.actor.has_attention:
            parameters, attention = self.actor(
                node_tokens, graph_token, graph.batch, view, return_attention=True
            )
            attention = attention.detach()
        else:
            parameters = self.actor(node_tokens, graph_token, graph.batch, view)
        value = self.critic(graph_token, observation.field)
        distribution = ActionDistribution(
            parameters, observation.node_mask, observation.action_mask, attention
        )
        return distribution, value

    @torch.no_grad()
    def precompute(self, observation: Observation) -> PTMFeatures | None:
        """Outputs of frozen models that do not depend on parameters, to keep beside the observation.

        None when there are none: pictures painted from tokens, or no frozen model.
        """
        features = self.actor.precompute(observation.field)
        return PTMFeatures(features) if features else None

    def to_action(self, sample: ActionSample, observation: Observation) -> Action:
        """The action in physical units, low + unit (high - low)."""
        return Action(kind=sample.kind, parameters=self.low + sample.unit * (self.high - self.low))

    @torch.no_grad()
    def diagnostics(
        self, observation: Observation, cached: PTMFeatures | None = None
    ) -> dict[str, list[float] | list[str] | float]:
        """What attention does on a batch; empty for an actor without attention.

        Returns:
            attention: its mean over rows, per model in the order of `ptm_names`; attention_entropy: mean over
            rows, nats; effective_models: mean over rows of exp(entropy), between 1 and K.
        """
        attention = self(observation, cached)[0].attention
        if attention is None or len(attention) == 0:
            return {}
        entropy = torch.special.entr(attention).sum(-1)
        return {
            "attention": attention.mean(0).tolist(),
            "attention_entropy": float(entropy.mean()),
            "effective_models": float(entropy.exp().mean()),
            "ptm_names": self.ptm_names,
        }

    @property
    def ptm_names(self) -> list[str]:
        """Names of the pre-trained models, in the order of attention."""
        return list(self.actor.extractor.names)

    def frozen_hash(self) -> str:
        """sha256 over parameters and buffers of frozen models, 64 hex digits."""
        return self.actor.extractor.frozen_hash()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by part: encoder, actor, critic, and `ptm:<name>` per trainable backbone."""
        groups = self.actor.extractor.parameter_groups()
        del groups["fusion"]  # projections and attention are parts of the actor
        inside = {id(parameter) for group in groups.values() for parameter in group}
        groups["actor"] = [p for p in self.actor.parameters() if p.requires_grad and id(p) not in inside]
        groups["encoder"] = [p for p in self.encoder.parameters() if p.requires_grad]
        groups["critic"] = [p for p in self.critic.parameters() if p.requires_grad]
        return {name: group for name, group in groups.items() if group}


def build_actor(config: ActorCriticConfig, encoder_out_dim: int) -> PictureActor:
    """The actor that a config asks for: plain, full WSA, or plain with several models as its extractor."""
    wsa = config.wsa_config
    if config.use_wsa and wsa.integration == "full":
        return WSAEnhancedActor(
            encoder_out_dim,
            config.hidden_dim,
            NUM_KINDS,
            len(PARAMETERS),
            config.dropout_rate,
            embedding_dim=wsa.embedding_dim,
            use_wsa=True,
            context_dim=wsa.context_dim,
            ptms=wsa.ptms,
            image=config.image,
            **_fusion_options(wsa),
        )
    extractor = None
    if config.use_wsa:
        extractor = MultiPTMFeatureExtractor.from_config(
            wsa, context_input_dim=encoder_out_dim, readout=config.image.readout
        )
    return Actor(
        encoder_out_dim,
        config.hidden_dim,
        NUM_KINDS,
        len(PARAMETERS),
        config.dropout_rate,
        backbone=config.backbone,
        feature_extractor=extractor,
        image=config.image,
        embedding_dim=wsa.embedding_dim,
    )


def _fusion_options(config: WSAConfig) -> dict[str, Any]:
    return {
        "fusion": config.fusion,
        "temperature": config.attention_temperature,
        "learn_temperature": config.learn_temperature,
        "num_heads": config.num_heads,
        "hidden_dims": config.hidden_dims,
    }


def _view(observation: Observation, cached: PTMFeatures | None) -> View:
    mask = observation.node_mask
    return View(
        position=observation.position[mask],
        frame_low=observation.frame_low,
        frame_high=observation.frame_high,
        field=observation.field,
        cached=None if cached is None else cached.features,
    )


def _read_config(source: Any, overrides: Mapping[str, Any]) -> tuple[EncoderConfig, ActorCriticConfig]:
    encoder, config = EncoderConfig(), source
    if isinstance(source, str | Path):
        from durotaxis.core.config import load_sections

        sections = load_sections(source, {"encoder": EncoderConfig, "actor_critic": ActorCriticConfig})
        encoder, config = sections["encoder"], sections["actor_critic"]
    elif not isinstance(source, ActorCriticConfig):
        encoder, config = getattr(source, "encoder", encoder), getattr(source, "actor_critic", None)
    if not isinstance(config, ActorCriticConfig) or not isinstance(encoder, EncoderConfig):
        raise UserError(
            "config_path must be a YAML file, an ActorCriticConfig, or a config with the sections "
            f"`encoder` and `actor_critic`, not {type(source).__name__}"
        )
    return encoder, _override(config, overrides) if overrides else config


def _override(config: ActorCriticConfig, overrides: Mapping[str, Any]) -> ActorCriticConfig:
    """The config with some keys replaced, checked again as a whole."""
    try:
        values = config.model_dump(exclude_unset=True)
        for old in overrides.keys() & ActorCriticConfig.other_spellings.keys():
            *section, key = ActorCriticConfig.other_spellings[old].split(".")
            (values.get(section[0], {}) if section else values).pop(key, None)
        changed = ActorCriticConfig.model_validate(merge(values, overrides))
    except ValidationError as error:
        lines = [
            f"{'.'.join(['actor_critic', *map(str, e['loc'])])}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise UserError("; ".join(lines)) from error
    changed._notes = config.notes + changed.notes
    return changed
