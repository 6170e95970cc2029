"""What PPO needs of a world and of a policy. It knows neither colonies nor networks.

B slots (colonies), N node slots. Observations, samples, actions and caches are `Struct`s whose tensors all
lead with B. A field with a node dimension is named in the class attribute `node_fields`, so that minibatches
can be narrowed to their largest colony.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from durotaxis.core.schedule import Clock
from durotaxis.core.struct import Struct


@runtime_checkable
class StepResult(Protocol):
    """What `World.step` returns."""

    @property
    def observation(self) -> Struct:
        """The observation after the step; the last of its episode where an end is flagged."""

    @property
    def reward(self) -> Tensor:
        """[B] float32."""

    @property
    def terms(self) -> dict[str, Tensor]:
        """Named parts of the reward, each [B]; their sum is the reward."""

    @property
    def terminated(self) -> Tensor:
        """[B] bool: the episode's own end; nothing follows, so its value is 0."""

    @property
    def truncated(self) -> Tensor:
        """[B] bool: cut by a limit; the value of the last observation still counts."""

    @property
    def reason(self) -> Tensor:
        """[B] int64, index into `World.reason_names`."""


@runtime_checkable
class World(Protocol):
    """A batch of B episodes. Never resets by itself. An action of zeros must always be valid."""

    @property
    def num_colonies(self) -> int:
        """B."""

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""

    @property
    def reason_names(self) -> tuple[str, ...]:
        """Names of the ends; "success" among them is what success rates count."""

    def reset(self, seeds: Tensor) -> Struct:
        """Start an episode in every slot; seeds [B] int64. Returns the observation."""

    def step(self, action: Any) -> StepResult:
        """Take one step in every slot."""

    def reset_where(self, mask: Tensor, seeds: Tensor) -> Struct:
        """Start a new episode where `mask` [B]; returns the observation of the whole batch.

        With an empty mask it changes nothing and returns the present observation.
        """

    def summary(self) -> dict[str, Tensor]:
        """Numbers of the present state, each [B].

        "phase" (int64) is the index into records.PHASES; "stage" (int64), where there are stages, the index
        of the one in which the present episode began.
        """

    def state_dict(self) -> dict[str, Any]:
        """The present state: nested dicts and lists of tensors, numbers and strings."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state saved by `state_dict`."""


@runtime_checkable
class StagedWorld(World, Protocol):
    """A world whose rules change from stage to stage, for a training with a curriculum."""

    def begin_stage(self, stage: int, share: float = 1.0) -> None:
        """Episodes that begin from now on are of `stage` with probability `share`, else of the one before.

        Which of the two is a pure function of the episode's seed. Called before every rollout.
        """


@runtime_checkable
class Choice(Protocol):
    """What `evaluate` needs of a batch of action distributions."""

    def sample(self, keys: Tensor) -> Struct:
        """Draw; keys [B] int64. A pure function of the keys and the distribution's parameters."""

    def mode(self) -> Struct:
        """The most likely action of every node."""


@runtime_checkable
class Distribution(Choice, Protocol):
    """A batch of action distributions, one factor per node.

    An optional attribute `penalty`, a scalar with gradient, is added to the loss.
    """

    @property
    def node_mask(self) -> Tensor:
        """[B,N] bool: which node slots are living. All others contribute exactly 0 everywhere."""

    def log_prob(self, sample: Any) -> Tensor:
        """[B,N] float32, 0 in empty slots."""

    def entropy(self) -> tuple[Tensor, Tensor]:
        """Of the kind and of the parameters (times detached p(spawn)), each [B,N], 0 in empty slots."""


@runtime_checkable
class Player(Protocol):
    """What `evaluate` needs of a policy: it acts, and does not learn."""

    def __call__(self, observation: Any, cached: Any = None) -> tuple[Choice, Tensor]:
        """What to choose from, and the value: [B], or several that add up, [B,V]."""

    def precompute(self, observation: Any) -> Any:
        """What to hand back as `cached`."""

    def to_action(self, sample: Any, observation: Any) -> Any:
        """The world's action, in its units."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""


@runtime_checkable
class Policy(Protocol):
    """A torch module. `frozen` parts are those whose parameters need no gradient.

    Two optional attributes: `value_names`, names of the reward terms that it has values of, whose sum is the
    value of the state; without it, one value is of the total. And `value_head`, a `ppo.value.ValueScale`, for
    ppo.normalize_value.
    """

    def __call__(self, observation: Any, cached: Any = None) -> tuple[Distribution, Tensor]:
        """The action distribution and the value: [B], or one per name of `value_names`, [B,V]."""

    def begin_iteration(self, when: Clock) -> bool:
        """Follow whatever schedules there are, as a pure function of where training stands.

        Called before each rollout, never within one. Returns whether what `precompute` returned last no
        longer holds.
        """

    def later_parts(self) -> Sequence[str]:
        """Frozen parts that a schedule lets learn later, named as `parameter_groups` will name them."""

    def precompute(self, observation: Any, keys: Tensor | None = None) -> Struct | None:
        """Outputs of frozen parts, without gradient, and the policy's own draws; handed back as `cached`.

        `keys` [B] int64 are given in a rollout alone: whatever is random in the policy beside its actions is
        drawn from them here, so that the update repeats it. None is returned when there is nothing to keep.
        """

    def to_action(self, sample: Any, observation: Any) -> Any:
        """The world's action, in its units."""

    def diagnostics(
        self, observation: Any, cached: Any = None, groups: Mapping[str, Tensor] | None = None
    ) -> dict[str, dict[str, Any]]:
        """What to watch, such as the mean attention per PTM and their names.

        Under "all" of all colonies, and under its name of each of `groups` of them, masks [B] bool. Left out
        where there is nothing to watch.
        """

    def frozen_hash(self) -> str:
        """A hash of all frozen parameters and buffers."""

    def frozen_hashes(self) -> dict[str, str]:
        """The same for each frozen part alone, named as in `parameter_groups` if it were trained."""

    def require_ready(self) -> None:
        """Raise UserError when something is still to be done before the policy, as it is, can be trained.

        Called before the first iteration, and again whenever the set of trainable parameters changed.
        """

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Named parts, trainable parameters only, disjoint and complete."""

    def eval(self) -> Any:
        """Switch to evaluation mode, in which PPO keeps it throughout."""

    def state_dict(self) -> dict[str, Any]:
        """As torch.nn.Module."""

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """As torch.nn.Module."""

    def named_parameters(self) -> Any:
        """As torch.nn.Module."""
