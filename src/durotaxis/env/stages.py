"""A curriculum of worlds: the configuration of each stage, and a batch whose slots play different stages.

An episode is of one stage from its beginning to its end. Of which one is a pure function of its seed and of
what `StagedEnv.begin_stage` said last, so it depends neither on the batch nor on the order of resets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar, final

import torch
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import Tensor

from durotaxis.core.config import Config, ConfigError, build_config, merge
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, uniform
from durotaxis.core.struct import Struct
from durotaxis.env.check import check_action
from durotaxis.env.config import EnvConfig
from durotaxis.env.env import (
    DurotaxisEnv,
    check_device,
    check_mask,
    check_seeds,
    reset,
    step,
    summarize,
)
from durotaxis.env.observation import observe
from durotaxis.env.substrate import Substrate
from durotaxis.env.types import Action, Colony, Observation, Reason, Transition

RUN_WIDE: Mapping[str, str] = MappingProxyType(
    {
        "observation": "one agent sees all stages, and must see them in the same form and scale",
        "spawn_bounds": "the agent's choices are scaled to these bounds",
        "capacity": "all stages share one batch, which takes the largest that any of them needs",
        "minutes_per_step": "it changes no rule, and hours mean the same in all records of a run",
    }
)
"""Keys of `env` that no stage may set -> why."""

_STARTS_ANEW: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "substrate": (("kind", "ground"), ("kind", "size", "direction")),
        "response": (("law",), ("exponent",)),
    }
)
"""Section -> the keys that say how its others are read, and those that mean the same whatever these say."""

Rows = TypeVar("Rows", bound=Struct)


@final
class StageError(ConfigError):
    """All that is wrong with the `env` of the stages.

    Attributes:
        faults: (path, message) of each error; a path is `<index of the stage>.env.<key>`.
    """

    def __init__(self, faults: Iterable[tuple[str, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{path}: {message}" for path, message in self.faults)

    def below(self, *keys: str) -> ValidationError:
        """The same for a validator to raise, each error at its path below `keys`."""
        return ValidationError.from_exception_data(
            "stages",
            [
                InitErrorDetails(
                    type=PydanticCustomError("stage", "{message}", {"message": message}),
                    loc=(*keys, *(int(part) if part.isdecimal() else part for part in path.split("."))),
                    input={},
                )
                for path, message in self.faults
            ],
        )


class _Stage(Config):
    env: EnvConfig


class _Stages(Config):
    stages: tuple[_Stage, ...]


def stage_configs(
    base: EnvConfig, overrides: Sequence[Mapping[str, Any]]
) -> tuple[EnvConfig, tuple[EnvConfig, ...]]:
    """The worlds of a run with a curriculum: its own, for evaluation, and one per stage.

    A stage is the run's `env` with the stage's keys over it. Where these name another `substrate.kind`,
    `substrate.ground` or `response.law`, that section starts anew but for `kind`, `size` and `direction`, or
    `exponent`, because its other keys were meant for the old one. A stage that names a `scenario` starts from
    that scenario's values in place of the run's. All worlds returned have the same number of slots, the
    largest that one of them needs, and the same scale of counts: `observation.count_scale`, or else the
    largest `max_nodes`.

    Args:
        base: the run's world.
        overrides: of each stage the keys of `env` that differ, nested as in the configuration; none of
            `RUN_WIDE`.

    Returns:
        (the run's world, those of the stages).

    Raises:
        StageError: all that is wrong, at once.
    """
    faults = [
        (f"{index}.env.{key}", f"may not differ between stages: {why}; set it in the run's `env`")
        for index, values in enumerate(overrides)
        for key, why in RUN_WIDE.items()
        if key in values
    ]
    allowed = [{key: value for key, value in values.items() if key not in RUN_WIDE} for values in overrides]
    try:
        found = build_config(_Stages, {"stages": [{"env": _over(base, values)} for values in allowed]})
    except ConfigError as error:
        faults += [_fault(line) for line in error.lines]
    if faults:
        raise StageError(sorted(faults, key=lambda fault: int(fault[0].partition(".")[0])))
    stages = tuple(stage.env for stage in found.stages)
    worlds = (base, *stages)
    num_slots = max(world.num_slots for world in worlds)
    count_scale = base.observation.count_scale or max(world.max_nodes for world in worlds)

    def shared(world: EnvConfig) -> EnvConfig:
        seen = world.observation.model_copy(update={"count_scale": count_scale})
        return world.model_copy(update={"capacity": num_slots, "observation": seen})

    return shared(base), tuple(shared(stage) for stage in stages)


def _fault(line: str) -> tuple[str, str]:
    """(path, message) of a line `config: stages.<path>: <message>`."""
    _, path, message = line.split(": ", 2)
    return path.removeprefix("stages."), message


def _over(base: EnvConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a stage, not checked yet."""
    start = base.model_dump()
    if "scenario" in values:
        return merge({key: start[key] for key in RUN_WIDE}, values)
    for section, (choices, kept) in _STARTS_ANEW.items():
        own, old = values.get(section), start[section]
        if isinstance(own, Mapping) and any(_is_another(choice, own, old) for choice in choices):
            start[section] = {key: old[key] for key in kept}
    merged = merge(start, values)
    if isinstance(values.get("substrate"), Mapping):
        _forget_old_map(values["substrate"], merged["substrate"])
    return merged


def _is_another(choice: str, own: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    # A ground that is not given is linear; no other choice may be None.
    return (own.get(choice, old[choice]) or "linear") != (old[choice] or "linear")


def _forget_old_map(own: Mapping[str, Any], merged: dict[str, Any]) -> None:
    """A map brings its own size, and another file has another hash."""
    if "map" in (merged.get("kind"), merged.get("ground")) and "size" not in own:
        merged.pop("size", None)
    map_keys = own.get("map")
    if isinstance(map_keys, Mapping) and "file" in map_keys and "sha256" not in map_keys:
        merged["map"].pop("sha256", None)


@dataclass(frozen=True)
class _State:
    """Where the batch stands between two calls."""

    stage: Tensor  # [B] int64
    colony: Colony  # [B]
    substrates: Mapping[int, Substrate]  # stage -> [B]; rows of slots that play another one are never read
    rows: Mapping[int, Tensor]  # stage -> its slots, int64, increasing; stages without any are left out


@final
class StagedEnv:
    """A batch of colonies in which every episode is played to its end under the rules of its own stage.

    It has the interface that training needs of `DurotaxisEnv`. Slots of one stage are stepped together.

    Args:
        stages: the world of each stage, as `stage_configs` returns them.
        num_colonies: B.
        device: where the tensors live.
        validate: check every action; off only in loops that made it from the mask themselves.

    Raises:
        UserError: no stage, stages that cannot share a batch, no colony, or a device that is not there.
    """

    reason_names: tuple[str, ...] = tuple(reason.name.lower() for reason in Reason)

    def __init__(
        self,
        stages: Sequence[EnvConfig],
        num_colonies: int,
        device: str | torch.device = "cpu",
        *,
        validate: bool = True,
    ) -> None:
        if num_colonies < 1:
            raise UserError(f"num_colonies must be at least 1, not {num_colonies}")
        _check_stages(stages)
        self.stages = tuple(stages)
        self.num_colonies = num_colonies
        self.device = check_device(device)
        self.validate = validate
        self._next: tuple[int, float] = (0, 1.0)
        self._state: _State | None = None
        self._seen: Observation | None = None  # of the current state

    @property
    def stage(self) -> Tensor:
        """The stage of each slot's present episode, [B] int64."""
        return self._current().stage

    def begin_stage(self, stage: int, share: float = 1.0) -> None:
        """Let episodes that begin from now on be of `stage` with probability `share`, else of the one before.

        It is no part of `state_dict`: say it again after loading.

        Raises:
            UserError: there is no such stage, or none before it, or `share` is no probability.
        """
        if not 0 <= stage < len(self.stages):
            raise UserError(f"there is no stage {stage}; there are {len(self.stages)}, counted from 0")
        if not 0.0 <= share <= 1.0:
            raise UserError(f"the share of stage {stage} must be within [0, 1], not {share}")
        if stage == 0 and share < 1.0:
            raise UserError(f"stage 0 has none before it, so its share must be 1, not {share}")
        self._next = (stage, float(share))

    def reset(self, seeds: Tensor | Sequence[int]) -> Observation:
        """Start one episode per seed, [B] whole numbers.

        Raises:
            UserError: another number of seeds, or seeds that are no int64.
        """
        seeds = check_seeds(seeds, self.num_colonies, self.device)
        stage = self._drawn_stage(seeds)
        rows = _rows_of(stage)
        begun = {index: reset(self.stages[index], seeds[slots]) for index, slots in rows.items()}
        self._state = _State(
            stage=stage,
            colony=_joined(rows, {index: colony for index, (colony, _) in begun.items()}),
            substrates={
                index: _spread(substrate, rows[index], self.num_colonies)
                for index, (_, substrate) in begun.items()
            },
            rows=rows,
        )
        self._seen = self._observe()
        return self._seen

    def step(self, action: Action) -> Transition:
        """Take one step; see `durotaxis.env.step`. Ended episodes are not reset."""
        state = self._current()
        if self.validate:
            for index in state.rows:
                mine = state.colony.alive & (state.stage == index)[:, None]
                check_action(replace(state.colony, alive=mine), action, self.stages[index])
        parts = {}
        for index, (colony, substrate, config) in self._by_stage().items():
            part = action if len(state.rows) == 1 else action[state.rows[index]]
            parts[index] = step(colony, part, substrate, config, validate=False)
        transition = _joined(state.rows, parts)
        self._state, self._seen = replace(state, colony=transition.colony), transition.observation
        return transition

    def reset_where(self, mask: Tensor, seeds: Tensor) -> Observation:
        """Start new episodes where `mask` [B] bool is true, with `seeds` [B], and observe the whole batch."""
        check_mask(mask, self.num_colonies)
        seeds = check_seeds(seeds, self.num_colonies, self.device)
        state = self._current()
        seen = self._observe() if self._seen is None else self._seen
        if bool(mask.any()):
            stage = torch.where(mask, self._drawn_stage(seeds), state.stage)
            colony, substrates = state.colony, dict(state.substrates)
            for index, slots in _rows_of(stage, mask).items():
                fresh, ground = reset(self.stages[index], seeds[slots])
                colony = colony.put(slots, fresh)
                seen = seen.put(slots, observe(fresh, ground, self.stages[index]))
                if index in substrates:
                    substrates[index] = substrates[index].put(slots, ground)
                else:
                    substrates[index] = _spread(ground, slots, self.num_colonies)
            rows = _rows_of(stage)
            self._state = _State(stage, colony, {index: substrates[index] for index in rows}, rows)
        self._seen = seen
        return seen

    def summary(self) -> dict[str, Tensor]:
        """As `DurotaxisEnv.summary`, and the stage, each [B]."""
        parts = [summarize(*world) for world in self._by_stage().values()]
        order = _order(self._current().rows)
        values = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        return {**values, "stage": self.stage}

    def state_dict(self) -> dict[str, Any]:
        """The state as plain tensors, for a checkpoint."""
        state = self._current()
        return {
            "stage": state.stage,
            "colony": state.colony.to_dict(),
            "substrates": {str(index): part.to_dict() for index, part in state.substrates.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            UserError: the state is of a world without stages, of other stages, or of another batch size.
        """
        if "stage" not in state:
            raise UserError(
                "the saved world has no stages, this one has; use the curriculum it was saved with"
            )
        stage = state["stage"].to(self.device)
        known = len(self.stages)
        if bool((stage >= known).any()):
            raise UserError(
                f"the saved world is in stage {int(stage.max())}, this one has {known}, counted from 0; use "
                "the curriculum it was saved with"
            )
        rows, substrates = _rows_of(stage), {}
        for index in rows:
            part = DurotaxisEnv(self.stages[index], self.num_colonies, self.device)
            # Colonies of other stages may have passed more milestones than this one has.
            passed = torch.where(state["stage"] == index, state["colony"]["milestones"], 0)
            own = {**state["colony"], "milestones": passed}
            try:
                part.load_state_dict({"colony": own, "substrate": state["substrates"][str(index)]})
            except UserError as error:
                raise UserError(f"stage {index}: {error}") from None
            substrates[index] = part.substrate
        colony = Colony.from_dict(state["colony"]).to(self.device)
        self._state, self._seen = _State(stage, colony, substrates, rows), None

    def _drawn_stage(self, seeds: Tensor) -> Tensor:
        """The stage of episodes that begin now, [B] int64."""
        stage, share = self._next
        return torch.where(uniform(seeds, Purpose.STAGE) < share, stage, stage - 1)

    def _observe(self) -> Observation:
        parts = {index: observe(*world) for index, world in self._by_stage().items()}
        return _joined(self._current().rows, parts)

    def _by_stage(self) -> dict[int, tuple[Colony, Substrate, EnvConfig]]:
        """Of each stage present: its colonies, their substrates, its configuration."""
        state = self._current()
        if len(state.rows) == 1:
            (index,) = state.rows
            return {index: (state.colony, state.substrates[index], self.stages[index])}
        return {
            index: (state.colony[slots], state.substrates[index][slots], self.stages[index])
            for index, slots in state.rows.items()
        }

    def _current(self) -> _State:
        if self._state is None:
            raise UserError("call reset(seeds) before anything else")
        return self._state


_IN_COMMON: Mapping[str, Callable[[EnvConfig], Any]] = MappingProxyType(
    {
        "number of slots": lambda config: config.num_slots,
        "scale of counts": lambda config: config.count_scale,
        "`observation`": lambda config: config.observation,
        "`spawn_bounds`": lambda config: config.spawn_bounds,
    }
)


def _check_stages(stages: Sequence[EnvConfig]) -> None:
    """Refuse stages that differ in what one batch, or one agent, must have in common."""
    if not stages:
        raise UserError("there is no stage; give at least one world")
    for name, read in _IN_COMMON.items():
        values = [read(stage) for stage in stages]
        index = next((i for i, value in enumerate(values) if value != values[0]), None)
        if index is not None:
            raise UserError(
                f"stage {index} has another {name} than stage 0; make the stages with `stage_configs`"
            )


def _rows_of(stage: Tensor, mask: Tensor | None = None) -> dict[int, Tensor]:
    """Stage -> its slots, of those in `mask`; for every stage that has any."""
    if mask is None:
        mask = torch.ones_like(stage, dtype=torch.bool)
    present = stage[mask].unique().tolist()
    return {index: (mask & (stage == index)).nonzero()[:, 0] for index in present}


def _spread(struct: Rows, slots: Tensor, batch: int) -> Rows:
    """Rows of `slots` put in their places among `batch`; what stands in the others does not matter."""
    place = torch.zeros(batch, dtype=torch.int64, device=slots.device)
    place[slots] = torch.arange(len(slots), device=slots.device)
    return struct[place]


def _joined(rows: Mapping[int, Tensor], parts: Mapping[int, Rows]) -> Rows:
    """One batch of the parts of all stages, every row in its slot."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    values = list(parts.values())
    return type(values[0]).cat(values)[_order(rows)]


def _order(rows: Mapping[int, Tensor]) -> Tensor:
    """Where each slot stands when the slots of all stages are written one stage after the other."""
    return torch.cat(list(rows.values())).argsort()
