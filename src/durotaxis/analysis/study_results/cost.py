"""What arms cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durotaxis.analysis.claims import (
    cost_ratio,
    per_turn,
    time_ratio,
)
from durotaxis.analysis.stats import NOTHING, Estimate, mean_interval
from durotaxis.analysis.study import Study
from durotaxis.analysis.study_tables import Cell, Column, Table
from durotaxis.records import FINISHED, ArmCost, RunRecord


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
