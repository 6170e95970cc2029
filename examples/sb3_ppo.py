"""PPO of Stable-Baselines3 on the global action, with a small graph extractor.

    python examples/sb3_ppo.py                     # a small world: about half a minute on one core
    python examples/sb3_ppo.py --steps 100000 --length 200

Needs the extra: pip install "durotaxis[sb3]". Prints returns before and after training over the same held-out
episodes. Actions are sampled, as in training; the last row takes the mean action instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from durotaxis.core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and compare; returns the exit code."""
    options = parse(arguments)
    try:
        train(options.steps, options.colonies, options.length, options.seed, options.episodes)
    except UserError as error:
        print(f"sb3_ppo: {error}", file=sys.stderr)
        return 2
    return 0


def train(num_steps: int, num_colonies: int, length: float, seed: int, num_episodes: int) -> None:
    """Train PPO on a linear gradient of this length in µm, and print returns before and after."""
    from durotaxis.integrations import ColonyVecEnv, GraphExtractor

    world = {
        "substrate": {"size": (length, 40.0)},
        "critical_nodes": 8,
        "max_nodes": 20,
        "max_steps": max(20, round(length)),
    }
    from stable_baselines3 import PPO

    model = PPO(
        "MultiInputPolicy",
        ColonyVecEnv(num_colonies, config=world, seed=seed),
        n_steps=24,
        batch_size=6 * num_colonies,
        n_epochs=6,
        learning_rate=1e-3,
        gamma=0.98,
        policy_kwargs={
            "features_extractor_class": GraphExtractor,
            "net_arch": [32],
            "log_std_init": -0.5,
        },
        seed=seed,
        device="cpu",
    )

    def score(name: str, deterministic: bool = False) -> None:
        env = ColonyVecEnv(num_episodes, config=world, seed=1_000_000)
        returns, won = play(env, lambda seen: model.predict(seen, deterministic=deterministic)[0])
        error = returns.std(ddof=1) / np.sqrt(len(returns))
        print(f"{name:<22} {returns.mean():7.2f} ± {error:.2f}   {won:5.0%} reach the goal", flush=True)

    print(f"mean return of {num_episodes} held-out episodes, ± its standard error")
    score("before")
    model.learn(num_steps)
    score(f"after {model.num_timesteps:,} steps")
    score("the same, mean action", deterministic=True)


def play(env: Any, act: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, float]:
    """(returns [B], share of successes) of the first episode of every colony."""
    observation = env.reset()
    total, ended = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=bool)
    won = 0
    while not ended.all():
        observation, reward, done, infos = env.step(act(observation))
        total += np.where(ended, 0.0, reward)
        won += sum(infos[i]["reason"] == "success" for i in np.flatnonzero(done & ~ended))
        ended |= done
    return total, won / env.num_envs


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=15_000, help="environment steps (default: 15000)")
    parser.add_argument("--colonies", type=int, default=48, help="trained together (default: 48)")
    parser.add_argument("--length", type=float, default=60.0, help="of the substrate, µm (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--episodes", type=int, default=64, help="held-out episodes (default: 64)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
