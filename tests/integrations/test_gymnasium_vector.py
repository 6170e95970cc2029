"""The native batch against single environments one by one, in all three autoreset modes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from integration_cases import GOOD, TINY, assert_equal

from durotaxis.core.errors import UserError
from durotaxis.integrations import GLOBAL_ID, NODE_ID, ColonyEnv, ColonyVectorEnv

MODES = list(AutoresetMode)
MIXED = {"scenario": "random", **TINY, "max_steps": 9, "max_nodes": 8, "capacity": 14}
"""Episodes of different lengths, ended by overcrowding, extinction and the limit."""


def make_pair(mode, level="node", num_envs=3, config=MIXED):
    """The native batch, and the library's own loop over single environments."""
    single = {"config": config, "level": level}
    native = ColonyVectorEnv(num_envs, config=config, level=level, autoreset_mode=mode)
    return native, SyncVectorEnv([lambda: ColonyEnv(**single)] * num_envs, autoreset_mode=mode)


def ended_mask(result):
    return result[2] | result[3]


@pytest.mark.parametrize("level", ["node", "global"])
@pytest.mark.parametrize("mode", MODES)
def test_the_batch_is_single_environments_side_by_side(mode, level):
    """Observations, rewards, ends, all information and final observations, to the bit."""
    native, oracle = make_pair(mode, level)
    assert native.single_observation_space == oracle.single_observation_space
    assert native.action_space == oracle.action_space
    assert native.metadata["autoreset_mode"] is native.autoreset_mode is mode
    native.action_space.seed(3)
    assert_equal(native.reset(seed=40), oracle.reset(seed=40), "reset")
    ends, finals = 0, 0
    for step in range(20):
        action = native.action_space.sample()
        ours, theirs = native.step(action), oracle.step(action)
        assert_equal(list(ours), list(theirs), f"step {step}")
        assert not (ours[2] & ours[3]).any()
        ended = ended_mask(ours)
        ends += ended.sum()
        finals += "final_obs" in ours[4]
        if mode == AutoresetMode.DISABLED and ended.any():
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            assert_equal(native.reset(options=masks[0]), oracle.reset(options=masks[1]), f"reset at {step}")
    assert ends >= 4
    assert (finals > 0) == (mode == AutoresetMode.SAME_STEP)


def test_all_modes_see_the_same_episodes():
    """Rewards per episode, and last observations, do not depend on the mode."""
    lives = {mode: episodes(mode) for mode in MODES}
    assert len(lives[AutoresetMode.DISABLED]) == 4
    assert_equal(lives[AutoresetMode.DISABLED], lives[AutoresetMode.NEXT_STEP])
    assert_equal(lives[AutoresetMode.DISABLED], lives[AutoresetMode.SAME_STEP])


def episodes(mode, count=4):
    """The first episodes of one colony of three under a constant action."""
    envs = ColonyVectorEnv(3, config=MIXED, level="global", autoreset_mode=mode)
    action = np.tile(np.float32([-1, 1, -1, 0, 0.3]), (3, 1))
    envs.reset(seed=0)
    found, rewards = [], []
    while len(found) < count:
        observation, reward, terminated, truncated, info = envs.step(action)
        last = {name: value[1] for name, value in observation.items()}
        seed = int(info["episode_seed"][1])
        if "final_obs" in info and info["_final_obs"][1]:
            last, seed = info["final_obs"][1], int(info["final_info"]["episode_seed"][1])
        ended = terminated | truncated
        rewards.append(float(reward[1]))
        if ended[1]:
            found.append((seed, rewards, last))
            rewards = []
        if mode == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
        elif mode == AutoresetMode.NEXT_STEP and ended[1]:
            reset_reward = envs.step(action)[1][1]
            assert reset_reward == 0.0
    return found


@pytest.mark.parametrize("env_id", [NODE_ID, GLOBAL_ID])
def test_make_and_make_vec_give_the_same_colony(env_id):
    envs = gym.make_vec(env_id, 3, scenario="moat")
    assert isinstance(envs.unwrapped, ColonyVectorEnv)
    single = gym.make(env_id, scenario="moat")
    for seeds in (11, [5, 2**40, 0]):
        observations, info = envs.reset(seed=seeds)
        for index, seed in enumerate(seeds if isinstance(seeds, list) else range(seeds, seeds + 3)):
            one, one_info = single.reset(seed=seed)
            assert_equal({name: value[index] for name, value in observations.items()}, one)
            assert info["episode_seed"][index] == one_info["episode_seed"] == seed


def test_make_vec_hands_over_the_time_limit():
    envs = gym.make_vec(GLOBAL_ID, 2, config=TINY, max_episode_steps=3)
    envs.reset(seed=0)
    for step in range(3):
        *_, truncated, info = envs.step(np.tile(np.float32(GOOD), (2, 1)))
        assert truncated.all() == (step == 2)
    assert info["reason"].tolist() == ["max_steps"] * 2


def test_episodes_without_a_seed_are_never_shared():
    envs = ColonyVectorEnv(4, config={**TINY, "max_steps": 1}, level="global")
    seen = set(envs.reset()[1]["episode_seed"].tolist())
    for _ in range(5):
        envs.step(envs.action_space.sample())
        seen |= set(envs.step(envs.action_space.sample())[4]["episode_seed"].tolist())
    assert len(seen) == 4 * 6


def test_a_masked_reset_touches_the_masked_alone():
    envs = ColonyVectorEnv(4, config=TINY, autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = envs.step(envs.action_space.sample())[0]
    mask = np.array([True, False, True, False])
    options = {"reset_mask": mask}
    after, info = envs.reset(seed=[9, None, None, None], options=options)
    for name, value in after.items():
        assert_equal(value[~mask], before[name][~mask])
    assert info["episode_seed"][0] == 9
    assert info["_episode_seed"].tolist() == mask.tolist()
    assert_equal({k: v[0] for k, v in after.items()}, ColonyEnv(config=TINY).reset(seed=9)[0])
    assert options == {"reset_mask": mask}, "wrappers read it after us"


@pytest.mark.parametrize(
    "mask",
    [[True, False], np.array([1, 0]), np.array([True]), np.zeros(2, np.bool_), np.ones((2, 1), np.bool_)],
)
def test_a_wrong_mask_is_refused(mask):
    envs = ColonyVectorEnv(2, config=TINY, autoreset_mode="Disabled")
    envs.reset(seed=0)
    with pytest.raises(UserError, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})


def test_the_first_reset_takes_no_mask():
    envs = ColonyVectorEnv(2, config=TINY, autoreset_mode="Disabled")
    with pytest.raises(UserError, match="leave out the mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(UserError, match="2 colonies"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "seed",
    [-1, 2**63 - 1, 1.5, True, "a", "ab", [1.5, 2.5], [True, False], [4, -1], [4, 2**63], [4, "b"], {1: 2}],
)
def test_wrong_seeds_are_refused_and_change_nothing(seed):
    envs, twin = (ColonyVectorEnv(2, config=TINY, autoreset_mode="Disabled") for _ in range(2))
    for one in (envs, twin):
        one.reset(seed=3)
    with pytest.raises(UserError, match=r"^seed: .*integer") as caught:
        envs.reset(seed=seed)
    assert "\n" not in str(caught.value)
    assert_equal(envs.reset(), twin.reset())


@pytest.mark.usefixtures("unchecked")
def test_seeds_may_stand_in_an_array():
    envs = ColonyVectorEnv(2, config=TINY)
    assert envs.reset(seed=np.array([5, 9]))[1]["episode_seed"].tolist() == [5, 9]
    assert envs.reset(seed=np.int64(5))[1]["episode_seed"].tolist() == [5, 6]


def test_a_refused_mask_changes_no_stream():
    envs = ColonyVectorEnv(2, config=TINY, autoreset_mode="Disabled")
    for _ in range(2):
        with pytest.raises(UserError, match="leave out the mask"):
            envs.reset(seed=[3, None], options={"reset_mask": np.array([True, False])})
    twin = ColonyVectorEnv(2, config=TINY)
    twin.reset(seed=3)
    later = int(twin.reset()[1]["episode_seed"][0])
    assert not {3, later} & set(envs.reset()[1]["episode_seed"].tolist())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_envs", [2.5, "4", None, 0, True])
def test_a_wrong_number_of_colonies_is_refused(num_envs):
    with pytest.raises(UserError, match=r"num_envs is .*; take an integer from 1"):
        ColonyVectorEnv(num_envs, config=TINY)


def test_disabled_refuses_to_step_what_has_ended():
    envs = ColonyVectorEnv(2, config={**TINY, "max_steps": 1}, level="global", autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(UserError, match="colony 1: no episode is running"):
        envs.step(envs.action_space.sample())


@pytest.mark.parametrize("level", ["node", "global"])
def test_actions_of_waiting_colonies_are_not_looked_at(level):
    config = {**TINY, "max_steps": 1}
    envs = ColonyVectorEnv(2, config=config, level=level, invalid_action="error")
    good = envs.action_space.sample()
    if level == "node":
        good["kind"][:] = 0
    envs.reset(seed=0)
    envs.step(good)
    if level == "node":
        bad = {"kind": np.full_like(good["kind"], 7), "parameters": np.full_like(good["parameters"], np.nan)}
    else:
        bad = np.full_like(good, np.nan)
    envs.step(bad)
    with pytest.raises(UserError, match="colony 0"):
        envs.step(bad)


def test_a_global_action_outside_the_box_rests_and_counts():
    envs = ColonyVectorEnv(3, config=TINY, level="global")
    envs.reset(seed=0)
    actions = np.tile(np.float32(GOOD), (3, 1))
    actions[0, 2], actions[2, 4] = 1.5, np.nan
    info = envs.step(actions)[4]
    assert info["invalid_actions"].tolist() == [1, 0, 1]
    assert (info["spawned"] > 0).tolist() == [False, True, False]
    strict = ColonyVectorEnv(3, config=TINY, level="global", invalid_action="error")
    strict.reset(seed=0)
    with pytest.raises(UserError, match=r"colony 0, number 2: 1\.5; .*within \[-1, 1\]"):
        strict.step(actions)


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics(mode):
    """The library's wrapper counts whole episodes and nothing else, whatever the mode."""
    envs = vector_wrappers.RecordEpisodeStatistics(
        ColonyVectorEnv(3, config=MIXED, level="global", autoreset_mode=mode)
    )
    expected = []
    running = np.zeros(3)
    lengths = np.zeros(3, int)
    fresh = np.zeros(3, bool)
    envs.action_space.seed(1)
    envs.reset(seed=0)
    for _ in range(30):
        _, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        running[~fresh] += reward[~fresh]
        lengths[~fresh] += 1
        ended = terminated | truncated
        for index in np.flatnonzero(ended):
            expected.append((running[index], lengths[index]))
            assert info["episode"]["r"][index] == pytest.approx(running[index])
            running[index], lengths[index] = 0.0, 0
        fresh = ended if mode == AutoresetMode.NEXT_STEP else np.zeros(3, bool)
        if mode == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
    assert len(expected) > 6
    assert list(envs.length_queue) == [length for _, length in expected]
    np.testing.assert_allclose(list(envs.return_queue), [total for total, _ in expected], atol=1e-9)


def test_other_vector_wrappers():
    make = lambda mode="NextStep": ColonyVectorEnv(3, config=MIXED, level="global", autoreset_mode=mode)  # noqa: E731
    envs = vector_wrappers.DictInfoToList(vector_wrappers.ClipReward(make(), -0.01, 0.01))
    envs.reset(seed=0)
    _, reward, _, _, infos = envs.step(envs.action_space.sample())
    assert (np.abs(reward) <= 0.01).all()
    assert [info["reason"] for info in infos] == ["running"] * 3
    flat = vector_wrappers.FlattenObservation(make())
    observation, _ = flat.reset(seed=0)
    assert observation.shape == flat.observation_space.shape
    normal = vector_wrappers.NormalizeReward(make("SameStep"))
    normal.reset(seed=0)
    assert np.isfinite(normal.step(normal.action_space.sample())[1]).all()
    scaled = vector_wrappers.RescaleAction(make(), np.zeros(5, np.float32), np.ones(5, np.float32))
    scaled.reset(seed=0)
    assert scaled.step(np.tile(np.float32([0.25, 1, 0, 0, 0.5]), (3, 1)))[4]["invalid_actions"].sum() == 0


def test_separate_processes():
    """AsyncVectorEnv with shared memory: the flat Dict goes through."""
    envs = gym.make_vec(NODE_ID, 2, vectorization_mode="async", config=TINY)
    try:
        observations, _ = envs.reset(seed=5)
        there = ColonyVectorEnv(2, config=TINY).reset(seed=5)[0]
        for name, value in observations.items():
            np.testing.assert_array_equal(value, there[name])
    finally:
        envs.close()


def test_pictures_of_all():
    envs = ColonyVectorEnv(2, config=TINY, render_mode="rgb_array")
    envs.reset(seed=3)
    one = ColonyEnv(config=TINY, render_mode="rgb_array")
    for index, picture in enumerate(envs.render()):
        one.reset(seed=3 + index)
        np.testing.assert_array_equal(picture, one.render())
    assert ColonyVectorEnv(2).render() is None
    with pytest.raises(UserError, match="'rgb_array' only"):
        ColonyVectorEnv(2, render_mode="human")
    with pytest.raises(UserError, match=r"autoreset_mode is 'SameSteps' \(did you mean 'SameStep'\?\)"):
        ColonyVectorEnv(2, autoreset_mode="SameSteps")
