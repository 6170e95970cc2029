"""`analyse_metrics`: what a run's episodes are compared with is recorded once, and only where it fits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from durotaxis import cli
from durotaxis.analysis import migration_figures
from durotaxis.analysis.metrics import METRIC_COLUMNS, NUMBERS
from durotaxis.analysis.migration import SUMMARY_COLUMNS
from durotaxis.cli.metrics import analyse_metrics
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.env.substrate import SubstrateConfig
from durotaxis.records import RecordError, RunDirectory, read_episode
from durotaxis.study import episode as episode_module
from durotaxis.study import references
from durotaxis.study.references import MADE, Reference, make_references, null_world, played_world, player_of

pytestmark = pytest.mark.unchecked

SMALL = [
    "env.scenario=moat",
    "env.max_steps=8",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.use_wsa=false",
    "actor_critic.backbone={model_type: graph_cnn, freeze: false, tap: block1}",
    "ppo.num_colonies=4",
    "ppo.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "training.total_steps=32",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
    "run.device=cpu",
]
NAMES = [
    "moat-changed-delete-left",
    "moat-changed-random",
    "uniform-changed-agent",
    "uniform-changed-delete-left",
    "uniform-changed-random",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small run with three recorded episodes, and all that they are compared with."""
    place = tmp_path_factory.mktemp("trained") / "run"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode_module, "PIXELS", 10)  # the stiffness field is most of a short record
        assert cli.run(["train", *SMALL, f"run.directory={place}"]) == 0
        assert cli.run(["evaluate", str(place), "--seeds", "3", "--record", "3"]) == 0
        episodes = [read_episode(place, number) for number in range(3)]
        found = make_references(RunDirectory.open(place), episodes, said.append)
    assert sorted(one.place.name for one in found) == NAMES
    assert said[2] == "recording agent in uniform changed, 3 episodes"
    assert len(said) == 5
    return place


@pytest.fixture
def run(trained, tmp_path) -> RunDirectory:
    shutil.copytree(trained, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


@pytest.fixture(scope="module")
def candidate(trained):
    return player_of(RunDirectory.open(trained), [read_episode(trained)])


@pytest.fixture
def recorded(trained, monkeypatch) -> list[str]:
    """What is recorded from now on; it is taken from what was recorded before."""
    names: list[str] = []

    def record(name, seeds):
        names.append(name)
        return [read_episode(trained / "references" / name, n) for n in range(len(seeds))]

    monkeypatch.setattr(
        references,
        "record_scripted",
        lambda name, world, seeds: record(f"{world.scenario}-changed-{name}", seeds),
    )
    monkeypatch.setattr(
        references,
        "record_agent",
        lambda agent, world, seeds, *_: record(f"{world.scenario}-changed-agent", seeds),
    )
    return names


def made(run: RunDirectory, count: int = 3):
    return make_references(run, [read_episode(run.path, number) for number in range(count)])


def test_references_are_episodes_of_the_same_seeds(run):
    for one in made(run):
        episodes = [read_episode(one.place, number) for number in one.numbers]
        assert [episode.info.seed for episode in episodes] == [2_000_000, 2_000_001, 2_000_002]
        assert {episode.info.scenario for episode in episodes} == {f"{one.place.name.split('-')[0]} changed"}
        assert {episode.info.trained_steps for episode in episodes} == {32 if one.policy == "agent" else None}


def test_references_are_made_again_only_where_they_do_not_fit(run, recorded):
    found = made(run)
    assert not recorded
    assert [one.numbers for one in made(run, 2)] == [[0, 1]] * 5, "fewer seeds are among those that lie there"
    assert not recorded
    names = (
        "uniform-changed-agent",
        "uniform-changed-random",
        "uniform-changed-delete-left",
        "moat-changed-random",
    )
    agent, random, left, world = (run.path / "references" / name for name in names)
    (random / MADE).write_text("{ cut")
    (left / "episodes" / "1.json.gz").unlink()
    changed = json.loads((agent / MADE).read_text())
    (agent / MADE).write_text(json.dumps({**changed, "sha256": "of another checkpoint"}))
    other = json.loads((world / MADE).read_text())
    other["env"]["max_steps"] = 7
    (world / MADE).write_text(json.dumps(other))
    assert made(run) == found
    assert sorted(recorded) == sorted(names)
    assert json.loads((agent / MADE).read_text()) == changed
    recorded.clear()
    assert made(run) == found
    assert not recorded


def test_nothing_is_played_where_that_is_not_wanted(run, recorded):
    episodes = [read_episode(run.path, number) for number in range(3)]
    assert len(make_references(run, episodes, play=False)) == 5
    shutil.rmtree(run.path / "references" / "uniform-changed-random")
    with pytest.raises(UserError, match="uniform-changed-random is missing or does not fit; record it"):
        make_references(run, episodes, play=False)
    assert not recorded


def test_a_recording_that_breaks_off_is_not_taken_for_one(run, recorded, monkeypatch):
    place = run.path / "references" / "uniform-changed-random"
    (place / MADE).write_text("{}")

    def stop(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr(references, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        made(run)
    assert not (place / MADE).exists()


def test_episodes_start_alike_with_and_without_a_gradient(run):
    found = {one.place.name: read_episode(one.place, 1) for one in made(run)}
    starts = [episode.steps[0]["nodes"] for episode in found.values()]
    assert all(start == starts[0] for start in starts)
    assert starts[0] == read_episode(run.path, 1).steps[0]["nodes"]
    assert set(found["uniform-changed-agent"].steps[0]["stiffness"]) == {6.0}


def test_the_null_world_is_the_scenario_uniform_of_the_same_size():
    world = null_world(EnvConfig(scenario="full"))
    assert world.substrate == SubstrateConfig(kind="uniform", size=(600.0, 400.0))
    assert (world.scenario, world.max_nodes, world.max_steps) == ("uniform", 250, 1000)
    small = null_world(EnvConfig(scenario="linear"))
    assert small == EnvConfig(scenario="uniform")
    turned = null_world(EnvConfig(scenario="moat", substrate={"direction": [0, 1]}))
    assert turned.substrate.direction == pytest.approx(torch.pi / 2)


def test_everything_is_measured_and_written(run, capsys, monkeypatch):
    monkeypatch.setattr(migration_figures, "FIGURES", {"metrics-msd": migration_figures.displacement_figure})
    analyse_metrics(run.path, None)
    out = capsys.readouterr().out
    assert "recording" not in out
    assert "minus agent in uniform changed" in out
    folder = run.path / "analysis"
    assert {path.name for path in folder.iterdir()} == {
        "metrics.csv",
        "metrics-summary.csv",
        "metrics-msd.png",
        "metrics-msd.svg",
    }
    table = pandas.read_csv(folder / "metrics.csv")
    assert list(table.columns) == [column.name for column in METRIC_COLUMNS]
    assert table.groupby(["policy", "scenario"]).size().to_dict() == {
        ("agent", "moat changed"): 3,
        ("agent", "uniform changed"): 3,
        ("delete-left", "moat changed"): 3,
        ("delete-left", "uniform changed"): 3,
        ("random", "moat changed"): 3,
        ("random", "uniform changed"): 3,
    }
    summary = pandas.read_csv(folder / "metrics-summary.csv")
    assert list(summary.columns) == [column.name for column in SUMMARY_COLUMNS]
    assert len(summary) == len(NUMBERS) * (6 + 3 + 2)
    means = summary[summary.against_policy.isna()].set_index(["policy", "scenario", "metric"])["mean"]
    expected = table.groupby(["policy", "scenario"])["velocity"].mean()
    for (policy, scenario), value in expected.items():
        assert means[policy, scenario, "velocity"] == pytest.approx(value)
    null = summary[
        (summary.policy == "agent")
        & (summary.against_scenario == "uniform changed")
        & (summary.metric == "velocity")
    ]
    assert null["mean"].item() == pytest.approx(
        expected["agent", "moat changed"] - expected["agent", "uniform changed"]
    )
    assert null["paired"].item() is True
    analyse_metrics(run.path, run.path.parent / "elsewhere", seeds=2)
    assert len(pandas.read_csv(run.path.parent / "elsewhere" / "metrics.csv")) == 12


def test_what_cannot_be_measured(run, tmp_path):
    with pytest.raises(RecordError, match="is not a run directory"):
        analyse_metrics(tmp_path, None)
    with pytest.raises(UserError, match="has 3 recorded episodes, 4 cannot be taken; record more: durotaxis"):
        analyse_metrics(run.path, None, seeds=4)
    with pytest.raises(UserError, match="0 cannot be taken"):
        analyse_metrics(run.path, None, seeds=0)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="file is not a directory"):
        analyse_metrics(run.path, tmp_path / "file")
    shutil.rmtree(run.path / "episodes")
    shutil.rmtree(run.path / "references")
    with pytest.raises(RecordError, match="no recorded episodes; `durotaxis evaluate"):
        analyse_metrics(run.path, None)
    assert not (run.path / "references").exists()


def test_a_checkpoint_that_is_gone_or_was_trained_on(run, monkeypatch):
    episodes = [read_episode(run.path, 0)]
    candidate = player_of(run, episodes)
    assert candidate.step == 32
    monkeypatch.setattr(
        references, "open_run", lambda path: type("C", (), {"step": 64, "checkpoint_path": path})
    )
    with pytest.raises(UserError, match=r"after 32 steps of training, last\.pt has 64; record them again"):
        player_of(run, episodes)
    monkeypatch.undo()
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(UserError, match=r"last\.pt: no such checkpoint"):
        player_of(run, episodes)


def test_the_world_is_the_one_that_was_played(candidate, trained):
    """Not that of the run's configuration, which may have been changed on the command line."""
    episode = read_episode(trained)
    assert played_world(episode) == candidate.config.env
    changed = replace(episode, info=replace(episode.info, env={**episode.info.env, "max_steps": 7}))
    assert played_world(changed) == candidate.config.env.model_copy(update={"max_steps": 7})
    odd = replace(episode, info=replace(episode.info, env={**episode.info.env, "gravity": 1}))
    with pytest.raises(UserError, match="gravity: unknown key"):
        played_world(odd)


def test_episodes_of_a_scripted_policy_have_no_agent(trained):
    run = RunDirectory.open(trained)
    with pytest.raises(UserError, match="were played by random, not by its agent"):
        player_of(run, [read_episode(trained / "references" / "moat-changed-random")])


def test_what_is_flat_has_no_null(trained, monkeypatch):
    flat = read_episode(trained / "references" / "uniform-changed-agent")
    monkeypatch.setattr(
        references, "_kept", lambda run, policy, world, *_: Reference(policy, Path(world.scenario), [0])
    )
    found = make_references(RunDirectory.open(trained), [flat])
    assert [(one.policy, one.place.name) for one in found] == [
        ("random", "uniform"),
        ("delete-left", "uniform"),
    ]
