"""The picture against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from durotaxis.env import EnvConfig, observe, reset, step
from reference.colonies import colony_at, random_action
from reference.ground import read_ground
from reference.views import picture
from reference.world import read_world

KINDS = {
    "linear": {"kind": "linear"},
    "exponential": {"kind": "exponential"},
    "slanted moat": {"kind": "moat", "direction": 0.5, "moat": {"num_bridges": 2}},
    "moat": {"kind": "moat"},
    "stripes": {"kind": "stripes"},
    "slanted patches": {"kind": "patches", "direction": 2.0},
    "noise": {"kind": "noise", "direction": -1.5707963267948966},
}


def world(kind="linear", **observation):
    return EnvConfig(
        substrate=KINDS[kind],
        max_nodes=12,
        critical_nodes=5,
        delta_time=0,
        observation={"field": True, **observation},
    )


@pytest.mark.parametrize("frame", ["colony", "substrate"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_equals_a_loop_over_pixels(kind, frame):
    config = world(kind, frame=frame, frame_size=93.0)
    colony, substrate = reset(config, torch.arange(2) + 40)
    generator = torch.Generator().manual_seed(2)
    checked = 0
    for t in range(9):
        action = random_action(colony, config, generator, [[2, 5, 2], [2, 4, 3]])
        colony = step(colony, action, substrate, config).colony
        if t % 3:
            continue
        field = observe(colony, substrate, config).field
        for row in range(2):
            expected, sure = picture(read_world(colony, row), read_ground(config, substrate, row), config)
            got = field[row].numpy()
            equal = np.abs(got - expected) <= 2e-5
            assert equal[sure].all(), (t, row, np.argwhere(sure & ~equal)[:5])
            assert ((got >= 0) & (got <= 1)).all()
            assert sure[0].mean() > 0.9
            checked += bool(sure[1:].all())
    assert checked >= 3


def test_nodes_are_counted_and_up_is_the_first_row():
    config = world(frame="substrate")
    points = [(1.0, 99.0)] * 3 + [(199.0, 1.0)] + [(100.0 + 1e-2, 50.0 - 1e-2)] * 6
    colony = colony_at(points, config, marked=(0, 3))
    _, substrate = reset(config, torch.tensor([0]))
    field = observe(colony, substrate, config).field[0]
    counts = torch.zeros(24, 24)
    counts[0, 0], counts[23, 23], counts[12, 12] = 0.75, 0.25, 1.0
    assert torch.equal(field[1], counts)
    marks = torch.zeros(24, 24)
    marks[0, 0] = marks[23, 23] = 0.25
    assert torch.equal(field[2], marks)
    assert (field[0].diff(dim=1) > 0).all(), "stiffer to the right"
    torch.testing.assert_close(field[0], field[0, :1].expand(24, 24))


def test_nodes_on_the_border_of_the_substrate_are_counted():
    config = world(frame="substrate")
    corners = [(0.0, 0.0), (200.0, 0.0), (0.0, 100.0), (200.0, 100.0)]
    _, substrate = reset(config, torch.tensor([0]))
    field = observe(colony_at(corners, config), substrate, config).field[0]
    assert [float(field[1, r, c]) for r, c in ((23, 0), (23, 23), (0, 0), (0, 23))] == [0.25] * 4
    assert float(field[1].sum()) == 1.0


def test_outside_the_substrate_the_picture_is_empty():
    config = world(frame_size=120.0)
    colony = colony_at([(10.0, 50.0), (12.0, 50.0)], config)
    _, substrate = reset(config, torch.tensor([0]))
    seen = observe(colony, substrate, config)
    assert seen.frame_low[0].tolist() == pytest.approx([-49.0, -10.0])
    assert seen.frame_high[0].tolist() == pytest.approx([71.0, 110.0])
    field = seen.field[0]
    assert not field[0, :2].any()
    assert not field[0, 22:].any()
    assert not field[0, :, :9].any()
    assert (field[0, 2:22, 10:] > 0.2).all()


def test_nodes_outside_the_frame_are_left_out():
    config = world(frame_size=20.0)
    colony = colony_at([(10.0, 50.0), (90.0, 50.0), (50.0, 51.0), (50.0, 49.0)], config)
    _, substrate = reset(config, torch.tensor([0]))
    assert float(observe(colony, substrate, config).field[0, 1].sum()) == 0.5


def test_the_picture_is_off_unless_asked_for():
    config = EnvConfig()
    colony, substrate = reset(config, torch.arange(2))
    assert observe(colony, substrate, config).field is None
    on = world()
    empty = colony_at([(10.0, 50.0)], on).map(torch.zeros_like)
    _, substrate = reset(on, torch.arange(1))
    seen = observe(empty, substrate, on)
    assert torch.isfinite(seen.field).all()
    assert not seen.field[0, 1:].any()
