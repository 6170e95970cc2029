"""The results table: one row per policy, every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durotaxis.analysis.load import Row, estimate
from durotaxis.analysis.stats import NOTHING, Estimate, Sample, mean_interval, normalised_return

COLUMNS = (
    ("success_rate", "success rate", 2),
    ("front_progress", "front progress", 2),
    ("episode_return", "return", 2),
    ("normalised_return", "normalised return", 2),
    ("steps_to_success", "steps to success", 1),
)
"""Field of Result, its heading, its decimals."""

NOTE = "Mean [95 % interval] over episodes: Wilson for rates, Student's t for means; - where undefined."


@dataclass(frozen=True)
class Result:
    """What is reported about one policy."""

    policy: str
    success_rate: Estimate
    front_progress: Estimate  # furthest front over goal, 0 to 1
    episode_return: Estimate  # undiscounted
    normalised_return: Estimate  # 0 is the random policy, 1 delete-left
    steps_to_success: Estimate  # over successful episodes alone

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Result:
        """From a record with these six keys, as `dataclasses.asdict` makes it."""
        estimates = {field: Estimate.read(record[field]) for field, _, _ in COLUMNS}
        return cls(policy=record["policy"], **estimates)


def summarise(
    policy: str, episodes: Sequence[Row], random: Sample | None = None, reference: Sample | None = None
) -> Result:
    """The result of a policy's evaluation episodes.

    Args:
        policy: its name.
        episodes: rows with the columns of `evaluations.jsonl`.
        random, reference: returns of the random and of the reference policy on the same scenario; without
            them the normalised return is undefined.
    """
    returns = [float(row["return"]) for row in episodes]
    normalised = NOTHING
    if returns and random is not None and reference is not None:
        normalised = normalised_return(Sample.of(returns), random, reference)
    return Result(
        policy=policy,
        success_rate=estimate(episodes, "success_rate"),
        front_progress=estimate(episodes, "front_progress"),
        episode_return=estimate(episodes, "return"),
        normalised_return=normalised,
        steps_to_success=mean_interval([float(row["length"]) for row in episodes if row["success"]]),
    )


def text_table(results: Sequence[Result]) -> str:
    """Aligned columns for a terminal; ends with a newline."""
    table = _cells(results)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in [*lines, "", NOTE]) + "\n"


def markdown_table(results: Sequence[Result]) -> str:
    """The same as GitHub Markdown; ends with a newline."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in _cells(results)]
    lines.insert(1, "|" + "---|" * (len(COLUMNS) + 1))
    return "\n".join([*lines, "", NOTE]) + "\n"


def _cells(results: Sequence[Result]) -> list[list[str]]:
    table = [["policy", *(heading for _, heading, _ in COLUMNS)]]
    for result in results:
        cells = [_cell(getattr(result, field), decimals) for field, _, decimals in COLUMNS]
        table.append([result.policy, *cells])
    return table


def _cell(value: Estimate, decimals: int) -> str:
    if value.mean is None:
        return "-"
    mean = f"{value.mean:.{decimals}f}"
    if value.low is None or value.high is None:
        return mean
    return f"{mean} [{value.low:.{decimals}f}, {value.high:.{decimals}f}]"
