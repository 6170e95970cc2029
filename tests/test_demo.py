"""The demo end to end, in a tiny form."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.unchecked

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
TINY = (
    "ppo.num_colonies=4",
    "ppo.rollout_steps=4",
    "training.total_steps=160",
    "training.evaluate_every=160",
    "training.evaluation_episodes=2",
    "env.max_steps=10",
    "monitor.tensorboard=false",
)


@pytest.fixture(scope="module")
def demo():
    specification = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("use_wsa", [True, False])
def test_the_demo_leaves_its_table_figures_and_film(demo, tmp_path, capsys, use_wsa):
    run = tmp_path / "run"
    switch = f"actor_critic.use_wsa={str(use_wsa).lower()}"
    assert demo.main(["--directory", str(run), "--seeds", "3", *TINY, switch]) == 0
    rows = [line for line in (run / "demo.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + (6 if use_wsa else 4)
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"learning-curve.png", "episode.gif"} | ({"attention.png"} if use_wsa else set())
    assert "trained agent" in capsys.readouterr().out


def test_the_untrained_agent_of_the_table_is_the_one_before_training(demo, tmp_path):
    import torch

    from durotaxis.ppo import load, load_policy
    from durotaxis.study.run import build_policy, prepare

    job = prepare("quick", [*TINY, f"run.directory={tmp_path / 'run'}"])
    before = {name: value.clone() for name, value in job.policy.state_dict().items()}
    job.train()
    untrained = build_policy(job.config, job.device)
    load_policy(untrained, load(job.run.last_checkpoint), job.run.last_checkpoint)
    assert any(not torch.equal(before[name], value) for name, value in untrained.state_dict().items())
    demo.reset_trainable(untrained, build_policy(job.config, job.device))
    assert all(torch.equal(before[name], value) for name, value in untrained.state_dict().items())


def test_a_wrong_input_is_one_line(demo, tmp_path, capsys):
    assert demo.main(["--directory", str(tmp_path / "run"), "env.scenario=quik"]) == 2
    assert "quik" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
