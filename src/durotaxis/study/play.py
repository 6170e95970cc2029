"""Lets an exported policy play one episode: python play.py [SEED]. Lies beside the policy it plays.

Written by `durotaxis export RUN policy`; it needs the package durotaxis and nothing else.
"""

import sys
from pathlib import Path

import torch

from durotaxis.agent import load_agent, read_about
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv, EnvConfig, Reason

FILE = Path(__file__).with_name("policy.safetensors")


def main(seed: int) -> None:
    """Play the episode of a seed in the world that the policy was trained in."""
    agent = load_agent(FILE)
    world = DurotaxisEnv(EnvConfig(**read_about(FILE)["env"]), num_colonies=1)
    observation = world.reset([seed])
    total, step, ended = 0.0, 0, False
    while not ended:
        with torch.no_grad():
            distribution, _ = agent(observation)
        sample = distribution.sample(keys=hash_keys(torch.tensor([seed]), Purpose.POLICY, step))
        transition = world.step(agent.to_action(sample, observation))
        observation, step = transition.observation, step + 1
        total += float(transition.reward)
        ended = bool(transition.terminated | transition.truncated)
    reason = Reason(int(transition.reason)).name.lower().replace("_", " ")
    print(f"seed {seed}: {reason} after {step} steps, return {total:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
