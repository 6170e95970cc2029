"""What every adapter shares: a batch of colonies, the seeds of their episodes, and what is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from durotaxis.core.config import build_config
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.core.spelling import did_you_mean
from durotaxis.env import (
    SCENARIOS,
    Action,
    Colony,
    DurotaxisEnv,
    EnvConfig,
    Observation,
    Reason,
    Transition,
    front_progress,
)
from durotaxis.integrations.actions import (
    GLOBAL_ACTIONS,
    NODE_NUMBERS,
    action_tensor,
    global_action,
    outside_unit,
    preferred_action,
    refuse_outside_unit,
    rest_invalid,
)
from durotaxis.integrations.spaces import FORMS, Form

InvalidAction = Literal["rest", "error"]
INVALID_ACTIONS: tuple[InvalidAction, ...] = ("rest", "error")

REASONS = np.array([reason.name.lower() for reason in Reason], dtype=object)
"""Names of the ends, by `Reason`."""

_LARGEST_SEED = 2**63 - 1


def make_config(
    scenario: str | None = None,
    config: EnvConfig | Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
) -> EnvConfig:
    """The world of an adapter.

    Args:
        scenario: name of the world to start from; None is the one `config` names, else `quick`.
        config: a whole configuration, or the keys that differ from the scenario.
        max_episode_steps: `max_steps` in Gymnasium's word; None keeps it.

    Raises:
        UserError: unknown scenario, a configuration that is not valid, or two that contradict each other.
    """
    if scenario is not None and scenario not in SCENARIOS:
        hint = did_you_mean(str(scenario), SCENARIOS)
        raise UserError(f"unknown scenario '{scenario}'{hint}; known: {', '.join(SCENARIOS)}")
    if isinstance(config, EnvConfig):
        if scenario is not None and scenario != config.scenario:
            raise UserError(
                f"scenario is '{scenario}', but the configuration is of '{config.scenario}'; give one"
            )
        if max_episode_steps is None:
            return config
        values = config.model_dump()
    elif isinstance(config, Mapping) or config is None:
        values = dict(config or {})
        if scenario is not None:
            if values.get("scenario", scenario) != scenario:
                raise UserError(
                    f"scenario is '{scenario}', but config.scenario is '{values['scenario']}'; give one"
                )
            values["scenario"] = scenario
    else:
        raise UserError(f"config must be an EnvConfig, a dict or None, not {type(config).__name__}")
    if max_episode_steps is not None:
        values["max_steps"] = max_episode_steps
    return build_config(EnvConfig, values)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        UserError: names the choices.
    """
    if value not in choices:
        raise UserError(
            f"{name} is {value!r}{did_you_mean(str(value), choices)}; choose one of: {', '.join(choices)}"
        )


def check_seed(seed: Any, index: int) -> int:
    """The seed of colony `index`, if it is one.

    Raises:
        UserError: it is no integer from 0 to 2^63 - 1.
    """
    if not _is_whole(seed) or not 0 <= seed <= _LARGEST_SEED:
        raise UserError(f"seed: {seed!r} of colony {index}; take an integer from 0 to 2^63 - 1")
    return int(seed)


def spread_seed(seed: Any, num_colonies: int) -> list[int]:
    """Seeds of all colonies from that of the first: colony i has seed + i.

    Raises:
        UserError: one of them is no integer from 0 to 2^63 - 1.
    """
    first = check_seed(seed, 0)
    return [check_seed(first + index, index) for index in range(num_colonies)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@final
class Batch:
    """Colonies whose episodes follow one another, each on a stream of seeds of its own.

    A colony that is given a seed plays that episode; the k-th episode after it has the seed
    hash(seed, k). Without any seed its stream starts at a random place. So the episodes of one colony depend
    neither on its companions nor on when they ended.

    Args:
        config: the world.
        num_colonies: B.
        device: where the tensors live.
        invalid_action: `rest` replaces what the world would refuse and counts it, `error` refuses it.
        form: of the observation, `scaled` or `raw`.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_colonies: int,
        device: str | torch.device = "cpu",
        invalid_action: str = "rest",
        form: str = "scaled",
    ) -> None:
        check_choice("invalid_action", invalid_action, INVALID_ACTIONS)
        check_choice("observation_form", form, FORMS)
        if not _is_whole(num_colonies) or num_colonies < 1:
            raise UserError(f"num_envs is {num_colonies!r}; take an integer from 1")
        self.config = config
        self.form: Form = "raw" if form == "raw" else "scaled"
        self.resting = invalid_action == "rest"
        self.world = DurotaxisEnv(config, num_colonies, device, validate=not self.resting)
        self.ended = torch.ones(num_colonies, dtype=torch.bool)  # [B] on the CPU; nothing has begun
        self.reason = torch.zeros(num_colonies, dtype=torch.int64)  # [B] on the CPU, of the last step
        self._stream = torch.zeros(num_colonies, dtype=torch.int64)
        self._episode = torch.full((num_colonies,), -1)  # number within the stream; -1: it has no start yet

    @property
    def num_colonies(self) -> int:
        """B."""
        return self.world.num_colonies

    def begin(
        self, seeds: Sequence[int | None], generator: np.random.Generator, mask: np.ndarray | None = None
    ) -> None:
        """Start a new episode where `mask` [B] bool is true, or everywhere.

        Args:
            seeds: one per colony; None takes the next of the colony's own stream.
            generator: where streams without a seed start.
            mask: which colonies begin.

        Raises:
            UserError: a seed that is no integer from 0 to 2^63 - 1, a wrong number of seeds, or a mask that
                leaves out colonies that never began. Nothing has changed then.
        """
        chosen = np.ones(self.num_colonies, dtype=np.bool_) if mask is None else mask
        if len(seeds) != self.num_colonies:
            raise UserError(
                f"seed: {len(seeds)} seeds for {self.num_colonies} colonies; give an integer for each"
            )
        checked = [None if seed is None else check_seed(seed, index) for index, seed in enumerate(seeds)]
        which = torch.from_numpy(np.asarray(chosen, dtype=np.bool_))
        if bool((~which & (self._episode < 0)).any()):
            raise UserError("the first reset must start every colony; leave out the mask")
        stream, episode = self._stream.clone(), self._episode.clone()
        for index in np.flatnonzero(chosen).tolist():
            seed = checked[index]
            if seed is not None:
                stream[index], episode[index] = seed, 0
            elif episode[index] < 0:
                stream[index], episode[index] = int(generator.integers(2**63)), 1
            else:
                episode[index] += 1
        later = hash_keys(stream, Purpose.EPISODE, episode) & _LARGEST_SEED
        episode_seeds = torch.where(episode == 0, stream, later)
        if bool(which.all()):
            self.world.reset(episode_seeds)
        else:
            self.world.reset_where(which.to(self.world.device), episode_seeds.to(self.world.device))
        self._stream, self._episode = stream, episode
        self.ended = self.ended & ~which
        self.reason = torch.where(which, int(Reason.RUNNING), self.reason)

    def observe(self) -> Observation:
        """The current state in the adapter's form."""
        return self.world.observe(scaled=self.form == "scaled")

    def step_some(self, action: Action, held: Tensor) -> tuple[Transition, Tensor]:
        """`step` of the others than `held` [B] bool, which stay as they are and have reward 0.

        The transition's observation is that before the held were put back: observe again.
        """
        there = held.cpu()
        colony, ended, reason = self.world.colony, self.ended, self.reason
        self.ended = ended & ~there
        try:
            transition, invalid = self.step(action, held)
        except UserError:
            self.ended = ended
            raise
        self.ended = torch.where(there, ended, self.ended)
        self.reason = torch.where(there, reason, self.reason)
        kept = Colony.where(held, colony, transition.colony)
        self.world.load_state_dict({**self.world.state_dict(), "colony": kept.to_dict()})
        reward = transition.reward.masked_fill(held, 0.0)
        return replace(transition, colony=kept, reward=reward), invalid.masked_fill(held, 0)

    def step(self, action: Action, waiting: Tensor | None = None) -> tuple[Transition, Tensor]:
        """One step of all colonies.

        Args:
            action: of the world, unchecked.
            waiting: [B] bool, colonies that have ended and are about to be reset: their action is not looked
                at and what their transition says means nothing.

        Returns:
            The transition, and the number of invalid choices of each colony, [B] int64.

        Raises:
            UserError: a colony has ended and does not wait, or `error` was chosen and an action is invalid.
        """
        stopped = self.ended if waiting is None else self.ended & ~waiting.cpu()
        if bool(stopped.any()):
            index = int(stopped.nonzero()[0])
            raise UserError(f"colony {index}: no episode is running; reset it before the next step")
        if waiting is not None:
            action = Action(torch.where(waiting[:, None], 0, action.kind), action.parameters)
        invalid = torch.zeros(self.num_colonies, dtype=torch.int64, device=self.world.device)
        if self.resting:
            action, invalid = rest_invalid(self.world.colony, action, self.config)
        transition = self.world.step(action)
        self.ended = (transition.terminated | transition.truncated).cpu()
        self.reason = transition.reason.cpu()
        return transition, invalid

    def decode_node(self, action: Any) -> Action:
        """The world's action of `kind` [B,N] and `parameters` [B,N,4].

        Raises:
            UserError: other keys, shapes or types.
        """
        if not isinstance(action, Mapping) or set(action.keys()) != {"kind", "parameters"}:
            got = (
                f"one with {sorted(action.keys(), key=str)}"
                if isinstance(action, Mapping)
                else type(action).__name__
            )
            raise UserError(f"an action is a dict with `kind` and `parameters`, not {got}")
        shape, device = (self.num_colonies, self.config.num_slots), self.world.device
        return Action(
            action_tensor("kind", action["kind"], shape, torch.int64, device),
            action_tensor("parameters", action["parameters"], (*shape, 4), torch.float32, device),
        )

    def decode_global(self, action: Any, waiting: Tensor | None = None) -> tuple[Action, Tensor]:
        """The world's action of numbers [B,5], and which colonies rest because theirs are invalid, [B] bool.

        Raises:
            UserError: another shape or type, or `error` was chosen and a number is not within [-1, 1].
        """
        shape = (self.num_colonies, len(GLOBAL_ACTIONS))
        action = action_tensor("the action", action, shape, torch.float32, self.world.device)
        usable, wrong = self._usable(action, None if waiting is None else ~waiting)
        decoded = global_action(self.world.colony, self.world.substrate, self.config, usable)
        return Action(torch.where(wrong[:, None], 0, decoded.kind), decoded.parameters), wrong

    def decode_preferred(self, action: Any) -> tuple[Action, Tensor]:
        """The action of numbers [B,N,7], and how many nodes rest because theirs are invalid, [B] int64.

        Raises:
            UserError: another shape or type, or `error` was chosen and a number is not within [-1, 1].
        """
        shape = (self.num_colonies, self.config.num_slots, NODE_NUMBERS)
        action = action_tensor("the action", action, shape, torch.float32, self.world.device)
        usable, wrong = self._usable(action, self.world.colony.alive)
        decoded = preferred_action(self.world.colony, self.config, usable)
        return Action(torch.where(wrong, 0, decoded.kind), decoded.parameters), wrong.sum(1)

    def _usable(self, action: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Numbers [...,K] within [-1, 1], and [...] bool: those of one that counts were not."""
        wrong = outside_unit(action)
        if counts is not None:
            wrong = wrong & counts
        if not self.resting and bool(wrong.any()):
            refuse_outside_unit(action, wrong)
        return action.nan_to_num(0.0).clamp(-1.0, 1.0), wrong

    def start_tensors(self) -> dict[str, Tensor]:
        """What is told of the current state: tensors [B] by name, on the world's device."""
        colony, substrate = self.world.colony, self.world.substrate
        return {
            "episode_seed": colony.seed.clone(),
            "front_progress": front_progress(colony, substrate, self.config),
            "num_nodes": colony.num_nodes,
        }

    def start_info(self) -> dict[str, Any]:
        """The same as arrays [B]; floats as float64."""
        arrays = {name: value.cpu().numpy() for name, value in self.start_tensors().items()}
        return {**arrays, "front_progress": arrays["front_progress"].astype(np.float64)}

    def step_info(self, transition: Transition, invalid: Tensor) -> dict[str, Any]:
        """What is told of a step: arrays [B] by name; reward terms and reason beside `start_info`."""
        return {
            **self.start_info(),
            "reason": REASONS[self.reason.numpy()],
            "terms": {
                name: value.cpu().numpy().astype(np.float64) for name, value in transition.terms.items()
            },
            **{name: value.cpu().numpy().copy() for name, value in transition.counts.items()},
            "invalid_actions": invalid.cpu().numpy().copy(),
        }


def info_of(info: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One colony's part of arrays [B], as plain Python values."""
    return {
        name: info_of(value, index) if isinstance(value, Mapping) else _plain(value[index])
        for name, value in info.items()
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
