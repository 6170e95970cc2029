"""Gymnasium environments: one colony (`ColonyEnv`) and a native batch of them (`ColonyVectorEnv`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, Transition
from durotaxis.integrations.actions import GLOBAL_ACTIONS
from durotaxis.integrations.batch import Batch, check_choice, info_of, make_config, spread_seed
from durotaxis.integrations.pictures import FRAMES_PER_SECOND, Pictures, Window
from durotaxis.integrations.spaces import node_action_space, observation_arrays, observation_space

Arrays = dict[str, np.ndarray]


@final
class ColonyEnv(gym.Env):
    """One colony as a Gymnasium environment; see `docs/integrations.md`.

    Args:
        scenario: the world to start from (`quick`).
        config: a whole `EnvConfig`, or the keys that differ from the scenario.
        level: `node` (a choice for every node) or `global` (five numbers for the colony); the id sets it.
        render_mode: None, `rgb_array`, or `human` (a window, drawn at every reset and step).
        device: where the world's tensors live.
        invalid_action: `rest` replaces what the world would refuse and counts it in
            `info["invalid_actions"]`; `error` refuses it.
        observation_form: `scaled` (of order 1) or `raw` (µm, kPa, steps).
        max_episode_steps: replaces `max_steps` of the world.

    Raises:
        UserError: an unknown scenario or choice, a configuration that is not valid, no display for `human`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "human"],
        "render_fps": FRAMES_PER_SECOND,
    }

    def __init__(
        self,
        scenario: str | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        *,
        level: str = "node",
        render_mode: str | None = None,
        device: str | torch.device = "cpu",
        invalid_action: str = "rest",
        observation_form: str = "scaled",
        max_episode_steps: int | None = None,
    ) -> None:
        world = make_config(scenario, config, max_episode_steps)
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self._batch = Batch(world, 1, device, invalid_action, observation_form)
        self.observation_space = observation_space(world, self._batch.form)
        self.action_space = _action_space(world, level)
        self._level = level
        self._pictures = Pictures(self._batch)
        self._window = Window() if render_mode == "human" else None

    @property
    def config(self) -> EnvConfig:
        """The world's configuration."""
        return self._batch.config

    @property
    def batch(self) -> Batch:
        """The colony itself, B = 1."""
        return self._batch

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode: the one of `seed`, or the next of this environment's own stream."""
        self._batch.begin([seed], self.np_random)
        super().reset(seed=seed)  # after all is checked; a given seed asks nothing of the generator
        self._show()
        return _first(observation_arrays(self._batch.observe())), info_of(self._batch.start_info(), 0)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """One decision period; an ended episode must be reset first."""
        transition, arrays, info = _take(self._batch, self._level, _add_row(action))
        self._show()
        return (
            _first(arrays),
            float(transition.reward),
            bool(transition.terminated),
            bool(transition.truncated),
            info_of(info, 0),
        )

    def render(self) -> np.ndarray | None:
        """The current state, [height, width, 3] uint8, in mode `rgb_array`; None otherwise."""
        return self._pictures.draw(0) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(self._pictures.draw(0))


@final
class ColonyVectorEnv(gym.vector.VectorEnv):
    """A batch of colonies as a Gymnasium vector environment, stepped together without a loop over them.

    Colony i of `reset(seed=s)` plays the episode s + i, the same as a `ColonyEnv` with `reset(seed=s + i)`; a
    list of seeds is taken as it is. Autoreset follows Gymnasium's three modes:

    - `Disabled`: ended colonies stay until `reset(options={"reset_mask": mask})`.
    - `NextStep` (default): the step after the end ignores the action and returns the first observation of the
      next episode, with reward 0.
    - `SameStep`: the last observation and information are in `info["final_obs"]` and `info["final_info"]`.

    Args:
        num_envs: B.
        autoreset_mode: a mode or its name.
        render_mode: None or `rgb_array`.
        scenario, config, level, device, invalid_action, observation_form, max_episode_steps: of `ColonyEnv`.

    Raises:
        UserError: an unknown scenario or choice, or a configuration that is not valid.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        *,
        level: str = "node",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str | torch.device = "cpu",
        invalid_action: str = "rest",
        observation_form: str = "scaled",
        max_episode_steps: int | None = None,
    ) -> None:
        world = make_config(scenario, config, max_episode_steps)
        if render_mode not in (None, "rgb_array"):
            raise UserError(
                f"render_mode is {render_mode!r}; a batch of colonies draws 'rgb_array' only, "
                "a window shows one colony: gymnasium.make"
            )
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        check_choice("autoreset_mode", mode, [known.value for known in AutoresetMode])
        self.autoreset_mode = AutoresetMode(mode)
        self.metadata = {
            **ColonyEnv.metadata,
            "render_modes": ["rgb_array"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.num_envs = num_envs
        self.render_mode = render_mode
        self._batch = Batch(world, num_envs, device, invalid_action, observation_form)
        self.single_observation_space = observation_space(world, self._batch.form)
        self.single_action_space = _action_space(world, level)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._level = level
        self._pictures = Pictures(self._batch)

    @property
    def config(self) -> EnvConfig:
        """The world's configuration."""
        return self._batch.config

    @property
    def batch(self) -> Batch:
        """The colonies themselves."""
        return self._batch

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start episodes everywhere, or where `options["reset_mask"]` ([B] bool numpy array) is true.

        Raises:
            UserError: a mask of the wrong type or shape or without a true entry; wrong seeds.
        """
        mask = _reset_mask(options, self.num_envs)
        given = list(seed) if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str) else None
        seeds: Sequence[int | None] = given if given is not None else [None] * self.num_envs
        if seed is not None and given is None:
            seeds = spread_seed(seed, self.num_envs)
        self._batch.begin(seeds, self.np_random, mask)
        if seed is not None and given is None:
            super().reset(seed=seeds[0])
        return observation_arrays(self._batch.observe()), _masked(self._batch.start_info(), mask)

    def step(self, actions: Any) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision period of every colony."""
        waiting = self._batch.ended if self.autoreset_mode == AutoresetMode.NEXT_STEP else None
        transition, arrays, info = _take(self._batch, self._level, actions, waiting)
        reward = transition.reward.cpu().numpy().astype(np.float64)
        terminated, truncated = (
            flags.cpu().numpy().copy() for flags in (transition.terminated, transition.truncated)
        )
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            fresh = terminated | truncated
            if fresh.any():
                infos = {"final_obs": _rows(arrays, fresh), "_final_obs": fresh.copy()}
                infos |= {"final_info": _masked(info, fresh), "_final_info": fresh.copy()}
        else:
            fresh = np.zeros(self.num_envs, np.bool_) if waiting is None else waiting.numpy().copy()
            reward[fresh], terminated[fresh], truncated[fresh] = 0.0, False, False
        if fresh.any():
            self._batch.begin([None] * self.num_envs, self.np_random, fresh)
            arrays = observation_arrays(self._batch.observe())
        infos |= _merged(info, self._batch.start_info(), fresh)
        return arrays, reward, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current state of every colony, [height, width, 3] uint8 each, in mode `rgb_array`."""
        if self.render_mode is None:
            return None
        return tuple(self._pictures.draw(index) for index in range(self.num_envs))


def _action_space(config: EnvConfig, level: str) -> spaces.Space:
    check_choice("level", level, ("node", "global"))
    if level == "node":
        return node_action_space(config)
    return spaces.Box(-1.0, 1.0, (len(GLOBAL_ACTIONS),), np.float32)


def _take(
    batch: Batch, level: str, action: Any, waiting: torch.Tensor | None = None
) -> tuple[Transition, Arrays, dict[str, Any]]:
    """One step with an action of the level: transition, observation [B,...], information [B]."""
    there = None if waiting is None else waiting.to(batch.world.device)
    wrong: torch.Tensor | int = 0
    if level == "node":
        decoded = batch.decode_node(action)
    else:
        decoded, wrong = batch.decode_global(action, there)
    transition, invalid = batch.step(decoded, there)
    seen = transition.observation if batch.form == "scaled" else batch.observe()
    return transition, observation_arrays(seen), batch.step_info(transition, invalid + wrong)


def _add_row(action: Any) -> Any:
    """The action of one colony as a batch of one."""
    if isinstance(action, Mapping):
        return {name: np.asarray(value)[None] for name, value in action.items()}
    return np.asarray(action)[None]


def _first(arrays: Arrays) -> Arrays:
    return {name: value[0] for name, value in arrays.items()}


def _rows(arrays: Arrays, which: np.ndarray) -> np.ndarray:
    """Last observations as Gymnasium keeps them: a dict per chosen colony, None elsewhere, [B] object."""
    rows = np.full(len(which), None, dtype=object)
    for index in np.flatnonzero(which):
        rows[index] = {name: value[index].copy() for name, value in arrays.items()}
    return rows


def _masked(info: Mapping[str, Any], mask: np.ndarray | None) -> dict[str, Any]:
    """Arrays [B] with Gymnasium's masks `_name` beside them, empty where the mask is false."""
    masked: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, Mapping):
            chosen = np.ones(len(next(iter(value.values()))), np.bool_) if mask is None else mask
            masked[name] = _masked(value, mask)
        else:
            chosen = np.ones(len(value), np.bool_) if mask is None else mask
            empty = None if value.dtype == object else value.dtype.type(0)
            masked[name] = np.where(chosen, value, empty)
        masked[f"_{name}"] = chosen.copy()
    return masked if mask is None or mask.any() else {}


def _merged(step: Mapping[str, Any], start: Mapping[str, Any], fresh: np.ndarray) -> dict[str, Any]:
    """The information of a step, but of the new episode where one began."""
    both = {name: np.where(fresh, start[name], step[name]) for name in start}
    others = {name: value for name, value in step.items() if name not in start}
    return {**_masked(both, None), **_masked(others, ~fresh)}


def _reset_mask(options: Mapping[str, Any] | None, num_envs: int) -> np.ndarray | None:
    if options is None or "reset_mask" not in options:
        return None
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        raise UserError(f"options['reset_mask'] must be a numpy array of bool, of shape [{num_envs}]")
    if not mask.any():
        raise UserError("options['reset_mask'] is false everywhere; leave out the call")
    return mask
