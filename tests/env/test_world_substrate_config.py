"""What configurations of a substrate are refused, and with which words; what maps fill in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from durotaxis.core.config import ConfigError, build_config, load_config, load_sections, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.env.substrate import SubstrateConfig, make_substrate
from reference.maps import write_csv, write_png

REFUSED = {
    "slope downhill": ({"slope": -0.05}, "stiffness would be -9 kPa at s = 200"),
    "base too soft": ({"base": 0.05}, "base: Input should be greater than or equal to 0.1"),
    "steep exponential": ({"kind": "exponential", "slope": 0.05}, r"would be 2.2e\+04 kPa at s = 200"),
    "stiff uniform": ({"kind": "uniform", "base": 201.0}, "base: Input should be less than"),
    "slope of uniform": ({"kind": "uniform", "slope": 0.1}, "a uniform substrate has no slope"),
    "slope over uniform": (
        {"kind": "moat", "ground": "uniform", "slope": 0.1},
        "a uniform substrate has no slope",
    ),
    "slope of random": ({"kind": "random", "slope": 0.1}, "draws its slope and base itself"),
    "base of random ground": ({"kind": "moat", "ground": "random", "base": 1.0}, "draws its slope and base"),
    "long random": ({"kind": "random", "size": (700.0, 50.0)}, "could reach 405.6 kPa, above 200"),
    "long random ground": ({"kind": "noise", "ground": "random", "size": (650.0, 50.0)}, "could reach"),
    "slope of a step": ({"kind": "step", "slope": 0.1}, "slope: a ground of kind `step` does not read it"),
    "base over a step": (
        {"kind": "stripes", "ground": "step", "base": 2.0},
        "base: a ground of kind `step` does",
    ),
    "soft step": ({"kind": "step", "step": {"low": 0.01}}, "step.low: Input should be greater"),
    "step beyond": ({"kind": "step", "step": {"position": 1.2}}, "step.position: Input should be less"),
    "step for linear": ({"step": {"low": 2.0}}, "step: counts for kind `step` only, not for `linear`"),
    "moat for linear": ({"moat": {"width": 20.0}}, "moat: counts for kind `moat` only"),
    "patches for moat": (
        {"kind": "moat", "patches": {"covered": 0.2}},
        "patches: counts for kind `patches` only",
    ),
    "random for linear": ({"random": {"kinds": ["step"]}}, "random: counts for kind `random` only"),
    "ground of linear": ({"ground": "uniform"}, "ground: counts under stripes, patches, moat, noise only"),
    "ground of random": (
        {"kind": "random", "ground": "uniform"},
        "ground: counts under stripes, patches, moat, noise only",
    ),
    "ground of itself": ({"kind": "moat", "ground": "moat"}, "ground: Input should be 'linear'"),
    "random twice": (
        {"kind": "random", "ground": "random", "random": {"kinds": ["moat"]}},
        "ground: kind `random` draws already",
    ),
    "moat as ground": (
        {"kind": "moat", "ground": "random", "random": {"kinds": ["noise"]}},
        "random.kinds: `noise` is no ground",
    ),
    "map drawn": ({"kind": "random", "random": {"kinds": ["map"]}}, "random.kinds.0: Input should be"),
    "kind twice": ({"kind": "random", "random": {"kinds": ["step", "step"]}}, "a kind is listed twice"),
    "nothing drawn": (
        {"kind": "random", "random": {"kinds": []}},
        "random.kinds: Tuple should have at least 1",
    ),
    "soft moat": ({"kind": "moat", "moat": {"stiffness": 0.01}}, "moat.stiffness: Input should be greater"),
    "wide moat": (
        {"kind": "moat", "moat": {"width": 200.0}},
        "moat.width: must be below the substrate's extent, 200",
    ),
    "wide bridge": (
        {"kind": "moat", "moat": {"bridge_width": 101.0}},
        "moat.bridge_width: is above the extent",
    ),
    "wide slanted bridge": (
        {"kind": "moat", "direction": 0.2, "moat": {"bridge_width": 99.0}},
        "moat.bridge_width: is above the extent across .* the whole moat, 95.9",
    ),
    "wide slanted moat": (
        {"kind": "moat", "direction": 0.785, "moat": {"width": 150.0}},
        r"moat.bridge_width: is above the extent .* moat, 0 µm; narrow the bridges or the moat",
    ),
    "long gap": ({"kind": "stripes", "stripes": {"gap": 60.0}}, "stripes.gap: must be below shift_every, 60"),
    "wide lanes": (
        {"kind": "stripes", "stripes": {"lane_width": 100.0}},
        "stripes.lane_width: must be below",
    ),
    "falling radius": (
        {"kind": "patches", "patches": {"radius": (20.0, 9.0)}},
        "patches.radius: the range must rise",
    ),
    "tiny discs": ({"kind": "patches", "patches": {"radius": (1.0, 9.0)}}, "from 5 µm or more, not 1 to 9"),
    "large discs": (
        {"kind": "patches", "patches": {"radius": (10.0, 51.0)}},
        "patches.radius: discs must fit",
    ),
    "wide corridor": ({"kind": "patches", "patches": {"corridor": 100.0}}, "patches.corridor: must be below"),
    "all covered": (
        {"kind": "patches", "patches": {"covered": 0.9}},
        "patches.covered: Input should be less",
    ),
    "loud noise": (
        {"kind": "noise", "noise": {"amplitude": 2.5}},
        "noise.amplitude: stiffness could come to 0.0821",
    ),
    "noise on stiff": (
        {"kind": "noise", "ground": "uniform", "base": 190.0},
        "noise.amplitude: stiffness could come to 115 or 313 kPa",
    ),
    "deafening noise": (
        {"kind": "noise", "noise": {"amplitude": 1e4}},
        "noise.amplitude: Input should be less",
    ),
    "fine noise": (
        {"kind": "noise", "noise": {"length": 0.1}},
        "noise.length: the lattice would have more than 1,000,000 values",
    ),
    "finest noise": ({"kind": "noise", "noise": {"length": 1e-320}}, "noise.length: the lattice would have"),
    "narrow ramp": (
        {"kind": "step", "step": {"ramp": 0.1}},
        r"step.ramp: a ramp is at least 0.2 µm wide; 0 is a sharp",
    ),
    "no map": ({"kind": "map"}, "map.file: missing; kind `map` needs a CSV or PNG file"),
    "no map below": ({"kind": "moat", "ground": "map"}, "map.file: missing"),
    "unknown kind": ({"kind": "lava"}, "kind: Input should be 'linear'"),
    "no width": ({"size": (0.0, 10.0)}, "size.0: Input should be greater than 0"),
    "no number": ({"slope": float("nan")}, "slope: Input should be a finite number"),
    "nowhere": ({"direction": [0, 0.0]}, r"direction: the vector \[0, 0\] points nowhere"),
    "three numbers": (
        {"direction": [1, 0, 0]},
        r"direction: a direction is an angle in radians, or a vector",
    ),
    "one number": ({"direction": [1]}, r"direction: a direction is an angle"),
    "words": ({"direction": ["east", 1]}, "direction: a direction is an angle"),
    "truth": ({"direction": [True, 0]}, "direction: a direction is an angle"),
    "infinite": ({"direction": [float("inf"), 0]}, "direction: a direction is an angle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_substrates_are_refused(name):
    substrate, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        build_config(EnvConfig, {"substrate": substrate})
    assert len(caught.value.lines) == 1, caught.value.lines
    with pytest.raises((UserError, ValidationError)):
        EnvConfig(substrate=substrate)


@pytest.mark.parametrize(
    "substrate",
    [
        {"kind": "moat", "ground": "linear"},
        {"kind": "moat", "step": {}, "noise": {"amplitude": 0.5}},
        {"kind": "uniform", "slope": 0.0},
        {"kind": "random", "random": {"kinds": ["uniform", "patches"]}, "ground": "exponential"},
        {"kind": "random", "size": (700.0, 50.0), "random": {"kinds": ["linear"]}},
        {"kind": "noise", "ground": "random", "random": {"kinds": ["step"]}, "step": {"ramp": 3.0}},
        {"kind": "stripes", "slope": 0.02, "base": 2.0},
    ],
)
def test_possible_substrates_come_back_from_their_yaml(tmp_path, substrate):
    config = EnvConfig(substrate=substrate)
    file = tmp_path / "world.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file, EnvConfig) == config


def test_a_vector_works_on_the_command_line_and_in_the_schema():
    given = load_sections(None, {"env": EnvConfig}, ["env.substrate.direction=[0, 2]"])["env"]
    assert given == EnvConfig(substrate={"direction": [0, 1]})
    kinds = SubstrateConfig.model_json_schema(mode="validation")["properties"]["direction"]["anyOf"]
    assert [kind["type"] for kind in kinds] == ["number", "array"]


def as_map(file, **values):
    return {"kind": "map", "map": {"file": str(file), **values}}


def test_a_map_fills_in_size_and_hash(tmp_path, monkeypatch):
    file = Path(write_csv(tmp_path / "map.csv", rows=12, columns=18))
    config = EnvConfig(substrate=as_map(file, micrometres_per_pixel=0.1))
    assert config.substrate.size == pytest.approx((1.8, 1.2))
    assert config.substrate.map.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    again = tmp_path / "world.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again, EnvConfig) == config
    monkeypatch.chdir(tmp_path)
    assert EnvConfig(substrate=as_map("map.csv")).substrate.size == (18.0, 12.0)


@pytest.mark.parametrize("over", [{"kind": "map"}, {"kind": "moat", "ground": "map"}])
def test_the_size_of_a_map_wins_over_that_of_a_scenario(tmp_path, over):
    substrate = {**as_map(write_csv(tmp_path / "map.csv"), micrometres_per_pixel=5.0), **over}
    config = build_config(EnvConfig, {"scenario": "full", "substrate": substrate})
    assert config.substrate.size == (90.0, 60.0)
    assert config.max_nodes == 250
    assert EnvConfig(scenario="full").substrate.size == (600.0, 400.0)
    again = tmp_path / "world.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again, EnvConfig) == config
    with pytest.raises(ConfigError, match=r"substrate.size: .*so the size is \[90, 60\]; remove the key"):
        build_config(EnvConfig, {"scenario": "full", "substrate": {**substrate, "size": (600.0, 400.0)}})


def test_a_map_of_another_size_is_refused(tmp_path):
    file = write_csv(tmp_path / "map.csv", rows=12, columns=18)
    assert EnvConfig(substrate={**as_map(file), "size": (18.0, 12.0)}).substrate.size == (18.0, 12.0)
    with pytest.raises(
        ConfigError, match=r"substrate.size: .*map.csv has 18 x 12 pixels of 1 µm.*\[18, 12\]"
    ):
        build_config(EnvConfig, {"substrate": {**as_map(file), "size": (18.0, 13.0)}})


def test_a_changed_map_is_refused(tmp_path):
    file = tmp_path / "map.csv"
    write_csv(file)
    config = EnvConfig(substrate=as_map(file))
    write_csv(file, seed=1)
    with pytest.raises(
        ConfigError, match=r"map.sha256: .*map.csv has sha256 [0-9a-f]{64}: it is another file"
    ):
        build_config(EnvConfig, {"substrate": as_map(file, sha256=config.substrate.map.sha256)})
    assert EnvConfig(substrate=as_map(file)) != config
    assert make_substrate(EnvConfig(substrate=as_map(file)).substrate, torch.arange(2)).pixels is not None


CELLS = {
    "1,2\n3\n": "row 2 has 1 columns, row 1 has 2",
    "1,2\n3,\n": "row 2, column 2: the cell is empty",
    "1,2\n\n3,4\n": "row 2, column 1: the cell is empty",
    "": "too small",
    "\n\n": "too small",
    "1,2,3\n": "at least 2 rows and 2 columns",
    "1\n2\n": "at least 2 rows and 2 columns",
    "1,soft\n2,3\n": "row 1, column 2: 'soft' is no number",
    "1;2\n2;3\n": "row 1, column 1: '1;2' is no number",
    "1,2\nnan,3\n": "row 2, column 1: nan kPa is outside 0.1 to 200",
    "1,2\n0.09,3\n": "row 2, column 1: 0.09 kPa is outside",
    "1,2\n3,201\n": "row 2, column 2: 201 kPa is outside",
    "1,-inf\n3,2\n": "row 1, column 2: -inf kPa is outside",
    "1,2\n3,1_0\n": "row 2, column 2: '1_0' is no number",
    "1,2\n3,4e0 x\n": "row 2, column 2: '4e0 x' is no number",
}


@pytest.mark.parametrize("text", CELLS)
def test_a_bad_table_is_refused_by_row_and_column(tmp_path, text):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"substrate.map.file: .*bad.csv.*{CELLS[text]}") as caught:
        build_config(EnvConfig, {"substrate": as_map(file)})
    assert len(caught.value.lines) == 1


def test_bad_files_are_refused(tmp_path):
    good = write_csv(tmp_path / "good.csv")
    image = write_png(tmp_path / "good.png")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "other.txt").write_text("1,2\n3,4\n")
    (tmp_path / "cut.png").write_bytes(Path(image).read_bytes()[:60])
    (tmp_path / "fake.png").write_text("1,2\n3,4\n")
    for mode in ("RGB", "RGBA", "LA", "P", "1"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.png")
    Image.new("L", (1, 4)).save(tmp_path / "thin.png")
    grey = {"stiffness": (0.5, 20.0)}
    cases = [
        ("missing.csv", {}, r"missing.csv does not exist \(looked for /"),
        ("folder.csv", {}, "folder.csv is a directory"),
        ("binary.csv", {}, "binary.csv is no text"),
        ("other.txt", {}, r"other.txt must end in .csv or .png"),
        ("good.csv", grey, "good.csv holds kPa itself; remove `stiffness`"),
        ("good.png", {}, r"good.png is an image; give `stiffness: \[low, high\]`"),
        ("cut.png", grey, "cut.png cannot be read as a PNG image"),
        ("fake.png", grey, "fake.png cannot be read as a PNG image"),
        ("thin.png", grey, "thin.png is too small"),
        *(
            (f"{mode}.png", grey, rf"not grey \(mode {mode}\); convert it")
            for mode in ("RGB", "RGBA", "LA", "P", "1")
        ),
    ]
    for name, values, message in cases:
        with pytest.raises(ConfigError, match=f"substrate.map.file: .*{message}") as caught:
            build_config(EnvConfig, {"substrate": as_map(tmp_path / name, **values)})
        assert len(caught.value.lines) == 1, name
    for name, values, message in (
        ("good.png", {"stiffness": (0.05, 9.0)}, "map.stiffness.0: Input should be greater"),
        ("good.png", {"stiffness": (0.5, 900.0)}, "map.stiffness.1: Input should be less"),
        ("good.csv", {"micrometres_per_pixel": 0.0}, "map.micrometres_per_pixel: Input should be greater"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config(EnvConfig, {"substrate": as_map(tmp_path / name, **values)})
    if os.geteuid():
        Path(good).chmod(0)
        with pytest.raises(ConfigError, match=r"good\.csv cannot be read: Permission denied"):
            build_config(EnvConfig, {"substrate": as_map(good)})


def test_noise_over_a_map_is_held_to_the_limits(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("0.2,1\n1,1\n")
    below = {"kind": "noise", "ground": "map", "map": {"file": str(file), "micrometres_per_pixel": 20.0}}
    assert EnvConfig(substrate={**below, "noise": {"amplitude": 0.6}}).substrate.size == (40.0, 40.0)
    with pytest.raises(ConfigError, match=r"noise\.amplitude: stiffness could come to 0\.0899 or 2\.23 kPa"):
        build_config(EnvConfig, {"substrate": {**below, "noise": {"amplitude": 0.8}}})
