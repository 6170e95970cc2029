"""TorchRL: the batch as an `EnvBase` of tensors, with per-node actions.

Needs the extra: `pip install "durotaxis[torchrl]"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, Reason
from durotaxis.env.types import NUM_KINDS
from durotaxis.integrations.batch import Batch, make_config, spread_seed
from durotaxis.integrations.spaces import observation_space, observation_tensors

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
    from torchrl.envs import EnvBase
except ModuleNotFoundError as error:
    raise UserError(
        f'TorchRL is not installed (no module {error.name}): pip install "durotaxis[torchrl]"'
    ) from None

_MASKS = ("node_mask", "edge_mask", "action_mask")


@final
class ColonyTensorEnv(EnvBase):
    """A batch of colonies, batch-locked with batch size [B]; nothing leaves the device.

    The observation has the keys of the Gymnasium environments (`nodes`, `node_mask`, ..., masks as bool) and
    `info`: `episode_seed`, `reason`, `front_progress`, `num_nodes`, `invalid_actions`, each [B,1]. The action
    is nested: `("action", "kind")` [B,N] int64 and `("action", "parameters")` [B,N,4] in physical units.
    `terminated` and `truncated` stay apart, `done` is either; a partial reset follows the mask `_reset`, a
    partial step the mask `_step`: the others stay as they are, with reward 0.

    `set_seed(s)` lets colony i begin its next episode with seed s + i, and the later ones with hashes of it.

    Args:
        num_envs: B.
        scenario, config, device, invalid_action, observation_form, max_episode_steps: as in
            `durotaxis.integrations.ColonyVectorEnv`.

    Raises:
        UserError: an unknown scenario or choice, or a configuration that is not valid.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        *,
        device: str | torch.device = "cpu",
        invalid_action: str = "rest",
        observation_form: str = "scaled",
        max_episode_steps: int | None = None,
    ) -> None:
        world = make_config(scenario, config, max_episode_steps)
        colonies = Batch(world, num_envs, device, invalid_action, observation_form)
        super().__init__(device=colonies.world.device, batch_size=torch.Size([num_envs]))
        self._batch = colonies
        self._generator = np.random.default_rng()
        self._pending: list[int | None] = [None] * num_envs  # seeds that wait for their colony's next reset
        self._make_specs()

    @property
    def config(self) -> EnvConfig:
        """The world's configuration."""
        return self._batch.config

    @property
    def batch(self) -> Batch:
        """The colonies themselves."""
        return self._batch

    def _make_specs(self) -> None:
        batch, device, slots = self.batch_size, self.device, self.config.num_slots

        def flag(*shape: int) -> Categorical:
            return Categorical(2, shape=(*batch, *shape), dtype=torch.bool, device=device)

        def whole(*shape: int) -> Unbounded:
            return Unbounded(shape=(*batch, *shape), dtype=torch.int64, device=device)

        parts: dict[str, Any] = {}
        for name, space in _parts(self.config, self._batch.form).items():
            if name in _MASKS:
                parts[name] = Binary(shape=(*batch, *space.shape), dtype=torch.bool, device=device)
            else:
                low, high = (
                    torch.as_tensor(bound, device=device).expand(*batch, *space.shape).clone()
                    for bound in (space.low, space.high)
                )
                parts[name] = Bounded(low, high, shape=low.shape, dtype=low.dtype, device=device)
        progress = Bounded(0.0, 1.0, shape=(*batch, 1), dtype=torch.float32, device=device)
        info = {
            "episode_seed": whole(1),
            "reason": Categorical(len(Reason), shape=(*batch, 1), dtype=torch.int64, device=device),
            "front_progress": progress,
            "num_nodes": whole(1),
            "invalid_actions": whole(1),
        }
        self.observation_spec = Composite(
            {**parts, "info": Composite(info, shape=batch, device=device)}, shape=batch, device=device
        )
        bounds = self.config.spawn_bounds
        low, high = (
            torch.tensor(bound, device=device).expand(*batch, slots, 4).clone()
            for bound in (bounds.low, bounds.high)
        )
        kind = MultiCategorical([NUM_KINDS] * slots, shape=(*batch, slots), dtype=torch.int64, device=device)
        parameters = Bounded(low, high, shape=low.shape, dtype=torch.float32, device=device)
        action = Composite({"kind": kind, "parameters": parameters}, shape=batch, device=device)
        self.action_spec = Composite({"action": action}, shape=batch, device=device)
        self.reward_spec = Unbounded(shape=(*batch, 1), dtype=torch.float32, device=device)
        self.done_spec = Composite(
            {name: flag(1) for name in ("done", "terminated", "truncated")}, shape=batch, device=device
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        which = np.ones(len(self._pending), np.bool_) if mask is None else mask.reshape(-1).cpu().numpy()
        self._batch.begin(self._pending, self._generator, which)
        self._pending = [None if began else s for s, began in zip(self._pending, which, strict=True)]
        nothing = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)
        return self._pack(observation_tensors(self._batch.observe()), nothing)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self._batch.decode_node(tensordict.get("action", None))
        stepping = tensordict.get("_step", None)
        if stepping is None:
            transition, invalid = self._batch.step(action)
        else:
            transition, invalid = self._batch.step_some(action, ~stepping.reshape(-1))
        usual = stepping is None and self._batch.form == "scaled"
        seen = transition.observation if usual else self._batch.observe()
        return self._pack(observation_tensors(seen), invalid).set("reward", transition.reward[:, None])

    def _set_seed(self, seed: int | None) -> None:
        count = len(self._pending)
        self._pending = [None] * count if seed is None else [*spread_seed(seed, count)]

    def _pack(self, seen: dict[str, Tensor], invalid: Tensor) -> TensorDict:
        """What is told of the current state; who ended and was not begun anew is still at the end."""
        reason, ended = (value.to(invalid.device) for value in (self._batch.reason, self._batch.ended))
        truncated = ended & (reason == Reason.MAX_STEPS)
        info = {**self._batch.start_tensors(), "reason": reason, "invalid_actions": invalid}
        ends = {"terminated": ended & ~truncated, "truncated": truncated, "done": ended}
        return TensorDict(
            {
                **seen,
                "info": TensorDict({name: value[:, None] for name, value in info.items()}, self.batch_size),
                **{name: value[:, None] for name, value in ends.items()},
            },
            batch_size=self.batch_size,
            device=self.device,
        )


def _parts(config: EnvConfig, form: Any) -> Mapping[str, Any]:
    """The parts of the observation's space by name."""
    return observation_space(config, form).spaces  # type: ignore[attr-defined]
