"""`durotaxis export RUN policy`: files that work alone, and the check that they are the same agent."""

import subprocess
import sys

import pytest
import torch

from durotaxis.agent import load_agent
from durotaxis.cli.deploy import export_policy
from durotaxis.core.errors import UserError
from durotaxis.records import RecordError, read_episode
from durotaxis.study import deploy
from durotaxis.study.evaluation import open_run


def test_the_program_plays_the_exported_policy_elsewhere(recorded_run, tmp_path, capsys):
    """Its episode is the one that was recorded."""
    export_policy(recorded_run, tmp_path / "policy")
    said = capsys.readouterr().out
    assert "its outputs differ by at most 0.0e+00 in 48 observations" in said
    episode = read_episode(recorded_run, 1)
    (tmp_path / "run").rename(tmp_path / "gone")
    command = [sys.executable, str(tmp_path / "policy" / "play.py"), "2000001"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    info = episode.info
    assert done.stdout == f"seed 2000001: max steps after 12 steps, return {info.total_reward:.2f}\n"


def test_it_is_refused_when_it_is_not_the_same(recorded_run, tmp_path, monkeypatch):
    def spoiled(path):
        agent = load_agent(path)
        with torch.no_grad():
            next(agent.critic.parameters()).add_(1e-3)
        return agent

    monkeypatch.setattr(deploy, "load_agent", spoiled)
    with pytest.raises(UserError, match=r"would differ from run/checkpoints/last.pt by .*; not written"):
        export_policy(recorded_run, None)
    assert not list((recorded_run / "policy").iterdir())


def test_outputs_that_are_no_numbers_are_not_the_same(recorded_run):
    one, other = open_run(recorded_run), open_run(recorded_run)
    state = dict(other.policy.state_dict())
    state["actor.heads.continuous_head.bias"] = state["actor.heads.continuous_head.bias"] * float("nan")
    other.policy.load_state_dict(state)
    assert not deploy.compare(one.policy, other.policy, one.config.env) <= deploy.TOLERANCE


def test_compare_sees_every_output(recorded_run):
    """A change of the kinds alone, of the parameters alone, of the value alone."""
    one, other = open_run(recorded_run), open_run(recorded_run)
    assert deploy.compare(one.policy, other.policy, one.config.env) == 0.0
    state = {key: value.clone() for key, value in one.policy.state_dict().items()}
    last_of_critic = [key for key in state if key.startswith("critic.") and key.endswith(".bias")][-1]
    for key in ("actor.heads.discrete_head.bias", "actor.heads.continuous_head.bias", last_of_critic):
        changed = {**state, key: state[key] + torch.arange(len(state[key])) * 0.1 + 0.1}
        other.policy.load_state_dict(changed)
        assert deploy.compare(one.policy, other.policy, one.config.env) > 1e-3, key


def test_what_cannot_be_exported(recorded_run, tmp_path):
    (tmp_path / "file").touch()
    for target, out, message in (
        ("none", None, "none is not a run directory"),
        (recorded_run, tmp_path / "file", "is a file"),
        (recorded_run, tmp_path / "file" / "inside", "cannot write"),
    ):
        with pytest.raises((UserError, RecordError), match=message):
            export_policy(target, out)
