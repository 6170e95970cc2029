"""Substrates against their closed forms and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, log_gradient, reset, stiffness
from durotaxis.env.substrate import (
    EXPONENTIAL,
    LINEAR,
    coordinates,
    from_coordinates,
    is_inside,
    make_substrate,
)
from reference.ground import read_ground

DIRECTIONS = (0.0, 0.7, math.pi / 2, 2.5, math.pi, -1.1)


def world(kind="linear", **substrate):
    return EnvConfig(substrate={"kind": kind, **substrate})


def make(config, num=1, first=0):
    return make_substrate(config.substrate, torch.arange(num) + first)


def scattered(config, num, seed=0):
    """Points all over the substrate, [1,num,2]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, num, 2, generator=generator) * torch.tensor(config.substrate.size)


def test_the_defaults_along_x():
    points = torch.tensor([[[0.0, 3.0], [40.0, 99.0], [200.0, 50.0]]])
    linear = stiffness(points, make(world("linear")))
    assert linear[0].tolist() == pytest.approx([1.0, 3.0, 11.0], rel=1e-6)
    exponential = stiffness(points, make(world("exponential")))
    assert exponential[0].tolist() == pytest.approx([1.0, math.exp(0.3), math.exp(1.5)], rel=1e-6)
    assert stiffness(points, make(world("uniform")))[0].tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["linear", "exponential", "uniform", "moat"])
def test_values_and_gradients_equal_the_reference_everywhere(kind, direction):
    config = world(kind, direction=direction, size=(90.0, 60.0), moat={"num_bridges": 2})
    substrate = make(config, 3, first=11)
    points = scattered(config, 300).expand(3, -1, -1)
    values, (along, across) = stiffness(points, substrate), log_gradient(points, substrate)
    s, t = coordinates(points, substrate)
    for row in range(3):
        ground = read_ground(config, substrate, row)
        for n, (x, y) in enumerate(points[row].tolist()):
            assert float(s[row, n]) == pytest.approx(ground.along(x, y), abs=3e-5)
            assert float(t[row, n]) == pytest.approx(ground.across(x, y), abs=3e-5)
            if not ground.near_edge(x, y):
                gradient = [float(along[row, n]), float(across[row, n])]
                assert float(values[row, n]) == pytest.approx(ground.stiffness(x, y), rel=1e-5)
                assert gradient == pytest.approx(list(ground.log_gradient(x, y)), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_coordinates_span_the_extents_and_turn_back(direction):
    config = world(direction=direction, size=(90.0, 60.0))
    substrate = make(config)
    corners = torch.tensor([[[0.0, 0.0], [90.0, 0.0], [0.0, 60.0], [90.0, 60.0]]])
    s, t = coordinates(corners, substrate)
    assert float(s.min()) == pytest.approx(0.0, abs=2e-5)
    assert float(t.min()) == pytest.approx(0.0, abs=2e-5)
    assert (float(s.max()), float(t.max())) == pytest.approx(config.substrate.extent, rel=1e-6)
    assert substrate.extent[0].tolist() == pytest.approx(list(config.substrate.extent), rel=1e-6)
    points = scattered(config, 50)
    torch.testing.assert_close(
        from_coordinates(*coordinates(points, substrate), substrate), points, atol=5e-5, rtol=0
    )


@pytest.mark.parametrize("kind", ["linear", "exponential", "moat"])
@pytest.mark.parametrize("direction", [0.0, 0.7])
def test_gradients_are_finite_differences_of_the_logarithm(kind, direction):
    config = world(kind, direction=direction)
    substrate = make(config)
    double = type(substrate)(
        **{
            name: value.double() if value.is_floating_point() else value
            for name, value in vars(substrate).items()
        }
    )
    points, h = scattered(config, 200).double(), 1e-4
    ground = read_ground(config, substrate, 0)
    smooth = torch.tensor([[not ground.near_edge(x, y) for x, y in points[0].tolist()]])
    unit = torch.tensor([math.cos(direction), math.sin(direction)], dtype=torch.float64)
    left = torch.tensor([-unit[1], unit[0]], dtype=torch.float64)
    for gradient, axis in zip(log_gradient(points, double), (unit, left), strict=True):
        up, down = (stiffness(points + sign * h * axis, double).log() for sign in (1, -1))
        difference = (up - down) / (2 * h)
        torch.testing.assert_close(gradient[smooth], difference[smooth], atol=1e-7, rtol=1e-5)


def test_across_is_to_the_left_of_along():
    config = world(direction=0.0)
    s, t = coordinates(torch.tensor([[[12.0, 34.0]]]), make(config))
    assert (float(s), float(t)) == (12.0, 34.0)
    s, t = coordinates(torch.tensor([[[12.0, 34.0]]]), make(world(direction=math.pi / 2)))
    assert (float(s), float(t)) == pytest.approx((34.0, 200.0 - 12.0), abs=1e-4)


@pytest.mark.parametrize("num_bridges", [0, 1, 3])
def test_the_moat_is_a_band_with_whole_bridges(num_bridges):
    config = world("moat", moat={"num_bridges": num_bridges, "bridge_width": 10.0})
    substrate = make(config, 64)
    x = torch.linspace(0.0, 200.0, 81)
    y = torch.linspace(0.0, 100.0, 401)
    line = torch.stack([x, torch.full_like(x, 0.0)], -1).expand(64, -1, -1)
    ground = 1 + 0.05 * x
    soft = stiffness(line, substrate) < ground - 0.1
    assert not soft[:, (x < 84.9) | (x > 115.1)].any()
    middle = torch.stack([torch.full_like(y, 100.0), y], -1).expand(64, -1, -1)
    values = stiffness(middle, substrate)
    hard = values > 1
    torch.testing.assert_close(values[~hard], torch.full_like(values[~hard], 0.15))
    torch.testing.assert_close(values[hard], torch.full_like(values[hard], 6.0))
    width = hard.sum(1) * 0.25
    assert (width <= 10.5 * num_bridges).all()
    if num_bridges:
        assert (width >= 9.5).all(), "a bridge lies wholly inside"
    for slope in log_gradient(middle, substrate):
        assert not slope[~hard].any()


def test_bridges_are_spread_evenly_over_the_seeds():
    config = world("moat")
    substrate = make(config, 2000)
    places = substrate.bridges[:, 0].numpy()
    assert places.min() >= 8.0
    assert places.max() <= 92.0
    assert kstest(places, "uniform", (8.0, 84.0)).pvalue > 1e-3


def test_random_ground_stays_in_its_ranges_and_fills_them():
    substrate = make(world("random"), 2000)
    is_linear = substrate.ground == LINEAR
    assert ((substrate.ground == EXPONENTIAL) | is_linear).all()
    assert 850 < int(is_linear.sum()) < 1150
    ranges = ((is_linear, (0.01, 0.1), (0.5, 2.0)), (~is_linear, (0.004, 0.008), (0.8, 1.5)))
    for rows, slopes, bases in ranges:
        for values, (low, high) in ((substrate.slope[rows], slopes), (substrate.base[rows], bases)):
            assert float(values.min()) >= low - 1e-6
            assert float(values.max()) <= high + 1e-6
            assert kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
        pair = torch.stack([substrate.slope[rows], substrate.base[rows]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.12, "slope and base are drawn apart"


@pytest.mark.parametrize("kind", ["random", "moat"])
def test_a_substrate_depends_on_its_own_seed_alone(kind):
    config = world(kind)
    many = make(config, 50)
    for seed in (0, 7, 49):
        one = make_substrate(config.substrate, torch.tensor([seed]))
        for name, value in vars(one).items():
            assert torch.equal(value[0], getattr(many, name)[seed]), name
    drawn = many.slope if kind == "random" else many.bridges
    assert len(set(drawn.flatten().tolist())) > 45


def test_inside_includes_the_border():
    substrate = make(world())
    points = [[0.0, 0.0], [200.0, 100.0], [-1e-3, 5.0], [200.1, 5.0], [5.0, 100.1], [5.0, -0.1]]
    assert is_inside(torch.tensor([points]), substrate)[0].tolist() == [True, True] + [False] * 4


def test_points_outside_have_a_finite_positive_stiffness():
    """A child may be left outside where the boundary ends the episode; its last observation is still read."""
    points = torch.tensor([[[-20.0, 5.0], [220.0, 5.0], [50.0, -20.0], [50.0, 120.0]]])
    for kind, values in (("linear", {"slope": 0.1, "base": 0.2}), ("exponential", {}), ("moat", {})):
        config = world(kind, **values)
        substrate = make(config)
        value = stiffness(points, substrate)
        assert (value >= 0.1).all()
        assert (value <= 200).all()
        assert all(torch.isfinite(part).all() for part in log_gradient(points, substrate))


@pytest.mark.parametrize(
    "substrate",
    [
        {"kind": "linear", "slope": -0.05},
        {"kind": "linear", "base": 0.05},
        {"kind": "exponential", "slope": 0.05},
        {"kind": "uniform", "base": 201.0},
        {"kind": "uniform", "slope": 0.1},
        {"kind": "random", "slope": 0.1},
        {"kind": "moat", "moat": {"stiffness": 0.01}},
        {"kind": "moat", "moat": {"width": 200.0}},
        {"kind": "moat", "moat": {"bridge_width": 101.0}},
        {"kind": "lava"},
        {"size": (0.0, 10.0)},
        {"slope": float("nan")},
    ],
)
def test_impossible_substrates_are_refused(substrate):
    with pytest.raises((UserError, ValidationError)):
        EnvConfig(substrate=substrate)


def test_a_mixed_batch_keeps_every_row_its_own_field():
    configs = [world("linear"), world("exponential"), world("uniform"), world("linear", slope=0.02)]
    rows = [make(config, 1, seed) for seed, config in enumerate(configs)]
    mixed = type(rows[0]).cat(rows)
    points = scattered(configs[0], 40)
    together = stiffness(points.expand(4, -1, -1), mixed)
    for row, substrate in enumerate(rows):
        assert torch.equal(together[row], stiffness(points, substrate)[0])


def test_reset_starts_where_the_colony_belongs():
    for direction in (0.0, 2.4):
        config = EnvConfig(substrate={"direction": direction}, num_initial_nodes=5)
        colony, substrate = reset(config, torch.arange(400))
        extent, breadth = config.substrate.extent
        s, t = coordinates(colony.position[:, :5], substrate)
        inside = is_inside(colony.position[:, :5], substrate)
        assert inside.all()
        assert (s[:, 1:] >= s[:, :-1]).all(), "a chain ordered along the direction"
        assert colony.parent[:, :5].tolist() == [[-1, 0, 1, 2, 3]] * 400
        assert colony.node_id[:, :5].tolist() == [list(range(5))] * 400
        assert (colony.next_id == 5).all()
        if direction == 0.0:
            assert float(s.max()) <= 0.1 * extent
            assert 0.4 * breadth <= float(t.min())
            assert float(t.max()) <= 0.6 * breadth
            assert kstest(s.flatten().numpy(), "uniform", (0, 0.1 * extent)).pvalue > 1e-3
            assert kstest(t.flatten().numpy(), "uniform", (0.4 * breadth, 0.2 * breadth)).pvalue > 1e-3
