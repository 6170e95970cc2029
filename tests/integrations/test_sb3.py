"""Stable-Baselines3 over the native batch: its conventions, the feature extractor, and that PPO learns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from integration_cases import GOOD, TINY, assert_equal
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from durotaxis.core.errors import UserError
from durotaxis.integrations import ColonyEnv, ColonyVecEnv, GraphExtractor

SMALL = {"substrate": {"size": (60.0, 40.0)}, "critical_nodes": 8, "max_nodes": 20, "max_steps": 60}
"""A world in which a good policy wins within 30 steps."""


def test_it_is_a_dummy_vec_env_over_single_environments():
    """To the bit: observations, rewards, ends, and every entry of every info."""
    config = {"scenario": "random", **TINY, "max_steps": 7}
    native = ColonyVecEnv(3, config=config)
    oracle = DummyVecEnv([lambda: ColonyEnv(config=config, level="global")] * 3)
    assert native.observation_space == oracle.observation_space
    assert native.action_space == oracle.action_space
    native.action_space.seed(0)
    assert native.seed(20) == oracle.seed(20) == [20, 21, 22]
    assert_equal(native.reset(), dict(oracle.reset()))
    assert_equal(native.reset_infos, oracle.reset_infos)
    ends = 0
    for step in range(18):
        actions = np.stack([native.action_space.sample() for _ in range(3)])
        ours, theirs = native.step(actions), oracle.step(actions)
        assert_equal(ours[0], dict(theirs[0]), f"step {step}")
        assert_equal(list(ours[1:]), list(theirs[1:]), f"step {step}")
        assert_equal(native.reset_infos, oracle.reset_infos)
        ends += ours[2].sum()
    assert ends >= 6


def test_truncated_and_terminated_are_told_apart():
    env = ColonyVecEnv(2, config={**TINY, "max_steps": 2, "max_nodes": 6, "num_initial_nodes": 5}, seed=0)
    env.reset()
    grow, still = np.float32([-1, 1, -1, -1, 0]), np.full(5, np.nan, np.float32)
    _, _, done, infos = env.step(np.stack([grow, still]))
    assert done.tolist() == [True, False]
    assert (infos[0]["reason"], infos[0]["TimeLimit.truncated"]) == ("overcrowded", False)
    assert infos[0]["terminal_observation"]["node_mask"].sum() == 8
    assert "terminal_observation" not in infos[1]
    _, _, done, infos = env.step(np.stack([still, still]))
    assert done.tolist() == [False, True]
    assert (infos[1]["reason"], infos[1]["TimeLimit.truncated"]) == ("max_steps", True)
    assert infos[1]["invalid_actions"] == 1


@pytest.mark.usefixtures("unchecked")
def test_what_sb3_asks_of_a_vec_env():
    env = ColonyVecEnv(3, config=TINY, render_mode="rgb_array")
    env.reset()
    assert env.get_attr("render_mode") == ["rgb_array"] * 3
    assert env.get_attr("config", [0, 2]) == [env.config] * 2
    assert not env.has_attr("nonsense")
    env.set_attr("note", "x", [1])
    assert env.get_attr("note") == [None, "x", None]
    assert env.env_is_wrapped(VecMonitor, [0]) == [False]
    assert env.render().shape[2] == 3
    for call, message in (
        (lambda: env.set_attr("config", None), "whole batch"),
        (lambda: env.env_method("reset"), "'reset' cannot be called"),
        (lambda: env.step(np.zeros((3, 4), np.float32)), r"must have shape \[3, 5\], not \[3, 4\]"),
        (lambda: env.step([["a"] * 5] * 3), "must hold numbers, not"),
        (lambda: env.step([[0.0], [0.0, 1.0]]), "is no array: its rows differ in length"),
        (lambda: ColonyVecEnv(2, render_mode="None"), "render_mode is 'None'; choose one of: rgb_array"),
        (lambda: ColonyVecEnv(2, level="cell"), "level is 'cell'"),
        (lambda: ColonyVecEnv(2, scenario="moot"), r"did you mean 'moat'\?"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    env.close()


def test_wrappers_of_sb3():
    env = VecMonitor(ColonyVecEnv(2, config={**TINY, "max_steps": 3}, seed=0))
    env.reset()
    total = np.zeros(2)
    for _ in range(3):
        _, reward, _, infos = env.step(np.tile(np.float32(GOOD), (2, 1)))
        total += reward
    assert [info["episode"]["l"] for info in infos] == [3, 3]
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total, atol=1e-5)
    normal = VecNormalize(ColonyVecEnv(2, config=TINY), norm_obs_keys=["nodes", "graph"])
    assert np.isfinite(normal.reset()["nodes"]).all()


def test_empty_slots_have_no_influence_on_the_features():
    env = ColonyVecEnv(4, config=SMALL, seed=0)
    torch.manual_seed(0)
    extractor = GraphExtractor(env.observation_space, features_dim=16)
    seen = {name: torch.as_tensor(value) for name, value in env.reset().items()}
    features = extractor(seen)
    assert features.shape == (4, 16)
    garbage = {**seen, "nodes": torch.where(seen["node_mask"][..., None] > 0, seen["nodes"], 1e3)}
    assert torch.equal(extractor(garbage), features)
    order = torch.arange(39, -1, -1)
    turned = {**seen, "nodes": seen["nodes"][:, order], "node_mask": seen["node_mask"][:, order]}
    torch.testing.assert_close(extractor(turned), features)
    alone = {**seen, "nodes": seen["nodes"] * 0, "node_mask": seen["node_mask"] * 0}
    assert torch.isfinite(extractor(alone)).all()
    changed = {**seen, "nodes": seen["nodes"] + 0.1}
    assert not torch.allclose(extractor(changed), features)


def test_per_node_actions_run():
    env = ColonyVecEnv(2, config=TINY, level="node", seed=0)
    assert env.action_space.shape == (24, 7)
    model = A2C("MultiInputPolicy", env, n_steps=4, seed=0, device="cpu")
    model.learn(16)
    env.reset()
    env.action_space.seed(0)
    spawned = 0
    for _ in range(5):
        infos = env.step(np.stack([env.action_space.sample() for _ in range(2)]))[3]
        assert all(info["invalid_actions"] == 0 for info in infos)
        spawned += sum(info["spawned"] for info in infos)
    assert spawned > 0


@pytest.mark.parametrize("invalid", ["rest", "error"])
def test_numbers_of_empty_slots_are_not_looked_at(invalid):
    envs = [ColonyVecEnv(2, config=TINY, level="node", seed=0, invalid_action=invalid) for _ in range(2)]
    actions = np.zeros((2, 24, 7), np.float32)
    actions[..., 1] = 1.0
    broken = actions.copy()
    broken[0, 20], broken[1, 5:] = np.nan, 7.0
    results = []
    for env, action in zip(envs, (actions, broken), strict=True):
        env.reset()
        results.append(list(env.step(action)))
    assert_equal(*results)
    assert results[0][3][0]["spawned"] == 5


def test_a_node_without_numbers_rests_alone():
    env, strict = (
        ColonyVecEnv(2, config=TINY, level="node", seed=0, invalid_action=x) for x in ("rest", "error")
    )
    actions = np.zeros((2, 24, 7), np.float32)
    actions[..., 1] = 1.0
    actions[1, 3, 4], actions[1, 1, 6] = np.nan, 2.0
    env.reset()
    infos = env.step(actions)[3]
    assert [info["invalid_actions"] for info in infos] == [0, 2]
    assert [info["spawned"] for info in infos] == [5, 3]
    strict.reset()
    with pytest.raises(UserError, match=r"colony 1, node 1, number 6: 2; every number"):
        strict.step(actions)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 1.5, True, "a"])
def test_a_wrong_seed_is_refused(seed):
    with pytest.raises(UserError, match=r"^seed: .*integer"):
        ColonyVecEnv(2, config=TINY, seed=seed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_envs", [2.5, "4", None, 0, True])
def test_a_wrong_number_of_colonies_is_refused(num_envs):
    with pytest.raises(UserError, match=r"num_envs is .*; take an integer from 1"):
        ColonyVecEnv(num_envs, config=TINY)


def returns(act, num_episodes=64):
    """Undiscounted returns of the episodes with seeds 1,000,000 and following."""
    env = ColonyVecEnv(num_episodes, config=SMALL, seed=1_000_000)
    observation = env.reset()
    total, ended = np.zeros(num_episodes), np.zeros(num_episodes, bool)
    for _ in range(SMALL["max_steps"]):
        observation, reward, done, _ = env.step(act(observation))
        total += np.where(ended, 0.0, reward)
        ended |= done
    assert ended.all()
    return total


def test_ppo_learns():
    """Clearly above its own random beginning, and above uniform noise, on the same seeds."""
    noise = np.random.default_rng(0)
    env = ColonyVecEnv(48, config=SMALL, seed=0)
    model = PPO(
        "MultiInputPolicy",
        env,
        seed=0,
        n_steps=24,
        batch_size=288,
        n_epochs=6,
        learning_rate=1e-3,
        gamma=0.98,
        policy_kwargs={
            "features_extractor_class": GraphExtractor,
            "net_arch": [32],
            "log_std_init": -0.5,
        },
        device="cpu",
    )
    uniform = returns(lambda _: noise.uniform(-1, 1, (64, 5)).astype(np.float32))
    before = returns(lambda seen: model.predict(seen)[0])
    model.learn(10_000)
    after = returns(lambda seen: model.predict(seen)[0])
    for other in (before, uniform):
        error = np.sqrt(after.var(ddof=1) / 64 + other.var(ddof=1) / 64)
        assert after.mean() > other.mean() + 5 * error
    assert after.mean() > 1.0


def test_the_missing_library_names_its_extra():
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from durotaxis.core.errors import UserError\n"
        "import durotaxis.integrations as d\n"
        "try:\n    d.ColonyVecEnv\nexcept UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "durotaxis[sb3]"' in done.stdout
