"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.shapes import Bool, Float


def generalized_advantage(
    reward: Float[Tensor, "T B *V"],
    value: Float[Tensor, "T B *V"],
    next_value: Float[Tensor, "T B *V"],
    ended: Bool[Tensor, "T B"],
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "T B *V"]:
    """GAE(λ), with the trace cut at the end of every episode (Schulman et al. 2016, eq. 16).

        δ_t = r_t + γ v'_t - v_t
        A_t = δ_t + γ λ (1 - ended_t) A_{t+1},    A_T = 0

    How an episode ended is told by `next_value` alone: 0 after a termination, the value of the episode's own
    last observation after a truncation. So nothing ever leaks in from the episode that follows. All is linear
    in (r, v, v'): the advantages of values that add up, for rewards that add up, add up.

    Args:
        reward: r_t; here and below the last dimension, where there is one, runs over several values.
        value: v_t = V(observation at t).
        next_value: v'_t = V(observation after step t) · (1 - terminated_t).
        ended: terminated or truncated at step t.
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1]; 0 is the one-step error, 1 the discounted return minus v.

    Returns:
        A_t, in the dtype of its inputs. The value target is A_t + v_t.
    """
    if not reward.shape == value.shape == next_value.shape or reward.shape[:2] != ended.shape:
        raise ValueError(f"shapes differ: {reward.shape}, {value.shape}, {next_value.shape}, {ended.shape}")
    delta = reward + discount * next_value - value
    decay = discount * gae_lambda * (~ended).to(delta.dtype)
    decay = decay.view(decay.shape + (1,) * (delta.dim() - 2))
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + decay[t] * running
        advantage[t] = running
    return advantage


def normalize(advantage: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Mean 0 and standard deviation 1 over all entries; constant input gives 0."""
    centred = advantage - advantage.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def explained_variance(prediction: Float[Tensor, "..."], target: Float[Tensor, "..."]) -> float | None:
    """1 - Var(target - prediction) / Var(target), at most 1; None when the target is constant."""
    variance = target.var(correction=0)
    if float(variance) < 1e-12:
        return None
    return float(1.0 - (target - prediction).var(correction=0) / variance)
