"""Held-out episodes of a trained policy, and what is reported about them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from durotaxis.agent import HybridActorCritic
from durotaxis.core.config import load_config, load_sections
from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.ppo import Checkpoint, EvaluationStep, evaluate, load, load_policy, report_seeds
from durotaxis.records import CONFIG, Episode, RunDirectory
from durotaxis.study.config import RootConfig
from durotaxis.study.episode import Recorder, record_agent
from durotaxis.study.run import build_policy, select_device
from durotaxis.study.score import is_scenario, world_name

BATCH = 100
"""Episodes played at the same time, at most."""


@dataclass(frozen=True)
class Candidate:
    """A trained policy and the world it is to be judged in."""

    config: RootConfig
    policy: HybridActorCritic
    run: RunDirectory
    checkpoint_path: Path
    step: int  # environment steps it was trained for

    def default_output(self, deterministic: bool) -> Path:
        """The JSON file of an evaluation in the run directory."""
        return self.run.path / f"evaluation-{self.file_stem(deterministic)}.json"

    def file_stem(self, deterministic: bool = False) -> str:
        """The world and the mode as part of a file's name; worlds that were changed have a digest."""
        mode = "-deterministic" if deterministic else ""
        env = self.config.env
        text = json.dumps(env.model_dump(mode="json"), sort_keys=True)
        digest = "" if is_scenario(env) else f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        return f"{file_name(self.world)}{digest}{mode}"

    @property
    def world(self) -> str:
        """What the world is called; see `world_name`."""
        return world_name(self.config.env)


@dataclass(frozen=True)
class Evaluation:
    """Held-out episodes that were played."""

    candidate: Candidate
    deterministic: bool
    rows: list[dict[str, Any]]  # as of `evaluate`, one per episode
    recorded: list[Episode]  # the first of them, step by step

    def episode(self, number: int) -> Episode:
        """One of the episodes step by step: as it was recorded, or played again."""
        if number < len(self.recorded):
            return self.recorded[number]
        candidate = self.candidate
        return record_agent(
            candidate.policy,
            candidate.config.env,
            [self.rows[number]["seed"]],
            str(candidate.checkpoint_path),
            candidate.step,
            self.deterministic,
        )[0]

    def to_json(self) -> dict[str, Any]:
        """checkpoint, step, scenario, env (the world, resolved), deterministic, episodes (the rows)."""
        return {
            "checkpoint": str(self.candidate.checkpoint_path),
            "step": self.candidate.step,
            "scenario": self.candidate.config.env.scenario,
            "env": self.candidate.config.env.model_dump(mode="json"),
            "deterministic": self.deterministic,
            "episodes": self.rows,
        }


def open_run(
    target: str | Path,
    scenario: str | None = None,
    overrides: Sequence[str] = (),
    map_file: Path | None = None,
) -> Candidate:
    """Load a run's policy.

    Args:
        target: a run directory (its `chosen_checkpoint` is taken), or a checkpoint in one.
        scenario: play this scenario instead; observation settings stay those of the training.
        overrides: `key=value` on top of the run's configuration. Counts are scaled as in the training,
            whatever `env.max_nodes` says, unless `env.observation.count_scale` is among them.
        map_file: play on this measured substrate, with the rules of `scenario` or, without one, of `linear`.

    Raises:
        UserError, RecordError: no such run or checkpoint, it was made by another architecture, or the
            overrides name other spawn bounds than those of the training.
    """
    path = Path(target)
    run = RunDirectory.open(path.parent.parent if path.suffix == ".pt" else path)
    checkpoint_path = path if path.suffix == ".pt" else run.chosen_checkpoint
    checkpoint = load(checkpoint_path)  # first: of another version it says so
    if map_file is not None:
        scenario = scenario or "linear"
        overrides = [
            "env.substrate.kind=map",
            f"env.substrate.map.file={json.dumps(str(map_file))}",
            *overrides,
        ]
    if scenario is None:
        config = load_config(run.path / CONFIG, RootConfig, overrides)
        env = _counted_as_trained(config.env, checkpoint)
    else:
        inner = [override for override in overrides if override.startswith("env.")]
        outer = [override for override in overrides if not override.startswith("env.")]
        config = load_config(run.path / CONFIG, RootConfig, outer)
        env = other_scenario(config.env, scenario, inner)
    config = config.model_copy(update={"env": env})
    policy = build_policy(config, select_device(config))
    asked = torch.stack([policy.low, policy.high])
    load_policy(policy, checkpoint, checkpoint_path)
    if not torch.equal(asked, torch.stack([policy.low, policy.high])):
        raise UserError(
            f"env.spawn_bounds is {env.spawn_bounds}, but the agent of {checkpoint_path} keeps the bounds "
            "that it was trained with; leave the key out, or train an agent with these"
        )
    return Candidate(config, policy, run, checkpoint_path, checkpoint.counters["step"])


def _counted_as_trained(env: EnvConfig, checkpoint: Checkpoint) -> EnvConfig:
    """`env` with the scale of counts of the training, unless it names one."""
    trained = yaml.safe_load(checkpoint.config)["env"]
    scale = trained["observation"]["count_scale"] or trained["max_nodes"]
    if env.observation.count_scale is not None or env.count_scale == scale:
        return env
    observation = env.observation.model_copy(update={"count_scale": scale})
    return env.model_copy(update={"observation": observation})


def file_name(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def other_scenario(trained: EnvConfig, name: str, overrides: Sequence[str] = ()) -> EnvConfig:
    """A scenario as an agent trained elsewhere must see it: observed and scaled as in its training."""
    observation = trained.observation.model_copy(update={"count_scale": int(trained.count_scale)})
    given = [
        f"env.scenario={name}",
        f"env.observation={observation.model_dump_json()}",
        f"env.spawn_bounds={trained.spawn_bounds.model_dump_json()}",
    ]
    return load_sections(None, {"env": EnvConfig}, [*given, *overrides])["env"]


def evaluate_run(
    candidate: Candidate,
    num_seeds: int,
    deterministic: bool = False,
    advance: Callable[[int], None] = lambda count: None,
    intervention: str = "none",
    num_recorded: int = 0,
) -> Evaluation:
    """Play held-out episodes (seeds 2,000,000 + j).

    Args:
        advance: called with the number of episodes that just finished.
        intervention: none; `uniform` attention; R `zero`, or `shuffled`: that of another colony.
        num_recorded: how many of the first episodes to keep step by step.
    """
    device = next(candidate.policy.parameters()).device
    world = DurotaxisEnv(candidate.config.env, min(num_seeds, BATCH), device, validate=False)
    recorder = Recorder(world, num_recorded, str(candidate.checkpoint_path), candidate.policy, candidate.step)

    def on_step(step: EvaluationStep) -> None:
        recorder.on_step(step)
        ended = step.result.terminated | step.result.truncated
        advance(int(ended[step.slots].sum()))

    with candidate.policy.actor.extractor.intervene(None if intervention == "none" else intervention):
        rows = evaluate(
            world,
            candidate.policy,
            report_seeds(num_seeds),
            deterministic=deterministic,
            whole_batch=intervention == "shuffled",
            on_step=on_step,
            look=recorder.look,
        )
    return Evaluation(candidate, deterministic, rows, recorder.episodes(rows))
