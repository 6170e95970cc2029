"""Recorded episodes hold what the world did: replayed step by step, and against the evaluation's own rows."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.config import load_config
from durotaxis.env import DurotaxisEnv, EnvConfig, reset, step
from durotaxis.env.substrate import stiffness
from durotaxis.env.types import Action, empty_action
from durotaxis.ppo import evaluate
from durotaxis.records import (
    EPISODE_INFO,
    SCHEMA,
    STEPS,
    Episode,
    EpisodeInfo,
    RecordError,
    episode_numbers,
    read_episode,
    read_episodes,
    unknown_columns,
    write_episodes,
)
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.episode import Recorder, record_agent, record_scripted
from durotaxis.study.run import build_policy
from durotaxis.study.score import play

SMALL = (
    "env.max_steps=12",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=32",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    'actor_critic.wsa_config.ptms=[{"model_type": "graph_cnn"}, {"model_type": "graph_gnn"}]',
    "actor_critic.backbone=graph_cnn",
)
SEEDS = [2_000_000, 2_000_001, 2_000_002]


def small_config(*overrides: str) -> RootConfig:
    """The quick configuration with a tiny agent."""
    return load_config(find_config("quick"), RootConfig, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def config() -> EnvConfig:
    return EnvConfig(scenario="patches", max_steps=25)


@pytest.fixture(scope="module")
def scripted(config) -> list[Episode]:
    return record_scripted("random", config, SEEDS)


@pytest.fixture(scope="module")
def by_agent() -> tuple[list[Episode], list[dict], object]:
    root = small_config()
    policy = build_policy(root, torch.device("cpu"))
    return record_agent(policy, root.env, SEEDS[:2]), policy, root


def ids_and_places(row) -> tuple[list[int], list[list[float]]]:
    return row["node_ids"], row["nodes"]


def test_the_world_does_with_the_recorded_actions_what_was_recorded(scripted, config):
    """The recorded actions alone, given to the world, lead through the recorded states."""
    for episode in scripted:
        colony, substrate = reset(config, torch.tensor([episode.info.seed]))
        for row, after in zip(episode.steps, episode.rows[1:], strict=True):
            num = int(colony.num_nodes)
            assert row["node_ids"] == colony.node_id[0, :num].tolist()
            assert row["parents"] == colony.parent[0, :num].tolist()
            assert row["ages"] == colony.age[0, :num].tolist()
            assert row["marked"] == colony.marked[0, :num].tolist()
            np.testing.assert_allclose(row["nodes"], colony.position[0, :num].numpy(), atol=6e-5)
            under = stiffness(colony.position[:, :num], substrate)[0]
            np.testing.assert_allclose(row["stiffness"], under.numpy(), atol=6e-6)
            rest = empty_action(colony)
            kinds, parameters = rest.kind.clone(), rest.parameters.clone()
            kinds[0, :num] = torch.tensor(row["kinds"])
            for node, values in enumerate(row["parameters"]):
                assert (values is not None) == (row["kinds"][node] == 1)
                if values is not None:
                    parameters[0, node] = torch.tensor(values)
            exact = SCRIPTED["random"](colony, substrate, config)
            torch.testing.assert_close(kinds, exact.kind)
            chosen = exact.spawns
            torch.testing.assert_close(parameters[chosen], exact.parameters[chosen], atol=1e-5, rtol=0)
            transition = step(colony, Action(kinds, exact.parameters), substrate, config)
            assert row["reward"] == pytest.approx(float(transition.reward), abs=1e-6)
            assert sum(v for k, v in row.items() if k.startswith("term/")) == pytest.approx(
                row["reward"], abs=1e-5
            )
            colony = transition.colony
            assert after["step"] == int(colony.step)
        assert episode.last["node_ids"] == colony.node_id[0, : int(colony.num_nodes)].tolist()


def test_the_ends_are_those_of_the_scripted_evaluation(scripted, config):
    """`play`, another loop, over the same seeds."""
    for episode, row in zip(
        scripted, play(SCRIPTED["random"], config, torch.tensor(SEEDS)).rows(), strict=True
    ):
        assert (episode.info.length, episode.info.reason) == (row["length"], row["reason"])
        assert episode.info.total_reward == pytest.approx(row["return"], abs=1e-4)
        assert episode.info.total_reward == pytest.approx(sum(s["reward"] for s in episode.steps), abs=1e-4)
        assert episode.info.final["front_progress"] == pytest.approx(row["final/front_progress"])


def test_columns_are_those_of_the_schema(scripted, by_agent):
    assert [c.name for c in SCHEMA[EPISODE_INFO]] == [f.name for f in dataclasses.fields(EpisodeInfo)]
    for episode in (*scripted, *by_agent[0]):
        for row in episode.rows:
            assert not unknown_columns(STEPS, row)
        assert episode.terms == [k.removeprefix("term/") for k in episode.steps[-1] if k.startswith("term/")]


def test_an_agents_thoughts_are_recorded(by_agent):
    """Attention, value and entropy of each step equal those of the policy asked again, one colony alone."""
    episodes, policy, root = by_agent
    assert episodes[0].info.ptms == policy.ptm_names
    assert episodes[0].info.attention_rows == policy.attention_rows == "node"
    episode = episodes[1]
    world = DurotaxisEnv(root.env, 1)
    observation = world.reset([episode.info.seed])
    for row in episode.steps:
        with torch.no_grad():
            distribution, value = policy(observation, policy.precompute(observation))
        num = len(row["nodes"])
        assert row["value"] == pytest.approx(float(value), abs=1e-4)
        np.testing.assert_allclose(row["attention"], distribution.attention.numpy(), atol=1e-5)
        assert np.shape(row["attention"]) == (num, len(policy.ptm_names))
        entropy = sum(part.sum() for part in distribution.entropy()) / num
        assert row["entropy"] == pytest.approx(float(entropy), abs=1e-4)
        action = Action(world.colony.age.clone() * 0, torch.zeros(1, world.colony.capacity, 4))
        kinds, parameters = action.kind, action.parameters
        kinds[0, :num] = torch.tensor(row["kinds"])
        for node, values in enumerate(row["parameters"]):
            if values is not None:
                parameters[0, node] = torch.tensor(values)
        observation = world.step(Action(kinds, parameters)).observation


def test_the_plain_actor_has_no_attention():
    root = small_config("actor_critic.use_wsa=false")
    (episode,) = record_agent(build_policy(root, torch.device("cpu")), root.env, SEEDS[:1])
    assert (episode.info.ptms, episode.info.attention_rows) == ([], None)
    assert all(row["attention"] is None and row["value"] is not None for row in episode.steps)


def test_only_the_first_episodes_are_kept_whatever_the_batch(config):
    policy = build_policy(small_config(), torch.device("cpu"))
    env = small_config().env
    world = DurotaxisEnv(env, 2, validate=False)
    recorder = Recorder(world, 3, "agent", policy)
    seeds = [2_000_000 + j for j in range(5)]
    rows = evaluate(world, policy, seeds, on_step=recorder.on_step, look=recorder.look)
    episodes = recorder.episodes(rows)
    assert [episode.info.seed for episode in episodes] == seeds[:3]
    alone = record_agent(policy, env, seeds[2:3])[0]
    assert ids_and_places(alone.last) == ids_and_places(episodes[2].last)


def test_the_field_is_that_of_the_seed(scripted, config):
    for episode in scripted:
        field = np.array(episode.info.field)
        rows, columns = field.shape
        width, height = episode.info.size
        _, substrate = reset(config, torch.tensor([episode.info.seed]))
        place = np.array(
            [[(columns // 3 + 0.5) / columns * width, height - (rows // 4 + 0.5) / rows * height]]
        )
        there = stiffness(torch.tensor(place, dtype=torch.float32)[None], substrate)
        assert field[rows // 4, columns // 3] == pytest.approx(float(there), abs=1e-4)
    assert len({json.dumps(e.info.field) for e in scripted}) == len(scripted)


def test_writing_and_reading(scripted, tmp_path):
    write_episodes(tmp_path, scripted)
    assert episode_numbers(tmp_path) == [0, 1, 2]
    for got, was in zip(read_episodes(tmp_path), scripted, strict=True):
        assert json.dumps(got.rows) == json.dumps(was.rows)
        assert json.dumps(dataclasses.asdict(got.info)) == json.dumps(dataclasses.asdict(was.info))
    first = {path.name: path.read_bytes() for path in (tmp_path / "episodes").iterdir()}
    write_episodes(tmp_path, scripted)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "episodes").iterdir()}


def test_another_recording_replaces_all_of_the_one_before(scripted, tmp_path):
    write_episodes(tmp_path, scripted)
    write_episodes(tmp_path, scripted[2:])
    assert episode_numbers(tmp_path) == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def test_a_recording_that_fails_leaves_the_one_before(scripted, tmp_path):
    write_episodes(tmp_path, scripted)
    bad = dataclasses.replace(scripted[1], last={**scripted[1].last, "nodes": [[float("nan"), 0.0]]})
    with pytest.raises(RecordError, match="not a finite number"):
        write_episodes(tmp_path, [scripted[0], bad])
    assert episode_numbers(tmp_path) == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def rewrite(path, change) -> None:
    """Change what a compressed JSON(L) file holds, line by line."""
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    text = "".join(json.dumps(line) + "\n" for line in change(lines))
    path.write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("1.jsonl.gz", lambda rows: rows[:-1], r"unfinished, 25 rows where 25 steps and an end should be"),
        ("1.jsonl.gz", lambda rows: rows[:-2], r"unfinished"),
        ("1.jsonl.gz", lambda rows: [], r"unfinished, 0 rows"),
        ("1.jsonl.gz", lambda rows: [{**rows[0], "ages": []}, *rows[1:]], r"step 0: 5 nodes, but ages has 0"),
        ("1.jsonl.gz", lambda rows: [{**rows[0], "parents": [9] * 5}, *rows[1:]], "a parent is none of the 5 nodes"),
        ("1.jsonl.gz", lambda rows: [{**rows[0], "odd": 1}, *rows[1:]], "missing or unknown: odd"),
        ("1.json.gz", lambda rows: [{**rows[0], "format": 7}], "is of format 7, this version reads 1"),
        ("1.json.gz", lambda rows: [{k: v for k, v in rows[0].items() if k != "goal"}], "missing or unknown: goal"),
    ],
)  # fmt: skip
def test_what_cannot_be_relied_on_is_refused(scripted, tmp_path, file, change, message):
    write_episodes(tmp_path, scripted)
    assert scripted[1].info.length == 25
    rewrite(tmp_path / "episodes" / file, change)
    with pytest.raises(RecordError, match=message):
        read_episode(tmp_path, 1)
    read_episode(tmp_path, 0)


def test_what_is_not_there(scripted, tmp_path):
    with pytest.raises(RecordError, match=r"has no recorded episodes; `durotaxis evaluate"):
        read_episode(tmp_path)
    with pytest.raises(RecordError, match=r"has no recorded episodes"):
        list(read_episodes(tmp_path))
    write_episodes(tmp_path, scripted)
    with pytest.raises(RecordError, match=r"has no episode 3; it has 0 to 2"):
        read_episode(tmp_path, 3)
    (tmp_path / "episodes" / "0.json.gz").write_bytes(b"nothing")
    with pytest.raises(RecordError, match="cannot be read"):
        read_episode(tmp_path, 0)
