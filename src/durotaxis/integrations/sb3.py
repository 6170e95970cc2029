"""Stable-Baselines3: a vectorised environment over the native batch, and a feature extractor for its graphs.

Needs the extra: `pip install "durotaxis[sb3]"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.integrations.actions import GLOBAL_ACTIONS, NODE_NUMBERS
from durotaxis.integrations.batch import Batch, check_choice, info_of, make_config, spread_seed
from durotaxis.integrations.pictures import Pictures
from durotaxis.integrations.spaces import observation_arrays, observation_space

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise UserError(
        f'Stable-Baselines3 is not installed (no module {error.name}): pip install "durotaxis[sb3]"'
    ) from None

Arrays = dict[str, np.ndarray]


@final
class ColonyVecEnv(VecEnv):
    """A batch of colonies as an SB3 `VecEnv`: stepped together, reset in the same step as they end.

    SB3 takes no Dict actions, so the levels are boxes in [-1, 1]:

    - `global`: [5], `durotaxis.integrations.global_action`.
    - `node`: [N,7], `durotaxis.integrations.preferred_action`: three preferences, of which the largest that
      is allowed is taken, and four parameters. SB3's policies draw numbers for all N slots, empty ones too,
      and their log-probability counts them: expect slow learning. `durotaxis train` is exact here.

    `infos[i]` carries `terminal_observation` and `TimeLimit.truncated` where an episode ended, and what the
    Gymnasium environments tell: reason, terms, front_progress, num_nodes, episode_seed, counts.

    Args:
        num_envs: B.
        seed: of the next reset, colony i plays seed + i; None starts anywhere.
        scenario, config, level, device, invalid_action, observation_form, render_mode: as in
            `durotaxis.integrations.ColonyVectorEnv`; `level` is `global` by default.

    Raises:
        UserError: an unknown scenario or choice, or a configuration that is not valid.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        *,
        level: str = "global",
        seed: int | None = None,
        render_mode: str | None = None,
        device: str | torch.device = "cpu",
        invalid_action: str = "rest",
        observation_form: str = "scaled",
    ) -> None:
        world = make_config(scenario, config)
        check_choice("level", level, ("node", "global"))
        if render_mode is not None:
            check_choice("render_mode", render_mode, ("rgb_array",))
        self._batch = Batch(world, num_envs, device, invalid_action, observation_form)
        self._level = level
        self._pictures = Pictures(self._batch)
        self._generator = np.random.default_rng()
        self._attributes: dict[str, list[Any]] = {"render_mode": [render_mode] * num_envs}
        self._actions: Any = None
        shape = (len(GLOBAL_ACTIONS),) if level == "global" else (world.num_slots, NODE_NUMBERS)
        super().__init__(
            num_envs, observation_space(world, self._batch.form), spaces.Box(-1.0, 1.0, shape, np.float32)
        )
        if seed is not None:
            self.seed(seed)

    @property
    def config(self) -> EnvConfig:
        """The world's configuration."""
        return self._batch.config

    @property
    def batch(self) -> Batch:
        """The colonies themselves."""
        return self._batch

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds of the next reset: colony i plays seed + i; None starts anywhere.

        Raises:
            UserError: one of them is no integer from 0 to 2^63 - 1.
        """
        if seed is None:
            return super().seed()
        self._seeds = [*spread_seed(seed, self.num_envs)]
        return self._seeds

    def reset(self) -> Arrays:
        """Start an episode everywhere: those of `seed()`, or the next of each colony's stream."""
        self._batch.begin(self._seeds, self._generator)
        self._reset_seeds()
        self._reset_options()
        info = self._batch.start_info()
        self.reset_infos = [info_of(info, index) for index in range(self.num_envs)]
        return observation_arrays(self._batch.observe())

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [B,...] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One decision period of every colony; colonies that end are reset at once."""
        decode = self._batch.decode_global if self._level == "global" else self._batch.decode_preferred
        action, wrong = decode(self._actions)
        transition, invalid = self._batch.step(action)
        arrays = self._see(transition.observation)
        info = self._batch.step_info(transition, invalid + wrong)
        infos = [info_of(info, index) for index in range(self.num_envs)]
        truncated, ended = transition.truncated.cpu().numpy(), self._batch.ended.numpy().copy()
        for index in range(self.num_envs):
            infos[index]["TimeLimit.truncated"] = bool(truncated[index])
            if ended[index]:
                infos[index]["terminal_observation"] = {name: v[index].copy() for name, v in arrays.items()}
        if ended.any():
            self._batch.begin([None] * self.num_envs, self._generator, ended)
            arrays = observation_arrays(self._batch.observe())
            fresh = self._batch.start_info()
            for index in np.flatnonzero(ended).tolist():
                self.reset_infos[index] = info_of(fresh, index)
        return arrays, transition.reward.cpu().numpy().copy(), ended, infos

    def close(self) -> None:
        """Nothing to release."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The current state of every colony, [height, width, 3] uint8 each."""
        return [self._pictures.draw(index) for index in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute per colony: one set by `set_attr`, or the batch's own."""
        chosen = list(self._get_indices(indices))
        if attr_name in self._attributes:
            return [self._attributes[attr_name][index] for index in chosen]
        if attr_name.startswith("_") or not hasattr(self, attr_name):
            raise AttributeError(f"ColonyVecEnv has no attribute '{attr_name}'")
        return [getattr(self, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Note a value beside each colony; the world is set by its configuration alone.

        Raises:
            UserError: the name is an attribute of the batch.
        """
        if attr_name not in self._attributes and hasattr(self, attr_name):
            raise UserError(
                f"'{attr_name}' belongs to the whole batch and is not set per colony; make a new ColonyVecEnv"
            )
        values = self._attributes.setdefault(attr_name, [None] * self.num_envs)
        for index in self._get_indices(indices):
            values[index] = value

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """There are no environments under this one.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"ColonyVecEnv has one batch and no single environments, so '{method_name}' cannot be called on "
            "them; use its own methods, or DummyVecEnv over gymnasium.make"
        )

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """False for every colony: there is nothing to wrap."""
        return [False for _ in self._get_indices(indices)]

    def _see(self, observation: Any) -> Arrays:
        return observation_arrays(observation if self._batch.form == "scaled" else self._batch.observe())


@final
class GraphExtractor(BaseFeaturesExtractor):
    """Features of a padded colony: mean and maximum over living nodes, and the graph's own features.

    Each node goes through one small network; what stands in empty slots has no influence.

    Args:
        observation_space: of a colony, as `observation_space` makes it.
        features_dim: width of the result.
        hidden_dim: width per node.

    Raises:
        UserError: the space is that of another environment.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 64, hidden_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        if not isinstance(observation_space, spaces.Dict) or not {"nodes", "graph"} <= set(observation_space):
            raise UserError(
                "GraphExtractor wants the observation space of a colony, a Dict with nodes and graph"
            )
        node_dim, graph_dim = (np.shape(observation_space[name].sample())[-1] for name in ("nodes", "graph"))
        self.node = nn.Sequential(
            nn.Linear(node_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU()
        )
        self.out = nn.Sequential(nn.Linear(2 * hidden_dim + graph_dim, features_dim), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features [B, features_dim] of observations [B,...]."""
        mask = observations["node_mask"].to(torch.bool)[..., None]
        tokens = torch.where(mask, self.node(observations["nodes"]), 0.0)  # at least 0, so 0 is no maximum
        mean = tokens.sum(1) / mask.sum(1).clamp_min(1)
        return self.out(torch.cat([mean, tokens.amax(1), observations["graph"]], -1))
