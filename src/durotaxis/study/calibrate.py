"""Statistics of frozen random models, set once from pictures of a seeded random-policy rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from durotaxis.agent import HybridActorCritic
from durotaxis.agent.graph import flatten
from durotaxis.agent.image import View
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv, EnvConfig, Observation
from durotaxis.fusion import MIN_CALIBRATION_IMAGES, calibrate

NUM_COLONIES = 32
EVERY = 4
"""A picture of every colony at every fourth step: neighbouring steps look alike."""
NUM_STEPS = EVERY * MIN_CALIBRATION_IMAGES // NUM_COLONIES


@torch.no_grad()
def calibrate_policy(policy: HybridActorCritic, env: EnvConfig, seed: int) -> list[str]:
    """Set the BatchNorm statistics of the policy's frozen random models; returns their names.

    The rollout is a pure function of `env` and `seed`. Models already calibrated are left alone, so a policy
    whose checkpoint was loaded is not calibrated again.
    """
    names = policy.actor.extractor.needs_calibration()
    if names:
        device = next(policy.parameters()).device
        images = [make_images(policy, o) for o in random_observations(env, seed, device)]
        calibrate(policy.actor.extractor, _thin(torch.cat(images), MIN_CALIBRATION_IMAGES))
    return names


def random_observations(env: EnvConfig, seed: int, device: torch.device) -> list[Observation]:
    """Scaled observations of NUM_COLONIES colonies under the random policy, 512 in all."""
    world = DurotaxisEnv(env, NUM_COLONIES, device)
    slots = torch.arange(NUM_COLONIES, device=device)
    episode = torch.zeros_like(slots)

    def seeds() -> Tensor:
        return hash_keys(seed, Purpose.CALIBRATION, slots, episode)

    observation = world.reset(seeds())
    kept = []
    for step in range(1, NUM_STEPS + 1):
        result = world.step(SCRIPTED["random"](world.colony, world.substrate, env))
        ended = result.terminated | result.truncated
        episode = episode + ended
        observation = world.reset_where(ended, seeds())
        if step % EVERY == 0:
            kept.append(observation)
    return kept


def make_images(policy: HybridActorCritic, observation: Observation) -> Tensor:
    """The pictures [M,3,24,24] that the policy's models see of an observation."""
    mask = observation.node_mask
    graph = flatten(observation)
    node_tokens, graph_token = policy.encoder(graph)
    view = View(observation.position[mask], observation.frame_low, observation.frame_high, observation.field)
    return policy.actor.image_maker(node_tokens, graph_token, graph.batch, view).image


def _thin(images: Tensor, count: int) -> Tensor:
    """`count` images spread evenly over all of them."""
    places = torch.linspace(0, len(images) - 1, count, device=images.device)
    return images[places.round().long()]
