import pytest
import torch

from durotaxis.agent import ActionDistribution, ActionParameters, ActionSample
from durotaxis.agent.distributions import _inverse_cdf, beta_entropy, beta_log_prob
from durotaxis.agent.heads import ActionHeads
from durotaxis.env.types import Kind


def make(counts, num_slots, continuous_dim=4, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(num_slots) < torch.tensor(counts)[:, None]
    n = int(mask.sum())
    allowed = torch.rand(*mask.shape, 3, generator=generator) < 0.7
    allowed[..., 0] = True
    shape = torch.rand(2, n, continuous_dim, generator=generator) * 4 * scale + 1.001
    logits = torch.randn(n, 3, generator=generator) * 2
    parameters = ActionParameters(logits, shape[0], shape[1])
    return ActionDistribution(parameters, mask, allowed), parameters, mask, allowed


def test_log_prob_equals_torch_distributions():
    distribution, parameters, mask, allowed = make([3, 0, 5], 7)
    sample = distribution.sample(torch.tensor([4, 5, 6]))
    result = distribution.log_prob(sample)
    for row, (b, slot) in enumerate(mask.nonzero().tolist()):
        probs = parameters.kind_logits[row].softmax(-1) * allowed[b, slot]
        kind = sample.kind[b, slot]
        expected = torch.distributions.Categorical(probs=probs).log_prob(kind)
        if kind == Kind.SPAWN:
            beta = torch.distributions.Beta(parameters.alpha[row], parameters.beta[row])
            expected = expected + beta.log_prob(sample.unit[b, slot]).sum()
        torch.testing.assert_close(result[b, slot], expected, rtol=1e-5, atol=1e-5)
    assert bool((sample.kind == Kind.SPAWN).any())


def test_density_integrates_to_one_and_entropy_is_its_integral():
    """Kinds enumerated, one parameter on a grid of colonies: nothing shared with the closed forms."""
    one, parameters, _, allowed = make([4], 4, continuous_dim=1)
    size = 20_000
    grid = ((torch.arange(size) + 0.5) / size).view(size, 1, 1).expand(size, 4, 1)
    repeated = ActionDistribution(
        ActionParameters(*(part.repeat(size, 1) for part in parameters)),
        torch.ones(size, 4, dtype=torch.bool),
        allowed.expand(size, 4, 3),
    )
    total, entropy = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for kind in Kind:
        log_density = repeated.log_prob(ActionSample(torch.full((size, 4), int(kind)), grid)).double()
        # Only spawning has a density over the parameter; the other kinds are points.
        log_density = log_density if kind == Kind.SPAWN else log_density[:1]
        density = log_density.exp()
        total += density.mean(0)
        entropy -= torch.where(density > 0, density * log_density, 0.0).mean(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=0)
    of_kind, of_parameters = one.entropy()
    torch.testing.assert_close((of_kind + of_parameters)[0], entropy.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.001, 7.0), (60.0, 3.0), (2.0, 2.0)])
def test_beta_functions_equal_torch(a, b):
    alpha, beta = torch.tensor(a), torch.tensor(b)
    reference = torch.distributions.Beta(alpha, beta)
    u = torch.tensor([1e-6, 0.2, 0.9, 1 - 1e-6])
    torch.testing.assert_close(beta_log_prob(u, alpha, beta), reference.log_prob(u), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beta_entropy(alpha, beta), reference.entropy(), rtol=1e-4, atol=1e-5)


def test_padding_contributes_exactly_nothing():
    distribution, _, mask, _ = make([2, 0, 3], 6)
    sample = distribution.sample(torch.arange(3))
    for part in (distribution.log_prob(sample), *distribution.entropy()):
        assert part.dtype == torch.float32
        assert bool((part[~mask] == 0).all())
    assert bool((sample.kind[~mask] == Kind.REST).all())
    assert torch.isfinite(sample.unit).all()


def test_forbidden_kinds_are_never_drawn_and_get_no_gradient():
    logits = torch.tensor([[0.0, 5.0, 0.0]], requires_grad=True)
    shape = torch.full((1, 4), 2.0)
    mask = torch.ones(4096, 1, dtype=torch.bool)
    allowed = torch.tensor([True, False, True]).expand(4096, 1, 3)
    parameters = ActionParameters(logits.expand(4096, 3), shape.expand(4096, 4), shape.expand(4096, 4))
    distribution = ActionDistribution(parameters, mask, allowed)
    sample = distribution.sample(torch.arange(4096))
    assert sample.kind.unique().tolist() == [0, 2]
    assert float(distribution.kind_probs[0, 0, 1].detach()) == 0.0
    of_kind, of_parameters = distribution.entropy()
    (distribution.log_prob(sample).sum() + of_kind.sum() + of_parameters.sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0, 1]) == 0.0


def test_samples_depend_on_keys_and_slot_alone():
    whole, parameters, mask, allowed = make([3, 4, 2], 6)
    keys = torch.tensor([11, 22, 33])
    sample = whole.sample(keys)
    rows = torch.arange(3, 7)
    alone = ActionDistribution(
        ActionParameters(*(part[rows] for part in parameters)), mask[1:2, :4], allowed[1:2, :4]
    ).sample(keys[1:2])
    assert torch.equal(alone.kind, sample.kind[1:2, :4])
    assert torch.equal(alone.unit, sample.unit[1:2, :4])
    assert torch.equal(whole.sample(keys).unit, sample.unit)
    assert not torch.equal(whole.sample(keys + 1).unit, sample.unit)


def test_a_draw_beyond_the_cumulative_sum_is_the_last_allowed_kind():
    """Probabilities may sum to a little less than 1; a draw above that must stay within what is allowed."""
    probs = torch.tensor([[0.25, 0.7499999, 0.0]]).expand(4, 3)
    allowed = torch.tensor([[True, True, False]]).expand(4, 3)
    draw = torch.tensor([0.1, 0.25, 0.9, 1 - 2**-24])
    assert _inverse_cdf(probs, allowed, draw).tolist() == [0, 1, 1, 1]


def test_sample_frequencies():
    n = 40_000
    probs, alpha, beta = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([1.2, 3.0]), torch.tensor([2.5, 1.1])
    mask = torch.ones(n // 2, 2, dtype=torch.bool)
    parameters = ActionParameters(probs.log().expand(n, 3), alpha.expand(n, 2), beta.expand(n, 2))
    sample = ActionDistribution(parameters, mask, torch.ones(n // 2, 2, 3, dtype=torch.bool)).sample(
        torch.arange(n // 2)
    )
    counts = torch.bincount(sample.kind.flatten(), minlength=3) / n
    assert float(((counts - probs) / (probs * (1 - probs) / n).sqrt()).abs().max()) < 4
    unit, reference = sample.unit.view(n, 2), torch.distributions.Beta(alpha, beta)
    assert float(((unit.mean(0) - reference.mean) / (reference.variance / n).sqrt()).abs().max()) < 4
    torch.testing.assert_close(unit.var(0), reference.variance, rtol=0.03, atol=0)
    kind_and_unit = torch.corrcoef(
        torch.stack(
            [sample.kind.flatten().float(), unit[:, 0], unit[:, 1], sample.unit[:, :, 0].roll(1, 1).flatten()]
        )
    )
    assert float((kind_and_unit - torch.eye(4)).abs().max()) < 0.03


def test_units_keep_their_margin():
    distribution, parameters, mask, allowed = make([64], 64)
    steep = ActionParameters(
        parameters.kind_logits, torch.full_like(parameters.alpha, 1e6), torch.ones_like(parameters.beta)
    )
    distribution = ActionDistribution(steep, mask, allowed)
    for sample in (distribution.sample(torch.arange(1)), distribution.mode()):
        assert float(sample.unit.max()) <= 1 - 1e-6
        assert torch.isfinite(distribution.log_prob(sample)).all()


def test_mode_is_the_peak():
    distribution, parameters, mask, _ = make([6], 6)
    mode = distribution.mode()
    grid = (torch.arange(2000) + 0.5) / 2000
    density = beta_log_prob(grid, parameters.alpha[..., None], parameters.beta[..., None])
    torch.testing.assert_close(mode.unit[0], grid[density.argmax(-1)], rtol=0, atol=1e-3)
    assert torch.equal(mode.kind, distribution.kind_probs.argmax(-1))
    flat = ActionParameters(parameters.kind_logits, torch.ones(6, 4), torch.ones(6, 4))
    uniform = ActionDistribution(flat, mask, torch.ones(1, 6, 3, dtype=torch.bool)).mode()
    assert torch.equal(uniform.unit, torch.full((1, 6, 4), 0.5))


def test_parameter_entropy_does_not_pay_for_spawning():
    logits = torch.zeros(1, 3, requires_grad=True)
    alpha = torch.full((1, 4), 3.0, requires_grad=True)
    parameters = ActionParameters(logits, alpha, torch.full((1, 4), 2.0))
    mask = torch.ones(1, 1, dtype=torch.bool)
    distribution = ActionDistribution(parameters, mask, torch.ones(1, 1, 3, dtype=torch.bool))
    of_parameters = distribution.entropy()[1]
    expected = torch.distributions.Beta(3.0, 2.0).entropy() * 4 / 3
    assert float(of_parameters.detach()) == pytest.approx(float(expected), rel=1e-5)
    gradient = torch.autograd.grad(of_parameters.sum(), [logits, alpha], allow_unused=True)
    assert gradient[0] is None or float(gradient[0].abs().max()) == 0
    assert float(gradient[1].abs().min()) > 0


@torch.no_grad()
def test_heads_start_neutral():
    torch.manual_seed(0)
    heads = ActionHeads(16, 24, 32, 3, 4, 0.0)
    kind_logits, alpha, beta = heads(torch.randn(50, 16) * 5, torch.randn(50, 24))
    probs = kind_logits.softmax(-1)
    assert float((probs - 1 / 3).abs().max()) < 0.03
    assert float((alpha / (alpha + beta) - 0.5).abs().max()) < 0.02
    assert bool((alpha > 1).all() and (beta > 1).all() and (alpha < 2).all())
