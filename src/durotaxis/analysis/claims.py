"""Judgements: where an arm helps, whether the goal is met, whether the guide's claims hold.

A claim is held only where the whole 95 % interval lies on its side, not held only where the whole interval
lies on the other; anything else is undecided. Intervals are of one comparison each: none is corrected for how
many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from durotaxis.analysis.pairs import PerRun, compare, finished, held_out, iqm_gap, mean_gap, paired, ratio
from durotaxis.analysis.scores import aggregate, ratio_of_means
from durotaxis.analysis.spreads import conditions_ratio, settings_of, settings_ratio, spread_of, within_chance
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import HEADING, Measure, Selection, Study
from durotaxis.records import TRAINED, ArmCost

HELD, NOT_HELD, UNDECIDED, NOT_TESTED = "held", "not held", "undecided", "not tested here"
HELPS, NEUTRAL, HURTS = "helps", "neutral", "hurts"
MET, NOT_MET = "met", "not met"

MARGIN = 0.1
"""Differences of scores wholly within this are no difference that matters: half the goal's."""
GOAL_DIFFERENCE, GOAL_AREA, GOAL_CEILING, GOAL_STEPS, GOAL_TIME = 0.2, 1.2, 0.8, 0.7, 1.5
USELESS = "-with-useless"
"""An arm named `<arm>-with-useless` is that arm with a useless model among its own."""


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline in one scenario and condition."""

    arm: str
    scenario: str
    condition: str
    measure: Measure
    difference: Estimate  # arm minus baseline, mean over paired seeds
    finished: Estimate  # the difference at seeds where both finished
    success: Estimate  # of the success rate
    word: str  # helps, neutral, hurts, undecided


@dataclass(frozen=True)
class Verdict:
    """A claim of the guide, or a condition of the goal, judged for one arm."""

    claim: str
    arm: str
    outcome: str
    estimate: Estimate
    measured: str  # what the estimate is of
    how: str = ""  # how it was judged
    beyond: bool | None = None  # of goals: whether the whole interval is beyond the target


def word_of(gap: Estimate) -> str:
    """Helps, neutral, hurts or undecided, by the interval of a difference of scores.

    Within the margin a difference is neutral although its interval be clear of 0: small, not absent.
    """
    if gap.low is None or gap.high is None:
        return UNDECIDED
    if gap.low > -MARGIN and gap.high < MARGIN:
        return NEUTRAL
    if gap.low > 0:
        return HELPS
    return HURTS if gap.high < 0 else UNDECIDED


def _counted(gap: Estimate, any_finished: bool) -> str:
    """`word_of` a difference that counts failed runs, which says nothing where no seed finished in both."""
    return word_of(gap) if any_finished else UNDECIDED


def unpaired(study: Study, arm: str) -> list[str]:
    """Scenarios that count in which no seed finished in both the arm and the baseline."""
    values = finished(study, held_out(study, study.main_measure))
    pairs = {name: paired(study.plan.baseline, arm, [name], values) for name in study.main_scenarios}
    return [name for name, both in pairs.items() if both is None]


def effects(study: Study) -> list[Comparison]:
    """Every arm against the baseline: per scenario, and per condition that agents were judged under."""
    found = []
    for scenario in study.scenarios:
        measure = study.measure(scenario)
        for condition in (TRAINED, *study.plan.conditions):
            where = Selection(condition=condition)
            values, successes = held_out(study, measure, where), held_out(study, "success_rate", where)
            for arm in study.others:
                gap, kept, success = (
                    compare(study, arm, [scenario], of, mean_gap)
                    for of in (values, finished(study, values), successes)
                )
                if gap.count:
                    word = _counted(gap, kept.count > 0)
                    found.append(Comparison(arm, scenario, condition, measure, gap, kept, success, word))
    return found


def main_difference(study: Study, arm: str) -> Estimate:
    """What the headline rests on: IQM of the main measure over the scenarios that count, arm - baseline."""
    return compare(study, arm, study.main_scenarios, held_out(study, study.main_measure), iqm_gap)


def main_word(study: Study, arm: str, gap: Estimate) -> str:
    """What `main_difference`, given as `gap`, says."""
    return _counted(gap, not unpaired(study, arm))


@dataclass(frozen=True)
class Subset:
    """Runs that the aggregate is made of again, to see what it rests on."""

    name: str
    scenarios: Sequence[str]
    only_finished: bool = False

    def of(self, study: Study, values: PerRun) -> PerRun:
        """Values of its runs."""
        return finished(study, values) if self.only_finished else values


def subsets(study: Study) -> list[Subset]:
    """The scenarios that count without each of them, and without failed runs where there are any."""
    over = study.main_scenarios
    found = []
    if len(over) > 1:
        found += [Subset(f"without {name}", [other for other in over if other != name]) for name in over]
    if any(run.scenario in over for run in study.failed):
        found.append(Subset("without failed runs", over, only_finished=True))
    return found


def subset_difference(study: Study, arm: str, subset: Subset) -> Estimate:
    """`main_difference` of a part of the runs."""
    values = subset.of(study, held_out(study, study.main_measure))
    return compare(study, arm, subset.scenarios, values, iqm_gap)


def area_ratio(study: Study, arm: str, scenarios: Sequence[str]) -> Estimate:
    """Area under the learning curve, arm over baseline."""
    return compare(study, arm, scenarios, study.areas, ratio)


def steps_ratio(study: Study, arm: str, scenarios: Sequence[str], *, to_stay: bool = False) -> Estimate:
    """Steps to the baseline's final score, arm over baseline; never within training counts as all of it.

    The first arrival may be passing: with `to_stay` the last one counts. Scenarios in which the baseline does
    not learn are left out: their level is reached by doing nothing.
    """
    known = [name for name in scenarios if study.learns(name)]
    return compare(study, arm, known, partial(study.steps_below_level, to_stay=to_stay), ratio)


# The goal


def goals(study: Study, arm: str) -> list[Verdict]:
    """The goal's conditions for one arm, over the scenarios that are no controls."""
    over = study.main_scenarios
    room = [name for name in over if _stays_below(study, name)]
    better = _goal(
        arm,
        f"final score {GOAL_DIFFERENCE} higher",
        main_difference(study, arm),
        f"IQM difference of the {HEADING[study.main_measure]}",
        lambda value: value - GOAL_DIFFERENCE,
        lambda value: value,
    )
    area = _goal(
        arm,
        f"or {GOAL_AREA} times the area where the baseline stays below {GOAL_CEILING}",
        area_ratio(study, arm, room) if room else NOTHING,
        f"ratio of areas under the learning curve, over {', '.join(room)}"
        if room
        else "no scenario leaves the baseline below it",
        lambda value: value - GOAL_AREA,
        lambda value: value - 1,
    )
    steps = _goal(
        arm,
        f"the baseline's final score in at most {GOAL_STEPS} of its steps",
        steps_ratio(study, arm, over),
        f"ratio of steps{_never(study, arm, over)}",
        lambda value: GOAL_STEPS - value,
        lambda value: 1 - value,
    )
    spread = _goal(
        arm,
        "less spread over seeds",
        spread_of(study, arm, over),
        "ratio of standard deviations",
        lambda value: 1 - value,
        lambda value: 1 - value,
    )
    time = _goal(
        arm,
        f"at most {GOAL_TIME} times the time per step",
        time_ratio(study, arm),
        "ratio of rollout and update time per step, one process",
        lambda value: GOAL_TIME - value,
        lambda value: GOAL_TIME - value,
    )
    return [*_guarded(study, arm, [better, area, steps, spread]), time]


def _guarded(study: Study, arm: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Undecided where failed runs alone stand on one side."""
    lacking = unpaired(study, arm)
    if not lacking:
        return list(verdicts)
    why = f"; no seed finished in both on {', '.join(lacking)}"
    return [
        verdict
        if verdict.outcome == NOT_TESTED
        else replace(verdict, outcome=UNDECIDED, measured=verdict.measured + why, beyond=None)
        for verdict in verdicts
    ]


def _goal(
    arm: str,
    claim: str,
    estimate: Estimate,
    measured: str,
    beyond: Callable[[float], float],
    clear: Callable[[float], float],
) -> Verdict:
    """Met: the estimate is at the target and its whole interval clear of no effect.

    Not met: the whole interval falls short of the target. `beyond` and `clear` are >= 0 and > 0 on the good
    side.
    """
    if estimate.mean is None:
        return Verdict(claim, arm, UNDECIDED if estimate.count else NOT_TESTED, estimate, measured)
    if estimate.low is None or estimate.high is None:
        return Verdict(claim, arm, UNDECIDED, estimate, measured)
    ends = (estimate.low, estimate.high)
    is_beyond = min(map(beyond, ends)) >= 0
    if beyond(estimate.mean) >= 0 and min(map(clear, ends)) > 0:
        return Verdict(claim, arm, MET, estimate, measured, beyond=is_beyond)
    outcome = NOT_MET if max(map(beyond, ends)) < 0 else UNDECIDED
    return Verdict(claim, arm, outcome, estimate, measured, beyond=is_beyond)


def _stays_below(study: Study, scenario: str) -> bool:
    values = list(study.values(study.plan.baseline, scenario, study.measure(scenario)).values())
    return bool(values) and float(np.mean(values)) < GOAL_CEILING


def _never(study: Study, arm: str, scenarios: Sequence[str]) -> str:
    """How many runs never reached the level, where any did not, and where there is none worth reaching."""
    parts = []
    known = [name for name in scenarios if study.learns(name)]
    for name in (arm, study.plan.baseline):
        reached = [v for scenario in known for v in study.steps_to_level(name, scenario).values()]
        if lacking := sum(value is None for value in reached):
            parts.append(f"{lacking} of {len(reached)} runs of {name}")
    text = f"; never reached by {', '.join(parts)}" if parts else ""
    left_out = [name for name in scenarios if name not in known]
    return text + (f"; without {', '.join(left_out)}, where the baseline does not learn" if left_out else "")


# Costs


def cost_ratio(study: Study, arm: str, seconds: Callable[[ArmCost], Sequence[float]]) -> Estimate:
    """Ratio of measured times, arm over baseline, paired by turn."""
    if study.cost is None or not {arm, study.plan.baseline} <= set(study.cost.arms):
        return NOTHING
    base, own = (np.array(seconds(study.cost.arms[name]), dtype=float) for name in (study.plan.baseline, arm))
    return ratio_of_means([base], [own]) if len(base) and len(base) == len(own) else NOTHING


def per_turn(cost: ArmCost) -> list[float]:
    """Rollout and update together, seconds per turn."""
    return [collect + update for collect, update in zip(cost.collect_s, cost.update_s, strict=True)]


def time_ratio(study: Study, arm: str) -> Estimate:
    """Time per environment step while training, arm over baseline."""
    return cost_ratio(study, arm, per_turn)


def _exact_ratio(study: Study, arm: str, number: Callable[[ArmCost], float]) -> Estimate:
    """A ratio of two numbers without scatter: its interval is a point."""
    if study.cost is None or not {arm, study.plan.baseline} <= set(study.cost.arms):
        return NOTHING
    below = number(study.cost.arms[study.plan.baseline])
    ratio = number(study.cost.arms[arm]) / below if below else None
    return Estimate(ratio, ratio, ratio, 1)


# The guide's claims


def claims(study: Study, arm: str) -> list[Verdict]:
    """What the guide says of WSA, judged for one arm against the baseline."""
    over = study.main_scenarios
    what = HEADING[study.main_measure]
    early = compare(study, arm, over, study.beginnings, mean_gap)
    saved = _saved(steps_ratio(study, arm, over))
    peak = _more(compare(study, arm, over, held_out(study, study.main_measure), ratio))
    spread = spread_of(study, arm, over)
    never = _never(study, arm, over)
    steps_how = "share of the baseline's steps to its own final training score that is saved" + never
    peak_how = f"final held-out {what} over the baseline's, less 1"
    learned = [
        _judge(
            "Initial slowdown",
            arm,
            early,
            f"{what} in the first tenth of training, difference",
            "held: below 0",
            below=0.0,
        ),
        _judge("10-15 % faster convergence", arm, saved, steps_how, "held: at least 10 %", above=0.10),
        _judge("20-30 % faster convergence", arm, saved, steps_how, "held: at least 20 %", above=0.20),
        _judge("5-10 % higher peak", arm, peak, peak_how, "held: at least 5 %", above=0.05),
        _judge("15-20 % higher peak", arm, peak, peak_how, "held: at least 15 %", above=0.15),
        _judge(
            "More stable learning (lower variance)",
            arm,
            spread,
            f"standard deviation of the final {what} over seeds, ratio",
            "held: below 1",
            below=1.0,
        ),
        _robustness(study, arm, "Robust to initial conditions", is_world=True),
        _robustness(study, arm, "Robust to hyperparameters", is_world=False),
        _redundancy(study, arm),
    ]
    costs = [
        _judge(
            "1.5-2x slower forward pass",
            arm,
            cost_ratio(study, arm, lambda cost: cost.forward_s),
            "forward time, ratio, one process by turns",
            "held: within 1.5 to 2",
            above=1.5,
            below=2.0,
        ),
        _judge(
            "~3x parameters",
            arm,
            _exact_ratio(study, arm, lambda cost: cost.num_parameters),
            "parameters, ratio of exact counts",
            "held: within 2.5 to 3.5",
            above=2.5,
            below=3.5,
        ),
        _judge(
            "~2x memory",
            arm,
            _exact_ratio(study, arm, lambda cost: cost.peak_memory_mb),
            "most memory of tensors in a rollout and update, ratio of one measurement each",
            "held: within 1.5 to 2.5",
            above=1.5,
            below=2.5,
        ),
    ]
    return [*_guarded(study, arm, learned), *costs]


def _judge(
    claim: str,
    arm: str,
    estimate: Estimate,
    measured: str,
    how: str,
    *,
    above: float = -np.inf,
    below: float = np.inf,
) -> Verdict:
    """Held: the whole interval between `above` and `below`. Not held: all of it at or beyond either."""
    if estimate.mean is None:
        return Verdict(claim, arm, NOT_TESTED if not estimate.count else UNDECIDED, estimate, measured, how)
    if estimate.low is None or estimate.high is None:
        return Verdict(claim, arm, UNDECIDED, estimate, measured, f"{how}; too few runs for an interval")
    if above < estimate.low and estimate.high < below:
        return Verdict(claim, arm, HELD, estimate, measured, how)
    if estimate.high <= above or estimate.low >= below:
        return Verdict(claim, arm, NOT_HELD, estimate, measured, how)
    return Verdict(claim, arm, UNDECIDED, estimate, measured, how)


def _saved(ratio: Estimate) -> Estimate:
    if ratio.mean is None:
        return ratio
    low = None if ratio.high is None else 1 - ratio.high
    high = None if ratio.low is None else 1 - ratio.low
    return Estimate(1 - ratio.mean, low, high, ratio.count)


def _more(ratio: Estimate) -> Estimate:
    if ratio.mean is None:
        return ratio
    low, high = (None if end is None else end - 1 for end in (ratio.low, ratio.high))
    return Estimate(ratio.mean - 1, low, high, ratio.count)


def _robustness(study: Study, arm: str, claim: str, is_world: bool) -> Verdict:
    groups = settings_of(study, is_world)
    over, estimate, noisy = "settings", NOTHING, []
    if groups:
        estimate = settings_ratio(study, arm, groups)
    elif is_world and study.plan.conditions:
        over = f"the worlds {', '.join((TRAINED, *study.plan.conditions))}"
        estimate = conditions_ratio(study, arm)
        noisy = [] if estimate.mean is None else within_chance(study, arm)
        if noisy:
            over += f" (of {' and '.join(noisy)} no more than so few episodes scatter by chance)"
    measured = f"standard deviation of a seed's final scores over {over}, ratio of means over seeds"
    verdict = _judge(claim, arm, estimate, measured, "held: below 1", below=1.0)
    return replace(verdict, outcome=NOT_TESTED) if noisy else verdict


def _redundancy(study: Study, arm: str) -> Verdict:
    """Whether an arm stands one of its models being useless: it loses less than MARGIN.

    Undecided of an arm that has no more than that to lose.
    """
    estimate, own = NOTHING, NOTHING
    if arm + USELESS in study.arms:
        values = finished(study, held_out(study, study.main_measure))
        both = paired(arm, arm + USELESS, study.main_scenarios, values)
        if both:
            estimate, own = iqm_gap(*both), aggregate(both[0], "iqm")
    verdict = _judge(
        "Redundancy when one model is useless",
        arm,
        estimate,
        f"{HEADING[study.main_measure]} with one model useless, less that without",
        f"held: loses less than {MARGIN}",
        above=-MARGIN,
    )
    if verdict.outcome == HELD and (own.low is None or own.low <= MARGIN):
        return replace(verdict, outcome=UNDECIDED, how=f"{verdict.how}; it has no more to lose")
    return verdict
