"""Configuration of a whole run: every layer's sections in one file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from durotaxis.agent.config import ActorCriticConfig, EncoderConfig
from durotaxis.core.config import Config, KeyedError, merge
from durotaxis.core.errors import UserError
from durotaxis.core.schedule import AfterEpisode, AtStage, walk_moments, walk_schedules
from durotaxis.core.spelling import did_you_mean
from durotaxis.env.config import EnvConfig
from durotaxis.env.stages import StageError, stage_configs
from durotaxis.ppo.config import MonitorConfig, PPOConfig, TrainingConfig
from durotaxis.ppo.curriculum import earliest_beginnings


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

    def settled(self) -> RootConfig:
        """The same with `env` in the form that all stages of the curriculum share: slots and scale of counts.

        Without a curriculum it is the same throughout.
        """
        worlds = self._worlds()
        if worlds is None:
            return self
        stages = zip(self.training.curriculum, worlds[1], strict=True)
        pinned = tuple(stage.model_copy(update={"env": _pinned(stage.env, world)}) for stage, world in stages)
        training = self.training.model_copy(update={"curriculum": pinned})
        return self.model_copy(update={"env": worlds[0], "training": training})

    @property
    def stage_worlds(self) -> tuple[EnvConfig, ...]:
        """The world of each stage of the curriculum, in order; none without a curriculum."""
        worlds = self._worlds()
        return () if worlds is None else worlds[1]

    def _worlds(self) -> tuple[EnvConfig, tuple[EnvConfig, ...]] | None:
        curriculum = self.training.curriculum
        return stage_configs(self.env, [stage.env for stage in curriculum]) if curriculum else None

    @model_validator(mode="after")
    def _stages_have_worlds(self) -> RootConfig:
        try:
            self._worlds()
        except StageError as error:
            raise error.below("training", "curriculum") from error
        return self

    @property
    def moments(self) -> tuple[AfterEpisode | AtStage, ...]:
        """Every moment, other than steps, that a schedule waits for."""
        return tuple(dict.fromkeys(moment for _, moment in walk_moments(self)))

    @property
    def last_begin(self) -> int:
        """Environment step at which the last rollout begins: what happens later never happens."""
        return (self.training.num_iterations(self.ppo) - 1) * self.ppo.steps_per_rollout

    @model_validator(mode="after")
    def _stages_are_known_and_in_order(self) -> RootConfig:
        names = [stage.name for stage in self.training.curriculum]
        for key, moment in walk_moments(self):
            if isinstance(moment, AtStage) and moment.stage not in names:
                known = (
                    f"; the stages are {', '.join(names)}" if names else "; there is no training.curriculum"
                )
                raise KeyedError(
                    key, f"there is no stage '{moment.stage}'{did_you_mean(moment.stage, names)}{known}"
                )
        for key, schedule in walk_schedules(self):
            order = [names.index(c.at.stage) for c in schedule.changes if isinstance(c.at, AtStage)]
            for i, (first, second) in enumerate(itertools.pairwise(order), start=1):
                if second <= first:
                    raise KeyedError(
                        f"{key}.changes.{i}.at", f"goes backwards: {names[second]} after {names[first]}"
                    )
        return self

    @model_validator(mode="after")
    def _penalties_see_whole_minibatches(self) -> RootConfig:
        wsa = self.actor_critic.wsa_config
        penalties = (wsa.attention_entropy_coefficient, wsa.attention_balance_coefficient)
        if self.actor_critic.use_wsa and self.ppo.microbatch_size is not None and any(penalties):
            raise KeyedError(
                "ppo.microbatch_size",
                "attention penalties are no means over colonies, so a minibatch cannot be split; set the "
                "coefficients of attention in actor_critic.wsa_config to 0, or microbatch_size to null",
            )
        return self

    @model_validator(mode="after")
    def _stages_begin(self) -> RootConfig:
        begins = earliest_beginnings(self.training.curriculum, self.ppo.steps_per_rollout)
        for i, (stage, begin) in enumerate(zip(self.training.curriculum[1:], begins[1:], strict=True)):
            if begin > self.last_begin:
                raise KeyedError(
                    f"training.curriculum.{i}.max_steps",
                    f"stage '{stage.name}' would never begin: it waits for step {begin:,}, the last rollout "
                    f"begins at step {self.last_begin:,}; train for more training.total_steps",
                )
        return self

    @model_validator(mode="after")
    def _changes_begin(self) -> RootConfig:
        for key, schedule in walk_schedules(self):
            for i, change in enumerate(schedule.changes):
                if isinstance(change.at, int) and change.at > self.last_begin:
                    raise KeyedError(
                        f"{key}.changes.{i}.at",
                        f"would never begin: the last rollout begins at step {self.last_begin:,}; let it "
                        "begin by then, or train for more training.total_steps",
                    )
        return self

    @model_validator(mode="after")
    def _newcomers_enter_and_ramp(self) -> RootConfig:
        """Gates change between rollouts only, so entries and ramps are measured by these."""
        actor, rollout, last = self.actor_critic, self.ppo.steps_per_rollout, self.last_begin
        section = "actor_critic.wsa_config.ptms"
        ptms = {f"{section}.{i}": ptm for i, ptm in enumerate(actor.wsa_config.ptms)}
        for key, ptm in (ptms if actor.use_wsa else {"actor_critic.backbone": actor.backbone}).items():
            model = ptm.name or ptm.model_type
            for name, moment, verb in (
                ("enters_at", ptm.enters_at, "enter"),
                ("unfreeze_at", ptm.unfreeze_at, "learn"),
            ):
                if isinstance(moment, int) and moment > last:
                    raise KeyedError(
                        f"{key}.{name}",
                        f"{model} would never {verb}: the last rollout begins at step {last:,}; let it "
                        f"{verb} by then, or train for more training.total_steps",
                    )
            if 0 < ptm.ramp_steps <= rollout:
                raise KeyedError(
                    f"{key}.ramp_steps",
                    f"{model} would enter in full with its second rollout, since one takes {rollout:,} "
                    "steps; give it a longer ramp, or 0 to enter at once",
                )
        return self


def _pinned(env: Mapping[str, Any], world: EnvConfig) -> dict[str, Any]:
    """The keys of a stage, with the digest of its map as it is now."""
    if _nested(env, "substrate", "map", "file") is None:
        return dict(env)
    return merge(env, {"substrate": {"map": {"sha256": world.substrate.map.sha256}}})


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    return _shipped("*.yaml")


def shipped_studies() -> dict[str, Path]:
    """Name -> file of the studies that come with the package."""
    return _shipped("studies/*.yaml")


def _shipped(pattern: str) -> dict[str, Path]:
    package = Path(__file__).parents[1]
    places = (package / "configs", package.parents[1] / "configs")
    folder = next((place for place in places if place.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob(pattern))} if folder else {}


def find_config(name: str | Path) -> Path:
    """A configuration file: a path, or the name of one that comes with the package (`quick`).

    Raises:
        UserError: there is no such file.
    """
    return find_file(name, shipped_configs(), "file")


def find_file(name: str | Path, shipped: Mapping[str, Path], what: str) -> Path:
    """A path, or one of `shipped` by name; a folder that has such a name does not hide it.

    Raises:
        UserError: there is none; it is called a `what`.
    """
    path = Path(name)
    if path.is_file() or (path.exists() and str(name) not in shipped):
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    hint = did_you_mean(path.stem, shipped)
    raise UserError(f"{name}: no such {what}{hint}; with the package come: {', '.join(shipped) or 'none'}")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested plain values; lists without mappings are values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{index}")
    else:
        yield path, value


def _nested(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    return data
