"""Segment reductions against a loop over segments, values and gradients."""

from __future__ import annotations

import pytest
import torch

from durotaxis.core.segments import segment_max, segment_mean, segment_softmax, segment_sum

ROWS = torch.tensor([0, 3, 3, 1, 0, 3, 1, 3])
NUM = 5  # segments 2 and 4 are empty


def loop(function, values, empty):
    rows = [values[(ROWS - k) == 0] for k in range(NUM)]
    blank = torch.full_like(values[0], empty)
    return torch.stack([function(row) if len(row) else blank for row in rows])


CASES = {
    "sum": (segment_sum, lambda row: row.sum(0)),
    "mean": (segment_mean, lambda row: row.mean(0)),
    "max": (segment_max, lambda row: row.amax(0)),
}


def values(shape, dtype=torch.float64):
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("name", CASES)
def test_reductions_equal_a_loop(name, shape):
    ours, oracle = CASES[name]
    first, second = values(shape), values(shape)
    got, expected = ours(first, ROWS, NUM), loop(oracle, second, 0.0)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_softmax_equals_a_loop(shape):
    first, second = values(shape), values(shape)
    got = segment_softmax(first, ROWS, NUM)
    expected = torch.empty_like(second)
    for k in range(NUM):
        expected = expected.index_put((torch.where((ROWS - k) == 0)[0],), second[(ROWS - k) == 0].softmax(0))
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_softmax_survives_large_scores():
    scores = torch.tensor([1e4, 1e4, -1e4, 3.0])
    index = torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(segment_softmax(scores, index, 2), torch.tensor([0.5, 0.5, 0.0, 1.0]))


def test_an_empty_segment_has_the_stated_maximum():
    got = segment_max(torch.tensor([-3.0, -1.0]), torch.tensor([1, 1]), 3, empty=7.0)
    assert got.tolist() == [7.0, -1.0, 7.0]


def test_no_rows_at_all():
    empty, index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    for function in (segment_sum, segment_mean, segment_max):
        assert torch.equal(function(empty, index, 2), torch.zeros(2, 3))
    assert segment_softmax(empty, index, 2).shape == (0, 3)


def test_the_order_of_rows_does_not_matter():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    rows = values((3,)).detach()
    for function in (segment_sum, segment_mean, segment_max):
        torch.testing.assert_close(function(rows[order], ROWS[order], NUM), function(rows, ROWS, NUM))
