"""What is judged: where arms help, the goal, the claims."""

from __future__ import annotations

from collections.abc import Sequence

from durotaxis.analysis.claims import MARGIN, Comparison, Verdict
from durotaxis.analysis.pairs import PerRun, held_out
from durotaxis.analysis.stats import Estimate
from durotaxis.analysis.study import HEADING, Selection, Study
from durotaxis.analysis.study_figures import improvement
from durotaxis.analysis.study_results.rows import (
    aggregate_of,
    mark,
    places_of,
)
from durotaxis.analysis.study_tables import Cell, Column, Table


def helps_table(study: Study, effects: Sequence[Comparison]) -> Table:
    """Where an arm helps, is neutral or hurts."""
    has_conditions = bool(study.plan.conditions)
    rows: list[list[Cell]] = []
    for effect in effects:
        base = aggregate_of(_under(study, effect), study.plan.baseline, [effect.scenario], "mean")
        rows.append(
            [
                effect.scenario,
                *([effect.condition] if has_conditions else []),
                effect.arm,
                mark(effect.word),
                base,
                effect.difference,
                *([effect.finished] if study.failed else []),
                effect.success,
                HEADING[effect.measure],
            ]
        )
    columns = [
        Column("scenario"),
        *([Column("judged in")] if has_conditions else []),
        Column("arm"),
        Column("verdict"),
        Column(f"{study.plan.baseline}", is_estimate=True),
        Column("difference in score", is_estimate=True, is_signed=True),
        *([Column("without failed runs", is_estimate=True, is_signed=True)] if study.failed else []),
        Column("difference in success rate", is_estimate=True, is_signed=True),
        Column("score"),
    ]
    note = (
        f"neutral: the whole 95 % interval of the difference is within ±{MARGIN}, clear of 0 or not; else "
        "helps: it is above 0; hurts: below 0; undecided otherwise. No interval is corrected for the number "
        f"of rows ({len(rows)})."
    )
    if study.failed:
        note += (
            " The verdict counts failed runs; a run that failed by a machine's fault says nothing of its arm."
        )
    if has_conditions:
        note += " Returns under a condition are in the unit of the world as it was trained in."
    return Table("helps", f"Arms against {study.plan.baseline}", columns, rows, note)


def _under(study: Study, effect: Comparison) -> PerRun:
    return held_out(study, effect.measure, Selection(condition=effect.condition))


def improvement_rows(study: Study) -> list[tuple[str, str, Estimate]]:
    """(arm, place, probability of improvement)."""
    return [
        (arm, place, improvement(study, arm, scenarios))
        for place, scenarios in places_of(study)
        for arm in study.others
    ]


def goals_table(verdicts: Sequence[Verdict]) -> Table:
    """The goal's conditions."""
    rows: list[list[Cell]] = [
        [
            verdict.claim,
            verdict.arm,
            mark(verdict.outcome),
            verdict.estimate,
            None if verdict.beyond is None else ("yes" if verdict.beyond else "no"),
            verdict.measured,
        ]
        for verdict in verdicts
    ]
    columns = [
        *(Column(head) for head in ("condition", "arm", "verdict")),
        Column("measured", is_estimate=True),
        Column("whole interval at the target"),
        Column("what was measured"),
    ]
    note = (
        "Met: the estimate is at the target and its whole 95 % interval clear of no effect (of the limit, "
        "for time). Not met: the whole interval falls short of the target. Undecided otherwise. The second "
        "condition stands in for the first. No interval is corrected for the number of arms or conditions."
    )
    return Table("goal", "Conditions of the goal", columns, rows, note)


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """The guide's claims."""
    rows: list[list[Cell]] = [
        [v.claim, v.arm, mark(v.outcome), v.estimate, v.measured, v.how] for v in verdicts
    ]
    columns = [
        *(Column(head) for head in ("claim", "arm", "verdict")),
        Column("measured", is_estimate=True),
        Column("what was measured"),
        Column("how it was judged"),
    ]
    note = (
        "Held: the whole 95 % interval lies on the claim's side; not held: the whole interval lies on the "
        f"other; undecided otherwise; none corrected for the number of rows ({len(rows)}). Shares and "
        "ratios, no percent: 0.10 is 10 %. A spread over settings can be small because an arm fails in all "
        "of them."
    )
    return Table("claims", "Claims, held or not", columns, rows, note)
