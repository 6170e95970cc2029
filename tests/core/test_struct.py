"""Frozen dataclasses of tensors: every method against what it does to each field."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from torch import Tensor

from durotaxis.core.struct import Struct


@dataclass(frozen=True)
class Inner(Struct):
    value: Tensor


@dataclass(frozen=True)
class Outer(Struct):
    matrix: Tensor
    flag: Tensor
    inner: Inner
    terms: dict[str, Tensor]
    missing: Tensor | None = None


def make(start=0, batch=3):
    rows = torch.arange(start, start + batch)
    return Outer(
        matrix=rows[:, None] * torch.ones(1, 4),
        flag=rows % 2 == 0,
        inner=Inner(rows[:, None, None] * torch.ones(1, 2, 2)),
        terms={"a": rows.float(), "b": -rows},
    )


def leaves(value):
    return [value.matrix, value.flag, value.inner.value, *value.terms.values()]


def test_map_and_to_reach_every_tensor():
    value = make()
    for got, had in zip(leaves(value.map(lambda t: t.double() + 1)), leaves(value), strict=True):
        assert torch.equal(got, had.double() + 1)
    assert value.map(torch.clone).missing is None
    assert value.to("cpu").matrix.device.type == "cpu"


@pytest.mark.parametrize(
    "index", [1, slice(0, 2), torch.tensor([2, 0, 0]), torch.tensor([True, False, True])]
)
def test_indexing_takes_the_same_rows_of_every_field(index):
    value = make()
    for got, had in zip(leaves(value[index]), leaves(value), strict=True):
        assert torch.equal(got, had[index])


def test_stack_flatten_and_cat():
    parts = [make(0), make(10), make(20)]
    stacked = Outer.stack(parts)
    assert stacked.matrix.shape == (3, 3, 4)
    joined = Outer.cat(parts)
    for flat, long in zip(leaves(stacked.flatten()), leaves(joined), strict=True):
        assert torch.equal(flat, long)
    assert torch.equal(stacked[1].inner.value, parts[1].inner.value)
    assert Outer.stack(parts, 1).terms["a"].shape == (3, 3)
    assert joined.missing is None


def test_where_chooses_rows():
    mask = torch.tensor([True, False, True])
    yes, no = make(0), make(100)
    got = Outer.where(mask, yes, no)
    for k in range(3):
        for have, want in zip(leaves(got[k]), leaves((yes if mask[k] else no)[k]), strict=True):
            assert torch.equal(have, want)


def test_nothing_is_changed_in_place():
    value = make()
    copies = [t.clone() for t in leaves(value)]
    Outer.where(torch.tensor([True, False, True]), value, make(5))
    value.map(lambda t: t + 1)
    for had, copy in zip(leaves(value), copies, strict=True):
        assert torch.equal(had, copy)
    with pytest.raises(FrozenInstanceError):
        value.matrix = copies[0]


def test_a_foreign_field_is_refused():
    @dataclass(frozen=True)
    class Odd(Struct):
        word: str

    with pytest.raises(TypeError, match="str"):
        Odd("x").map(torch.clone)
