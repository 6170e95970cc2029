"""Running sums of the episodes in progress, and the rows they leave when they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.struct import Struct
from durotaxis.ppo.protocols import StepResult, World

SUCCESS = "success"


@dataclass(frozen=True)
class Tally(Struct):
    """Sums since the start of each slot's episode."""

    total: Tensor  # [B] float64, rewards
    length: Tensor  # [B] int64, steps
    terms: dict[str, Tensor]  # {name: [B] float64}

    @classmethod
    def zeros(cls, num_colonies: int, device: torch.device) -> Tally:
        """Nothing yet; the terms' names are learned from the first step."""
        total = torch.zeros(num_colonies, dtype=torch.float64, device=device)
        return cls(total, torch.zeros(num_colonies, dtype=torch.int64, device=device), {})

    def add(self, result: StepResult) -> Tally:
        """With one more step."""
        terms = {
            name: self.terms.get(name, torch.zeros_like(self.total)) + term.double()
            for name, term in result.terms.items()
        }
        return Tally(self.total + result.reward.double(), self.length + 1, terms)

    def clear(self, mask: Tensor) -> Tally:
        """Zero where `mask` [B]."""
        return Tally.where(mask, self.map(torch.zeros_like), self)


def finished_rows(world: World, tally: Tally, reason: Tensor, slots: Tensor) -> list[dict[str, Any]]:
    """One row per episode that ended in `slots` (int64 indices); see `_EPISODE` in records.

    With `stage`, an index, where the world has stages. Call it before the reset: `World.summary` still tells
    of the finished episodes.
    """
    sums, numbers = tally[slots], world.summary()
    summary = {key: value[slots].tolist() for key, value in numbers.items() if key not in ("phase", "stage")}
    columns: Mapping[str, list[Any]] = {
        "return": sums.total.tolist(),
        "length": sums.length.tolist(),
        "reason": [world.reason_names[index] for index in reason[slots].tolist()],
        **{f"term/{name}": values.tolist() for name, values in sums.terms.items()},
        **{f"final/{name}": values for name, values in summary.items()},
        **({"stage": numbers["stage"][slots].tolist()} if "stage" in numbers else {}),
    }
    rows = [{key: values[i] for key, values in columns.items()} for i in range(len(slots))]
    return [{**row, "success": row["reason"] == SUCCESS} for row in rows]


def mean_of(rows: list[dict[str, Any]], key: str) -> float | None:
    """Mean of one column; None without rows."""
    return sum(float(row[key]) for row in rows) / len(rows) if rows else None
