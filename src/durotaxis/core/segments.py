"""Reductions over the nodes of each colony in a flat batch: values [n, ...], index [n] of each colony."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> torch.dtype:
    """The type in which many values may be added up: their own, but not below float32."""
    return torch.promote_types(values.dtype, torch.float32)


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Sum per segment, [num_segments, ...], in float32 or better; an empty segment gives 0."""
    values = values.to(at_least_float32(values))
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Mean per segment, [num_segments, ...]; an empty segment gives 0."""
    total = segment_sum(values, index, num_segments)
    counts = torch.bincount(index, minlength=num_segments).clamp_min(1).to(total.dtype)
    return total / counts.view(-1, *(1,) * (values.dim() - 1))


def segment_max(values: Tensor, index: Tensor, num_segments: int, empty: float = 0.0) -> Tensor:
    """Maximum per segment, [num_segments, ...]; an empty segment gives `empty`."""
    where = index.view(-1, *(1,) * (values.dim() - 1)).expand_as(values)
    result = values.new_full((num_segments, *values.shape[1:]), -torch.inf)
    result = result.scatter_reduce(0, where, values, "amax")
    return torch.where(torch.isneginf(result), torch.full_like(result, empty), result)


def segment_softmax(scores: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Softmax within each segment, same shape as `scores`."""
    shifted = (scores - segment_max(scores.detach(), index, num_segments)[index]).exp()
    return shifted / segment_sum(shifted, index, num_segments)[index]
