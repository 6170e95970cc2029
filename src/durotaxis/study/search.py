"""Search hyperparameters of every arm of a study: as many trials, the same space, seed and budget for each.

A trial is an arm with some keys set, trained over the study's scenarios and tuning seeds. Its values come
from Optuna (Akiba et al. 2019, arXiv:1907.10902), whose own storage in the directory of the search holds all
trials; its runs are those of a study in the same directory, whose arms are the trials. A search that was
killed goes on from both.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from durotaxis.core.config import build_config, merge
from durotaxis.core.errors import UserError
from durotaxis.core.marks import dump
from durotaxis.records import (
    FAILED,
    REPORT,
    TRAINED,
    RunRecord,
    cannot_write,
    read_object,
    read_plan,
    require_writable,
    write_atomic,
    write_json,
)
from durotaxis.study.config import RootConfig
from durotaxis.study.drive import Report, run_study
from durotaxis.study.launchers import Launcher
from durotaxis.study.plan import Study, base_values, nested, resolve_study
from durotaxis.study.score import NORMALISERS
from durotaxis.study.space import SECTIONS, Choices, Range, Space, text_of
from durotaxis.study.study import Selection, State, alone, borrow_records, open_study, require_arms
from durotaxis.study.study_file import ArmConfig, EvaluationConfig

SEARCHES = Path("runs/searches")
STORAGE = "optuna.log"
RESULT = "search.json"
TRIED = "tried.yaml"
WORST = -1.0
"""Score of a trial that failed, and the least that a run can score: as far below the random policy as the
scripted one is above it."""
MIN_SIGNAL = 5.0
"""As in `durotaxis.analysis`: standard errors from 0 that the denominator of a normalised return needs."""

Objective = Literal["return", "auc"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Search:
    """A search as it was asked for, checked."""

    study: Study  # its own arms, judged by nothing but their held-out episodes
    space: Space
    trials: int  # of each arm
    objective: Objective
    seed: int  # of the sampler
    directory: Path
    out: Path

    @property
    def arms(self) -> tuple[str, ...]:
        """In the order of the study."""
        return tuple(self.study.config.arms)

    @property
    def runs_per_trial(self) -> int:
        """Scenarios x seeds."""
        return len(self.study.runs) // len(self.arms)

    def identity(self) -> dict[str, Any]:
        """What must not change while the search goes on."""
        first = {arm: [run.digest for run in self.study.runs if run.key[0] == arm] for arm in self.arms}
        return {
            "study": self.study.name,
            "objective": self.objective,
            "sampler_seed": self.seed,
            "space": self.space.to_json(),
            "runs": first,
            "episodes": self.study.config.evaluation.episodes,
        }


@dataclass(frozen=True)
class Trial:
    """One trial of one arm."""

    arm: str
    number: int
    values: Mapping[str, Any]  # dotted key -> value
    score: float | None  # None while it is not finished
    error: str | None  # why it failed

    @property
    def name(self) -> str:
        """The arm it is in the study of trials."""
        return f"{self.arm},trial={self.number}"

    @property
    def state(self) -> str:
        """finished, failed or unfinished."""
        if self.score is None:
            return "unfinished"
        return "finished" if self.error is None else "failed"

    def describe(self) -> str:
        """One line: its values, and what came of them."""
        values = ", ".join(f"{key}={text_of(_shown(value))}" for key, value in self.values.items())
        outcome = f"score {self.score:.3f}" if self.error is None else f"failed: {self.error}"
        return f"trial {self.number}: {values}: {outcome}"


Trials = Mapping[str, tuple[Trial, ...]]
"""Arm -> its trials, by number."""


def plan_search(
    study: Study,
    space: Space,
    trials: int,
    objective: str,
    seed: int,
    directory: Path,
    out: Path,
) -> Search:
    """Check that a search can be made, and is fair.

    Raises:
        UserError: report seeds; an arm that starts from another; an unknown objective; a value of the space
            that does not fit an arm, or changes the budget.
    """
    config = study.config
    if config.purpose == REPORT:
        raise UserError(
            f"{study.path}: designs are chosen on seeds 0 to 4, and this study has seeds from "
            f"{config.seeds[0]} on; add seeds=[0,1], say"
        )
    known = next((each for each in OBJECTIVES if each == objective), None)
    if known is None:
        raise UserError(f"--objective {objective}: must be one of {', '.join(OBJECTIVES)}")
    for arm, planned in config.arms.items():
        if planned.start_from is not None:
            raise UserError(
                f"{study.path}: arm {arm} starts from {planned.start_from.arm}, and a search trains every "
                "trial from the start; search in a study without start_from, and give both arms what is found"
            )
    judged = config.model_copy(update={"evaluation": EvaluationConfig(episodes=config.evaluation.episodes)})
    search = Search(replace(study, config=judged), space, trials, known, seed, directory, out)
    probed = replace(study, config=config.model_copy(update={"seeds": config.seeds[:1]}))
    probing = replace(search, study=probed)
    for arm in search.arms:
        for key, entry in space.entries.items():
            for value in entry.probes():
                try:
                    require_arms(_trial_study(probing, Trial(arm, 0, {key: value}, None, None)))
                except UserError as error:
                    raise UserError(f"--space, {key}: {text_of(value)} does not fit: {error}") from error
    return search


def run_search(
    search: Search,
    make_launcher: Callable[[], Launcher],
    report: Report = lambda state, running, line: None,
    say: Callable[[str], None] = lambda line: None,
) -> Trials:
    """Make what is left of the search: a trial of every arm, then the next of every arm.

    Args:
        make_launcher: called once for every turn.
        report: as of `run_study`.
        say: gets a line per finished trial.

    Raises:
        UserError: Optuna is missing; the directory or `out` holds another search, or more trials; a run was
            refused.
        RecordError: a directory cannot be written, or another process has it.
    """
    _require_own(search)
    with alone(search.directory):
        book = _Book(search)
        state: State | None = None
        for turn in range(search.trials):
            asked = [book.ask(arm, turn) for arm in search.arms]
            left = [trial for trial in asked if trial.score is None]
            if left:
                state = _run_trials(search, book, left, make_launcher, report)
                for trial in left:
                    book.tell(trial, *_judge(search, book.plan(trial), state, trial))
                    say(f"{trial.arm}, {book.trials(trial.arm)[turn].describe()}")
        return {arm: book.trials(arm) for arm in search.arms}


def write_result(search: Search, trials: Trials) -> dict[str, Path]:
    """Write `search.json`, `tried.yaml` and a configuration per arm; returns the latter.

    An arm all of whose trials failed has none.
    """
    try:
        search.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(search.out, error) from error
    written = {}
    for arm in search.arms:
        best = best_trial(trials[arm])
        if best is not None:
            written[arm] = search.out / f"{arm}.yaml"
            text = _header(search, best) + dump(trial_values(search, best))
            write_atomic(written[arm], text)
    write_atomic(search.out / TRIED, _tried_lines(search, trials))
    write_json(search.out / RESULT, _result(search, trials))
    return written


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The first of those with the highest score; None where all failed."""
    finished = [trial for trial in trials if trial.state == "finished"]
    return max(finished, key=lambda trial: (trial.score, -trial.number), default=None)


def trial_values(search: Search, trial: Trial) -> dict[str, Any]:
    """A configuration file's values: those of the trial in the study's first scenario.

    All values of the agent and its training are there, defaults included. Of the world stands only what the
    study sets for every scenario, so that the values are right in another scenario as well.
    """
    config = search.study.config
    stated = merge({"run": {"threads": 1}}, base_values(config.base, search.study.path))
    stated = merge(stated, config.overrides)
    stated = merge(stated, {"env": {"scenario": search.study.settings[0].scenario}})
    stated = merge(stated, config.arms[trial.arm].overrides)
    for key, value in trial.values.items():
        stated = merge(stated, nested(key, value))
    whole = build_config(RootConfig, stated, trial.name)
    full = whole.model_dump(mode="json", include={*SECTIONS, "training", "monitor"})
    full["training"]["curriculum"] = stated.get("training", {}).get("curriculum", [])
    observation = {"observation": {"field": whole.env.observation.field}}
    return {"env": merge(observation, stated["env"]), **full, "run": stated["run"]}


class _Book:
    """All trials, in Optuna's storage: one of its studies per arm."""

    def __init__(self, search: Search) -> None:
        self._optuna = optuna = import_optuna()
        self._search = search
        path = search.directory / STORAGE
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        self._studies = {}
        self._plans: dict[str, Study | str] = {}
        for arm in search.arms:
            study = optuna.create_study(
                study_name=arm, storage=storage, direction="maximize", load_if_exists=True
            )
            _require_same(search, study.user_attrs.get("search"), search.directory, "--directory")
            if len(study.trials) > search.trials:
                raise UserError(
                    f"{search.directory}: arm {arm} had {len(study.trials)} trials already; ask for as many, "
                    "or more, of every arm"
                )
            if not study.user_attrs:
                study.set_user_attr("search", search.identity())
            self._studies[arm] = study
        self._distributions = {key: self._distribution(entry) for key, entry in search.space.entries.items()}

    def ask(self, arm: str, number: int) -> Trial:
        """The trial of that number; drawn, and stored before it is run, where there is none yet.

        What is drawn follows from the trials before, the number and the seed, so that an interruption
        changes nothing.
        """
        optuna, study = self._optuna, self._studies[arm]
        if len(study.trials) <= number:
            sampler = optuna.samplers.TPESampler(seed=self._search.seed + number)
            draft = optuna.create_study(direction="maximize", sampler=sampler)
            draft.add_trials(study.trials)
            drawn = draft.ask(self._distributions)
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=drawn.params,
                    distributions=self._distributions,
                )
            )
        return self.trials(arm)[number]

    def plan(self, trial: Trial) -> Study | str:
        """The runs of a trial, or why its values cannot stand together in its arm, in one line."""
        if trial.name not in self._plans:
            try:
                planned = _trial_study(self._search, trial)
                if trial.score is None:
                    require_arms(planned)
                self._plans[trial.name] = planned
            except UserError as error:
                self._plans[trial.name] = str(error).splitlines()[0]
        return self._plans[trial.name]

    def tell(self, trial: Trial, score: float, error: str | None) -> None:
        """Store how a trial ended. Of a failed one Optuna gets the worst score, so that it learns from it."""
        study = self._studies[trial.arm]
        # The error first: a kill in between leaves the trial unfinished, and it is judged again.
        study.set_user_attr(f"error {trial.number}", error)
        study.tell(trial.number, score)

    def trials(self, arm: str) -> tuple[Trial, ...]:
        """All trials of an arm so far."""
        study = self._studies[arm]
        return tuple(
            Trial(
                arm,
                stored.number,
                {key: self._value(key, stored.params[key]) for key in self._search.space.entries},
                None if stored.value is None else float(stored.value),
                study.user_attrs.get(f"error {stored.number}"),
            )
            for stored in study.trials
        )

    def _distribution(self, entry: Range | Choices) -> Any:
        kinds = self._optuna.distributions
        if isinstance(entry, Choices):
            return kinds.CategoricalDistribution([text_of(value) for value in entry.values])
        if entry.is_whole:
            return kinds.IntDistribution(entry.low, entry.high, log=entry.log, step=entry.step or 1)
        return kinds.FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)

    def _value(self, key: str, stored: Any) -> Any:
        return json.loads(stored) if isinstance(self._search.space.entries[key], Choices) else stored


def import_optuna() -> Any:
    """Optuna, silent.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install 'durotaxis[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _run_trials(
    search: Search, book: _Book, left: Sequence[Trial], make_launcher: Callable[[], Launcher], report: Report
) -> State | None:
    """Make the runs of trials; None where not one of them has a configuration."""
    possible = tuple(trial.name for trial in left if isinstance(book.plan(trial), Study))
    if not possible:
        return None
    plans = [book.plan(trial) for arm in search.arms for trial in book.trials(arm)]
    parts = [part for part in plans if isinstance(part, Study)]
    arms = {arm: part.config.arms[arm] for part in parts for arm in part.config.arms}
    config = search.study.config.model_copy(update={"arms": arms, "baseline": next(iter(arms))})
    runs = sorted(
        (run for part in parts for run in part.runs), key=lambda run: config.seeds.index(run.key[2])
    )
    study = replace(search.study, name=f"{search.study.name}-search", config=config, runs=tuple(runs))
    # An equal configuration that an earlier trial had is not trained again.
    borrow_records(open_study(study, search.directory), search.directory)
    state = open_study(study, search.directory, Selection(arms=possible))
    return run_study(state, make_launcher(), report) if state.left else state


def _trial_study(search: Search, trial: Trial) -> Study:
    """A study of one arm, the trial.

    Raises:
        UserError: the values do not fit, or change the budget.
    """
    study = search.study
    arm = study.config.arms[trial.arm]
    overrides: dict[str, Any] = dict(arm.overrides)
    for key, value in trial.values.items():
        overrides = merge(overrides, nested(key, value))
    entry = ArmConfig(description=arm.description, overrides=overrides)
    config = study.config.model_copy(update={"arms": {trial.name: entry}, "baseline": trial.name})
    resolved = resolve_study(study.path, config)
    if resolved.total_steps != study.total_steps:
        values = ", ".join(f"{key}={text_of(value)}" for key, value in trial.values.items())
        raise UserError(
            f"{values}: changes the budget of arm {trial.arm} to {resolved.total_steps:,} environment steps "
            f"from {study.total_steps:,}; take values whose rollouts fill the steps"
        )
    return resolved


def _judge(search: Search, plan: Study | str, state: State | None, trial: Trial) -> tuple[float, str | None]:
    """Score of a trial whose runs are made, and why it failed."""
    if isinstance(plan, str):
        return WORST, plan
    assert state is not None
    records = [record for record in state.records.values() if record.arm == trial.name]
    failed = [record for record in records if record.status == FAILED]
    if failed:
        return WORST, f"{'/'.join(map(str, failed[0].key[1:]))}: {failed[0].error}"
    references = {each.name: each.references for each in read_plan(search.directory).scenarios}
    scores = [run_score(record, references[record.scenario], search.objective) for record in records]
    return statistics.fmean(scores), None


def run_score(
    record: RunRecord, references: Mapping[str, Mapping[str, float]] | None, objective: Objective
) -> float:
    """What a finished run scores, WORST at least.

    Args:
        references: of its scenario: policy -> {return_mean, return_se}.
        objective: `return`, the normalised return over held-out episodes of the last checkpoint; or `auc`,
            the mean height of the learning curve of normalised returns. Where returns cannot be normalised,
            because the scripted policies do not differ clearly, success rates take their place.
    """
    own = next(s for s in record.scores if (s.condition, s.intervention) == (TRAINED, "none"))
    scale = _scale(references)
    column = "success_rate" if scale is None else "return"
    if objective == "auc" and not record.curve["step"]:
        return WORST  # not one episode ended
    if objective == "auc":
        value = _mean_height(record.curve["step"], record.curve[column], record.steps)
    else:
        value = own.successes / own.episodes if scale is None else own.return_mean
    if scale is not None:
        value = (value - scale[0]) / (scale[1] - scale[0])
    return max(WORST, value)


def _scale(references: Mapping[str, Mapping[str, float]] | None) -> tuple[float, float] | None:
    """Returns that count as 0 and as 1."""
    if references is None:
        return None
    low, high = (references[policy] for policy in NORMALISERS)
    span, noise = high["return_mean"] - low["return_mean"], math.hypot(low["return_se"], high["return_se"])
    if span <= 0 or span < MIN_SIGNAL * noise:
        return None
    return low["return_mean"], high["return_mean"]


def _mean_height(steps: Sequence[float], values: Sequence[float], total: int) -> float:
    """Of the curve through these points over [0, total], flat before the first and after the last."""
    inner = [step for step in steps if 0 < step < total]
    corners = np.array([0.0, *inner, float(total)])
    return float(np.trapezoid(np.interp(corners, steps, values), corners) / total)


def _require_own(search: Search) -> None:
    """Raise UserError unless `out` can be written without replacing what is not of this search."""
    result = search.out / RESULT
    if result.exists():
        _require_same(search, read_object(result).get("search", {}), result, "--out")
    else:
        for name in (*(f"{arm}.yaml" for arm in search.arms), TRIED):
            if (search.out / name).exists():
                raise UserError(f"{search.out / name}: exists already; choose another --out")
    require_writable(search.out)


def _require_same(search: Search, before: Mapping[str, Any] | None, place: Path, option: str) -> None:
    """Raise UserError if `place` holds another search."""
    now = json.loads(json.dumps(search.identity()))
    if before is not None and before != now:
        differ = ", ".join(key for key in now if before.get(key) != now[key])
        raise UserError(f"{place}: holds another search (it differs in {differ}); choose another {option}")


def _header(search: Search, best: Trial) -> str:
    """Comment lines on top of a configuration that was found."""
    seeds = ", ".join(map(str, search.study.config.seeds))
    scenarios = ", ".join(setting.name for setting in search.study.settings)
    sampler = f"Optuna's TPE sampler, seed {search.seed}"
    lines = [
        f"Found by a search of the study {search.study.name}, arm {best.arm}: {best.describe()}.",
        f"The best of {search.trials} trials ({sampler}); objective {search.objective}, "
        f"{search.study.total_steps:,} steps per run,",
        f"mean over scenarios {scenarios} and tuning seeds {seeds}. Nothing of it is a result.",
        f"Searched were {', '.join(search.space.entries)}; every arm had as many trials of the same space.",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _tried_lines(search: Search, trials: Trials) -> str:
    """YAML with a line per trial, to be pasted."""
    lines = ["# To be pasted into a study that reports.", "arms:"]
    for arm in search.arms:
        lines += [f"  {text_of(arm)}:", "    tried:"]
        for trial in trials[arm]:
            text = f"search {search.study.name}, {search.objective}, {trial.describe()}"
            lines.append(f"      - {text_of(text)}")
    return "\n".join(lines) + "\n"


def _result(search: Search, trials: Trials) -> dict[str, Any]:
    """What `search.json` holds."""
    arms = {}
    for arm in search.arms:
        best = best_trial(trials[arm])
        rows = [
            {"number": t.number, "values": t.values, "score": t.score, "state": t.state, "error": t.error}
            for t in trials[arm]
        ]
        arms[arm] = {"best": None if best is None else best.number, "trials": rows}
    return {
        "search": search.identity(),
        "scenarios": [setting.name for setting in search.study.settings],
        "seeds": list(search.study.config.seeds),
        "total_steps": search.study.total_steps,
        "trials": search.trials,
        "optuna": import_optuna().__version__,
        "arms": arms,
    }


def _shown(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
