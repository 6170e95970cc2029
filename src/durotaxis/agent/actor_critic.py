"""The agent: encoder, actor and critic behind the interface that learning and evaluation use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from durotaxis.agent.actor import Actor, ActorOutput, PictureActor, WSAEnhancedActor
from durotaxis.agent.config import ActorCriticConfig, EncoderConfig
from durotaxis.agent.critic import TOTAL, Critic, ValueHead
from durotaxis.agent.distributions import ActionDistribution, ActionSample
from durotaxis.agent.encoder import Encoder
from durotaxis.agent.graph import FlatGraph, flatten
from durotaxis.agent.image import View
from durotaxis.core.compiler import require_compiler
from durotaxis.core.config import merge
from durotaxis.core.errors import UserError
from durotaxis.core.recompute import recompute
from durotaxis.core.schedule import Clock
from durotaxis.core.struct import Struct
from durotaxis.env.types import NUM_KINDS, PARAMETERS, Action, Observation
from durotaxis.fusion import (
    MultiPTMFeatureExtractor,
    attention_balance_penalty,
    attention_entropy_penalty,
)
from durotaxis.fusion.extractor import fusion_options
from durotaxis.fusion.gates import draw_open

Bounds = tuple[tuple[float, ...], tuple[float, ...]]

SPAWN_BOUNDS: Bounds = ((1.0, 2.0, 0.0, -math.pi), (10.0, 20.0, 0.5, math.pi))
"""Lower and upper bounds of the spawn parameters: µm, kPa, relative, radians (the world's defaults)."""

BFLOAT16_RATIO_TOLERANCE = 0.1
"""Largest |ratio - 1| of an unchanged policy under bfloat16."""


@dataclass(frozen=True)
class PTMFeatures(Struct):
    """What is kept beside an observation in a rollout and handed back in the update.

    Outputs of frozen models, and which models were left out by model dropout.
    """

    node_fields: ClassVar[tuple[str, ...]] = ("node_features",)

    features: dict[str, Tensor]  # {PTM name: [B,...] float32}: a vector or a map per colony
    node_features: dict[str, Tensor]  # {PTM name: [B,N,...] float32}: of models that read graphs, 0 if empty
    gates: Tensor | None = None  # [B,K] float32, 0 or 1; None: none is left out


@final
class HybridActorCritic(nn.Module):
    """A policy over kinds and spawn parameters of every node, and a value per colony.

    Args:
        encoder: the graph encoder; None builds it from the config's section `encoder`.
        config_path: a YAML file, of which the sections `encoder` and `actor_critic` are read; or an
            `ActorCriticConfig`; or an object with such an attribute `actor_critic` (and `encoder`).
        spawn_bounds: lower and upper bounds of the spawn parameters, four each.
        observes_field: whether the critic sees the observed field; by default when the picture is the field.
        reward_terms: names of the world's reward terms; read with `value_heads: terms` alone.
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
        reward_terms: Sequence[str] = (),
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
        self.observes_field, self.reward_terms = observes_field, tuple(reward_terms)
        names = _value_names(config, reward_terms)
        self.critic = Critic(self.encoder.out_dim, self.hidden_dim, self.dropout_rate, observes_field, names)
        self.actor = build_actor(config, self.encoder.out_dim)
        readers = self.actor.extractor.graph_readers
        if config.image.scope == "node" and readers:
            raise UserError(f"{readers[0]} reads one graph per colony; set actor_critic.image.scope=graph")
        self._kept = self._keepable
        self._penalty_coefficients = config.wsa_config.penalty_coefficients_at(Clock())
        low, high = spawn_bounds
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))
        if config.gradient_checkpointing:
            for ptm in self.actor.extractor.ptms:
                recompute(ptm.backbone.blocks())
        if config.compile:
            self._compile()

    @property
    def ratio_tolerance(self) -> float | None:
        """How far from 1 the probability ratios of an unchanged policy may be; None: the usual limit.

        Products rounded to bfloat16 depend on how many rows are multiplied at once.
        """
        return BFLOAT16_RATIO_TOLERANCE if self.config.precision == "bfloat16" else None

    @property
    def attention_rows(self) -> str | None:
        """What a row of attention belongs to: a `node` or a `colony`; None without attention."""
        if not self.actor.has_attention:
            return None
        image = self.config.image
        return "node" if image.readout == "sampled" or image.scope == "node" else "colony"

    def forward(
        self, observation: Observation, cached: PTMFeatures | None = None
    ) -> tuple[ActionDistribution, Tensor]:
        """Distribution over the actions of all nodes, and values: [B], or [B,V] with `value_heads: terms`.

        Args:
            observation: scaled; N may be cropped to the largest living count.
            cached: what `precompute` returned for this observation.
        """
        output, graph_token = self._act(observation, cached)
        # Values in bfloat16 would be rounded to 0.4 %, as much as many an advantage.
        value = self.critic(graph_token.float(), observation.field)
        distribution = ActionDistribution(
            output.parameters,
            observation.node_mask,
            observation.action_mask,
            attention=output.attention.mean(2).detach() if self.actor.has_attention else None,
            penalty=self._penalty(output, observation),
        )
        return distribution, value

    def _act(self, observation: Observation, cached: PTMFeatures | None) -> tuple[ActorOutput, Tensor]:
        """What the actor says, and the graph tokens [B,d]."""
        graph = flatten(observation)
        with self._precision():
            node_tokens, graph_token = self.encoder(graph)
            view = self._view(observation, graph, cached)
            return self.actor.act(node_tokens, graph_token, graph.batch, view), graph_token

    @torch.no_grad()
    def precompute(self, observation: Observation, keys: Tensor | None = None) -> PTMFeatures | None:
        """What to keep beside the observation: see `PTMFeatures`.

        None when there is nothing: no model dropout, and no frozen model but such as look at pictures
        painted from tokens.

        Args:
            keys: [B] int64, from which model dropout is drawn; None: no model is left out.
        """
        extractor = self.actor.extractor
        if keys is not None:
            self._kept = self._keepable
        gates = None
        probability = self.config.wsa_config.model_dropout
        if keys is not None and self.actor.has_attention and probability > 0:
            gates = draw_open(keys, extractor.gates, probability).float()
        kept = self._outputs(observation)
        if gates is None and not kept.features and not kept.node_features:
            return None
        return dataclasses.replace(kept, gates=gates)

    def begin_iteration(self, when: Clock | int) -> bool:
        """Set gates, temperature, penalty coefficients and what learns to their schedules.

        Args:
            when: where training stands, or the number of environment steps alone.

        Returns:
            Whether what `precompute` returned last no longer holds, because models opened, closed or thawed.
        """
        self.actor.extractor.follow_schedules(when)
        self._penalty_coefficients = self.config.wsa_config.penalty_coefficients_at(when)
        return self._kept != self._keepable

    def later_parts(self) -> list[str]:
        """Parts (`ptm:<name>`) that are frozen now and that a schedule lets learn later."""
        return self.actor.extractor.later_parts()

    @property
    def _keepable(self) -> tuple[str, ...]:
        """Names of the models whose outputs are kept in a rollout."""
        extractor = self.actor.extractor
        return tuple(name for name in extractor.opened if extractor.ptms[name].is_frozen)

    def require_cache_fits(self, observation: Observation, num_observations: int) -> None:
        """Check what a rollout would keep of frozen models against `cache_budget_mb`, once all are open.

        Args:
            observation: one of them, of any number of colonies, with as many node slots as in the rollout.
            num_observations: colonies times steps of a rollout.

        Raises:
            UserError: it would be too much.
        """
        kept = self._outputs(observation, closed=True)
        share = num_observations / len(observation.node_mask) / 1e6
        sizes = {
            name: value.numel() * value.element_size() * share
            for name, value in (kept.features | kept.node_features).items()
        }
        budget = self.config.cache_budget_mb
        if sum(sizes.values()) > budget:
            each = ", ".join(f"{name} {size:,.3g} MB" for name, size in sizes.items())
            raise UserError(
                f"actor_critic.cache_budget_mb is {budget:,.3g}, but a rollout of {num_observations:,} "
                f"observations keeps {sum(sizes.values()):,.3g} MB of frozen models ({each}); use fewer "
                "ppo.num_colonies or ppo.rollout_steps, a tap with smaller maps, image.readout=pooled, or a "
                "larger budget"
            )

    def to_action(self, sample: ActionSample, observation: Observation) -> Action:
        """The action in physical units, low + unit (high - low)."""
        return Action(kind=sample.kind, parameters=self.low + sample.unit * (self.high - self.low))

    @torch.no_grad()
    def diagnostics(
        self,
        observation: Observation,
        cached: PTMFeatures | None = None,
        groups: Mapping[str, Tensor] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """What attention does on a batch: under "all", and under its name in each group of colonies.

        Empty for an actor without attention; groups without nodes are left out.

        Args:
            groups: masks of colonies, [B] bool.

        Returns:
            attention: its mean over rows that belong to living nodes, or to colonies with any, per model in
            the order of `ptm_names`; attention_entropy: mean over these rows, nats; effective_models: mean
            over them of exp(entropy), between 1 and K; gates, per model; embedding_spread, per model: over
            these rows (of two at least), the standard deviation of what is fused, averaged over its
            dimensions: of order 1 for a model that tells states apart, 0 for one that says the same of all.
        """
        if not self.actor.has_attention:
            return {}
        if cached is not None:
            cached = dataclasses.replace(cached, gates=None)  # as in evaluation
        output, _ = self._act(observation, cached)
        attention = self._of_living(output.attention.mean(2).float(), observation)
        embeddings = self._of_living(output.embeddings.float(), observation)
        embeddings = nn.functional.layer_norm(embeddings, embeddings.shape[-1:])
        entropy = torch.special.entr(attention).sum(-1)
        whole = {"gates": self.actor.extractor.gates.tolist(), "ptm_names": self.ptm_names}
        mask = observation.node_mask
        colony = mask.any(1).nonzero()[:, 0] if self._row_per_colony else mask.nonzero()[:, 0]
        found: dict[str, dict[str, Any]] = {}
        for name, members in {"all": torch.ones_like(mask[:, 0]), **(groups or {})}.items():
            rows = members[colony].nonzero()[:, 0]
            if len(rows):
                found[name] = {
                    "attention": attention[rows].mean(0).tolist(),
                    "attention_entropy": float(entropy[rows].mean()),
                    "effective_models": float(entropy[rows].exp().mean()),
                    **whole,
                }
            if len(rows) > 1:
                spread = embeddings[rows].std(0, correction=0).mean(-1)
                found[name]["embedding_spread"] = spread.tolist()
        return found

    @property
    def value_names(self) -> tuple[str, ...]:
        """What the critic's values are of: the total, or the reward terms whose values add up to it."""
        return self.critic.value_names

    @property
    def value_head(self) -> ValueHead:
        """The critic's last layer, which can follow the scale of the values."""
        return self.critic.value_head

    @property
    def learns_attention(self) -> bool:
        """Whether there is attention that can move."""
        return self.actor.has_attention and self.actor.extractor.learns_attention

    @property
    def ptm_names(self) -> list[str]:
        """Names of the pre-trained models, in the order of attention."""
        return list(self.actor.extractor.names)

    def frozen_hash(self) -> str:
        """sha256 over parameters and buffers of frozen models, 64 hex digits."""
        return self.actor.extractor.frozen_hash()

    def frozen_hashes(self) -> dict[str, str]:
        """The same for each frozen model, by its part `ptm:<name>`."""
        return self.actor.extractor.frozen_hashes()

    def require_ready(self) -> None:
        """Raise UserError while frozen random models lack the statistics that `calibrate` sets."""
        names = self.actor.extractor.needs_calibration()
        if names:
            raise UserError(
                f"{', '.join(names)}: frozen random models need statistics of the task's pictures before "
                "training; set them with durotaxis.fusion.calibrate, or let the models learn (freeze: false)"
            )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by part: encoder, actor, critic, and `ptm:<name>` per trainable backbone."""
        groups = self.actor.extractor.parameter_groups()
        del groups["fusion"]  # projections and attention are parts of the actor
        inside = {id(parameter) for group in groups.values() for parameter in group}
        groups["actor"] = [p for p in self.actor.parameters() if p.requires_grad and id(p) not in inside]
        groups["encoder"] = [p for p in self.encoder.parameters() if p.requires_grad]
        groups["critic"] = [p for p in self.critic.parameters() if p.requires_grad]
        return {name: group for name, group in groups.items() if group}

    def _precision(self) -> torch.autocast:
        """Within it encoder, models and heads multiply in `precision`; all else stays float32."""
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.low.device.type, torch.bfloat16, enabled=enabled)

    def _compile(self) -> None:
        """Compile what runs in every minibatch, in place: the state's keys stay.

        Layers of the encoder one by one: they are alike, so one of them is compiled for all. Of the encoder
        as a whole the compiler of torch 2.13 makes a backward pass that does not run.
        """
        require_compiler()
        learning = [ptm.backbone for ptm in self.actor.extractor.ptms if not ptm.is_frozen]
        for module in (*self.encoder.layers, self.actor.heads, *learning):
            module.compile(dynamic=True)

    @torch.no_grad()
    def _outputs(self, observation: Observation, closed: bool = False) -> PTMFeatures:
        """Outputs of frozen models, with `closed` also of those whose gate is 0."""
        extractor = self.actor.extractor
        per_node = extractor.graph_readers if extractor.readout == "sampled" else ()
        graph = flatten(observation).to_input() if extractor.graph_readers else None
        with self._precision():
            found = self.actor.precompute(observation.field, graph, closed)
        return PTMFeatures(
            features={name: value for name, value in found.items() if name not in per_node},
            node_features={
                name: _pad(value, observation.node_mask) for name, value in found.items() if name in per_node
            },
        )

    def _view(self, observation: Observation, graph: FlatGraph, cached: PTMFeatures | None) -> View:
        mask = observation.node_mask
        features: dict[str, Tensor] | None = None
        if cached is not None:
            features = cached.features | {name: x[mask] for name, x in cached.node_features.items()}
        return View(
            position=observation.position[mask],
            frame_low=observation.frame_low,
            frame_high=observation.frame_high,
            field=observation.field,
            graph=graph.to_input() if self.actor.extractor.graph_readers else None,
            cached=features,
            gates=None if cached is None else cached.gates,
        )

    def _penalty(self, output: ActorOutput, observation: Observation) -> Tensor | None:
        """Regularisers of attention, over rows that belong to living nodes; None when both are off."""
        on_entropy, on_balance = self._penalty_coefficients
        if not self.actor.has_attention or (on_entropy == 0 and on_balance == 0):
            return None
        attention = self._of_living(output.attention, observation)
        gates = self._of_living(output.gates, observation) if output.gates.dim() == 2 else output.gates
        return on_entropy * attention_entropy_penalty(
            attention, gates
        ) + on_balance * attention_balance_penalty(attention, gates)

    def _of_living(self, rows: Tensor, observation: Observation) -> Tensor:
        """Rows of attention or gates, without those of empty colonies where each colony has one."""
        return rows[observation.node_mask.any(1)] if self._row_per_colony else rows

    @property
    def _row_per_colony(self) -> bool:
        """Whether attention has a row per colony, not per node."""
        return self.config.image.readout == "pooled" and self.config.image.scope == "graph"


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
            **fusion_options(wsa),
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


def _value_names(config: ActorCriticConfig, reward_terms: Sequence[str]) -> tuple[str, ...]:
    if config.value_heads == "total":
        return TOTAL
    if not reward_terms:
        raise UserError(
            "actor_critic.value_heads=terms needs the names of the reward terms: pass "
            "reward_terms=tuple(durotaxis.env.reward.TERMS), or set actor_critic.value_heads=total"
        )
    return tuple(reward_terms)


def _pad(flat: Tensor, node_mask: Tensor) -> Tensor:
    """Rows of living nodes [n,...] in their slots [B,N,...], 0 elsewhere."""
    padded = flat.new_zeros((*node_mask.shape, *flat.shape[1:]))
    padded[node_mask] = flat
    return padded


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
