"""What opens and closes models while training: gates that follow the step, and model dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.core.randomness import uniform
from durotaxis.core.schedule import Clock, as_clock
from durotaxis.core.shapes import Bool, Float, Int
from durotaxis.fusion.config import PTMConfig

FIRST_GATE = 1e-3
"""Gate of a model in the moment it enters."""


def gate_at(ptm: PTMConfig, when: Clock | int) -> float:
    """Gate of a model at a moment (a clock, or steps): 0 before it enters, then 1e-3 to 1, then 1.

    The ramp is geometric: the logarithm of the gate, which is added to the score, rises by the same amount at
    every step. A model's attention w then changes by at most max w(1-w) = 1/4 of that rise, whatever its
    score; a linear ramp would let a model with a high score take over in its first steps.
    """
    since = as_clock(when).since(ptm.enters_at)
    if since is None:
        return 0.0
    return 1.0 if since >= ptm.ramp_steps else FIRST_GATE ** (1.0 - since / ptm.ramp_steps)


def draw_open(keys: Int[Tensor, " B"], gates: Float[Tensor, " K"], probability: float) -> Bool[Tensor, "B K"]:
    """Which models stay open in each colony under model dropout.

    Each model is dropped with `probability`, independently. Where that would drop all models whose gate is
    above 0, the one that came closest to staying is kept; so a model that is alone is never dropped.

    Args:
        keys: int64, one per colony; the mask is a pure function of them.
    """
    draw = uniform(keys.unsqueeze(1), torch.arange(len(gates), device=keys.device))
    draw = draw.masked_fill(gates <= 0, -1.0)
    best = draw == draw.amax(1, keepdim=True)
    return ((draw >= probability) | best) & (gates > 0)
