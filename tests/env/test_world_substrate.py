"""Substrates of every kind against the reference, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from durotaxis.env import EnvConfig, log_gradient, reset, stiffness
from durotaxis.env.substrate import (
    EXPONENTIAL,
    LINEAR,
    STEP,
    UNIFORM,
    Substrate,
    coordinates,
    from_coordinates,
    is_inside,
    join,
    lattice_coordinates,
    make_substrate,
    stiffness_at,
)
from reference.colonies import tensors_of
from reference.ground import read_ground
from reference.maps import write_csv, write_png

DIRECTIONS = (0.0, 0.7, math.pi / 2, 2.5, math.pi, -1.1)
SIZE = (90.0, 60.0)
WORLDS = {
    "linear": {"kind": "linear"},
    "exponential": {"kind": "exponential"},
    "uniform": {"kind": "uniform"},
    "step": {"kind": "step", "step": {"position": 0.4}},
    "ramp": {"kind": "step", "step": {"low": 7.0, "high": 2.0, "ramp": 25.0}},
    "moat": {"kind": "moat", "moat": {"num_bridges": 2}},
    "stripes": {"kind": "stripes", "stripes": {"lane_width": 11.0, "shift_every": 30.0, "gap": 7.0}},
    "patches": {"kind": "patches", "ground": "exponential", "patches": {"radius": (6.0, 9.0)}},
    "noise": {"kind": "noise", "noise": {"amplitude": 0.4, "length": 13.0}},
    "noise over a ramp": {"kind": "noise", "ground": "step", "step": {"ramp": 40.0}},
    "map": {"kind": "map"},
    "moat over a map": {"kind": "moat", "ground": "map"},
    "random": {"kind": "random"},
    "random obstacles": {
        "kind": "random",
        "random": {"kinds": ["exponential", "step", "stripes", "patches", "moat", "noise", "uniform"]},
        "patches": {"radius": (6.0, 9.0)},
    },
    "stripes over random ground": {"kind": "stripes", "ground": "random"},
}
SMOOTH = ("linear", "exponential", "uniform", "ramp", "noise", "noise over a ramp", "map")


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("maps") / "map.csv")


@pytest.fixture
def config_of(csv_file):
    """Name of a world and direction -> configuration."""

    def build(name, direction=0.0, **values):
        substrate = {**WORLDS[name], "direction": direction, **values}
        if "map" in (substrate["kind"], substrate.get("ground")):
            substrate["map"] = {"file": csv_file, "micrometres_per_pixel": 5.0}
        else:
            substrate.setdefault("size", SIZE)
        return EnvConfig(substrate=substrate)

    return build


def world(kind="linear", **substrate):
    return EnvConfig(substrate={"kind": kind, **substrate})


def make(config, num=1, first=0):
    return make_substrate(config.substrate, torch.arange(num) + first)


def scattered(config, num, seed=0):
    """Points all over the substrate, [1,num,2]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, num, 2, generator=generator) * torch.tensor(config.substrate.size)


def in_double(substrate):
    return substrate.map(lambda value: value.double() if value.is_floating_point() else value)


def lowest_projections(config):
    """The least projection of a corner onto the direction, and onto the one to its left."""
    angle, (width, height) = config.substrate.direction, config.substrate.size
    corners = [(x, y) for x in (0.0, width) for y in (0.0, height)]
    units = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    return [min(x * ux + y * uy for x, y in corners) for ux, uy in units]


def test_the_defaults_along_x():
    points = torch.tensor([[[0.0, 3.0], [40.0, 99.0], [200.0, 50.0]]])
    linear = stiffness(points, make(world("linear")))
    assert linear[0].tolist() == pytest.approx([1.0, 3.0, 11.0], rel=1e-6)
    exponential = stiffness(points, make(world("exponential")))
    assert exponential[0].tolist() == pytest.approx([1.0, math.exp(0.3), math.exp(1.5)], rel=1e-6)
    assert stiffness(points, make(world("uniform")))[0].tolist() == [6.0, 6.0, 6.0]
    assert stiffness(points, make(world("step")))[0].tolist() == [1.0, 1.0, 10.0]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", WORLDS)
def test_values_and_gradients_equal_the_reference_everywhere(config_of, name, direction):
    config = config_of(name, direction)
    substrate = make(config, 4, first=11)
    points = scattered(config, 150).expand(4, -1, -1)
    values, (along, across) = stiffness(points, substrate), log_gradient(points, substrate)
    s, t = coordinates(points, substrate)
    for row in range(4):
        ground = read_ground(config, substrate, row)
        for n, (x, y) in enumerate(points[row].tolist()):
            assert float(s[row, n]) == pytest.approx(ground.along(x, y), abs=3e-5)
            assert float(t[row, n]) == pytest.approx(ground.across(x, y), abs=3e-5)
            if not ground.near_edge(x, y):
                gradient = [float(along[row, n]), float(across[row, n])]
                assert float(values[row, n]) == pytest.approx(ground.stiffness(x, y), rel=3e-5)
                assert gradient == pytest.approx(list(ground.log_gradient(x, y)), rel=1e-4, abs=2e-6)


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


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("direction", [0.0, 0.7])
def test_gradients_are_finite_differences_of_the_logarithm(config_of, name, direction):
    config = config_of(name, direction)
    double = in_double(make(config, 3))
    points, h = scattered(config, 200).double().expand(3, -1, -1), 1e-4
    grounds = [read_ground(config, double, row) for row in range(3)]
    smooth = torch.tensor([[not g.near_edge(x, y, 1.0) for x, y in points[0].tolist()] for g in grounds])
    assert smooth.float().mean() > 0.3
    unit = torch.tensor([math.cos(direction), math.sin(direction)], dtype=torch.float64)
    left = torch.tensor([-unit[1], unit[0]], dtype=torch.float64)
    inside = ((points > h) & (points < torch.tensor(config.substrate.size) - h)).all(-1)
    for gradient, axis in zip(log_gradient(points, double), (unit, left), strict=True):
        up, down = (stiffness(points + sign * h * axis, double).log() for sign in (1, -1))
        difference = (up - down) / (2 * h)
        where = smooth & inside
        torch.testing.assert_close(gradient[where], difference[where], atol=2e-7, rtol=1e-4)


@pytest.mark.parametrize("name", SMOOTH)
def test_what_has_no_jumps_is_continuous(config_of, name):
    config = config_of(name, 0.4)
    double = in_double(make(config))
    ends = scattered(config, 2, seed=5).double()
    line = ends[:, :1] + torch.linspace(0, 1, 40_001, dtype=torch.float64)[:, None] * (
        ends[:, 1:] - ends[:, :1]
    )
    assert stiffness(line, double).log().diff().abs().max() < 2e-3


def test_across_is_to_the_left_of_along():
    config = world(direction=0.0)
    s, t = coordinates(torch.tensor([[[12.0, 34.0]]]), make(config))
    assert (float(s), float(t)) == (12.0, 34.0)
    s, t = coordinates(torch.tensor([[[12.0, 34.0]]]), make(world(direction=math.pi / 2)))
    assert (float(s), float(t)) == pytest.approx((34.0, 200.0 - 12.0), abs=1e-4)


@pytest.mark.parametrize(
    ("vector", "angle"),
    [([1, 0], 0.0), ([0, 3.0], math.pi / 2), ([-2.0, 0], math.pi), ((3.0, -4.0), math.atan2(-4, 3))],
)
def test_a_direction_may_be_a_vector(vector, angle):
    assert world(direction=vector) == world(direction=angle)


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


@pytest.mark.parametrize("direction", [0.2, 0.5, math.pi / 4, 1.0, 2.5, -1.1])
def test_a_slanted_moat_has_its_bridges_on_the_substrate(direction):
    """At every s of the band, both sides of every bridge are places (x, y) within the rectangle."""
    config = world("moat", direction=direction, moat={"num_bridges": 2})
    moat = make(config, 200).moat
    s0, t0 = lowest_projections(config)
    ux, uy = math.cos(direction), math.sin(direction)
    s = s0 + config.substrate.extent[0] / 2 + torch.linspace(-15.0, 15.0, 31)
    t = t0 + torch.cat([moat.bridges - 8.0, moat.bridges + 8.0]).flatten()[:, None]
    x, y = s * ux - t * uy, s * uy + t * ux
    assert ((x > -1e-3) & (x < 200.001) & (y > -1e-3) & (y < 100.001)).all()
    assert float(moat.bridges.max() - moat.bridges.min()) > 30.0, "all over the band"


def test_stripes_are_lanes_that_shift_amid_gaps():
    """The map of the defaults, by hand: lanes of 20 µm from y = 10, shifts at 60 and 120, gaps of 16."""
    substrate = make(world("stripes"))
    rows = {5.0: "g.g", 20.0: ".g.", 50.0: "g.g", 70.0: ".g.", 95.0: "g.g"}
    stretches = {"first": (9.0, 51.0), "second": (69.0, 111.0), "third": (129.0, 171.0)}
    for y, pattern in rows.items():
        for letter, ends in zip(pattern, stretches.values(), strict=True):
            x = torch.linspace(*ends, 15)
            soft = stiffness(torch.stack([x, torch.full_like(x, y)], -1)[None], substrate)[0] == 0.15
            assert soft.all() if letter == "." else not soft.any(), (y, ends)
    gaps = torch.tensor([0.0, 7.0, 53.0, 60.0, 67.0, 113.0, 127.0, 173.0, 187.0])
    points = torch.cartesian_prod(gaps, torch.linspace(0, 100, 41))[None]
    assert (stiffness(points, substrate) > 0.9).all()


@pytest.mark.parametrize("direction", [math.pi / 4, 1.0, 2.0, -0.3])
@pytest.mark.parametrize("size", [(200.0, 100.0), (100.0, 700.0)])
def test_no_founder_stands_on_a_slanted_stripe(direction, size):
    config = world("stripes", direction=direction, size=size, stripes={"gap": 0.5, "lane_width": 9.0})
    colony, substrate = reset(config, torch.arange(400))
    assert (stiffness(colony.position[:, :5], substrate) > 0.9).all()
    points = scattered(config, 2000)
    s, soft = coordinates(points, substrate[:1])[0], stiffness(points, substrate[:1]) == 0.15
    begins = float(s[soft].min())
    assert 0.1 * config.substrate.extent[0] < begins < 0.4 * config.substrate.extent[0]
    assert 0.4 < float(soft[s > begins + 5.0].float().mean()) < 0.6, "stripes as ever behind the start"


def test_bridges_are_spread_evenly_over_the_seeds():
    config = world("moat")
    substrate = make(config, 2000)
    places = substrate.moat.bridges[:, 0].numpy()
    assert places.min() >= 8.0
    assert places.max() <= 92.0
    assert kstest(places, "uniform", (8.0, 84.0)).pvalue > 1e-3


def test_noise_keeps_its_bounds_and_looks_the_same_everywhere():
    config = world("noise", ground="uniform", noise={"amplitude": 0.7})
    substrate = make(config, 400)
    points = scattered(config, 300).expand(400, -1, -1)
    z = (stiffness(points, substrate) / 6.0).log() / 0.7
    assert z.abs().max() <= 1.0 + 1e-5
    assert z.abs().max() > 0.9
    assert abs(float(z.mean())) < 0.01
    assert float(z.mean(0).abs().max()) < 0.13, "no place is special over the seeds"
    nodes = substrate.noise.values.flatten()
    assert kstest(nodes.numpy(), "uniform", (-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("direction", [0.0, 2.5])
def test_a_map_has_its_pixels_at_their_centres(csv_file, direction):
    config = world("map", direction=direction, map={"file": csv_file, "micrometres_per_pixel": 5.0})
    assert config.substrate.size == (90.0, 60.0)
    with open(csv_file) as stream:
        rows = [[float(cell) for cell in line.split(",")] for line in stream]
    for row, column in ((0, 0), (11, 17), (4, 7), (0, 17)):
        point = torch.tensor([[[5.0 * column + 2.5, 60.0 - 5.0 * row - 2.5]]])
        assert float(stiffness(point, make(config))) == pytest.approx(rows[row][column], rel=1e-4)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_image_is_a_map(tmp_path, bits):
    file = write_png(tmp_path / "map.png", bits=bits)
    config = world("map", map={"file": file, "micrometres_per_pixel": 2.0, "stiffness": (0.2, 30.0)})
    substrate, points = make(config), scattered(config, 200)
    ground = read_ground(config, substrate, 0)
    values = stiffness(points, substrate)[0].tolist()
    for value, (x, y) in zip(values, points[0].tolist(), strict=True):
        assert value == pytest.approx(ground.stiffness(x, y), rel=1e-4)


def test_a_batch_shares_its_map(csv_file):
    config = world("map", map={"file": csv_file})
    many, other = make(config, 1000), make(config, 3)
    assert many.pixels.tables.shape == (1, 12, 18)
    assert many.pixels.tables.untyped_storage().data_ptr() == other.pixels.tables.untyped_storage().data_ptr()
    mask = torch.tensor([True, False, True])
    for part in (many[:3], Substrate.where(mask, many[:3], other), Substrate.cat([many, other])):
        assert part.pixels.tables.shape == (1, 12, 18)


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


def test_a_random_batch_mixes_the_kinds_that_are_listed():
    kinds = ["uniform", "step", "stripes", "noise"]
    substrate = make(world("random", random={"kinds": kinds}), 2000)
    striped, noisy = substrate.stripes.stiffness > 0, substrate.noise.amplitude > 0
    counts = [substrate.ground == UNIFORM, substrate.ground == STEP, striped, noisy]
    assert torch.stack(counts).sum(0).tolist() == [1] * 2000
    assert all(430 < int(rows.sum()) < 570 for rows in counts)
    assert (substrate.ground[striped | noisy] == LINEAR).all()
    assert substrate.moat is None
    assert substrate.patches is None


@pytest.mark.parametrize("name", WORLDS)
def test_a_substrate_depends_on_its_own_seed_alone(config_of, name):
    config = config_of(name)
    many, points = make(config, 50), scattered(config, 30).expand(50, -1, -1)
    fields = stiffness(points, many)
    for seed in (0, 7, 49):
        one = make_substrate(config.substrate, torch.tensor([seed]))
        for part, value in tensors_of(one).items():
            if part != "pixels.tables":
                assert torch.equal(value[0], tensors_of(many)[part][seed]), part
        assert torch.equal(fields[seed], stiffness(points[:1], one)[0])
    is_fixed = name in ("linear", "exponential", "uniform", "step", "ramp", "stripes", "map")
    assert (len({tuple(row) for row in fields.tolist()}) > 1) == (not is_fixed)


@pytest.mark.parametrize("name", ["random obstacles", "patches", "map", "stripes over random ground"])
def test_rows_of_any_two_calls_fit_into_one_batch(config_of, name):
    """As a masked reset needs it: even where no row has drawn some kind."""
    config = config_of(name)
    one, two = make(config, 1, 3), make(config, 1, 4)
    mask = torch.tensor([True])
    for got, want in ((Substrate.where(mask, one, two), one), (Substrate.where(~mask, one, two), two)):
        for part, value in tensors_of(got).items():
            assert torch.equal(value, tensors_of(want)[part]), part


def test_inside_includes_the_border():
    substrate = make(world())
    points = [[0.0, 0.0], [200.0, 100.0], [-1e-3, 5.0], [200.1, 5.0], [5.0, 100.1], [5.0, -0.1]]
    assert is_inside(torch.tensor([points]), substrate)[0].tolist() == [True, True] + [False] * 4


@pytest.mark.parametrize("name", WORLDS)
def test_points_outside_have_the_stiffness_of_the_edge(config_of, name):
    """A child may be left outside where the boundary ends the episode; its last observation is still read."""
    config = config_of(name, 0.7)
    substrate = make(config)
    points = torch.tensor([[[-20.0, 5.0], [220.0, 5.0], [50.0, -20.0], [50.0, 120.0]]])
    width, height = config.substrate.size
    edge = torch.tensor([[[0.0, 5.0], [width, 5.0], [50.0, 0.0], [50.0, height]]])
    value = stiffness(points, substrate)
    assert torch.equal(value, stiffness(edge, substrate))
    assert ((value >= 0.1) & (value <= 200)).all()
    for part, at_edge in zip(log_gradient(points, substrate), log_gradient(edge, substrate), strict=True):
        assert torch.isfinite(part).all()
        assert torch.equal(part, at_edge)


def test_a_mixed_batch_keeps_every_row_its_own_field(config_of, tmp_path):
    """All kinds in one batch, with rows of different sizes: 1 and 3 bridges, two maps, two noise lattices."""
    configs = [config_of(name, direction) for name in WORLDS for direction in (0.0, 0.7)]
    other = write_csv(tmp_path / "other.csv", rows=5, columns=7, seed=9)
    configs += [
        world("moat", moat={"num_bridges": 3}),
        world("moat", moat={"num_bridges": 0}),
        world("noise", size=(50.0, 170.0), noise={"length": 9.0}),
        world("map", map={"file": other, "micrometres_per_pixel": 30.0}),
        world("patches", size=(120.0, 110.0)),
    ]
    rows = [make(config, 2, seed) for seed, config in enumerate(configs)]
    mixed = join(rows)
    assert mixed.pixels.tables.shape == (2, 12, 18)
    points = scattered(world(size=(250.0, 180.0)), 500) - 20.0
    along, across = log_gradient(points.expand(2 * len(rows), -1, -1), mixed)
    together = stiffness(points.expand(2 * len(rows), -1, -1), mixed)
    for k, substrate in enumerate(rows):
        both = points.expand(2, -1, -1)
        alone = (stiffness(both, substrate), *log_gradient(both, substrate))
        for whole, part in zip((together, along, across), alone, strict=True):
            assert torch.equal(whole[2 * k : 2 * k + 2], part), configs[k].substrate


def test_rows_without_a_map_do_not_read_it(tmp_path):
    (tmp_path / "tiny.csv").write_text("1,2\n3,4\n")
    tiny = world("map", map={"file": str(tmp_path / "tiny.csv"), "micrometres_per_pixel": 50.0})
    points = scattered(world(), 50).expand(2, -1, -1)
    rows = [make(world("exponential")), make(tiny)]
    for row, value in zip(rows, stiffness(points, join(rows)), strict=True):
        assert torch.equal(value, stiffness(points[:1], row)[0])


def test_plain_batches_have_no_parts():
    parts = ("step", "pixels", "noise", "stripes", "patches", "moat")
    rows = [make(world(kind)) for kind in ("linear", "exponential", "uniform", "random")]
    for substrate in (*rows, join(rows), Substrate.cat(rows)):
        assert all(getattr(substrate, part) is None for part in parts)


def test_different_structures_are_only_joined_on_purpose():
    with pytest.raises(ValueError, match=r"Substrate\.moat differs in structure"):
        Substrate.cat([make(world("linear")), make(world("moat"))])


@pytest.mark.parametrize("name", ["linear", "moat", "stripes", "noise", "map", "patches"])
@pytest.mark.parametrize("direction", [0.0, math.pi / 2, 0.7])
def test_a_lattice_is_its_points(config_of, name, direction):
    config = config_of(name, direction)
    substrate = make(config, 2)
    x, y = torch.linspace(0.5, 89.0, 31).expand(2, -1), torch.linspace(59.0, 0.5, 23).expand(2, -1)
    s, t = lattice_coordinates(x, y, substrate)
    if direction != 0.7:
        assert sorted((s.shape[1], s.shape[2])) == sorted((1, 31 if direction == 0.0 else 23))
    points = torch.stack([x[:, None].expand(2, 23, 31), y[:, :, None].expand(2, 23, 31)], -1)
    values = stiffness_at(s, t, substrate).expand(2, 23, 31)
    torch.testing.assert_close(
        values.flatten(1), stiffness(points.flatten(1, 2), substrate), rtol=2e-5, atol=0
    )


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
