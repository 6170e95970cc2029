"""The environment curriculum: which stage training is in, as a pure function of the episodes that finished.

A stage says how its world differs (`env`, which the composition root turns into worlds) and when it ends. An
episode is played to its end under the rules of the stage in which it began, and counts for that stage alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from durotaxis.core.config import Config, KeyedError

Count = Annotated[int, Field(ge=1, le=2**53)]


class StageConfig(Config):
    """One stage of `training.curriculum`. It ends at the first of the ends that are given.

    Attributes:
        name: unique; moments refer to it as `{stage: NAME}`.
        env: keys of the section `env` that differ in this stage.
        success_rate: ends early, when so large a share of its last `window` episodes succeeded.
        window: finished episodes that `success_rate` looks at.
        min_episodes: finished episodes before `success_rate` may end it.
        max_episodes: finished episodes at which it ends in any case.
        max_steps: environment steps over all colonies, since it began, at which it ends in any case.
        overlap_steps: environment steps in which new episodes are still of the stage before, with a share
            that falls linearly from 1 to 0.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_\-]*$")
    env: dict[str, Any] = Field(default_factory=dict)
    success_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    window: Count = 100
    min_episodes: int = Field(default=0, ge=0)
    max_episodes: Count | None = None
    max_steps: Count | None = None
    overlap_steps: int = Field(default=0, ge=0, le=2**53)

    @property
    def has_end(self) -> bool:
        """Whether anything ends it."""
        return any(end is not None for end in (self.success_rate, self.max_episodes, self.max_steps))

    @model_validator(mode="after")
    def _early_before_late(self) -> StageConfig:
        if self.success_rate is None:
            for key in ("window", "min_episodes"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise KeyedError(key, "counts with `success_rate` only; give that, or remove it")
            return self
        needed = max(self.window, self.min_episodes)
        if self.max_episodes is not None and needed > self.max_episodes:
            key = "window" if self.window > self.max_episodes else "min_episodes"
            raise KeyedError(
                key, f"{needed} is above max_episodes ({self.max_episodes}): success_rate would never count"
            )
        return self


Curriculum = tuple[StageConfig, ...]


def check_curriculum(curriculum: Sequence[StageConfig]) -> None:
    """Raise KeyedError (`<index>.<key>`) for stages that cannot follow each other."""
    names = [stage.name for stage in curriculum]
    for i, stage in enumerate(curriculum):
        if stage.name in names[:i]:
            raise KeyedError(f"{i}.name", f"two stages are named '{stage.name}'")
        last = i == len(curriculum) - 1
        if not last and not stage.has_end:
            raise KeyedError(
                str(i),
                f"stage '{stage.name}' can never advance; give it success_rate, max_episodes or max_steps",
            )
        if last and stage.has_end:
            raise KeyedError(
                str(i), f"stage '{stage.name}' is the last one; remove what would end it, or add a stage"
            )
    if curriculum and curriculum[0].overlap_steps:
        raise KeyedError("0.overlap_steps", "the first stage has none before it to overlap with; remove it")


def earliest_beginnings(curriculum: Sequence[StageConfig], rollout_steps: int) -> list[int]:
    """The environment steps before which each stage cannot begin.

    Every stage lasts a rollout at least, and those that steps alone end last so many, in whole rollouts.
    """
    alone = [
        stage.max_steps if stage.max_steps and not stage.success_rate and not stage.max_episodes else 1
        for stage in curriculum[:-1]
    ]
    waits = [-(-steps // rollout_steps) * rollout_steps for steps in alone]
    return [0, *itertools.accumulate(waits)] if curriculum else []


@dataclass(frozen=True)
class StageState:
    """Where a training stands in its curriculum.

    Attributes:
        index: the present stage.
        began: environment step at which it began.
        finished: episodes of it that finished.
        recent: whether its last `window` episodes succeeded, oldest first.
    """

    index: int = 0
    began: int = 0
    finished: int = 0
    recent: tuple[bool, ...] = ()


def count_episodes(
    state: StageState, curriculum: Sequence[StageConfig], rows: Iterable[Mapping[str, Any]]
) -> StageState:
    """With episodes that finished: rows with `success` and `stage`, the name of the stage they began in."""
    stage = curriculum[state.index]
    outcomes = [bool(row["success"]) for row in rows if row["stage"] == stage.name]
    recent = (*state.recent, *outcomes)[-stage.window :]
    return dataclasses.replace(state, finished=state.finished + len(outcomes), recent=recent)


def why_it_ends(state: StageState, stage: StageConfig, step: int) -> str | None:
    """Why a stage ends after `step` environment steps; None while it goes on."""
    enough = state.finished >= max(stage.window, stage.min_episodes)
    if stage.success_rate is not None and enough and len(state.recent) == stage.window:
        rate = sum(state.recent) / stage.window
        if rate >= stage.success_rate:
            return f"success rate {rate:.2f} over {stage.window} episodes"
    if stage.max_episodes is not None and state.finished >= stage.max_episodes:
        return f"{state.finished} episodes"
    if stage.max_steps is not None and step - state.began >= stage.max_steps:
        return f"{step - state.began:,} steps"
    return None


def advance(state: StageState, curriculum: Sequence[StageConfig], step: int) -> tuple[StageState, str | None]:
    """The state with which the next rollout begins, and why the stage before ended (None: it goes on)."""
    if state.index == len(curriculum) - 1:
        return state, None
    reason = why_it_ends(state, curriculum[state.index], step)
    return (state, None) if reason is None else (StageState(state.index + 1, step), reason)


def share_of_new(state: StageState, stage: StageConfig, step: int, rollout_steps: int) -> float:
    """Probability that an episode of the next rollout is of the present stage, not of the one before it.

    Taken in the middle of the rollout, so that a short overlap does not delay a stage by a whole one.
    """
    if stage.overlap_steps == 0:
        return 1.0
    return min(1.0, (step - state.began + 0.5 * rollout_steps) / stage.overlap_steps)
