"""The command `durotaxis`: a table from verbs to functions of the package.

Libraries are imported inside the commands, so that `--help` is quick. A wrong input ends with exit code 2
and what is wrong on stderr, without a traceback unless `--debug` is given.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durotaxis.cli_study import study_app
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
from durotaxis.records import RecordError, require_writable, write_json

if TYPE_CHECKING:
    from durotaxis.fusion import PTMCheck, PTMRecord
    from durotaxis.ppo.ranks import Ranks

USER_FAULT = 2
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Durotaxis as a growing and shrinking graph, learned with Weight Sharing Attention.",
)
scenario_app = typer.Typer(no_args_is_help=True, help="The named worlds that results are reported on.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations and check them.")
ptm_app = typer.Typer(no_args_is_help=True, help="The pre-trained models.")
app.add_typer(scenario_app, name="scenario")
app.add_typer(config_app, name="config")
app.add_typer(ptm_app, name="ptm")
app.add_typer(study_app, name="study")

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="A YAML file, or the name of one that comes with the package.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values that replace those of the file.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(args=rest, prog_name="durotaxis", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (UserError, RecordError) as error:
        if debug:
            raise
        return _refuse_error(error)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())  # empty where help was shown instead
        return _refuse(f"{message} (see `durotaxis --help`)") if message else USER_FAULT
    except KeyboardInterrupt:
        typer.echo("durotaxis: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a refused input.")] = False,
) -> None:
    """Durotaxis as a growing and shrinking graph, learned with Weight Sharing Attention."""


@app.command(
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


@app.command(
    epilog="Examples:\n\n"
    "durotaxis evaluate runs/quick-1\n\n"
    "durotaxis evaluate runs/quick-1/checkpoints/last.pt --scenario moat\n\n"
    "durotaxis evaluate runs/quick-1 --seeds 200 --out table.json env.max_steps=300"
)
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory or a checkpoint.")],
    overrides: Overrides = None,
    scenario: Annotated[str | None, typer.Option(help="Another world than the one trained in.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of held-out episodes.")] = 100,
    deterministic: Annotated[bool, typer.Option(help="The most likely action instead of a sample.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file; default in the run directory.")] = None,
) -> None:
    """Play held-out episodes, print a table with 95 % intervals and write it as JSON."""
    from durotaxis.analysis import samples_of_scores, summarise, text_table
    from durotaxis.study.evaluation import evaluate_run, open_run
    from durotaxis.study.score import NORMALISERS, scenario_scores

    console = make_console()
    job = open_run(target, scenario, overrides or [])
    path = out or job.default_output(deterministic)
    _require_writable_file(path)
    with counting_view(console, "episodes", seeds) as advance:
        result = evaluate_run(job, seeds, deterministic, advance)
    references = samples_of_scores(scenario_scores(job.config.env), NORMALISERS)
    summary = summarise("agent", result["episodes"], *references)
    write_json(path, {"summary": dataclasses.asdict(summary), **result})
    console.print(f"{job.checkpoint_path} on {result['scenario']}, {seeds} held-out episodes", markup=False)
    typer.echo(text_table([summary]))
    console.print(f"written to {path}", markup=False, soft_wrap=True)


@app.command(
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


@app.command(
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
        typer.Option(help="A network: CSV, TSV, edge list, GraphML, SIF, or pyg:<Dataset>. Repeatable."),
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
    _require_writable_file(path)
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


@scenario_app.command("list", epilog="Example:\n\ndurotaxis scenario list")
def scenario_list() -> None:
    """Name the scenarios, with the success rates of two scripted policies."""
    from durotaxis.study.scenario import LIST_COLUMNS, list_rows

    make_console().print(table("", LIST_COLUMNS, list_rows()))


@scenario_app.command(
    "show",
    epilog="Examples:\n\ndurotaxis scenario show patches\n\n"
    "durotaxis scenario show stripes env.substrate.direction=[1,1] --seed 7 --out stripes.png",
)
def scenario_show(
    name: Annotated[str, typer.Argument(help="A scenario.")],
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed of the episode that is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG file; default NAME.png here.")] = None,
) -> None:
    """Draw a scenario with its first colony; print its numbers and the scripted policies' scores."""
    from durotaxis.study.scenario import SCORE_COLUMNS, draw_scenario, facts, scenario_config, score_rows

    console = make_console()
    config = scenario_config(name, overrides or [])
    path = out or Path(f"{name}.png")
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path} must end in .png")
    _require_writable_file(path)
    draw_scenario(config, seed).save(path)
    for line in facts(config, seed):
        console.print(line, markup=False, soft_wrap=True)
    if rows := score_rows(config):
        console.print(table("scripted policies", SCORE_COLUMNS, rows))
    else:
        console.print("scripted policies: no scores are kept of this world")
    console.print(f"written to {path}", markup=False, soft_wrap=True)


@scenario_app.command(
    "score",
    epilog="Examples:\n\ndurotaxis scenario score\n\n"
    "durotaxis scenario score quick --seeds 100 --out scores.json",
)
def scenario_score(
    name: Annotated[str | None, typer.Argument(help="One scenario; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Episodes per scripted policy.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="JSON file; default the one in the package.")] = None,
) -> None:
    """Play the scripted policies and remake the constants that returns are normalised with."""
    from durotaxis.agent.scripted import SCRIPTED
    from durotaxis.env.scenarios import SCENARIOS
    from durotaxis.study.scenario import SCORE_COLUMNS, require_scenario, row_of
    from durotaxis.study.score import score_scenario

    console = make_console()
    names = list(SCENARIOS) if name is None else [name]
    for one in names:
        require_scenario(one)
    path = out or Path(str(resources.files("durotaxis.env") / "scores.json"))
    _require_writable_file(path)
    scores = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for one in names:
        with counting_view(console, one, seeds * len(SCRIPTED)) as advance:
            scores[one] = score_scenario(one, seeds, advance)
        rows = [row_of(policy, row) for policy, row in scores[one].items()]
        console.print(table(one, SCORE_COLUMNS, rows))
        write_json(path, {known: scores[known] for known in SCENARIOS if known in scores})
    console.print(f"written to {path}", markup=False, soft_wrap=True)


@config_app.command(
    "show",
    epilog="Examples:\n\ndurotaxis config show\n\ndurotaxis config show --config configs/wsa.yaml run.seed=3",
)
def config_show(overrides: Overrides = None, config: ConfigOption = "quick") -> None:
    """Print every value of a configuration, defaults included, as YAML that can be used as it is."""
    from durotaxis.core.config import load_config, to_yaml
    from durotaxis.study.config import RootConfig, find_config

    sys.stdout.write(to_yaml(load_config(find_config(config), RootConfig, overrides or [])))


@config_app.command("schema", epilog="Example:\n\ndurotaxis config schema > durotaxis.schema.json")
def config_schema() -> None:
    """Print the JSON Schema of a configuration, for editors and other tools."""
    from durotaxis.core.config import to_schema
    from durotaxis.study.config import RootConfig

    sys.stdout.write(json.dumps(to_schema(RootConfig), indent=2) + "\n")


@config_app.command(
    "check", epilog="Examples:\n\ndurotaxis config check mine.yaml\n\ndurotaxis config check quick run.seed=3"
)
def config_check(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with the package.")],
    overrides: Overrides = None,
) -> None:
    """Check a configuration; every error is named with its line and column."""
    from durotaxis.core.config import load_config
    from durotaxis.study.config import RootConfig, find_config

    path = find_config(file)
    config = load_config(path, RootConfig, overrides or [])
    for note in config.actor_critic.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{path}: valid")


@ptm_app.command("list", epilog="Example:\n\ndurotaxis ptm list")
def ptm_list() -> None:
    """List the model types with what is known about them.

    Input: the side in pixels to which pictures are enlarged, or the features per node + per edge. Taps: where
    a model may stop, with the width there.
    """
    from durotaxis.fusion import list_ptms
    from durotaxis.fusion.registry import family_forms
    from durotaxis.fusion.sources import at_hand, needs_weights

    columns = ("model_type", "reads", "source", "licence", "input", "taps (* default)", "at hand")
    rows = []
    for record in list_ptms():
        size = f"{record.input_size} px" if record.input_size else "as given"
        if record.reads == "graph":
            size = f"{record.node_dim} + {record.edge_dim}"
        taps = " ".join(f"{t}{'*' * (t == record.tap)} {width}" for t, width in record.taps.items())
        state = "needs none"
        if needs_weights(record.model_type):
            state = "no" if at_hand(record.model_type) is None else "yes"
        rows.append((record.model_type, record.reads, record.source, record.licence, size, taps, state))
    console = make_console()
    console.print(table("", columns, rows))
    forms = " and ".join(family_forms())
    console.print(f"also {forms}: known once they are read (durotaxis ptm check NAME)", markup=False)


@ptm_app.command(
    "fetch",
    epilog="Examples:\n\ndurotaxis ptm fetch resnet18_imagenet\n\n"
    "durotaxis ptm fetch hf:facebook/dinov2-small hf:facebook/convnext-tiny-224",
)
def ptm_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Model types.")],
) -> None:
    """Download pre-trained weights, verify them and say where they are."""
    from durotaxis.fusion.sources import at_hand, fetch

    console = make_console()
    for name in names:
        known = at_hand(name)
        path = fetch(name)
        record = _build_ptm(name)
        state = "already here" if known else "fetched"
        console.print(f"{name}: {state}, {path}", markup=False, soft_wrap=True)
        facts = f"  sha256 {record.sha256}, licence {record.licence}"
        facts += f", revision {record.revision}" if record.revision else ""
        console.print(f"{facts}; opened and run once", markup=False, soft_wrap=True)


def _build_ptm(name: str) -> PTMRecord:
    """Build a model from its weights and run it on one picture; returns what is known about it."""
    import torch

    from durotaxis.fusion import PTMConfig, build_ptm
    from durotaxis.fusion.config import validated

    ptm = build_ptm(validated(PTMConfig, model_type=name), embedding_dim=1)
    if ptm.record.reads == "image":
        ptm.pooled(torch.zeros(1, 3, 24, 24))
    return ptm.record


@ptm_app.command(
    "check",
    epilog="Examples:\n\ndurotaxis ptm check\n\n"
    "durotaxis ptm check resnet18_random graph_cnn --readout sampled\n\n"
    "durotaxis ptm check resnet18_imagenet --weights resnet18-f37072fd.pth\n\n"
    "durotaxis ptm check hf:models/dinov2-small --tap layer4 --pooling max",
)
def ptm_check(
    names: Annotated[list[str] | None, typer.Argument(help="Model types; default those at hand.")] = None,
    weights: Annotated[str | None, typer.Option(help="File or directory of pre-trained weights.")] = None,
    tap: Annotated[str | None, typer.Option(help="Where the models stop.")] = None,
    upsample: Annotated[int | None, typer.Option(help="Side in pixels of what they see.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, max or token.")] = None,
    embedding_dim: Annotated[int, typer.Option(min=1, help="Width behind the projection.")] = 256,
    readout: Annotated[str, typer.Option(help="pooled or sampled; decides the projection.")] = "pooled",
) -> None:
    """Build models and run them: size, speed, and whether their output varies with the input.

    A model that is refused does not keep the others from being shown.
    """
    from durotaxis.fusion import PTMConfig, check_ptm, list_ptms
    from durotaxis.fusion.config import validated
    from durotaxis.fusion.sources import at_hand, needs_weights

    given = {"weights": weights, "tap": tap, "upsample": upsample, "pooling": pooling}
    options = {key: value for key, value in given.items() if value is not None}
    if options and not names:
        raise UserError(f"--{' --'.join(options)} of which model? Name it: durotaxis ptm check NAME ...")
    listed = [record.model_type for record in list_ptms()]
    found: list[PTMCheck] = []
    errors: list[UserError] = []
    for name in names or [t for t in listed if not needs_weights(t) or at_hand(t) is not None]:
        try:
            found.append(check_ptm(validated(PTMConfig, model_type=name, **options), embedding_dim, readout))
        except UserError as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    rows = [
        (
            check.record.model_type,
            check.record.tap,
            check.record.width,
            f"{check.num_parameters:,}",
            f"{check.num_projection:,}",
            f"{check.milliseconds:.2f} ms",
            f"{check.spread:.3f}",
            check.verdict,
        )
        for check in found
    ]
    columns = ("model_type", "tap", "width", "parameters", "projection", "per input", "spread", "output")
    make_console().print(table("", columns, rows))
    useless = [f"{check.record.model_type}: {check.verdict}" for check in found if not check.varies]
    if useless:
        advice = "Such a model tells the agent nothing; take another one"
        errors.append(UserError(f"{'; '.join(useless)}. {advice}"))
    for each in errors[:-1]:
        _refuse_error(each)
    if errors:
        raise errors[-1]


@app.command(epilog="Example:\n\ndurotaxis doctor")
def doctor() -> None:
    """Show versions, devices and weights at hand, what is missing, and how to get it."""
    from durotaxis.study.doctor import examine

    findings = examine()
    rows = [(f.topic, f.name, f.state if f.is_good else f"! {f.state}", f.advice) for f in findings]
    make_console().print(table("", ("", "what", "found", "what to do"), rows))


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


def _require_writable_file(path: Path) -> None:
    """Refuse an output file before the work for it is done."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a directory" if path.is_dir() else "lies in a directory that does not exist"
        raise UserError(f"cannot write {path}: it {what}; name another file")
    require_writable(path.absolute().parent)


def _refuse_error(error: UserError | RecordError) -> int:
    return _refuse(str(error), prefix="" if hasattr(error, "lines") else "durotaxis: ")


def _refuse(message: str, prefix: str = "durotaxis: ") -> int:
    typer.echo(prefix + message, err=True)
    return USER_FAULT
