"""A trained policy for use elsewhere: one file, a program that plays it, and proof that it is the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from durotaxis.agent import HybridActorCritic, agent_to_bytes, load_agent
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.ppo import library_versions, report_seeds
from durotaxis.records import cannot_write, write_atomic
from durotaxis.study.evaluation import Candidate

POLICY = "policy.safetensors"
LOADER = "play.py"
TOLERANCE = 1e-6
_NUM_COLONIES, _NUM_STEPS = 4, 12


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the original."""

    policy: Path
    loader: Path
    difference: float  # largest, over all outputs on the observations that were compared
    num_observations: int


def export_policy(candidate: Candidate, folder: Path) -> Exported:
    """Write a policy and a program that loads it, read it back and compare.

    Args:
        folder: made where missing.

    Raises:
        UserError, RecordError: it cannot be written, or what was read back differs by more than `TOLERANCE`.
    """
    about = {
        "checkpoint": str(candidate.checkpoint_path),
        "trained_steps": candidate.step,
        "env": candidate.config.env.model_dump(mode="json"),
        "versions": library_versions(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    policy, loader = folder / POLICY, folder / LOADER
    unproven = folder / f".{POLICY}.partial"
    try:
        write_atomic(unproven, agent_to_bytes(candidate.policy, about))
        difference = compare(candidate.policy, load_agent(unproven), candidate.config.env)
        if not difference <= TOLERANCE:  # NaN is refused, too
            raise UserError(
                f"{policy} would differ from {candidate.checkpoint_path} by {difference:.1e}; not written"
            )
        os.replace(unproven, policy)
    finally:
        unproven.unlink(missing_ok=True)
    write_atomic(loader, (resources.files("durotaxis.study") / LOADER).read_text("utf-8"))
    return Exported(policy, loader, difference, _NUM_COLONIES * _NUM_STEPS)


@torch.no_grad()
def compare(one: HybridActorCritic, other: HybridActorCritic, config: EnvConfig) -> float:
    """The largest difference of two agents' outputs along episodes that the first one plays.

    Compared are probabilities of the kinds, both parameters of every Beta, and the value.
    """
    device = next(one.parameters()).device
    other = other.to(device)
    world = DurotaxisEnv(config, _NUM_COLONIES, device, validate=False)
    seeds = torch.tensor(report_seeds(_NUM_COLONIES), device=device)
    observation = world.reset(seeds)
    differences = []
    for step in range(_NUM_STEPS):
        (distribution, value), (others, other_value) = one(observation), other(observation)
        for a, b in (
            (distribution.kind_probs, others.kind_probs),
            (distribution.alpha, others.alpha),
            (distribution.beta, others.beta),
            (value, other_value),
        ):
            differences.append((a - b).abs().max())
        sample = distribution.sample(hash_keys(seeds, Purpose.POLICY, step))
        transition = world.step(one.to_action(sample, observation))
        ended = transition.terminated | transition.truncated
        seeds = seeds + ended * _NUM_COLONIES
        observation = world.reset_where(ended, seeds)
    return float(torch.stack(differences).max())  # NaN if any is
