"""Frozen dataclasses of tensors: every method against what it does to each field."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace
from typing import ClassVar

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


def test_put_replaces_rows_and_leaves_the_rest():
    value, other = make(batch=5), make(start=50, batch=2)
    changed = value.put(torch.tensor([4, 1]), other)
    for got, had, new in zip(leaves(changed), leaves(value), leaves(other), strict=True):
        assert torch.equal(got[[0, 2, 3]], had[[0, 2, 3]])
        assert torch.equal(got[[4, 1]], new)
    assert torch.equal(value.matrix, make(batch=5).matrix), "the value itself stays as it was"


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


@dataclass(frozen=True)
class Tabled(Struct):
    shared: ClassVar[tuple[str, ...]] = ("table",)

    row: Tensor
    table: Tensor


@dataclass(frozen=True)
class Holder(Struct):
    value: Tensor
    part: Tabled | None


def tabled(start=0, table=None):
    return Holder(
        torch.arange(start, start + 3),
        Tabled(torch.arange(3) + start, torch.ones(5) if table is None else table),
    )


def test_a_shared_field_is_left_alone_and_moves():
    table = torch.arange(5.0)
    one, two = tabled(0, table), tabled(10, table)
    mask = torch.tensor([True, False, True])
    for value in (
        one[1:],
        one.map(lambda t: t + 1),
        Holder.cat([one, two]),
        Holder.stack([one, two]).flatten(),
        Holder.where(mask, one, two),
    ):
        assert value.part.table is table
    assert Holder.cat([one, tabled(10, table.clone())]).part.row.tolist() == [0, 1, 2, 10, 11, 12]
    assert one.to("meta").part.table.device.type == "meta"


@pytest.mark.parametrize("combine", [Holder.cat, Holder.stack])
def test_different_shared_fields_are_not_combined(combine):
    with pytest.raises(ValueError, match=r"Tabled\.table is shared by a whole batch, and differs"):
        combine([tabled(), tabled(0, torch.zeros(5))])


def test_different_structures_are_not_combined():
    full, bare = tabled(), Holder(torch.arange(3), None)
    mask = torch.tensor([True, False, True])
    for combine in (Holder.cat, Holder.stack, lambda items: Holder.where(mask, *items)):
        for items in ([full, bare], [bare, full]):
            with pytest.raises(ValueError, match=r"Holder\.part differs in structure .*None"):
                combine(items)
    short = replace(make(), terms={"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"Outer\.terms differs in its keys"):
        Outer.cat([make(), short])


def test_a_struct_comes_back_from_plain_dicts():
    for value in (tabled(), Holder(torch.arange(3), None)):
        plain = value.to_dict()
        assert type(plain["part"]) in (dict, type(None))
        back = Holder.from_dict(plain)
        assert type(back.part) is type(value.part)
        assert torch.equal(back.value, value.value)
        assert back.part is None or torch.equal(back.part.row, value.part.row)
