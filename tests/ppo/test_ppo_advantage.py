"""GAE against its closed sum, against TorchRL, and at the ends of episodes."""

import pytest
import torch

from durotaxis.ppo.advantage import explained_variance, generalized_advantage, normalize


def random_case(seed, num_steps=13, num_colonies=4):
    g = torch.Generator().manual_seed(seed)
    shape = (num_steps, num_colonies)
    reward, value, after = (torch.randn(shape, generator=g) for _ in range(3))
    terminated = torch.rand(shape, generator=g) < 0.15
    truncated = (torch.rand(shape, generator=g) < 0.15) & ~terminated
    return reward, value, after * ~terminated, terminated, truncated


def closed_sum(reward, value, next_value, ended, discount, gae_lambda):
    """A_t as the double loop it is: sum over l of (γλ)^l δ_{t+l}, up to the end of t's own episode."""
    result = torch.zeros_like(reward, dtype=torch.float64)
    for b in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            for u in range(t, reward.shape[0]):
                delta = float(reward[u, b]) + discount * float(next_value[u, b]) - float(value[u, b])
                result[t, b] += (discount * gae_lambda) ** (u - t) * delta
                if ended[u, b]:
                    break
    return result


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_equals_the_closed_sum(discount, gae_lambda):
    reward, value, after, terminated, truncated = random_case(0)
    ended = terminated | truncated
    assert terminated.any()
    assert truncated.any()
    advantage = generalized_advantage(reward, value, after, ended, discount, gae_lambda)
    expected = closed_sum(reward, value, after, ended, discount, gae_lambda)
    torch.testing.assert_close(advantage.double(), expected, rtol=0, atol=2e-6)


def test_equals_torchrl():
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    reward, value, after, terminated, truncated = random_case(1, num_steps=40, num_colonies=6)
    ended = terminated | truncated
    ours = generalized_advantage(reward, value, after, ended, 0.98, 0.9)
    theirs, target = functional.generalized_advantage_estimate(
        0.98, 0.9, value, after, reward, done=ended, terminated=terminated, time_dim=0
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    torch.testing.assert_close(ours + value, target, rtol=0, atol=2e-6)


def test_timeout_bootstraps_and_termination_does_not():
    reward, value = torch.ones(1, 2), torch.zeros(1, 2)
    next_value = torch.tensor([[0.0, 10.0]])  # terminated, truncated
    advantage = generalized_advantage(
        reward, value, next_value, torch.ones(1, 2, dtype=torch.bool), 0.9, 0.95
    )
    torch.testing.assert_close(advantage, torch.tensor([[1.0, 10.0]]))


def test_nothing_leaks_across_an_end():
    reward, value, after, *_ = random_case(2)
    ended = torch.zeros_like(reward, dtype=torch.bool)
    ended[5] = True
    first = generalized_advantage(reward, value, after, ended, 0.99, 0.95)
    changed = torch.where(torch.arange(13)[:, None] > 5, reward + 100.0, reward)
    second = generalized_advantage(changed, value, after, ended, 0.99, 0.95)
    assert torch.equal(first[:6], second[:6])
    assert not torch.allclose(first[6:], second[6:])


def test_lambda_one_is_the_discounted_return():
    reward, value, _, _, _ = random_case(3, num_steps=6, num_colonies=1)
    after = torch.cat([value[1:], torch.zeros(1, 1)])
    ended = torch.tensor([[False]] * 5 + [[True]])
    advantage = generalized_advantage(reward, value, after, ended, 0.9, 1.0)
    returns = sum(0.9**t * float(reward[t]) for t in range(6))
    assert float(advantage[0] + value[0]) == pytest.approx(returns, abs=1e-5)


def test_shapes_must_agree():
    x = torch.zeros(3, 2)
    with pytest.raises(Exception, match=r"shape|Type"):
        generalized_advantage(x, x, torch.zeros(2, 2), x.bool(), 0.9, 0.9)


def test_normalize():
    x = normalize(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert float(x.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(x.square().mean()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(normalize(torch.full((3,), 5.0)), torch.zeros(3))


def test_explained_variance():
    target = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(target, target) == 1.0
    assert explained_variance(torch.zeros(3), target) == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(-target, target) == pytest.approx(-3.0, abs=1e-6)
    assert explained_variance(target, torch.ones(3)) is None
