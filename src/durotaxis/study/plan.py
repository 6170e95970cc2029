"""A study file: arms x scenarios x seeds, and every run that follows from it.

Nothing is run here. What cannot be compared fairly is refused here: arms with another budget or another
world, seeds that mix tuning and reporting, an arm that was chosen among more variants than the baseline.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from durotaxis.core.config import Config, ConfigError, KeyedError, build_config, load_config, merge
from durotaxis.core.errors import UserError
from durotaxis.core.marks import MarkedError, read_file
from durotaxis.core.spelling import did_you_mean
from durotaxis.env import EnvConfig
from durotaxis.env.scenarios import SCENARIOS
from durotaxis.records import REPORT, TRAINED, TUNING, RunPlan
from durotaxis.study.config import RootConfig, find_config, find_file, leaves, shipped_studies

Key = tuple[str, str, int]
"""Arm, scenario, seed."""

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
        if len(self.control) == len(self.scenarios):
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


@dataclass(frozen=True)
class Setting:
    """A scenario of the study with every varied value in place."""

    entry: str  # the scenario's name in the file
    varied: tuple[str, ...]  # `key=value` of what varies
    scenario: str  # of the package
    overrides: Mapping[str, Any]
    is_control: bool

    @property
    def name(self) -> str:
        """What records call it."""
        return ",".join((self.entry, *self.varied))


@dataclass(frozen=True)
class Probe:
    """One way in which a trained agent is judged."""

    scenario: str  # the run's own, as the study calls it, or one of the package
    condition: str
    intervention: str  # none, or an Intervention
    episodes: int
    env: EnvConfig

    @property
    def world(self) -> str:
        """Digest of the world."""
        return world_digest(self.env)


@dataclass(frozen=True)
class PlannedRun:
    """One training of the study, resolved."""

    key: Key
    config: RootConfig
    digest: str
    parent: Key | None  # the run whose weights it begins with
    start_from: StartFrom | None
    probes: tuple[Probe, ...]  # the first is its own world as it is

    @property
    def name(self) -> str:
        """`arm/scenario/seed`."""
        return "/".join(map(str, self.key))

    @property
    def total_steps(self) -> int:
        """Environment steps: whole rollouts, and those of a distillation before."""
        ppo, taught = self.config.ppo, self.start_from.steps if self.start_from is not None else None
        return self.config.training.num_iterations(ppo) * ppo.steps_per_rollout + (taught or 0)

    def plan(self) -> RunPlan:
        """As `study.json` holds it."""
        return RunPlan(*self.key, self.digest)


@dataclass(frozen=True)
class Study:
    """A study file, read and resolved. Runs are ordered seed by seed, so that what is done is balanced."""

    name: str
    path: Path
    config: StudyConfig
    settings: tuple[Setting, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def total_steps(self) -> int:
        """Environment steps of each run."""
        return self.runs[0].total_steps

    @property
    def threads(self) -> int:
        """CPU threads of each run."""
        return self.runs[0].config.run.threads or 1

    def run(self, key: Key) -> PlannedRun:
        """The run of that key."""
        return next(run for run in self.runs if run.key == key)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file and resolve every run of it.

    Args:
        path: a file, or the name of a study of the package.
        overrides: `key=value` on top of the file, such as `seeds=[0]` or
            `overrides.training.total_steps=4096`.

    Raises:
        ConfigError, UserError: all that is wrong with the file, an arm, a scenario or a setting.
    """
    file = find_study(path)
    return resolve_study(file, load_config(file, StudyConfig, overrides))


def resolve_study(file: Path, config: StudyConfig) -> Study:
    """Resolve every run of a study that was read from `file`.

    Raises:
        ConfigError, UserError: what is wrong with an arm, a scenario or a setting.
    """
    base = base_values(config.base, file)
    settings = tuple(_settings(config))
    names = [setting.name for setting in settings]
    if len(set(names)) < len(names):
        raise UserError(f"{file}: `vary` lists a value twice")
    runs: dict[Key, PlannedRun] = {}
    for seed in config.seeds:
        for setting in settings:
            for arm in _in_order(config.arms):
                run = _resolve(config, base, file, arm, setting, seed, runs)
                runs[run.key] = run
    _refuse_unfair(file, config, settings, runs)
    return Study(file.stem, file, config, settings, _parents_first(runs))


def find_study(name: str | Path) -> Path:
    """A study file: a path, or the name of one that comes with the package.

    Raises:
        UserError: there is no such file.
    """
    return find_file(name, shipped_studies(), "study")


def world_digest(env: EnvConfig) -> str:
    """12 hex digits that name a world."""
    return hashlib.sha256(env.model_dump_json().encode()).hexdigest()[:12]


def as_trained(env: EnvConfig, trained: EnvConfig) -> EnvConfig:
    """`env` observed and scaled as an agent trained in another world must see it."""
    observation = trained.observation.model_copy(update={"count_scale": int(trained.count_scale)})
    return env.model_copy(update={"observation": observation})


def under_condition(env: EnvConfig, changes: Mapping[str, Any], place: str) -> EnvConfig:
    """`env` with some values changed, observed and scaled as before.

    Raises:
        ConfigError, UserError: the changes do not fit, or change nothing.
    """
    values = merge(env.model_dump(mode="json"), changes)
    changed = as_trained(build_config(EnvConfig, values, place), env)
    if changed == as_trained(env, env):
        raise UserError(f"{place}: changes nothing; name what is to be different")
    return changed


def digest_of(config: RootConfig, parent: str | None = None, start: StartFrom | None = None) -> str:
    """16 hex digits that name a resolved configuration, wherever and on whatever device it runs."""
    anywhere = config.run.model_copy(update={"directory": None, "device": "auto"})
    text = config.model_copy(update={"run": anywhere}).model_dump_json()
    if start is not None:
        text += f"{parent} {start.by} {start.steps}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def base_values(name: str, study: Path) -> Mapping[str, Any]:
    """Plain values of the configuration that all arms of a study start from: a file beside it, or a name.

    Raises:
        ConfigError, UserError: there is no such file, or it is not YAML.
    """
    beside = study.parent / name
    path = beside if beside.is_file() else find_config(name)
    try:
        return read_file(path).values
    except MarkedError as error:
        raise ConfigError([str(error)]) from None


def _settings(config: StudyConfig) -> Iterator[Setting]:
    """Every scenario in every combination of what is varied."""
    for entry in config.scenarios:
        for values in itertools.product(*config.vary.values()):
            overrides: Mapping[str, Any] = entry.overrides
            for key, value in zip(config.vary, values, strict=True):
                overrides = merge(overrides, nested(key, value))
            varied = tuple(
                f"{key.rpartition('.')[2]}={_word(value)}"
                for key, value in zip(config.vary, values, strict=True)
            )
            scenario, control = entry.scenario or entry.name, entry.name in config.control
            yield Setting(entry.name, varied, scenario, overrides, control)


def _word(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", str(value)).strip("_")


def nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b: v` as nested mappings."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _in_order(arms: Mapping[str, ArmConfig]) -> list[str]:
    """Names so that every arm comes after the one it starts from.

    Raises:
        UserError: arms that start from each other.
    """
    ordered: list[str] = []
    while len(ordered) < len(arms):
        ready = [
            name
            for name, arm in arms.items()
            if name not in ordered
            and (arm.start_from is None or arm.start_from.arm in ordered or arm.start_from.arm == name)
        ]
        if not ready:
            raise UserError(f"arms {', '.join(set(arms) - set(ordered))} start from each other; untie them")
        ordered += ready
    return ordered


def _resolve(
    config: StudyConfig,
    base: Mapping[str, Any],
    file: Path,
    arm: str,
    setting: Setting,
    seed: int,
    known: Mapping[Key, PlannedRun],
) -> PlannedRun:
    first = known.get((arm, setting.name, config.seeds[0]))
    if first is not None:  # all but the seed was resolved before
        run = first.config.run.model_copy(update={"seed": seed})
        root, probes = first.config.model_copy(update={"run": run}), first.probes
    else:
        root, probes = _configured(config, base, file, arm, setting, seed)
    start = config.arms[arm].start_from
    if start is not None and start.steps is not None and start.steps % root.ppo.steps_per_rollout:
        raise UserError(
            f"{file}: arm {arm}: start_from.steps ({start.steps:,}) is no whole number of rollouts of "
            f"{root.ppo.steps_per_rollout:,} steps"
        )
    key = (arm, setting.name, seed)
    if start is None:
        return PlannedRun(key, root, digest_of(root), None, None, probes)
    parent = (start.arm, ",".join((start.scenario_for(setting.entry), *setting.varied)), seed)
    if parent == key:
        raise UserError(f"{file}: arm {arm} would start from itself on {setting.name}; name another scenario")
    # A parent in a later scenario is resolved for its digest alone.
    found = known.get(parent)
    if found is None:
        other = next(each for each in _settings(config) if each.name == parent[1])
        found = _resolve(config, base, file, start.arm, other, seed, known)
    return PlannedRun(key, root, digest_of(root, found.digest, start), parent, start, probes)


def _configured(
    config: StudyConfig, base: Mapping[str, Any], file: Path, arm: str, setting: Setting, seed: int
) -> tuple[RootConfig, tuple[Probe, ...]]:
    """The configuration of a run, and how its agent is judged."""

    def configured(scenario: str) -> RootConfig:
        values = merge({"run": {"threads": 1}}, base)
        values = merge(values, config.overrides)
        values = merge(values, {"env": {"scenario": scenario}})
        values = merge(values, setting.overrides)
        values = merge(values, config.arms[arm].overrides)
        values = merge(values, {"run": {"seed": seed}})
        return build_config(RootConfig, values, f"{file}: arm {arm}, scenario {setting.name}").settled()

    root = configured(setting.scenario)
    elsewhere = {
        name: as_trained(configured(name).env, root.env)
        for name in config.evaluation.scenarios
        if name != setting.scenario
    }
    return root, _probes(config.evaluation, setting.name, root, elsewhere, file)


def _probes(
    evaluation: EvaluationConfig,
    own: str,
    root: RootConfig,
    elsewhere: Mapping[str, EnvConfig],
    file: Path,
) -> tuple[Probe, ...]:
    """The agent in its own world, under interventions, under conditions, and in other scenarios."""
    env, count = root.env, evaluation.num_probe
    attention = root.actor_critic.use_wsa
    probes = [Probe(own, TRAINED, "none", evaluation.episodes, env)]
    for intervention in evaluation.interventions:
        if attention or intervention != "uniform":
            probes.append(Probe(own, TRAINED, intervention, count, env))
    for name, changes in evaluation.conditions.items():
        world = under_condition(env, changes, f"{file}: evaluation.conditions.{name}")
        probes.append(Probe(own, name, "none", count, world))
    probes += [Probe(name, TRAINED, "none", count, world) for name, world in elsewhere.items()]
    return tuple(probes)


def _parents_first(runs: Mapping[Key, PlannedRun]) -> tuple[PlannedRun, ...]:
    ordered: dict[Key, PlannedRun] = {}

    def put(run: PlannedRun) -> None:
        if run.key not in ordered:
            if run.parent is not None:
                put(runs[run.parent])
            ordered[run.key] = run

    for run in runs.values():
        put(run)
    return tuple(ordered.values())


def _refuse_unfair(
    file: Path, config: StudyConfig, settings: Sequence[Setting], runs: Mapping[Key, PlannedRun]
) -> None:
    """Raise UserError where arms are equal, or live in other worlds, or train for other numbers of steps."""
    seed = config.seeds[0]
    for setting in settings:
        arms = {arm: runs[(arm, setting.name, seed)] for arm in config.arms}
        first = arms[config.baseline]
        for arm, run in arms.items():
            where = f"{file}: arms {config.baseline} and {arm}, scenario {setting.name}"
            if run.total_steps != first.total_steps:
                raise UserError(
                    f"{where}: differ in budget ({first.total_steps:,} and {run.total_steps:,} environment "
                    "steps, distillation included); give both the same"
                )
            if run.config.training.curriculum != first.config.training.curriculum:
                raise UserError(f"{where}: differ in training.curriculum; give both the same")
            for name in ("evaluate_every", "evaluation_episodes"):  # which checkpoint is judged
                if getattr(run.config.training, name) != getattr(first.config.training, name):
                    raise UserError(f"{where}: differ in training.{name}; give both the same")
            seen = {"observation": first.config.env.observation}
            if run.config.env.model_copy(update=seen) != first.config.env:
                raise UserError(f"{where}: differ in the world ({_first_difference(first, run, 'env')})")
            twins = [other for other, each in arms.items() if other < arm and each.digest == run.digest]
            if twins:
                raise UserError(f"{file}: arms {twins[0]} and {arm} are the same; remove one of them")
    twice = [run for run in runs.values() if run.key[2] == seed]
    for first, second in itertools.combinations(twice, 2):
        if first.digest == second.digest and first.key[0] == second.key[0]:
            raise UserError(
                f"{file}: scenarios {first.key[1]} and {second.key[1]} are the same for arm {first.key[0]}; "
                "runs would be counted twice"
            )
    threads = {run.config.run.threads for run in runs.values()}
    if len(threads) > 1:
        raise UserError(f"{file}: run.threads differs between runs ({threads}); give all the same")
    steps = {run.total_steps for run in runs.values()}
    if len(steps) > 1:
        raise UserError(f"{file}: scenarios differ in budget ({', '.join(f'{s:,}' for s in sorted(steps))})")


def _first_difference(first: PlannedRun, second: PlannedRun, section: str) -> str:
    one, two = (dict(leaves(getattr(run.config, section).model_dump(mode="json"))) for run in (first, second))
    keys = [key for key in one if one.get(key) != two.get(key) and not key.startswith("observation")]
    return ", ".join(f"{section}.{key}: {one.get(key)} and {two.get(key)}" for key in keys[:3])


def _unknown(what: str, name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    return f"there is no {what} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"


def _unknown_scenario(name: str) -> str:
    return _unknown("scenario", name, list(SCENARIOS))
