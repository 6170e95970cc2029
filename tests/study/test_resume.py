"""Resuming: after SIGKILL at any moment, from a moved directory, and with a changed configuration."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from kills import compare

from durotaxis import records
from durotaxis.cli import run as command
from durotaxis.core.errors import UserError
from durotaxis.ppo import load
from durotaxis.records import RunDirectory
from durotaxis.study.run import differences, prepare, prepare_resume, refuse_fixed

pytestmark = pytest.mark.unchecked

TINY = (
    "ppo={num_colonies: 4, rollout_steps: 4, num_epochs: 1, num_minibatches: 2}",
    "training={total_steps: 64, checkpoint_every: 16}",
    "env.max_steps=10",
    "encoder={num_layers: 1, hidden_dim: 16, out_dim: 16, simplicial: {groups: 4}}",
    "actor_critic={use_wsa: false, hidden_dim: 16, backbone: {model_type: graph_cnn, tap: block1, seed: 1}}",
    "monitor.tensorboard=false",
)


def stopped_at(path, iteration):
    """A run that was interrupted after so many iterations."""
    job = prepare("quick", [*TINY, f"run.directory={path}"])

    def stop(status):
        if status.iteration == iteration:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="interrupted"):
        job.train(stop)
    return job


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    return stopped_at(tmp_path_factory.mktemp("resume") / "run", 2).directory


@pytest.fixture
def copy(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.slow  # a study is killed and goes on to the bit in test_study_run.py
def test_killed_and_resumed_equals_left_alone(tmp_path):
    """Two kills here; many more with `python tests/study/kills.py --kills 100`."""
    hits, found = compare(tmp_path, 2, seed=2)
    assert found == []
    assert hits == 2


def test_a_moved_run_goes_on(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "elsewhere")
    job = prepare_resume(tmp_path / "elsewhere")
    job.train()
    assert (tmp_path / "elsewhere" / records.DONE).exists()
    assert not (cut / records.DONE).exists()
    assert len(job.run.read(records.METRICS)) == 4


def test_a_changed_configuration_is_listed_and_refused(copy):
    before = (copy / "config.yaml").read_text()
    with pytest.raises(UserError) as caught:
        prepare_resume(copy, ["ppo.clip_range=0.1", "training.total_steps=96"])
    message = str(caught.value)
    assert f"the configuration of {copy} differs" in message
    assert "ppo.clip_range: 0.2 -> 0.1" in message
    assert "training.total_steps: 64 -> 96" in message
    assert "--allow-changes" in message
    assert "run.directory" not in message
    assert (copy / "config.yaml").read_text() == before
    text = before.replace("clip_range: 0.2", "clip_range: 0.3")
    (copy / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"ppo\.clip_range: 0\.2 -> 0\.3"):
        prepare_resume(copy)


def test_allowed_changes_take_effect_and_are_recorded(copy):
    job = prepare_resume(copy, ["ppo.clip_range=0.1", "training.total_steps=96"], allow_changes=True)
    job.train()
    assert [row["clip_range"] for row in job.run.read(records.METRICS)] == [0.2] + [0.1] * 5
    changed = [row for row in job.run.read(records.EVENTS) if row["event"] == "changed"]
    assert {row["name"]: row["message"] for row in changed} == {
        "ppo.clip_range": "0.2 -> 0.1",
        "training.total_steps": "64 -> 96",
    }
    assert all(row["iteration"] == 1 for row in changed)
    assert "clip_range: 0.1" in job.run.config_text
    with pytest.raises(UserError, match=r"is finished; .* larger training.total_steps"):
        prepare_resume(copy)
    longer = prepare_resume(copy, ["training.total_steps=112"], allow_changes=True)
    longer.train()
    assert [row["iteration"] for row in longer.run.read(records.METRICS)] == list(range(1, 8))


def test_after_an_allowed_change_a_kill_does_not_ask_again(copy):
    job = prepare_resume(copy, ["ppo.clip_range=0.1"], allow_changes=True)

    def die(status):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        job.train(die)
    prepare_resume(copy).train()
    rows = RunDirectory.open(copy).read(records.EVENTS)
    assert [row["name"] for row in rows if row["event"] == "changed"] == ["ppo.clip_range"]


def test_a_best_score_does_not_outlive_the_world_it_was_measured_in(copy):
    path = copy / "checkpoints" / "last.pt"
    fields = torch.load(path, weights_only=True)
    torch.save({**fields, "counters": {**fields["counters"], "best_score": 1e6}}, path)
    assert not prepare_resume(copy).forget_best
    evaluated = ["env.max_steps=9", "training.evaluate_every=16", "training.evaluation_episodes=2"]
    job = prepare_resume(copy, evaluated, allow_changes=True)
    state = job.train()
    assert state.best_score < 1e6
    assert job.run.best_checkpoint.exists()
    changed = {row["name"]: row["message"] for row in job.run.read(records.EVENTS)}
    assert changed["best_score"].startswith("1e+06 -> None: it was measured otherwise")
    assert not prepare_resume(copy, ["training.total_steps=96"], allow_changes=True).forget_best


def test_another_architecture_is_refused_even_with_changes_allowed(copy):
    before = (copy / "config.yaml").read_text()
    with pytest.raises(UserError, match="made by another architecture"):
        prepare_resume(copy, ["encoder.hidden_dim=32"], allow_changes=True)
    with pytest.raises(UserError, match=r"ppo.num_colonies: 4 -> 8, because a run counts its steps in whole"):
        prepare_resume(copy, ["ppo.num_colonies=8"], allow_changes=True)
    assert (copy / "config.yaml").read_text() == before
    assert not any(row["event"] == "changed" for row in RunDirectory.open(copy).read(records.EVENTS))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("env.spawn_bounds.max_step", "the bounds in the checkpoint"),
        ("actor_critic.wsa_config.learn_temperature", "which parameters learn"),
        ("actor_critic.wsa_config.ptms.1.seed", "the weights of every model"),
        ("actor_critic.wsa_config.ptms.10.weights", "the weights of every model"),
        ("actor_critic.backbone.sha256", "the weights of every model"),
        ("actor_critic.backbone.freeze", "which parameters learn"),
        ("actor_critic.wsa_config.ptms.1.ramp_steps", "gates"),
        ("actor_critic.wsa_config.ptms.1.enters_at.episode", "gates"),
        ("ppo.learning_rate.changes.0.ramp_steps", None),
        ("actor_critic.wsa_config.attention_temperature.changes.1.ramp_steps", None),
        ("actor_critic.wsa_config.ptms.1.unfreeze_at", None),
        ("run.seed", None),
    ],
)
def test_refused_is_what_the_checkpoint_settles_and_nothing_else(key, why):
    if why is None:
        refuse_fixed("run", {key: (1, 2)})
    else:
        with pytest.raises(UserError, match=f"run cannot be resumed with {key}: 1 -> 2, because .*{why}"):
            refuse_fixed("run", {key: (1, 2)})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "ppo.rollout_steps=8",
            "ppo.rollout_steps: 4 -> 8, because a run counts its steps in whole rollouts",
        ),
        (
            "actor_critic.backbone.freeze=false",
            "freeze: True -> False, because which parameters learn stands",
        ),
        ("training.curriculum=[{name: a, max_steps: 9}, {name: b}]", "because the present stage stands in"),
        ("env.spawn_bounds.noise=[0, 0.4]", "noise: .* because the agent's choices are scaled"),
        ("training.total_steps=16", "has 32 steps behind it, training.total_steps is 16; give it more"),
        ("ppo.learning_rate_factors={'actro': 0.1}", "no part actro .did you mean 'actor'"),
        ("actor_critic.cache_budget_mb=0.00001", "cache_budget_mb is"),
        ("run.directory=elsewhere", "a run is resumed where it is; leave out run.directory=elsewhere"),
    ],
)
def test_changes_that_would_not_do_what_they_say_are_refused(tmp_path, override, message):
    path = stopped_at(tmp_path / "run", 3).directory
    with pytest.raises(UserError, match=message):
        prepare_resume(path, [override], allow_changes=True)
    assert not any(row["event"] == "changed" for row in RunDirectory.open(path).read(records.EVENTS))


def test_one_process_at_a_time(copy):
    job = prepare_resume(copy)
    with job.run.locked():
        records.write_atomic(copy / "config.yaml", job.run.config_text)  # as an editor does
        with pytest.raises(records.RecordError, match="another process is training this run"):
            prepare_resume(copy)
        with pytest.raises(records.RecordError, match="another process is training this run"):
            job.train()
    job.train()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {seed: 3}\n")
    with pytest.raises(UserError, match="is not a run directory: it has no checkpoints/"):
        prepare_resume(tmp_path, allow_changes=True)
    assert (tmp_path / "config.yaml").read_text() == "run: {seed: 3}\n"


def test_a_run_of_an_older_version_says_so_before_its_configuration_puzzles(copy, capsys):
    path = copy / "checkpoints" / "last.pt"
    torch.save({**torch.load(path, weights_only=True), "format": 2}, path)
    (copy / "config.yaml").write_text("ppo: {learning_rate_schedule: constant}\n")
    for arguments in (["train", "--resume", str(copy)], ["evaluate", str(copy)]):
        assert command(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "this version reads 3" in error


def test_other_libraries_are_named(copy):
    path = copy / "checkpoints" / "last.pt"
    fields = torch.load(path, weights_only=True)
    torch.save({**fields, "versions": {**fields["versions"], "torch": "1.0"}}, path)
    (note,) = prepare_resume(copy).notes
    assert note.startswith(f"torch 1.0 -> {torch.__version__}: from here on")


def test_what_the_records_lack_does_not_keep_a_run_from_going_on(copy):
    """Killed while the record files were made."""
    for name in (records.ATTENTION, records.EVALUATIONS, records.EVENTS):
        (copy / name).unlink()
    prepare_resume(copy).train()
    assert (copy / records.DONE).exists()


def test_without_a_checkpoint_it_begins_anew(copy, cut):
    """Killed between claiming the directory and the first checkpoint."""
    (copy / "checkpoints" / "last.pt").unlink()
    job = prepare_resume(copy)
    job.train()
    prepare_resume(shutil.copytree(cut, copy.parent / "other")).train()
    other = RunDirectory.open(copy.parent / "other")
    rows = [
        [records.without_wall_clock(records.METRICS, row) for row in run.read(records.METRICS)]
        for run in (job.run, other)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), r"last\.pt is damaged"),
        (lambda path: path.write_text("hello"), r"last\.pt is damaged or not a checkpoint"),
        (lambda path: torch.save({"weight": torch.ones(2)}, path), "not a checkpoint of durotaxis"),
        (
            lambda path: torch.save({**torch.load(path, weights_only=True), "format": 99}, path),
            r"has checkpoint format 99, this version reads 3; a newer version of durotaxis made it: update",
        ),
        (
            lambda path: torch.save({**torch.load(path, weights_only=True), "format": 2}, path),
            "this version reads 3; take the version that made it",
        ),
    ],
    ids=["truncated", "text", "foreign", "newer", "older"],
)
def test_checkpoints_that_cannot_be_used(copy, capsys, damage, message):
    path = copy / "checkpoints" / "last.pt"
    damage(path)
    kept = path.read_bytes()
    assert command(["train", "--resume", str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    import re

    assert re.search(message, error)
    assert path.read_bytes() == kept


def test_differences_name_leaves():
    before = "a: {b: 1, c: [1, 2]}\nrun: {directory: x}\nlist:\n- {name: p}\n"
    after = "a: {b: 2, c: [1, 2], d: 3}\nrun: {directory: y}\nlist:\n- {name: q}\n- {name: r}\n"
    assert differences(before, before) == {}
    assert differences(before, after) == {
        "a.b": (1, 2),
        "a.d": (None, 3),
        "list.0.name": ("p", "q"),
        "list.1.name": (None, "r"),
    }


def test_sigterm_saves_and_ends(tmp_path):
    """What a scheduler sends before it takes the machine away."""
    arguments = ["train", *TINY, "training.total_steps=100_000", f"run.directory={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "durotaxis", *arguments], stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / records.METRICS
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted at step" in output
    assert "durotaxis train --resume" in output
    step = load(tmp_path / "run" / "checkpoints" / "last.pt").counters["step"]
    assert step == json.loads(metrics.read_text().splitlines()[step // 16 - 1])["step"] > 0
