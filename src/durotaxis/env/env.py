"""The world put together: reset, step, masked reset, and a class that holds the constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.env.check import check_action
from durotaxis.env.config import EnvConfig
from durotaxis.env.dynamics import advance, slots_needed
from durotaxis.env.hull import convex_hull
from durotaxis.env.initial import initial_colony
from durotaxis.env.observation import complete, observe, observe_survey
from durotaxis.env.reward import Step, reward_terms
from durotaxis.env.slots import crop, pad
from durotaxis.env.substrate import Substrate, coordinates, make_substrate
from durotaxis.env.survey import Survey, survey
from durotaxis.env.termination import end_reason, split_ends
from durotaxis.env.types import Action, Colony, Observation, Reason, Transition

PHASES = ("early", "migrating", "dense")
"""Phases of an episode: before the first milestone, after it, and with more than critical_nodes nodes."""


def reset(config: EnvConfig, seeds: Tensor) -> tuple[Colony, Substrate]:
    """The first state of the episodes with these seeds [B] int64, on the device of `seeds`."""
    substrate = make_substrate(config.substrate, seeds)
    return initial_colony(substrate, seeds, config), substrate


Look = Callable[[Survey, tuple[Tensor, Tensor], EnvConfig], Observation]
"""(colonies, their hulls, config) -> observation: `observe_survey`, or the same compiled."""


def live(
    colony: Colony, action: Action, substrate: Substrate, config: EnvConfig
) -> tuple[Survey, dict[str, Tensor], Tensor]:
    """What a valid action leads to: (colonies after it, reward terms, reason [B])."""
    was = survey(colony, substrate)
    now, born = advance(was, action, config)
    reason = end_reason(now, config)
    return now, reward_terms(Step(was, action, born, now, reason, config)), reason


def step(
    colony: Colony,
    action: Action,
    substrate: Substrate,
    config: EnvConfig,
    validate: bool = True,
    look: Look = observe_survey,
) -> Transition:
    """One decision period. Nothing is reset: the observation is the last of its episode where it ended.

    Args:
        validate: check the action first; off only in loops that made the action from the mask themselves.
        look: `env.compiled.compiled_look()` for speed.

    Raises:
        UserError: an invalid action; the message names colony and node.
    """
    if validate:
        check_action(colony, action, config)
    width = slots_needed(colony, action, config)
    act = crop(action, width)
    now, terms, reason = live(crop(colony, width), act, substrate, config)
    hull = convex_hull(now.colony.position, now.colony.alive)
    after = pad(now.colony, colony.capacity)
    terminated, truncated = split_ends(reason)
    alive = colony.alive[:, :width]
    spawning = (alive & act.spawns).sum(1)
    spawned = spawning.minimum(config.num_usable_slots - colony.num_nodes)
    return Transition(
        colony=after,
        observation=complete(look(now, hull, config), after, now, config),
        reward=total_reward(terms),
        terms=terms,
        terminated=terminated,
        truncated=truncated,
        reason=reason,
        counts={
            "spawned": spawned,
            "deleted": (alive & act.deletes).sum(1),
            "dropped": spawning - spawned,
        },
    )


def outcome(
    colony: Colony, action: Action, substrate: Substrate, config: EnvConfig
) -> tuple[Colony, dict[str, Tensor], Tensor]:
    """What a valid action leads to, without looking at it: (colony after, reward terms, reason [B])."""
    width = slots_needed(colony, action, config)
    now, terms, reason = live(crop(colony, width), crop(action, width), substrate, config)
    return pad(now.colony, colony.capacity), terms, reason


def total_reward(terms: dict[str, Tensor]) -> Tensor:
    """The reward, [B]: the sum of its terms, added in their order so that it does not depend on the batch."""
    first, *others = terms.values()
    return sum(others, start=first)


def front_progress(colony: Colony, substrate: Substrate, config: EnvConfig) -> Tensor:
    """How far the front has come at most, as a share of the way to the goal, [B] in [0, 1]."""
    goal = substrate.extent[:, 0] * (1.0 - config.goal_margin)
    return (colony.front / goal).clamp(0.0, 1.0)


def reset_where(
    colony: Colony, substrate: Substrate, mask: Tensor, seeds: Tensor, config: EnvConfig
) -> tuple[Colony, Substrate]:
    """Start new episodes where `mask` [B] bool is true, with `seeds` [B]; the others stay as they are."""
    (rows,) = mask.nonzero(as_tuple=True)
    if len(rows) == 0:
        return colony, substrate
    fresh_colony, fresh_substrate = reset(config, seeds[rows])
    return colony.put(rows, fresh_colony), substrate.put(rows, fresh_substrate)


@final
class DurotaxisEnv:
    """A batch of colonies with its configuration: a thin holder of the current state.

    Args:
        config: the world.
        num_colonies: B.
        device: where the tensors live.
        validate: check every action; off only in loops that made it from the mask themselves.
        compile: see through `torch.compile`, which needs a C++ compiler and takes half a minute at the first
            step; observations then agree with the eager ones to 1e-5, lives stay equal to the bit.
    """

    reason_names: tuple[str, ...] = tuple(reason.name.lower() for reason in Reason)
    phase_names: tuple[str, ...] = PHASES

    def __init__(
        self,
        config: EnvConfig,
        num_colonies: int,
        device: str | torch.device = "cpu",
        *,
        validate: bool = True,
        compile: bool = False,
    ) -> None:
        if num_colonies < 1:
            raise UserError(f"num_colonies must be at least 1, not {num_colonies}")
        self.config = config
        self.num_colonies = num_colonies
        self.device = check_device(device)
        self.validate = validate
        self._look: Look = observe_survey
        if compile:
            from durotaxis.env.compiled import compiled_look

            self._look = compiled_look()
        self._state: tuple[Colony, Substrate] | None = None
        self._seen: Observation | None = None  # scaled, of the current state

    @property
    def colony(self) -> Colony:
        """The current colonies."""
        return self._current()[0]

    @property
    def substrate(self) -> Substrate:
        """The current substrates."""
        return self._current()[1]

    def reset(self, seeds: Tensor | Sequence[int]) -> Observation:
        """Start one episode per seed, [B] whole numbers.

        Raises:
            UserError: another number of seeds, or seeds that are no int64.
        """
        self._state = reset(self.config, check_seeds(seeds, self.num_colonies, self.device))
        self._seen = self.observe()
        return self._seen

    def observe(self, scaled: bool = True) -> Observation:
        """The observation of the current state."""
        return observe(*self._current(), self.config, scaled)

    def step(self, action: Action) -> Transition:
        """Take one step; see `durotaxis.env.step`. Ended episodes are not reset."""
        colony, substrate = self._current()
        transition = step(colony, action, substrate, self.config, self.validate, self._look)
        self._state, self._seen = (transition.colony, substrate), transition.observation
        return transition

    def reset_where(self, mask: Tensor, seeds: Tensor) -> Observation:
        """Start new episodes where `mask` [B] bool is true, with `seeds` [B], and observe the whole batch."""
        check_mask(mask, self.num_colonies)
        seeds = check_seeds(seeds, self.num_colonies, self.device)
        colony, substrate = self._state = reset_where(*self._current(), mask, seeds, self.config)
        (rows,) = mask.nonzero(as_tuple=True)
        if self._seen is None:
            self._seen = self.observe()
        elif len(rows):
            fresh = observe(colony[rows], substrate[rows], self.config)
            self._seen = self._seen.put(rows, fresh)
        return self._seen

    def summary(self) -> dict[str, Tensor]:
        """Per colony, [B]: furthest front over goal, number of nodes, index of its phase."""
        return summarize(*self._current(), self.config)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain tensors, for a checkpoint."""
        colony, substrate = self._current()
        return {"colony": colony.to_dict(), "substrate": substrate.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            UserError: the state is of another batch size, number of slots or kind of substrate; its colonies
                have passed more milestones than there are; or it has stages.
        """
        if "substrate" not in state:
            raise UserError(
                "the saved world has stages, this one has none; use the curriculum it was saved with"
            )
        colony, substrate = Colony.from_dict(state["colony"]), Substrate.from_dict(state["substrate"])
        if colony.batch_size != self.num_colonies or colony.capacity != self.config.num_slots:
            raise UserError(
                f"the saved world has {colony.batch_size} colonies of {colony.capacity} slots, this one "
                f"{self.num_colonies} of {self.config.num_slots}; use the configuration it was saved with"
            )
        passed, known = int(colony.milestones.max()), len(self.config.reward.milestones)
        if passed > known:
            raise UserError(
                f"colonies of the saved world have passed {passed} milestones, env.reward.milestones has "
                f"{known}; keep at least as many"
            )
        own = make_substrate(self.config.substrate, colony.seed[:1])
        if _layout(substrate) != _layout(own) or not bool((substrate.size == own.size).all()):
            raise UserError(
                "the saved world lies on another kind or size of substrate than env.substrate says; use the "
                "configuration it was saved with"
            )
        self._state, self._seen = (colony.to(self.device), substrate.to(self.device)), None

    def _current(self) -> tuple[Colony, Substrate]:
        if self._state is None:
            raise UserError("call reset(seeds) before anything else")
        return self._state


def summarize(colony: Colony, substrate: Substrate, config: EnvConfig) -> dict[str, Tensor]:
    """Per colony, [B]: furthest front over goal, front (µm), number of nodes, index of its phase."""
    dense = colony.num_nodes > config.critical_nodes
    s, _ = coordinates(colony.position, substrate)
    return {
        "front_progress": front_progress(colony, substrate, config),
        "front": torch.where(colony.alive, s, 0.0).amax(1),
        "num_nodes": colony.num_nodes,
        "phase": torch.where(dense, 2, (colony.milestones > 0).to(torch.int64)),
    }


def check_seeds(seeds: Tensor | Sequence[int], num_colonies: int, device: torch.device) -> Tensor:
    """The seeds as [B] int64 on the device.

    Raises:
        UserError: another number of seeds, or seeds that are no int64.
    """
    try:
        given = torch.as_tensor(seeds, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        given = torch.zeros(0, device=device)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise UserError(f"seeds must be whole numbers below 2^63, one per colony, not {seeds}")
    if given.shape != (num_colonies,):
        raise UserError(f"seeds must have shape [{num_colonies}], not {list(given.shape)}")
    return given.to(torch.int64)


def check_mask(mask: Tensor, num_colonies: int) -> None:
    """Raise UserError unless `mask` is [B] bool."""
    if mask.shape != (num_colonies,) or mask.dtype != torch.bool:
        raise UserError(f"mask must be bool of shape [{num_colonies}], not {mask.dtype} {list(mask.shape)}")


def check_device(device: str | torch.device) -> torch.device:
    """The device of this name, if this computer has it.

    Raises:
        UserError: it has not.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ValueError):
        raise UserError(f"this computer has no device '{device}' for torch; use cpu") from None
    return found


def _layout(substrate: Substrate) -> dict[str, Any]:
    """Of every field of a substrate the sizes beyond the batch; None where there is no field."""
    return _sizes(substrate.to_dict())


def _sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _sizes(value) if isinstance(value, Mapping) else None if value is None else value.shape[1:]
        for name, value in values.items()
    }
