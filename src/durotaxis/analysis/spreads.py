"""How much scores scatter: over seeds, over settings, over the conditions that an agent is judged under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from durotaxis.analysis.pairs import compare, finished, held_out, ratio
from durotaxis.analysis.scores import difference, spread_ratio
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import PerSeed, Scale, Selection, Study, score_of
from durotaxis.records import Score


def spread_of(study: Study, arm: str, scenarios: Sequence[str]) -> Estimate:
    """Standard deviation of final scores over seeds, arm over baseline."""
    values = held_out(study, study.main_measure)
    both = [
        [np.array(list(values(name, s).values())) for s in scenarios] for name in (study.plan.baseline, arm)
    ]
    if not scenarios or any(len(task) < 2 for tasks in both for task in tasks):
        return NOTHING
    return spread_ratio(*both)


def settings_of(study: Study, is_world: bool) -> dict[str, tuple[str, ...]]:
    """Settings of one scenario that differ in the world alone, or in nothing of the world.

    Returns:
        Scenario of the package -> names of two or more scenarios of the plan; one without changes counts.
    """
    found = {}
    for base, names in study.settings().items():
        alike = tuple(name for name in names if _is_of(study.scenario(name).changes, is_world))
        if len(alike) > 1 and len({study.measure(name) for name in alike}) == 1:
            found[base] = alike
    return found


def _is_of(changes: Mapping[str, object], is_world: bool) -> bool:
    return all(key.startswith("env.") == is_world for key in changes)


def spread_over_settings(study: Study, arm: str, names: Sequence[str]) -> PerSeed:
    """Standard deviation of one seed's final scores over settings, for seeds that finished in all of them."""
    return _spread([finished(study, held_out(study, study.measure(name)))(arm, name) for name in names])


def spread_over_conditions(study: Study, arm: str, scenario: str) -> PerSeed:
    """The same over the conditions that one agent is judged under, over equally many episodes of each."""
    where = _conditions(study, arm, scenario)
    values = [finished(study, held_out(study, study.measure(scenario), each)) for each in where]
    return _spread([of(arm, scenario) for of in values])


def _conditions(study: Study, arm: str, scenario: str) -> list[Selection]:
    """The conditions, and the world as it was trained in over as many episodes; none where these differ."""
    others = [Selection(condition=name) for name in study.plan.conditions]
    scores = [score_of(run, each) for run in study.runs(arm, scenario) for each in others]
    counts = {score.episodes for score in scores if score is not None}
    return [Selection(episodes=counts.pop()), *others] if len(counts) == 1 else []


def beyond_chance(study: Study, arm: str, scenarios: Sequence[str]) -> Estimate:
    """Variance over conditions less what so few episodes scatter by themselves, mean over seeds.

    Under each condition a score is a mean over episodes with a known standard error, and the variance over
    conditions of scores that differ by nothing else is the mean of these squared.
    """
    seen, by_chance = [], []
    for scenario in scenarios:
        spread = spread_over_conditions(study, arm, scenario)
        unit = study.scale(scenario)
        span = unit.span if isinstance(unit, Scale) else None
        noise, where = {}, _conditions(study, arm, scenario)
        for run in study.runs(arm, scenario):
            scores = [score_of(run, each) for each in where]
            known = [score for score in scores if score is not None]
            if run.seed in spread and known:
                noise[run.seed] = float(np.mean([_error_of(score, span) ** 2 for score in known]))
        seen.append(np.array([spread[seed] ** 2 for seed in noise]))
        by_chance.append(np.array(list(noise.values())))
    if not seen or any(len(task) == 0 for task in seen):
        return NOTHING
    return difference(by_chance, seen, "mean", paired=True)


def _error_of(score: Score, span: float | None) -> float:
    """Standard error of a score over its episodes: of the normalised return, or of the success rate."""
    if span is not None:
        return score.return_se / span
    rate = score.successes / score.episodes
    return float(np.sqrt(rate * (1 - rate) / max(score.episodes - 1, 1)))


def _spread(rows: Sequence[PerSeed]) -> PerSeed:
    if len(rows) < 2:
        return {}
    seeds = [seed for seed in rows[0] if all(seed in row for row in rows)]
    return {seed: float(np.std([row[seed] for row in rows], ddof=1)) for seed in seeds}


def settings_ratio(study: Study, arm: str, groups: Mapping[str, tuple[str, ...]]) -> Estimate:
    """Spread over settings, arm over baseline, over groups of settings."""
    return compare(
        study, arm, list(groups), lambda name, base: spread_over_settings(study, name, groups[base]), ratio
    )


def conditions_ratio(study: Study, arm: str) -> Estimate:
    """Spread over conditions, arm over baseline, over the scenarios that count."""
    return compare(
        study,
        arm,
        study.main_scenarios,
        lambda name, scenario: spread_over_conditions(study, name, scenario),
        ratio,
    )


def within_chance(study: Study, arm: str) -> list[str]:
    """Which of the baseline and the arm differ between conditions by no more than their episodes scatter."""
    found = {name: beyond_chance(study, name, study.main_scenarios) for name in (study.plan.baseline, arm)}
    return [name for name, extra in found.items() if extra.low is None or extra.low <= 0]
