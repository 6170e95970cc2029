"""The composition root: a configuration becomes a world, a policy, a run directory and a training.

Everything that a user can get wrong is found before the run directory is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml

from durotaxis.agent import HybridActorCritic, transfer
from durotaxis.core.config import load_config, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import DurotaxisEnv, StagedEnv
from durotaxis.env.reward import TERMS
from durotaxis.ppo import (
    Checkpoint,
    Status,
    TrainState,
    library_versions,
    load,
    load_policy,
    make_optimizer,
    start,
)
from durotaxis.ppo import train as train_with_ppo
from durotaxis.ppo.checkpoint import require_fit, restore, save, snapshot
from durotaxis.ppo.ranks import ALONE, Ranks, colonies_per_rank
from durotaxis.records import (
    CONFIG,
    EVENTS,
    PROVENANCE,
    RunDirectory,
    read_object,
    write_atomic,
    write_json,
)
from durotaxis.study.calibrate import calibrate_policy
from durotaxis.study.config import RootConfig, find_config, leaves
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
    forget_best: bool = False  # what was evaluated so far was another world, or on fewer or more episodes
    ranks: Ranks = ALONE
    own_notes: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about the configuration."""
        return (*self.config.actor_critic.notes, *self.own_notes)

    def train(self, progress: Callable[[Status], None] | None = None) -> TrainState:
        """Train to the end. Raises what `durotaxis.ppo.train` raises."""
        config = self.config
        evaluated = config.training.evaluate_every > 0 and self.ranks.leads
        return train_with_ppo(
            training_world(config, self.device, self.ranks),
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
            moments=config.moments,
            progress=progress,
            resume=self.resume,
            forget_best=self.forget_best,
            ranks=self.ranks,
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
        size = self.ranks.size
        device = str(self.device)
        if not self.ranks.alone:
            device = f"{self.device.type} in {size} processes of {ppo.num_colonies // size} colonies"
        return (
            f"{verb} {self.directory}: {arm}; {steps:,} steps ({rollouts} rollouts of "
            f"{ppo.steps_per_rollout:,}{rounded}) on {device}, threads {torch.get_num_threads()}, "
            f"seed {config.run.seed}"
        )


def prepare(config_name: str | Path, overrides: Sequence[str] = (), ranks: Ranks = ALONE) -> Job:
    """Read a configuration, build and calibrate the policy, claim the run directory.

    Args:
        config_name: a file, or the name of a configuration of the package.
        overrides: `key=value`.
        ranks: the processes that share the training, all of which call this. Rank 0 reads and claims; the
            others get its configuration and its weights.

    Raises:
        UserError, RecordError: whatever is wrong with them, the weights, the device or the directory.
    """
    config, directory = ranks.first(lambda: _settle(config_name, overrides))
    colonies_per_rank(config.ppo, ranks)
    device = select_device(config, ranks)
    policy = build_policy(config, device)
    check_learning(config, policy, device, ranks)
    calibrated = calibrate_policy(policy, config.env, config.run.seed) if ranks.leads else []
    ranks.share_weights(policy)

    def claim() -> RunDirectory:
        record = provenance(policy, config.run.seed, device, calibrated)
        return RunDirectory.create(directory, to_yaml(config), record)

    return Job(config, policy, ranks.first(claim), device, ranks=ranks)


def begin_with_weights(parent: str | Path, config_name: str | Path, overrides: Sequence[str] = ()) -> Job:
    """A new run whose policy starts with the weights of a trained one; all else begins anew.

    Gates, a temperature that is not learned, and the bounds of spawn parameters are those of its own
    configuration.

    Raises:
        UserError, RecordError: as `prepare`; the parent is no run, or of another architecture.
    """
    trained = RunDirectory.open(parent)
    checkpoint = load(trained.chosen_checkpoint)
    job = prepare(config_name, overrides)
    require_fit(job.policy, checkpoint, trained.chosen_checkpoint)
    transfer(job.policy, checkpoint.model)
    origin = {**read_object(job.run.path / PROVENANCE), "frozen_hash": job.policy.frozen_hash()}
    write_json(job.run.path / PROVENANCE, origin)
    save_start(job)
    return prepare_resume(job.directory)


def save_start(job: Job) -> None:
    """The checkpoint of a run that has not begun, with its policy's present weights."""
    config = job.config
    world = training_world(config, job.device)
    state = TrainState(start(world, job.policy, config.run.seed))
    optimizer = make_optimizer(job.policy, config.ppo)
    text, frozen = job.run.config_text, job.policy.frozen_hash()
    save(snapshot(job.policy, optimizer, world, state, text, frozen), job.run.last_checkpoint)


def _settle(config_name: str | Path, overrides: Sequence[str]) -> tuple[RootConfig, Path]:
    """The configuration, and a run directory that is free."""
    path = find_config(config_name)
    config = load_config(path, RootConfig, overrides).settled()
    directory = Path(config.run.directory) if config.run.directory else free_directory(path.stem)
    RunDirectory.require_free(directory)
    return config, directory


def prepare_resume(
    directory: str | Path,
    overrides: Sequence[str] = (),
    allow_changes: bool = False,
    ranks: Ranks = ALONE,
) -> Job:
    """Take up an interrupted run at its last checkpoint; from its start where it was killed before the first.

    Args:
        overrides: `key=value` on top of the run's configuration.
        allow_changes: go on although the configuration differs from that of the checkpoint. The new one is
            written into the run directory, and what changed into its events.
        ranks: as many as there were before; see `prepare`.

    Raises:
        UserError, RecordError: it is no run directory, it is finished, its checkpoint does not fit, or the
            configuration changed and `allow_changes` is false.
    """
    run, config, checkpoint, changes = ranks.first(lambda: _reopen(directory, overrides, allow_changes))
    colonies_per_rank(config.ppo, ranks)
    device = select_device(config, ranks)
    policy = build_policy(config, device)
    check_learning(config, policy, device, ranks)
    notes: tuple[str, ...] = ()
    if checkpoint is None:
        calibrated = calibrate_policy(policy, config.env, config.run.seed) if ranks.leads else []
        ranks.share_weights(policy)
        if ranks.leads and not (run.path / PROVENANCE).exists():
            write_json(run.path / PROVENANCE, provenance(policy, config.run.seed, device, calibrated))
    else:
        notes = _other_versions(checkpoint)
        load_policy(policy, checkpoint, run.last_checkpoint)
        world = training_world(config, device, ranks)
        restore(checkpoint, run.last_checkpoint, policy, config.ppo, world, config.run.seed, ranks)
    if changes and ranks.leads:
        _accept(run, config, changes, checkpoint)
    return Job(
        config,
        policy,
        run,
        device,
        resume=True,
        forget_best=_measured_otherwise(changes),
        ranks=ranks,
        own_notes=notes,
    )


def _other_versions(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A line for the user when libraries changed since the checkpoint was written."""
    now = library_versions()
    changed = [
        f"{name} {then} -> {now.get(name, 'none')}"
        for name, then in checkpoint.versions.items()
        if then != now.get(name)
    ]
    return (f"{', '.join(changed)}: from here on the run will not repeat to the bit",) if changed else ()


def check_learning(
    config: RootConfig, policy: HybridActorCritic, device: torch.device, ranks: Ranks = ALONE
) -> None:
    """Raise UserError for rates of parts that there are not, and for too much to keep in a rollout."""
    share = colonies_per_rank(config.ppo, ranks)
    make_optimizer(policy, config.ppo)
    first = DurotaxisEnv(config.env, 1, device).reset([0])
    policy.require_cache_fits(first, share * config.ppo.rollout_steps)


_MODEL = r"actor_critic\.(backbone|wsa_config\.ptms\.\d+)"
FIXED: Mapping[str, str] = MappingProxyType(
    {
        r"ppo\.(num_colonies|rollout_steps)": "a run counts its steps in whole rollouts",
        rf"{_MODEL}\.freeze": "which parameters learn stands in the checkpoint",
        rf"{_MODEL}\.(enters_at|ramp_steps)(\..+)?": "gates stand in the checkpoint",
        rf"{_MODEL}\.(seed|weights|sha256)": "the weights of every model stand in the checkpoint",
        r"actor_critic\.wsa_config\.attention_temperature": "the temperature stands in the checkpoint",
        r"actor_critic\.wsa_config\.learn_temperature": "which parameters learn stands in the checkpoint",
        r"env\.spawn_bounds\..+": "the agent's choices are scaled to the bounds in the checkpoint",
        r"training\.curriculum(\.\d+\.name)?": "the present stage stands in the checkpoint",
    }
)
"""Keys (regular expressions) that no run can be resumed with another value of, because that would not take
effect, or not as it says -> why."""


def refuse_fixed(directory: str | Path, changes: Changes) -> None:
    """Raise UserError where a change would not take effect, or not as it says; see `FIXED`."""
    for key, (old, new) in changes.items():
        for pattern, why in FIXED.items():
            if re.fullmatch(pattern, key):
                raise UserError(
                    f"{directory} cannot be resumed with {key}: {old} -> {new}, because {why}; put it back, "
                    "or start a new run"
                )


def _reopen(
    directory: str | Path, overrides: Sequence[str], allow_changes: bool
) -> tuple[RunDirectory, RootConfig, Checkpoint | None, Changes]:
    """A run that can go on, its configuration, its last checkpoint, and what differs between the two."""
    run = RunDirectory.open(directory)
    if not run.checkpoints.is_dir():
        raise UserError(f"{directory} is not a run directory: it has no {run.checkpoints.name}/")
    with run.locked():
        pass  # nobody is training it now
    moved = [override for override in overrides if override.startswith("run.directory=")]
    if moved:
        raise UserError(f"a run is resumed where it is; leave out {moved[0]}, and move the directory itself")
    # The checkpoint first: of another version it says so, where the configuration would only puzzle.
    checkpoint = load(run.last_checkpoint) if run.last_checkpoint.exists() else None
    config = load_config(run.path / CONFIG, RootConfig, overrides).settled()
    text = run.config_text if checkpoint is None else checkpoint.config
    changes = differences(text, to_yaml(config))
    if changes and not allow_changes:
        raise UserError(_changed(directory, changes))
    if checkpoint is not None:
        refuse_fixed(directory, changes)
    step = 0 if checkpoint is None else checkpoint.counters["step"]
    total = config.training.num_iterations(config.ppo) * config.ppo.steps_per_rollout
    if step > total:
        raise UserError(
            f"{directory} has {step:,} steps behind it, training.total_steps is "
            f"{config.training.total_steps:,}; give it more"
        )
    if run.is_done and step == total:
        raise UserError(
            f"{directory} is finished; look at it with `durotaxis evaluate {directory}`, or train on with "
            "a larger training.total_steps and --allow-changes"
        )
    return run, config, checkpoint, changes


Changes = Mapping[str, tuple[Any, Any]]
"""Dotted key -> the value it had and the value it has; None where there is no such key."""


def differences(before: str, after: str) -> Changes:
    """What differs between two resolved configurations (YAML), but for the place of the run directory."""
    old, new = (dict(leaves(yaml.safe_load(text) or {})) for text in (before, after))
    keys = [key for key in dict.fromkeys([*old, *new]) if key != "run.directory"]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _changed(directory: str | Path, changes: Changes) -> str:
    listed = [f"  {key}: {old} -> {new}" for key, (old, new) in changes.items()]
    return "\n".join(
        [
            f"the configuration of {directory} differs from that of its last checkpoint:",
            *listed,
            "go on with the new values: --allow-changes; with the old ones: put them back",
        ]
    )


def _measured_otherwise(changes: Changes) -> bool:
    """Whether scores of before cannot be compared with those to come."""
    return any(key.startswith("env.") or key == "training.evaluation_episodes" for key in changes)


def _accept(run: RunDirectory, config: RootConfig, changes: Changes, checkpoint: Checkpoint | None) -> None:
    """Write the new configuration, and what changed as events of the iteration it changed after."""
    counters = {"iteration": 0, "step": 0, "episodes": 0} if checkpoint is None else checkpoint.counters
    when = {key: counters[key] for key in ("iteration", "step", "episodes")}
    run.cut_after(when["iteration"])
    write_atomic(run.path / CONFIG, to_yaml(config))
    with run.appender(EVENTS) as events:
        for key, (old, new) in changes.items():
            events.append({**when, "event": "changed", "name": key, "message": f"{old} -> {new}"})
        best = None if checkpoint is None else checkpoint.counters["best_score"]
        if best is not None and _measured_otherwise(changes):
            message = f"{best:.6g} -> None: it was measured otherwise; best.pt is chosen anew from here on"
            events.append({**when, "event": "changed", "name": "best_score", "message": message})


def training_world(
    config: RootConfig, device: torch.device, ranks: Ranks = ALONE
) -> DurotaxisEnv | StagedEnv:
    """The world that a run trains in: one, or that of its curriculum's stages; this rank's share of it."""
    share = colonies_per_rank(config.ppo, ranks)
    if config.training.curriculum:
        return StagedEnv(config.stage_worlds, share, device, validate=False)
    return DurotaxisEnv(config.env, share, device, validate=False)


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


def select_device(config: RootConfig, ranks: Ranks = ALONE) -> torch.device:
    """The device of `run.device`; also sets the number of threads when `run.threads` asks for it.

    Of several processes on a machine each takes the GPU of its own number.

    Raises:
        UserError: there is no such GPU.
    """
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    name = config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not ranks.alone:
        if device.index is not None:
            raise UserError(f"run.device={name}: every process has a GPU of its own; use run.device=cuda")
        device = torch.device("cuda", ranks.local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        most = "" if ranks.alone else f"start at most {found} processes on this machine, or " if found else ""
        raise UserError(f"run.device={name}: torch finds {found or 'no'} GPUs here; {most}use run.device=cpu")
    if device.type == "cuda" and not ranks.alone:
        torch.cuda.set_device(device)
    return device


def free_directory(stem: str) -> Path:
    """`runs/<stem>-<n>`, with the first n that is not taken."""
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"
