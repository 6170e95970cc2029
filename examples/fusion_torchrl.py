"""Pre-trained models in TorchRL: `WSAModule` in a probabilistic actor, trained with ClipPPOLoss.

    python examples/fusion_torchrl.py              # 2,048 steps, about a minute on one core
    python examples/fusion_torchrl.py --scenario moat --iterations 50

Needs the extra: pip install "durotaxis[torchrl]". The world is a colony steered by five numbers: its field is
the picture, its graph features are the context. One frozen random ResNet (calibrated on random play) and one
small network that learns with the policy are shared by actor and critic. Prints attention at each iteration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import MIN_CALIBRATION_IMAGES, calibrate

PTMS = ({"model_type": "resnet18_random", "tap": "layer1"}, {"model_type": "graph_cnn", "freeze": False})
CONFIG = {"observation": {"field": True}}
WIDTH = 64  # of embeddings and representation


def make_env(scenario: str) -> Any:
    """One colony under TorchRL: `field` [3,24,24], `graph` [16], action [5]."""
    import durotaxis.integrations  # noqa: F401 - registers the ids

    try:
        from torchrl.envs import GymWrapper
    except ModuleNotFoundError:
        raise UserError('TorchRL is not installed: pip install "durotaxis[torchrl]"') from None
    env = gym.make("durotaxis/DurotaxisGlobal-v0", scenario=scenario, config=CONFIG)
    # TorchRL converts no MultiBinary of two dimensions, so only what is read is kept.
    return GymWrapper(gym.wrappers.FilterObservation(env, ["field", "graph"]))


def make_agent(env: Any) -> Any:
    """Actor and critic on one representation."""
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.modules import ActorValueOperator, ProbabilisticActor, TruncatedNormal, ValueOperator

    from durotaxis.integrations import WSAModule

    shapes = {name: env.observation_spec[name].shape for name in ("field", "graph")}
    fusion = WSAModule(
        shapes["field"],
        image_key="field",
        context_key="graph",
        context_width=shapes["graph"][-1],
        embedding_dim=WIDTH,
        context_dim=32,
        ptms=PTMS,
    )
    spec = env.action_spec
    head = nn.Sequential(
        nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 2 * spec.shape[-1]), NormalParamExtractor()
    )
    actor = ProbabilisticActor(
        TensorDictModule(head, ["representation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TruncatedNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
        return_log_prob=True,
    )
    value = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 1))
    return ActorValueOperator(fusion, actor, ValueOperator(value, in_keys=["representation"]))


def train(scenario: str, iterations: int, num_steps: int, seed: int) -> None:
    """PPO: a rollout, four passes over it, a line."""
    env = make_env(scenario)
    torch.manual_seed(seed)
    env.set_seed(seed)
    agent = make_agent(env)
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    extractor = agent[0].fusion.extractor
    calibrate(extractor, random_pictures(scenario, seed))
    frozen = extractor.frozen_hash()
    actor, critic = agent.get_policy_operator(), agent.get_value_operator()
    loss = ClipPPOLoss(actor, critic, entropy_coeff=1e-3)
    # torch's vmap takes no convolutions whose images lie channels last in memory.
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, deactivate_vmap=True)
    optimizer = torch.optim.Adam(agent.parameters(), lr=5e-4)  # frozen ones get no gradient and stay
    print(f"{'step':>6}  {'reward':>8}  " + "  ".join(f"{name:>16}" for name in extractor.names))
    for iteration in range(1, iterations + 1):
        with torch.no_grad():
            rollout = env.rollout(num_steps, actor, break_when_any_done=False)
            advantage(rollout)
        for _ in range(4):
            losses = loss(rollout)
            total = sum(value for name, value in losses.items() if name.startswith("loss_"))
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        weights = "  ".join(f"{w:16.3f}" for w in rollout["attention"].flatten(0, -2).mean(0))
        print(f"{iteration * num_steps:>6,}  {float(rollout['next', 'reward'].mean()):8.4f}  {weights}")
    if extractor.frozen_hash() != frozen:
        raise RuntimeError("frozen weights changed")
    print("frozen weights: unchanged")


def random_pictures(scenario: str, seed: int) -> torch.Tensor:
    """[M,3,24,24] of random play by many colonies at a time, every fourth step."""
    env = gym.make_vec("durotaxis/DurotaxisGlobal-v0", num_envs=64, scenario=scenario, config=CONFIG)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    steps = range(4 * MIN_CALIBRATION_IMAGES // 64)
    seen = [env.step(env.action_space.sample())[0]["field"] for _ in steps]
    return torch.as_tensor(np.concatenate(seen[3::4]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and print; returns the exit code."""
    options = parse(arguments)
    try:
        if min(options.iterations, options.steps) < 1:
            raise UserError("--iterations and --steps must be at least 1")
        train(options.scenario, options.iterations, options.steps, options.seed)
    except UserError as error:
        print(f"fusion_torchrl: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="quick", help="world (default: quick)")
    parser.add_argument("--iterations", type=int, default=8, help="rollouts and updates (default: 8)")
    parser.add_argument("--steps", type=int, default=256, help="of every rollout (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
