"""Configuration of a whole run: every layer's sections in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from durotaxis.agent.config import ActorCriticConfig, EncoderConfig
from durotaxis.core.config import Config, KeyedError
from durotaxis.core.errors import UserError
from durotaxis.core.spelling import did_you_mean
from durotaxis.env.config import EnvConfig
from durotaxis.ppo.config import MonitorConfig, PPOConfig, TrainingConfig


class RunConfig(Config):
    """Where, on what and with which seed a run takes place."""

    seed: int = Field(default=0, ge=0, lt=2**63)  # of weights, episodes, actions and minibatches
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    directory: str | None = None  # the run directory; default runs/<name of the file>-<first free number>
    threads: int | None = Field(default=None, ge=1)  # of torch on the CPU; default its own choice

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", value):
            raise ValueError("must be auto, cpu, cuda or cuda:<number>")
        return value


class RootConfig(Config):
    """One configuration file. Every section may be left out."""

    env: EnvConfig = EnvConfig()
    encoder: EncoderConfig = EncoderConfig()
    actor_critic: ActorCriticConfig = ActorCriticConfig()
    ppo: PPOConfig = PPOConfig()
    training: TrainingConfig = TrainingConfig()
    monitor: MonitorConfig = MonitorConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _observe_the_field(cls, data: Any) -> Any:
        """`env.observation.field`, when it is not given, follows from what the image is made of."""
        if not isinstance(data, Mapping) or _nested(data, "actor_critic", "image", "source") == "tokens":
            return data
        env = data.get("env", {})
        observation = env.get("observation", {}) if isinstance(env, Mapping) else None
        if not isinstance(observation, Mapping) or "field" in observation:
            return data
        return {**data, "env": {**env, "observation": {**observation, "field": True}}}

    @model_validator(mode="after")
    def _field_is_observed(self) -> RootConfig:
        if self.actor_critic.image.source == "field" and not self.env.observation.field:
            raise KeyedError(
                "env.observation.field", "must be true while actor_critic.image.source is `field`"
            )
        return self

    @model_validator(mode="after")
    def _newcomers_enter_and_ramp(self) -> RootConfig:
        """Gates change between rollouts only, so entries and ramps are measured by these."""
        if not self.actor_critic.use_wsa:
            return self
        rollout = self.ppo.steps_per_rollout
        last = (self.training.num_iterations(self.ppo) - 1) * rollout
        for i, ptm in enumerate(self.actor_critic.wsa_config.ptms):
            key = f"actor_critic.wsa_config.ptms.{i}"
            if ptm.enters_at > last:
                raise KeyedError(
                    f"{key}.enters_at",
                    f"{ptm.name} would never enter: the last rollout begins at step {last:,}; let it enter "
                    "by then, or train for more training.total_steps",
                )
            if 0 < ptm.ramp_steps <= rollout:
                raise KeyedError(
                    f"{key}.ramp_steps",
                    f"{ptm.name} would enter in full with its second rollout, since one takes {rollout:,} "
                    "steps; give it a longer ramp, or 0 to enter at once",
                )
        return self


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    package = Path(__file__).parents[1]
    places = (package / "configs", package.parents[1] / "configs")
    folder = next((place for place in places if place.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str | Path) -> Path:
    """A configuration file: a path, or the name of one that comes with the package (`quick`).

    Raises:
        UserError: there is no such file.
    """
    path, shipped = Path(name), shipped_configs()
    if path.exists():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    hint = did_you_mean(path.stem, shipped)
    raise UserError(f"{name}: no such file{hint}; with the package come: {', '.join(shipped) or 'none'}")


def _nested(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    return data
