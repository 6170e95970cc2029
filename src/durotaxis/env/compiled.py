"""The kernels of a step through `torch.compile`: the same functions, faster after a minute of compiling.

The eager functions are the truth. The compiled ones agree with them to 1e-5, not to the bit: a compiler may
contract a product and a sum, and has its own exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.struct import Struct
from durotaxis.env.config import EnvConfig
from durotaxis.env.env import EAGER, Kernels, live
from durotaxis.env.observation import observe_survey
from durotaxis.env.substrate import Substrate
from durotaxis.env.survey import Survey
from durotaxis.env.types import Action, Colony, Observation


@cache
def compiled_kernels() -> Kernels:
    """The compiled kernels. Each is compiled at its first call, once for any number of slots in use."""
    compiled_live, compiled_observe = _compile(live), _compile(observe_survey)

    def live_any_width(
        colony: Colony, action: Action, substrate: Substrate, config: EnvConfig
    ) -> tuple[Survey, dict[str, Tensor], Tensor]:
        return compiled_live(_of_any_width(colony), _of_any_width(action), substrate, config)

    def observe_any_width(now: Survey, hull: tuple[Tensor, Tensor], config: EnvConfig) -> Observation:
        for value in (hull[0], now.s, now.t, now.stiffness):
            torch._dynamo.maybe_mark_dynamic(value, 1)
        _of_any_width(now.colony)
        return compiled_observe(now, hull, config)

    # Gift wrapping in double precision gains nothing from the compiler.
    return Kernels(live_any_width, observe_any_width, EAGER.next_vertex)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)


def _of_any_width(struct: Any) -> Any:
    """The same struct, its node dimension announced as one that changes from call to call."""
    for name in struct.node_fields:
        torch._dynamo.maybe_mark_dynamic(getattr(struct, name), 1)
    return struct
