"""Several pre-trained models, one representation: models, context and fusion rule in one module."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.core.schedule import Clock, as_clock, moment_key, walk_moments
from durotaxis.core.shapes import Float
from durotaxis.fusion.baselines import build_fusion, build_widening, count_parameters
from durotaxis.fusion.combine import require_gates
from durotaxis.fusion.config import (
    PTMConfig,
    TemperatureSchedule,
    WSAConfig,
    resolve_ptms,
    validated,
)
from durotaxis.fusion.gates import gate_at
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.ptm import PTM, Readout, build_ptm
from durotaxis.fusion.registry import PTMRecord
from durotaxis.fusion.state_encoder import StateEncoder
from durotaxis.fusion.wsa import WeightSharingAttention


class Intervention(StrEnum):
    """What an evaluation may force, to learn whether the agent uses what it was given."""

    UNIFORM = "uniform"
    """Attention uniform over the open models, whatever was learned."""
    ZERO = "zero"
    """The representation set to zero."""
    SHUFFLED = "shuffled"
    """The representation of another colony. Readout `pooled`: each image takes that of the image before it in
    the batch, the first that of the last; with `batch` given, only images that have nodes take part.
    `sampled`: node j of an image takes that of node j, counted modulo their number, of the next image that
    has nodes."""


class Fused(NamedTuple):
    """What a fusion rule made of K models."""

    representation: Tensor  # [rows, W]
    attention: Tensor  # [rows, K, H], per head, with gradient
    gates: Tensor  # [K] or [rows, K], what it was made under
    embeddings: Tensor  # [rows, K, D], with gradient; 0 of closed models


class PTMList(nn.Module):
    """Models in order, found by position or by name. Their state is kept under their names.

    So a state fits whatever the order, and without one model it still fits all the others.
    """

    def __init__(self, ptms: Iterable[PTM]) -> None:
        super().__init__()
        for ptm in ptms:
            self.append(ptm)

    def append(self, ptm: PTM) -> None:
        """Add a model at the end, its gate open."""
        if not hasattr(ptm, "gate"):
            ptm.register_buffer("gate", torch.ones((), device=ptm.projection.weight.device))
        # Not `add_module`, which refuses names such as `training`. Names hold no colon, modules no dot.
        self._modules[ptm.name.replace(".", ":")] = ptm

    def remove(self, name: str) -> None:
        """Take a model out."""
        del self._modules[name.replace(".", ":")]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[PTM]:
        return iter(cast(list[PTM], list(self._modules.values())))

    def __getitem__(self, key: int | str) -> PTM:
        """Raises IndexError or KeyError."""
        if isinstance(key, str):
            return cast(PTM, self._modules[key.replace(".", ":")])
        return list(self)[key]


class MultiPTMFeatureExtractor(nn.Module):
    """Images and contexts to fused representations.

    Frozen random models need `calibrate` before they tell much; without it they are used as they are, and
    only `needs_calibration` says so. A training of `HybridActorCritic` refuses them.

    Args:
        embedding_dim: width D of embeddings and representation.
        context_dim: width C of the context.
        ptms: models, as `PTMConfig` or mappings with its keys; None means the integration guide's trio
            (which needs ImageNet weights).
        context_input_dim: width of `context_input`, what the context is encoded from.
        readout: `pooled` (a row per image) or `sampled` (a row per point).
        temperature, num_heads, learn_temperature, hidden_dims, fusion, match_parameters: as
            `attention_temperature` and so on of `WSAConfig`.
        context: `graph`, `context_input` has a row per image; `node`, a row per point (`sampled` only).

    Raises UserError for values out of range, and MissingWeightsError where weights cannot be had.

    Attributes:
        ptms: `PTMList` of `PTM`, in the order given; `ptms[i].backbone` is the trunk.
        embedding_dim: width D of the embeddings.
        representation_dim: width of R: D, or K·D with fusion `concat`.
    """

    def __init__(
        self,
        embedding_dim: int = 256,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        *,
        context_input_dim: int = 64,
        readout: str = "pooled",
        temperature: float | TemperatureSchedule | Mapping[str, Any] = 1.0,
        num_heads: int = 1,
        learn_temperature: bool = False,
        hidden_dims: tuple[int, int] = (256, 128),
        fusion: str = "wsa",
        match_parameters: bool = False,
        context: str = "graph",
    ) -> None:
        super().__init__()
        values: dict[str, Any] = {} if ptms is None else {"ptms": tuple(ptms)}
        config = validated(
            WSAConfig,
            fusion=fusion,
            match_parameters=match_parameters,
            embedding_dim=embedding_dim,
            context_dim=context_dim,
            attention_temperature=temperature,
            learn_temperature=learn_temperature,
            num_heads=num_heads,
            hidden_dims=hidden_dims,
            **values,
        )
        if readout not in get_args(Readout):
            raise UserError(f"readout '{readout}' must be 'pooled' or 'sampled'")
        if context not in ("graph", "node") or (context == "node" and readout == "pooled"):
            raise UserError(f"context '{context}' must be 'graph', or 'node' with readout 'sampled'")
        if context_input_dim < 1:
            raise UserError(f"context_input_dim {context_input_dim} must be at least 1")
        self._config = config
        self.readout = readout
        self.context_input_dim = context_input_dim
        self.embedding_dim = embedding_dim
        self.context = context
        self.ptms = PTMList(build_ptm(ptm, embedding_dim, cast(Readout, readout)) for ptm in config.ptms)
        self.fusion = build_fusion(config)
        self.representation_dim = self.fusion.representation_dim(embedding_dim, len(self.ptms))
        self.state_encoder = (
            StateEncoder(context_input_dim, context_dim) if self.fusion.reads_context else nn.Identity()
        )
        self.widening = build_widening(config, self.fusion, context_input_dim)
        self._intervention: Intervention | None = None
        self._clock = Clock()
        self.follow_schedules(Clock())

    @classmethod
    def from_config(
        cls, config: WSAConfig, *, context_input_dim: int, readout: str = "pooled"
    ) -> MultiPTMFeatureExtractor:
        """The extractor that a `wsa_config` section asks for."""
        return cls(
            config.embedding_dim,
            config.context_dim,
            config.ptms,
            context_input_dim=context_input_dim,
            readout=readout,
            **fusion_options(config),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the order of attention's columns."""
        return tuple(ptm.name for ptm in self.ptms)

    @property
    def records(self) -> tuple[PTMRecord, ...]:
        """What is known about each model, in the same order."""
        return tuple(ptm.record for ptm in self.ptms)

    @property
    def gates(self) -> Float[Tensor, " K"]:
        """Gate of each model in [0, 1], part of the state; 1 unless a schedule or `set_gate` changed it."""
        return torch.stack([_gate(ptm) for ptm in self.ptms])

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the models whose gate is above 0. The others are not computed."""
        return tuple(ptm.name for ptm in self.ptms if _gate(ptm).item() > 0)

    def set_gate(self, name: str, gate: float) -> None:
        """Open or close a model by hand: in training, between an update and the next rollout.

        Models with `enters_at` or `ramp_steps` follow these instead. Raises UserError for a model that there
        is not, a gate outside [0, 1], and if no model would stay open.
        """
        ptm = self._named(name)
        if not 0.0 <= gate <= 1.0:
            raise UserError(f"gate {gate} of {name} must lie in [0, 1]")
        if gate == 0.0 and self.opened in ((), (name,)):
            raise UserError(f"{name} is the only open PTM; open another one before closing it")
        _gate(ptm).fill_(gate)

    @property
    def intervention(self) -> Intervention | None:
        """What is forced now; see `intervene`."""
        return self._intervention

    def follow_schedules(self, when: Clock | int) -> None:
        """Set what follows a schedule: gates, temperature, and which backbones learn.

        Args:
            when: where training stands, or the number of environment steps alone. Moments of episodes and
                stages come only with a clock that knows them.

        Raises UserError for a number alone where a model waits for an episode or a stage.
        """
        waited_for = {moment_key(moment) for _, moment in walk_moments(self._config)}
        if waited_for and not isinstance(when, Clock):
            raise UserError(
                f"models wait for {', '.join(sorted(waited_for))}, which a number of steps does not tell; "
                "hand over durotaxis.core.schedule.Clock(step, reached={...}), or let them wait for steps"
            )
        self._clock = clock = as_clock(when)
        for config in self._config.ptms:
            ptm = self._named(str(config.name))
            if config.enters_at != 0 or config.ramp_steps:
                _gate(ptm).fill_(gate_at(config, clock))
            if config.unfreeze_at is not None:
                ptm.backbone.requires_grad_(clock.since(config.unfreeze_at) is not None)
        if isinstance(self.fusion, WeightSharingAttention) and isinstance(
            self._config.attention_temperature, TemperatureSchedule
        ):
            self.fusion.temperature = self._config.temperature_at(clock)

    def add_ptm(self, ptm: PTMConfig | Mapping[str, Any]) -> PTM:
        """Add a model at the end; all other parameters stay as they are.

        Its projection is drawn from torch's generator. A frozen random model still needs `calibrate`. A ramp
        begins at `enters_at`, but not before the step that `follow_schedules` was last called with.

        Raises UserError for a name that is taken, a model that cannot be built, or a rule made for a fixed
        number of models.
        """
        self._require_any_number()
        given = ptm if isinstance(ptm, PTMConfig) else validated(PTMConfig, **ptm)
        if given.ramp_steps:
            since = self._clock.since(given.enters_at)
            if since is not None:
                given = given.model_copy(update={"enters_at": self._clock.step})
        ptms = resolve_ptms([*self._config.ptms, given])
        built = build_ptm(ptms[-1], self.embedding_dim, cast(Readout, self.readout))
        built.to(next(self.parameters()).device)
        self._config = self._config.model_copy(update={"ptms": ptms})
        self.ptms.append(built)
        _gate(built).fill_(gate_at(ptms[-1], self._clock))
        return built

    def remove_ptm(self, name: str) -> None:
        """Take a model out; all other parameters stay as they are.

        Raises UserError for a model that there is not, the last one, or a rule made for a fixed number.
        """
        self._require_any_number()
        self._named(name)
        if len(self.ptms) == 1:
            raise UserError(f"{name} is the only PTM; add another one before removing it")
        self.ptms.remove(name)
        ptms = tuple(ptm for ptm in self._config.ptms if ptm.name != name)
        self._config = self._config.model_copy(update={"ptms": ptms})

    def forward(
        self,
        image: Tensor,
        context_input: Tensor,
        *,
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
        cached: Mapping[str, Tensor] | None = None,
        gates: Tensor | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Representation [rows, W], or (representation, attention [rows, K]) with `return_attention`.

        Args:
            image: [B, 3, H, W] in [0, 1]; 24x24 in this project.
            context_input: [B, context_input_dim], a row per image; or [n, ...] if built with
                `context="node"`.
            points: `sampled` only: [n, 2], places (x right, y down) in [-1, 1], as for `grid_sample`.
            batch: image index of each point, int64; may be left out when there is one image. With readout
                `pooled` it only tells intervention `shuffled` which images have nodes.
            graph: for models that read graphs; image models do not look at it.
            cached: outputs of `precompute` by model name, for the same images and points. Entries of models
                that are no longer frozen are not used.
            gates: see `Fusion`, [K] or [rows, K]; they multiply the models' own.

        Raises UserError for inputs whose shapes do not fit.
        """
        fused = self.fuse(
            image, context_input, points=points, batch=batch, graph=graph, cached=cached, gates=gates
        )
        return (fused.representation, fused.attention.mean(2)) if return_attention else fused.representation

    def fuse(
        self,
        image: Tensor,
        context_input: Tensor,
        *,
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
        cached: Mapping[str, Tensor] | None = None,
        gates: Tensor | None = None,
    ) -> Fused:
        """As `forward`, with the attention of each head, from which penalties are computed."""
        nodes, batch = batch, self._check(image, points, batch, cached)
        context = self._context(context_input, image.shape[0], batch)
        effective = self._effective(gates, len(context))
        is_open = (effective > 0).view(-1, len(self.ptms)).any(0).tolist()
        stored = cached or {}
        nothing = context.new_zeros(len(context), self.embedding_dim)
        embeddings = torch.stack(
            [
                ptm(image, points, batch, stored.get(ptm.name) if ptm.is_frozen else None, graph)
                if opened
                else nothing
                for ptm, opened in zip(self.ptms, is_open, strict=True)
            ],
            dim=1,
        )
        uniform = self._intervention is Intervention.UNIFORM
        if uniform:  # over open models, however far each has opened
            effective = (effective > 0).to(effective.dtype)
        representation, attention = self.fusion.combine(context, embeddings, effective, uniform)
        representation = self.widening(representation)
        if self._intervention is Intervention.ZERO:
            representation = torch.zeros_like(representation)
        if self._intervention is Intervention.SHUFFLED:
            sampled = self.readout == "sampled"
            others = _others(len(image), batch if sampled else nodes, sampled, representation.device)
            representation = representation[others]
        return Fused(representation, attention, effective, embeddings)

    def precompute(
        self,
        image: Tensor,
        points: Tensor | None = None,
        batch: Tensor | None = None,
        graph: GraphInput | None = None,
        *,
        names: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of the frozen open models, {name: tensor}, to hand to `forward` as `cached`; no gradient.

        With `names`, those of the frozen models among them, open or not.

        - `pooled`: [B, F].
        - `sampled` without points: the maps, channels last, [B, h, w, F]; any points may be read from them
          later. Smaller than the next form when maps are small (3x3 or 6x6) and points many.
        - `sampled` with points (and batch): [n, 2F], the sampled vector followed by the pooled one.

        Models that read graphs are left out when no graph is given, else [B, F] or [n, 2F].
        They can feed a trainable projection (made under `no_grad`, not `inference_mode`).
        """
        if points is not None:
            batch = self._check(image, points, batch, None)
        with torch.no_grad():
            return {
                ptm.name: ptm.features(image, points, batch, graph).contiguous()
                for ptm in self.ptms
                if ptm.is_frozen
                and (_gate(ptm).item() > 0 if names is None else ptm.name in names)
                and (graph is not None or ptm.name not in self.graph_readers)
            }

    @property
    def learns_attention(self) -> bool:
        """Whether the rule has scores that depend on the context, so that attention can move."""
        return self.fusion.weighs and self.fusion.reads_context

    def later_parts(self) -> list[str]:
        """Parts (`ptm:<name>`) that are frozen now and that a schedule lets learn later."""
        return [
            f"ptm:{config.name}"
            for config in self._config.ptms
            if config.unfreeze_at is not None and self._named(str(config.name)).is_frozen
        ]

    def cacheable(self) -> list[str]:
        """Names of the models that are frozen now."""
        return [ptm.name for ptm in self.ptms if ptm.is_frozen]

    def needs_calibration(self) -> list[str]:
        """Names of frozen random models whose BatchNorm statistics were never set (see `calibrate`)."""
        return [ptm.name for ptm in self.ptms if ptm.is_frozen and not bool(ptm.calibrated)]

    @property
    def graph_readers(self) -> tuple[str, ...]:
        """Names of the models that read the graph instead of the image."""
        return tuple(ptm.name for ptm in self.ptms if ptm.record.reads == "graph")

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters by part, those of frozen backbones included.

        `backbones`; `projections` to the embeddings; and what lies between embeddings and representation:
        `state_encoder`, `fusion` (the rule), `widening` (the MLP of `match_parameters`).
        """
        return {
            "backbones": count_parameters(*(ptm.backbone for ptm in self.ptms)),
            "projections": count_parameters(*(ptm.projection for ptm in self.ptms)),
            "state_encoder": count_parameters(self.state_encoder),
            "fusion": count_parameters(self.fusion),
            "widening": count_parameters(self.widening),
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by part: `ptm:<name>` for each learning backbone, `fusion` for the rest."""
        groups = {
            f"ptm:{ptm.name}": [p for p in ptm.backbone.parameters() if p.requires_grad]
            for ptm in self.ptms
            if not ptm.is_frozen
        }
        backbones = {id(p) for ptm in self.ptms for p in ptm.backbone.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in backbones]
        return groups | {"fusion": rest}

    def frozen_hash(self) -> str:
        """sha256 (hex) over names, shapes and bytes of the frozen backbones' parameters and buffers."""
        return _digest(ptm for ptm in self.ptms if ptm.is_frozen)

    def frozen_hashes(self) -> dict[str, str]:
        """The same for each frozen model alone, by its part: `ptm:<name>`, as in `parameter_groups`."""
        return {f"ptm:{ptm.name}": _digest([ptm]) for ptm in self.ptms if ptm.is_frozen}

    @contextmanager
    def intervene(self, intervention: Intervention | str | None) -> Iterator[None]:
        """Force what `Intervention` says within the `with` block; None changes nothing.

        Raises UserError for an unknown intervention, and for uniform attention of a rule that does not weigh.
        """
        if intervention is not None and intervention not in list(Intervention):
            raise UserError(f"intervention '{intervention}' must be one of {', '.join(Intervention)}")
        if intervention == Intervention.UNIFORM and not self.fusion.weighs:
            raise UserError(f"fusion '{self._config.fusion}' has no attention that could be made uniform")
        before = self._intervention
        self._intervention = None if intervention is None else Intervention(intervention)
        try:
            yield
        finally:
            self._intervention = before

    def _named(self, name: str) -> PTM:
        if name not in self.names:
            raise UserError(f"there is no PTM '{name}'; there are {', '.join(self.names)}")
        return self.ptms[name]

    def _require_any_number(self) -> None:
        if not self.fusion.any_number:
            raise UserError(
                f"fusion '{self._config.fusion}' is made for {len(self.ptms)} PTMs; "
                "build a new extractor for more or fewer"
            )

    def _effective(self, gates: Tensor | None, num_rows: int) -> Tensor:
        if gates is None:
            return self.gates
        require_gates(gates, num_rows, len(self.ptms))
        return self.gates * gates

    def _check(
        self,
        image: Tensor,
        points: Tensor | None,
        batch: Tensor | None,
        cached: Mapping[str, Tensor] | None,
    ) -> Tensor | None:
        """Validate shapes; return the image index of each point (None for `pooled`)."""
        if image.dim() != 4 or image.shape[1] != 3:
            raise UserError(f"image has shape {list(image.shape)}; it must be [B, 3, H, W]")
        unknown = sorted(set(cached or ()) - set(self.names))
        if unknown:
            raise UserError(f"cached holds '{unknown[0]}', which is none of {', '.join(self.names)}")
        if self.readout == "pooled":
            return None
        if points is None or points.dim() != 2 or points.shape[1] != 2:
            raise UserError("readout 'sampled' needs points [n, 2]")
        if batch is None:
            if image.shape[0] != 1:
                raise UserError(f"batch [n] is needed to tell which of {image.shape[0]} images a point is in")
            batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        if batch.shape != points.shape[:1]:
            raise UserError(f"batch has shape {list(batch.shape)}, points have {list(points.shape)}")
        return batch

    def _context(self, context_input: Tensor, num_images: int, batch: Tensor | None) -> Tensor:
        """Contexts of all rows, [rows, C]."""
        if context_input.dim() != 2 or context_input.shape[1] != self.context_input_dim:
            raise UserError(
                f"context_input has shape {list(context_input.shape)}; "
                f"it must be [rows, {self.context_input_dim}]"
            )
        rows = len(batch) if self.context == "node" and batch is not None else num_images
        if len(context_input) != rows:
            what = "points" if self.context == "node" else "images"
            raise UserError(f"context_input has {len(context_input)} rows, but there are {rows} {what}")
        context = self.state_encoder(context_input)
        return context if batch is None or self.context == "node" else context[batch]


def fusion_options(config: WSAConfig) -> dict[str, Any]:
    """What a `wsa_config` section says about the rule, as arguments of `MultiPTMFeatureExtractor`."""
    return {
        "temperature": config.attention_temperature,
        "num_heads": config.num_heads,
        "learn_temperature": config.learn_temperature,
        "hidden_dims": config.hidden_dims,
        "fusion": config.fusion,
        "match_parameters": config.match_parameters,
    }


def _gate(ptm: PTM) -> Tensor:
    return cast(Tensor, ptm.gate)


def _digest(ptms: Iterable[PTM]) -> str:
    digest = hashlib.sha256()
    for ptm in ptms:
        for key, value in sorted(ptm.backbone.state_dict().items()):
            digest.update(f"{ptm.name}.{key}{list(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _others(num_images: int, batch: Tensor | None, per_node: bool, device: torch.device) -> Tensor:
    """For each row the row of another image whose representation it is given; see `Intervention.SHUFFLED`.

    Rows are nodes with `per_node`, else images, of which those without nodes keep their own.

    Raises UserError if there is no other image.
    """
    counts = torch.ones(num_images, dtype=torch.int64, device=device)
    if batch is not None:
        counts = torch.bincount(batch, minlength=num_images)
    occupied = counts.nonzero().squeeze(1)
    if len(occupied) < 2:
        raise UserError(f"intervention '{Intervention.SHUFFLED}' needs at least two colonies with nodes")
    if batch is None or not per_node:
        return torch.arange(num_images, device=device).index_copy(0, occupied, occupied.roll(1))
    donor = torch.zeros_like(counts).index_copy(0, occupied, occupied.roll(-1))[batch]
    order = batch.argsort(stable=True)  # rows by image
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(batch)
    rank[order] = torch.arange(len(batch), device=device) - first[batch[order]]
    return order[first[donor] + rank % counts[donor]]
