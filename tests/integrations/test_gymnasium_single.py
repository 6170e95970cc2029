"""The single environment: spaces, seeds, actions, information, pictures, wrappers."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
from integration_cases import GOOD, TINY, assert_equal

from durotaxis.core.errors import UserError
from durotaxis.env import SCENARIOS, Action, DurotaxisEnv, EnvConfig
from durotaxis.integrations import GLOBAL_ID, NODE_ID, ColonyEnv, ColonyVectorEnv
from durotaxis.integrations import pictures as pictures_module

LEVELS = {NODE_ID: "node", GLOBAL_ID: "global"}


def play(env, num_steps, seed=0):
    """Random steps through as many episodes as it takes; yields (action, step's result)."""
    env.action_space.seed(seed)
    env.reset(seed=seed)
    for _ in range(num_steps):
        action = env.action_space.sample()
        result = env.step(action)
        yield action, result
        if result[2] or result[3]:
            env.reset()


def test_the_ids_are_known_without_loading_torch():
    code = (
        "import sys, durotaxis.integrations as d, gymnasium; assert 'torch' not in sys.modules; d.register_envs(); "
        "print(gymnasium.make('durotaxis/Durotaxis-v0').unwrapped.config.scenario)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "quick"), done.stderr


def test_the_module_may_stand_in_the_id():
    env = gym.make(f"durotaxis.integrations:{GLOBAL_ID}", scenario="moat")
    assert env.unwrapped.config == EnvConfig(scenario="moat")


@pytest.mark.parametrize("env_id", LEVELS)
@pytest.mark.parametrize("form", ["scaled", "raw"])
def test_gymnasium_checks_it(env_id, form, monkeypatch):
    """Every check, both render modes included; warnings are errors here."""
    monkeypatch.setattr(pictures_module, "FRAMES_PER_SECOND", 1000)
    monkeypatch.setattr(pictures_module.Window, "__init__", lambda self: setattr(self, "_figure", None))
    monkeypatch.setattr(pictures_module.Window, "show", lambda self, picture: None)
    env = gym.make(env_id, config={**TINY, "observation": {"field": True}}, observation_form=form)
    check_env(env.unwrapped)
    assert env.metadata["render_fps"] == 12


def assert_contains(env, observation):
    for name, space in env.observation_space.items():
        assert space.contains(observation[name]), name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_spaces_hold_every_observation(scenario):
    small = {"max_nodes": 16, "critical_nodes": 7, "max_steps": 12, "observation": {"field": True}}
    for form in ("scaled", "raw"):
        env = ColonyVectorEnv(16, scenario, small, observation_form=form)
        env.action_space.seed(len(scenario))
        boxes = [box for box in env.observation_space.values() if isinstance(box, gym.spaces.Box)]
        assert all(np.isfinite(box.low).all() and np.isfinite(box.high).all() for box in boxes)
        assert_contains(env, env.reset(seed=100)[0])
        for _ in range(14):
            assert_contains(env, env.step(env.action_space.sample())[0])


@pytest.mark.parametrize("form", ["scaled", "raw"])
def test_spaces_hold_what_lies_beyond_the_edge(form):
    """Nodes outside, slanted directions, ages beyond the clipping."""
    config = {**TINY, "boundary": "terminate", "max_steps": 60, "num_initial_nodes": 2}
    config["substrate"] = {"size": (30.0, 25.0), "direction": 2.4, "slope": 1.5}
    env, outside, oldest = ColonyVectorEnv(16, config=config, observation_form=form), False, 0
    env.action_space.seed(0)
    env.reset(seed=0)
    for step in range(80):
        action = env.action_space.sample()
        if step > 12:
            action["kind"][:] = 0
        observation, *_, info = env.step(action)
        assert_contains(env, observation)
        outside |= "out_of_bounds" in info["reason"]
        oldest = max(oldest, int(env.batch.world.colony.age.max()))
    assert outside
    assert oldest > 50


def test_a_raw_observation_is_in_physical_units():
    env = ColonyEnv(observation_form="raw")
    observation, _ = env.reset(seed=2)
    colony = env.batch.world.colony
    np.testing.assert_allclose(observation["nodes"][:5, :2], colony.position[0, :5].numpy(), rtol=1e-6)
    assert observation["graph"][0] == 5


def test_edges_run_from_parent_to_child():
    env = ColonyEnv()
    for _, (observation, *_) in play(env, 30):
        colony = env.batch.world.colony
        mask, (parent, child) = observation["edge_mask"].astype(bool), observation["edge_index"]
        np.testing.assert_array_equal(mask, colony.is_edge[0].numpy())
        np.testing.assert_array_equal(parent[mask], colony.parent[0].numpy()[mask])
        np.testing.assert_array_equal(child[mask], np.flatnonzero(mask))
        assert not parent[~mask].any()
        assert not child[~mask].any()
        assert observation["edge_index"].dtype == np.int64


def test_it_is_the_world():
    """Step by step the same numbers as DurotaxisEnv under the same seed and action."""
    env, config = ColonyEnv("random", TINY), EnvConfig(scenario="random", **TINY)
    world = DurotaxisEnv(config, 1)
    assert env.config == config
    world.reset([0])
    for action, (observation, reward, terminated, truncated, info) in play(env, 40):
        if info["invalid_actions"]:
            action["kind"] = action["kind"] * observation_allows(world, action["kind"])
        kind, parameters = (torch.as_tensor(action[name])[None] for name in ("kind", "parameters"))
        there = world.step(Action(kind.long(), parameters))
        assert reward == float(there.reward)
        assert (terminated, truncated) == (bool(there.terminated), bool(there.truncated))
        assert info["reason"] == world.reason_names[int(there.reason)]
        assert info["terms"] == {name: float(value) for name, value in there.terms.items()}
        assert [info[name] for name in there.counts] == [int(value) for value in there.counts.values()]
        assert info["num_nodes"] == int(there.colony.num_nodes)
        np.testing.assert_array_equal(observation["nodes"], there.observation.nodes[0].numpy())
        np.testing.assert_array_equal(observation["action_mask"], there.observation.action_mask[0].numpy())
        if terminated or truncated:
            break
    assert terminated or truncated


def observation_allows(world, kind):
    mask = world.observe().action_mask[0].numpy()
    return mask[np.arange(len(kind)), kind]


def test_an_episode_is_its_seed():
    env = ColonyEnv()
    one, info = env.reset(seed=7)
    assert info["episode_seed"] == 7
    following = [env.reset()[1]["episode_seed"] for _ in range(5)]
    again, _ = env.reset(seed=7)
    assert_equal(one, again)
    assert following == [env.reset()[1]["episode_seed"] for _ in range(5)], "a seed fixes all that follow"
    assert len({7, *following}) == 6
    fresh = {ColonyEnv().reset()[1]["episode_seed"] for _ in range(4)}
    assert len(fresh) == 4, "without a seed every environment starts elsewhere"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, np.True_, "a", [1]])
def test_a_wrong_seed_is_refused_and_changes_nothing(seed):
    env, twin = ColonyEnv(config=TINY), ColonyEnv(config=TINY)
    for one in (env, twin):
        one.reset(seed=3)
    with pytest.raises(UserError, match=r"^seed: .*integer from 0 to 2\^63 - 1"):
        env.reset(seed=seed)
    assert env.reset()[1] == twin.reset()[1]
    assert env.np_random.integers(1000) == twin.np_random.integers(1000)


def rest_action(env):
    slots = env.config.num_slots
    low = np.tile(np.asarray(env.config.spawn_bounds.low, np.float32), (slots, 1))
    return {"kind": np.zeros(slots, np.int64), "parameters": low}


@pytest.mark.parametrize(
    ("kind", "parameter", "message"),
    [(3, 1.0, "kind 3"), (-1, 1.0, "kind -1"), (1, np.nan, "max_step is nan"), (1, 10.1, "max_step is 10.1")],
)
def test_invalid_choices_rest_and_are_counted_or_are_refused(kind, parameter, message):
    env, strict = ColonyEnv(), ColonyEnv(invalid_action="error")
    action = rest_action(env)
    action["kind"][[1, 3, 90]] = kind  # 90 is an empty slot: whatever stands there is not looked at
    action["parameters"][[1, 3, 90], 0] = parameter
    env.reset(seed=1)
    *_, info = env.step(action)
    assert info["invalid_actions"] == 2
    assert (info["spawned"], info["deleted"], info["num_nodes"]) == (0, 0, 5)
    strict.reset(seed=1)
    with pytest.raises(UserError, match=f"colony 0, node 1: {message}"):
        strict.step(action)


def test_a_masked_delete_rests():
    env = ColonyEnv(config={"num_initial_nodes": 2})
    env.reset(seed=1)
    action = rest_action(env)
    action["kind"][0] = 2
    *_, info = env.step(action)
    assert (info["invalid_actions"], info["num_nodes"]) == (1, 2)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 1], "a dict with `kind` and `parameters`, not ndarray"),
        ({"kind": np.zeros(120, int)}, r"not one with \['kind'\]"),
        ({"kind": np.zeros(119, int), "parameters": np.zeros((120, 4))}, r"kind must have shape \[1, 120\]"),
        ({"kind": np.zeros(120), "parameters": np.zeros((120, 4))}, "kind must hold integers, not float64"),
        ({"kind": np.zeros(120, int), "parameters": np.zeros((120, 3))}, "parameters must have shape"),
    ],
)
@pytest.mark.parametrize("invalid", ["rest", "error"])
def test_an_action_of_the_wrong_form_is_always_refused(action, message, invalid):
    env = ColonyEnv(invalid_action=invalid)
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.step(action)


def test_an_ended_episode_is_not_stepped():
    env = ColonyEnv(config={**TINY, "max_steps": 1})
    with pytest.raises(UserError, match="no episode is running"):
        env.step(rest_action(env))
    env.reset(seed=0)
    assert env.step(rest_action(env))[3]
    with pytest.raises(UserError, match="colony 0: no episode is running; reset it"):
        env.step(rest_action(env))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "quik"}, r"unknown scenario 'quik' \(did you mean 'quick'\?\)"),
        ({"config": {"max_node": 5}}, r"config: max_node: unknown key \(did you mean 'max_nodes'\?\)"),
        ({"config": {"capacity": 10}}, r"^config: capacity \(10\) must be above max_nodes"),
        ({"config": {"substrate": {"slope": "steep"}}}, "config: substrate.slope: .*number"),
        (
            {"scenario": "moat", "config": EnvConfig()},
            "scenario is 'moat', but the configuration is of 'quick'",
        ),
        ({"scenario": "moat", "config": {"scenario": "full"}}, "config.scenario is 'full'"),
        ({"invalid_action": "ignore"}, "invalid_action is 'ignore'; choose one of: rest, error"),
        ({"observation_form": "scale"}, r"observation_form is 'scale' \(did you mean 'scaled'\?\)"),
        ({"render_mode": "ansi"}, "render_mode is 'ansi'"),
        ({"render_mode": "None"}, "render_mode is 'None'; choose one of: rgb_array, human"),
        ({"device": "gpu"}, "^this computer has no device 'gpu' for torch; use cpu$"),
        ({"device": ""}, "^this computer has no device '' for torch; use cpu$"),
        ({"device": "meta"}, "^this computer has no device 'meta' for torch; use cpu$"),
        ({"device": None}, "^this computer has no device 'None' for torch; use cpu$"),
        ({"device": "cuda:99"}, "^this computer has no device 'cuda:99' for torch; use cpu$"),
        ({"level": "cell"}, "level is 'cell'; choose one of: node, global"),
        ({"max_episode_steps": 0}, "config: max_steps: .*greater than or equal to 1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        ColonyEnv(**arguments)
    assert "\n" not in str(caught.value)


def test_configurations_are_taken_as_they_are():
    config = EnvConfig(scenario="moat", max_steps=17)
    assert ColonyEnv(config=config).config is config
    assert ColonyEnv("moat", config, max_episode_steps=5).config == EnvConfig(scenario="moat", max_steps=5)
    assert ColonyEnv(config={"scenario": "moat", "max_steps": 17}).config == config


def test_pictures_show_the_state():
    env = ColonyEnv(config=TINY, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    env.step({"kind": np.ones(24, int), "parameters": np.tile(np.float32([10, 2, 0, 0]), (24, 1))})
    assert (env.render() != first).any()
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), first)
    assert ColonyEnv().render() is None


def test_a_picture_has_the_ground_of_its_own_episode():
    env = ColonyEnv("moat", TINY, render_mode="rgb_array")
    pictures = []
    for seed in (0, 1):
        env.reset(seed=seed)
        fresh = ColonyEnv("moat", TINY, render_mode="rgb_array")
        fresh.reset(seed=seed)
        pictures.append(env.render())
        np.testing.assert_array_equal(pictures[-1], fresh.render())
    assert (pictures[0] != pictures[1]).mean() > 0.01


def test_a_window_needs_a_display():
    with pytest.raises(UserError, match=r"needs a display.*use render_mode='rgb_array'"):
        ColonyEnv(render_mode="human")


def test_a_window_shows_every_state(monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    pauses, shown = [], []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr("matplotlib.pyplot.pause", pauses.append)
    env = ColonyEnv(config=TINY, render_mode="human")
    for act in (lambda: env.reset(seed=0), lambda: env.step(rest_action(env)), lambda: env.reset(seed=1)):
        act()
        shown.append(np.asarray(env._window._image.get_array()))
        np.testing.assert_array_equal(shown[-1], env._pictures.draw(0))
    assert len(pauses) == 3
    assert env.render() is None
    assert (shown[0] != shown[2]).any()
    env.close()
    env.close()


def test_wrappers_of_the_library():
    env = gym.make(GLOBAL_ID, config=TINY, max_episode_steps=5)
    assert wrapper_names(env)[0] == "TimeLimit"
    env = wrappers.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    rewards = []
    for step in range(5):
        _, reward, terminated, truncated, info = env.step(np.float32(GOOD))
        rewards.append(reward)
        assert not terminated
        assert truncated == (step == 4)
    assert info["episode"]["l"] == 5
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    assert info["reason"] == "running", "the wrapper cut it, not the world"
    env.reset()


def test_the_time_limit_of_the_library_knows_nothing_of_the_goal():
    """On its last step it adds `truncated` to the world's `terminated`; the world's own limit never does."""
    config = {**TINY, "max_steps": 200, "max_nodes": 20}

    def last(**limit):
        env = gym.make(GLOBAL_ID, config=config, **limit)
        env.reset(seed=0)
        for step in range(1, 200):
            _, _, terminated, truncated, info = env.step(np.float32(GOOD))
            if terminated or truncated:
                return step, terminated, truncated, info["reason"]
        raise AssertionError("the episode goes on")

    length, *end = last()
    assert end == [True, False, "success"]
    assert last(max_episode_steps=length) == (length, True, True, "success")
    config["max_steps"] = length
    assert last() == (length, True, False, "success")


def test_the_observation_flattens_and_comes_back():
    env = ColonyEnv(config=TINY)
    flat = wrappers.FlattenObservation(ColonyEnv(config=TINY))
    observation, _ = env.reset(seed=4)
    vector, _ = flat.reset(seed=4)
    assert flat.observation_space.contains(vector)
    back = gym.spaces.unflatten(env.observation_space, vector)
    for name, value in observation.items():
        np.testing.assert_array_equal(back[name], value)
    filtered = wrappers.FilterObservation(ColonyEnv(config=TINY), ["nodes", "graph"])
    assert set(filtered.reset(seed=0)[0]) == {"nodes", "graph"}


def wrapper_names(env):
    names = []
    while env is not env.unwrapped:
        names.append(type(env).__name__)
        env = env.env
    return names
