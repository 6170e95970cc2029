"""What factors add, where arms are crossed."""

from __future__ import annotations

from durotaxis.analysis.claims import HELPS, HURTS, MARGIN, NEUTRAL, word_of
from durotaxis.analysis.factors import Contrast, contrasts, effect_of
from durotaxis.analysis.pairs import held_out
from durotaxis.analysis.stats import Estimate
from durotaxis.analysis.study import Study
from durotaxis.analysis.study_results.rows import common_measure, mark, places_of
from durotaxis.analysis.study_tables import Cell, Column, Mark, Table

TOGETHER = {HELPS: "reinforce", HURTS: "interfere", NEUTRAL: "add up"}


def factors_table(study: Study) -> Table | None:
    """What each factor adds where arms are crossed, and whether two of them add up."""
    rows: list[list[Cell]] = []
    for place, scenarios in places_of(study):
        measure = common_measure(study, scenarios)
        for contrast in contrasts(study.plan.arms):
            gap = effect_of(contrast, scenarios, held_out(study, measure))
            if gap.mean is None:
                continue
            rows.append(
                [
                    place,
                    contrast.name,
                    factor_word(contrast, gap),
                    gap,
                    effect_of(contrast, scenarios, held_out(study, "success_rate")),
                    effect_of(contrast, scenarios, study.areas),
                ]
            )
    columns = [
        *(Column(head) for head in ("scenario", "factor", "verdict")),
        Column("final score", is_estimate=True, is_signed=True),
        Column("success rate", is_estimate=True, is_signed=True),
        Column("area under the curve", is_estimate=True, is_signed=True),
    ]
    note = (
        "Means over the arms with one level less means over those with the other, within each seed; 95 % "
        f"intervals over seeds, none corrected for the number of rows ({len(rows)}). 'a x b': what a adds "
        "together with b, less what it adds without: reinforce where that is above 0, interfere where below, "
        f"add up within ±{MARGIN}. Intervals of pairs are twice as wide as those of single factors, or more."
    )
    return Table("factors", "Factors", columns, rows, note) if rows else None


def factor_word(contrast: Contrast, gap: Estimate) -> Mark:
    """The verdict on a factor, or on two of them together."""
    word = word_of(gap)
    return mark(TOGETHER.get(word, word) if contrast.is_interaction else word)
