"""Values per reward term, and values learned in the scale of their targets."""

import dataclasses

import pytest
import torch
from toy import HeadedPolicy, ToyPolicy, ToyWorld

from durotaxis.agent import ValueHead
from durotaxis.core.errors import UserError
from durotaxis.ppo import PPOConfig, collect, evaluate, explained_variance, make_optimizer, start, update
from durotaxis.ppo.advantage import generalized_advantage
from durotaxis.ppo.loss import value_loss
from durotaxis.ppo.update import minibatch_loss, prepare
from durotaxis.ppo.value import RATE, follow_targets, followed, target_sums, value_scale

SEED = 7
CONFIG = PPOConfig(num_colonies=8, rollout_steps=8)
NORMALIZED = CONFIG.model_copy(update={"normalize_value": True})


class ScaledWorld(ToyWorld):
    """The same world, its rewards multiplied."""

    def __init__(self, num_colonies, factor):
        super().__init__(num_colonies)
        self.factor = factor

    def step(self, action):
        result = super().step(action)
        terms = {name: term * self.factor for name, term in result.terms.items()}
        return dataclasses.replace(result, reward=result.reward * self.factor, terms=terms)


def collected(policy, world=None):
    world = world or ToyWorld(8)
    return collect(world, policy, start(world, policy, SEED), 8, SEED)[0]


def state_of(policy):
    return torch.cat([tensor.double().flatten() for tensor in policy.state_dict().values()])


def updated(policy, config, world=None):
    """(numbers, weights) after one rollout and one update."""
    return update(
        policy, make_optimizer(policy, config), collected(policy, world), config, SEED, 1
    ), torch.cat([p.detach().flatten().clone() for p in policy.parameters()])


def test_advantages_of_terms_add_up_to_that_of_the_total():
    g = torch.Generator().manual_seed(0)
    reward, value, after = (torch.randn(20, 4, 3, generator=g, dtype=torch.float64) for _ in range(3))
    ended = torch.rand(20, 4, generator=g) < 0.2
    of_terms = generalized_advantage(reward, value, after, ended, 0.99, 0.95)
    of_total = generalized_advantage(reward.sum(-1), value.sum(-1), after.sum(-1), ended, 0.99, 0.95)
    assert of_total.dtype == torch.float64
    torch.testing.assert_close(of_terms.sum(-1), of_total, rtol=1e-12, atol=1e-12)
    for i in range(3):
        alone = generalized_advantage(reward[..., i], value[..., i], after[..., i], ended, 0.99, 0.95)
        assert torch.equal(of_terms[..., i], alone)


def test_each_value_has_the_rewards_of_its_term():
    """Without discount the target of a value is its reward."""
    policy = HeadedPolicy()
    rollout = collected(policy)
    assert list(rollout.terms) == ["right", "off"]
    assert rollout.value.shape == rollout.next_value.shape == (8, 8, 2)
    config = CONFIG.model_copy(update={"discount": 0.0, "normalize_advantage": False})
    batch, numbers = prepare(rollout, config, policy.value_names)
    for i, name in enumerate(("off", "right")):
        torch.testing.assert_close(batch.target[:, i], rollout.terms[name].flatten())
        expected = explained_variance(rollout.value[..., i], rollout.terms[name])
        assert numbers[f"explained_variance/{name}"] == pytest.approx(expected, abs=1e-5)
    total = rollout.value.sum(-1)
    torch.testing.assert_close(batch.advantage, (rollout.reward - total).flatten())
    expected = explained_variance(total, rollout.reward)
    assert numbers["explained_variance"] == pytest.approx(expected, abs=1e-5)


def test_a_term_that_never_pays_has_no_explained_variance():
    rollout = collected(HeadedPolicy())
    nothing = torch.zeros_like(rollout.value)
    terms = rollout.terms | {"off": torch.zeros_like(rollout.reward)}
    flat = dataclasses.replace(rollout, value=nothing, next_value=nothing, terms=terms)
    _, numbers = prepare(flat, CONFIG, ("off", "right"))
    assert numbers["explained_variance/off"] is None
    assert numbers["explained_variance/right"] is not None
    assert not any("/" in key for key in prepare(collected(ToyPolicy()), CONFIG)[1])


@pytest.mark.parametrize(("kind", "clip"), [("mse", None), ("mse", 0.2), ("huber", None), ("huber", 0.2)])
def test_the_loss_of_several_values_is_their_mean(kind, clip):
    g = torch.Generator().manual_seed(1)
    value, target, old = (torch.randn(32, 3, generator=g) * 2 for _ in range(3))
    alone = [float(value_loss(value[:, i], target[:, i], old[:, i], kind, clip)) for i in range(3)]
    assert float(value_loss(value, target, old, kind, clip)) == pytest.approx(sum(alone) / 3, rel=1e-6)


def test_one_value_may_come_with_or_without_a_dimension():
    class Wide(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            return distribution, value[:, None]

    assert torch.equal(updated(Wide(), CONFIG)[1], updated(ToyPolicy(), CONFIG)[1])


def test_a_plain_head_is_a_linear_layer_to_the_bit():
    torch.manual_seed(3)
    head = ValueHead(16, 2)
    x = torch.randn(50, 16)
    assert torch.equal(head(x), torch.nn.functional.linear(x, head.weight, head.bias))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("off", "wrong"), "policy predicts off, wrong, the world's reward terms are right, off; .*total"),
        (("off",), "policy predicts off, the world's"),
        (("off", "right", "third"), "policy predicts off, right, third, the world's"),
        (("off", "right", "off"), "policy predicts off, right, off, the world's"),
    ],
)
def test_other_names_than_those_of_the_terms_are_refused(names, message):
    with pytest.raises(UserError, match=message) as caught:
        collected(HeadedPolicy(names))
    assert "\n" not in str(caught.value)


def test_one_name_per_value_is_needed():
    policy = HeadedPolicy()
    policy.value_names = ("off", "right", "third")
    with pytest.raises(UserError, match="returns 2 values per state, but its value_names are off, right, th"):
        collected(policy)
    del policy.value_names
    with pytest.raises(UserError, match="returns 2 values per state, but its value_names are total"):
        collected(policy)


def test_evaluation_shows_the_value_of_the_total():
    policy, seen = HeadedPolicy(), []
    evaluate(ToyWorld(3), policy, [1, 2, 3], on_step=lambda step: seen.append((step.observation, step.value)))
    observation, value = seen[0]
    torch.testing.assert_close(value, policy(observation)[1].detach().sum(1))


def targets(seed, count=64, mean=(3.0, -1000.0), std=(0.5, 20.0)):
    draw = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return draw * torch.tensor(std) * (1 + seed % 3) + torch.tensor(mean) + seed


def test_statistics_are_the_running_moments():
    """Ten rollouts of one size: mean and std of all together; then first and second moment decay."""
    head = ValueHead(4, 2)
    first = second = 0.0
    for seed in range(16):
        target = targets(seed)
        head.rescale(*followed(head, target_sums(target)))
        rate = max(1.0 / (seed + 1), RATE)
        first = (1 - rate) * first + rate * target.double().mean(0)
        second = (1 - rate) * second + rate * target.double().square().mean(0)
        torch.testing.assert_close(head.mean.double(), first, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(head.std.double(), (second - first**2).sqrt(), rtol=1e-4, atol=0)
        if seed == 9:
            together = torch.cat([targets(seed) for seed in range(10)])
            torch.testing.assert_close(head.mean, together.mean(0), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(head.std, together.std(0, correction=0), rtol=1e-4, atol=0)
    assert head.updates.tolist() == [16, 16]


def test_sums_of_parts_add_up():
    target = targets(0)
    parts = target_sums(target[:20]) + target_sums(target[20:])
    torch.testing.assert_close(parts, target_sums(target), rtol=1e-12, atol=0)
    assert parts[0].tolist() == [64.0, 64.0]


@pytest.mark.parametrize("constant", [0.0, 0.3, -1e5])
def test_targets_that_do_not_vary_say_nothing(constant):
    head = ValueHead(4, 2)
    target = targets(0)
    target[:, 0] = constant
    head.rescale(*followed(head, target_sums(target)))
    assert (float(head.mean[0]), float(head.std[0]), head.updates.tolist()) == (0.0, 1.0, [0, 1])
    assert float(head.std[1]) == pytest.approx(float(target[:, 1].std(correction=0)), rel=1e-5)
    head.rescale(*followed(head, target_sums(targets(1))))  # the first that says something sets it
    assert float(head.mean[0]) == pytest.approx(float(targets(1)[:, 0].mean()), rel=1e-5)


def test_small_scales_beside_large_means_survive():
    target = targets(0, 4096, mean=(1e4, 0.0), std=(0.5, 1e-3))
    head = ValueHead(4, 2)
    head.rescale(*followed(head, target_sums(target)))
    expected = target.double().std(0, correction=0)
    torch.testing.assert_close(head.std.double(), expected, rtol=1e-4, atol=0)


def test_no_value_changes_by_rescaling():
    head, x = ValueHead(32, 3), torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = head(x)
        for mean, std in (([0.3, 5.0, -2.0], [0.1, 30.0, 2.0]), ([0.0, -40.0, 1e-3], [3.0, 500.0, 1e-2])):
            head.rescale(torch.tensor(mean), torch.tensor(std), torch.ones(3, dtype=torch.int64))
            assert head.std.tolist() == pytest.approx(std)
            assert float((head(x) - before).abs().max()) < 1e-5 * 40.0
            torch.testing.assert_close(head(x)[:, 0], before[:, 0], rtol=1e-5, atol=1e-6)


def test_following_the_targets_changes_no_value_and_no_first_ratio():
    policy = HeadedPolicy()
    rollout = collected(policy, ScaledWorld(8, 30.0))
    batch, _ = prepare(rollout, NORMALIZED, policy.value_names)
    with torch.no_grad():
        before = policy(batch.observation, batch.cached)[1]
        follow_targets(policy, batch.target)
        after = policy(batch.observation, batch.cached)[1]
    assert float(policy.critic.std.min()) > 2.0
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    loss = minibatch_loss(policy, batch, NORMALIZED)
    assert float(loss.ratio_error) < 1e-5
    error = (batch.target - before) / batch.target.std(0, correction=0)
    assert float(loss.value) == pytest.approx(float(0.5 * error.square().mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["mse", "huber"])
@pytest.mark.parametrize("names", [("total",), ("off", "right")])
def test_the_unit_of_the_reward_does_not_matter(kind, names):
    """Two policies that know their scale, one in a world that pays a thousand times as much."""
    config = NORMALIZED.model_copy(update={"value_loss": kind, "value_clip": 0.2, "num_epochs": 2})

    def run(factor, config):
        policy = HeadedPolicy(names)
        policy.critic.mean.add_(0.4).mul_(factor)
        policy.critic.std.mul_(0.7 * factor)
        policy.critic.updates.fill_(3)
        return updated(policy, config, ScaledWorld(8, factor))

    (numbers, weights), (scaled, weights_scaled) = run(1.0, config), run(1000.0, config)
    for key in ("policy_loss", "value_loss", "gradient_norm", "gradient_norm/actor", "explained_variance"):
        assert scaled[key] == pytest.approx(numbers[key], rel=1e-3, abs=1e-5), key
    torch.testing.assert_close(weights_scaled, weights, rtol=0, atol=1e-4)
    off = config.model_copy(update={"normalize_value": False})
    (numbers, weights), (scaled, weights_scaled) = run(1.0, off), run(1000.0, off)
    assert scaled["value_loss"] > 100 * numbers["value_loss"]
    assert float((weights_scaled - weights).abs().max()) > 1e-3


def test_normalising_needs_a_policy_that_can():
    with pytest.raises(UserError, match=r"ppo\.normalize_value=true .*ToyPolicy has not") as caught:
        make_optimizer(ToyPolicy(), NORMALIZED)
    assert "\n" not in str(caught.value)
    assert value_scale(HeadedPolicy()) is not None


def test_statistics_move_only_when_asked_for():
    for config, expected in ((CONFIG, [0, 0]), (NORMALIZED, [1, 1])):
        policy = HeadedPolicy()
        updated(policy, config)
        assert policy.critic.updates.tolist() == expected
        assert torch.equal(policy.critic.std, torch.ones(2)) == (config is CONFIG)
