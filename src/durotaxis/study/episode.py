"""One episode of a policy, kept as frames for a film."""

from __future__ import annotations

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.env.render import Frame, Scene, frame_of, scene_of


@torch.no_grad()
def film_episode(
    policy: HybridActorCritic, config: EnvConfig, seed: int, title: str = ""
) -> tuple[list[Frame], Scene]:
    """Play the episode of `seed` as `evaluate` plays it, and keep every step.

    Returns:
        The frames (the last one after the last step, with the reason of the end) and their scene.
    """
    device = next(policy.parameters()).device
    world = DurotaxisEnv(config, 1, device)
    seeds = torch.tensor([seed], device=device)
    observation = world.reset(seeds)
    names = policy.ptm_names if policy.actor.has_attention else []
    scene = scene_of(world.substrate, config, title=title, ptms=names)
    frames: list[Frame] = []
    for step in range(config.max_steps):
        distribution, _ = policy(observation, policy.precompute(observation))
        action = policy.to_action(distribution.sample(hash_keys(seeds, Purpose.POLICY, step)), observation)
        frames.append(frame_of(world.colony, kind=action.kind, attention=distribution.attention))
        transition = world.step(action)
        observation = transition.observation
        if bool(transition.terminated | transition.truncated):
            frames.append(frame_of(world.colony, reason=int(transition.reason)))
            break
    return frames, scene
