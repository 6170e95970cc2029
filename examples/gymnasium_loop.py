"""One colony through Gymnasium, episode after episode.

    python examples/gymnasium_loop.py
    python examples/gymnasium_loop.py --scenario moat --policy random --episodes 3

`steady` is one constant action of `durotaxis/DurotaxisGlobal-v0`: delete the rear quarter, step forward.
`random` samples `durotaxis/Durotaxis-v0`, where every node has a choice of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from durotaxis.core.errors import UserError
from durotaxis.integrations import GLOBAL_ID, NODE_ID

STEADY = np.array([-0.5, 1.0, -1.0, -1.0, 0.0], dtype=np.float32)
"""A quarter to delete, longest step, least half-saturation, no noise, straight ahead; all in [-1, 1]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; returns the exit code."""
    options = parse(arguments)
    try:
        play(options.scenario, options.policy, options.episodes, options.seed)
    except UserError as error:
        print(f"gymnasium_loop: {error}", file=sys.stderr)
        return 2
    return 0


def play(scenario: str, policy: str, num_episodes: int, seed: int) -> None:
    """Play episodes and print one line for each."""
    env = gym.make(GLOBAL_ID if policy == "steady" else NODE_ID, scenario=scenario)
    print("episode  steps  return  front  nodes  end")
    for episode in range(num_episodes):
        env.reset(seed=seed + episode)
        env.action_space.seed(seed + episode)
        total, steps, ended = 0.0, 0, False
        while not ended:
            action = STEADY if policy == "steady" else env.action_space.sample()
            _, reward, terminated, truncated, info = env.step(action)
            total, steps, ended = total + float(reward), steps + 1, terminated or truncated
        front = f"{info['front_progress']:.0%}"
        print(f"{episode:7d}  {steps:5d}  {total:6.2f}  {front:>5}  {info['num_nodes']:5d}  {info['reason']}")
    env.close()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="quick", help="world (default: quick)")
    parser.add_argument("--policy", choices=("steady", "random"), default="steady", help="default: steady")
    parser.add_argument("--episodes", type=int, default=5, help="default: 5")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: 0)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
