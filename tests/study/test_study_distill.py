"""`durotaxis distill` from end to end: a run that teaches, a run that was taught, and PPO that goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from durotaxis import cli
from durotaxis.ppo import load
from durotaxis.pretrain import distill as teaching
from durotaxis.records import read_jsonl
from durotaxis.study import distill as study

pytestmark = pytest.mark.unchecked

SMALL = [
    "env.max_nodes=12",
    "env.critical_nodes=6",
    "env.max_steps=8",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.backbone={model_type: graph_cnn, tap: block1}",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.ptms=[{model_type: graph_cnn, tap: block1}, {model_type: graph_cnn, freeze: false, tap: block1}]",
    "ppo.num_colonies=4",
    "ppo.rollout_steps=4",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "training.total_steps=16",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
    "run.device=cpu",
]
TEACHING = [
    "distill.num_colonies=4",
    "distill.rollout_steps=4",
    "distill.num_epochs=2",
    "distill.learning_rate=0.01",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick(monkeypatch)


def quick(monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT_COLONIES", 4)
    monkeypatch.setattr(teaching, "HELD_OUT_STEPS", 8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("teacher") / "base"
    assert cli.run(["train", *SMALL, "actor_critic.use_wsa=false", f"run.directory={place}"]) == 0
    return place


@pytest.fixture(scope="module")
def taught(teacher, tmp_path_factory) -> tuple[Path, str]:
    """A run that was taught, by the command."""
    place = tmp_path_factory.mktemp("taught") / "run"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        patch.setattr(teaching, "HELD_OUT_STEPS", 16)
        code = cli.run(
            ["distill", str(teacher), "--steps", "60", "--seeds", "3", *TEACHING, f"run.directory={place}"]
        )
    assert code == 0
    return place


def test_it_writes_a_run_with_its_records(taught, teacher):
    rows = read_jsonl(taught / "distillation.jsonl")
    assert [row["step"] for row in rows] == [16, 32, 48, 64]
    found = json.loads((taught / "distillation.json").read_text())
    assert found["teacher"] == str(teacher / "checkpoints" / "last.pt")
    assert (found["teacher_step"], found["steps"]) == (16, 64)
    for places in ("teacher_states", "student_states"):
        before, after = found["before"][places], found["after"][places]
        assert before.keys() == after.keys() == {"kl", "kl_per_node", "value_error", "value_spread"}
        assert 0 <= after["kl"] < before["kl"]
    for name in ("teacher", "student"):
        assert found["evaluation"][name]["episodes"] == 3
        assert -20 < found["evaluation"][name]["return_mean"] < 20
    assert not (taught / "DONE").exists()
    assert "use_wsa: true" in (taught / "config.yaml").read_text()


def test_the_evaluation_is_that_of_the_command(taught, capsys):
    """Of the saved checkpoint, on the same seeds: `durotaxis evaluate` finds the same mean return."""
    assert cli.run(["evaluate", str(taught), "--seeds", "3", "--out", "found.json"]) == 0
    capsys.readouterr()
    rows = json.loads(Path("found.json").read_text())["episodes"]
    stated = json.loads((taught / "distillation.json").read_text())["evaluation"]["student"]["return_mean"]
    assert sum(row["return"] for row in rows) / 3 == pytest.approx(stated, abs=1e-5)


def test_ppo_goes_on_from_the_taught_weights(taught, tmp_path, capsys):
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(taught, copied)
    first = load(copied / "checkpoints" / "last.pt")
    assert (first.counters["step"], first.counters["iteration"]) == (0, 0)
    assert cli.run(["train", "--resume", str(copied)]) == 0
    assert (copied / "DONE").exists()
    last = load(copied / "checkpoints" / "last.pt")
    assert last.counters["step"] == 16
    assert last.frozen_hash == first.frozen_hash
    moved = [
        float((last.model[name] - value).abs().max())
        for name, value in first.model.items()
        if value.is_floating_point()
    ]
    assert 0 < max(moved) < 0.01, "one update of PPO, not a new start"
    assert [row["step"] for row in read_jsonl(copied / "metrics.jsonl")] == [16]


def refused(capsys, *arguments: str) -> str:
    code = cli.run(["distill", *arguments])
    out, err = capsys.readouterr()
    assert code == 2, out + err
    assert len(err.splitlines()) == 1, err
    assert not list(Path().iterdir()), "something was written"
    return err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.spawn_bounds.max_step=[1,5]"], "env.spawn_bounds is max_step=(1.0, 5.0)"),
        (["env.observation.frame_size=60"], "env.observation is field=True frame='colony' frame_size=60.0"),
        (["env.max_nodes=24"], "counts are divided by 12 for the teacher, 24 for the student; set env.observation.count_scale=12"),
        (["actor_critic.image.source=tokens", "env.observation.field=false"], "the teacher looks at the field"),
        (["distill.total_step=4"], "command line: distill.total_step: unknown key (did you mean 'total_steps'?)"),
        (["actor_critic.use_was=true"], "unknown key (did you mean 'use_wsa'?)"),
        (["distill.student_share=2"], "command line: distill.student_share: Input should be less than or equal to 1"),
    ],
)  # fmt: skip
def test_students_that_cannot_learn_from_it_are_refused(teacher, overrides, message, capsys):
    assert message in refused(capsys, str(teacher), *overrides)


def test_teachers_that_are_none_are_refused(taught, capsys, tmp_path_factory):
    assert "is not a run directory: it has no config.yaml" in refused(capsys, "nowhere")
    message = refused(capsys, str(taught))
    assert (
        "was never trained, so it has nothing to teach; train it first: durotaxis train --resume" in message
    )


def test_a_student_of_another_file_and_a_free_directory(teacher, tmp_path):
    file = tmp_path / "student.yaml"
    file.write_text("actor_critic: {use_wsa: true}\n")
    job = study.prepare_distillation(teacher, file, SMALL)
    assert job.directory == Path("runs/distilled-base-1")
    assert job.student.config.encoder.hidden_dim == 16
    assert job.config.total_steps == 50_000


def test_an_interrupted_lesson_is_kept(teacher, monkeypatch, capsys):
    real = teaching.distill

    def interrupted(*arguments):
        yield next(iter(real(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "distill", interrupted)
    code = cli.run(["distill", str(teacher), *TEACHING, "run.directory=kept"])
    out = capsys.readouterr().out
    assert code == 130
    assert "interrupted; the student as it is now is in kept" in out
    assert "go on with PPO: durotaxis train --resume kept" in out
    fresh = study.prepare_distillation(teacher, None, ["run.directory=other"]).student.policy.state_dict()
    kept = load("kept/checkpoints/last.pt").model
    assert any(not torch.equal(kept[name], value) for name, value in fresh.items())
    assert len(read_jsonl(Path("kept/distillation.jsonl"))) == 1
    assert not Path("kept/distillation.json").exists()


def test_interrupted_before_teaching_it_leaves_the_untaught_student(teacher, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "held_out", interrupted)
    assert cli.run(["distill", str(teacher), *TEACHING, "run.directory=kept"]) == 130
    assert "go on with PPO: durotaxis train --resume kept" in capsys.readouterr().out
    fresh = study.prepare_distillation(teacher, None, ["run.directory=other"]).student.policy.state_dict()
    kept = load("kept/checkpoints/last.pt").model
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_not_taken_and_not_saved(teacher, monkeypatch, capsys, broken):
    real = torch.nn.utils.clip_grad_norm_
    saved = []
    save = study.save_start
    monkeypatch.setattr(study, "save_start", lambda job: saved.append(1) or save(job))
    if broken == "loss":
        kl = teaching.action_kl
        monkeypatch.setattr(
            teaching, "action_kl", lambda *a: kl(*a) + (torch.nan if torch.is_grad_enabled() else 0)
        )
    else:
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: real(*a) * torch.inf)
    assert cli.run(["distill", str(teacher), *TEACHING, "run.directory=kept"]) == 2
    assert f"the {broken} is not finite" in capsys.readouterr().err
    assert saved == [1]
    fresh = study.prepare_distillation(teacher, None, ["run.directory=other"]).student.policy.state_dict()
    kept = load("kept/checkpoints/last.pt").model
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


def test_the_page_states_every_key_and_default():
    page = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text("utf-8")
    stated = dict(re.findall(r"^\| `distill\.(\w+)` \| (\S+) \|", page, re.M))
    config = teaching.DistillConfig()
    assert stated == {name: str(getattr(config, name)) for name in type(config).model_fields}
