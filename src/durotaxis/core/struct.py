"""Frozen dataclasses of tensors that share leading dimensions: colonies, actions, observations, rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, get_args, get_type_hints

import torch
from torch import Tensor

Combine = Callable[[Sequence[Tensor]], Tensor]


class Struct:
    """Mixin for a frozen dataclass whose fields are tensors, nested structs, dicts of tensors, or None.

    All tensors share their leading (batch) dimensions, so that one index selects the same rows of every
    field; only fields named in `shared` belong to the batch as a whole, such as a large table that all rows
    read. Nothing is modified in place; every method returns a new value. What is combined must have the same
    structure: a field that is None in one is None in all.
    """

    shared: ClassVar[tuple[str, ...]] = ()
    """Tensor fields without batch dimensions: moved by `to`, otherwise left alone, and equal in all that is
    combined."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor that is not shared."""
        return self._combine([self], lambda tensors: function(tensors[0]))

    def __getitem__(self, index: Any) -> Self:
        """Index every tensor along its leading dimensions."""
        return self.map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to `device`."""

        def move(tensors: Sequence[Tensor]) -> Tensor:
            return tensors[0].to(device)

        return self._combine([self], move, move)

    def flatten(self, start: int = 0, end: int = 1) -> Self:
        """Merge the leading dimensions `start` to `end` of every tensor ([T,B,...] to [T*B,...])."""
        return self.map(lambda tensor: tensor.flatten(start, end))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, nested structs as dicts: what a checkpoint stores."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {f.name: getattr(self, f.name) for f in fields}
        return {
            name: value.to_dict() if isinstance(value, Struct) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The struct whose `to_dict` gave `values`."""
        hints = get_type_hints(cls)

        def restored(name: str, value: Any) -> Any:
            kinds = (kind for kind in (hints[name], *get_args(hints[name])) if isinstance(kind, type))
            inner = next((kind for kind in kinds if issubclass(kind, Struct)), None)
            return value if inner is None or value is None else inner.from_dict(value)

        return cls(**{name: restored(name, value) for name, value in values.items()})

    @classmethod
    def stack(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Stack equal-shaped structs along a new dimension."""
        return cls._combine(items, lambda tensors: torch.stack(list(tensors), dim))

    @classmethod
    def cat(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Concatenate structs along an existing dimension."""
        return cls._combine(items, lambda tensors: torch.cat(list(tensors), dim))

    def put(self, rows: Tensor, values: Self) -> Self:
        """The same with rows [R] (int64, the first dimension) replaced by those of `values` [R,...]."""
        return self._combine([self, values], lambda tensors: tensors[0].index_copy(0, rows, tensors[1]))

    @classmethod
    def where(cls, mask: Tensor, yes: Self, no: Self) -> Self:
        """Rows of `yes` where `mask` [B] is true, of `no` elsewhere."""

        def select(tensors: Sequence[Tensor]) -> Tensor:
            first, second = tensors
            return torch.where(mask.view(mask.shape + (1,) * (first.dim() - mask.dim())), first, second)

        return cls._combine([yes, no], select)

    @classmethod
    def _combine(cls, items: Sequence[Self], function: Combine, on_shared: Combine | None = None) -> Self:
        changed = {}
        for field in dataclasses.fields(items[0]):  # type: ignore[arg-type]
            values = [getattr(item, field.name) for item in items]
            name = f"{cls.__name__}.{field.name}"
            if field.name not in cls.shared:
                changed[field.name] = _combine_values(name, values, function, on_shared)
            elif on_shared is not None:
                changed[field.name] = on_shared(values)
            else:
                changed[field.name] = _the_same(name, values)
        return dataclasses.replace(items[0], **changed)  # type: ignore[type-var]


def _combine_values(name: str, values: Sequence[Any], function: Combine, on_shared: Combine | None) -> Any:
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        kinds = ", ".join(dict.fromkeys("None" if v is None else type(v).__name__ for v in values))
        raise ValueError(f"{name} differs in structure ({kinds}); bring all to one structure first")
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(values)
    if isinstance(first, Struct):
        return type(first)._combine(values, function, on_shared)
    if isinstance(first, dict):
        if any(value.keys() != first.keys() for value in values):
            raise ValueError(f"{name} differs in its keys; bring all to one structure first")
        return {
            key: _combine_values(f"{name}[{key!r}]", [value[key] for value in values], function, on_shared)
            for key in first
        }
    raise TypeError(f"a Struct holds tensors, structs, dicts of tensors or None, not {type(first).__name__}")


def _the_same(name: str, values: Sequence[Tensor]) -> Tensor:
    first = values[0]
    if not all(value is first or torch.equal(value, first) for value in values):
        raise ValueError(f"{name} is shared by a whole batch, and differs in what is to be combined")
    return first
