"""Sampling a ragged number of points per map against torch's grid_sample."""

import pytest
import torch
from torch.nn.functional import grid_sample

from durotaxis.fusion import sample_map


def by_grid_sample(maps, points, batch):
    rows = []
    for point, image in zip(points, batch.tolist(), strict=True):
        grid = point.view(1, 1, 1, 2)
        sampled = grid_sample(maps[image : image + 1], grid, "bilinear", "border", align_corners=False)
        rows.append(sampled.flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(6, 6), (3, 5), (1, 1), (2, 1), (12, 12)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_equal_grid_sample(shape, channels_last):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, *shape, generator=generator, dtype=torch.float64)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    points = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 2.4 - 1.2
    batch = torch.randint(0, 3, (40,), generator=generator)
    weight = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    results = []
    for function in (sample_map, by_grid_sample):
        m, p = maps.clone().requires_grad_(), points.clone().requires_grad_()
        sampled = function(m, p, batch)
        (sampled * weight).sum().backward()
        results.append((sampled.detach(), m.grad, p.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_corners_and_directions():
    maps = torch.arange(4.0).view(1, 1, 2, 2)  # 0 1 / 2 3
    points = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    sampled = sample_map(maps, points, torch.zeros(5, dtype=torch.int64))
    assert sampled.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 1.5]


def test_no_points():
    sampled = sample_map(torch.randn(2, 4, 3, 3), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert sampled.shape == (0, 4)
