"""Final scores and learning, of every arm and against the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from durotaxis.analysis.claims import area_ratio, steps_ratio, subset_difference, subsets, word_of
from durotaxis.analysis.pairs import compare, held_out, paired
from durotaxis.analysis.scores import paired_effect, ratio_of_means
from durotaxis.analysis.spreads import spread_of
from durotaxis.analysis.stats import NOTHING, Estimate, spread, wilson
from durotaxis.analysis.study import HEADING, Study, score_of
from durotaxis.analysis.study_figures import improvement
from durotaxis.analysis.study_results.rows import (
    aggregate_of,
    common_measure,
    gap_of,
    mark,
    places_of,
    tasks_of,
)
from durotaxis.analysis.study_tables import Cell, Column, Table
from durotaxis.records import FAILED


def results_table(study: Study) -> Table:
    """Final scores of every arm in every scenario, and over those that count."""
    returns = held_out(study, "normalised_return")
    success = held_out(study, "success_rate")
    rows: list[list[Cell]] = [
        [
            place,
            arm,
            sum(len(study.runs(arm, name)) for name in scenarios),
            aggregate_of(returns, arm, scenarios, "iqm"),
            aggregate_of(returns, arm, scenarios, "mean"),
            aggregate_of(returns, arm, scenarios, "median") if len(scenarios) > 1 else None,
            aggregate_of(success, arm, scenarios, "mean"),
            _pooled_success(study, arm, scenarios),
        ]
        for place, scenarios in places_of(study)
        for arm in study.arms
    ]
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("runs"),
        Column("normalised return, IQM", is_estimate=True),
        Column("its mean", is_estimate=True),
        Column("its median", is_estimate=True),
        Column("success rate, over seeds", is_estimate=True),
        Column("success rate, over episodes", is_estimate=True),
    ]
    note = (
        "95 % intervals over seeds: the unit is the run. Only 'over episodes' (Wilson) takes episodes as "
        "independent; it is too short for a claim about arms. The median is over scenarios. Failed runs "
        "count as random."
    )
    return Table("results", "Final scores", columns, rows, note)


def learning_table(study: Study) -> Table:
    """How fast every arm learns, how far the front gets, and how much runs differ."""
    rows: list[list[Cell]] = []
    for place, scenarios in places_of(study):
        for arm in study.arms:
            reached = [value for name in scenarios for value in study.steps_to_level(arm, name).values()]
            final = tasks_of(held_out(study, study.measure(scenarios[0])), arm, scenarios)
            rows.append(
                [
                    place,
                    arm,
                    aggregate_of(held_out(study, "front_progress"), arm, scenarios, "mean"),
                    aggregate_of(study.areas, arm, scenarios, "mean"),
                    aggregate_of(study.steps_below_level, arm, scenarios, "mean"),
                    f"{sum(value is None for value in reached)} of {len(reached)}" if reached else None,
                    spread(final[0]) if len(final) == 1 else None,
                ]
            )
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("front progress", is_estimate=True),
        Column("area under the curve", is_estimate=True),
        Column("steps to the baseline's final score", 0, is_estimate=True),
        Column("never reached it"),
        Column("spread of final scores over seeds", 3, is_estimate=True),
    ]
    note = "95 % intervals over seeds. A run that never got there counts with all its steps."
    return Table("learning", "Learning and spread", columns, rows, note)


def _pooled_success(study: Study, arm: str, scenarios: Sequence[str]) -> Estimate:
    if not all(study.runs(arm, name) for name in scenarios):
        return NOTHING  # else arms with other scenarios would stand side by side
    successes = count = 0
    for name in scenarios:
        for run in study.runs(arm, name):
            score = None if run.status == FAILED else score_of(run)
            successes += score.successes if score else 0
            count += score.episodes if score else study.plan.episodes
    return wilson(successes, count)


def differences_table(study: Study) -> Table:
    """Final scores of every arm less the baseline's, paired by seed."""
    rows: list[list[Cell]] = []
    for place, scenarios in places_of(study):
        for arm in study.others:
            final = held_out(study, common_measure(study, scenarios))
            both = paired(study.plan.baseline, arm, scenarios, final)
            effect = paired_effect(*both) if both and all(len(task) > 1 for task in both[0]) else None
            rows.append(
                [
                    place,
                    arm,
                    gap_of(study, arm, scenarios, final, "iqm"),
                    gap_of(study, arm, scenarios, final, "mean"),
                    effect.hedges_g if effect else None,
                    effect.rank_biserial if effect else None,
                    improvement(study, arm, scenarios),
                    gap_of(study, arm, scenarios, held_out(study, "success_rate"), "mean"),
                ]
            )
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("final score, IQM", is_estimate=True, is_signed=True),
        Column("its mean", is_estimate=True, is_signed=True),
        Column("Hedges' g"),
        Column("rank-biserial"),
        Column("P(better)", is_estimate=True),
        Column("success rate", is_estimate=True, is_signed=True),
    ]
    other = [name for name in study.scenarios if study.measure(name) != study.main_measure]
    note = (
        f"Arm less {study.plan.baseline} at seeds that both have; 95 % intervals over seeds, none corrected "
        f"for the number of rows ({len(rows)}). The final score is the "
        f"{HEADING[study.main_measure]}{'; the success rate in ' + ', '.join(other) if other else ''}."
    )
    return Table("differences", f"Final scores, difference to {study.plan.baseline}", columns, rows, note)


def ratios_table(study: Study) -> Table:
    """Learning and spread of every arm over the baseline's."""
    rows: list[list[Cell]] = [
        [
            place,
            arm,
            gap_of(study, arm, scenarios, held_out(study, "front_progress"), "mean"),
            area_ratio(study, arm, scenarios),
            steps_ratio(study, arm, scenarios),
            steps_ratio(study, arm, scenarios, to_stay=True),
            spread_of(study, arm, scenarios),
        ]
        for place, scenarios in places_of(study)
        for arm in study.others
    ]
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("front progress, difference", is_estimate=True, is_signed=True),
        Column("area, ratio", is_estimate=True),
        Column("steps to the baseline's final score, ratio", is_estimate=True),
        Column("the same, to stay there", is_estimate=True),
        Column("spread over seeds, ratio", is_estimate=True),
    ]
    note = "95 % intervals over seeds. No ratio is given where the baseline's number may be 0 or less."
    return Table("ratios", f"Learning and spread, against {study.plan.baseline}", columns, rows, note)


def subsets_table(study: Study) -> Table | None:
    """The aggregate again, of parts of the runs: does one scenario, or a failed run, carry it?"""
    parts = subsets(study)
    rows: list[list[Cell]] = []
    for arm in study.others:
        for part in parts:
            final, success = (
                part.of(study, held_out(study, measure)) for measure in (study.main_measure, "success_rate")
            )
            gap = subset_difference(study, arm, part)
            rows.append(
                [
                    arm,
                    part.name,
                    mark(word_of(gap)),
                    gap,
                    gap_of(study, arm, part.scenarios, final, "mean"),
                    gap_of(study, arm, part.scenarios, success, "mean"),
                    compare(study, arm, part.scenarios, part.of(study, study.areas), ratio_of_means),
                ]
            )
    columns = [
        *(Column(head) for head in ("arm", "all that count", "verdict")),
        Column("final score, IQM", is_estimate=True, is_signed=True),
        Column("its mean", is_estimate=True, is_signed=True),
        Column("success rate", is_estimate=True, is_signed=True),
        Column("area, ratio", is_estimate=True),
    ]
    note = (
        f"Differences to {study.plan.baseline} and their verdict as above, by the IQM. A failed run is left "
        "out with its pair; so that an arm is not rewarded for failing, this is not the result."
    )
    return Table("subsets", "What the aggregate rests on", columns, rows, note) if rows else None


def middle_table(study: Study) -> Table | None:
    """How many runs of each scenario the IQM over all of them keeps."""
    if len(study.main_scenarios) < 2:
        return None
    rows: list[list[Cell]] = []
    for arm in study.arms:
        tasks = tasks_of(held_out(study, study.main_measure), arm, study.main_scenarios)
        if not tasks:
            continue
        of = np.repeat(np.arange(len(tasks)), [len(task) for task in tasks])
        order = np.argsort(np.concatenate(tasks), kind="stable")
        kept = np.bincount(of[order[len(of) // 4 : len(of) - len(of) // 4]], minlength=len(tasks))
        rows.append([arm, *(f"{n} of {len(task)}" for n, task in zip(kept, tasks, strict=True))])
    columns = [Column("arm"), *(Column(name) for name in study.main_scenarios)]
    note = (
        f"The IQM leaves out the lowest and the highest quarter of an arm's runs, whichever scenario they "
        f"are of: by {HEADING[study.main_measure]}, scenarios with high or low scores count less in it."
    )
    return Table("middle", "Runs that the IQM keeps", columns, rows, note) if rows else None
