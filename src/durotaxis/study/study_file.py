"""A study file: what is compared, where, with which seeds; `study.plan` resolves it to runs.

What can be seen in the file alone is refused here: seeds that mix tuning and reporting, an arm that was
chosen among more variants than the baseline, factors that are not crossed, names that nothing has.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from durotaxis.core.config import Config, KeyedError
from durotaxis.core.spelling import did_you_mean
from durotaxis.env.scenarios import SCENARIOS
from durotaxis.records import REPORT, TRAINED, TUNING
from durotaxis.study.config import leaves

TUNING_SEEDS = range(5)
FIRST_REPORT_SEED = 100
Intervention = Literal["uniform", "zero", "shuffled"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+,-]*")


class StartFrom(Config):
    """Whose training an arm goes on from: the same seed's run of another arm or scenario."""

    arm: str
    scenario: str | dict[str, str] | None = None  # default: the run's own; `{own: other}` per scenario
    by: Literal["weights", "distillation"] = "weights"  # take its weights, or be taught by it first
    steps: int | None = Field(default=None, ge=1)  # of the distillation, in environment steps

    @property
    def named_scenarios(self) -> tuple[str, ...]:
        """Every scenario it names."""
        if isinstance(self.scenario, dict):
            return (*self.scenario, *self.scenario.values())
        return () if self.scenario is None else (self.scenario,)

    def scenario_for(self, own: str) -> str:
        """The scenario of the run that the one in `own` starts from."""
        if isinstance(self.scenario, dict):
            return self.scenario.get(own, own)
        return own if self.scenario is None else self.scenario

    @model_validator(mode="after")
    def _steps_are_of_distillation(self) -> StartFrom:
        if (self.by == "distillation") != (self.steps is not None):
            need = "needs `steps`" if self.steps is None else "takes no `steps`"
            raise KeyedError("steps", f"`by: {self.by}` {need}")
        return self


class ArmConfig(Config):
    """One arm."""

    description: str = ""
    overrides: dict[str, Any] = Field(default_factory=dict)  # sections of a training configuration
    tried: tuple[str, ...] = ()  # variants of it looked at on tuning seeds before; one line each
    start_from: StartFrom | None = None
    factors: dict[str, str] = Field(default_factory=dict)  # factor -> level, of arms that are crossed


class ScenarioEntry(Config):
    """A world or setting of its own, for all arms."""

    name: str
    scenario: str | None = None  # of the package; default: the one called `name`
    overrides: dict[str, Any] = Field(default_factory=dict)  # sections of a training configuration


class EvaluationConfig(Config):
    """What is scored when a run has finished."""

    episodes: int = Field(default=100, ge=2)  # held-out episodes in the world of the training
    probe_episodes: int | None = Field(default=None, ge=2)  # of each score besides; default as many
    interventions: tuple[Intervention, ...] = ()  # R zero or of another colony; attention uniform
    scenarios: tuple[str, ...] = ()  # besides the run's own
    conditions: dict[str, dict[str, Any]] = Field(
        default_factory=dict
    )  # name -> changes of `env` under which it is judged, too

    @property
    def num_probe(self) -> int:
        """Episodes of each score besides the first."""
        return self.episodes if self.probe_episodes is None else self.probe_episodes

    @field_validator("scenarios")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for i, name in enumerate(value):
            if name not in SCENARIOS:
                raise KeyedError(str(i), _unknown_scenario(name))
        return value

    @field_validator("conditions")
    @classmethod
    def _named(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in value.items():
            if name == TRAINED or not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot be the name of a condition; use letters, digits, _ . -")
            for key in ("scenario", "observation"):
                if key in changes:
                    raise KeyedError(
                        f"{name}.{key}", "cannot be a condition; for other worlds use `scenarios`"
                    )
        return value


class StudyConfig(Config):
    """A study file.

    Attributes:
        question: what the study asks; the title of its report.
        base: configuration that all arms start from: a file beside the study's, or one of the package.
        overrides: sections over it, for all arms.
        arms: name -> what distinguishes it.
        baseline: the arm that others are compared with; the first by default.
        scenarios: worlds; names of the package's, or entries with `name`, `scenario` and `overrides`.
        control: those of them where no difference is expected; left out of aggregates.
        vary: dotted key -> values; every scenario is made once for every combination of them.
        seeds: within 0 to 4 to choose designs, from 100 on to report; a list, or `{first: 100, count: 10}`.
        evaluation: what is scored at the end of a run.
        attempts: how often a run that crashes is started, at most.
    """

    question: str
    base: str = "quick"
    overrides: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, ArmConfig] = Field(min_length=1)
    baseline: str = ""
    scenarios: tuple[ScenarioEntry, ...] = Field(min_length=1)
    control: tuple[str, ...] = ()
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    seeds: tuple[StrictInt, ...] = Field(min_length=1)
    evaluation: EvaluationConfig = EvaluationConfig()
    attempts: int = Field(default=2, ge=1)

    @field_validator("scenarios", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return [{"name": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("seeds", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            if set(value) != {"first", "count"} or not all(type(v) is int for v in value.values()):
                raise ValueError("give a list of seeds, or `{first: 100, count: 10}`")
            return tuple(range(value["first"], value["first"] + value["count"]))
        return value

    @field_validator("seeds")
    @classmethod
    def _tuning_or_report(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a seed is listed twice")
        if not (set(value) <= set(TUNING_SEEDS) or min(value) >= FIRST_REPORT_SEED):
            raise ValueError(
                f"seeds are {TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}, to choose designs on, or from "
                f"{FIRST_REPORT_SEED} on, to report, never both in a study"
            )
        return value

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, value: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise KeyedError(
                    name.replace(".", "_"), "an arm's name is made of letters, digits, _ . = + , -"
                )
        return value

    @field_validator("vary")
    @classmethod
    def _varied(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in value.items():
            if not values:
                raise ValueError(f"{key} has no values")
        return value

    @model_validator(mode="before")
    @classmethod
    def _first_is_baseline(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("baseline") and isinstance(data.get("arms"), Mapping):
            return {**data, "baseline": next(iter(data["arms"]), "")}
        return data

    @model_validator(mode="after")
    def _names_are_known(self) -> StudyConfig:
        if self.baseline not in self.arms:
            raise KeyedError("baseline", _unknown("arm", self.baseline, self.arms))
        names = [entry.name for entry in self.scenarios]
        for i, entry in enumerate(self.scenarios):
            if names.count(entry.name) > 1:
                raise KeyedError(f"scenarios.{i}", f"'{entry.name}' is listed twice")
            if not _NAME.fullmatch(entry.name):
                raise KeyedError(f"scenarios.{i}", "a name is made of letters, digits, _ . = + , -")
            if (entry.scenario or entry.name) not in SCENARIOS:
                raise KeyedError(f"scenarios.{i}", _unknown_scenario(entry.scenario or entry.name))
            if entry.name in SCENARIOS and entry.scenario not in (None, entry.name):
                raise KeyedError(
                    f"scenarios.{i}", f"'{entry.name}' is another scenario's name; take a new one"
                )
        for i, name in enumerate(self.control):
            if name not in names:
                raise KeyedError(f"control.{i}", _unknown("scenario", name, names))
        for name, arm in self.arms.items():
            start = arm.start_from
            if start is None:
                continue
            if start.arm not in self.arms:
                raise KeyedError(f"arms.{name}.start_from.arm", _unknown("arm", start.arm, self.arms))
            for other in start.named_scenarios:
                if other not in names:
                    raise KeyedError(f"arms.{name}.start_from.scenario", _unknown("scenario", other, names))
        return self

    @model_validator(mode="after")
    def _factors_are_crossed(self) -> StudyConfig:
        _require_crossed({name: arm.factors for name, arm in self.arms.items() if arm.factors})
        return self

    @model_validator(mode="after")
    def _only_the_study_says_where_and_with_which_seed(self) -> StudyConfig:
        places = {"overrides": self.overrides}
        places |= {f"arms.{name}.overrides": arm.overrides for name, arm in self.arms.items()}
        places |= {f"scenarios.{i}.overrides": entry.overrides for i, entry in enumerate(self.scenarios)}
        places |= {"vary": dict.fromkeys(self.vary)}
        for place, overrides in places.items():
            keys = list(overrides) if place == "vary" else [key for key, _ in leaves(overrides)]
            for key in ("run.seed", "run.directory", "env.scenario"):
                if key in keys:
                    raise KeyedError(
                        f"{place}", f"{key} is set by `seeds`, `scenarios` and --directory alone"
                    )
            if place != "overrides" and any(key.startswith("run.") for key in keys):
                raise KeyedError(place, "`run` is the same for all; set it in the study's overrides")
        return self

    @model_validator(mode="after")
    def _something_counts(self) -> StudyConfig:
        if {entry.name for entry in self.scenarios} <= set(self.control):
            raise KeyedError("control", "names every scenario, so nothing would be compared; leave one out")
        return self

    @model_validator(mode="after")
    def _variants_are_fair(self) -> StudyConfig:
        """The baseline deserves as many trials as any other arm."""
        most = len(self.arms[self.baseline].tried)
        for name, arm in self.arms.items():
            if self.purpose == REPORT and len(arm.tried) > most:
                raise KeyedError(
                    f"arms.{name}.tried",
                    f"was chosen among {len(arm.tried)} variants, the baseline {self.baseline} among {most}; "
                    "give the baseline as many trials on tuning seeds first",
                )
        return self

    @property
    def purpose(self) -> str:
        """TUNING or REPORT, by its seeds."""
        return TUNING if self.seeds[0] in TUNING_SEEDS else REPORT


def _require_crossed(arms: Mapping[str, Mapping[str, str]]) -> None:
    """Raise KeyedError unless the arms with factors are one of each combination of their levels."""
    first, factors = next(iter(arms.items()), ("", {}))
    cells: dict[tuple[str, ...], str] = {}
    for name, levels in arms.items():
        if wrong := [word for pair in levels.items() for word in pair if not _NAME.fullmatch(word)]:
            raise KeyedError(
                f"arms.{name}.factors",
                f"'{wrong[0]}': factors and levels are made of letters, digits, _ . = + , -",
            )
        if set(levels) != set(factors):
            raise KeyedError(
                f"arms.{name}.factors",
                f"names {', '.join(levels)}, the arm {first} {', '.join(factors)}; arms that are crossed "
                "have the same ones",
            )
        cell = tuple(levels[factor] for factor in factors)
        if cell in cells:
            raise KeyedError(f"arms.{name}.factors", f"has the levels of the arm {cells[cell]}")
        cells[cell] = name
    known = {factor: list(dict.fromkeys(levels[factor] for levels in arms.values())) for factor in factors}
    for factor, levels_of in known.items():
        if len(levels_of) == 1:
            raise KeyedError(
                f"arms.{first}.factors.{factor}",
                f"is {levels_of[0]} in every arm; a factor has two levels or more, so leave it out",
            )
    for cell in itertools.product(*known.values()):
        if arms and cell not in cells:
            lacking = ", ".join(f"{factor}: {level}" for factor, level in zip(known, cell, strict=True))
            raise KeyedError("arms", f"no arm has {{{lacking}}}; factors need one for every combination")


def _unknown(what: str, name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    return f"there is no {what} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"


def _unknown_scenario(name: str) -> str:
    return _unknown("scenario", name, list(SCENARIOS))
