"""Arms x scenarios x seeds: every run that follows from a study file.

Nothing is run here. What cannot be compared fairly is refused here: arms with another budget or in another
world, arms or scenarios that are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durotaxis.agent import ActorCriticConfig
from durotaxis.core.config import ConfigError, build_config, load_config, merge
from durotaxis.core.errors import UserError
from durotaxis.core.marks import MarkedError, read_file
from durotaxis.env import EnvConfig
from durotaxis.env.config import ObservationConfig, beyond_scenario
from durotaxis.fusion import RULES, PTMConfig
from durotaxis.records import JUDGED_BY, TRAINED, RunPlan
from durotaxis.study.config import RootConfig, find_config, find_file, leaves, shipped_studies
from durotaxis.study.study_file import ArmConfig, EvaluationConfig, StartFrom, StudyConfig

Key = tuple[str, str, int]
"""Arm, scenario, seed."""


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

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in JUDGED_BY} | {"env": self.env.model_dump(mode="json")}


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

    Of its world stands what it says beyond its scenario, because a study names scenarios of its own.

    Raises:
        ConfigError, UserError: there is no such file, or it is not YAML.
    """
    beside = study.parent / name
    path = beside if beside.is_file() else find_config(name)
    try:
        values = read_file(path).values
    except MarkedError as error:
        raise ConfigError([str(error)]) from None
    env = values.get("env")
    return {**values, "env": beyond_scenario(env)} if isinstance(env, Mapping) else values


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
    children: tuple[Key, ...] = (),
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
    if parent in children:
        ring = ", ".join("/".join(map(str, each)) for each in (*children, key))
        raise UserError(f"{file}: runs {ring} start from each other; untie them")
    # A parent in a later scenario is resolved for its digest alone.
    found = known.get(parent)
    if found is None:
        other = next(each for each in _settings(config) if each.name == parent[1])
        found = _resolve(config, base, file, start.arm, other, seed, known, (*children, key))
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

    root = with_weights_pinned(configured(setting.scenario))
    elsewhere = {
        name: as_trained(configured(name).env, root.env)
        for name in config.evaluation.scenarios
        if name != setting.scenario
    }
    return root, _probes(config.evaluation, setting.name, root, elsewhere, file)


def with_weights_pinned(root: RootConfig) -> RootConfig:
    """The same with the digest of every weights file that it names by a path, which may change meanwhile."""
    agent = root.actor_critic
    ptms = tuple(_pinned(ptm) for ptm in agent.wsa_config.ptms)
    changes = {
        "backbone": _pinned(agent.backbone),
        "wsa_config": agent.wsa_config.model_copy(update={"ptms": ptms}),
    }
    return root.model_copy(update={"actor_critic": agent.model_copy(update=changes)})


def _pinned(ptm: PTMConfig) -> PTMConfig:
    if ptm.weights is None or ptm.sha256 is not None or not Path(ptm.weights).is_file():
        return ptm
    return ptm.model_copy(update={"sha256": hashlib.sha256(Path(ptm.weights).read_bytes()).hexdigest()})


def _probes(
    evaluation: EvaluationConfig,
    own: str,
    root: RootConfig,
    elsewhere: Mapping[str, EnvConfig],
    file: Path,
) -> tuple[Probe, ...]:
    """The agent in its own world, under interventions, under conditions, and in other scenarios."""
    env, count = root.env, evaluation.num_probe
    agent = root.actor_critic
    has_attention = agent.use_wsa and RULES[agent.wsa_config.fusion].weighs
    probes = [Probe(own, TRAINED, "none", evaluation.episodes, env)]
    if count != evaluation.episodes and (evaluation.interventions or evaluation.conditions):
        probes.append(Probe(own, TRAINED, "none", count, env))  # what these are held against
    for intervention in evaluation.interventions:
        if has_attention or intervention != "uniform":
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
            twins = [other for other, each in arms.items() if other < arm and _is_same(each, run)]
            if twins:
                raise UserError(
                    f"{file}: arms {twins[0]} and {arm} are the same; remove one of them (an actor reads "
                    "`wsa_config` with use_wsa: true, and else `backbone`)"
                )
    twice = [run for run in runs.values() if run.key[2] == seed]
    for first, second in itertools.combinations(twice, 2):
        if first.digest == second.digest and first.key[0] == second.key[0]:
            raise UserError(
                f"{file}: scenarios {first.key[1]} and {second.key[1]} are the same for arm {first.key[0]}; "
                "runs would be counted twice"
            )
    _refuse_two_worlds_of_a_name(file, runs.values())
    threads = {run.config.run.threads for run in runs.values()}
    if len(threads) > 1:
        raise UserError(f"{file}: run.threads differs between runs ({threads}); give all the same")
    steps = {run.total_steps for run in runs.values()}
    if len(steps) > 1:
        raise UserError(f"{file}: scenarios differ in budget ({', '.join(f'{s:,}' for s in sorted(steps))})")


def _refuse_two_worlds_of_a_name(file: Path, runs: Iterable[PlannedRun]) -> None:
    """Returns are normalised by the name of the world that they are of, whatever is observed of it."""
    known: dict[str, EnvConfig] = {}
    for run in runs:
        for probe in run.probes:
            if probe.condition != TRAINED:
                continue
            world = probe.env.model_copy(update={"observation": ObservationConfig()})
            if known.setdefault(probe.scenario, world) != world:
                raise UserError(
                    f"{file}: agents would be judged in two different worlds that are both called "
                    f"{probe.scenario}; let scenarios that are judged elsewhere share their world's rules, "
                    "or make a study of each"
                )


def _is_same(first: PlannedRun, second: PlannedRun) -> bool:
    """Whether two runs of a seed compute the same, and start from the same run."""

    def what(run: PlannedRun) -> tuple[str, Key | None, StartFrom | None]:
        agent = run.config.actor_critic
        unread = "backbone" if agent.use_wsa else "wsa_config"
        default = {unread: getattr(ActorCriticConfig(), unread)}
        read = run.config.model_copy(update={"actor_critic": agent.model_copy(update=default)})
        return digest_of(read), run.parent, run.start_from

    return what(first) == what(second)


def _first_difference(first: PlannedRun, second: PlannedRun, section: str) -> str:
    one, two = (dict(leaves(getattr(run.config, section).model_dump(mode="json"))) for run in (first, second))
    keys = [key for key in one if one.get(key) != two.get(key) and not key.startswith("observation")]
    return ", ".join(f"{section}.{key}: {one.get(key)} and {two.get(key)}" for key in keys[:3])
