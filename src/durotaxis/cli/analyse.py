"""The command `durotaxis analyse`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durotaxis.console import counting_view, make_console
from durotaxis.core.errors import UserError
from durotaxis.records import (
    NUM_RECORDED,
    RUNS,
    STUDY,
    episode_numbers,
    read_episode,
    require_writable,
    write_episodes,
)

if TYPE_CHECKING:
    from rich.console import Console

    from durotaxis.study.evaluation import Candidate

group = typer.Typer()

FOLDER = "analysis"
"""In a run or study directory."""


class What(StrEnum):
    """What is analysed."""

    ATTENTION = "attention"
    METRICS = "metrics"


@group.command(
    epilog="Examples:\n\n"
    "durotaxis analyse runs/quick-1\n\n"
    "durotaxis analyse runs/quick-1 attention --seeds 50 --out docs/results/quick\n\n"
    "durotaxis analyse runs/studies/baseline-vs-wsa attention --no-probe\n\n"
    "durotaxis analyse runs/quick-1 metrics"
)
def analyse(
    target: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="A run or a study directory.")],
    what: Annotated[What, typer.Argument(metavar="[WHAT]", help="attention or metrics.")] = What.ATTENTION,
    out: Annotated[Path | None, typer.Option(help="Folder; default TARGET/analysis.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Episodes per set of models (default 20, of more than three models 10); "
            "for metrics, how many of the recorded ones.",
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Play what is missing, or read records only.")
    ] = True,
) -> None:
    """Explain attention (which model leads where, what each is worth), or how colonies migrate.

    What lies in the run directory is used; episodes and evaluations that are missing are played first.
    """
    if what is What.METRICS:
        from durotaxis.cli.metrics import analyse_metrics

        if (target / STUDY).exists():
            raise UserError(
                f"{target} is a study, metrics are of one run: name a directory under {target / RUNS}"
            )
        analyse_metrics(target, out, seeds, probe)
        return
    from durotaxis.analysis.attention_page import write_attention
    from durotaxis.analysis.study_tables import text

    console = make_console()
    folder = out or target / FOLDER
    require_writable(folder)
    if probe:
        for run in _runs(target):
            _play_what_is_missing(console, run, seeds)
    done = write_attention(target, folder)
    for title, lines in done.findings:
        for line in (title, *lines, ""):
            _say(console, line)
    typer.echo(text(done.models))
    _say(console, f"written to {done.page}, with figures and tables beside it")


def _runs(target: Path) -> list[Path]:
    """The run directory itself, or those with attention that lie in a study directory."""
    from durotaxis.analysis.attention_groups import runs_of

    return runs_of(target) if (target / STUDY).exists() else [target]


def _play_what_is_missing(console: Console, path: Path, seeds: int | None) -> None:
    """Recorded episodes with attention, and the probe."""
    from durotaxis.study.evaluation import evaluate_run, open_run
    from durotaxis.study.probe import default_episodes, known_probe, probe_run, subsets_of

    candidate = open_run(path)
    if not candidate.policy.actor.has_attention:
        raise UserError(
            f"{path} has no attention: its agent has one model; analyse a run with actor_critic.use_wsa=true"
        )
    if not episode_numbers(path):
        _say(console, f"{path}: recording {NUM_RECORDED} episodes")
        with counting_view(console, "episodes", NUM_RECORDED) as advance:
            played = evaluate_run(candidate, NUM_RECORDED, advance=advance, num_recorded=NUM_RECORDED)
        write_episodes(path, played.recorded)
    _require_own_episodes(candidate)
    if known_probe(candidate, seeds) is None:
        names = candidate.policy.actor.extractor.opened
        sets, each = len(subsets_of(names)), seeds or default_episodes(len(names))
        _say(console, f"{path}: {sets} sets of its {len(names)} models, {each} episodes each")
        with counting_view(console, "episodes", sets * each) as advance:
            probe_run(candidate, seeds, advance)


def _require_own_episodes(candidate: Candidate) -> None:
    """Refuse episodes of another world or agent than those that the probe plays."""
    run = candidate.run.path
    info = read_episode(run).info
    is_own = (info.trained_steps, info.env, info.deterministic) == (
        candidate.step,
        candidate.config.env.model_dump(mode="json"),
        False,
    )
    if not is_own:
        how = "deterministic " if info.deterministic else ""
        raise UserError(
            f"{run}: its recorded episodes are {how}ones of an agent of {info.trained_steps} steps on "
            f"{info.scenario}, not of its chosen checkpoint ({candidate.step} steps) in its own world; "
            f"record others: durotaxis evaluate {run}; or look at these alone: --no-probe"
        )


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
