"""Checkpoints: the whole state of training between two iterations, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import pickle
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from durotaxis.core.errors import UserError
from durotaxis.ppo.config import PPOConfig
from durotaxis.ppo.curriculum import StageState
from durotaxis.ppo.protocols import Policy, World
from durotaxis.ppo.ranks import ALONE, Ranks
from durotaxis.ppo.rollout import Slots, keep
from durotaxis.ppo.tally import Tally
from durotaxis.ppo.update import remake_optimizer
from durotaxis.records import write_atomic

FORMAT = 3  # 1 kept models under their positions, 2 knew neither stages, thawed parts nor ranks
_COUNTERS = ("iteration", "step", "episodes", "best_score", "elapsed_s")
_LIBRARIES = ("durotaxis", "torch", "numpy", "torch_geometric", "transformers")


@dataclass(frozen=True)
class TrainState:
    """Where training stands between two iterations, apart from weights and optimiser."""

    slots: Slots
    iteration: int = 0  # iterations finished
    step: int = 0  # environment steps over all colonies
    episodes: int = 0  # training episodes finished
    best_score: float | None = None  # best mean return on the tuning seeds so far
    elapsed_s: float = 0.0  # training time, over all resumptions
    stage: StageState = field(default_factory=StageState)  # of the curriculum
    reached: Mapping[str, int] = field(default_factory=dict)  # moments that came, as in core.schedule.Clock


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds: tensors, numbers and text only."""

    model: dict[str, Tensor]
    trainable: list[str]  # names of the parameters that learn
    optimizer: dict[str, Any]
    shares: list[dict[str, Any]]  # of each rank: the state of its `world` and where its `slots` stand
    counters: dict[str, Any]
    frozen_hash: str
    config: str  # the run's configuration, YAML
    config_hash: str
    versions: dict[str, str]
    format: int = FORMAT


def snapshot(
    policy: Policy,
    optimizer: Optimizer,
    world: World,
    state: TrainState,
    config: str,
    frozen_hash: str,
    ranks: Ranks = ALONE,
) -> Checkpoint:
    """The present state, copied: later steps do not change it. Only that of rank 0 has the shares of all."""
    share = {"world": world.state_dict(), "slots": _slots_state(state.slots)}
    return Checkpoint(
        model=_copy(dict(policy.state_dict())),
        trainable=[name for name, parameter in policy.named_parameters() if parameter.requires_grad],
        optimizer=_copy(optimizer.state_dict()),
        shares=_copy(ranks.gather_first(_to(share, torch.device("cpu")))),
        counters={
            **{key: getattr(state, key) for key in _COUNTERS},
            "stage": asdict(state.stage),
            "reached": dict(state.reached),
        },
        frozen_hash=frozen_hash,
        config=config,
        config_hash=hashlib.sha256(config.encode()).hexdigest(),
        versions=library_versions(),
    )


def _slots_state(slots: Slots) -> dict[str, Any]:
    return {
        "vector_step": slots.vector_step,
        "slot_episode": slots.slot_episode,
        "seed": slots.seed,
        "total": slots.tally.total,
        "length": slots.tally.length,
        "terms": slots.tally.terms,
    }


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically. Raises RecordError when the directory cannot be written."""
    fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    buffer = io.BytesIO()  # torch's own writer hides why a file could not be written
    torch.save(fields, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path | str) -> Checkpoint:
    """Read a checkpoint, tensors on the CPU. Code in the file is never executed.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    damaged = f"{path} is damaged or not a checkpoint; use another one of its folder"
    try:
        # torch itself does not compare checksums.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise UserError(damaged)
        fields = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise UserError(damaged) from error
    if not isinstance(fields, dict) or not {"format", "model", "versions"} <= fields.keys():
        raise UserError(f"{path} is a torch file, but not a checkpoint of durotaxis")
    if fields["format"] != FORMAT:
        newer = isinstance(fields["format"], int) and fields["format"] > FORMAT
        advice = "a newer version of durotaxis made it: update" if newer else "take the version that made it"
        raise UserError(
            f"{path} has checkpoint format {fields['format']}, this version reads {FORMAT}; {advice}"
        )
    if fields.keys() != Checkpoint.__dataclass_fields__.keys():
        raise UserError(damaged)
    return Checkpoint(**fields)


def load_policy(policy: Policy, checkpoint: Checkpoint, path: Path | str) -> None:
    """Put the weights of a checkpoint into a policy.

    Raises:
        UserError: it was made by another architecture; the policy is left as it was.
    """
    require_fit(policy, checkpoint, path)
    policy.load_state_dict(checkpoint.model)


def require_fit(policy: Policy, checkpoint: Checkpoint, path: Path | str) -> None:
    """Raise UserError where a checkpoint was made by another architecture than the policy's."""
    faults = misfits(policy, checkpoint.model)
    if faults:
        raise UserError(
            f"{path} was made by another architecture: it {faults}; use the configuration of its own run"
        )


def misfits(policy: Policy, weights: Mapping[str, Tensor]) -> str:
    """What keeps these weights from being put into the policy, as predicates; empty where nothing does."""
    own = policy.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    changed = [key for key in sorted(own.keys() & weights.keys()) if own[key].shape != weights[key].shape]
    faults = []
    if missing:
        faults.append(f"lacks {_some(missing)}")
    if unexpected:
        faults.append(f"has {_some(unexpected)} that this policy has not")
    if changed:
        key = changed[0]
        shapes = f"{tuple(weights[key].shape)} there, {tuple(own[key].shape)} here"
        faults.append(f"differs in the shape of {_some(changed)} ({shapes})")
    return "; it ".join(faults)


def restore(
    checkpoint: Checkpoint,
    path: Path | str,
    policy: Policy,
    config: PPOConfig,
    world: World,
    run_seed: int,
    ranks: Ranks = ALONE,
) -> tuple[TrainState, Optimizer]:
    """Take up training where a checkpoint left it: weights, what learns, moments, world and counters.

    The present observation and what the policy keeps beside it are not stored but made again.

    Raises:
        UserError: policy, optimiser, world or the number of ranks do not fit the checkpoint.
    """
    _require_as_many(ranks, checkpoint, path)
    load_policy(policy, checkpoint, path)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in set(checkpoint.trainable))
    share = checkpoint.shares[ranks.rank]
    slots = {key: _to(value, world.device) for key, value in share["slots"].items()}
    if len(slots["seed"]) != world.num_colonies:
        saved = len(slots["seed"]) * ranks.size
        raise UserError(f"{path} has {saved} colonies, ppo.num_colonies is {world.num_colonies * ranks.size}")
    try:
        optimizer = remake_optimizer(policy, config, _copy(checkpoint.optimizer))
        world.load_state_dict(share["world"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} does not fit this configuration ({error}); resume with the one of its own run"
        ) from error
    unchanged = torch.zeros(world.num_colonies, dtype=torch.bool, device=world.device)
    observation = world.reset_where(unchanged, slots["seed"])
    first_slot = ranks.rank * world.num_colonies
    counters = dict(checkpoint.counters)
    stage = counters.pop("stage")
    state = TrainState(
        slots=Slots(
            observation=observation,
            cached=keep(policy, observation, world, slots["vector_step"], run_seed, first_slot),
            vector_step=slots["vector_step"],
            slot_episode=slots["slot_episode"],
            seed=slots["seed"],
            tally=Tally(slots["total"], slots["length"], slots["terms"]),
            first_slot=first_slot,
        ),
        stage=StageState(**{**stage, "recent": tuple(stage["recent"])}),
        **counters,
    )
    return state, optimizer


def _require_as_many(ranks: Ranks, checkpoint: Checkpoint, path: Path | str) -> None:
    """Each rank goes on with the colonies that it had."""
    saved = len(checkpoint.shares)
    if saved != ranks.size:
        launcher = f"torchrun --nproc-per-node {saved} -m durotaxis" if saved > 1 else "durotaxis"
        raise UserError(
            f"{path} was saved by a training in {_processes(saved)}, this one is in "
            f"{_processes(ranks.size)}; resume it with as many: {launcher} train --resume RUN"
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result; those not installed are left out."""
    return dict(_versions())


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return type(value)(_copy(item) for item in value) if isinstance(value, (list, tuple)) else value


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    return type(value)(_to(item, device) for item in value) if isinstance(value, (list, tuple)) else value


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
