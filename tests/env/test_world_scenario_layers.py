"""Another scenario over a file: what the file has from its own scenario gives way, what it changed stays."""

import itertools

import pytest

from durotaxis.core.config import Config, ConfigError, load_config, to_yaml
from durotaxis.env import SCENARIOS, EnvConfig
from durotaxis.env.config import beyond_scenario


class File(Config):
    env: EnvConfig = EnvConfig()


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "a.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_every_scenario_over_every_other_written_out_is_that_scenario(write):
    for old, new in itertools.product(SCENARIOS, SCENARIOS):
        path = write(to_yaml(File(env=EnvConfig(scenario=old))))
        assert load_config(path, File, [f"env.scenario={new}"]).env == EnvConfig(scenario=new), (old, new)


def test_what_a_file_changed_stays_and_an_override_is_never_dropped(write):
    own = {"max_steps": 300, "reward": {"survival": 0.5}, "spawn_bounds": {"max_step": (1.0, 8.0)}}
    path = write(to_yaml(File(env=EnvConfig(scenario="moat", **own))))
    # max_nodes=60 is what moat gives, and so is boundary=0; both are said on the command line, before or after.
    overrides = ["env.max_nodes=60", "env.scenario=full", "env.num_initial_nodes=5", "env.reward.boundary=0"]
    expected = EnvConfig(
        scenario="full",
        max_nodes=60,
        critical_nodes=75,
        **{**own, "reward": {"survival": 0.5, "boundary": 0}},
    )
    assert load_config(path, File, overrides).env == expected
    assert load_config(path, File, ["env.max_steps=9"]).env == EnvConfig(
        scenario="moat", **{**own, "max_steps": 9}
    )


def test_beyond_its_scenario_leaf_by_leaf():
    own = {"max_nodes": 80, "substrate": {"direction": 1.0}, "observation": {"field": True}}
    full = EnvConfig(scenario="patches", **own).model_dump(mode="json")
    assert beyond_scenario(full) == own
    assert beyond_scenario({"scenario": "moat", "substrate": {"kind": "moat"}}) == {}
    assert beyond_scenario({"substrate": {"kind": "moat"}}) == {"substrate": {"kind": "moat"}}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "env: {max_steps: 200}",
            ["env.scenario=moot"],
            r"unknown scenario 'moot' \(did you mean 'moat'\?\)",
        ),
        ("env: {scenario: moot}", ["env.max_steps=3"], "unknown scenario 'moot'"),
        ("env: 3", ["env.scenario=moat"], "env is a single value, not a section"),
        (
            "env: {max_recoveries: false}",
            ["env.scenario=moat"],
            r"a.yaml:1:7: env.max_recoveries: a number is",
        ),
        ("env: {reward: 2}", ["env.scenario=moat"], r"a.yaml:1:7: env.reward: a section"),
    ],
)
def test_what_is_wrong_keeps_its_error(write, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text), File, overrides)


def test_a_key_that_gave_way_has_no_place_in_the_file(write):
    path = write("env:\n  scenario: full\n  substrate: {kind: linear, size: [600, 400]}\n  max_nodes: 250\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, File, ["env.scenario=quick", "env.substrate.patches.radius=[5, 90]"])
    assert all(line.startswith("command line") or ":3:" in line for line in caught.value.lines)
