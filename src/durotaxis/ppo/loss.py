"""The PPO loss as pure functions (Schulman et al. 2017), for actions that factor over the nodes of a colony.

Node terms x [B,N] are reduced within a colony first, then averaged over colonies. With `mean`, each colony
weighs the same whatever its size, so a node of a colony of N counts 1/N; with `sum` every node counts the
same, and large colonies dominate. Entries outside `node_mask` contribute exactly 0, to values and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from durotaxis.core.shapes import Bool, Float

Ratio = Literal["node", "graph"]
Reduction = Literal["mean", "sum"]


def reduce_nodes(
    values: Float[Tensor, "B N"], node_mask: Bool[Tensor, "B N"], reduction: Reduction
) -> Float[Tensor, " B"]:
    """Mean or sum over the living nodes of each colony; 0 for an empty colony."""
    total = torch.where(node_mask, values, 0.0).sum(1)
    return total if reduction == "sum" else total / node_mask.sum(1).clamp_min(1)


def log_ratios(
    log_prob: Float[Tensor, "B N"],
    old_log_prob: Float[Tensor, "B N"],
    node_mask: Bool[Tensor, "B N"],
    ratio: Ratio,
) -> tuple[Float[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """Log of the probability ratios that are clipped, and which of them exist.

    `node`: one per node (M = N). `graph`: one per colony, their sum (M = 1), which is the log of the
    product of the node ratios.
    """
    difference = torch.where(node_mask, log_prob - old_log_prob, 0.0)
    if ratio == "node":
        return difference, node_mask
    return difference.sum(1, keepdim=True), node_mask.any(1, keepdim=True)


def clipped_surrogate(
    log_ratio: Float[Tensor, "B M"],
    mask: Bool[Tensor, "B M"],
    advantage: Float[Tensor, " B"],
    clip_range: float,
    reduction: Reduction,
) -> Float[Tensor, ""]:
    """-mean over colonies of reduce over nodes of min(ρ A, clip(ρ, 1-ε, 1+ε) A) (eq. 7).

    All nodes of a colony share its advantage.
    """
    ratio = log_ratio.exp()
    shared = advantage[:, None]
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -reduce_nodes(torch.minimum(ratio * shared, clipped * shared), mask, reduction).mean()


def approximate_kl(
    log_ratio: Float[Tensor, "B M"], mask: Bool[Tensor, "B M"], reduction: Reduction
) -> Float[Tensor, ""]:
    """KL(old, new) from samples of old: mean of ρ - 1 - log ρ, unbiased and never negative (k3).

    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    return reduce_nodes(torch.expm1(log_ratio) - log_ratio, mask, reduction).mean()


def clip_fraction(
    log_ratio: Float[Tensor, "B M"], mask: Bool[Tensor, "B M"], clip_range: float
) -> Float[Tensor, ""]:
    """Share of the ratios farther than `clip_range` from 1."""
    outside = ((log_ratio.exp() - 1.0).abs() > clip_range) & mask
    return outside.sum() / mask.sum().clamp_min(1)


def value_loss(
    value: Float[Tensor, " B *V"],
    target: Float[Tensor, " B *V"],
    old_value: Float[Tensor, " B *V"],
    kind: Literal["mse", "huber"],
    clip: float | None,
) -> Float[Tensor, ""]:
    """Half the squared error, or the Huber loss with threshold 1; both have slope (value - target) near 0.

    With `clip`, the larger of the losses of the value and of the value held within `clip` of the old one.
    Of several values the mean, not the sum, is taken: a critic of V values then weighs as much against the
    policy, with which it shares the encoder, as a critic of one.
    """

    def loss(prediction: Tensor) -> Tensor:
        if kind == "huber":
            return functional.huber_loss(prediction, target, reduction="none")
        return 0.5 * (prediction - target).square()

    if clip is None:
        return loss(value).mean()
    return torch.maximum(loss(value), loss(old_value + (value - old_value).clamp(-clip, clip))).mean()


@dataclass(frozen=True)
class LossParts:
    """The parts of one minibatch's loss: scalars, all but `total` detached."""

    total: Tensor  # with gradient
    policy: Tensor
    value: Tensor
    penalty: Tensor
    entropy_kind: Tensor
    entropy_parameters: Tensor
    kl: Tensor
    clip_fraction: Tensor
    ratio_error: Tensor  # largest |ρ - 1| (node) or |log ρ| (graph)
    num_ratios: Tensor  # how many ratios there are


def ppo_loss(
    *,
    log_prob: Float[Tensor, "B N"],
    old_log_prob: Float[Tensor, "B N"],
    node_mask: Bool[Tensor, "B N"],
    advantage: Float[Tensor, " B"],
    entropy: tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]],
    value: Float[Tensor, " B *V"],
    target: Float[Tensor, " B *V"],
    old_value: Float[Tensor, " B *V"],
    penalty: Float[Tensor, ""],
    clip_range: float = 0.2,
    ratio: Ratio = "node",
    reduction: Reduction = "mean",
    value_kind: Literal["mse", "huber"] = "mse",
    value_clip: float | None = None,
    value_coefficient: float = 0.5,
    entropy_coefficients: tuple[float, float] = (0.01, 0.001),
) -> LossParts:
    """surrogate + c_v · value loss - c_k · H(kind) - c_p · H(parameters) + penalty (eq. 9).

    Args:
        entropy: of kind and of parameters, per node; the second weighted by detached p(spawn).
        penalty: the policy's own regulariser, 0 without.
        entropy_coefficients: c_k and c_p.
    """
    log_ratio, exists = log_ratios(log_prob, old_log_prob, node_mask, ratio)
    policy = clipped_surrogate(log_ratio, exists, advantage, clip_range, reduction)
    critic = value_loss(value, target, old_value, value_kind, value_clip)
    kind, parameters = (reduce_nodes(part, node_mask, reduction).mean() for part in entropy)
    bonus = entropy_coefficients[0] * kind + entropy_coefficients[1] * parameters
    with torch.no_grad():
        error = log_ratio if ratio == "graph" else torch.expm1(log_ratio)
        kl = approximate_kl(log_ratio, exists, reduction)
        clipped = clip_fraction(log_ratio, exists, clip_range)
    return LossParts(
        total=policy + value_coefficient * critic - bonus + penalty,
        policy=policy.detach(),
        value=critic.detach(),
        penalty=penalty.detach(),
        entropy_kind=kind.detach(),
        entropy_parameters=parameters.detach(),
        kl=kl,
        clip_fraction=clipped,
        ratio_error=error.detach().abs().max(),
        num_ratios=exists.sum(),
    )
