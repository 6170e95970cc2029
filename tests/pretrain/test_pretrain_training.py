"""The graph trunk, the tasks, training to the bit, files, probes and the command."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import approx_fprime

from durotaxis import cli
from durotaxis.core.errors import UserError
from durotaxis.fusion import GraphInput, PTMConfig, build_ptm
from durotaxis.pretrain import (
    PretrainConfig,
    command_of,
    data,
    describe_trunk,
    load_trunk,
    make_trunk,
    probe,
    save_trunk,
    scenes,
)
from durotaxis.pretrain.examples import Examples, examine
from durotaxis.pretrain.tasks import TASKS_OF, _cross_entropy, hide, link_pairs, look
from durotaxis.pretrain.train import draw_views, prepare, untrained
from durotaxis.pretrain.worlds import world

MODELS = ("graph_cnn", "graph_gnn")


@pytest.fixture(scope="module")
def examples():
    drawn = scenes.random_scenes(world("checkers"), 3, 40)
    return {name: examine(drawn, data.joined_by(name), 4) for name in MODELS}


@pytest.fixture
def small(monkeypatch):
    """Two worlds with short rollouts."""
    monkeypatch.setattr(scenes, "_ROLLOUT_STEPS", 6)
    monkeypatch.setattr(data, "TRAINING", ("moat", "checkers"))
    return {"scenes": 56, "batch_size": 12, "steps": 4}


def test_the_graph_trunk_does_not_depend_on_order_or_companions(examples):
    graph = examples["graph_gnn"].graph
    backbone = untrained("graph_gnn", 1).backbone
    whole = backbone(graph)
    assert whole.shape == (len(graph.nodes), 64)
    generator = torch.Generator().manual_seed(0)
    # Within each scene any order of nodes, and any order of edges.
    order = (graph.batch + torch.rand(len(graph.batch), generator=generator) * 0.9).argsort()
    place = order.argsort()
    edge_order = torch.randperm(len(graph.edges), generator=generator)
    shuffled = dataclasses.replace(
        graph,
        nodes=graph.nodes[order],
        edge_index=place[graph.edge_index[:, edge_order]],
        edges=graph.edges[edge_order],
    )
    torch.testing.assert_close(backbone(shuffled), whole[order], atol=1e-5, rtol=0)
    alone = backbone(examples["graph_gnn"].take(torch.tensor([5])).graph)
    torch.testing.assert_close(alone, whole[graph.batch == 5], atol=1e-5, rtol=0)


def test_messages_go_both_ways_as_many_steps_as_there_are_layers():
    path = torch.stack([torch.arange(11), torch.arange(1, 12)])
    path[:, ::2] = path[:, ::2].flip(0)  # every other edge turned round
    nodes = torch.randn(12, 13, generator=torch.Generator().manual_seed(0), requires_grad=True)
    edges, batch = torch.ones(11, 3), torch.zeros(12, dtype=torch.int64)
    for tap, layers in (("layer1", 1), ("layer4", 4)):
        ptm = build_ptm(PTMConfig(model_type="graph_gnn", tap=tap, seed=0, freeze=False), 4, "sampled")
        assert len(ptm.backbone.layers) == layers
        graph = dataclasses.replace(_empty_graph(), nodes=nodes, edge_index=path, edges=edges, batch=batch)
        (gradient,) = torch.autograd.grad(ptm.backbone(graph)[6, 0], nodes)
        felt = (gradient.abs().sum(1) > 0).nonzero()[:, 0].tolist()
        assert felt == list(range(6 - layers, 7 + layers))


def _empty_graph():
    return GraphInput(
        torch.zeros(0, 13),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(0, 3),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(1, 16),
    )


def test_an_empty_graph_and_lone_nodes_are_finite():
    backbone = untrained("graph_gnn", 1).backbone
    assert backbone(_empty_graph()).shape == (0, 64)
    lone = dataclasses.replace(
        _empty_graph(), nodes=torch.ones(2, 13), batch=torch.zeros(2, dtype=torch.int64)
    )
    assert bool(backbone(lone).isfinite().all())


@pytest.mark.parametrize("model", MODELS)
def test_every_task_teaches_the_trunk(model, examples):
    trained = prepare(PretrainConfig(model=model))
    generator = torch.Generator().manual_seed(0)
    views = draw_views(trained.ptm, examples[model], 36, generator)
    first = next(trained.ptm.backbone.parameters())
    for name in TASKS_OF[model]:
        if name in ("next",):  # random graphs have no next step
            continue
        loss = trained.tasks[name].loss(views, generator)
        (gradient,) = torch.autograd.grad(loss, first, retain_graph=True)
        assert float(loss.detach()) > 0, name
        assert float(gradient.abs().sum()) > 0, name


def test_the_next_step_is_asked_where_there_is_one(examples):
    trained = prepare(PretrainConfig(model="graph_cnn"))
    some = examples["graph_cnn"]
    views = draw_views(trained.ptm, some, 36, torch.Generator().manual_seed(0))
    task = trained.tasks["next"]
    assert float(task.loss(views, torch.Generator()).detach()) == 0
    change = views.plain.of_scene["next"].clone()
    change[0] = 3.0
    asked = dataclasses.replace(views.plain, of_scene={**views.plain.of_scene, "next": change})
    found = task.loss(dataclasses.replace(views, plain=asked), torch.Generator())
    expected = (task.head(views.seen.pooled[0]) - 3.0).square().mean()
    torch.testing.assert_close(found, expected)


def test_classes_weigh_the_same_however_rare():
    scores = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    answer = torch.tensor([0, 0, 0, 0, 0, 2, 2, -1, -1])
    each = -scores.log_softmax(1).gather(1, answer.clamp_min(0)[:, None])[:, 0]
    expected = (each[:5].mean() + each[5:7].mean()) / 2
    torch.testing.assert_close(_cross_entropy(scores, answer), expected)
    assert float(_cross_entropy(scores, torch.full((9,), -1))) == 0


def test_links_asked_about_were_hidden_and_strangers_are_no_neighbours(examples):
    whole = examples["graph_gnn"]
    hidden = hide(whole, torch.Generator().manual_seed(0))
    true, false = link_pairs(whole, hidden.links, torch.Generator().manual_seed(1))
    joined = {frozenset(edge) for edge in whole.graph.edge_index.T.tolist()}
    shown = {frozenset(edge) for edge in hidden.examples.graph.edge_index.T.tolist()}
    assert len(true) > 50
    assert all(frozenset(pair) in joined - shown for pair in true.tolist())
    assert all(a != b and frozenset((a, b)) not in joined for a, b in false.tolist())
    batch = whole.graph.batch
    assert torch.equal(batch[false[:, 0]], batch[false[:, 1]])
    assert bool((hidden.examples.graph.nodes[hidden.nodes] == 0).all())
    covered = hidden.pixels[:, None].expand_as(whole.field)
    assert bool((hidden.examples.field[covered] == 0.5).all())
    assert torch.equal(hidden.examples.field[~covered], whole.field[~covered])


@pytest.mark.parametrize("model", MODELS)
def test_the_same_command_makes_the_same_bytes(model, small, tmp_path):
    config = PretrainConfig(model=model, seed=3, **small)
    seen = []
    for other_use, name in enumerate(("a", "b")):
        torch.manual_seed(other_use)  # of the caller's own random numbers
        make_trunk(config, tmp_path / f"{name}.safetensors", lambda count: None, seen.append)
    make_trunk(
        config.model_copy(update={"seed": 4}),
        tmp_path / "c.safetensors",
        lambda count: None,
        lambda losses: None,
    )
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]["loss"]) == set(TASKS_OF[model])
    about = describe_trunk(tmp_path / "a.safetensors")
    assert about["model"] == model
    assert about["config"]["seed"] == 3
    assert f"pretrain --model {model} --steps 4" in about["command"]
    start = prepare(config).ptm.backbone.state_dict()
    learned = load_file(tmp_path / "a.safetensors")
    assert learned.keys() == start.keys()
    assert any(not torch.equal(learned[key], start[key]) for key in start)


@pytest.mark.parametrize("model", MODELS)
def test_a_file_made_here_is_a_pre_trained_model(model, examples, tmp_path):
    path = tmp_path / "w.safetensors"
    ptm = untrained(model, 5)
    save_trunk(path, ptm.backbone, PretrainConfig(model=model), "a command")
    some = examples[model].take(torch.arange(3))
    inputs = (some.field, some.points, some.graph.batch, None, some.graph)
    for readout, rows in (("pooled", 3), ("sampled", len(some.points))):
        config = PTMConfig(model_type=f"{model}_connectivity", weights=str(path), freeze=True)
        loaded = build_ptm(config, 8, readout)
        assert loaded.is_frozen
        assert len(loaded.record.sha256) == 64
        assert loaded(*inputs).shape == (rows, 8)
    torch.testing.assert_close(look(load_trunk(path), some).nodes, look(ptm, some).nodes)
    first_tap = next(iter(loaded.record.taps))
    early = build_ptm(config.model_copy(update={"tap": first_tap}), 8)
    assert early(*inputs[:1], graph=some.graph).shape == (3, 8)
    state = load_file(path)
    state.pop(next(iter(state)))
    save_file(state, path)
    with pytest.raises(UserError, match="missing"):
        build_ptm(config, 8)
    with pytest.raises(UserError, match="is no file of"):
        describe_trunk(path)


def test_the_file_is_named_by_the_model_however_it_is_given(tmp_path, monkeypatch):
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("durotaxis.pretrain.make_trunk", lambda config, path, *rest: made.append(str(path)))
    for arguments in (["model=graph_gnn"], ["--model", "graph_gnn"], []):
        assert cli.run(["pretrain", *arguments]) == 0
    assert made == ["graph_gnn.safetensors", "graph_gnn.safetensors", "graph_cnn.safetensors"]


@pytest.mark.parametrize(("rate", "what"), [(1e30, "loss|gradient"), (3.3e37, "weight")])
def test_numbers_that_are_not_finite_stop_it_and_leave_earlier_files(rate, what, small, tmp_path):
    out, records = tmp_path / "a.safetensors", tmp_path / "a.jsonl"
    out.write_text("earlier")
    records.write_text("earlier")
    changes = {"learning_rate": rate, "weight_decay": 10.0, "steps": 1 if what == "weight" else 4}
    # Beyond what a configuration allows, so that it goes wrong at once.
    config = PretrainConfig(model="graph_gnn", **small).model_copy(update=changes)
    with pytest.raises(
        UserError, match=rf"a ({what}) is not finite at step .*; nothing is written; try a lower learning"
    ):
        make_trunk(config, out, lambda count: None, lambda losses: None)
    assert (out.read_text(), records.read_text()) == ("earlier", "earlier")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "{}",
        "3",
        "{",
        '{"model": "foo", "command": "c"}',
        '{"model": [], "command": "c"}',
        '{"model": "graph_gnn"}',
    ],
)
def test_files_of_others_are_no_trunks(about, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"durotaxis": about})
    with pytest.raises(UserError, match=r"a\.safetensors: is no file of `durotaxis pretrain`"):
        load_trunk(tmp_path / "a.safetensors")


def test_the_command_line_of_a_configuration_makes_it_again():
    config = PretrainConfig(
        model="graph_gnn", steps=7, data=("a b.csv", "pyg:X"), tasks=("links", "next"), batch_size=9
    )
    expected = (
        f"OMP_NUM_THREADS={torch.get_num_threads()} durotaxis pretrain --model graph_gnn --tasks links,next "
        "--steps 7 batch_size=9 --data 'a b.csv' --data pyg:X"
    )
    assert command_of(config) == expected


def test_users_networks_are_a_quarter_of_the_scenes(small):
    config = PretrainConfig(model="graph_gnn", data=("pyg:KarateClub",), **small)
    drawn = data.training_examples(config, lambda count: None)
    # Karate's nodes have more neighbours than those of any random graph here.
    crowded = [
        drawn.graph.nodes[drawn.graph.batch == scene, 3:5].sum(1).max() > 2 for scene in range(len(drawn))
    ]
    assert 3 <= sum(crowded) <= 14
    assert 45 <= len(drawn) <= 60


def test_logistic_regression_is_at_its_optimum():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    answer = (features @ [[1.0, 0, -1], [0, 1, 0], [0, 0, 1]] + generator.normal(size=(60, 3))).argmax(1)
    weights = probe.fit_logistic(features, answer, 0.1)

    def objective(flat):
        w = flat.reshape(4, 3)
        scores = features @ w[:-1] + w[-1]
        loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(60), answer]
        mean = np.mean([loss[answer == each].mean() for each in range(3)])
        return mean + 0.05 * (w[:-1] ** 2).sum()

    np.testing.assert_allclose(approx_fprime(weights.ravel(), objective), 0, atol=1e-4)


def test_accuracy_is_balanced_over_classes():
    truth = np.array([0] * 8 + [3] * 2)
    right = np.array([True] * 8 + [False, True])
    assert probe.balanced_accuracy(right, truth) == 75.0


def test_one_row_per_scene_and_only_allowed_ones():
    scene = torch.tensor([0, 0, 1, 2, 2, 2])
    allowed = torch.tensor([False, True, False, True, False, True])
    rows = [probe.one_per_scene(scene, allowed, torch.Generator().manual_seed(s)).tolist() for s in range(20)]
    assert all(row in ([1, 3], [1, 5]) for row in rows)
    assert [1, 3] in rows
    assert [1, 5] in rows


@pytest.fixture(scope="module")
def held_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "_ROLLOUT_STEPS", 30)
        return data.held_out_examples("islands", "graph", 400)


def test_every_source_is_fitted_and_judged_by_the_same_shares(held_out):
    source, group = held_out.source.numpy(), held_out.group.numpy()
    division = probe.divide(source, group, 0)
    for each in (scenes.Source.ROLLOUT, scenes.Source.RANDOM):
        part, largest = division.part[source == each], np.unique(group[source == each], return_counts=True)[1]
        assert 180 <= len(part) <= 220
        share = np.bincount(part, minlength=3) / len(part)
        np.testing.assert_allclose(share, (0.45, 0.15, 0.4), atol=largest.max() / len(part))
    again, other = (probe.divide(source, group, seed).part for seed in (0, 1))
    assert np.array_equal(division.part, again)
    assert not np.array_equal(division.part, other)


def test_no_episode_is_parted(held_out):
    rolled = held_out.source.numpy() == scenes.Source.ROLLOUT
    group = held_out.group.numpy()
    part = probe.divide(held_out.source.numpy(), group, 0).part
    episodes = np.unique(group[rolled])
    assert 48 <= len(episodes) <= rolled.sum() // 2
    assert all(len(np.unique(part[group == episode])) == 1 for episode in episodes)
    assert len(np.unique(group[~rolled])) == (~rolled).sum()


def everyone_apart(count):
    """Division of `count` scenes of one source that have nothing to do with each other."""
    return probe.divide(np.zeros(count, dtype=int), np.arange(count), 0)


def test_features_that_recognise_an_episode_tell_nothing():
    generator = np.random.default_rng(0)
    group = np.arange(80).repeat(12)
    division = probe.divide(np.zeros(960, dtype=int), group, 0)
    answer = generator.integers(0, 2, 80)[group]
    told = generator.normal(size=(80, 60))[group]
    question = probe.Question(told, answer, np.arange(960))
    finding = probe.compare("w", "q", [question] * 2, division)
    assert 30 < finding.trained < 70
    leaky = probe.compare("w", "q", [question] * 2, everyone_apart(960))
    assert leaky.trained > 95


def test_resamples_draw_episodes_whole_and_as_many_of_each_source():
    source = np.array([0] * 200 + [1] * 30)
    group = np.append(np.arange(40).repeat(5), np.arange(100, 130))
    value = np.random.default_rng(0).normal(size=130)[group]
    division = probe.Division(np.full(230, 2), source, group)
    means = []
    for rows in probe.resamples(division, 2000, 0):
        assert (source[rows] == 1).sum() == 30
        drawn = np.bincount(rows, minlength=230)
        assert (drawn[:200].reshape(40, 5) == drawn[:200:5, None]).all()
        means.append(value[rows[source[rows] == 0]].mean())
    # The mean of 40 independent draws of the episodes' values, by the formula.
    np.testing.assert_allclose(np.std(means), value[:200:5].std() / np.sqrt(40), rtol=0.08)


def test_a_probe_finds_what_features_say_and_nothing_in_noise():
    generator = np.random.default_rng(0)
    answer = generator.integers(0, 3, 900)
    noise = generator.normal(size=(900, 5))
    told = noise + np.eye(5)[answer] * 4
    questions = [probe.Question(each, answer, np.arange(900)) for each in (told, noise, noise[:, ::-1])]
    finding = probe.compare("w", "q", questions, everyone_apart(900))
    assert finding.trained > 95
    assert all(abs(each - 100 / 3) < 10 for each in finding.untrained)
    assert finding.low < finding.gain < finding.high
    assert finding.high - finding.low < 15
    assert finding.num_judged == 360
    assert finding.num_classes == 3
    same = probe.compare("w", "q", questions[1:2] * 3, everyone_apart(900))
    assert same.gain == same.low == same.high == 0


def possible_answers(examples, name, model, scene):
    """What can be answered about a scene."""
    mine = examples.graph.batch == int(scene)
    if name == "bridge":
        return examples.of_node["bridge"][mine].tolist()
    if name == "ahead":
        return examples.of_node["blocked"][mine, probe._FORWARD].int().tolist()
    counted = "components" if model == "graph_gnn" else "clusters"
    return [int(examples.of_scene[{"reachability": "joined", "components": counted}[name]][scene])]


@pytest.mark.parametrize("model", MODELS)
def test_every_question_of_a_probe_is_asked_once_per_scene(model, examples, monkeypatch):
    monkeypatch.setattr(probe, "_AT_ONCE", 17)
    names = sorted({name for names in probe.PROBES[model].values() for name in names})
    some = examples[model]
    if model == "graph_cnn":
        some = Examples.cat([some, examine(scenes.random_scenes(world("moat"), 3, 40), "ground", 4)])
    found = probe.ask(untrained(model, 0), some, names)
    for name, question in found.items():
        assert 5 < len(question.answer) <= len(some), name
        assert len(question.features) == len(question.answer)
        assert question.answer.min() >= 0
        assert question.answer.max() > 0
        assert (np.diff(question.scene) > 0).all()
        assert question.scene[-1] >= 17
        for scene, answer in zip(question.scene, question.answer, strict=True):
            assert name == "links" or answer in possible_answers(some, name, model, scene)


def test_the_command_trains_and_probes(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["pretrain", "--model", "graph_gnn", "--steps", "3", "--scenes", "56", "--tasks", "links"]
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert "links" in out
    assert "written to graph_gnn.safetensors" in out
    monkeypatch.setattr(probe, "NUM_SCENES", 150)
    monkeypatch.setattr(probe, "PROBES", {"graph_gnn": {"islands": ("reachability", "components")}})
    assert cli.run(["pretrain", "--probe", "graph_gnn.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "durotaxis pretrain --model graph_gnn --tasks links --steps 3 --scenes 56" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("islands")] == [
        "reachability",
        "components",
    ]
    assert "mean gain" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "graph_gat"], "model"),
        (["--tasks", "bridge"], "graph_cnn cannot be asked 'bridge'; its tasks are"),
        (["--tasks", "links"], "graph_cnn cannot be asked 'links'"),
        (["--steps", "0"], "steps"),
        (["batchsize=3"], "did you mean 'batch_size'"),
        (["--out", "a.pt"], "must end in .safetensors"),
        (["--out", "none/a.safetensors"], "does not exist"),
        (["--data", "gone.sif"], "gone.sif: does not exist"),
        (["--probe", "gone.safetensors"], "does not exist"),
        (["--probe", "x.safetensors", "--model", "graph_gnn"], "the file alone; leave out --model"),
        (["--probe", "x.safetensors", "--out", "y.safetensors", "steps=3"], "leave out --out steps=3"),
        (["tasks=[]"], "tasks"),
        (["learning_rate=.inf"], "learning_rate"),
    ],
)
def test_wrong_inputs_are_one_line_and_write_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["pretrain", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
