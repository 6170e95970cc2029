"""Frozen dataclasses of tensors that share leading dimensions: colonies, actions, observations, rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor


class Struct:
    """Mixin for a frozen dataclass whose fields are tensors, nested structs, dicts of tensors, or None.

    All tensors share their leading (batch) dimensions, so that one index selects the same rows of every
    field. Nothing is modified in place; every method returns a new value.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor."""
        return self._combine([self], lambda tensors: function(tensors[0]))

    def __getitem__(self, index: Any) -> Self:
        """Index every tensor along its leading dimensions."""
        return self.map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def flatten(self, start: int = 0, end: int = 1) -> Self:
        """Merge the leading dimensions `start` to `end` of every tensor ([T,B,...] to [T*B,...])."""
        return self.map(lambda tensor: tensor.flatten(start, end))

    @classmethod
    def stack(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Stack equal-shaped structs along a new dimension."""
        return cls._combine(items, lambda tensors: torch.stack(list(tensors), dim))

    @classmethod
    def cat(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Concatenate structs along an existing dimension."""
        return cls._combine(items, lambda tensors: torch.cat(list(tensors), dim))

    @classmethod
    def where(cls, mask: Tensor, yes: Self, no: Self) -> Self:
        """Rows of `yes` where `mask` [B] is true, of `no` elsewhere."""

        def select(tensors: Sequence[Tensor]) -> Tensor:
            first, second = tensors
            return torch.where(mask.view(mask.shape + (1,) * (first.dim() - mask.dim())), first, second)

        return cls._combine([yes, no], select)

    @classmethod
    def _combine(cls, items: Sequence[Self], function: Callable[[Sequence[Tensor]], Tensor]) -> Self:
        fields = dataclasses.fields(items[0])  # type: ignore[arg-type]
        return dataclasses.replace(  # type: ignore[type-var]
            items[0],
            **{f.name: _combine_values([getattr(item, f.name) for item in items], function) for f in fields},
        )


def _combine_values(values: Sequence[Any], function: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(values)
    if isinstance(first, Struct):
        return type(first)._combine(values, function)
    if isinstance(first, dict):
        return {key: _combine_values([value[key] for value in values], function) for key in first}
    raise TypeError(f"a Struct holds tensors, structs, dicts of tensors or None, not {type(first).__name__}")
