"""The commands `durotaxis study ...`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from durotaxis.cli.shared import INTERRUPTED
from durotaxis.console import (
    counting_view,
    duration,
    make_console,
    sigterm_interrupts,
    study_view,
    table,
)
from durotaxis.core.errors import UserError

if TYPE_CHECKING:
    from durotaxis.study.study import State

group = typer.Typer(
    no_args_is_help=True,
    help="Compare arms over scenarios and seeds, and report what came of it.",
)
File = Annotated[
    str, typer.Argument(metavar="FILE", help="A study file, or the name of one that comes with the package.")
]
Directory = Annotated[Path | None, typer.Option(help="Of the study; default runs/studies/NAME.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values that replace those of the file.")
]
Some = Annotated[str | None, typer.Option(help="Only these, with commas; default all.")]


@group.command("list", epilog="Example:\n\ndurotaxis study list")
def list_studies() -> None:
    """Name the studies that come with the package."""
    from durotaxis.study.config import shipped_studies
    from durotaxis.study.plan import load_study

    rows = []
    for name, path in shipped_studies().items():
        study = load_study(path)
        rows.append(
            (name, len(study.config.arms), len(study.settings), len(study.runs), study.config.question)
        )
    make_console().print(table("", ("study", "arms", "scenarios", "runs", "question"), rows))


@group.command(
    "run",
    epilog="Examples:\n\n"
    "durotaxis study run baseline-vs-wsa --plan\n\n"
    "durotaxis study run baseline-vs-wsa --workers 2\n\n"
    "durotaxis study run mine.yaml --seeds 100,101 --scenarios moat\n\n"
    "durotaxis study run mine.yaml --launcher ray --address auto\n\n"
    "durotaxis study run ablation --records runs/studies/baseline-vs-wsa seeds=[0] "
    "overrides.training.total_steps=4096",
)
def run(
    file: File,
    overrides: Changes = None,
    directory: Directory = None,
    launcher: Annotated[str, typer.Option(help="inline, process or ray.")] = "process",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time (process); default one per core.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default one that is started here.")
    ] = None,
    arms: Some = None,
    scenarios: Some = None,
    seeds: Some = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Study directory whose records are taken where they fit. Repeatable."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan, write nothing.")] = False,
    cost_turns: Annotated[
        int, typer.Option(min=0, help="Turns of the cost measurement at the end; 0: none.")
    ] = 5,
) -> None:
    """Make every run of a study that is not made yet, each once.

    Killed or interrupted, the same command goes on. Ctrl-C saves what is running.
    """
    from durotaxis.study.drive import run_study
    from durotaxis.study.launchers import LAUNCHERS, make_launcher
    from durotaxis.study.plan import load_study
    from durotaxis.study.study import (
        STUDIES,
        Selection,
        alone,
        borrow_records,
        estimate_seconds,
        forget_failures,
        has_cost,
        open_study,
        require_arms,
        write_cost,
    )

    console = make_console()
    study = load_study(file, overrides or [])
    place = directory or STUDIES / study.name
    chosen = Selection(
        _names(arms, list(study.config.arms)),
        _names(scenarios, [setting.name for setting in study.settings]),
        _numbers(seeds),
    )
    chosen.of(study)
    if launcher not in LAUNCHERS:
        raise UserError(f"--launcher {launcher} must be one of {', '.join(LAUNCHERS)}")
    if address is not None and launcher != "ray":
        raise UserError("--address is of a Ray cluster; add --launcher ray, or leave it out")
    sizes = require_arms(study)
    count = workers or _cores() // study.threads or 1
    with contextlib.nullcontext() if plan else alone(place):
        state = open_study(study, place, chosen, write=not plan)
        for source in records or []:
            state, borrowed = borrow_records(state, source, write=not plan)
            _say(console, f"{source}: {borrowed}")
        if retry_failed and not plan:
            state = forget_failures(state)
        _print_plan(console, state, sizes)
        if state.left:
            at_a_time = count if launcher == "process" else 1
            with counting_view(console, "measuring speed", 2 * len(sizes)) as advance:
                seconds = estimate_seconds(state, at_a_time, advance)
            less = "; a cluster takes less" if launcher == "ray" else ""
            _say(
                console,
                f"estimate: {duration(seconds or 0)} with {at_a_time} at a time{less}, evaluation not "
                "counted",
            )
        if plan:
            return
        try:
            if state.left:
                with sigterm_interrupts(), study_view(console) as report:
                    state = run_study(state, make_launcher(launcher, count, study.threads, address), report)
            if cost_turns and len(state.records) == len(study.runs) and not has_cost(state):
                with counting_view(console, "cost", (cost_turns + 1) * len(sizes)) as advance:
                    write_cost(state, cost_turns, advance)
        except KeyboardInterrupt:
            _say(console, f"interrupted; what was running is saved. Go on: {_command()}")
            raise typer.Exit(INTERRUPTED) from None
    done = len(state.records)
    _say(console, f"{done} of {len(study.runs)} runs have a record, {len(state.failed)} of them failed")
    for record in state.failed:
        _say(console, f"failed: {'/'.join(map(str, record.key))}: {record.error}")
    partial = "" if done == len(study.runs) else " --partial"
    _say(console, f"next: durotaxis study report {place}{partial}")


@group.command(
    "search",
    epilog="Examples:\n\n"
    "durotaxis study search baseline-vs-wsa seeds=[0,1] --trials 20 --space space.yaml --out found\n\n"
    "durotaxis study search mine.yaml --trials 8 --space space.yaml --out found --plan\n\n"
    "durotaxis study search mine.yaml --trials 8 --space space.yaml --out found --objective auc "
    "overrides.training.total_steps=15360",
)
def search(
    file: File,
    trials: Annotated[int, typer.Option(min=1, help="Of every arm.")],
    space: Annotated[
        Path,
        typer.Option(help="YAML: `ppo.clip_range: {low: 0.1, high: 0.3}`, `encoder.num_layers: [2, 4]`, ..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of what is found: a configuration per arm.")],
    overrides: Changes = None,
    directory: Annotated[
        Path | None, typer.Option(help="Of trials and runs; default runs/searches/NAME.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="return: of the trained agent; auc: of the whole learning curve.")
    ] = "return",
    sampler_seed: Annotated[int, typer.Option(min=0, help="Of the sampler, the same for every arm.")] = 0,
    launcher: Annotated[str, typer.Option(help="inline, process or ray.")] = "process",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time (process); default one per core.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default one that is started here.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
) -> None:
    """Search hyperparameters, with as many trials for every arm, on tuning seeds.

    Killed or interrupted, the same command goes on; with more --trials it is continued.
    """
    from durotaxis.study.launchers import make_launcher
    from durotaxis.study.plan import load_study
    from durotaxis.study.search import (
        RESULT,
        SEARCHES,
        TRIED,
        best_trial,
        import_optuna,
        plan_search,
        run_search,
        write_result,
    )
    from durotaxis.study.space import read_space
    from durotaxis.study.study import require_arms

    console = make_console()
    import_optuna()
    study = load_study(file, overrides or [])
    place = directory or SEARCHES / study.name
    wanted = plan_search(study, read_space(space), trials, objective, sampler_seed, place, out)
    require_arms(wanted.study)
    count = workers or _cores() // study.threads or 1
    each = wanted.runs_per_trial
    _say(console, f"search in {study.name}: {study.config.question}")
    _say(
        console,
        f"{len(wanted.arms)} arms x {trials} trials x {len(study.settings)} scenarios x "
        f"{len(study.config.seeds)} seeds = {len(wanted.arms) * trials * each} runs of {study.total_steps:,} "
        f"steps; objective {objective}",
    )
    rows = [(key, _range(entry)) for key, entry in wanted.space.to_json().items()]
    console.print(table("", ("searched", "values"), rows))
    _say(console, f"arms: {', '.join(wanted.arms)}; directory: {place}")
    if plan:
        return
    try:
        with study_view(console) as view:
            found = run_search(
                wanted,
                lambda: make_launcher(launcher, count, study.threads, address),
                view,
                lambda line: _say(console, line),
            )
    except KeyboardInterrupt:
        _say(console, f"interrupted; what was running is saved. Go on: {_command()}")
        raise typer.Exit(INTERRUPTED) from None
    written = write_result(wanted, found)
    for arm, path in written.items():
        best = best_trial(found[arm])
        _say(console, f"best of {arm}: {'' if best is None else best.describe()}; written to {path}")
    _say(console, f"all trials: {out / RESULT}; lines for `tried`: {out / TRIED}")
    hopeless = [arm for arm in wanted.arms if arm not in written]
    if hopeless:
        raise UserError(f"every trial of {', '.join(hopeless)} failed, so there is no configuration of it")


@group.command(
    "report",
    epilog="Examples:\n\n"
    "durotaxis study report runs/studies/baseline-vs-wsa\n\n"
    "durotaxis study report runs/studies/baseline-vs-wsa --partial --out docs/results/today",
)
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A study directory.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default DIRECTORY/report.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Although runs are missing.")] = False,
) -> None:
    """Write the report: a page, its figures, and its tables."""
    from durotaxis.analysis.report import write_report

    console = make_console()
    written = write_report(directory, out or directory / "report", allow_partial=partial)
    for line in written.headline:
        _say(console, line)
    _say(console, f"written to {written.html}, with report.md, figures and tables beside it")


@group.command(
    "cost",
    epilog="Example:\n\ndurotaxis study cost baseline-vs-wsa --turns 9",
)
def cost(
    file: File,
    overrides: Changes = None,
    directory: Directory = None,
    turns: Annotated[int, typer.Option(min=1, help="Measurements per arm.")] = 5,
) -> None:
    """Measure time and memory of every arm in one process, by turns."""
    from durotaxis.study.plan import load_study
    from durotaxis.study.study import STUDIES, alone, open_study, write_cost

    console = make_console()
    study = load_study(file, overrides or [])
    place = directory or STUDIES / study.name
    with alone(place):
        state = open_study(study, place)
        with counting_view(console, "cost", (turns + 1) * len(study.config.arms)) as advance:
            path = write_cost(state, turns, advance)
    _say(console, f"written to {path}")


def _print_plan(console: Console, state: State, sizes: dict[str, int]) -> None:
    study, config = state.study, state.study.config
    kind = "tuning seeds: nothing of this is a result" if config.purpose == "tuning" else "report seeds"
    _say(console, f"{study.name}: {config.question}")
    _say(
        console,
        f"{len(config.arms)} arms x {len(study.settings)} scenarios x {len(config.seeds)} seeds "
        f"({kind}) = {len(study.runs)} runs of {study.total_steps:,} steps, threads {study.threads}",
    )
    rows = []
    for arm in config.arms:
        keys = [run.key for run in study.runs if run.key[0] == arm]
        done = sum(key in state.records for key in keys)
        left = sum(run.key[0] == arm for run in state.left)
        text = config.arms[arm].description or "-"
        name = f"{arm} (baseline)" if arm == config.baseline else arm
        rows.append((name, f"{sizes[arm]:,}", len(config.arms[arm].tried), done, left, text))
    columns = ("arm", "parameters", "variants tried", "done", "to make", "description")
    console.print(table("", columns, rows))
    _say(console, f"scenarios: {', '.join(setting.name for setting in study.settings)}")
    if len(config.seeds) > 1:
        _say(console, _what_can_be_found(len(config.seeds)))
    _say(console, f"directory: {state.directory}")


def _what_can_be_found(seeds: int) -> str:
    """How large a difference has to be, so that nobody waits for hours for `undecided`."""
    from durotaxis.analysis.claims import MARGIN
    from durotaxis.analysis.stats import detectable, scatter_within

    return (
        f"{seeds} seeds find a difference in a scenario with a chance of 80 % where it is "
        f"{detectable(seeds):.1f} standard deviations of an arm's paired differences, and call it neutral "
        f"where these are at most {scatter_within(MARGIN, seeds):.2f}"
    )


def _range(entry: Any) -> str:
    """Values of a searched key, as the space file writes them."""
    if isinstance(entry, list):
        return ", ".join(map(str, entry))
    extra = [f"step {entry['step']}"] if "step" in entry else ["logarithmic"] if "log" in entry else []
    return ", ".join([f"{entry['low']} to {entry['high']}", *extra])


def _names(text: str | None, known: Sequence[str]) -> tuple[str, ...] | None:
    """Names with commas between them, and in them where a known one has some."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    names: list[str] = []
    while parts:
        ends = [end for end in range(len(parts), 1, -1) if ",".join(parts[:end]) in known]
        end = ends[0] if ends else 1
        names.append(",".join(parts[:end]))
        parts = parts[end:]
    if not names:
        raise UserError("a list of names is empty; give names with commas, or leave the option out")
    return tuple(names)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds {text}: give numbers with commas, such as 100,101") from None


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command() -> str:
    import shlex

    return shlex.join(["durotaxis", *sys.argv[1:]])


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
