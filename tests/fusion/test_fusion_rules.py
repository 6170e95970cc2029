"""Fusion baselines against loops over rows and models; gates; equal budgets."""

import math

import numpy as np
import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    RULES,
    ConcatFusion,
    DotProductFusion,
    FirstFusion,
    MeanFusion,
    MultiPTMFeatureExtractor,
    PaperFusion,
    ProjectedConcatFusion,
    WSAConfig,
)
from durotaxis.fusion.combine import gated_softmax

R, K, C, D = 6, 3, 5, 8
SMALL = {"model_type": "graph_cnn", "tap": "block1"}
SOME_GATES = torch.tensor(
    [[1.0, 1.0, 1.0], [0.0, 1.0, 0.3], [0.5, 0.0, 0.0], [0.2, 1.0, 0.0], [1, 0, 1], [0, 0, 1.0]]
)


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(R, C, generator=generator), torch.randn(R, K, D, generator=generator) * 3 + 1


def built(name):
    torch.manual_seed(3)
    return {
        "mean": MeanFusion,
        "first": FirstFusion,
        "concat": ConcatFusion,
        "projected_concat": lambda: ProjectedConcatFusion(D, K),
        "dot_product": lambda: DotProductFusion(D, C),
        "paper": lambda: PaperFusion(D, C),
    }[name]()


def normal(x):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5)


def oracle(name, rule, context, raw, gates):
    """Representation and attention of one row, in numpy; gates multiply odds, or embeddings."""
    weights = {key: value.detach().double().numpy() for key, value in rule.state_dict().items()}
    unit = [normal(e) for e in raw]
    shares = gates / gates.sum()
    if name == "first":
        first = next(k for k in range(K) if gates[k] > 0)
        return unit[first], np.eye(K)[first]
    if name in ("concat", "projected_concat"):
        joined = np.concatenate([g * e for g, e in zip(gates, unit, strict=True)])
        if name == "projected_concat":
            joined = weights["projection.weight"] @ joined + weights["projection.bias"]
        return joined, shares
    if name == "mean":
        return sum(s * e for s, e in zip(shares, unit, strict=True)), shares
    if name == "dot_product":
        query = weights["query.weight"] @ context + weights["query.bias"]
        scores, values = [query @ e / math.sqrt(D) for e in unit], unit
    else:
        linear = [weights["scorer.weight"][0] @ np.concatenate([context, e]) for e in raw]
        scores, values = [max(0.0, x + weights["scorer.bias"][0]) for x in linear], list(raw)
    odds = np.array([g * math.exp(s) for g, s in zip(gates, scores, strict=True)])
    attention = odds / odds.sum()
    return sum(a * v for a, v in zip(attention, values, strict=True)), attention


@pytest.mark.parametrize(
    "gates", [None, SOME_GATES, torch.tensor([0.4, 1.0, 0.0])], ids=["no", "rows", "one"]
)
@pytest.mark.parametrize("name", sorted(set(RULES) - {"wsa"}))
@torch.no_grad()
def test_equals_a_loop_over_rows_and_models(name, gates):
    rule, (context, embeddings) = built(name), inputs()
    representation, attention = rule(context, embeddings, gates)
    assert representation.shape == (R, rule.representation_dim(D, K))
    torch.testing.assert_close(attention.sum(1), torch.ones(R))
    table = torch.ones(R, K) if gates is None else gates.expand(R, K)
    for r in range(R):
        row = (context[r].double().numpy(), embeddings[r].double().numpy(), table[r].double().numpy())
        wanted = oracle(name, rule, *row)
        np.testing.assert_allclose(representation[r], wanted[0], atol=1e-5)
        np.testing.assert_allclose(attention[r], wanted[1], atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"wsa"}))
def test_closed_models_are_left_out_exactly(name):
    rule, (context, embeddings) = built(name), inputs()
    gates = torch.tensor([0.0, 1.0, 1.0])
    other = embeddings.clone()
    other[:, 0] = 1e3 * torch.randn(R, D)
    assert torch.equal(rule(context, other, gates)[0], rule(context, embeddings, gates)[0])
    for wrong, message in ((torch.zeros(K), "all gates are 0"), (torch.ones(K + 1), "shape")):
        with pytest.raises(UserError, match=message):
            rule(context, embeddings, wrong)


def test_the_published_rule_is_dead_where_scores_are_not_positive():
    rule, (context, embeddings) = built("paper"), inputs()
    with torch.no_grad():
        rule.scorer.bias.fill_(-1e3)
    representation, attention = rule(context, embeddings)
    representation.square().sum().backward()
    assert torch.equal(attention, torch.full((R, K), 1 / 3))
    assert all(bool((p.grad == 0).all()) for p in rule.parameters())


@torch.no_grad()
def test_the_published_rule_hears_the_context_through_its_relu_alone():
    rule, (context, embeddings) = built("paper"), inputs()
    rule.scorer.bias.fill_(100.0)
    before = rule(context, embeddings)[1]
    torch.testing.assert_close(rule(context + torch.randn(R, C), embeddings)[1], before, atol=1e-4, rtol=0)
    assert (before - 1 / K).abs().max() > 0.05


def test_how_often_the_published_rule_is_dead():
    """With inputs of order one and PyTorch's own initialisation, in a good part of all states."""
    dead = []
    for seed in range(20):
        torch.manual_seed(seed)
        rule = PaperFusion(64, 32)
        scores = rule.scores(torch.randn(200, 32), torch.randn(200, 3, 64))
        dead.append(float((scores == 0).all(1).all(1).float().mean()))
    assert 0.05 < sum(dead) / 20 < 0.6


def extractor(fusion, num_ptms=3, **options):
    torch.manual_seed(0)
    values = {"embedding_dim": 64, "context_dim": 32, "context_input_dim": 16, "hidden_dims": (64, 32)}
    return MultiPTMFeatureExtractor(ptms=[SMALL] * num_ptms, fusion=fusion, **(values | options))


@pytest.mark.parametrize("fusion", ["mean", "first", "concat", "dot_product", "paper"])
@pytest.mark.parametrize("num_ptms", [1, 3])
def test_matched_rules_have_as_many_parameters(fusion, num_ptms):
    wsa = extractor("wsa", num_ptms)
    scorer = (96 * 64 + 64) + 2 * 64 + (64 * 32 + 32) + 2 * 32 + 33
    encoder = (16 * 64 + 64) + 2 * 64 + (64 * 32 + 32) + 2 * 32
    counts = wsa.parameter_counts()
    assert (counts["fusion"], counts["state_encoder"], counts["widening"]) == (scorer, encoder, 0)
    matched = extractor(fusion, num_ptms, match_parameters=True)
    between = sum(
        p.numel()
        for name, p in matched.named_parameters()
        if name.split(".")[0] in ("fusion", "state_encoder", "widening")
    )
    assert between == pytest.approx(scorer + encoder, rel=0.01)
    assert sum(list(matched.parameter_counts().values())[2:]) == between
    assert extractor(fusion, num_ptms).parameter_counts()["widening"] == 0


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(UserError, match=r"'projected_concat' has 12,352 parameters.* brings it within 1 %"):
        extractor("projected_concat", match_parameters=True, hidden_dims=(8, 8), context_dim=8)
    assert extractor("wsa", match_parameters=True).parameter_counts()["widening"] == 0


@pytest.mark.parametrize("fusion", sorted(RULES))
def test_every_rule_learns(fusion):
    """A target that is the second model's embedding, or a function of it: the error falls."""
    module = extractor(fusion)
    generator = torch.Generator().manual_seed(1)
    image, context = torch.rand(16, 3, 24, 24, generator=generator), torch.randn(16, 16, generator=generator)
    stored = module.precompute(image)
    target = torch.randn(16, module.representation_dim, generator=generator)
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-2)
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    errors = []
    for _ in range(15):
        error = (module(image, context, cached=stored) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.9 * errors[0]
    still = [n for n, p in module.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    unread = {"first": ("ptms.graph_cnn_2", "ptms.graph_cnn_3")}.get(fusion, ())
    # A bias that every score shares changes no softmax.
    assert [n for n in still if not n.startswith(unread or "-") and n != "fusion.output_layer.bias"] == []


def test_uniform_attention_can_be_forced_where_there_is_attention():
    image, context = torch.rand(4, 3, 24, 24), torch.randn(4, 16)
    module = extractor("paper")
    torch.nn.init.normal_(module.fusion.scorer.weight)
    with torch.no_grad():
        before = module(image, context, return_attention=True)[1]
        with module.intervene("uniform"):
            forced, attention = module(image, context, return_attention=True)
        raw = torch.stack([ptm(image) for ptm in module.ptms], 1).mean(1)
    assert (before - 1 / 3).abs().max() > 0.05
    assert torch.equal(attention, torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(forced, raw)
    with (
        pytest.raises(UserError, match="'concat' has no attention"),
        extractor("concat").intervene("uniform"),
    ):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"fusion": "mean", "attention_entropy_coefficient": 0.1},
            "fusion 'mean' does not read attention_entropy_coefficient; remove the key, or use fusion wsa or "
            "dot_product or paper",
        ),
        ({"fusion": "concat", "attention_balance_coefficient": 0.1}, "fusion 'concat' does not read"),
        (
            {"fusion": "paper", "learn_temperature": True},
            "does not read learn_temperature; remove the key, or use fusion wsa",
        ),
        (
            {"fusion": "paper", "attention_temperature": {"start": 2, "end": 1, "steps": 9}},
            "'paper' does not read attention_temperature",
        ),
        ({"fusion": "mean", "attention_temperature": 0.5}, "'mean' does not read attention_temperature"),
        (
            {"learn_temperature": True, "attention_temperature": {"start": 2, "end": 1, "steps": 9}},
            "remove one",
        ),
        ({"attention_temperature": {"start": 0, "end": 1, "steps": 9}}, "greater"),
        ({"model_dropout": 1.0}, "less than 1"),
        ({"attention_entropy_coefficient": -1.0}, "greater"),
        ({"ptms": [{"model_type": "graph_cnn", "enters_at": 5}]}, "no PTM is open at step 0"),
        ({"ptms": []}, "there is no PTM; name at least one"),
    ],
)
def test_options_that_a_rule_does_not_read_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        WSAConfig(**values)


def test_gates_weigh_as_much_beside_scores_of_bfloat16():
    """Of equal scores attention is gate / sum of gates, to float32 and not to the 8 bits of the scores."""
    gates = torch.tensor([0.0013, 0.77, 0.101])
    attention = gated_softmax(torch.zeros(R, K, 1, dtype=torch.bfloat16), gates)
    wanted = gates.double() / gates.double().sum()
    torch.testing.assert_close(attention[..., 0].double(), wanted.expand(R, K), rtol=1e-6, atol=0)
