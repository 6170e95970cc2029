"""Probes: models are closed exactly, what is measured is what evaluation gives, similarity is CKA."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from durotaxis import cli
from durotaxis.agent.distributions import ActionDistribution
from durotaxis.core.config import merge
from durotaxis.core.errors import UserError
from durotaxis.core.marks import dump
from durotaxis.env import DurotaxisEnv
from durotaxis.ppo import evaluate, report_seeds
from durotaxis.records import read_episodes, read_probe
from durotaxis.study.evaluation import evaluate_run, open_run
from durotaxis.study.probe import default_episodes, known_probe, linear_cka, only, probe_run, subsets_of
from durotaxis.study.run import prepare
from study.study_cases import TINY

pytestmark = pytest.mark.unchecked

SEEDS = 3


def train(place, **actor) -> None:
    """A run of TINY's agent, as good as untrained."""
    overrides = {**TINY["overrides"], "run": {"directory": str(place), "device": "cpu"}}
    wanted = {"actor_critic": {"use_wsa": True, **actor}}
    path = place.parent / f"{place.name}.yaml"
    path.write_text(dump(merge(merge(merge({}, overrides), wanted), {"training": {"total_steps": 64}})))
    prepare(str(path), []).train()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("probes") / "run"
    train(place)
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of an agent with one model."""
    place = tmp_path_factory.mktemp("probes") / "plain"
    train(place, use_wsa=False)
    return place


@pytest.fixture(scope="module")
def probed(run):
    candidate = open_run(run)
    return candidate, probe_run(candidate, SEEDS)


def hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """tr(KHLH) with linear kernels, by n x n matrices: the definition, not the features' covariance."""
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    return float(torch.trace(x @ x.T @ centre @ y @ y.T @ centre))


def cka_by_kernels(x: torch.Tensor, y: torch.Tensor) -> float:
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def cka(*features: torch.Tensor) -> torch.Tensor:
    """`linear_cka` of rows of features, each [n,D]."""
    stack = torch.stack(features, 1).flatten(1)
    shape = (len(features), features[0].shape[1])
    return linear_cka(torch.cov(stack.T, correction=0).view(*shape, *shape))


def test_cka_is_that_of_the_kernels_and_has_its_closed_forms():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    found = cka(x, y + x)
    assert float(found[0, 1]) == pytest.approx(cka_by_kernels(x, y + x))
    assert torch.equal(found, found.T)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    assert float(cka(x, 3.0 * x @ turn + 2.0)[0, 1]) == pytest.approx(1.0)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert float(cka(x[:, :1], y[:, :1])[0, 1]) == pytest.approx(r**2)
    flat = torch.ones_like(x)
    assert cka(x, flat).tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert float(cka(apart[:, :1], apart[:, 1:])[0, 1]) == pytest.approx(0.0)


def test_all_subsets_up_to_six_models_then_singles_and_all_but_one():
    assert subsets_of(["a", "b"]) == [(), ("a",), ("b",), ("a", "b")]
    assert len(subsets_of("abcdef")) == 64
    sizes = [len(subset) for subset in subsets_of("abcdefg")]
    assert sorted(sizes) == [0, *[1] * 7, *[6] * 7, 7]
    assert (default_episodes(3), default_episodes(4)) == (20, 10)


def test_a_closed_model_has_no_attention_and_is_open_again_afterwards(probed):
    candidate, _ = probed
    extractor = candidate.policy.actor.extractor
    first, second = extractor.names
    world = DurotaxisEnv(candidate.config.env, 2)
    observation = world.reset(torch.tensor([1, 2]))

    def attention() -> torch.Tensor:
        with torch.no_grad():
            distribution, _ = candidate.policy(observation)
        assert isinstance(distribution, ActionDistribution)
        return distribution.attention

    before = attention()
    with only(extractor, [second]):
        assert attention()[:, 0].tolist() == [0.0] * len(before)
        assert extractor.opened == (second,)
    with pytest.raises(RuntimeError), only(extractor, [first]):
        raise RuntimeError
    with only(extractor, []):
        assert extractor.intervention == "zero"
    assert extractor.opened == (first, second)
    assert extractor.intervention is None
    assert torch.equal(attention(), before)


def test_subsets_are_what_evaluation_gives(probed):
    candidate, found = probed
    names = candidate.policy.actor.extractor.names
    whole = evaluate_run(candidate, SEEDS).rows
    assert found.subset(names).returns == [row["return"] for row in whole]
    assert found.subset(names).front_progress == [row["final/front_progress"] for row in whole]
    nothing = evaluate_run(candidate, SEEDS, intervention="zero").rows
    assert found.subset(()).returns == [row["return"] for row in nothing]
    candidate.policy.actor.extractor.set_gate(names[0], 0.0)
    try:
        without = evaluate_run(candidate, SEEDS).rows
    finally:
        candidate.policy.actor.extractor.set_gate(names[0], 1.0)
    assert found.subset(names[1:]).returns == [row["return"] for row in without]
    assert found.subset(names[:1]).returns != found.subset(names[1:]).returns
    assert (found.is_complete, len(found.subsets), list(found.seeds)) == (True, 4, report_seeds(SEEDS))


def test_similarity_is_cka_of_what_is_fused_over_all_nodes(probed):
    """Embeddings are taken from the actor's own output, step by step; the rest by kernels."""
    candidate, found = probed
    policy, rows, owners = candidate.policy, [], []

    def on_step(step):
        with torch.no_grad():
            output, _ = policy._act(step.observation, None)
        rows.append(output.embeddings.double())
        owners.append(step.episodes[step.observation.node_mask.nonzero()[:, 0]])

    evaluate(DurotaxisEnv(candidate.config.env, SEEDS), policy, report_seeds(SEEDS), on_step=on_step)
    embeddings, owner = torch.cat(rows), torch.cat(owners)
    fused = torch.nn.functional.layer_norm(embeddings, embeddings.shape[-1:])
    similarity = found.similarity
    assert (similarity.rows, similarity.width) == (len(fused), fused.shape[-1])
    assert similarity.cka[0][1] == pytest.approx(cka_by_kernels(fused[:, 0], fused[:, 1]), rel=1e-4)
    assert len(similarity.without) == SEEDS
    for out, matrix in enumerate(similarity.without):
        kept = fused[owner != out]
        assert matrix[0][1] == pytest.approx(cka_by_kernels(kept[:, 0], kept[:, 1]), rel=1e-4)


def test_a_probe_is_used_again_where_it_fits(probed, run):
    candidate, found = probed
    written = (run / "probe.json").read_bytes()
    counted: list[int] = []
    again = probe_run(candidate, SEEDS, counted.append)
    assert not counted
    assert [subset.returns for subset in again.subsets] == [subset.returns for subset in found.subsets]
    assert known_probe(candidate, SEEDS - 1) is not None
    assert known_probe(candidate, SEEDS + 1) is None
    assert known_probe(candidate) is None
    other = open_run(run, overrides=["env.max_steps=9"])
    assert known_probe(other, SEEDS) is None
    path = candidate.checkpoint_path
    content = path.read_bytes()
    try:
        path.write_bytes(content + b" ")
        assert known_probe(candidate, SEEDS) is None
    finally:
        path.write_bytes(content)
    assert (run / "probe.json").read_bytes() == written


def test_an_agent_of_one_model_is_refused(plain):
    with pytest.raises(UserError, match="plain has no attention: its agent has one model"):
        probe_run(open_run(plain), SEEDS)
    assert not (plain / "probe.json").exists()


# The command


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["analyse", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_analyse_plays_what_is_missing_and_writes_a_page(probed, run, capsys, monkeypatch):
    monkeypatch.setattr("durotaxis.analysis.attention_page.FIGURES", ())
    monkeypatch.setattr("durotaxis.cli.analyse.NUM_RECORDED", 3)
    code, out, err = call(capsys, str(run), "--no-probe")
    assert code == 2
    assert "has no recorded episodes; `durotaxis evaluate" in err
    code, out, err = call(capsys, str(run), "--seeds", str(SEEDS))
    assert code == 0, err
    assert "recording 3 episodes" in out
    assert "sets of its" not in out  # the probe that lies there is used
    assert "Intervals are 95 % over episodes." in out
    assert len(list(read_episodes(run))) == 3
    page = (run / "analysis" / "attention.md").read_text("utf-8")
    assert "## run" in page
    code, out, err = call(capsys, str(run), "attention", "--no-probe", "--out", str(run / "other"))
    assert (code, "recording" in out) == (0, False)
    assert (run / "other" / "attention.md").read_text("utf-8") == page
    code, out, _ = call(capsys, str(run), "--seeds", str(SEEDS + 1))
    assert (code, f"4 sets of its 2 models, {SEEDS + 1} episodes each" in out) == (0, True)
    assert len(read_probe(run).seeds) == SEEDS + 1


def test_analyse_refuses_in_one_line(plain, tmp_path, capsys):
    for arguments, message in (
        ([str(plain)], "plain has no attention: its agent has one model"),
        ([str(plain), "--no-probe"], "plain has no attention: its agent has one model"),
        ([str(tmp_path / "nothing")], "nothing is not a run directory"),
        ([str(plain), "colours"], "'colours'"),
        ([str(plain), "--seeds", "1"], "--seeds"),
    ):
        code, _, err = call(capsys, *arguments)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert message in err
    assert not (plain / "analysis").exists()


def test_metrics_are_handed_on(tmp_path, monkeypatch, capsys):
    asked = []
    stub = types.ModuleType("durotaxis.cli.metrics")
    stub.analyse_metrics = lambda *given: asked.append(given)
    monkeypatch.setitem(sys.modules, "durotaxis.cli.metrics", stub)
    assert call(capsys, str(tmp_path), "metrics", "--seeds", "7")[0] == 0
    assert asked == [(tmp_path, None, 7, True)]
    assert call(capsys, str(tmp_path), "metrics", "--no-probe")[0] == 0
    assert asked[1] == (tmp_path, None, None, False)
    (tmp_path / "study.json").touch()
    code, _, err = call(capsys, str(tmp_path), "metrics")
    assert code == 2
    assert "is a study, metrics are of one run: name a directory under" in err
