"""Values per reward term of the real agent, and its last layer."""

import pytest
import torch
from agent_cases import make_observation, make_policy

from durotaxis.agent import HybridActorCritic, state_value
from durotaxis.core.errors import UserError
from durotaxis.ppo.value import ValueScale, value_names, value_scale

TERMS = ("progress", "effort", "ends")


def of_terms(policy):
    """An agent like `policy`, with its encoder, and one value per term."""
    torch.manual_seed(0)
    return HybridActorCritic(policy.encoder, policy.config, reward_terms=TERMS, value_heads="terms").eval()


def test_one_value_per_term_in_their_order():
    plain = make_policy()
    policy, observation = of_terms(plain), make_observation([3, 0, 5], 6)
    with torch.no_grad():
        values, total = policy(observation)[1], plain(observation)[1]
    assert values.shape == (3, 3)
    assert values.dtype == torch.float32
    assert total.shape == (3,)
    assert (value_names(policy), value_names(plain)) == (TERMS, ("total",))
    with torch.no_grad():
        policy.value_head.bias[1] += 5.0
    torch.testing.assert_close(policy(observation)[1] - values, torch.tensor([[0.0, 5.0, 0.0]] * 3))
    torch.testing.assert_close(state_value(values), values[:, 0] + values[:, 1] + values[:, 2])
    assert state_value(total) is total


def test_terms_need_names():
    policy = make_policy()
    with pytest.raises(UserError, match=r"value_heads=terms needs the names .*reward_terms") as caught:
        HybridActorCritic(policy.encoder, policy.config, value_heads="terms")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"actor_critic\.value_heads: Input should be 'total' or 'terms'"):
        HybridActorCritic(policy.encoder, policy.config, value_heads="each")


@torch.no_grad()
def test_rescaling_changes_statistics_and_weights_but_no_value():
    policy, observation = of_terms(make_policy()), make_observation([3, 1, 5, 4], 6)
    assert isinstance(value_scale(policy), ValueScale)
    before, weight = policy(observation)[1], policy.value_head.weight.clone()
    mean, std = torch.tensor([0.5, -3.0, 20.0]), torch.tensor([0.1, 4.0, 60.0])
    policy.value_head.rescale(mean, std, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(policy(observation)[1], before, rtol=1e-5, atol=20.0 * 1e-6)
    torch.testing.assert_close(policy.value_head.weight, weight / std[:, None])
    state = policy.state_dict()
    assert torch.equal(state["critic.value_head.mean"], mean)
    assert torch.equal(state["critic.value_head.std"], std)
    assert state["critic.value_head.updates"].tolist() == [1, 2, 3]
    other = of_terms(make_policy(seed=1))
    other.load_state_dict(state)
    assert torch.equal(other(observation)[1], policy(observation)[1])
