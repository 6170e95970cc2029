"""Episodes that a run's own are compared with: scripted policies in its world, and all without a gradient.

    references/<scenario>-<policy>/made.json     what was played: who, where, on which seeds
    references/<scenario>-<policy>/episodes/     as of a run

They are made once. Whether those that lie there still fit is decided by `made.json`, which is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.env.substrate import SubstrateConfig
from durotaxis.fusion.config import validated
from durotaxis.records import (
    EPISODE_FORMAT,
    Episode,
    RunDirectory,
    cannot_write,
    episode_numbers,
    write_episodes,
    write_json,
)
from durotaxis.study.episode import record_agent, record_scripted
from durotaxis.study.evaluation import Candidate, file_name, open_run
from durotaxis.study.provenance import own_version
from durotaxis.study.score import world_name

REFERENCES = "references"
MADE = "made.json"
SCRIPTED_REFERENCES = ("random", "delete-left")
NULL = "uniform"
"""The scenario without a gradient."""


@dataclass(frozen=True)
class Reference:
    """Recorded episodes of one policy in one world."""

    policy: str
    place: Path  # holds the folder of episodes
    numbers: Sequence[int]  # of the episodes, in the order of the seeds asked for


def make_references(
    run: RunDirectory,
    episodes: Sequence[Episode],
    say: Callable[[str], None] = lambda line: None,
    play: bool = True,
) -> list[Reference]:
    """Record what a run's episodes are compared with, as far as it does not lie there.

    Args:
        episodes: recorded ones of the run.
        say: told what is being recorded.
        play: false refuses to record anything.

    Returns:
        The scripted policies in the run's world; then the agent and the scripted policies in the null world,
        unless that is the run's own.

    Raises:
        UserError: the checkpoint that played is gone or was trained on, or the world cannot be made again.
        RecordError: a folder cannot be written.
    """
    candidate = player_of(run, episodes)
    own = played_world(episodes[0])
    flat = own.substrate.kind == "uniform"
    if flat:
        say("the ground has no gradient here, so there is no null to compare with")
    worlds = [own] if flat else [own, null_world(own)]
    seeds = [episode.info.seed for episode in episodes]
    references = []
    for world in worlds:
        if world is not own:
            references.append(
                _agent_reference(candidate, world, seeds, episodes[0].info.deterministic, say, play)
            )
        for name in SCRIPTED_REFERENCES:
            references.append(_scripted_reference(run, name, world, seeds, say, play))
    return references


def player_of(run: RunDirectory, episodes: Sequence[Episode]) -> Candidate:
    """The agent that played recorded episodes of a run.

    Raises:
        UserError: no agent did, its checkpoint is gone, or it has been trained on since.
    """
    info = episodes[0].info
    again = f"record them again: durotaxis evaluate {run.path}"
    if info.trained_steps is None:
        raise UserError(f"{run.path}: its episodes were played by {info.policy}, not by its agent; {again}")
    candidate = open_run(run.checkpoints / Path(info.policy).name)
    if candidate.step != info.trained_steps:
        raise UserError(
            f"{run.path}: its episodes were played after {info.trained_steps:,} steps of training, "
            f"{candidate.checkpoint_path.name} has {candidate.step:,}; {again}"
        )
    return candidate


def played_world(episode: Episode) -> EnvConfig:
    """The world in which an episode was recorded.

    Raises:
        UserError: this version has no such world.
    """
    return validated(EnvConfig, **episode.info.env)


def null_world(config: EnvConfig) -> EnvConfig:
    """The same world on the substrate of the scenario `uniform`, of the same size and direction."""
    flat = SubstrateConfig(kind="uniform", size=config.substrate.size, direction=config.substrate.direction)
    reward = EnvConfig(scenario=NULL).reward
    return config.model_copy(update={"scenario": NULL, "substrate": flat, "reward": reward})


def _agent_reference(
    candidate: Candidate,
    world: EnvConfig,
    seeds: list[int],
    deterministic: bool,
    say: Callable[[str], None],
    play: bool,
) -> Reference:
    made = {
        "policy": "agent",
        "checkpoint": candidate.checkpoint_path.name,
        "sha256": hashlib.sha256(candidate.checkpoint_path.read_bytes()).hexdigest(),
        "deterministic": deterministic,
        **_where(world),
    }

    def record() -> list[Episode]:
        path = str(candidate.checkpoint_path)
        return record_agent(candidate.policy, world, seeds, path, candidate.step, deterministic)

    return _kept(candidate.run, "agent", world, made, seeds, record, say, play)


def _scripted_reference(
    run: RunDirectory, name: str, world: EnvConfig, seeds: list[int], say: Callable[[str], None], play: bool
) -> Reference:
    made = {"policy": name, **_where(world)}
    return _kept(run, name, world, made, seeds, lambda: record_scripted(name, world, seeds), say, play)


def _where(world: EnvConfig) -> dict[str, Any]:
    return {"env": world.model_dump(mode="json"), "format": EPISODE_FORMAT, "version": own_version()}


def _kept(
    run: RunDirectory,
    policy: str,
    world: EnvConfig,
    made: dict[str, Any],
    seeds: list[int],
    record: Callable[[], list[Episode]],
    say: Callable[[str], None],
    play: bool,
) -> Reference:
    """The reference that lies there, if it was made in the same way of these seeds; else a new one."""
    name = world_name(world)
    place = run.path / REFERENCES / f"{file_name(name)}-{policy}"
    known = _read_made(place)
    there = known.pop("seeds", [])
    if known != made or not set(seeds) <= set(there) or episode_numbers(place) != list(range(len(there))):
        if not play:
            raise UserError(f"{place} is missing or does not fit; record it: leave out --no-probe")
        say(f"recording {policy} in {name}, {len(seeds)} episodes")
        there = seeds
        fresh = record()
        _forget_made(place)
        write_episodes(place, fresh)
        write_json(place / MADE, {**made, "seeds": seeds})
    return Reference(policy, place, [there.index(seed) for seed in seeds])


def _read_made(place: Path) -> dict[str, Any]:
    """What is said of a reference; nothing where there is none, or only a part of one."""
    try:
        found = json.loads((place / MADE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _forget_made(place: Path) -> None:
    try:
        (place / MADE).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(place, error) from error
