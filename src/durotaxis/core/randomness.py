"""Counter-based randomness: every draw is a pure function of integer keys.

A draw depends on its keys alone (episode seed, purpose, step, node id), never on how many draws came
before it, so a colony's life is the same whatever the batch size, its companions, the reset order or the
device. The hash is the SplitMix64 finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators") chained over the keys, in wrapping int64 arithmetic. Results are equal to the bit on one
device and to 1e-5 across devices (logarithms and cosines differ in their last digits).
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_GAMMA_TRIALS = 12


class Purpose(IntEnum):
    """What a draw is for: the second key, so that two uses of one seed never share a number."""

    INITIAL = 1
    SPAWN_NOISE = 2
    SUBSTRATE = 3
    SCRIPTED = 4
    POLICY = 5
    EPISODE = 6
    MINIBATCH = 7
    CALIBRATION = 8
    WEIGHTS = 9
    MODEL_DROPOUT = 10
    STAGE = 11
    NOISE_FEATURES = 12


def hash_keys(*keys: Tensor | int) -> Tensor:
    """Hash integer keys, broadcast against each other, to int64 (all 64 bits well mixed).

    Args:
        keys: int64 tensors or Python ints of broadcastable shapes; their order matters.
    """
    device = next((key.device for key in keys if isinstance(key, Tensor)), torch.device("cpu"))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        state = _mix(state + key + _GOLDEN)
    return state


def uniform(*keys: Tensor | int) -> Tensor:
    """Uniform draws in the open interval (0, 1), float32, one per broadcast key tuple."""
    bits = (hash_keys(*keys) >> 41) & 0x7FFFFF
    return (bits.to(torch.float32) + 0.5) * (1.0 / (1 << 23))


def normal(*keys: Tensor | int) -> Tensor:
    """Standard normal draws, float32 (Box and Muller 1958)."""
    state = hash_keys(*keys)
    radius = torch.sqrt(-2.0 * torch.log(uniform(state, 1)))
    return radius * torch.cos(2.0 * math.pi * uniform(state, 2))


def gamma(concentration: Tensor, *keys: Tensor | int) -> Tensor:
    """Gamma(concentration, 1) draws for concentration >= 1 (Marsaglia and Tsang 2000).

    Each draw tries a fixed number of proposals (acceptance is above 95 %, so all fail with probability
    below 1e-15), which keeps it a pure function of its keys.
    """
    state = hash_keys(*keys)
    d = concentration - 1.0 / 3.0
    c = 1.0 / torch.sqrt(9.0 * d)
    result = d
    accepted = torch.zeros(torch.broadcast_shapes(state.shape, d.shape), dtype=torch.bool, device=d.device)
    for trial in range(_GAMMA_TRIALS):
        z = normal(state, 2 * trial)
        v = (1.0 + c * z) ** 3
        threshold = 0.5 * z * z + d - d * v + d * torch.log(v.clamp_min(1e-30))
        accept = (v > 0) & (torch.log(uniform(state, 2 * trial + 1)) < threshold)
        result = torch.where(accept & ~accepted, d * v, result)
        accepted = accepted | accept
        if bool(accepted.all()):
            break
    return result


def beta(alpha: Tensor, beta: Tensor, *keys: Tensor | int) -> Tensor:
    """Beta(alpha, beta) draws in (0, 1) for alpha, beta >= 1, as a ratio of two gamma draws."""
    state = hash_keys(*keys)
    first, second = gamma(alpha, state, 1), gamma(beta, state, 2)
    return first / (first + second)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
