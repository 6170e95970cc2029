"""Which models attention went to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from durotaxis.analysis.stats import mean_interval
from durotaxis.analysis.study import Study
from durotaxis.analysis.study_figures import shares
from durotaxis.analysis.study_tables import Cell, Column, Table
from durotaxis.records import FINISHED


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
