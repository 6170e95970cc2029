"""Reads a run directory into columns that can be drawn and counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from durotaxis.analysis.stats import Estimate, mean_interval, wilson
from durotaxis.records import ATTENTION, EPISODES, EVALUATIONS, EVENTS, METRICS, RecordError, RunDirectory

Row = Mapping[str, Any]

EPISODE_COLUMNS = {
    "return": "return",
    "success_rate": "success",
    "front_progress": "final/front_progress",
}
"""What is estimated from episodes -> the column it comes from."""


@dataclass(frozen=True)
class Run:
    """The records of one training, in the order in which they were written."""

    path: Path
    metrics: Sequence[Row]  # one per iteration
    episodes: Sequence[Row]  # one per finished training episode
    attention: Sequence[Row]  # per iteration and phase; empty without attention
    evaluations: Sequence[Row]  # one per evaluation episode
    events: Sequence[Row] = ()  # one per stage that began, part that began to learn, warning, change

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name


@dataclass(frozen=True)
class Attention:
    """Mean attention over training: T rows, K models."""

    names: tuple[str, ...]  # [K]
    step: np.ndarray  # [T] int, environment steps
    weight: np.ndarray  # [T,K] float, rows sum to 1
    effective: np.ndarray  # [T] float, exp of the mean rows' entropy, between 1 and K


def load_run(directory: Path | str) -> Run:
    """Read a run directory.

    Raises:
        RecordError: it is none, a record is missing or damaged.
    """
    run = RunDirectory.open(directory)
    events = run.read(EVENTS) if (run.path / EVENTS).exists() else ()  # runs of old have none
    metrics, episodes, attention, evaluations = map(run.read, (METRICS, EPISODES, ATTENTION, EVALUATIONS))
    return Run(run.path, metrics, episodes, attention, evaluations, events)


def column(rows: Sequence[Row], key: str) -> np.ndarray:
    """One column as float64 [len(rows)]; NaN where it is null or absent, 0 and 1 for false and true."""
    values = (row.get(key) for row in rows)
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def estimate(rows: Sequence[Row], what: str) -> Estimate:
    """A key of EPISODE_COLUMNS over episodes: Wilson's interval for rates, Student's t for means."""
    values = column(rows, EPISODE_COLUMNS[what])
    values = values[~np.isnan(values)]
    if what == "success_rate":
        return wilson(int(values.sum()), len(values))
    return mean_interval(values.tolist())


def by_evaluation(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Evaluation episodes grouped by the environment step at which they were played."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(int(row["step"]), []).append(row)
    return groups


def in_bins(rows: Sequence[Row], num_bins: int) -> list[tuple[float, list[Row]]]:
    """Training episodes in bins of equal width in environment steps: (mean step, rows), empty ones left out.

    Episodes are known by the iteration in which they ended, so bins are no narrower than one iteration.
    """
    if not rows:
        return []
    step = column(rows, "step").astype(np.int64)
    num_bins = max(1, min(num_bins, len(np.unique(step))))
    place = (step * num_bins - 1) // step.max()
    bins = [np.flatnonzero(place == index) for index in range(num_bins)]
    return [(float(step[index].mean()), [rows[int(i)] for i in index]) for index in bins if len(index)]


def attention_over_training(run: Run, phase: str = "all") -> Attention | None:
    """Mean attention per model while training, over the colonies in one phase.

    Args:
        phase: `all`, or a name of `durotaxis.records.PHASES`.

    Returns:
        None where the run has no attention, or no colony was seen in that phase.

    Raises:
        RecordError: the models changed within the run.
    """
    rows = [row for row in run.attention if row["phase"] == phase and "value/attention" in row]
    if not rows:
        return None
    names = {tuple(row.get("value/ptm_names") or _numbered(row)) for row in rows}
    if len(names) > 1:
        raise RecordError(f"{run.path / ATTENTION}: the models change within the run")
    return Attention(
        names=names.pop(),
        step=column(rows, "step").astype(np.int64),
        weight=np.array([row["value/attention"] for row in rows], dtype=np.float64),
        effective=column(rows, "value/effective_models"),
    )


def _numbered(row: Row) -> list[str]:
    return [f"PTM {index}" for index in range(len(row["value/attention"]))]
