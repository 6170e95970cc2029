"""What was to be done: arms and scenarios."""

from __future__ import annotations

from collections import Counter

from durotaxis.analysis.study import NoScale, Study
from durotaxis.analysis.study_results.rows import (
    changes_text,
)
from durotaxis.analysis.study_tables import Cell, Column, Table
from durotaxis.records import FAILED, FINISHED


def arms_table(study: Study) -> Table:
    """Arms at a glance."""
    plans = {arm.name: arm for arm in study.plan.arms}
    rows: list[list[Cell]] = []
    for name in study.arms:
        arm = plans[name]
        planned = [run.key for run in study.plan.runs if run.arm == name]
        states = Counter(study.records[key].status for key in planned if key in study.records)
        begins = changes_text(arm.start_from) if arm.start_from else ""
        changes = "; ".join(
            part for part in (changes_text(arm.changes), begins and f"starts from {begins}") if part
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
                changes_text(plan.changes) or "nothing",
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
