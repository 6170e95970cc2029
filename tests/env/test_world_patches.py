"""Patches: how much they cover, what they keep free, and the corridor against a flood of a fine grid."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from durotaxis.env import EnvConfig, reset, stiffness
from durotaxis.env.substrate import make_substrate, patches
from durotaxis.env.substrate.patches import has_corridor, max_discs
from durotaxis.env.substrate.plane import Plane

STEP = 0.5  # µm, spacing of the grid
HALF = 6.0  # µm, half the corridor


def world(**substrate):
    return EnvConfig(substrate={"kind": "patches", **substrate})


def make(config, num, first=0):
    return make_substrate(config.substrate, torch.arange(num) + first)


def places(substrate, config):
    """Centres (x, y) [B,P,2] and radii [B,P], by turning coordinates back in plain trigonometry."""
    angle, (width, height) = config.substrate.direction, config.substrate.size
    ux, uy = math.cos(angle), math.sin(angle)
    corners = np.array([(x, y) for x in (0, width) for y in (0, height)])
    s = substrate.patches.centre[..., 0].numpy() + (corners @ (ux, uy)).min()
    t = substrate.patches.centre[..., 1].numpy() + (corners @ (-uy, ux)).min()
    return np.stack([s * ux - t * uy, s * uy + t * ux], -1), substrate.patches.radius.numpy()


@cache
def grid(size):
    """Points [H,W,2] of the grid."""
    x, y = (np.arange(0, extent + STEP / 2, STEP) for extent in size)
    return np.stack(np.meshgrid(x, y), -1)


@cache
def start_box(direction, size):
    """[H,W] bool, grid points within the clamped start box, from points drawn in it and clamped."""
    ux, uy = math.cos(direction), math.sin(direction)
    corners = np.array([(x, y) for x in (0, size[0]) for y in (0, size[1])])
    s, t = corners @ (ux, uy), corners @ (-uy, ux)
    length, breadth = np.ptp(s), np.ptp(t)
    a, b = np.meshgrid(
        np.linspace(0, 0.1, 400) * length + s.min(), np.linspace(0.4, 0.6, 400) * breadth + t.min()
    )
    inside = np.clip(np.stack([a * ux - b * uy, a * uy + b * ux], -1), 0, size)
    mask = np.zeros(grid(size).shape[:2], dtype=bool)
    nearest = np.rint(inside / STEP).astype(int)
    mask[nearest[..., 1], nearest[..., 0]] = True
    return mask


def flood(centres, radii, direction, size, clearance):
    """Whether a disc's middle can go from the start box to the goal, `clearance` away from discs and walls."""
    points, start = grid(size), start_box(direction, size)
    free = np.ones(points.shape[:2], dtype=bool)
    for centre, radius in zip(centres, radii, strict=True):
        if radius > 0:
            free &= np.hypot(*np.moveaxis(points - centre, -1, 0)) >= radius + clearance
    ux, uy = math.cos(direction), math.sin(direction)
    s = points @ (ux, uy)
    # Walls are the outline but for the goal (all points with the largest s) and what the start touches.
    outline = np.zeros_like(free)
    outline[[0, -1]] = outline[:, [0, -1]] = True
    goal = s >= s.max() - 1e-6
    wall = outline & ~goal & ~start
    free &= ndimage.distance_transform_edt(~wall) * STEP >= clearance
    if goal.sum() == 1:  # a corner, which a disc can only come near to
        goal = np.hypot(*np.moveaxis(points - points[goal][0], -1, 0)) <= 2 * HALF
    labels, _ = ndimage.label(free, structure=np.ones((3, 3)))
    return bool((set(labels[start & free]) & set(labels[goal & free])) - {0})


def random_discs(config, seed):
    """3 to 15 discs that keep clear of the start (and of a goal that is a corner), whatever else they block."""
    rng = np.random.default_rng(seed)
    size, direction = config.substrate.size, config.substrate.direction
    start = grid(size)[start_box(direction, size)]
    s = grid(size).reshape(-1, 2) @ (math.cos(direction), math.sin(direction))
    goals = grid(size).reshape(-1, 2)[s >= s.max() - 1e-6]
    while True:
        centres, radii = rng.uniform((0, 0), size, (40, 2)), rng.uniform(10, 25, 40)
        clear = [
            np.hypot(*(start - c).T).min() > r + 6.5
            and (len(goals) > 1 or np.hypot(*(goals[0] - c)) > r + 18.5)
            for c, r in zip(centres, radii, strict=True)
        ]
        num = rng.integers(3, 16)
        yield centres[clear][:num], radii[clear][:num]


@pytest.mark.parametrize("direction", [0.0, math.pi / 2, -math.pi, 0.7, 2.5, -1.1])
def test_the_corridor_is_what_a_flood_finds(direction):
    config = world(direction=direction, size=(160.0, 90.0))
    size, plane = config.substrate.size, Plane.of(config.substrate)
    checked = {True: 0, False: 0}
    for count, (centres, radii) in zip(range(45), random_discs(config, 3), strict=False):
        wide, narrow = (flood(centres, radii, direction, size, HALF + d) for d in (0.8, -0.8))
        if wide != narrow:
            continue  # too close to call on a grid
        discs = (torch.tensor(part[None], dtype=torch.float32) for part in (centres, radii))
        found = has_corridor(*discs, plane, 12.0)
        assert bool(found) == wide, count
        checked[wide] += 1
    assert min(checked.values()) >= 4, checked


@pytest.mark.parametrize("direction", [0.0, math.pi / 2, 0.7, 2.5])
def test_every_substrate_has_its_corridor_and_free_start(direction):
    config = world(direction=direction)
    size = config.substrate.size
    substrate = make(config, 12, first=50)
    centres, radii = places(substrate, config)
    start = grid(size)[start_box(direction, size)]
    for centre, radius in zip(centres, radii, strict=True):
        assert flood(centre, radius, direction, size, HALF - 0.8)
        discs = centre[radius > 0], radius[radius > 0]
        for c, r in zip(*discs, strict=True):
            assert np.hypot(*(start - c).T).min() >= r + HALF - STEP
        assert ((discs[1] >= 10) & (discs[1] <= 25)).all()
    colony, substrate = reset(config, torch.arange(100))
    assert (stiffness(colony.position[:, :5], substrate) > 0.9).all()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (3.141593, math.pi),
        (3.14159, math.pi),
        (1.570796, math.pi / 2),
        (1.5708, math.pi / 2),
        (-1.570796, -math.pi / 2),
        (4.712389, 1.5 * math.pi),
        (6.283185, 2 * math.pi),
        (9e-6, 0.0),
        ([1, 1e-6], 0.0),
        ([-1, -1e-6], -math.pi),
        ([1e-7, 2.0], math.pi / 2),
    ],
)
def test_a_typed_right_angle_is_one(typed, meant):
    config, exact = world(direction=typed), world(direction=meant)
    assert config.substrate == exact.substrate
    (colony, substrate), (_, same) = (reset(each, torch.arange(3)) for each in (config, exact))
    assert torch.equal(substrate.patches.centre, same.patches.centre)
    assert (stiffness(colony.position[:, :5], substrate) > 0.9).all()


@pytest.mark.parametrize("direction", [1.1e-5, math.pi - 2e-5, math.pi / 2 + 1e-4, -1e-3])
@pytest.mark.parametrize("size", [(200.0, 100.0), (1000.0, 60.0)])
def test_a_direction_a_little_off_a_right_angle_works(direction, size):
    config = world(direction=direction, size=size, patches={"covered": 0.2})
    assert config.substrate.direction == direction
    plane = Plane.of(config.substrate)
    assert len(plane.goal_corners) == 1
    substrate = make(config, 2)
    centres, radii = (torch.from_numpy(part).float() for part in places(substrate, config))
    assert has_corridor(centres, radii, plane, 12.0).all()


def test_patches_cover_what_they_should():
    config = world()
    substrate = make(config, 40)
    points = torch.from_numpy(grid((200.0, 100.0))).float().reshape(1, -1, 2).expand(40, -1, -1)
    share = (stiffness(points, substrate) == 0.15).float().mean(1)
    assert float((share - 0.35).abs().mean()) < 0.015
    assert float((share - 0.35).abs().max()) < 0.06, "half a disc at most"
    assert ((substrate.patches.radius > 0).sum(1) < max_discs(config.substrate)).all()
    half = make(world(patches={"covered": 0.175}), 40)
    share = (stiffness(points, half) == 0.15).float().mean(1)
    assert float((share - 0.175).abs().mean()) < 0.02


def test_without_a_corridor_all_discs_are_drawn_again():
    """A substrate whose first draw is good is the same whatever the corridor; others differ."""
    wide, narrow = make(world(), 100), make(world(patches={"corridor": 0.01}), 100)
    same = (wide.patches.radius == narrow.patches.radius).all(1)
    assert 5 < int(same.sum()) < 90
    directions = make(world(), 1).patches.centre
    assert torch.equal(directions, wide.patches.centre[:1])


@pytest.mark.parametrize(
    ("size", "values"),
    [
        ((1000.0, 100.0), {"covered": 0.55}),
        ((200.0, 100.0), {"covered": 0.6, "corridor": 45.0}),
        ((200.0, 100.0), {"covered": 0.79, "radius": (5.0, 9.0)}),
    ],
)
def test_where_no_draw_has_a_corridor_as_few_discs_as_need_be_are_left_out(size, values):
    config = world(size=size, patches=values)
    corridor, plane = config.substrate.patches.corridor, Plane.of(config.substrate)
    substrate = make(config, 3)
    centres, radii = (torch.from_numpy(part).float() for part in places(substrate, config))
    assert has_corridor(centres, radii, plane, corridor).all()
    seeds = torch.arange(3)
    drawn = patches._draw(config.substrate, plane, seeds, patches.MAX_ATTEMPTS - 1, radii.shape[1])
    for centre, radius, kept in zip(drawn[0], drawn[1], radii, strict=True):
        num = int((kept > 0).sum())
        assert torch.equal(kept[:num], radius[:num])
        assert not kept[num:].any()
        more = torch.where(torch.arange(len(radius)) <= num, radius, 0.0)
        assert not has_corridor(centre[None], more[None], plane, corridor).any(), "one more closes the way"
