"""TorchRL's EnvBase over the native batch: its own check, and the world step by step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from integration_cases import TINY
from torchrl.envs.utils import check_env_specs, step_mdp

from durotaxis.core.errors import UserError
from durotaxis.env import Action, DurotaxisEnv, EnvConfig, Reason
from durotaxis.integrations import ColonyTensorEnv
from durotaxis.integrations.actions import rest_invalid

MIXED = {"scenario": "random", **TINY, "max_steps": 9, "max_nodes": 8, "capacity": 14}


@pytest.mark.parametrize("form", ["scaled", "raw"])
def test_torchrl_checks_it(form):
    env = ColonyTensorEnv(3, "moat", {**TINY, "observation": {"field": True}}, observation_form=form)
    assert env.batch_size == (3,)
    check_env_specs(env, seed=0)
    check_env_specs(env, break_when_any_done="both")


def test_a_rollout_is_the_world_step_by_step():
    """Partial resets included: observation, reward and both ends, to the bit."""
    env, config = ColonyTensorEnv(4, config=MIXED), EnvConfig(**MIXED)
    env.set_seed(30)
    torch.manual_seed(0)
    rollout = env.rollout(30, break_when_any_done=False)
    world = DurotaxisEnv(config, 4)
    seen = world.reset([30, 31, 32, 33])
    ends, reasons = 0, set()
    for t in range(30):
        now = rollout[:, t]
        for name in ("nodes", "graph", "edges", "action_mask", "node_mask", "edge_mask"):
            assert torch.equal(now[name], getattr(seen, name)), f"step {t}: {name}"
        chosen = Action(now["action", "kind"], now["action", "parameters"])
        action, invalid = rest_invalid(world.colony, chosen, config)
        there = world.step(action)
        after = now["next"]
        assert torch.equal(after["reward"][:, 0], there.reward)
        assert torch.equal(after["terminated"][:, 0], there.terminated)
        assert torch.equal(after["truncated"][:, 0], there.truncated)
        assert torch.equal(after["done"][:, 0], there.terminated | there.truncated)
        assert torch.equal(after["nodes"], there.observation.nodes), "the last observation comes first"
        assert torch.equal(after["info", "reason"][:, 0], there.reason)
        assert torch.equal(after["info", "invalid_actions"][:, 0], invalid)
        assert torch.equal(after["info", "num_nodes"][:, 0], there.colony.num_nodes)
        ended, seen = there.terminated | there.truncated, there.observation
        reasons |= {Reason(int(r)) for r in there.reason}
        if bool(ended.any()) and t < 29:
            ends += int(ended.sum())
            seen = world.reset_where(ended, rollout[:, t + 1]["info", "episode_seed"][:, 0])
    assert ends >= 6
    assert {Reason.OVERCROWDED, Reason.MAX_STEPS} <= reasons


def test_seeds():
    env = ColonyTensorEnv(3, config=TINY)
    env.set_seed(7)
    first = env.reset()
    assert first["info", "episode_seed"][:, 0].tolist() == [7, 8, 9]
    second = env.reset()
    assert not torch.equal(first["nodes"], second["nodes"])
    env.set_seed(7)
    assert torch.equal(env.reset()["nodes"], first["nodes"])
    assert torch.equal(env.reset()["nodes"], second["nodes"]), "a seed fixes all that follow"


def test_a_partial_reset_touches_the_masked_alone():
    env = ColonyTensorEnv(3, config=TINY)
    env.set_seed(0)
    td = env.rand_step(env.reset())
    state = step_mdp(td)
    mask = torch.tensor([[True], [False], [True]])
    state["_reset"] = mask
    after = env.reset(state)
    assert torch.equal(after["nodes"][1], td["next", "nodes"][1])
    assert after["info", "episode_seed"][1] == 1
    assert not set(after["info", "episode_seed"][[0, 2], 0].tolist()) & {0, 1, 2}
    assert after["info", "num_nodes"][[0, 2], 0].tolist() == [5, 5]


def test_invalid_actions_can_be_refused():
    env = ColonyTensorEnv(2, config=TINY, invalid_action="error")
    td = env.reset()
    td["action"] = env.full_action_spec.rand()["action"]
    td["action", "kind"] = torch.full((2, 24), 1)
    td["action", "parameters"][1, 2, 0] = 99.0
    with pytest.raises(UserError, match="colony 1, node 2: max_step is 99"):
        env.step(td)


def test_the_missing_library_names_its_extra():
    code = (
        "import sys; sys.modules['torchrl'] = None\n"
        "from durotaxis.core.errors import UserError\n"
        "import durotaxis.integrations as d\n"
        "try:\n    d.ColonyTensorEnv\nexcept UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "durotaxis[torchrl]"' in done.stdout
