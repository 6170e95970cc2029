"""The commands that make agents and models: `train`, `distill`, `pretrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durotaxis.cli.shared import INTERRUPTED, Overrides, require_writable_file
from durotaxis.console import (
    counting_view,
    duration,
    how_to_go_on,
    make_console,
    reporting_view,
    sigterm_interrupts,
    table,
    training_view,
)
from durotaxis.core.errors import UserError
from durotaxis.records import RecordError

if TYPE_CHECKING:
    from durotaxis.ppo.ranks import Ranks

group = typer.Typer()


@group.command(
    epilog="Examples:\n\n"
    "durotaxis train\n\n"
    "durotaxis train --config configs/quick.yaml actor_critic.use_wsa=false\n\n"
    "durotaxis train training.total_steps=4096 run.seed=3 run.directory=runs/first\n\n"
    "durotaxis train --config configs/curriculum.yaml\n\n"
    "durotaxis train --resume runs/first\n\n"
    "durotaxis train --resume runs/first --allow-changes training.total_steps=200_000\n\n"
    "torchrun --nproc-per-node 2 -m durotaxis train"
)
def train(
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="A YAML file, or the name of one that comes with the package; default quick.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Go on with this run directory, exactly where its checkpoint is."),
    ] = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although the configuration was changed.")
    ] = False,
) -> None:
    """Train an agent and write a run directory; or go on with one.

    Ctrl-C and SIGTERM save the last whole iteration first.
    """
    from durotaxis.ppo.ranks import launched

    with sigterm_interrupts(), launched() as ranks:
        _train(ranks, overrides or [], config, resume, allow_changes)


def _train(
    ranks: Ranks, overrides: list[str], config: str | None, resume: str | None, allow_changes: bool
) -> None:
    from durotaxis.ppo import Interrupted, InvariantError
    from durotaxis.study.run import prepare, prepare_resume

    if resume is not None and config is not None:
        raise UserError(f"--resume takes the run's own configuration; leave out --config {config}")
    if resume is None and allow_changes:
        raise UserError("--allow-changes is for --resume RUN; a new run takes any configuration")
    console = make_console()
    console.quiet = not ranks.leads
    if resume is None:
        job = prepare(config or "quick", overrides, ranks)
    else:
        job = prepare_resume(resume, overrides, allow_changes, ranks)
    for note in job.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(job.describe(), markup=False, soft_wrap=True)
    try:
        with training_view(console) as progress:
            state = job.train(progress)
    except Interrupted as stop:
        console.print(how_to_go_on(stop, job.directory), markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except RecordError as error:
        if isinstance(error.__cause__, OSError):
            raise RecordError(f"{error}. Then: durotaxis train --resume {job.directory}") from error
        raise
    except InvariantError as error:
        raise UserError(
            f"training stopped: {error}. The last good state is in {job.run.last_checkpoint}; "
            "if numbers overflowed, try a lower ppo.learning_rate or ppo.normalize_value=true"
        ) from error
    console.print(f"finished in {duration(state.elapsed_s)}; the run is in {job.directory}", soft_wrap=True)
    console.print(f"next: durotaxis evaluate {job.directory}", markup=False, soft_wrap=True)


@group.command(
    epilog="Examples:\n\n"
    "durotaxis distill runs/baseline-1\n\n"
    "durotaxis distill runs/baseline-1 --config configs/quick.yaml --steps 100000 run.seed=1\n\n"
    "durotaxis distill runs/baseline-1 distill.student_share=0 run.directory=runs/taught"
)
def distill(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="A trained run, or a checkpoint of one.")],
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Of the student; default the teacher's own, with WSA."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Environment steps; default 50,000.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Held-out episodes that both play afterwards.")] = 100,
) -> None:
    """Teach an agent what a trained one does; `train --resume` goes on from there."""
    from durotaxis.study.distill import prepare_distillation

    console = make_console()
    job = prepare_distillation(teacher, config, overrides or [], steps)
    for note in job.student.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(job.describe(), markup=False, soft_wrap=True)
    go_on = f"go on with PPO: durotaxis train --resume {job.directory}"
    try:
        with reporting_view(console, job.total_steps, "step") as advance:
            result = job.run(seeds, advance)
    except KeyboardInterrupt:
        console.print(f"interrupted; the student as it is now is in {job.directory}", soft_wrap=True)
        console.print(go_on, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    whens = ("before", "after")
    rows = [
        (f"{name}, on {places.replace('_', ' ')}", *(f"{result[when][places][key]:.3f}" for when in whens))
        for key, name in (
            ("kl_per_node", "KL per node"),
            ("kl", "KL per colony"),
            ("value_error", "value error"),
        )
        for places in ("teacher_states", "student_states")
    ]
    console.print(table("teacher and student", ("", *whens), rows))
    played = [
        (name, f"{row['return_mean']:.2f}", f"{row['success_rate']:.2f}", f"{row['length_mean']:.0f}")
        for name, row in result["evaluation"].items()
    ]
    console.print(table(f"{seeds} held-out episodes", ("", "return", "success", "length"), played))
    console.print(f"written to {job.directory}", markup=False, soft_wrap=True)
    console.print(go_on, markup=False, soft_wrap=True)


@group.command(
    epilog="Examples:\n\n"
    "durotaxis pretrain --model graph_gnn --out graph_gnn.safetensors\n\n"
    "durotaxis pretrain --model graph_cnn --tasks reachability,ahead --steps 300 batch_size=64\n\n"
    "durotaxis pretrain --model graph_gnn --data interactions.sif --data pyg:KarateClub\n\n"
    "durotaxis pretrain --probe graph_gnn.safetensors"
)
def pretrain(
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="graph_cnn (reads pictures; the default) or graph_gnn.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks, with commas; default all of the model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    scenes: Annotated[int | None, typer.Option(help="Scenes drawn to train on.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A network: CSV, TSV, edge list, GraphML, SIF, or pyg:DATASET. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default MODEL.safetensors here.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all that is random; default 0.")] = None,
    probe: Annotated[
        Path | None, typer.Option(help="Train nothing; say what a file's features tell, in held-out worlds.")
    ] = None,
) -> None:
    """Make a pre-trained model of graphs by self-supervised tasks, or probe one."""
    from durotaxis.core.config import load_config
    from durotaxis.pretrain import TRAINING, PretrainConfig, make_trunk

    options = {
        "model": model,
        "tasks": None if tasks is None else [name.strip() for name in tasks.split(",")],
        "steps": steps,
        "scenes": scenes,
        "data": data or None,
        "seed": seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if probe is not None:
        others = [f"--{name}" for name in given] + ["--out"] * (out is not None) + (overrides or [])
        if others:
            raise UserError(f"--probe trains nothing and takes the file alone; leave out {' '.join(others)}")
        _probe(probe)
        return
    settings = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    config = load_config(None, PretrainConfig, [*settings, *(overrides or [])])
    path = out or Path(f"{config.model}.safetensors")
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path} must end in .safetensors")
    require_writable_file(path)
    console = make_console()

    since: list[dict[str, float]] = []  # the losses since the last line

    def report(losses: dict[str, float]) -> None:
        advance(1)
        since.append(losses)
        step = int(losses["step"])
        if step % max(1, config.steps // 10) == 0:
            means = {
                name: sum(each[name] for each in since) / len(since) for name in losses if name != "step"
            }
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            console.print(f"step {step:,} of {config.steps:,}  {numbers}", soft_wrap=True)
            since.clear()

    with counting_view(console, "worlds, then steps", len(TRAINING) + config.steps) as advance:
        make_trunk(config, path, advance, report)
    console.print(f"written to {path}; losses in {path.with_suffix('.jsonl')}", markup=False, soft_wrap=True)
    console.print(f"next: durotaxis pretrain --probe {path}", markup=False, soft_wrap=True)


def _probe(path: Path) -> None:
    """Print what a pre-trained file's frozen features tell in worlds it never saw."""
    from durotaxis.pretrain import HELD_OUT, describe_trunk, load_trunk, probe_trunk

    console = make_console()
    about = describe_trunk(path)
    with counting_view(console, "probes", 3 * len(HELD_OUT)) as advance:
        findings = probe_trunk(load_trunk(path), str(about["model"]), advance)
    rows = [
        (
            f.world,
            f.question,
            f.num_judged,
            f"{100 / f.num_classes:.1f}",
            " ".join(f"{each:.1f}" for each in f.untrained),
            f"{f.trained:.1f}",
            f"{f.gain:+.1f} [{f.low:+.1f}, {f.high:+.1f}]",
        )
        for f in findings
    ]
    columns = ("world", "question", "judged", "chance", "untrained", "pre-trained", "gain [95 %]")
    console.print(f"{path}: {about['command']}", markup=False, soft_wrap=True)
    console.print(table("balanced accuracy of a linear probe, in points", columns, rows))
    mean = sum(f.gain for f in findings) / len(findings)
    console.print(f"mean gain {mean:+.1f} points over {len(findings)} questions", markup=False)
