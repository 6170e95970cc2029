"""What a search draws from: keys of a configuration, each with a range or choices, as a file names them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from durotaxis.core.config import Config, ConfigError, KeyedError, build_config
from durotaxis.core.marks import MarkedError, read_file

SECTIONS = ("encoder", "actor_critic", "ppo")
"""What may be searched over: the world, the budget and the seed are the study's."""


class Range(Config):
    """Numbers from `low` to `high`, both included; whole numbers where both are written as whole numbers."""

    low: int | float
    high: int | float
    log: bool = False  # drawn evenly in the logarithm
    step: int | float | None = Field(default=None, gt=0)  # only low, low + step, ...

    @property
    def is_whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _fits(self) -> Range:
        if not self.low < self.high:
            raise KeyedError("low", f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise KeyedError("low", "must be above 0 where `log` is true")
        if self.log and self.step is not None:
            raise KeyedError("step", "`log` and `step` exclude each other; remove one")
        if self.step is not None and self.is_whole and not isinstance(self.step, int):
            raise KeyedError("step", "must be a whole number between whole numbers; write low as 1.0, say")
        if self.step is not None:
            low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
            if (high - low) % step:
                raise KeyedError("step", f"high - low ({high - low}) must be a multiple of step")
        return self

    def probes(self) -> tuple[int | float, ...]:
        """Values that a configuration is tried with before the search."""
        return (self.low, self.high)


class Choices(Config):
    """One of several values of any kind; in a file simply their list."""

    values: tuple[Any, ...] = Field(min_length=2)

    @field_validator("values")
    @classmethod
    def _differ(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        texts = [text_of(each) for each in value]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice")
        return value

    def probes(self) -> tuple[Any, ...]:
        """Values that a configuration is tried with before the search."""
        return self.values


@dataclass(frozen=True)
class Space:
    """What is searched: dotted key of a configuration -> a range, or choices."""

    entries: Mapping[str, Range | Choices]

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {
            key: list(entry.values) if isinstance(entry, Choices) else entry.model_dump(exclude_defaults=True)
            for key, entry in self.entries.items()
        }


def read_space(path: Path) -> Space:
    """Read a space file: `dotted.key: {low, high, log, step}`, or `dotted.key: [choices]`.

    Raises:
        ConfigError: what is wrong with it.
    """
    try:
        document = read_file(path)
    except MarkedError as error:
        raise ConfigError([str(error)]) from None
    entries: dict[str, Range | Choices] = {}
    lines = []
    for key, value in document.values.items():
        place = f"{document.place((key,))}: {key}"
        if key.split(".")[0] not in SECTIONS or "." not in key:
            known = ", ".join(SECTIONS)
            lines.append(
                f"{place}: only keys of {known} can be searched; world, steps and seeds are the study's"
            )
        elif inside := [other for other in document.values if other.startswith(f"{key}.")]:
            lines.append(f"{place}: holds {inside[0]}; search one of the two")
        elif not isinstance(value, (Mapping, list)):
            lines.append(f"{place}: give a range, such as {{low: 1, high: 8}}, or a list of choices")
        else:
            try:
                if isinstance(value, list):
                    entries[key] = build_config(Choices, {"values": value}, place)
                else:
                    entries[key] = build_config(Range, value, place)
            except ConfigError as error:
                lines += error.lines
    if not document.values:
        lines.append(f"{path}: is empty; name at least one key")
    if lines:
        raise ConfigError(lines)
    return Space(entries)


def text_of(value: Any) -> str:
    """A value as JSON: in messages, and as Optuna keeps choices."""
    return json.dumps(value)
