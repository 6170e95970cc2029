"""The run directory: what its files are called, what their columns mean, and how they are written.

This module needs the standard library only, so that reading a run costs nothing. Two rules hold for every
file: it is written whole or not at all (a temporary file, fsync, rename), or it is JSONL, one object per
line, of which at most the last line can be cut by a crash. Numbers are finite; what is undefined is null.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
EPISODES = "episodes.jsonl"
ATTENTION = "attention.jsonl"
EVALUATIONS = "evaluations.jsonl"
EVENTS = "events.jsonl"
DISTILLATION = "distillation.jsonl"
DISTILLATION_SUMMARY = "distillation.json"
TRACES = "episodes"
EPISODE_INFO = f"{TRACES}/<n>.json.gz"
STEPS = f"{TRACES}/<n>.jsonl.gz"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FIGURES = "figures"
DONE = "DONE"

LAST_CHECKPOINT = "last.pt"
BEST_CHECKPOINT = "best.pt"

PHASES = ("early", "migrating", "dense")
"""Names of a colony's phase 0, 1, 2."""


class RecordError(ValueError):
    """A run directory or record file the user can fix: one line, what, where, what to do."""


class NotFiniteError(RecordError):
    """A number that was to be recorded is NaN or infinite."""


@dataclass(frozen=True)
class Column:
    """One column of a record file. `<...>` in the name stands for any text."""

    name: str
    unit: str
    meaning: str
    wall_clock: bool = False  # measured time or memory: differs between two equal runs

    def matches(self, key: str) -> bool:
        """Whether `key` is this column."""
        head, bracket, rest = self.name.partition("<")
        if not bracket:
            return key == self.name
        tail = rest.partition(">")[2]
        return key.startswith(head) and key.endswith(tail) and len(key) > len(head) + len(tail)


_EPISODE = (
    Column("return", "1", "sum of rewards over the episode, undiscounted"),
    Column("length", "steps", "steps the episode lasted"),
    Column("reason", "name", "why the episode ended"),
    Column("success", "true/false", "whether the reason is success"),
    Column("term/<name>", "1", "sum of one reward term over the episode, coefficient applied"),
    Column("final/<name>", "varies", "the world's own numbers at the end, such as front_progress (1)"),
)
_WHEN = (
    Column("iteration", "count", "iterations (rollout and update) finished, this one included"),
    Column("step", "steps", "environment steps over all colonies at the end of the iteration"),
)

_STAGE = Column("stage", "name", "curriculum stage of the rollout; absent without a curriculum")

SCHEMA: dict[str, tuple[Column, ...]] = {
    METRICS: (
        *_WHEN,
        Column("episodes", "count", "training episodes finished so far"),
        _STAGE,
        Column("stage_share", "1", "share of it among new episodes; the others are of the stage before"),
        Column("finished", "count", "training episodes finished in this iteration"),
        Column("return_mean", "1", "mean return of those episodes; null when there is none"),
        Column("length_mean", "steps", "mean length of those episodes"),
        Column("success_rate", "1", "share of those episodes that ended in success"),
        Column("final/<name>", "varies", "mean of a number of the world at the end of those episodes"),
        Column("reward_mean", "1", "mean reward per colony and step of the rollout"),
        Column("term/<name>", "1", "mean of one reward term per colony and step of the rollout"),
        Column("num_nodes", "count", "mean number of living nodes per colony in the rollout"),
        Column("policy_loss", "1", "clipped surrogate loss, mean over minibatches"),
        Column(
            "value_loss",
            "1",
            "value loss before its coefficient, mean over minibatches; scale-free with normalize_value",
        ),
        Column("penalty", "1", "the policy's own regulariser, mean over minibatches; 0 when it has none"),
        Column("entropy_kind", "nat", "entropy of the kind, reduced over nodes as the loss does"),
        Column("entropy_parameters", "nat", "entropy of the spawn parameters, weighted by p(spawn)"),
        Column("kl", "nat", "approximate KL(old, new), estimator k3, mean over minibatches"),
        Column("kl_max", "nat", "largest of these over the minibatches"),
        Column("clip_fraction", "1", "share of ratios outside the clip range"),
        Column("ratio_error", "1", "largest |ratio - 1| of the first minibatch; for graph, |log ratio|"),
        Column(
            "explained_variance", "1", "1 - Var(return target - value) / Var(return target); null when flat"
        ),
        Column("explained_variance/<term>", "1", "the same for one reward term; with value_heads: terms"),
        Column("minibatches", "count", "minibatches that were used before the KL stop"),
        Column("learning_rate", "1", "base learning rate of the update"),
        Column("clip_range", "1", "of the update"),
        Column("gradient_norm", "1", "L2 norm of all gradients before clipping, mean over minibatches"),
        Column("gradient_norm/<part>", "1", "the same for one part of the policy"),
        Column("collect_s", "s", "time of the rollout", wall_clock=True),
        Column("forward_s", "s", "of that, the policy's forward passes", wall_clock=True),
        Column("update_s", "s", "time of the update", wall_clock=True),
        Column("elapsed_s", "s", "training time so far, over all resumptions", wall_clock=True),
        Column("steps_per_s", "1/s", "environment steps per second of rollout and update", wall_clock=True),
        Column(
            "episodes_per_hour", "1/h", "finished episodes per hour of rollout and update", wall_clock=True
        ),
        Column("seconds_per_episode", "s", "the inverse; null when no episode finished", wall_clock=True),
        Column("host_memory_mb", "MB", "largest resident memory of the process so far", wall_clock=True),
        Column(
            "device_memory_mb", "MB", "largest memory allocated on the accelerator so far", wall_clock=True
        ),
    ),
    EPISODES: (
        *_WHEN,
        Column("episode", "count", "running number of the training episode, from 1"),
        Column("slot", "count", "slot of the batch it ran in, from 0"),
        Column("slot_episode", "count", "how many episodes ran in that slot before it"),
        Column("seed", "int64", "its seed"),
        Column("stage", "name", "curriculum stage in which it began; absent without a curriculum"),
        *_EPISODE,
    ),
    ATTENTION: (
        *_WHEN,
        _STAGE,
        Column("phase", "name", f"colonies looked at: all, {', '.join(PHASES)}"),
        Column("colonies", "count", "how many"),
        Column("value/<name>", "varies", "a diagnostic of the policy; a list has one entry per PTM"),
    ),
    EVALUATIONS: (
        *_WHEN,
        Column("seed", "int64", "episode seed: 1,000,000 + j while tuning, 2,000,000 + j in reports"),
        Column("deterministic", "true/false", "the mode instead of a sample"),
        *_EPISODE,
    ),
    EVENTS: (
        Column(
            "iteration", "count", "the iteration it belongs to, before whose rollout it happened or after it"
        ),
        Column("step", "steps", "environment steps over all colonies at that moment"),
        Column("episodes", "count", "training episodes finished until then"),
        Column(
            "event",
            "name",
            "stage (one began), learns (a part began to learn), warning, changed (of the configuration)",
        ),
        Column("name", "name", "which stage, part, warning or key"),
        Column("message", "text", "what there is to say about it"),
    ),
    DISTILLATION: (
        *_WHEN,
        Column("kl", "nat", "KL(teacher, student), sum over nodes, mean over states and minibatches"),
        Column("kl_per_node", "nat", "the same per living node"),
        Column("value_loss", "1", "mean square of the difference of their values"),
        Column("gradient_norm", "1", "L2 norm of all gradients before clipping, mean over minibatches"),
        Column("learning_rate", "1", "of the iteration"),
        Column("elapsed_s", "s", "time of the distillation so far", wall_clock=True),
        Column("steps_per_s", "1/s", "environment steps per second of it", wall_clock=True),
    ),
    EPISODE_INFO: (
        Column("format", "int", "version of this description"),
        Column("seed", "int64", "of the episode"),
        Column("scenario", "name", "the world; `changed` after it where it is not as it ships, `map <file>`"),
        Column("env", "varies", "configuration of the world, resolved"),
        Column("policy", "text", "who played: a checkpoint, or a scripted policy"),
        Column("trained_steps", "steps", "environment steps it was trained for; null for a scripted policy"),
        Column("deterministic", "true/false", "the mode instead of a sample"),
        Column("reason", "name", "why the episode ended"),
        Column("success", "true/false", "whether the reason is success"),
        Column("length", "steps", "steps the episode lasted"),
        Column("total_reward", "1", "sum of rewards, undiscounted"),
        Column("final", "varies", "the world's own numbers at the end, such as front_progress (1)"),
        Column("minutes_per_step", "min", "length of a step"),
        Column("critical_nodes", "count", "above so many nodes the softest are marked"),
        Column("size", "µm", "width and height of the substrate"),
        Column("direction", "rad", "way to the goal, counter-clockwise from +x"),
        Column("origin", "µm", "of s and t: s = x cos + y sin - origin 0, t = y cos - x sin - origin 1"),
        Column("extent", "µm", "length along the direction, breadth across"),
        Column("goal", "µm", "s that ends the episode in success"),
        Column("ptms", "name", "models that are fused, in the order of attention; empty without attention"),
        Column("attention_rows", "name", "node: a row per node; colony: one in all; null without attention"),
        Column("field", "kPa", "stiffness at the centres of a lattice of pixels, row 0 = largest y"),
    ),
    STEPS: (
        Column("step", "steps", "step within the episode, from 0"),
        Column("nodes", "µm", "x, y of every living node before the step"),
        Column("node_ids", "int", "their ids, never reused"),
        Column("parents", "index", "index of each node's parent in `nodes`, -1 for roots"),
        Column("ages", "steps", "their ages"),
        Column("stiffness", "kPa", "the substrate under each"),
        Column("marked", "true/false", "whether each should be deleted"),
        Column(
            "kinds", "0, 1, 2", "what each did: rest, spawn, delete; null in the last row, as what follows"
        ),
        Column(
            "parameters",
            "µm, kPa, 1, rad",
            "max_step, half_saturation, noise, angle of each that spawned; null for the others",
        ),
        Column("attention", "1", "weights over the PTMs, one row per node or one in all; null without"),
        Column("value", "1", "the critic's value before the step; null for a scripted policy"),
        Column("entropy", "nat", "of the policy, mean over nodes; null for a scripted policy"),
        Column("reward", "1", "reward of the step"),
        Column("term/<name>", "1", "its terms"),
    ),
}
"""Columns of each JSONL file of a run directory, and of the object that heads an episode, in order."""


def schema_table() -> str:
    """The schema as Markdown: one table per file."""
    parts = []
    for file, columns in SCHEMA.items():
        rows = [f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in columns]
        parts.append("\n".join([f"### `{file}`", "", "| column | unit | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def unknown_columns(file: str, row: Mapping[str, Any]) -> list[str]:
    """Keys of `row` that the schema of `file` does not name."""
    return [key for key in row if not _is_known(file, key)]


@cache
def _is_known(file: str, key: str) -> bool:
    return any(column.matches(key) for column in SCHEMA[file])


def without_wall_clock(file: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` without the columns that differ between two equal runs."""
    timed = [column for column in SCHEMA[file] if column.wall_clock]
    return {key: value for key, value in row.items() if not any(c.matches(key) for c in timed)}


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Args:
        path: the file; its directory must exist.
        content: text (written as UTF-8), bytes, or a function that writes to an open binary file.

    Raises:
        RecordError: the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def cannot_write(path: Path, error: OSError) -> RecordError:
    """What to tell when a file cannot be written, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "the disk is full (or a quota); free some space and go on, what was written before is intact"
    else:
        advice = "choose another directory"
    return RecordError(f"cannot write {path}: {error.strerror or error}; {advice}")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write one JSON value atomically; with `indent` None in one line.

    Raises:
        RecordError: a number is not finite, or the file cannot be written.
    """
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, indent=indent, allow_nan=False, separators=separators)
    except ValueError as error:
        raise RecordError(f"{path}: {error}; only finite numbers are recorded") from error
    write_atomic(path, text + "\n")


def encode_row(row: Mapping[str, Any], where: str) -> str:
    """One JSON line. Raises NotFiniteError naming the column that is not finite."""
    try:
        return json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
    except ValueError as error:
        bad = [key for key, value in row.items() if not _finite(value)]
        raise NotFiniteError(f"{where}: {', '.join(bad)} is not a finite number ({error})") from error


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_finite(v) for v in value.values())
    return all(_finite(v) for v in value) if isinstance(value, (list, tuple)) else True


class Appender:
    """Appends rows to a JSONL file; each row is one line, handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[str] = set()
        self._broken = False
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row.

        Raises:
            RecordError: NaN, infinity, a column the schema does not name, or a full disk.
        """
        self._check(row)
        try:
            self._file.write(encode_row(row, str(self.path)))
        except OSError as error:
            self._broken = True
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file, its content on disk."""
        if self._file.closed:
            return
        if self._broken:  # what is still in its buffer cannot be written either
            with contextlib.suppress(OSError):
                self._file.close()
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, row: Mapping[str, Any]) -> None:
        new = row.keys() - self._checked
        if new and self.path.name in SCHEMA:
            unknown = unknown_columns(self.path.name, dict.fromkeys(new))
            if unknown:
                raise RecordError(f"{self.path}: columns not in records.SCHEMA: {', '.join(sorted(unknown))}")
        self._checked |= new


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file (gzip where the name ends so). A cut last line is left out.

    Raises:
        RecordError: the file is missing, or a line other than the last is not a JSON object.
    """
    rows = []
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            rows.append(_as_object(json.loads(line)))
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):  # the last line, cut by a crash
                break
            raise RecordError(
                f"{path}:{number}: not a JSON object ({error.msg}); the file is damaged"
            ) from error
    return rows


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise json.JSONDecodeError("a line holds something else", "", 0)
    return value


def _read_lines(path: Path) -> list[str]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            return file.readlines()
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist; is this a run directory?") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error


def cut_after(path: Path, key: str, value: int | float) -> int:
    """Drop every row whose `key` is above `value` (and a cut last line), atomically.

    Returns:
        The number of rows dropped. A missing file has none.
    """
    if not path.exists():
        return 0
    rows = read_jsonl(path)
    kept = [row for row in rows if row[key] <= value]
    write_atomic(path, "".join(encode_row(row, str(path)) for row in kept))
    return len(rows) - len(kept)


def require_writable(folder: Path) -> None:
    """Raise RecordError when no file could be written into `folder`, which may have to be made first."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise RecordError(f"cannot write into {folder}: {existing} is not a directory; choose another one")
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise RecordError(
            f"cannot write into {folder}: {error.strerror}; choose another directory"
        ) from error


def write_trace(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one episode step by step as compressed JSONL, atomically and reproducibly to the byte."""
    text = "".join(encode_row(row, str(path)) for row in rows)
    write_atomic(path, gzip.compress(text.encode(), mtime=0))


@dataclass(frozen=True)
class RunDirectory:
    """A run directory on disk. `create` claims a new one, `open` takes one that exists."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, config: str, provenance: Mapping[str, Any]) -> RunDirectory:
        """Claim a directory for a new run and write its first two files.

        Args:
            path: made where missing.
            config: the resolved configuration as YAML text.
            provenance: commit, versions, device, threads, seed, hashes; any JSON object.

        Raises:
            RecordError: it already holds a run, or cannot be written. Nothing is left half-written.
        """
        cls.require_free(path)
        run = cls(Path(path))
        try:
            for folder in (run.path, run.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"cannot write {path}: {error.strerror}; choose another run.directory"
            ) from error
        write_atomic(run.path / CONFIG, config)
        write_json(run.path / PROVENANCE, provenance)
        return run

    @staticmethod
    def require_free(path: Path | str) -> None:
        """Raise RecordError where a new run could not be created; leaves nothing behind."""
        try:
            taken = [name for name in (CONFIG, METRICS, DONE) if (Path(path) / name).exists()]
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} cannot be a run directory: {error}; choose another one") from error
        if taken:
            raise RecordError(
                f"{path} already holds a run (it contains {taken[0]}); "
                "choose another run.directory or resume it"
            )
        require_writable(Path(path))

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run. Raises RecordError when `path` is none."""
        if not (Path(path) / CONFIG).is_file():
            raise RecordError(f"{path} is not a run directory: it has no {CONFIG}")
        return cls(Path(path))

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def last_checkpoint(self) -> Path:
        """The latest checkpoint: where a resumed run goes on."""
        return self.checkpoints / LAST_CHECKPOINT

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint that scored best on the tuning seeds; missing when none was evaluated."""
        return self.checkpoints / BEST_CHECKPOINT

    @property
    def chosen_checkpoint(self) -> Path:
        """What stands for the trained agent: the best on the tuning seeds; the last if none were played."""
        return self.best_checkpoint if self.best_checkpoint.exists() else self.last_checkpoint

    @property
    def config_text(self) -> str:
        """The resolved configuration, YAML."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    @property
    def is_done(self) -> bool:
        """Whether the run finished."""
        return (self.path / DONE).exists()

    def appender(self, file: str) -> Appender:
        """Open one of the JSONL files for appending."""
        return Appender(self.path / file)

    def read(self, file: str) -> list[dict[str, Any]]:
        """All rows of one of the JSONL files."""
        return read_jsonl(self.path / file)

    def trace(self, number: int) -> Path:
        """The file of one recorded episode."""
        return self.path / TRACES / f"{number}.jsonl.gz"

    def cut_after(self, iteration: int) -> None:
        """Drop all rows of later iterations, and DONE: the run goes on from there.

        What a killed process left half-written goes too.
        """
        (self.path / DONE).unlink(missing_ok=True)
        for leftover in (*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
        for file in (METRICS, EPISODES, ATTENTION, EVALUATIONS, EVENTS):
            cut_after(self.path / file, "iteration", iteration)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this run within the block; a killed process lets go.

        Raises:
            RecordError: another process has it.
        """
        # The directory itself: a file in it may be replaced meanwhile, and its lock would lock nothing.
        directory = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RecordError(
                    f"{self.path}: another process is training this run; wait for it, or stop it first"
                ) from error
            yield
        finally:
            os.close(directory)

    def mark_done(self, summary: Mapping[str, Any]) -> None:
        """Write DONE, a JSON object. The last file of a run."""
        write_json(self.path / DONE, summary)
