"""Every run and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from durotaxis.analysis.study import Study, score_of
from durotaxis.analysis.study_tables import Cell, Column, Mark, Table
from durotaxis.records import FINISHED


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
