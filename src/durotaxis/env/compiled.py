"""Observing through `torch.compile`: the same function, several times faster once it is compiled.

The eager function is the truth; the compiled one agrees with it to 1e-5, not to the bit, since a compiler may
contract a product and a sum. Births and deaths stay eager: they are mostly scattering, gathering and 64-bit
integer arithmetic, which the compiler does not speed up, and so a life is the same either way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from durotaxis.env.config import EnvConfig
from durotaxis.env.env import Look
from durotaxis.env.observation import observe_survey
from durotaxis.env.survey import Survey
from durotaxis.env.types import Observation


@cache
def compiled_look() -> Look:
    """`observe_survey` compiled at its first call, once for any number of colonies and of slots in use.

    Every configuration is compiled by itself, and so is a single colony. torch keeps eight such versions in
    one process; beyond them it says so and runs the eager function.
    """
    compiled: Any = torch.compile(observe_survey)

    def look(now: Survey, hull: tuple[Tensor, Tensor], config: EnvConfig) -> Observation:
        slots = now.colony.capacity
        for value in (hull[0], now.s, now.t, now.stiffness, *vars(now.colony).values()):
            torch._dynamo.maybe_mark_dynamic(value, 0)
            if value.dim() > 1 and value.shape[1] == slots:
                torch._dynamo.maybe_mark_dynamic(value, 1)
        return compiled(now, hull, config)

    return look
