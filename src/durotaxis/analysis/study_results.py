"""The tables of a study's report, each a value that can be written in any form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from durotaxis.analysis.claims import (
    HELD,
    HELPS,
    HURTS,
    MARGIN,
    MET,
    NOT_HELD,
    NOT_MET,
    NOT_TESTED,
    Comparison,
    PerRun,
    Verdict,
    area_ratio,
    compare,
    cost_ratio,
    finished,
    held_out,
    paired,
    per_turn,
    settings_ratio,
    spread_of,
    spread_over_settings,
    steps_ratio,
    subset_difference,
    subsets,
    time_ratio,
    word_of,
)
from durotaxis.analysis.scores import Statistic, aggregate, difference, paired_effect, ratio_of_means
from durotaxis.analysis.stats import NOTHING, Estimate, mean_interval, spread, wilson
from durotaxis.analysis.study import HEADING, OWN, Measure, NoScale, Selection, Study, score_of
from durotaxis.analysis.study_figures import improvement, shares
from durotaxis.analysis.study_tables import Cell, Column, Mark, Table
from durotaxis.records import FAILED, FINISHED, ArmCost, RunRecord

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


def _places(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """The aggregate, where there is more than one scenario to it, and every scenario."""
    each: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in study.scenarios]
    return [(ALL, study.main_scenarios), *each] if len(study.main_scenarios) > 1 else each


def _tasks(values: PerRun, arm: str, scenarios: Sequence[str]) -> list[np.ndarray]:
    """One array per scenario; none at all where one of them has no value."""
    tasks = [np.array(list(values(arm, name).values())) for name in scenarios]
    return tasks if tasks and all(len(task) for task in tasks) else []


def _of(values: PerRun, arm: str, scenarios: Sequence[str], statistic: Statistic) -> Estimate:
    tasks = _tasks(values, arm, scenarios)
    return aggregate(tasks, statistic) if tasks else NOTHING


# The plan


def arms_table(study: Study) -> Table:
    """Arms at a glance."""
    plans = {arm.name: arm for arm in study.plan.arms}
    rows: list[list[Cell]] = []
    for name in study.arms:
        arm = plans[name]
        planned = [run.key for run in study.plan.runs if run.arm == name]
        states = Counter(study.records[key].status for key in planned if key in study.records)
        begins = _changes(arm.start_from) if arm.start_from else ""
        changes = "; ".join(
            part for part in (_changes(arm.changes), begins and f"starts from {begins}") if part
        )
        rows.append(
            [
                name + (" (baseline)" if name == study.plan.baseline != "baseline" else ""),
                arm.description,
                changes or "nothing",
                len(arm.tried),
                len(planned),
                states[FINISHED],
                states[FAILED],
                sum(key not in study.records for key in planned),
            ]
        )
    heads = (
        "arm",
        "what it is",
        "changes",
        "variants tried",
        "runs planned",
        "finished",
        "failed",
        "missing",
    )
    return Table("arms", "Arms", [Column(head) for head in heads], rows, _tried_note(study))


def _tried_note(study: Study) -> str:
    tried = {arm.name: len(arm.tried) for arm in study.plan.arms if arm.name in study.arms}
    if len(set(tried.values())) == 1:
        return f"Variants tried on tuning seeds before: {next(iter(tried.values()))} of every arm."
    each = ", ".join(f"{name} {count}" for name, count in tried.items())
    return f"Variants tried on tuning seeds before are not equal: {each}. The arm with more had more chances."


def _changes(changes: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} = {value}" for key, value in changes.items())


def scenarios_table(study: Study) -> Table:
    """Scenarios and what their returns are measured against."""
    rows: list[list[Cell]] = []
    for name in study.scenarios:
        plan, scale = study.scenario(name), study.scale(name)
        references = plan.references or {}
        ends = [references.get(policy, {}).get("return_mean") for policy in ("random", "delete-left")]
        rows.append(
            [
                name,
                plan.scenario,
                _changes(plan.changes) or "nothing",
                "control" if plan.is_control else ("counts" if name in study.main_scenarios else "beside"),
                *(None if end is None else float(end) for end in ends),
                f"undefined: {scale.reason}"
                if isinstance(scale, NoScale)
                else f"± {100 * scale.error:.1f} %",
            ]
        )
    columns = [
        *(Column(head) for head in ("scenario", "made from", "changes", "role")),
        Column("return of random"),
        Column("return of delete-left"),
        Column("unit of the normalised return"),
    ]
    return Table("scenarios", "Scenarios", columns, rows)


# Results


def results_table(study: Study) -> Table:
    """Final scores of every arm in every scenario, and over those that count."""
    returns = held_out(study, "normalised_return")
    success = held_out(study, "success_rate")
    rows: list[list[Cell]] = [
        [
            place,
            arm,
            sum(len(study.runs(arm, name)) for name in scenarios),
            _of(returns, arm, scenarios, "iqm"),
            _of(returns, arm, scenarios, "mean"),
            _of(returns, arm, scenarios, "median") if len(scenarios) > 1 else None,
            _of(success, arm, scenarios, "mean"),
            _pooled_success(study, arm, scenarios),
        ]
        for place, scenarios in _places(study)
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
    for place, scenarios in _places(study):
        for arm in study.arms:
            reached = [value for name in scenarios for value in study.steps_to_level(arm, name).values()]
            final = _tasks(held_out(study, study.measure(scenarios[0])), arm, scenarios)
            rows.append(
                [
                    place,
                    arm,
                    _of(held_out(study, "front_progress"), arm, scenarios, "mean"),
                    _of(study.areas, arm, scenarios, "mean"),
                    _of(study.steps_below_level, arm, scenarios, "mean"),
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
    for place, scenarios in _places(study):
        for arm in study.others:
            final = held_out(study, _common_measure(study, scenarios))
            both = paired(study.plan.baseline, arm, scenarios, final)
            effect = paired_effect(*both) if both and all(len(task) > 1 for task in both[0]) else None
            rows.append(
                [
                    place,
                    arm,
                    _gap(study, arm, scenarios, final, "iqm"),
                    _gap(study, arm, scenarios, final, "mean"),
                    effect.hedges_g if effect else None,
                    effect.rank_biserial if effect else None,
                    improvement(study, arm, scenarios),
                    _gap(study, arm, scenarios, held_out(study, "success_rate"), "mean"),
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
            _gap(study, arm, scenarios, held_out(study, "front_progress"), "mean"),
            area_ratio(study, arm, scenarios),
            steps_ratio(study, arm, scenarios),
            spread_of(study, arm, scenarios),
        ]
        for place, scenarios in _places(study)
        for arm in study.others
    ]
    columns = [
        Column("scenario"),
        Column("arm"),
        Column("front progress, difference", is_estimate=True, is_signed=True),
        Column("area, ratio", is_estimate=True),
        Column("steps to the baseline's final score, ratio", is_estimate=True),
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
                    _gap(study, arm, part.scenarios, final, "mean"),
                    _gap(study, arm, part.scenarios, success, "mean"),
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
        tasks = _tasks(held_out(study, study.main_measure), arm, study.main_scenarios)
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


def _common_measure(study: Study, scenarios: Sequence[str]) -> Measure:
    return study.main_measure if len(scenarios) > 1 else study.measure(scenarios[0])


def _gap(study: Study, arm: str, scenarios: Sequence[str], values: PerRun, statistic: Statistic) -> Estimate:
    return compare(study, arm, scenarios, values, lambda a, b: difference(a, b, statistic))


def helps_table(study: Study, effects: Sequence[Comparison]) -> Table:
    """Where an arm helps, is neutral or hurts."""
    has_conditions = bool(study.plan.conditions)
    rows: list[list[Cell]] = []
    for effect in effects:
        base = _of(_under(study, effect), study.plan.baseline, [effect.scenario], "mean")
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
        f"neutral: the whole 95 % interval of the difference is within ±{MARGIN}, clear of 0 or not; else helps: "
        f"it is above 0; hurts: below 0; undecided otherwise. No interval is corrected for the number of rows ({len(rows)})."
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
        for place, scenarios in _places(study)
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


# Beyond the main comparison


def deterministic_table(study: Study) -> Table | None:
    """Scores with the most likely actions, beside those with sampled ones."""
    where = Selection(deterministic=True)
    rows: list[list[Cell]] = []
    for name in study.scenarios:
        measure = study.measure(name)
        for arm in study.arms:
            mode = _of(held_out(study, measure, where), arm, [name], "mean")
            if mode.mean is not None:
                rows.append(
                    [name, arm, _of(held_out(study, measure), arm, [name], "mean"), mode, HEADING[measure]]
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
    for place, scenarios in _places(study):
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
        "equal attention (uniform); change against no intervention, mean over runs that finished, 95 % "
        f"interval over seeds. unchanged: wholly within ±{MARGIN}, the agent does not need what was taken; else "
        "loses: wholly below 0; gains: above."
    )
    return Table("interventions", "Interventions at evaluation", columns, rows, note) if rows else None


def _drop(study: Study, arm: str, scenarios: Sequence[str], where: Selection) -> Estimate:
    """Change of scores by an intervention; failed runs have no agent to tamper with."""
    measure = _common_measure(study, scenarios)

    def values(kind: str, name: str) -> Mapping[int, float]:
        return finished(study, held_out(study, measure, where if kind == "tampered" else OWN))(arm, name)

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
                own = _of(held_out(study, measure, where), arm, [name], "mean")
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
            means = {n: task[0].mean() for n in names if (task := _tasks(values, arm, [n]))}
            if not means:
                continue
            worst, best = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            rows.append(
                [
                    base,
                    arm,
                    len(means),
                    _of(values, arm, [worst], "mean"),
                    worst,
                    _of(values, arm, [best], "mean"),
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


# Attention and cost


def attention_table(study: Study) -> Table | None:
    """Attention at the end of training: all colonies, and by phase."""
    rows: list[list[Cell]] = []
    for arm in study.arms:
        found = shares(study, arm)
        if found is None:
            continue
        names, _, weight, effective = found
        rows.append(
            [
                arm,
                "all, at the end",
                *_model_cells(study, names, weight[:, -1]),
                mean_interval(effective[:, -1].tolist()),
            ]
        )
        for phase, means in _phases(study, arm, names).items():
            rows.append([arm, phase, *_model_cells(study, names, means), None])
    columns = [
        Column("arm"),
        Column("colonies"),
        *(Column(name, is_estimate=True) for name in _model_names(study)),
        Column("effective number of models", is_estimate=True),
    ]
    note = (
        "Mean and 95 % interval over finished runs of all scenarios; phases over the last tenth of training."
    )
    return Table("attention", "Shares at the end", columns, rows, note) if rows else None


def _model_names(study: Study) -> list[str]:
    return list(dict.fromkeys(n for arm in study.arms if (found := shares(study, arm)) for n in found[0]))


def _model_cells(study: Study, names: Sequence[str], values: np.ndarray) -> list[Cell]:
    """Means over runs [runs,K], in the columns of all models that any arm has."""
    own = {name: mean_interval(values[:, index].tolist()) for index, name in enumerate(names)}
    return [own.get(name) for name in _model_names(study)]


def _phases(study: Study, arm: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    rows: dict[str, list[Sequence[float]]] = {}
    for scenario in study.scenarios:
        for run in study.runs(arm, scenario):
            if run.status == FINISHED and run.attention and list(run.attention["names"]) == list(names):
                for phase, means in run.attention["phases"].items():
                    if means:
                        rows.setdefault(phase, []).append(means)
    return {phase: np.array(means, dtype=float) for phase, means in rows.items()}


def cost_table(study: Study) -> Table | None:
    """Costs of all arms in one process, by turns."""
    if study.cost is None:
        return None
    rows: list[list[Cell]] = []
    known = study.cost.arms
    base = known.get(study.plan.baseline)
    for arm in study.arms:
        if arm not in known:
            continue
        own = known[arm]
        is_base = arm == study.plan.baseline
        step = [1e3 * seconds / study.cost.steps_per_rollout for seconds in per_turn(own)]
        rows.append(
            [
                arm,
                mean_interval([1e3 * seconds for seconds in own.forward_s]),
                NOTHING if is_base else cost_ratio(study, arm, lambda cost: cost.forward_s),
                mean_interval(step),
                NOTHING if is_base else time_ratio(study, arm),
                own.num_parameters,
                own.num_parameters / base.num_parameters if base and not is_base else None,
                own.num_trainable,
                float(own.peak_memory_mb),
                own.peak_memory_mb / base.peak_memory_mb
                if base and base.peak_memory_mb and not is_base
                else None,
                float(study.cost.num_nodes[arm]) if arm in study.cost.num_nodes else None,
            ]
        )
    columns = [
        Column("arm"),
        Column("forward, ms", is_estimate=True),
        Column("forward, ratio", is_estimate=True),
        Column("training step, ms", 3, is_estimate=True),
        Column("training step, ratio", is_estimate=True),
        Column("parameters"),
        Column("parameters, ratio"),
        Column("trainable"),
        Column("peak memory, MB", 0),
        Column("memory, ratio"),
        Column("nodes per colony", 1),
    ]
    cost = study.cost
    note = (
        f"{cost.machine}, {cost.device}, {cost.threads} thread{'s' if cost.threads != 1 else ''}, "
        f"{cost.date}, {cost.scenario}, {cost.colonies} colonies, rollouts of {cost.steps_per_rollout:,} "
        f"steps; {_turns(cost.arms)} turns in one process, ratios paired by turn."
    )
    return Table("cost", "Cost, measured in one process", columns, rows, note)


def _turns(arms: Mapping[str, ArmCost]) -> str:
    return " or ".join(str(count) for count in sorted({len(arm.forward_s) for arm in arms.values()}))


def speeds_table(study: Study) -> Table:
    """What the runs themselves recorded of their cost."""
    rows: list[list[Cell]] = []
    for arm in study.arms:
        runs = [run for name in study.scenarios for run in study.runs(arm, name) if run.status == FINISHED]

        def of(key: str, runs: Sequence[Any] = tuple(runs), unit: float = 1.0) -> Estimate:
            return mean_interval([run.cost[key] * unit for run in runs if run.cost.get(key) is not None])

        rows.append(
            [
                arm,
                len(runs),
                of("steps_per_s"),
                of("elapsed_s", unit=1 / 60),
                of("host_memory_mb"),
                _parameters(runs),
            ]
        )
    columns = [
        Column("arm"),
        Column("finished runs"),
        Column("steps per second", 0, is_estimate=True),
        Column("minutes per run", 1, is_estimate=True),
        Column("host memory, MB", 0, is_estimate=True),
        Column("parameters"),
    ]
    note = "Taken under whatever else the machines were doing: no ratio is made of these."
    return Table("speeds", "Cost as the runs recorded it", columns, rows, note)


def _parameters(runs: Sequence[RunRecord]) -> Cell:
    """The count that all runs have in common, or the range."""
    counts = sorted({int(run.cost["num_parameters"]) for run in runs if run.cost.get("num_parameters")})
    if not counts:
        return None
    return counts[0] if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


# Reproducibility


def runs_table(study: Study) -> Table:
    """Every run and where it comes from."""
    rows: list[list[Cell]] = []
    for run in study.plan.runs:
        record = study.records.get(run.key)
        if record is None:
            rows.append(
                [
                    run.arm,
                    run.scenario,
                    str(run.seed),
                    Mark("missing", "bad"),
                    *[None] * 3,
                    run.config,
                    *[None] * 8,
                ]
            )
            continue
        score, of = score_of(record), record.provenance
        rows.append(
            [
                run.arm,
                run.scenario,
                str(run.seed),
                mark_status(record.status),
                record.attempts,
                None if score is None else score.return_mean,
                None if score is None else f"{score.successes}/{score.episodes}",
                record.config,
                commit_of(of),
                str((of.get("versions") or {}).get("torch") or "unknown"),
                f"{of.get('device', 'unknown')} ({of.get('device_name', 'unknown')})",
                str(of.get("threads", "unknown")),
                frozen_of(of),
                record.cost.get("elapsed_s"),
                ", ".join(f"{name} {count}" for name, count in record.warnings.items()) or "none",
                record.error or "none",
            ]
        )
    columns = [
        *(Column(head) for head in ("arm", "scenario", "seed", "status", "attempts")),
        Column("return"),
        *(
            Column(head)
            for head in (
                "successes",
                "configuration",
                "commit",
                "torch",
                "device",
                "threads",
                "frozen models",
            )
        ),
        Column("seconds", 0),
        Column("warnings"),
        Column("error"),
    ]
    note = "Frozen models: first 12 hex digits of the hash of their parameters and buffers, after training."
    return Table("runs", "Every run", columns, rows, note)


def mark_status(status: str) -> Mark:
    """Finished or failed, in its colour."""
    return Mark(status, "good" if status == FINISHED else "bad")


def commit_of(provenance: Mapping[str, Any]) -> str:
    """The commit of a record, and whether the source had been changed since."""
    commit = provenance.get("commit")
    return "unknown" if not commit else f"{commit[:10]}{' (modified)' if provenance.get('modified') else ''}"


def frozen_of(provenance: Mapping[str, Any]) -> str:
    """The hash of frozen models; of each model's weights where that alone is known."""
    if provenance.get("frozen_hash"):
        return str(provenance["frozen_hash"])[:12]
    hashes = [
        f"{ptm.get('name')} {str(ptm['sha256'])[:12]}"
        for ptm in provenance.get("ptms") or ()
        if ptm.get("sha256")
    ]
    return ", ".join(hashes) or "none"


def differing(study: Study, what: Callable[[Any], str]) -> Counter[str]:
    """Values of something over all records: value -> runs."""
    return Counter(what(record) for record in study.records.values())
