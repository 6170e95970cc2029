"""Recorded episodes: what films, replays, tracks, metrics and attention pictures are made from.

    episodes/<n>.json.gz     what holds for the whole episode: seed, world, policy, substrate, how it ended
    episodes/<n>.jsonl.gz    one row per step, what there was before it and what was done; a last row without
                             actions holds what there was at the end

A folder of episodes is replaced as a whole, so that what lies in it comes from one evaluation.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from durotaxis.records.run import (
    SCHEMA,
    STEPS,
    TRACES,
    RecordError,
    cannot_write,
    encode_row,
    read_jsonl,
    unknown_columns,
    write_atomic,
    write_trace,
)

EPISODE_FORMAT = 1
NUM_RECORDED = 10
"""Episodes that `durotaxis evaluate` records unless told otherwise."""

NODE_COLUMNS = ("nodes", "node_ids", "parents", "ages", "stiffness", "marked")
"""Columns with one entry per living node, in every row."""
ACTION_COLUMNS = ("kinds", "parameters", "attention", "value", "entropy", "reward")
"""Columns that are null in the last row, which no action follows; the reward terms are, too."""


@dataclass(frozen=True)
class EpisodeInfo:
    """What holds for a whole episode. The columns stand in `SCHEMA`."""

    format: int
    seed: int
    scenario: str
    env: Mapping[str, Any]
    policy: str
    trained_steps: int | None
    deterministic: bool
    reason: str
    success: bool
    length: int
    total_reward: float
    final: Mapping[str, float]
    minutes_per_step: float
    critical_nodes: int
    size: Sequence[float]
    direction: float
    origin: Sequence[float]
    extent: Sequence[float]
    goal: float
    ptms: Sequence[str]
    attention_rows: str | None
    field: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Episode:
    """One finished episode: `info.length` steps and what there was at the end."""

    info: EpisodeInfo
    steps: Sequence[Mapping[str, Any]]  # one row per step
    last: Mapping[str, Any]  # the colony after the last step

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The steps and the last row."""
        return [*self.steps, self.last]

    @property
    def terms(self) -> list[str]:
        """Names of the reward terms."""
        return [key.removeprefix("term/") for key in self.steps[0] if key.startswith("term/")]


def write_episodes(place: Path, episodes: Sequence[Episode]) -> Path:
    """Replace the recorded episodes of a directory, all or none.

    Args:
        place: a run directory, or any other that has or gets a folder `episodes`.

    Returns:
        The folder.

    Raises:
        RecordError: it cannot be written, or a number is not finite. What was there before stays; killed
            between two renames, it lies in `.episodes.old` until the next call.
    """
    folder, old = place / TRACES, place / f".{TRACES}.old"
    fresh = place / f".{TRACES}.{os.getpid()}.new"
    try:
        _restore(folder, old)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for number, episode in enumerate(episodes):
            write_trace(fresh / f"{number}.jsonl.gz", episode.rows)
            text = encode_row(asdict(episode.info), f"{folder / str(number)}.json.gz")
            write_atomic(fresh / f"{number}.json.gz", gzip.compress(text.encode(), mtime=0))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _restore(folder, old)
    return folder


def _restore(folder: Path, old: Path) -> None:
    """Put back what a killed or failed replacement moved away; drop it where there is something newer."""
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, folder)


def episode_numbers(place: Path) -> list[int]:
    """Numbers of the episodes recorded in a directory, in order; none where it has no such folder."""
    names = [path.name.removesuffix(".json.gz") for path in (place / TRACES).glob("*.json.gz")]
    return sorted(int(name) for name in names if name.isdecimal())


def read_episode(place: Path, number: int = 0) -> Episode:
    """One recorded episode.

    Args:
        place: a run directory, or another one that holds a folder `episodes`.
        number: from 0.

    Raises:
        RecordError: there is none of this number, it is of another version, unfinished or damaged.
    """
    known = episode_numbers(place)
    if not known:
        raise RecordError(
            f"{place} has no recorded episodes; `durotaxis evaluate {place}` plays some and records them"
        )
    if number not in known:
        raise RecordError(f"{place} has no episode {number}; it has {known[0]} to {known[-1]}")
    path = place / TRACES / f"{number}.json.gz"
    info = _read_info(path)
    steps_path = path.with_suffix("").with_suffix(".jsonl.gz")
    rows = read_jsonl(steps_path)
    if not rows or rows[-1].get("kinds") is not None or len(rows) != info.length + 1:
        raise RecordError(
            f"{steps_path}: unfinished, {len(rows)} rows where {info.length} steps and an end should be; "
            "record it again with durotaxis evaluate"
        )
    for row in rows:
        _check_row(steps_path, row, is_last=row is rows[-1])
    return Episode(info, rows[:-1], rows[-1])


def read_episodes(place: Path) -> Iterator[Episode]:
    """All recorded episodes of a directory, in order.

    Raises:
        RecordError: there are none, or what `read_episode` raises.
    """
    for number in episode_numbers(place) or [0]:
        yield read_episode(place, number)


def _read_info(path: Path) -> EpisodeInfo:
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RecordError(f"{path} cannot be read: {error}; record the episode again") from error
    again = "record it again with durotaxis evaluate"
    if not isinstance(found, dict) or found.get("format") != EPISODE_FORMAT:
        other = found.get("format") if isinstance(found, dict) else None
        raise RecordError(f"{path} is of format {other}, this version reads {EPISODE_FORMAT}; {again}")
    expected = {field.name for field in fields(EpisodeInfo)}
    if found.keys() != expected:
        odd = ", ".join(sorted(found.keys() ^ expected))
        raise RecordError(f"{path}: missing or unknown: {odd}; {again}")
    return EpisodeInfo(**found)


def _check_row(path: Path, row: Mapping[str, Any], is_last: bool) -> None:
    """Refuse a row that those who draw and count could not rely on."""
    where = f"{path}: step {row.get('step')}"
    missing = [column.name for column in SCHEMA[STEPS] if "<" not in column.name and column.name not in row]
    odd = [*missing, *unknown_columns(STEPS, row)]
    if odd:
        raise RecordError(f"{where}: missing or unknown: {', '.join(odd)}; record the episode again")
    num = len(row["node_ids"])
    lengths = {name: len(row[name]) for name in NODE_COLUMNS}
    if not is_last:
        lengths["kinds"] = len(row["kinds"])
    wrong = [f"{name} has {length}" for name, length in lengths.items() if length != num]
    if wrong:
        raise RecordError(f"{where}: {num} nodes, but {', '.join(wrong)}; record the episode again")
    if any(not -1 <= parent < num for parent in row["parents"]):
        raise RecordError(f"{where}: a parent is none of the {num} nodes; record the episode again")
