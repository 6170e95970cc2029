"""What the rows of all tables are made of: places, their values, judgements in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from durotaxis.analysis.claims import HELD, HELPS, HURTS, MET, NOT_HELD, NOT_MET, NOT_TESTED
from durotaxis.analysis.pairs import PerRun, compare
from durotaxis.analysis.scores import Statistic, aggregate, difference
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import Measure, Study
from durotaxis.analysis.study_tables import Mark

ALL = "all that count"
"""What the scenarios that are aggregated over are called together."""

TONES = {
    HELPS: "good",
    HELD: "good",
    MET: "good",
    HURTS: "bad",
    NOT_HELD: "bad",
    NOT_MET: "bad",
    NOT_TESTED: "none",
}


def mark(word: str) -> Mark:
    """A judgement in its colour."""
    return Mark(word, TONES.get(word, "open"))


def places_of(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """The aggregate, where there is more than one scenario to it, and every scenario."""
    each: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in study.scenarios]
    return [(ALL, study.main_scenarios), *each] if len(study.main_scenarios) > 1 else each


def tasks_of(values: PerRun, arm: str, scenarios: Sequence[str]) -> list[np.ndarray]:
    """One array per scenario; none at all where one of them has no value."""
    tasks = [np.array(list(values(arm, name).values())) for name in scenarios]
    return tasks if tasks and all(len(task) for task in tasks) else []


def aggregate_of(values: PerRun, arm: str, scenarios: Sequence[str], statistic: Statistic) -> Estimate:
    """A statistic over scenarios, with its interval; nothing where one of them has no value."""
    tasks = tasks_of(values, arm, scenarios)
    return aggregate(tasks, statistic) if tasks else NOTHING


def common_measure(study: Study, scenarios: Sequence[str]) -> Measure:
    """What scores are of: one scenario's own measure, or the one that all have."""
    return study.main_measure if len(scenarios) > 1 else study.measure(scenarios[0])


def gap_of(
    study: Study, arm: str, scenarios: Sequence[str], values: PerRun, statistic: Statistic
) -> Estimate:
    """An arm's statistic less the baseline's, paired by seed."""
    return compare(study, arm, scenarios, values, lambda a, b: difference(a, b, statistic))


def changes_text(changes: Mapping[str, Any]) -> str:
    """Changed keys and their values in one line."""
    return "; ".join(f"{key} = {value}" for key, value in changes.items())
