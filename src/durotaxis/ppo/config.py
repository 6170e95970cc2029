"""Configuration of learning: sections `ppo`, `training` and `monitor`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from durotaxis.core.config import Config, KeyedError
from durotaxis.core.schedule import Clock, Schedule
from durotaxis.core.schedule import at as value_at
from durotaxis.ppo.curriculum import Curriculum, check_curriculum

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1)]

_SCHEDULED = ("learning_rate", "clip_range", "entropy_kind", "entropy_parameters")


class PPOConfig(Config):
    """The algorithm: what one rollout and one update do.

    Where a number or a schedule may stand, a schedule moves between an update and the next rollout; see
    `durotaxis.core.schedule.Schedule`.
    """

    num_colonies: int = Field(default=48, ge=1, le=1_000_000)  # slots of the batch
    rollout_steps: int = Field(default=32, ge=1)  # vector steps per rollout
    num_epochs: int = Field(default=4, ge=1)
    num_minibatches: int = Field(default=4, ge=1)  # of equal numbers of colony-steps
    microbatch_size: int | None = Field(default=None, ge=1)  # most colony-steps in memory at once; same step
    learning_rate: Rate | Schedule[Rate] = 5e-4  # Adam, epsilon 1e-5; or a schedule
    learning_rate_factors: dict[str, NonNegative] = Field(default_factory=dict)  # part of the policy: factor
    discount: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    normalize_advantage: bool = True  # over the whole rollout
    clip_range: Positive | Schedule[Positive] = 0.2  # or a schedule
    ratio: Literal["node", "graph"] = "node"  # each node's ratio clipped, or their product
    node_reduction: Literal["mean", "sum"] = "mean"  # of node terms within a colony
    value_coefficient: NonNegative = 0.5
    value_loss: Literal["mse", "huber"] = "mse"
    value_clip: Positive | None = None  # largest change of a value within one update that still counts
    normalize_value: bool = False  # learn values in units of their targets' standard deviation
    entropy_kind: NonNegative | Schedule[NonNegative] = 0.01  # coefficient, or a schedule of it
    entropy_parameters: NonNegative | Schedule[NonNegative] = 0.001  # coefficient, or a schedule of it
    max_grad_norm: Positive = 0.5
    target_kl: Positive | None = 0.03  # nat; the update stops at a minibatch above it

    @model_validator(mode="after")
    def _learns(self) -> PPOConfig:
        rate = self.learning_rate
        if not any(rate.values if isinstance(rate, Schedule) else (rate,)):
            raise KeyedError("learning_rate", "is 0 throughout, so nothing would be learned")
        return self

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPOConfig:
        if self.steps_per_rollout % self.num_minibatches:
            raise ValueError(
                f"num_minibatches ({self.num_minibatches}) must divide "
                f"num_colonies * rollout_steps ({self.steps_per_rollout})"
            )
        return self

    @property
    def steps_per_rollout(self) -> int:
        """Environment steps over all colonies in one rollout."""
        return self.num_colonies * self.rollout_steps

    def at(self, clock: Clock) -> PPOConfig:
        """The same with a plain number in the place of every schedule."""
        return self.model_copy(update={name: value_at(getattr(self, name), clock) for name in _SCHEDULED})


class TrainingConfig(Config):
    """How long to train, and what happens along the way. Steps are environment steps over all colonies."""

    total_steps: int = Field(default=100_000, ge=1)  # rounded up to whole rollouts
    evaluate_every: int = Field(default=0, ge=0)  # steps; 0: never. The last iteration is always evaluated
    evaluation_episodes: int = Field(default=20, ge=1)  # tuning seeds, the same at every evaluation
    checkpoint_every: int = Field(default=20_000, ge=0)  # steps; 0: at the end only
    curriculum: Curriculum = ()  # stages of the environment, in order; none: one world throughout

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> TrainingConfig:
        try:
            check_curriculum(self.curriculum)
        except KeyedError as error:
            raise KeyedError(".".join(map(str, ("curriculum", *error.path))), str(error)) from error
        return self

    def num_iterations(self, ppo: PPOConfig) -> int:
        """Whole rollouts needed for `total_steps`."""
        return -(-self.total_steps // ppo.steps_per_rollout)


class MonitorConfig(Config):
    """What is written beside the records."""

    tensorboard: bool = True
    attention_every: int = Field(default=1, ge=0)  # iterations between rows of attention.jsonl; 0: never
    console_every: int = Field(
        default=100, ge=0
    )  # finished episodes between attention on the console; 0: never
