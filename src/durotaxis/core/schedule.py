"""Values that change while training, as pure functions of where training stands.

A `Moment` says when: at an environment step, after a finished episode, or when a curriculum stage begins. A
`Clock` says where training stands. A `Schedule` is a number that moves at such moments. They take effect
between an update and the next rollout, never within one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from durotaxis.core.config import Config, KeyedError
from durotaxis.core.errors import UserError


class AfterEpisode(Config):
    """The moment when so many training episodes have finished, over all colonies and ranks."""

    episode: Annotated[int, Field(ge=1)]


class AtStage(Config):
    """The moment when a stage of `training.curriculum` begins."""

    stage: str


Moment = Annotated[int, Field(ge=0)] | AfterEpisode | AtStage
"""`50_000` (environment steps over all colonies), `{episode: 500}`, or `{stage: optimise}`."""


def moment_key(moment: AfterEpisode | AtStage) -> str:
    """The name under which a clock keeps when a moment came: `episode 500`, `stage optimise`."""
    if isinstance(moment, AfterEpisode):
        return f"episode {moment.episode}"
    return f"stage {moment.stage}"


@dataclass(frozen=True)
class Clock:
    """Where training stands between an update and the next rollout.

    Attributes:
        step: environment steps taken, over all colonies.
        total_steps: environment steps in all; None where nobody knows.
        reached: `moment_key` of every episode and stage that was reached -> the step at which the first
            iteration after it began.
    """

    step: int = 0
    total_steps: int | None = None
    reached: Mapping[str, int] = field(default_factory=dict)

    def since(self, moment: Moment) -> int | None:
        """Environment steps since a moment; None while it has not come."""
        began = moment if isinstance(moment, int) else self.reached.get(moment_key(moment))
        return None if began is None or began > self.step else self.step - began


def as_clock(when: Clock | int) -> Clock:
    """A clock that knows the step alone, from a number of steps."""
    return when if isinstance(when, Clock) else Clock(when)


Value = TypeVar("Value")


class Change(Config, Generic[Value]):
    """One move of a schedule.

    Attributes:
        at: when it begins.
        value: what the number is in the end.
        ramp_steps: environment steps it takes; 0: at once.
    """

    at: Moment
    value: Value
    ramp_steps: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Its name, and title in a JSON schema: `Change_float_ge_0_le_1`."""
        return _name(cls, params)


class Schedule(Config, Generic[Value]):
    """A number that changes while training.

    Either from `start` to `end` within `steps`, or by a list of changes, each from where the number is then.

    Attributes:
        start: value at step 0.
        end: value from step `steps` on.
        steps: environment steps over all colonies; default the whole training.
        changes: in order; their moments are all steps, all episodes or all stages, and do not overlap.
        shape: of every ramp: `linear`, `geometric` (by the same factor at every step; values above 0), or
            `cosine` (flat at both ends).
    """

    start: Value
    end: Value | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    changes: tuple[Change[Value], ...] = ()
    shape: Literal["linear", "geometric", "cosine"] = "linear"

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Its name, and title in a JSON schema: `Schedule_float_ge_0_le_1`."""
        return _name(cls, params)

    @model_validator(mode="after")
    def _one_of_two_forms(self) -> Schedule[Value]:
        if (self.end is None) == (not self.changes):
            raise ValueError("give either `end` (and `steps`) or `changes`")
        if self.steps is not None and self.end is None:
            raise KeyedError("steps", "belongs to `end`; each of `changes` has `ramp_steps` of its own")
        if self.shape == "geometric" and not all(value > 0 for value in self.values):  # type: ignore[operator]
            raise KeyedError("shape", "a geometric schedule needs values above 0")
        return self

    @model_validator(mode="after")
    def _forwards(self) -> Schedule[Value]:
        """Stages are put in order by the whole configuration, which knows the curriculum."""
        for i, (first, second) in enumerate(itertools.pairwise(self.changes), start=1):
            key = f"changes.{i}.at"
            if type(first.at) is not type(second.at):
                raise KeyedError(key, "the changes of one schedule must all count steps, episodes or stages")
            earlier, later = _count(first.at), _count(second.at)
            if earlier is None or later is None:
                continue
            if later <= earlier:
                raise KeyedError(key, f"goes backwards: {later:,} after {earlier:,}")
            if isinstance(first.at, int) and earlier + first.ramp_steps > later:
                raise KeyedError(
                    key,
                    f"overlaps with the change before it, whose ramp ends at step "
                    f"{earlier + first.ramp_steps:,}",
                )
        return self

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value it ever rests at, in order."""
        last = () if self.end is None else (self.end,)
        return (self.start, *last, *(change.value for change in self.changes))

    def at(self, clock: Clock) -> float:
        """The number when training stands there.

        Raises:
            UserError: the schedule lasts the whole training, but the clock does not know how long that is.
        """
        value = float(self.start)  # type: ignore[arg-type]
        changes = self._resolved(clock)
        since = [clock.since(at) for at, _, _ in changes]
        for (_, target, ramp), passed, following in zip(changes, since, [*since, None][1:], strict=True):
            if passed is None:
                break
            done = passed - (following or 0)  # a later change starts from where this one had got to
            share = 1.0 if done >= ramp else done / ramp
            value = _between(value, target, share, self.shape)
        return value

    def _resolved(self, clock: Clock) -> list[tuple[Moment, float, int]]:
        if self.end is None:
            return [(c.at, float(c.value), c.ramp_steps) for c in self.changes]  # type: ignore[arg-type]
        steps = self.steps or clock.total_steps
        if steps is None and clock.step == 0:
            return []  # it starts the same however long it lasts
        if steps is None:
            raise UserError(
                "a schedule lasts the whole training, whose length is unknown here; give it `steps`"
            )
        return [(0, float(self.end), steps)]  # type: ignore[arg-type]


Number = float | Schedule
"""A number, or a schedule of it, whatever the limits of its values."""


def at(value: Number, clock: Clock) -> float:
    """A number, or what a schedule says it is then."""
    return value.at(clock) if isinstance(value, Schedule) else value


def fixed(value: Number) -> float:
    """A number that no schedule stands for any more. Raises TypeError otherwise."""
    if isinstance(value, Schedule):
        raise TypeError("this configuration still holds a schedule; use what its `at(clock)` returns")
    return value


def walk_moments(config: BaseModel) -> Iterator[tuple[str, AfterEpisode | AtStage]]:
    """Every moment in a configuration that is not a step, with its dotted key, in order."""
    for path, model in _walk(config, ""):
        if isinstance(model, AfterEpisode | AtStage):
            yield path, model


def walk_schedules(config: BaseModel) -> Iterator[tuple[str, Schedule]]:
    """Every schedule in a configuration, with its dotted key, in order."""
    for path, model in _walk(config, ""):
        if isinstance(model, Schedule):
            yield path, model


def _walk(value: Any, path: str) -> Iterator[tuple[str, BaseModel]]:
    """Every model in a value, itself included, with its dotted key."""
    below: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, BaseModel):
        yield path, value
        below = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, tuple):
        below = enumerate(value)
    for key, inner in below:
        yield from _walk(inner, f"{path}.{key}" if path else str(key))


def _name(model: type[BaseModel], params: tuple[Any, ...]) -> str:
    """A generic model with the limits of its values; pydantic's own name has their whole `repr`."""
    parts = [model.__name__]
    for param in params:
        value = TypeAdapter(param).core_schema
        limits = [f"{key}_{limit}" for key, limit in value.items() if key not in ("type", "metadata")]
        parts += [value["type"], *limits]
    return "_".join(parts)


def _count(moment: Moment) -> int | None:
    return moment.episode if isinstance(moment, AfterEpisode) else moment if isinstance(moment, int) else None


def _between(first: float, last: float, share: float, shape: str) -> float:
    if share >= 1.0:
        return last
    if shape == "geometric":
        return float(first ** (1.0 - share) * last**share)
    if shape == "cosine":
        share = 0.5 * (1.0 - math.cos(math.pi * share))
    return first + (last - first) * share
