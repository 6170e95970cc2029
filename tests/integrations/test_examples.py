"""The examples run as printed in their help, only shorter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.unchecked

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNS = {
    "gymnasium_loop": (["--episodes", "1"], ["episode  steps  return", "100%", "success"]),
    "sb3_ppo": (
        ["--steps", "48", "--colonies", "2", "--length", "20", "--episodes", "2"],
        ["held-out episodes", "before", "after 48 steps", "mean action", "reach the goal"],
    ),
    "fusion_plain_torch": (
        ["--steps", "30"],
        ["error after 30 steps: attention 0.", "plain mean 0.", "camera 2 shows the light"],
    ),
    "fusion_torchrl": (
        ["--iterations", "2", "--steps", "8"],
        ["resnet18_random", "graph_cnn", "    16", "frozen weights: unchanged"],
    ),
    "atari_fusion": (
        ["--steps", "60", "--envs", "16", "--side", "20"],
        [
            "Pong: calibrated resnet18_random and resnet34_random",
            "resnet34_random         graph_cnn",
            "after 64",
            "frozen weights: unchanged",
        ],
    ),
    "torchrl_rollout": (
        ["--colonies", "2", "--steps", "4"],
        [
            "nodes              float32  [2, 4, 120, 13]",
            "action.kind        int64    [2, 4, 120]",
            "mean reward",
        ],
    ),
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, capsys):
    arguments, expected = RUNS[name]
    assert load(name).main(arguments) == 0
    printed = capsys.readouterr().out
    for text in expected:
        assert text in printed, printed


@pytest.mark.parametrize("name", RUNS)
def test_help_has_examples(name, capsys):
    with pytest.raises(SystemExit) as stop:
        load(name).main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"python examples/{name}.py" in printed
    assert "default: " in printed


@pytest.mark.parametrize("name", ["gymnasium_loop", "torchrl_rollout", "fusion_torchrl"])
def test_a_wrong_scenario_is_one_line(name, capsys):
    assert load(name).main(["--scenario", "moot"]) == 2
    assert capsys.readouterr().err == (
        f"{name}: unknown scenario 'moot' (did you mean 'moat'?); known: {', '.join(scenarios())}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "this computer has no device 'gpu' for torch; use cpu"),
        (["--device", "cuda:99"], "this computer has no device 'cuda:99' for torch; use cpu"),
        (["--colonies", "0"], "num_envs is 0"),
        (["--seed", "-1"], "seed: -1"),
    ],
)
def test_wrong_options_of_the_rollout_are_one_line(arguments, message, capsys):
    assert load("torchrl_rollout").main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"torchrl_rollout: {message}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("atari_fusion", ["--game", "Pnog"], "there is no game 'Pnog'; known are Adventure, "),
        ("atari_fusion", ["--side", "8"], "--side 8: pictures need at least 16 pixels a side"),
        ("atari_fusion", ["--envs", "0"], "--steps must be at least 1 and --envs at least 2"),
        ("fusion_torchrl", ["--iterations", "0"], "--iterations and --steps must be at least 1"),
        ("fusion_plain_torch", ["--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_wrong_options_of_fusion_examples_are_one_line(name, arguments, message, capsys):
    assert load(name).main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"{name}: {message}")
    assert printed.count("\n") == 1


def test_attention_of_the_plain_example_follows_the_context():
    """Each model is listened to where its camera shows the light, and that pays."""
    example = load("fusion_plain_torch")
    example.torch.manual_seed(0)
    error, table = example.train(example.WeightSharingAttention(example.WIDTH, 2), 100, 0)
    of_mean, _ = example.train(example.MeanFusion(), 30, 0)
    assert table.diagonal().min() > 0.85
    assert error < 0.6 * of_mean


def test_a_wrong_seed_of_the_loop_is_one_line(capsys):
    assert load("gymnasium_loop").main(["--seed", "-1"]) == 2
    assert capsys.readouterr().err.startswith("gymnasium_loop: seed: -1")


def scenarios():
    from durotaxis.env import SCENARIOS

    return SCENARIOS
