"""Three pre-trained models on an Atari game: PPO of Stable-Baselines3 on pixels, with attention over models.

    python examples/atari_fusion.py                # 4,000 steps of Pong, two minutes on one core
    python examples/atari_fusion.py --game Breakout --steps 100000 --side 84

Needs the extras: pip install "durotaxis[sb3,atari]"; the games come with ale-py. Two frozen random
ResNets, calibrated on pictures of random play, and a small network trained with the policy look at a stack of
four grey frames. A few thousand steps show that everything works; nobody learns Pong from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from durotaxis.core.errors import UserError

PTMS = (
    {"model_type": "resnet18_random"},
    {"model_type": "resnet34_random"},
    {"model_type": "graph_cnn", "freeze": False},
)
ROLLOUT = 128  # steps of every environment between two updates, at most
FRAMES = 4


class SmallScreen(gym.ObservationWrapper):
    """Grey frames as squares of `side` pixels (mean over areas); Gymnasium's own wrapper needs OpenCV."""

    def __init__(self, env: gym.Env, side: int) -> None:
        super().__init__(env)
        self.side = side
        self.observation_space = gym.spaces.Box(0, 255, (side, side), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """[H,W] uint8 to [side,side] uint8."""
        grey = torch.from_numpy(observation)[None].float()
        small = torch.nn.functional.adaptive_avg_pool2d(grey, self.side)
        return small[0].round().to(torch.uint8).numpy()


def make_env(game: str, side: int) -> gym.Env:
    """A game whose observation is [4,side,side] uint8: the latest grey frames."""
    try:
        import ale_py
    except ModuleNotFoundError:
        raise UserError('Atari is not installed: pip install "durotaxis[atari]"') from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)
    name = f"ALE/{game}-v5"
    if name not in gym.registry:
        known = sorted(id.removeprefix("ALE/").removesuffix("-v5") for id in gym.registry if id[:4] == "ALE/")
        raise UserError(f"there is no game '{game}'; known are {', '.join(known)}")
    env = SmallScreen(gym.make(name, obs_type="grayscale", frameskip=4), side)
    return gym.wrappers.FrameStackObservation(env, FRAMES)


def train(game: str, num_steps: int, num_envs: int, side: int, seed: int) -> None:
    """Train with a progress bar; print attention before and after."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from durotaxis.integrations import calibrate_on, wsa_policy_kwargs

    if side < 16:
        raise UserError(f"--side {side}: pictures need at least 16 pixels a side")
    if num_steps < 1 or num_envs < 2:
        raise UserError("--steps must be at least 1 and --envs at least 2")
    rollout = 4 * max(1, min(ROLLOUT, num_steps // num_envs) // 4)
    model = PPO(
        "CnnPolicy",
        make_vec_env(lambda: make_env(game, side), num_envs, seed=seed),
        n_steps=rollout,
        batch_size=num_envs * rollout // 4,
        n_epochs=3,
        learning_rate=2.5e-4,
        ent_coef=0.01,
        policy_kwargs=wsa_policy_kwargs(128, context_dim=64, ptms=PTMS, channels="first"),
        seed=seed,
        device="cpu",
    )
    calibrated = calibrate_on(model)
    extractor = model.policy.features_extractor.fusion.extractor
    print(f"{game}: calibrated {' and '.join(calibrated)} on pictures of random play")
    frozen, pictures = extractor.frozen_hash(), random_observations(model, 64)
    before = attention(model, pictures)
    with progress(num_steps) as callback:
        model.learn(num_steps, callback=callback)
    if extractor.frozen_hash() != frozen:
        raise RuntimeError("frozen weights changed")
    print(f"attention{'':<9} {'  '.join(f'{name:>16}' for name in extractor.names)}")
    for name, weights in (("before", before), (f"after {model.num_timesteps:,}", attention(model, pictures))):
        print(f"{name:<18} {'  '.join(f'{weight:16.3f}' for weight in weights.mean(0))}")
    spread = attention(model, pictures).std(0)
    print(f"{'std over pictures':<18} {'  '.join(f'{value:16.3f}' for value in spread)}")
    returns = [episode["r"] for episode in model.ep_info_buffer or ()]
    print(
        f"mean return of {len(returns)} episodes: {np.mean(returns):.1f}" if returns else "no episode ended"
    )
    print("frozen weights: unchanged")


def random_observations(model: Any, count: int) -> np.ndarray:
    """[count,4,side,side] uint8 of random play."""
    env = model.get_env()
    seen = [env.reset()]
    for _ in range(8 * count // env.num_envs):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        seen.append(env.step(actions)[0])
    return np.concatenate(seen[1::8])[:count]


def attention(model: Any, observations: np.ndarray) -> torch.Tensor:
    """[B,K] weights over the models."""
    pixels = torch.as_tensor(observations, device=model.device).float() / 255
    return model.policy.features_extractor.attention(pixels)


def progress(num_steps: int) -> Any:
    """A context with a callback of SB3 that moves a progress bar."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from stable_baselines3.common.callbacks import ConvertCallback

    @contextmanager
    def bar() -> Any:
        columns = BarColumn(), TextColumn("{task.completed:,} of {task.total:,} steps"), TimeRemainingColumn()
        with Progress(*columns) as shown:
            task = shown.add_task("train", total=num_steps)

            def advance(local: dict[str, Any], _: dict[str, Any]) -> bool:
                shown.update(task, completed=min(num_steps, local["self"].num_timesteps))
                return True

            yield ConvertCallback(advance)

    return bar()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and print; returns the exit code."""
    options = parse(arguments)
    try:
        train(options.game, options.steps, options.envs, options.side, options.seed)
    except UserError as error:
        print(f"atari_fusion: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="Pong", help="a game of ale-py (default: Pong)")
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps (default: 4000)")
    parser.add_argument("--envs", type=int, default=8, help="played at the same time (default: 8)")
    parser.add_argument("--side", type=int, default=48, help="of the pictures, pixels (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
