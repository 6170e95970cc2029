"""The composition root: a configuration becomes a world, a policy, a run directory and a training.

Everything that a user can get wrong is found before the run directory is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.core.config import load_config, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv
from durotaxis.env.reward import TERMS
from durotaxis.ppo import Status, TrainState, load, load_policy, make_optimizer
from durotaxis.ppo import train as train_with_ppo
from durotaxis.records import CONFIG, RunDirectory
from durotaxis.study.calibrate import calibrate_policy
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.provenance import provenance

RUNS = Path("runs")


@dataclass(frozen=True)
class Job:
    """A training that is ready to start; its run directory is claimed."""

    config: RootConfig
    policy: HybridActorCritic
    run: RunDirectory
    device: torch.device
    resume: bool = False

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about the configuration."""
        return self.config.actor_critic.notes

    def train(self, progress: Callable[[Status], None] | None = None) -> TrainState:
        """Train to the end. Raises what `durotaxis.ppo.train` raises."""
        config = self.config
        evaluated = config.training.evaluate_every > 0
        return train_with_ppo(
            DurotaxisEnv(config.env, config.ppo.num_colonies, self.device, validate=False),
            self.policy,
            run=self.run,
            seed=config.run.seed,
            ppo=config.ppo,
            training=config.training,
            monitor=config.monitor,
            evaluation_world=DurotaxisEnv(
                config.env, config.training.evaluation_episodes, self.device, validate=False
            )
            if evaluated
            else None,
            progress=progress,
            resume=self.resume,
        )

    def describe(self) -> str:
        """What is about to happen, in one line."""
        config, ppo = self.config, self.config.ppo
        rollouts = config.training.num_iterations(ppo)
        steps = rollouts * ppo.steps_per_rollout
        asked = config.training.total_steps
        rounded = "" if steps == asked else f", {asked:,} rounded up to whole rollouts"
        arm = f"WSA over {', '.join(self.policy.ptm_names)}"
        if not config.actor_critic.use_wsa:
            arm = f"plain actor with {self.policy.ptm_names[0]}"
        verb = "resuming" if self.resume else "training"
        return (
            f"{verb} {self.directory}: {arm}; {steps:,} steps ({rollouts} rollouts of "
            f"{ppo.steps_per_rollout:,}{rounded}) on {self.device}, threads {torch.get_num_threads()}, "
            f"seed {config.run.seed}"
        )


def prepare(config_name: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a configuration, build and calibrate the policy, claim the run directory.

    Args:
        config_name: a file, or the name of a configuration of the package.
        overrides: `key=value`.

    Raises:
        UserError, RecordError: whatever is wrong with them, the weights, the device or the directory.
    """
    path = find_config(config_name)
    config = load_config(path, RootConfig, overrides)
    directory = Path(config.run.directory) if config.run.directory else free_directory(path.stem)
    RunDirectory.require_free(directory)
    device = select_device(config)
    policy = build_policy(config, device)
    make_optimizer(policy, config.ppo)
    first = DurotaxisEnv(config.env, 1, device).reset([0])
    policy.require_cache_fits(first, config.ppo.steps_per_rollout)
    calibrated = calibrate_policy(policy, config.env, config.run.seed)
    record = provenance(policy, config.run.seed, device, calibrated)
    return Job(config, policy, RunDirectory.create(directory, to_yaml(config), record), device)


def prepare_resume(directory: str | Path) -> Job:
    """Take up an interrupted run at its last checkpoint.

    Raises:
        UserError, RecordError: it is no run directory, it is finished, or its checkpoint does not fit.
    """
    run = RunDirectory.open(directory)
    if run.is_done:
        raise UserError(f"{directory} is finished; look at it with `durotaxis evaluate {directory}`")
    config = load_config(run.path / CONFIG, RootConfig)
    device = select_device(config)
    policy = build_policy(config, device)
    load_policy(policy, load(run.last_checkpoint), run.last_checkpoint)
    return Job(config, policy, run, device, resume=True)


def build_policy(config: RootConfig, device: torch.device) -> HybridActorCritic:
    """The policy of a configuration, its initial weights a pure function of `run.seed`.

    Frozen random models are not calibrated yet (see `calibrate_policy`).

    Raises:
        UserError: pre-trained weights are not at hand.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hash_keys(config.run.seed, Purpose.WEIGHTS)))
        policy = HybridActorCritic(
            None,
            config,
            spawn_bounds=(config.env.spawn_bounds.low, config.env.spawn_bounds.high),
            observes_field=config.env.observation.field,
            reward_terms=tuple(TERMS),
        )
    return policy.to(device).eval()


def select_device(config: RootConfig) -> torch.device:
    """The device of `run.device`; also sets the number of threads when `run.threads` asks for it.

    Raises:
        UserError: there is no such GPU.
    """
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    name = config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"run.device={name}: torch finds {found or 'no'} GPUs here; use run.device=cpu")
    return device


def free_directory(stem: str) -> Path:
    """`runs/<stem>-<n>`, with the first n that is not taken."""
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"
