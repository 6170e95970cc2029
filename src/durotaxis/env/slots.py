"""Node slots: the living fill the first ones, so the rest can be cut off for the work and put back after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from durotaxis.env.types import Action, Colony, Observation

Slotted = TypeVar("Slotted", Colony, Action, Observation)


def crop(struct: Slotted, width: int) -> Slotted:
    """The first `width` slots of every per-node field; a width above the slots there are changes nothing."""
    return _map(struct, lambda value, empty: value[:, :width].contiguous())


def pad(struct: Slotted, capacity: int) -> Slotted:
    """Empty slots behind the last one, up to `capacity`."""

    def widen(value: Tensor, empty: float | bool) -> Tensor:
        extra = (0, 0) * (value.dim() - 2) + (0, capacity - value.shape[1])
        return torch.nn.functional.pad(value, extra, value=empty)

    return _map(struct, widen)


def _map(struct: Slotted, function: Any) -> Slotted:
    changed = {name: function(getattr(struct, name), empty) for name, empty in struct.node_fields.items()}
    return replace(struct, **changed)
