"""Weight sharing attention against a loop over rows and models, its symmetries, gates and penalties."""

import math

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    MeanFusion,
    StateEncoder,
    WeightSharingAttention,
    attention_balance_penalty,
    attention_entropy_penalty,
)

R, K, C, D = 7, 3, 5, 8


def loud(**options) -> WeightSharingAttention:
    """A scorer whose last layer is far from zero, so that attention is far from uniform."""
    torch.manual_seed(1)
    wsa = WeightSharingAttention(D, C, **options)
    torch.nn.init.normal_(wsa.output_layer.weight, std=1.0)
    return wsa


def inputs(num_ptms=K, rows=R):
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(rows, C, generator=generator)
    return context, torch.randn(rows, num_ptms, D, generator=generator) * 3 + 1


def layer_norm(x, weight=None, bias=None):
    x = (x - x.mean()) / math.sqrt(float(x.var(unbiased=False)) + 1e-5)
    return x if weight is None else x * weight + bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def oracle(wsa, context, embeddings, gates, temperature, heads):
    """One row, one model, one head at a time; gates multiply the odds."""
    representation = torch.zeros(len(context), D)
    attention = torch.zeros(embeddings.shape[:2])
    for r in range(len(context)):
        vectors = [layer_norm(e) for e in embeddings[r]]
        odds = []
        for k, vector in enumerate(vectors):
            x = wsa.input_layer(torch.cat([context[r], vector]))
            x = gelu(layer_norm(x, wsa.input_norm.weight, wsa.input_norm.bias))
            x = wsa.hidden_layer(x)
            x = gelu(layer_norm(x, wsa.hidden_norm.weight, wsa.hidden_norm.bias))
            odds.append(torch.exp(wsa.output_layer(x) / temperature) * float(gates[r, k]))
        for h in range(heads):
            part = slice(h * D // heads, (h + 1) * D // heads)
            total = sum(float(o[h]) for o in odds)
            for k, vector in enumerate(vectors):
                weight = float(odds[k][h]) / total
                representation[r, part] += weight * vector[part]
                attention[r, k] += weight / heads
    return representation, attention


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
@torch.no_grad()
def test_equals_a_loop_over_rows_and_models(heads, temperature):
    wsa = loud(num_heads=heads, temperature=temperature)
    context, embeddings = inputs()
    gates = torch.rand(R, K, generator=torch.Generator().manual_seed(2))
    gates[0, 1] = 0
    expected = oracle(wsa, context, embeddings, gates, temperature, heads)
    torch.testing.assert_close(wsa(context, embeddings, gates), expected, atol=1e-5, rtol=1e-5)
    ones = torch.ones(R, K)
    expected = oracle(wsa, context, embeddings, ones, temperature, heads)
    torch.testing.assert_close(wsa(context, embeddings), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_of_models_does_not_matter():
    wsa = loud()
    context, embeddings = inputs()
    order = torch.tensor([2, 0, 1])
    representation, attention = wsa(context, embeddings)
    permuted, permuted_attention = wsa(context, embeddings[:, order])
    torch.testing.assert_close(permuted, representation, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(permuted_attention, attention[:, order], atol=1e-6, rtol=1e-5)
    assert (attention.max(1).values - attention.min(1).values).max() > 0.2


@torch.no_grad()
def test_the_same_parameters_serve_any_number_of_models():
    wsa = loud()
    context, embeddings = inputs(5)
    for num_ptms in (1, 2, 5):
        representation, attention = wsa(context, embeddings[:, :num_ptms])
        assert representation.shape == (R, D)
        assert attention.shape == (R, num_ptms)
        torch.testing.assert_close(attention.sum(1), torch.ones(R))
    gates = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    gated, gated_attention = wsa(context, embeddings, gates)
    few, few_attention = wsa(context, embeddings[:, :3])
    torch.testing.assert_close(gated, few, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gated_attention[:, :3], few_attention, atol=1e-6, rtol=1e-6)
    assert gated_attention[:, 3:].abs().max() == 0


def test_a_closed_gate_excludes_exactly():
    wsa = loud()
    context, embeddings = inputs()
    embeddings.requires_grad_()
    gates = torch.tensor([1.0, 0.0, 0.3])
    representation, attention = wsa(context, embeddings, gates)
    representation.square().sum().backward()
    assert bool((attention[:, 1] == 0).all())
    assert bool((embeddings.grad[:, 1] == 0).all())
    assert bool((embeddings.grad[:, 2] != 0).any())
    other = embeddings.detach().clone()
    other[:, 1] = 1e6 * torch.randn(R, D)
    assert torch.equal(wsa(context, other, gates)[0], representation.detach())


@torch.no_grad()
def test_a_newcomer_ramps_in_smoothly():
    wsa = WeightSharingAttention(D, C)
    for gate in (1e-3, 0.1, 1.0):
        attention = wsa(*inputs(), torch.tensor([1.0, 1.0, gate]))[1]
        torch.testing.assert_close(attention[:, 2], torch.full((R,), gate / (2 + gate)), atol=5e-3, rtol=0.02)


@torch.no_grad()
def test_starts_within_a_hundredth_of_uniform():
    for seed in range(5):
        torch.manual_seed(seed)
        wsa = WeightSharingAttention(256, 128)
        attention = wsa(torch.randn(200, 128) * 3, torch.randn(200, 3, 256))[1]
        assert (attention - 1 / 3).abs().max() < 0.01
        assert attention.std() > 0


@torch.no_grad()
def test_the_scale_of_an_embedding_is_no_vote():
    wsa = loud()
    context, embeddings = inputs()
    scaled = embeddings * torch.tensor([1.0, 100.0, 0.1]).view(1, K, 1)
    torch.testing.assert_close(wsa(context, scaled), wsa(context, embeddings), atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_negative_scores_count_as_much_as_positive_ones():
    wsa = loud()
    context, embeddings = inputs()
    before = wsa(context, embeddings)[1]
    wsa.output_layer.bias.fill_(-100.0)  # a ReLU on scores would now make attention uniform
    torch.testing.assert_close(wsa(context, embeddings)[1], before, atol=1e-4, rtol=1e-3)
    assert (before - 1 / K).abs().max() > 0.1


def test_number_of_parameters_is_that_of_one_mlp():
    wsa = WeightSharingAttention(256, 128)
    linear = (384 * 256 + 256) + (256 * 128 + 128) + (128 + 1)
    assert sum(p.numel() for p in wsa.parameters()) == linear + 2 * 256 + 2 * 128


def test_temperature_fixed_scheduled_and_learned():
    context, embeddings = inputs()
    wsa = loud()
    assert wsa.temperature == 1.0
    assert "log_temperature" not in dict(wsa.named_parameters())
    wide = wsa(context, embeddings)[1].detach().max(1).values
    wsa.temperature = 0.25
    assert wsa.temperature == pytest.approx(0.25)
    assert bool((wsa(context, embeddings)[1].detach().max(1).values > wide).all())
    learned = loud(learn_temperature=True, temperature=0.5)
    learned(context, embeddings)[1].square().sum().backward()
    assert learned.log_temperature.grad.abs() > 0
    with torch.no_grad():
        learned.log_temperature -= 50
    assert learned.temperature > 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(UserError, match="temperature"):
        WeightSharingAttention(D, C, temperature)
    with pytest.raises(UserError, match="temperature"):
        loud().temperature = temperature


@pytest.mark.parametrize(("embedding_dim", "heads"), [(0, 1), (8, 3), (8, 0)])
def test_widths_must_fit(embedding_dim, heads):
    with pytest.raises(UserError, match=f"embedding_dim {embedding_dim}"):
        WeightSharingAttention(embedding_dim, C, num_heads=heads)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (torch.zeros(K), "all gates are 0"),
        (torch.cat([torch.ones(R - 1, K), torch.zeros(1, K)]), "all gates are 0"),
        (torch.ones(K + 1), "shape"),
        (torch.ones(1, K), "shape"),
        (torch.tensor([1.0, 1.5, 1.0]), r"\[0, 1\]"),
        (torch.tensor([1.0, math.nan, 1.0]), r"\[0, 1\]"),
    ],
)
@pytest.mark.parametrize("fusion", [WeightSharingAttention(D, C), MeanFusion()])
def test_wrong_gates_are_refused(fusion, gates, message):
    with pytest.raises(UserError, match=message):
        fusion(*inputs(), gates)


def test_mean_fusion_is_the_mean_of_normalised_embeddings():
    context, embeddings = inputs()
    representation, attention = MeanFusion()(context, embeddings)
    expected = torch.stack([torch.stack([layer_norm(e) for e in row]).mean(0) for row in embeddings])
    torch.testing.assert_close(representation, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(attention, torch.full((R, K), 1 / 3))
    gated = MeanFusion()(context, embeddings, torch.tensor([1.0, 0.0, 1.0]))[1]
    torch.testing.assert_close(gated, torch.tensor([[0.5, 0.0, 0.5]]).expand(R, K))


def test_penalties_in_closed_form():
    uniform = torch.full((4, 3), 1 / 3)
    one_hot = torch.eye(3)
    collapsed = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    for attention, entropy, balance in (
        (uniform, 0.0, 0.0),
        (one_hot, math.log(3), 0.0),
        (collapsed, math.log(3), math.log(3)),
    ):
        assert float(attention_entropy_penalty(attention)) == pytest.approx(entropy, abs=1e-6)
        assert float(attention_balance_penalty(attention)) == pytest.approx(balance, abs=1e-6)


@pytest.mark.parametrize("penalty", [attention_entropy_penalty, attention_balance_penalty])
def test_descending_a_penalty_spreads_attention(penalty):
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0])
    scores.requires_grad_()
    before = penalty(torch.softmax(scores, 1))
    before.backward()
    assert scores.grad.abs().max() > 1e-3
    after = penalty(torch.softmax(scores - 0.5 * scores.grad, 1))
    assert after.item() < before.item()


@pytest.mark.parametrize("gates", [torch.tensor([1.0, 1e-3, 1.0]), torch.tensor([[1.0, 0.2, 0.7]] * R)])
def test_penalties_do_not_fight_a_ramp(gates):
    wsa = loud()
    context, embeddings = inputs()
    ramped, full = wsa(context, embeddings, gates)[1], wsa(context, embeddings)[1]
    for penalty in (attention_entropy_penalty, attention_balance_penalty):
        torch.testing.assert_close(penalty(ramped, gates), penalty(full), atol=1e-4, rtol=1e-4)


def test_penalties_leave_closed_models_out():
    wsa = loud()
    context, embeddings = inputs()
    gates = torch.tensor([1.0, 0.0, 1.0])
    gated, two = wsa(context, embeddings, gates)[1], wsa(context, embeddings[:, [0, 2]])[1]
    for penalty in (attention_entropy_penalty, attention_balance_penalty):
        torch.testing.assert_close(penalty(gated, gates), penalty(two), atol=1e-6, rtol=1e-5)


def test_state_encoder_is_two_normalised_layers():
    encoder = StateEncoder(6, C)
    kinds = [type(layer).__name__ for layer in encoder.layers]
    assert kinds == ["Linear", "LayerNorm", "GELU", "Linear", "LayerNorm", "GELU"]
    assert encoder.layers[0].out_features == 2 * C
    assert encoder(torch.randn(R, 6)).shape == (R, C)
