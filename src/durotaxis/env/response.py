"""Response laws: how far a node's child lands, as a function of the stiffness under the node.

    hill       r = max_step / (1 + (K/E)^h)
    biphasic   r = max_step / (1 + (K/E*)^h · ((E/E*)^h + (E*/E)^h))      E* = optimum
    threshold  r = max_step / (1 + (K/E)^h) where E >= E0, else 0         E0 = threshold

with E the local stiffness, K the node's own `half_saturation` and h the exponent. The biphasic law is Hill's
with inhibition by stiffness itself, the form of Haldane (1930) and Andrews (1968), its inhibition constant
chosen so that the longest step lies at E*, whatever K; far below E* it is Hill's. Below the optimum steps
grow longer uphill, above it downhill, so that a colony can gather at E* from either side (negative
durotaxis).

What is measured: traction and speed of some cells peak at an optimum stiffness (Bangasser, Rosenfeld and
Odde 2013), and such cells can move towards softer ground (Isomursu et al. 2022). What is assumed: all three
laws as the length of one growth decision, and every constant in them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from durotaxis.env.config import ResponseConfig


def step_length(
    max_step: Tensor, half_saturation: Tensor, stiffness: Tensor, response: ResponseConfig
) -> Tensor:
    """Length in µm of a noiseless spawn step, of the shape of the arguments, in [0, max_step].

    Args:
        max_step: µm. half_saturation: kPa. stiffness: E at the parent, kPa.
        response: which law, and its constants.
    """
    h = response.exponent
    # By way of logarithms: the last bit of a tensor's power depends on where in memory a number stands, and
    # a steep law would give 0 times infinity where it is simply 0.
    log_half, log_local = half_saturation.log(), stiffness.log()
    denominator = 1.0 + torch.exp(h * (log_half - log_local))
    if response.law == "biphasic":
        # (K/E*)^h · (E/E*)^h, beside the term above, which is (K/E*)^h · (E*/E)^h.
        denominator = denominator + torch.exp(h * (log_half + log_local - 2.0 * math.log(response.optimum)))
    length = max_step / denominator
    return length * (stiffness >= response.threshold) if response.law == "threshold" else length
