"""Runs of two arms side by side, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from durotaxis.analysis.scores import difference, ratio_of_means
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import OWN, Measure, PerSeed, Selection, Study

PerRun = Callable[[str, str], PerSeed]
"""(arm, scenario) -> seed -> value."""


def paired(
    first: str, second: str, scenarios: Sequence[str], values: PerRun
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Values of two arms at the seeds that both have, one array per scenario; None where one has none."""
    arms: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for scenario in scenarios:
        a, b = values(first, scenario), values(second, scenario)
        common = [seed for seed in a if seed in b]
        if not common:
            return None
        arms[0].append(np.array([a[seed] for seed in common]))
        arms[1].append(np.array([b[seed] for seed in common]))
    return arms if scenarios else None


def compare(
    study: Study,
    arm: str,
    scenarios: Sequence[str],
    values: PerRun,
    how: Callable[[list[np.ndarray], list[np.ndarray]], Estimate],
) -> Estimate:
    """An arm against the baseline at their common seeds; nothing where a scenario has none."""
    both = paired(study.plan.baseline, arm, scenarios, values)
    return how(*both) if both else NOTHING


def held_out(study: Study, measure: Measure, where: Selection = OWN) -> PerRun:
    """Held-out scores, as `paired` takes them."""
    return lambda arm, scenario: study.values(arm, scenario, measure, where)


def finished(study: Study, values: PerRun) -> PerRun:
    """Values of runs that finished."""
    failed = {run.key for run in study.failed}
    return lambda arm, scenario: {
        seed: value for seed, value in values(arm, scenario).items() if (arm, scenario, seed) not in failed
    }


def mean_gap(first: list[np.ndarray], second: list[np.ndarray]) -> Estimate:
    """Difference of means, second less first, paired."""
    return difference(first, second, "mean", paired=True)


def iqm_gap(first: list[np.ndarray], second: list[np.ndarray]) -> Estimate:
    """Difference of IQMs, second less first, paired."""
    return difference(first, second, "iqm", paired=True)


def ratio(first: list[np.ndarray], second: list[np.ndarray]) -> Estimate:
    """Ratio of means, second over first."""
    return ratio_of_means(first, second)
