"""TorchRL's EnvBase over the native batch: its own check, and the world step by step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from integration_cases import TINY
from tensordict import TensorDict
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


def partial_reset(env, mask):
    """Seeds of the colonies after a reset of those that the mask names."""
    state = env.reset_state.clone()
    state["_reset"] = torch.tensor(mask)[:, None]
    env.reset_state = env.reset(state)
    return env.reset_state["info", "episode_seed"][:, 0].tolist()


def test_a_seed_waits_for_its_colony():
    env = ColonyTensorEnv(3, config=TINY)
    env.set_seed(0)
    env.reset_state = env.reset()
    env.set_seed(100)
    assert partial_reset(env, [True, False, False]) == [100, 1, 2]
    assert partial_reset(env, [False, True, True]) == [100, 101, 102]
    assert not {100, 101, 102} & set(partial_reset(env, [True, True, True]))


def test_a_refused_reset_keeps_the_seeds():
    env = ColonyTensorEnv(3, config=TINY)
    env.set_seed(7)
    with pytest.raises(UserError, match="leave out the mask"):
        env.reset(TensorDict({"_reset": torch.tensor([[True], [False], [False]])}, [3]))
    assert env.reset()["info", "episode_seed"][:, 0].tolist() == [7, 8, 9]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 2**63, 2**63 - 2, 1.5, True, "a", [1, 2, 3]])
def test_a_wrong_seed_is_refused_and_changes_nothing(seed):
    env = ColonyTensorEnv(3, config=TINY)
    env.set_seed(7)
    with pytest.raises(UserError, match=r"^seed: .*integer"):
        env.set_seed(seed)
    assert env.reset()["info", "episode_seed"][:, 0].tolist() == [7, 8, 9]


def test_staggered_ends():
    """TorchRL's mask `_step`: who has ended stays as it was until all have."""
    env = ColonyTensorEnv(6, config={**MIXED, "max_steps": 30})
    env.set_seed(30)
    torch.manual_seed(0)
    rollout = env.rollout(40, break_when_any_done=False, break_when_all_done=True)
    done = rollout["next", "done"][..., 0]
    lengths = (~done).sum(1) + 1
    assert done[:, -1].all()
    assert len(set(lengths.tolist())) > 1
    for colony, length in enumerate(lengths.tolist()):
        for name in (("next", "nodes"), ("next", "info", "reason"), ("next", "reward")):
            assert (rollout[name][colony, length - 1 :] == rollout[name][colony, length - 1]).all()
    reasons = rollout["next", "info", "reason"][:, -1]
    assert (reasons != Reason.RUNNING).all()
    assert torch.equal(rollout["next", "truncated"][:, -1], reasons == Reason.MAX_STEPS)


def test_a_partial_step_leaves_the_others():
    env, whole = (ColonyTensorEnv(3, config=TINY) for _ in range(2))
    states = []
    for one in (env, whole):
        one.set_seed(5)
        states.append(one.rand_action(one.reset()))
    before = states[0].clone()
    states[1]["action"] = states[0]["action"]
    states[0]["_step"] = torch.tensor([[True], [False], [True]])
    after, there = env.step(states[0])["next"], whole.step(states[1])["next"]
    assert torch.equal(after["nodes"][[0, 2]], there["nodes"][[0, 2]])
    assert torch.equal(after["reward"][[0, 2]], there["reward"][[0, 2]])
    assert torch.equal(after["nodes"][1], before["nodes"][1])
    assert after["reward"][1] == 0
    assert after["info", "invalid_actions"][1] == 0
    assert env.batch.world.colony.step.tolist() == [1, 0, 1]
    state = env.rand_action(step_mdp(states[0]).exclude("_step"))
    state["action", "kind"].zero_()
    assert not env.step(state)["next", "done"].any()
    assert env.batch.world.colony.step.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(2, 5), "a dict with `kind` and `parameters`, not Tensor"),
        ({"kind": torch.zeros(2, 24, dtype=torch.int64)}, r"not one with \['kind'\]"),
        (
            {"kind": torch.zeros(2, 23, dtype=torch.int64), "parameters": torch.zeros(2, 24, 4)},
            r"kind must have shape \[2, 24\], not \[2, 23\]",
        ),
        ({"kind": torch.zeros(2, 24), "parameters": torch.zeros(2, 24, 4)}, "kind must hold integers"),
        (
            {"kind": torch.zeros(2, 24, dtype=torch.int64), "parameters": torch.zeros(2, 24, 3)},
            "parameters must have shape",
        ),
        (
            {
                "kind": torch.zeros(2, 24, dtype=torch.int64),
                "parameters": torch.zeros(2, 24, 4, dtype=torch.complex64),
            },
            "parameters must hold numbers, not complex64",
        ),
    ],
)
def test_an_action_of_the_wrong_form_is_refused(action, message):
    env = ColonyTensorEnv(2, config=TINY)
    td = env.reset()
    td["action"] = action if isinstance(action, torch.Tensor) else TensorDict(action, [2])
    with pytest.raises(UserError, match=message):
        env.step(td)


def test_a_step_without_an_action_is_refused():
    env = ColonyTensorEnv(2, config=TINY)
    with pytest.raises(UserError, match="a dict with `kind` and `parameters`"):
        env.step(env.reset())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_envs", [2.5, "4", None, 0, True])
def test_a_wrong_number_of_colonies_is_refused(num_envs):
    with pytest.raises(UserError, match=r"num_envs is .*integer from 1"):
        ColonyTensorEnv(num_envs, config=TINY)


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
