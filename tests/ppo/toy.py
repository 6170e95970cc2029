"""A world whose answer is in the observation, and a policy small enough to learn it in seconds.

Every node shows its best kind. An episode is a success after four steps in which all nodes chose it, and is
truncated after `limit` steps. The number of nodes changes from step to step, so padding is always at work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.agent import ValueHead
from durotaxis.core.randomness import hash_keys, normal, uniform
from durotaxis.core.schedule import Clock
from durotaxis.core.struct import Struct

NUM_SLOTS = 5
KINDS = 3
TARGET = 0.8


@dataclass(frozen=True)
class ToyObservation(Struct):
    node_fields: ClassVar[tuple[str, ...]] = ("nodes", "node_mask")

    nodes: Tensor  # [B,N,4]: one-hot best kind, and 1
    node_mask: Tensor  # [B,N]


@dataclass(frozen=True)
class ToyAction(Struct):
    node_fields: ClassVar[tuple[str, ...]] = ("kind", "unit")

    kind: Tensor  # [B,N] int64
    unit: Tensor  # [B,N] float32


@dataclass(frozen=True)
class ToyCache(Struct):
    node_fields: ClassVar[tuple[str, ...]] = ("features",)

    features: Tensor  # [B,N,8]


@dataclass(frozen=True)
class ToyResult:
    observation: ToyObservation
    reward: Tensor
    terms: dict[str, Tensor]
    terminated: Tensor
    truncated: Tensor
    reason: Tensor


class ToyWorld:
    """See the module. `poison` makes the reward NaN at that step of every episode."""

    reason_names = ("running", "success", "max_steps")

    def __init__(
        self, num_colonies: int, limit: int = 8, poison: int | None = None, device: str = "cpu"
    ) -> None:
        self.num_colonies, self.limit, self.poison = num_colonies, limit, poison
        self.device = torch.device(device)
        self.slots = torch.arange(NUM_SLOTS, device=self.device)
        self.seed = self.time = self.hits = torch.zeros(num_colonies, dtype=torch.int64, device=self.device)

    def reset(self, seeds: Tensor) -> ToyObservation:
        self.seed, self.time, self.hits = seeds, torch.zeros_like(seeds), torch.zeros_like(seeds)
        return self.observe()

    def observe(self) -> ToyObservation:
        best, mask = self.best(), self.mask()
        one_hot = functional.one_hot(best, KINDS).float()
        nodes = torch.cat([one_hot, torch.ones_like(one_hot[..., :1])], -1)
        return ToyObservation(nodes * mask[..., None], mask)

    def best(self) -> Tensor:
        return (hash_keys(self.seed[:, None], 100, self.time[:, None], self.slots) & 0xFFFF) % KINDS

    def mask(self) -> Tensor:
        count = 1 + (hash_keys(self.seed, 101, self.time) & 0xFFFF) % NUM_SLOTS
        return self.slots < count[:, None]

    def step(self, action: ToyAction) -> ToyResult:
        mask = self.mask()
        right = ((action.kind == self.best()) & mask).sum(1) / mask.sum(1)
        off = torch.where(mask & (action.kind == 1), (action.unit - TARGET).square(), 0.0).sum(1) / mask.sum(
            1
        )
        self.hits = self.hits + (right == 1.0)
        self.time = self.time + 1
        terms = {"right": right.float(), "off": -off.float()}
        reward = terms["right"] + terms["off"]
        if self.poison is not None:
            reward = torch.where(self.time == self.poison, torch.nan, reward)
        terminated = self.hits >= 4
        truncated = (self.time >= self.limit) & ~terminated
        reason = torch.where(terminated, 1, torch.where(truncated, 2, 0))
        return ToyResult(self.observe(), reward, terms, terminated, truncated, reason)

    def reset_where(self, mask: Tensor, seeds: Tensor) -> ToyObservation:
        self.seed = torch.where(mask, seeds, self.seed)
        self.time, self.hits = torch.where(mask, 0, self.time), torch.where(mask, 0, self.hits)
        return self.observe()

    def summary(self) -> dict[str, Tensor]:
        return {"hits": self.hits, "phase": (self.hits > 1).long()}

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "time": self.time, "hits": self.hits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seed, self.time, self.hits = (state[k].to(self.device) for k in ("seed", "time", "hits"))


class ToyDistribution:
    """Per node a categorical kind and, where kind is 1, one normal parameter."""

    def __init__(self, logits: Tensor, mean: Tensor, log_std: Tensor, node_mask: Tensor) -> None:
        self.kind = torch.distributions.Categorical(logits=logits)
        self.unit = torch.distributions.Normal(mean, log_std.exp())
        self.node_mask = node_mask

    def sample(self, keys: Tensor) -> ToyAction:
        slots = torch.arange(self.node_mask.shape[1], device=keys.device)
        draw = uniform(keys[:, None], slots, 0)
        kind = (self.kind.probs.cumsum(-1) < draw[..., None]).sum(-1).clamp(max=KINDS - 1)
        return ToyAction(kind, self.unit.mean + self.unit.stddev * normal(keys[:, None], slots, 1))

    def mode(self) -> ToyAction:
        return ToyAction(self.kind.probs.argmax(-1), self.unit.mean)

    def log_prob(self, sample: ToyAction) -> Tensor:
        unit = torch.where(sample.kind == 1, self.unit.log_prob(sample.unit), 0.0)
        return torch.where(self.node_mask, self.kind.log_prob(sample.kind) + unit, 0.0)

    def entropy(self) -> tuple[Tensor, Tensor]:
        parameters = self.kind.probs[..., 1].detach() * self.unit.entropy()
        return (
            torch.where(self.node_mask, self.kind.entropy(), 0.0),
            torch.where(self.node_mask, parameters, 0.0),
        )


class ToyPolicy(nn.Module):
    """A frozen linear map, then one hidden layer per node. `dropout` acts whatever the mode."""

    def __init__(self, seed: int = 0, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.frozen = nn.Linear(4, 8)
        self.body, self.head, self.critic = (
            nn.Linear(8, width),
            nn.Linear(width, KINDS + 2),
            nn.Linear(width, 1),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            self.head.weight.mul_(0.1)
        self.frozen.requires_grad_(False)
        self.dropout = dropout
        self.calls = 0

    def forward(
        self, observation: ToyObservation, cached: ToyCache | None = None
    ) -> tuple[ToyDistribution, Tensor]:
        self.calls += 1
        features = cached.features if cached is not None else self.frozen(observation.nodes)
        hidden = torch.tanh(self.body(features))
        if self.dropout:
            hidden = functional.dropout(hidden, self.dropout, training=True)
        out = self.head(hidden)
        mean, log_std = out[..., KINDS], out[..., KINDS + 1] - 1.0
        mask = observation.node_mask
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return ToyDistribution(out[..., :KINDS], mean, log_std, mask), self.critic(pooled).squeeze(-1)

    def begin_iteration(self, when: Clock) -> bool:
        return False

    def later_parts(self) -> list[str]:
        return []

    def precompute(self, observation: ToyObservation, keys: Tensor | None = None) -> ToyCache:
        with torch.no_grad():
            return ToyCache(self.frozen(observation.nodes))

    def to_action(self, sample: ToyAction, observation: ToyObservation) -> ToyAction:
        return sample

    def diagnostics(
        self, observation: ToyObservation, cached: Any = None, groups: Mapping[str, Tensor] | None = None
    ) -> dict[str, dict[str, Any]]:
        nodes = observation.node_mask.float()
        masks = {"all": torch.ones(len(nodes), dtype=torch.bool)} | dict(groups or {})
        return {
            name: {"attention": [0.25, 0.75], "entropy": float(nodes[mask].mean())}
            for name, mask in masks.items()
            if bool(mask.any())
        }

    def frozen_hash(self) -> str:
        return hashlib.sha256(self.frozen.weight.cpu().numpy().tobytes()).hexdigest()

    def frozen_hashes(self) -> dict[str, str]:
        return {} if self.frozen.weight.requires_grad else {"frozen": self.frozen_hash()}

    def require_ready(self) -> None:
        pass

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "actor": [*self.body.parameters(), *self.head.parameters()],
            "critic": list(self.critic.parameters()),
        }


class HeadedPolicy(ToyPolicy):
    """A toy with one value per reward term; the world lists them the other way round."""

    def __init__(self, names: tuple[str, ...] = ("off", "right"), seed: int = 0) -> None:
        super().__init__(seed)
        self.value_names = names
        self.critic = ValueHead(self.critic.in_features, len(names))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    @property
    def value_head(self) -> ValueHead:
        return self.critic
