"""The command line: what each command prints, writes and refuses."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from rich.console import Console

from durotaxis import cli, console
from durotaxis.core.config import load_config
from durotaxis.core.errors import UserError
from durotaxis.ppo import Status
from durotaxis.records import METRICS, read_jsonl, without_wall_clock
from durotaxis.study import score
from durotaxis.study.config import RootConfig, shipped_configs

ROOT = Path(__file__).parents[1]
VERBS = {
    "train",
    "evaluate",
    "render",
    "replay",
    "analyse",
    "export",
    "distill",
    "pretrain",
    "scenario list",
    "scenario show",
    "scenario score",
    "config show",
    "config schema",
    "config check",
    "ptm list",
    "ptm fetch",
    "ptm check",
    "study list",
    "study run",
    "study report",
    "study cost",
    "study search",
    "doctor",
}
SMALL = [
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.ptms=[{model_type: graph_cnn, freeze: false, tap: block1}]",
    "ppo.num_colonies=4",
    "ppo.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "training.total_steps=96",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
    "run.device=cpu",
]


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Run a command; returns (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> Path:
    """A finished small training."""
    place = tmp_path_factory.mktemp("small") / "run"
    assert cli.run(["train", *SMALL, f"run.directory={place}"]) == 0
    return place


def verbs() -> set[str]:
    """Every command line up to its arguments, found by walking the command tree."""

    def walk(command, words):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(words)
        for name, each in (inner or {}).items():
            yield from walk(each, [*words, name])

    return set(walk(typer.main.get_command(cli.app), []))


def test_the_verbs_are_these():
    assert verbs() == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_help_has_examples_that_parse(call, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = call(*verb.split(), "--help")
    assert code == 0
    assert not err
    examples = [line.strip() for line in out.splitlines() if line.strip().startswith(f"durotaxis {verb}")]
    assert "Example" in out
    assert examples


def test_no_command_shows_help(call):
    code, out, _ = call()
    assert code == 2
    assert "evaluate" in out


def refused(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2, err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert not list(Path().iterdir()), "something was written"
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "actor_critic.use_was=true"], "command line: actor_critic.use_was: unknown key (did you mean 'use_wsa'?)  [got True]"),
        (["train", "actr_critic.use_wsa=true"], "command line: actr_critic: unknown key (did you mean 'actor_critic'?)"),
        (["train", "actor_critic.wsa_config.ptms.0.model_type=resnet18_imagnet"], "did you mean 'resnet18_imagenet'?"),
        (["train", "actor_critic.use_wsa=false", "actor_critic.backbone=resnet81_random"], "did you mean 'resnet18_random'?"),
        (["train", "actor_critic.wsa_config.embedding_dim=0"], "command line: actor_critic.wsa_config.embedding_dim: Input should be greater than or equal to 1  [got 0]"),
        (["train", "actor_critic.wsa_config.attention_temperature=0"], "command line: actor_critic.wsa_config.attention_temperature: Input should be greater than or equal to 0.001; or a section (`key: value` lines) is wanted  [got 0]"),
        (["train", "encoder.out_dim=70"], "out_dim (70) must be divisible by simplicial.groups (16)"),
        (["train", "encoder.hidden_dim=66"], "hidden_dim (66) must be divisible by num_heads (4)"),
        (["train", "ppo.num_minibatches=7"], "num_minibatches (7) must divide"),
        (["train", "env.scenario=mot"], "unknown scenario 'mot' (did you mean 'moat'?)"),
        (["train", "env.observation.field=false"], "command line: env.observation.field: must be true while actor_critic.image.source is `field`"),
        (["train", "actor_critic.wsa_num_ptms=9"], "command line: actor_critic.wsa_num_ptms: must be between 1 and 3"),
        (["train", "run.device=gpu"], "command line: run.device: must be auto, cpu, cuda or cuda:<number>  [got 'gpu']"),
        (["train", "run.device=cuda:99"], "run.device=cuda:99: torch finds"),
        (["train", "--config", "quik"], "durotaxis: quik: no such file (did you mean 'quick'?)"),
        (["train", "--config", "missing.yaml"], "durotaxis: missing.yaml: no such file; with the package come: baseline, curriculum, quick, wsa"),
        (["train", "--config", "wsa"], "pre-trained weights are missing"),
        (["train", "--config", "wsa", "actor_critic.wsa_config.ptms.0.weights=none.pth"], "none.pth"),
        (["train", "nonsense"], "command line: 'nonsense' is not of the form section.key=value"),
        (["train", "--resume", "runs/none"], "durotaxis: runs/none is not a run directory"),
        (["train", "--resume", "runs/none", "--config", "quick"], "durotaxis: --resume takes the run's own configuration; leave out --config quick"),
        (["train", "--allow-changes"], "durotaxis: --allow-changes is for --resume RUN"),
        (["train", "actor_critic.wsa_config.ptms.0.enters_at={stage: late}"], "command line: actor_critic.wsa_config.ptms.0.enters_at: there is no stage 'late'; there is no training.curriculum"),
        (["train", "training.curriculum=[{name: a, max_steps: 9}, {name: late}]", "ppo.clip_range={start: 0.2, changes: [{at: {stage: lat}, value: 0.1}]}"], "ppo.clip_range.changes.0.at: there is no stage 'lat' (did you mean 'late'?); the stages are a, late"),
        (["train", "training.curriculum=[{name: a, max_steps: 9}, {name: b}]", "ppo.clip_range={start: 0.2, changes: [{at: {stage: b}, value: 0.1}, {at: {stage: a}, value: 0.2}]}"], "ppo.clip_range.changes.1.at: goes backwards: a after b"),
        (["train", "training.curriculum=[{name: a}, {name: b}]"], "training.curriculum.0: stage 'a' can never advance"),
        (["train", "training.curriculum=[{name: a, max_steps: 10_000_000}, {name: b}]"], "training.curriculum.0.max_steps: stage 'b' would never begin"),
        (["train", "training.curriculum=[{name: a, max_steps: 9, env: {max_node: 9}}, {name: b}]"], "training.curriculum.0.env.max_node: unknown key (did you mean 'max_nodes'?)"),
        (["train", "training.curriculum=[{name: a, max_steps: 9, env: {spawn_bounds: {noise: [0, 1]}}}, {name: b}]"], "training.curriculum.0.env.spawn_bounds: may not differ between stages"),
        (["train", "ppo.learning_rate_factors={'ptm:resnet18_rndom': 0.1}"], "no part ptm:resnet18_rndom (did you mean 'ptm:resnet18_random'?)"),
        (["train", "actor_critic.wsa_config.ptms.1.unfreeze_at=5"], "actor_critic.wsa_config.ptms.1.unfreeze_at: the model learns from the start; set `freeze: true`"),
        (["train", "actor_critic.wsa_config.ptms.0.unfreeze_at=5_000_000"], "ptms.0.unfreeze_at: resnet18_random would never learn"),
        (["train", "actor_critic.use_wsa=false", "actor_critic.backbone={model_type: resnet18_random, unfreeze_at: 5_000_000}"], "backbone.unfreeze_at: resnet18_random would never learn"),
        (["train", "--cofnig", "quick"], "durotaxis: No such option: --cofnig"),
        (["trian"], "durotaxis: No such command 'trian'"),
        (["evaluate"], "durotaxis: Missing argument"),
        (["evaluate", "runs/none"], "durotaxis: runs/none is not a run directory"),
        (["evaluate", "runs/none/checkpoints/last.pt"], "durotaxis: runs/none is not a run directory"),
        (["evaluate", "runs/none", "--seeds", "0"], "durotaxis: Invalid value for '--seeds'"),
        (["scenario", "score", "mot"], "durotaxis: unknown scenario 'mot' (did you mean 'moat'?)"),
        (["config", "check", "none.yaml"], "durotaxis: none.yaml: no such file"),
        (["config", "show", "run.sed=3"], "command line: run.sed: unknown key (did you mean 'seed'?)"),
        (["ptm", "check", "resnet18_rnd"], "did you mean 'resnet18_random'?"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_one_line(call, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in refused(call(*arguments))


def test_all_errors_of_a_file_are_shown_with_their_places(call):
    Path("bad.yaml").write_text("env:\n  max_steps: many\nactor_critic: {use_was: true}\n")
    code, out, err = call("config", "check", "bad.yaml")
    assert (code, out) == (2, "")
    assert [line.split(" ")[0] for line in err.splitlines()] == ["bad.yaml:2:3:", "bad.yaml:3:16:"]


def test_a_run_directory_that_cannot_be_written(call):
    Path("file").write_text("not a directory")
    code, _, err = call("train", *SMALL, "run.directory=file/run")
    assert code == 2
    assert err.startswith("durotaxis: cannot write into file/run")
    assert len(err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_a_run_directory_in_use_is_left_as_it_is(call, small_run):
    before = {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()}
    code, _, err = call("train", *SMALL, f"run.directory={small_run}")
    assert code == 2
    assert err == (
        f"durotaxis: {small_run} already holds a run (it contains config.yaml); "
        "choose another run.directory or resume it\n"
    )
    assert {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()} == before


def test_debug_shows_the_traceback():
    with pytest.raises(UserError, match="unknown key"):
        cli.run(["--debug", "train", "a.b=3"])
    with pytest.raises(UserError, match="no such file"):
        cli.run(["config", "check", "none.yaml", "--debug"])


def test_training_leaves_a_whole_run_directory(small_run):
    names = {path.name for path in small_run.iterdir()}
    assert {
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "attention.jsonl",
        "DONE",
    } <= names
    assert (small_run / "checkpoints" / "last.pt").is_file()
    config = load_config(small_run / "config.yaml", RootConfig)
    assert config.encoder.hidden_dim == 16
    rows = read_jsonl(small_run / METRICS)
    assert [row["step"] for row in rows] == [32, 64, 96]


def test_provenance_says_where_the_run_comes_from(small_run):
    record = json.loads((small_run / "provenance.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert (record["seed"], record["device"], record["threads"]) == (0, "cpu", torch.get_num_threads())
    assert len(record["frozen_hash"]) == 64
    assert [ptm["name"] for ptm in record["ptms"]] == ["graph_cnn"]
    if record["commit"] is not None:
        head = subprocess.run(
            ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        assert record["commit"] == head.stdout.strip()


def test_runs_without_a_directory_are_numbered(call):
    for number in (1, 2):
        code, out, _ = call("train", *SMALL, "training.total_steps=32")
        assert code == 0
        assert f"runs/quick-{number}" in out
        assert Path(f"runs/quick-{number}/DONE").is_file()


def test_plain_output_says_what_runs_and_how_it_goes(call):
    code, out, err = call("train", *SMALL, "training.total_steps=33", "run.directory=run")
    assert (code, err) == (0, "")
    first, *_, progress, _, last = out.splitlines()
    assert "WSA over graph_cnn; 64 steps (2 rollouts of 32, 33 rounded up to whole rollouts) on cpu" in first
    assert progress.startswith("step 64 of 64  return ")
    assert "attention graph_cnn 1.00" in progress
    assert progress.endswith("0 s left")
    assert last == "next: durotaxis evaluate run"


def test_the_guides_other_spellings_are_noted(call):
    code, out, _ = call("train", *SMALL, "actor_critic.wsa_num_ptms=1", "training.total_steps=32")
    assert code == 0
    assert out.startswith(
        "note: actor_critic.wsa_num_ptms keeps the first 1 of actor_critic.wsa_config.ptms\n"
    )


def test_the_switch_leaves_the_baseline(call):
    code, out, _ = call(
        "train", *SMALL, "actor_critic.use_wsa=false", "actor_critic.backbone=graph_cnn", "training.total_steps=32"
    )  # fmt: skip
    assert code == 0
    assert "plain actor with graph_cnn" in out
    assert "attention" not in out


def test_training_evaluates_on_tuning_seeds_and_keeps_the_best(call):
    evaluated = ["training.evaluate_every=32", "training.evaluation_episodes=2", "env.max_steps=10"]
    code, out, _ = call("train", *SMALL, *evaluated, "training.total_steps=64", "run.directory=run")
    assert code == 0
    assert "evaluated 0.00" in out
    rows = read_jsonl(Path("run/evaluations.jsonl"))
    assert [(row["step"], row["seed"]) for row in rows] == [(32, 1_000_000), (32, 1_000_001), (64, 1_000_000), (64, 1_000_001)]  # fmt: skip
    assert Path("run/checkpoints/best.pt").is_file()


def test_interrupting_saves_and_resuming_equals_going_through(call, monkeypatch, small_run):
    seen = []

    def press_once(status: Status) -> None:
        seen.append(status.step)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli.training, "training_view", lambda _: _as_context(press_once))
        code, out, _ = call("train", *SMALL, "run.directory=run")
    assert code == 130
    assert "interrupted at step 32" in out
    assert "go on:   durotaxis train --resume run" in out
    assert not Path("run/DONE").exists()
    code, out, err = call("train", "--resume", "run")
    assert (code, err) == (0, "")
    for name in ("metrics.jsonl", "episodes.jsonl", "attention.jsonl"):
        through, resumed = read_jsonl(small_run / name), read_jsonl(Path("run") / name)
        assert [without_wall_clock(name, row) for row in resumed] == [without_wall_clock(name, row) for row in through]  # fmt: skip
    code, _, err = call("train", "--resume", "run")
    assert code == 2
    assert err.startswith("durotaxis: run is finished")


def _as_context(function):
    from contextlib import nullcontext

    return nullcontext(function)


def test_evaluating_prints_a_table_and_writes_json(call, small_run):
    code, out, err = call("evaluate", str(small_run), "--seeds", "3", "env.max_steps=20", "--out", "a.json")
    assert (code, err) == (0, "")
    assert "success rate" in out
    result = json.loads(Path("a.json").read_text())
    assert [row["seed"] for row in result["episodes"]] == [2_000_000, 2_000_001, 2_000_002]
    assert result["step"] == 96
    returns = [row["return"] for row in result["episodes"]]
    assert result["summary"]["episode_return"]["mean"] == pytest.approx(sum(returns) / 3)
    assert result["summary"]["normalised_return"]["mean"] is None, (
        "the world is not the scenario as it stands"
    )
    assert max(row["length"] for row in result["episodes"]) <= 20
    again = call("evaluate", str(small_run / "checkpoints" / "last.pt"), "--seeds", "2", "env.max_steps=20")
    assert again[0] == 0
    same = json.loads(next(small_run.glob("evaluation-quick-changed-*.json")).read_text())
    assert [row["reason"] for row in same["episodes"]] == [row["reason"] for row in result["episodes"][:2]]


def test_evaluating_elsewhere_keeps_how_the_world_is_seen(small_run):
    from durotaxis.study.evaluation import open_run

    candidate = open_run(small_run, "full", ["env.max_steps=7"])
    env = candidate.config.env
    assert (env.scenario, env.max_nodes, env.max_steps) == ("full", 250, 7)
    assert env.observation.field
    assert env.count_scale == 60


def test_other_limits_do_not_change_how_counts_look_to_an_agent(small_run):
    from durotaxis.study.evaluation import open_run

    env = open_run(small_run, overrides=["env.max_nodes=120"]).config.env
    assert (env.max_nodes, env.count_scale) == (120, 60)
    asked = open_run(small_run, overrides=["env.max_nodes=120", "env.observation.count_scale=120"])
    assert asked.config.env.count_scale == 120
    same = open_run(small_run, overrides=["env.max_steps=7"]).config.env
    assert same.observation.count_scale is None


@pytest.mark.parametrize("where", [[], ["--scenario", "moat"]])
def test_an_agent_keeps_the_bounds_of_its_choices(call, small_run, where):
    for command in ("evaluate", "render"):
        code, out, err = call(command, str(small_run), "env.spawn_bounds.max_step=[1, 9]", *where)
        assert (code, out) == (2, "")
        assert "env.spawn_bounds is max_step=(1.0, 9.0)" in err
        assert "that it was trained with" in err


def test_a_checkpoint_of_another_architecture(call, small_run):
    code, out, err = call("evaluate", str(small_run), "encoder.hidden_dim=32", "--out", "a.json")
    assert (code, out) == (2, "")
    assert "was made by another architecture" in err
    assert len(err.splitlines()) == 1
    assert not Path("a.json").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint(call, small_run, content):
    bad = small_run / "checkpoints" / "bad.pt"
    bad.write_bytes(content)
    code, _, err = call("evaluate", str(bad))
    assert code == 2
    assert str(bad) in err
    assert len(err.splitlines()) == 1


def test_show_prints_what_loads_back_equal(call):
    for name, path in shipped_configs().items():
        code, out, _ = call("config", "show", "--config", name, "run.seed=5")
        assert code == 0
        Path("shown.yaml").write_text(out)
        assert load_config("shown.yaml", RootConfig) == load_config(path, RootConfig, ["run.seed=5"])


def test_every_shipped_configuration_is_valid(call):
    assert set(shipped_configs()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    for name in [*shipped_configs(), str(ROOT / "config.yaml")]:
        code, out, _ = call("config", "check", name)
        assert code == 0
        assert out.endswith(": valid\n")


def test_schema_is_json(call):
    code, out, _ = call("config", "schema")
    assert code == 0
    assert set(json.loads(out)["properties"]) == set(RootConfig.model_fields)


def test_lists_and_doctor(call):
    assert all(name in call("scenario", "list")[1] for name in ("quick", "moat", "full"))
    assert "resnet18_imagenet" in call("ptm", "list")[1]
    code, out, _ = call("doctor")
    assert code == 0
    for word in ("torch", "gymnasium", "cpu", "resnet18_imagenet", "quick"):
        assert word in out


def test_ptm_check_runs_a_model(call):
    code, out, _ = call("ptm", "check", "graph_cnn")
    assert code == 0
    assert "varies" in out


def test_a_scenario_is_shown(call):
    code, out, _ = call("scenario", "show", "patches", "--seed", "3")
    assert code == 0
    for text in (
        "patches: soft discs",
        "patches over linear, 200 x 100 µm",
        "0.15 to 11 kPa (seed 3)",
        "N_c 20, max_nodes 60, max_steps 200",
        "differs from the defaults in: env.substrate.kind = patches, env.reward.boundary = 0.0",
        "delete-left",
        "churn-young",
    ):
        assert text in out, text
    with Image.open("patches.png") as image:
        assert image.width == 720
    code, out, _ = call("scenario", "show", "moat", "env.substrate.direction=[0,1]", "--out", "up.png")
    assert code == 0
    assert "100 µm along it, 200 µm across" in out
    assert "no scores are kept of this world" in out
    assert Path("up.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mot"], "unknown scenario 'mot' (did you mean 'moat'?)"),
        (["moat", "--out", "x.gif"], "--out x.gif must end in .png"),
        (["moat", "--out", "nowhere/x.png"], "it lies in a directory that does not exist"),
        (["moat", "env.substrate.moat.width=300"], "env.substrate.moat.width: must be below"),
        (["moat", "ppo.num_epochs=3"], "ppo.num_epochs: must start with one of: env"),
    ],
)
def test_a_scenario_that_cannot_be_shown(call, arguments, message):
    code, _, err = call("scenario", "show", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_score_remakes_the_constants(call, monkeypatch):
    row = {"return_mean": 1.5, "return_se": 0.1, "success_rate": 0.25}
    monkeypatch.setattr(
        score, "score_scenario", lambda name, seeds, on_batch: {"random": {**row, "episodes": seeds}}
    )
    Path("scores.json").write_text('{"full": {}, "linear": {}, "quick": {}}')
    code, out, _ = call("scenario", "score", "quick", "--seeds", "4", "--out", "scores.json")
    assert code == 0
    scores = json.loads(Path("scores.json").read_text())
    assert scores == {"quick": {"random": {**row, "episodes": 4}}, "linear": {}, "full": {}}
    assert list(scores) == ["quick", "linear", "full"], "in the order of the scenarios"
    assert "1.500" in out


STATUS = Status(
    iteration=1,
    num_iterations=4,
    step=1536,
    total_steps=6144,
    episodes=9,
    return_mean=-0.5,
    success_rate=0.25,
    diagnostics={"attention": [0.6, 0.4], "ptm_names": ["a", "b"]},
    evaluation={"success_rate": 0.75},
    steps_per_s=1234.5,
    seconds_left=190.0,
)


def test_the_live_line_says_everything():
    assert console.describe(STATUS) == (
        "return -0.50  success 0.25  attention a 0.60 b 0.40  evaluated 0.75  1,234 steps/s  3 min 10 s left"
    )
    assert [console.duration(s) for s in (3, 59.6, 3599, 7260)] == [
        "3 s",
        "1 min 00 s",
        "59 min 59 s",
        "2 h 01 min",
    ]


def test_a_terminal_gets_a_bar():
    text = io.StringIO()
    with console.training_view(Console(file=text, force_terminal=True, width=150)) as progress:
        progress(STATUS)
    assert "25%" in text.getvalue()
    assert "success 0.25" in text.getvalue()


def test_plain_lines_come_now_and_then(monkeypatch):
    text = io.StringIO()
    clock = iter([0.0, 1.0, 11.0, 12.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.training_view(Console(file=text, width=160)) as progress:
        for _ in range(4):
            progress(STATUS)
    assert text.getvalue().count("step 1,536") == 2


def test_the_training_shim_at_the_root(monkeypatch, tmp_path):
    small = [value for value in SMALL if "wsa_config" not in value]
    small += [
        "actor_critic.backbone=graph_cnn",
        "training.total_steps=32",
        f"run.directory={tmp_path / 'run'}",
    ]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "config.yaml", *small])
    with pytest.raises(SystemExit) as end:
        runpy.run_path("train.py", run_name="__main__")
    assert end.value.code == 0
    assert (tmp_path / "run" / "DONE").is_file()


def test_the_names_of_the_guide_at_the_root():
    names = runpy.run_path(str(ROOT / "pretrained_fusion.py"))
    for name in names["__all__"]:
        assert names[name].__module__.startswith("durotaxis."), name
    assert {"WSAEnhancedActor", "MultiPTMFeatureExtractor"} <= set(names["__all__"])
