"""Copies and pickles of environments: the same colonies, on their own from then on."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from integration_cases import TINY, assert_equal

from durotaxis.integrations import ColonyEnv, ColonyVecEnv, ColonyVectorEnv

MAKERS = {
    "single": lambda level: ColonyEnv(config=TINY, level=level),
    "batch": lambda level: ColonyVectorEnv(2, config=TINY, level=level),
    "sb3": lambda level: ColonyVecEnv(2, config=TINY, level=level, seed=3),
}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}


def start(env):
    """Begin with seed 3, and two actions to take."""
    env.reset() if isinstance(env, ColonyVecEnv) else env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(2)]
    return [np.stack([action] * 2) for action in actions] if isinstance(env, ColonyVecEnv) else actions


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("level", ["node", "global"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_copy_goes_on_alone(kind, level, way):
    env = MAKERS[kind](level)
    first, second = start(env)
    env.step(first)
    twin = COPIES[way](env)
    age = env.batch.world.colony.step.clone()
    there = twin.step(second)
    assert env.batch.world.colony.step.equal(age), "the original stays where it was"
    assert twin.batch.world.colony.step.equal(age + 1)
    assert_equal(list(there), list(env.step(second)))
