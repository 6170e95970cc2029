"""Play scripted policies, and the normalisation constants of each scenario that come from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from durotaxis.agent.scripted import SCRIPTED, ScriptedPolicy
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, Reason, front_progress, outcome, reset, total_reward

BATCH = 250
SCORE_SEED = 3_000_000
NORMALISERS = ("random", "delete-left")
"""The policies whose returns are 0 and 1 of the normalised return."""


@dataclass(frozen=True)
class Episodes:
    """Finished episodes, one entry per seed: [S] each."""

    returns: Tensor  # undiscounted, float64
    success: Tensor  # bool
    front_progress: Tensor  # furthest front over goal, 0 to 1
    length: Tensor  # steps
    reason: Tensor  # Reason

    def rows(self) -> list[dict[str, Any]]:
        """The episodes with the columns of `evaluations.jsonl` that tables and figures read."""
        return [
            {
                "return": value,
                "success": success,
                "length": length,
                "reason": Reason(reason).name.lower(),
                "final/front_progress": progress,
            }
            for value, success, length, reason, progress in zip(
                self.returns.tolist(),
                self.success.tolist(),
                self.length.tolist(),
                self.reason.tolist(),
                self.front_progress.tolist(),
                strict=True,
            )
        ]

    def summary(self) -> dict[str, float | None]:
        """Means with standard errors, and the success rate."""
        count = len(self.returns)
        steps = self.length[self.success].double()
        return {
            "episodes": count,
            "return_mean": self.returns.mean().item(),
            "return_se": self.returns.std().item() / math.sqrt(count),
            "success_rate": self.success.double().mean().item(),
            "front_progress": self.front_progress.double().mean().item(),
            "steps_to_success": steps.mean().item() if len(steps) else None,
        }


def play(
    policy: ScriptedPolicy,
    config: EnvConfig,
    seeds: Tensor,
    on_batch: Callable[[int], None] = lambda finished: None,
) -> Episodes:
    """One episode per seed [S] with a scripted policy."""
    parts = []
    for batch in seeds.split(BATCH):
        parts.append(_play_batch(policy, config, batch))
        on_batch(len(batch))
    return Episodes(*(torch.cat([getattr(p, name) for p in parts]) for name in Episodes.__dataclass_fields__))


def _play_batch(policy: ScriptedPolicy, config: EnvConfig, seeds: Tensor) -> Episodes:
    colony, substrate = reset(config, seeds)
    returns = torch.zeros(len(seeds), dtype=torch.float64)
    running = torch.ones(len(seeds), dtype=torch.bool)
    ended = torch.zeros(len(seeds), dtype=torch.int64)
    length, progress = torch.zeros_like(ended), torch.zeros(len(seeds))
    for step in range(1, config.max_steps + 1):
        colony, terms, reason = outcome(colony, policy(colony, substrate, config), substrate, config)
        returns += torch.where(running, total_reward(terms).double(), 0.0)
        stopping = running & (reason != Reason.RUNNING)
        ended = torch.where(stopping, reason, ended)
        length = torch.where(stopping, step, length)
        progress = torch.where(stopping, front_progress(colony, substrate, config), progress)
        running = running & ~stopping
        if not bool(running.any()):
            break
    return Episodes(returns, ended == Reason.SUCCESS, progress, length, ended)


def score_scenario(
    name: str,
    num_seeds: int = 1000,
    on_batch: Callable[[int], None] = lambda finished: None,
    policies: Sequence[str] = tuple(SCRIPTED),
) -> dict[str, dict[str, float | None]]:
    """Scripted policies on one scenario, with default coefficients: {policy: summary}.

    The seeds are 3,000,000 onwards, so that no constant comes from episodes that agents are reported on.
    """
    config = EnvConfig(scenario=name)
    seeds = torch.arange(num_seeds, dtype=torch.int64) + SCORE_SEED
    return {policy: play(SCRIPTED[policy], config, seeds, on_batch).summary() for policy in policies}


def load_scores() -> dict[str, Any]:
    """The scores kept in the package: {scenario: {policy: summary}}, made by `durotaxis scenario score`."""
    file = resources.files("durotaxis.env") / "scores.json"
    if not file.is_file():
        raise UserError("the package has no scenario scores; run `durotaxis scenario score`")
    return json.loads(file.read_text())


def scenario_scores(env: EnvConfig) -> Mapping[str, Mapping[str, Any]] | None:
    """Scores of the scripted policies on a scenario as it stands: {policy: {return_mean, return_se, ...}}.

    None where the world was changed (all but what is observed counts), or has no scores.
    """
    return load_scores().get(env.scenario) if is_scenario(env) else None


def is_scenario(env: EnvConfig) -> bool:
    """Whether a world is its scenario as it stands, whatever is observed of it.

    Slots that no colony can fill are no change: a run with a curriculum has as many as its largest stage.
    """
    plain = EnvConfig(scenario=env.scenario, observation=env.observation)
    return (env if env.capacity_binds else env.model_copy(update={"capacity": None})) == plain


def world_name(env: EnvConfig) -> str:
    """What a world is called: its scenario, `map <file>`, or its scenario with `changed` after it."""
    if is_scenario(env):
        return env.scenario
    substrate = env.substrate
    if substrate.kind == "map":
        return f"map {Path(str(substrate.map.file)).name}"
    return f"{env.scenario} changed"
