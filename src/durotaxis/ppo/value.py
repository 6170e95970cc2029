"""Values of a state: one for the total reward, or one per reward term, and the scale they are learned in.

A policy with the attribute `value_names` gives one value per name, [B,V]; they add up to the value of the
state. Without it there is one value, `total`. Advantages are linear in rewards and values, so those of
the values add up to that of the total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float, Int
from durotaxis.ppo.ranks import ALONE, Ranks

TOTAL = ("total",)
RATE = 0.1
"""Least weight of a new rollout in the statistics of the targets: about ten rollouts are remembered. With
1,500 targets in a rollout that is near 1e-4 per target, the step size of van Hasselt et al. (2016)."""
STD_FLOOR = 1e-4
"""Targets that vary less than this (units of the reward) say nothing about a scale (Hessel et al. 2019)."""


@runtime_checkable
class ValueScale(Protocol):
    """What follows the scale of V values: the attribute `value_head` of a policy."""

    @property
    def mean(self) -> Tensor:
        """[V] float32, what a value is without anything learned."""

    @property
    def std(self) -> Tensor:
        """[V] float32, the unit in which differences are learned."""

    @property
    def updates(self) -> Tensor:
        """[V] int64, how often each was set. All three are kept in the policy's state_dict."""

    def rescale(self, mean: Tensor, std: Tensor, updates: Tensor) -> None:
        """Set all three without changing any value."""


def value_names(policy: Any) -> tuple[str, ...]:
    """What the values of a policy are of: `("total",)`, or names of reward terms."""
    return tuple(getattr(policy, "value_names", TOTAL))


def value_scale(policy: Any) -> ValueScale:
    """The part of a policy that ppo.normalize_value needs.

    Raises:
        UserError: the policy has none.
    """
    scale = getattr(policy, "value_head", None)
    if not isinstance(scale, ValueScale):
        raise UserError(
            "ppo.normalize_value=true needs a policy whose `value_head` has mean, std, updates and rescale "
            f"(durotaxis.ppo.value.ValueScale), which {type(policy).__name__} has not; set it to false"
        )
    return scale


def as_heads(value: Tensor) -> Float[Tensor, "B V"]:
    """What a policy returned as values: [B,V], or [B] for V = 1."""
    return value[:, None] if value.dim() == 1 else value


def require_names(names: tuple[str, ...], value: Tensor, terms: Mapping[str, Tensor]) -> None:
    """Raise UserError unless there is one value per name, and the names are those of the reward terms.

    Args:
        names: `value_names` of the policy.
        value: [B,V], what it returned.
        terms: of the world's step.
    """
    if value.shape[-1] != len(names):
        raise UserError(
            f"the policy returns {value.shape[-1]} values per state, but its value_names are "
            f"{', '.join(names)}; give one name per value"
        )
    if names != TOTAL and (set(names) != set(terms) or len(set(names)) != len(names)):
        raise UserError(
            f"the policy predicts {', '.join(names)}, the world's reward terms are {', '.join(terms)}; "
            "build the policy with the names of these terms, or with actor_critic.value_heads=total"
        )


def split_reward(
    names: Sequence[str], reward: Float[Tensor, "T B"], terms: Mapping[str, Tensor]
) -> Float[Tensor, "T B V"]:
    """The reward that each value is the sum of: the total, or the terms in the order of `names`."""
    if names == TOTAL:
        return reward[..., None]
    return torch.stack([terms[name].to(reward.dtype) for name in names], -1)


def target_sums(target: Float[Tensor, "M V"]) -> Float[Tensor, "3 V"]:
    """Number, sum and sum of squares of the targets of each value, float64; they add up over parts."""
    exact = target.double()
    return torch.stack([torch.ones_like(exact).sum(0), exact.sum(0), exact.square().sum(0)])


def followed(
    scale: ValueScale, sums: Float[Tensor, "3 V"]
) -> tuple[Float[Tensor, " V"], Float[Tensor, " V"], Int[Tensor, " V"]]:
    """Mean, std and number of updates after one more rollout ("ART" of van Hasselt et al. 2016).

    First and second moment move to those of the rollout at the rate max(1 / (updates + 1), RATE): the first
    rollout sets them, the first ten are averaged. A value whose targets do not vary keeps what it has: a
    scale of 0 would make whatever it predicts infinitely wrong.

    Args:
        sums: `target_sums` of the rollout's targets.
    """
    count, total, squares = sums
    mean, old_mean, old_std = total / count, scale.mean.double(), scale.std.double()
    second = squares / count
    variance = second - mean.square()
    varies = variance > STD_FLOOR**2 + 1e-12 * second  # what rounding leaves of a constant is no variance
    rate = torch.where(varies, (1.0 / (scale.updates + 1.0)).clamp_min(RATE).double(), 0.0)
    # As a mixture, which is the same as moving both moments, but keeps small variances of large means.
    gap = mean - old_mean
    mixed = (1.0 - rate) * (old_std.square() + rate * gap.square()) + rate * variance
    return old_mean + rate * gap, mixed.sqrt(), scale.updates + varies


def follow_targets(policy: Any, target: Float[Tensor, "M V"], ranks: Ranks = ALONE) -> None:
    """Let the policy's values be learned in the scale of their targets on all ranks. None changes by it."""
    scale = value_scale(policy)
    scale.rescale(*followed(scale, ranks.cat(target_sums(target)[None]).sum(0)))
