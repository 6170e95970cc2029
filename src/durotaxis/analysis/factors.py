"""Arms that are crossed: what each factor adds, averaged over the others, and whether two of them add up.

Every effect is a contrast of arms within a seed, so that what a seed's worlds are worth drops out
(Montgomery, *Design and Analysis of Experiments*, chapter 5); its interval is that of the mean over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from durotaxis.analysis.pairs import PerRun
from durotaxis.analysis.scores import aggregate
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.records import ArmPlan

Step = tuple[str, str, str]
"""Factor, first level, other level."""


@dataclass(frozen=True)
class Contrast:
    """Weights of arms that sum to 0."""

    name: str
    weights: Mapping[str, float]  # arm -> weight
    is_interaction: bool


def contrasts(arms: Sequence[ArmPlan]) -> list[Contrast]:
    """All that arms with `factors` can be asked: effects of single factors, then of two together.

    The first level that a factor is listed with is what its others are compared with. An interaction is what
    one factor adds at the other's level, less what it adds at the other's first.
    """
    crossed = [arm for arm in arms if arm.factors]
    names = list(crossed[0].factors) if crossed else []
    levels = {name: list(dict.fromkeys(arm.factors[name] for arm in crossed)) for name in names}
    steps = [(name, levels[name][0], level) for name in names for level in levels[name][1:]]
    single = [
        Contrast(f"{name} ({to} less {of})", _weights(crossed, [(name, of, to)]), False)
        for name, of, to in steps
    ]
    double = [
        Contrast(f"{_short(one, levels)} x {_short(other, levels)}", _weights(crossed, [one, other]), True)
        for one, other in itertools.combinations(steps, 2)
        if one[0] != other[0]
    ]
    return single + double


def _short(step: Step, levels: Mapping[str, Sequence[str]]) -> str:
    name, _, to = step
    return name if len(levels[name]) == 2 else f"{name} {to}"


def _weights(arms: Sequence[ArmPlan], steps: Sequence[Step]) -> dict[str, float]:
    signs = {}
    for arm in arms:
        sign = 1.0
        for name, of, to in steps:
            sign *= {to: 1.0, of: -1.0}.get(arm.factors[name], 0.0)
        if sign:
            signs[arm.name] = sign
    of_each_kind = len(signs) / 2 ** len(steps)
    return {arm: sign / of_each_kind for arm, sign in signs.items()}


def effect_of(contrast: Contrast, scenarios: Sequence[str], values: PerRun) -> Estimate:
    """A contrast's mean over scenarios; nothing where a scenario has no seed that all its arms have."""
    tasks = []
    for scenario in scenarios:
        of = {arm: values(arm, scenario) for arm in contrast.weights}
        first = next(iter(of.values()))
        seeds = [seed for seed in first if all(seed in scores for scores in of.values())]
        if not seeds:
            return NOTHING
        table = np.array([[scores[seed] for seed in seeds] for scores in of.values()])
        tasks.append(np.array(list(contrast.weights.values())) @ table)
    return aggregate(tasks, "mean") if tasks else NOTHING
