"""A minibatch in parts: the same gradient, the same numbers and the same decisions as in one piece."""

import dataclasses
import math

import pytest
import torch
from toy import ToyPolicy, ToyWorld

from durotaxis.core.errors import UserError
from durotaxis.ppo import PPOConfig, RatioError, collect, make_optimizer, start, update
from durotaxis.ppo.update import minibatch_loss, prepare

SEED = 7
CONFIG = PPOConfig(num_colonies=8, rollout_steps=8, num_minibatches=2, num_epochs=2, target_kl=None)


def changed(**values):
    return CONFIG.model_copy(update=values)


@pytest.fixture(autouse=True)
def in_float64(request, monkeypatch):
    """Nothing is rounded to float32, so that sums in another order agree to 1e-10."""
    if "float32" not in request.node.name:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def collected():
    """Colonies of 1 to 5 nodes, so that parts differ in their nodes."""
    policy, world = ToyPolicy(), ToyWorld(8)
    return collect(world, policy, start(world, policy, SEED), 8, SEED)[0]


ROLLOUT = collected().map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def with_log_prob(change, row):
    """The rollout with another log-probability of one node."""
    log_prob = ROLLOUT.log_prob.clone()
    log_prob.view(64, -1)[row, 0] += change
    return dataclasses.replace(ROLLOUT, log_prob=log_prob)


class Recorder(torch.optim.SGD):
    """Keeps the gradients of every step, as they are before and after clipping."""

    def __init__(self, policy, lr):
        self.seen = []
        groups = [{"params": ps, "name": n, "factor": 1.0} for n, ps in policy.parameter_groups().items()]
        super().__init__(groups, lr=lr)

    def step(self):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        self.seen.append(torch.cat(gradients).clone())
        super().step()


def run(config, policy=None, rollout=ROLLOUT, lr=0.1):
    policy = policy or ToyPolicy().double()
    optimizer = Recorder(policy, lr)
    numbers = update(policy, optimizer, rollout, config, SEED, 1)
    return numbers, torch.stack(optimizer.seen) if optimizer.seen else None, policy


@pytest.mark.parametrize(
    "size", [5, 16, 31]
)  # of 32 colony-steps: a shorter last one, equal parts, a last one of 1
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": "graph", "value_loss": "huber"},
        {"node_reduction": "sum", "value_clip": 0.1, "normalize_advantage": False},
    ],
    ids=["node", "graph", "sum"],
)
def test_parts_add_up_to_the_whole_minibatch(size, options):
    numbers, gradients, _ = run(changed(**options))
    in_parts, of_parts, _ = run(changed(**options, microbatch_size=size))
    assert numbers["clip_fraction"] > 0
    torch.testing.assert_close(of_parts, gradients, rtol=1e-10, atol=1e-13)
    # A quotient of integers, which torch makes in float32.
    assert in_parts.pop("clip_fraction") == pytest.approx(numbers.pop("clip_fraction"), rel=1e-6)
    assert in_parts == pytest.approx(numbers, rel=1e-10, abs=1e-13)


def test_gradient_is_that_of_the_loss_of_the_minibatch():
    """Against one plain backward pass over all colony-steps."""
    policy = ToyPolicy().double()
    config = changed(num_epochs=1, num_minibatches=1, microbatch_size=7, max_grad_norm=1e9)
    batch, _ = prepare(ROLLOUT, config)
    trainable = [p for group in policy.parameter_groups().values() for p in group]
    whole = torch.autograd.grad(minibatch_loss(policy, batch, config).total, trainable)
    _, gradients, _ = run(config, policy)
    expected = torch.cat([g.flatten() for g in whole])
    torch.testing.assert_close(gradients[0], expected, rtol=1e-10, atol=1e-13)


def test_a_whole_minibatch_or_more_is_the_unsplit_update_to_the_bit():
    plain, gradients, policy = run(CONFIG)
    for size in (32, 1000):
        numbers, same, other = run(changed(microbatch_size=size))
        assert numbers == plain
        assert torch.equal(same, gradients)
        assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("size", [None, 5, 16])
def test_kl_stop_is_decided_on_the_whole_minibatch_and_drops_its_gradient(size):
    config = changed(microbatch_size=size, target_kl=0.01)
    numbers, gradients, policy = run(config, lr=2.0)
    whole, steps, _ = run(changed(target_kl=0.01), lr=2.0)
    assert numbers["minibatches"] == whole["minibatches"] == len(gradients) == len(steps) < 4
    assert numbers["kl_max"] == pytest.approx(whole["kl_max"], rel=1e-9)
    assert whole["kl_max"] > 0.01
    assert all(p.grad is None for p in policy.parameters())


def test_no_part_alone_stops_the_update():
    """A limit between the mean over the minibatch and the largest of its parts."""
    policy = ToyPolicy().double()
    with torch.no_grad():
        policy.head.weight.add_(0.1 * torch.randn(policy.head.weight.shape, generator=torch.manual_seed(0)))
    config = changed(num_epochs=1, num_minibatches=1)
    batch, _ = prepare(ROLLOUT, config)
    parts = [float(minibatch_loss(policy, batch[i : i + 1], config).kl) for i in range(64)]
    mean, largest = sum(parts) / 64, max(parts)
    assert mean < largest / 2
    limit = changed(num_epochs=1, num_minibatches=1, microbatch_size=1, target_kl=(mean + largest) / 2)
    policy.ratio_tolerance = 1e9
    assert run(limit, policy)[0]["minibatches"] == 1


def test_first_minibatch_is_checked_over_all_its_parts():
    """One colony-step with another probability than in the rollout, wherever it lies."""
    for row in (0, 63):
        policy = ToyPolicy().double()
        config = changed(num_minibatches=1, microbatch_size=9)
        before = [p.clone() for p in policy.parameters()]
        with pytest.raises(RatioError, match=r"is 0\.00995"):
            run(config, policy, with_log_prob(1e-2, row))
        assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))


def test_a_policy_may_state_its_own_tolerance():
    class Coarse(ToyPolicy):
        ratio_tolerance = 0.02

    config = changed(num_minibatches=1)
    numbers, _, _ = run(config, Coarse().double(), with_log_prob(1e-2, 3))
    assert numbers["ratio_error"] == pytest.approx(1 - math.exp(-0.01), rel=1e-4)
    with pytest.raises(RatioError, match=r"above 0\.02"):
        run(config, Coarse().double(), with_log_prob(3e-2, 3))
    with pytest.raises(RatioError, match=r"\|log ratio\| .* above 0\.2"):
        run(changed(num_minibatches=1, ratio="graph"), Coarse().double(), with_log_prob(0.3, 3))


def test_a_penalty_cannot_be_split():
    class Penalized(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            distribution.penalty = self.critic.weight.square().sum()
            return distribution, value

    policy = Penalized().double()
    assert run(changed(microbatch_size=32), policy)[0]["penalty"] > 0
    with pytest.raises(UserError, match=r"ppo\.microbatch_size: .* set attention_entropy_coefficient"):
        run(changed(microbatch_size=16), Penalized().double())


def test_adam_ends_up_in_the_same_place_in_float32():
    results = []
    for size in (None, 5):
        policy = ToyPolicy()
        config = changed(microbatch_size=size)
        update(policy, make_optimizer(policy, config), collected(), config, SEED, 1)
        results.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5)


def test_the_optimizer_is_plain_adam_to_the_bit_in_float32():
    results = []
    for make in (make_optimizer, None):
        policy = ToyPolicy()
        groups = [{"params": ps, "name": n, "factor": 1.0} for n, ps in policy.parameter_groups().items()]
        optimizer = make(policy, CONFIG) if make else torch.optim.Adam(groups, lr=5e-4, eps=1e-5)
        update(policy, optimizer, collected(), CONFIG, SEED, 1)
        results.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(*results)
