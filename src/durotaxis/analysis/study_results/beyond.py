"""Beyond the main comparison: other actions, interventions, worlds and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from durotaxis.analysis.claims import HELPS, HURTS, MARGIN, word_of
from durotaxis.analysis.pairs import compare, finished, held_out, paired
from durotaxis.analysis.scores import difference
from durotaxis.analysis.spreads import settings_ratio, spread_over_settings
from durotaxis.analysis.stats import NOTHING, Estimate, mean_interval
from durotaxis.analysis.study import HEADING, Measure, NoScale, Selection, Study, score_of
from durotaxis.analysis.study_results.rows import (
    aggregate_of,
    common_measure,
    mark,
    places_of,
    tasks_of,
)
from durotaxis.analysis.study_tables import Cell, Column, Table


def deterministic_table(study: Study) -> Table | None:
    """Scores with the most likely actions, beside those with sampled ones."""
    where = Selection(deterministic=True)
    rows: list[list[Cell]] = []
    for name in study.scenarios:
        measure = study.measure(name)
        for arm in study.arms:
            mode = aggregate_of(held_out(study, measure, where), arm, [name], "mean")
            if mode.mean is not None:
                rows.append(
                    [
                        name,
                        arm,
                        aggregate_of(held_out(study, measure), arm, [name], "mean"),
                        mode,
                        HEADING[measure],
                    ]
                )
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("sampled", is_estimate=True),
        Column("deterministic", is_estimate=True),
        Column("score"),
    ]
    return Table("deterministic", "Sampled and deterministic actions", columns, rows) if rows else None


def interventions_table(study: Study) -> Table | None:
    """What tampering with the representation at evaluation costs trained agents."""
    rows: list[list[Cell]] = []
    for place, scenarios in places_of(study):
        for arm in study.arms:
            for intervention in study.plan.interventions:
                gap = _drop(study, arm, scenarios, Selection(intervention=intervention))
                if gap.mean is not None:
                    rows.append([place, arm, intervention, gap, mark(_needed(gap))])
    columns = [
        *(Column(head) for head in ("scenario", "arm", "intervention")),
        Column("change in final score", is_estimate=True, is_signed=True),
        Column("verdict"),
    ]
    note = (
        "The same trained agents, judged again with R zeroed (zero), R of another colony (shuffled) or "
        "equal attention (uniform); change against none of these over the same episodes, mean over runs that "
        f"finished, 95 % interval over seeds. unchanged: wholly within ±{MARGIN}, the agent does not need "
        "what was taken; else loses: wholly below 0; gains: above."
    )
    return Table("interventions", "Interventions at evaluation", columns, rows, note) if rows else None


def _drop(study: Study, arm: str, scenarios: Sequence[str], where: Selection) -> Estimate:
    """Change of scores by an intervention, over the same episodes; failed runs have no agent to tamper with.

    Nothing where the agents were not judged over these episodes without it.
    """
    measure = common_measure(study, scenarios)
    runs = [run for name in scenarios for run in study.runs(arm, name)]
    counts = {score.episodes for run in runs if (score := score_of(run, where)) is not None}
    if len(counts) != 1:
        return NOTHING
    untouched = Selection(episodes=counts.pop())

    def values(kind: str, name: str) -> Mapping[int, float]:
        scores = held_out(study, measure, where if kind == "tampered" else untouched)
        return finished(study, scores)(arm, name)

    both = paired("whole", "tampered", scenarios, values)
    return difference(*both, "mean") if both else NOTHING


def _needed(gap: Estimate) -> str:
    return {HELPS: "gains", HURTS: "loses", "neutral": "unchanged"}.get(word_of(gap), "undecided")


def transfer_table(study: Study) -> Table | None:
    """Agents judged in other worlds than their own, without more training."""
    worlds = list(study.plan.evaluated_in)
    rows: list[list[Cell]] = []
    for name in study.scenarios:
        for world in worlds:
            where = Selection(scenario=world)
            measure = _measure_in(study, world)
            for arm in study.arms:
                own = aggregate_of(held_out(study, measure, where), arm, [name], "mean")
                if own.mean is None:
                    continue
                gap = NOTHING
                if arm in study.others:
                    gap = compare(
                        study,
                        arm,
                        [name],
                        held_out(study, measure, where),
                        lambda a, b: difference(a, b, "mean"),
                    )
                rows.append([name, world, arm, own, gap, HEADING[measure]])
    columns = [
        *(Column(head) for head in ("trained in", "judged in", "arm")),
        Column("score", is_estimate=True),
        Column(f"difference to {study.plan.baseline}", is_estimate=True, is_signed=True),
        Column("what"),
    ]
    return Table("transfer", "Judged elsewhere, without more training", columns, rows) if rows else None


def _measure_in(study: Study, world: str) -> Measure:
    return "success_rate" if isinstance(study.scale(world), NoScale) else "normalised_return"


def settings_table(study: Study) -> Table | None:
    """How much scores depend on settings."""
    rows: list[list[Cell]] = []
    for base, names in study.settings().items():
        if len({study.measure(name) for name in names}) > 1:
            continue
        for arm in study.arms:
            values = held_out(study, study.measure(names[0]))
            means = {n: task[0].mean() for n in names if (task := tasks_of(values, arm, [n]))}
            if not means:
                continue
            worst, best = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            rows.append(
                [
                    base,
                    arm,
                    len(means),
                    aggregate_of(values, arm, [worst], "mean"),
                    worst,
                    aggregate_of(values, arm, [best], "mean"),
                    best,
                    mean_interval(list(spread_over_settings(study, arm, names).values())),
                    settings_ratio(study, arm, {base: names}) if arm in study.others else NOTHING,
                ]
            )
    columns = [
        *(Column(head) for head in ("scenario", "arm", "settings")),
        Column("worst", is_estimate=True),
        Column("which is worst"),
        Column("best", is_estimate=True),
        Column("which is best"),
        Column("spread over settings", 3, is_estimate=True),
        Column("ratio to the baseline", is_estimate=True),
    ]
    note = (
        "Spread: standard deviation of one seed's final scores over settings, mean over seeds. It holds the "
        "scatter of single runs too. Worst and best were chosen by the same runs that are shown."
    )
    return Table("settings", "Scores over settings", columns, rows, note) if rows else None
