"""The hybrid action distribution: per node a masked choice of kind, and four Beta-distributed parameters.

With u the parameters on the unit interval and p the choice of kind,

    log π(kind, u) = log p(kind) + [kind = spawn] · Σ_j log Beta(u_j; alpha_j, beta_j)
    H(π)           = H(p) + p(spawn) · Σ_j H(Beta(alpha_j, beta_j))

A Beta lives on a bounded interval, so no squashing function stands between the density and the action
(Chou, Maturana and Scherer 2017, "Improving stochastic policy gradients in continuous control with deep
reinforcement learning using the Beta distribution"). Densities are those of u: the physical value
low + u (high - low) is formed only at the world's border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from durotaxis.core import randomness
from durotaxis.core.struct import Struct
from durotaxis.env.types import Kind

UNIT_MARGIN = 1e-6
"""Unit samples are kept this far from 0 and 1, where the log-density has no bound."""

_KIND_DRAW, _PARAMETER_DRAW = 0, 1
_FORBIDDEN = -1e9  # a logit whose probability is exactly 0 in float32, with finite gradients


class ActionParameters(NamedTuple):
    """What an actor says about n nodes of a flat batch."""

    kind_logits: Tensor  # [n,3] float32, before masking
    alpha: Tensor  # [n,4] float32, above 1
    beta: Tensor  # [n,4] float32, above 1


@dataclass(frozen=True)
class ActionSample(Struct):
    """A drawn action, in the coordinates in which its density is known."""

    node_fields: ClassVar[tuple[str, ...]] = ("kind", "unit")

    kind: Tensor  # [B,N] int64, Kind; rest in empty slots
    unit: Tensor  # [B,N,4] float32 in [1e-6, 1-1e-6], PARAMETERS as fractions of their ranges


class ActionDistribution:
    """Independent actions of all nodes of a batch of colonies; empty slots contribute exactly 0.

    Args:
        parameters: what the actor says about the living nodes [n,...], in the order of `node_mask`.
        node_mask: [B,N] bool, n of them true.
        action_mask: [B,N,3] bool, the kinds allowed; at least one per living node.
        attention: [rows,K] detached weights over pre-trained models, or None.
        penalty: the policy's own regulariser, a scalar with gradient, or None.
    """

    def __init__(
        self,
        parameters: ActionParameters,
        node_mask: Tensor,
        action_mask: Tensor,
        attention: Tensor | None = None,
        penalty: Tensor | None = None,
    ) -> None:
        self.node_mask = node_mask
        self.attention = attention
        self.penalty = penalty
        allowed = action_mask[node_mask]
        logits = parameters.kind_logits.float().masked_fill(~allowed, _FORBIDDEN)
        self._log_probs = torch.log_softmax(logits, -1)  # [n,3]
        self._allowed = allowed
        self._alpha = parameters.alpha.float()
        self._beta = parameters.beta.float()

    @property
    def kind_probs(self) -> Tensor:
        """Probabilities of the kinds, [B,N,3]; 0 in empty slots."""
        return self._pad(self._log_probs.exp())

    @property
    def alpha(self) -> Tensor:
        """First Beta parameter, [B,N,4]; 1 in empty slots."""
        return self._pad(self._alpha, 1.0)

    @property
    def beta(self) -> Tensor:
        """Second Beta parameter, [B,N,4]; 1 in empty slots."""
        return self._pad(self._beta, 1.0)

    def sample(self, keys: Tensor) -> ActionSample:
        """Draw an action: a pure function of keys [B] int64, slot index and distribution parameters."""
        colony, slot = self.node_mask.nonzero(as_tuple=True)
        state = randomness.hash_keys(keys[colony], slot)
        draw = randomness.uniform(state, _KIND_DRAW)
        probs = self._log_probs.detach().exp()
        kind = _inverse_cdf(probs, self._allowed, draw)
        index = torch.arange(self._alpha.shape[-1], device=state.device)
        unit = randomness.beta(
            self._alpha.detach(), self._beta.detach(), state.unsqueeze(-1), _PARAMETER_DRAW, index
        )
        return self._as_sample(kind, unit)

    def mode(self) -> ActionSample:
        """The most probable kind, and the mode of each parameter."""
        kind = self._log_probs.argmax(-1)
        peak, mass = self._alpha.detach() - 1.0, (self._alpha + self._beta).detach() - 2.0
        flat = mass <= 0  # alpha and beta above 1 may both round to 1
        return self._as_sample(kind, torch.where(flat, 0.5, peak / mass.masked_fill(flat, 1.0)))

    def log_prob(self, sample: ActionSample) -> Tensor:
        """Log-density of each node's kind and unit parameters, [B,N] float32; 0 in empty slots."""
        kind, unit = sample.kind[self.node_mask], sample.unit[self.node_mask]
        of_kind = self._log_probs.gather(-1, kind.unsqueeze(-1)).squeeze(-1)
        of_unit = beta_log_prob(unit, self._alpha, self._beta).sum(-1)
        return self._pad(of_kind + torch.where(kind == Kind.SPAWN, of_unit, 0.0))

    def entropy(self) -> tuple[Tensor, Tensor]:
        """The two parts of each node's entropy, ([B,N], [B,N]): of the kind, and of the parameters.

        The second is already multiplied by the probability of spawning, which is detached there: raising the
        entropy of parameters must not pay for spawning.
        """
        probs = self._log_probs.exp()
        of_kind = -(probs * self._log_probs).sum(-1)
        of_unit = beta_entropy(self._alpha, self._beta).sum(-1)
        return self._pad(of_kind), self._pad(probs[:, Kind.SPAWN].detach() * of_unit)

    def _as_sample(self, kind: Tensor, unit: Tensor) -> ActionSample:
        unit = unit.clamp(UNIT_MARGIN, 1.0 - UNIT_MARGIN)
        return ActionSample(kind=self._pad(kind, int(Kind.REST)), unit=self._pad(unit, 0.5))

    def _pad(self, flat: Tensor, empty: float = 0.0) -> Tensor:
        padded = flat.new_full((*self.node_mask.shape, *flat.shape[1:]), empty)
        return padded.masked_scatter(_expand(self.node_mask, padded), flat)


def beta_log_prob(unit: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """log Beta(unit; alpha, beta), elementwise, for unit in (0, 1)."""
    return (alpha - 1) * torch.log(unit) + (beta - 1) * torch.log1p(-unit) - _log_beta(alpha, beta)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Differential entropy of Beta(alpha, beta) on the unit interval, elementwise; 0 for alpha = beta = 1."""
    return (
        _log_beta(alpha, beta)
        - (alpha - 1) * torch.digamma(alpha)
        - (beta - 1) * torch.digamma(beta)
        + (alpha + beta - 2) * torch.digamma(alpha + beta)
    )


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def _inverse_cdf(probs: Tensor, allowed: Tensor, draw: Tensor) -> Tensor:
    """The first category whose cumulative probability exceeds the draw; never a forbidden one."""
    kind = (probs.cumsum(-1) <= draw.unsqueeze(-1)).sum(-1)
    # The cumulative sum may end just below 1; what lies beyond belongs to the last allowed category.
    last = probs.shape[-1] - 1 - allowed.flip(-1).int().argmax(-1)
    return torch.minimum(kind, last)


def _expand(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(*mask.shape, *(1,) * (like.dim() - mask.dim())).expand_as(like)
