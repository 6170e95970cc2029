"""The loss against plain loops, against TorchRL, and in closed form."""

import math

import pytest
import torch

from durotaxis.ppo.loss import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    log_ratios,
    ppo_loss,
    reduce_nodes,
)
from durotaxis.ppo.loss import value_loss as critic_loss


def random_case(seed, num_colonies=6, num_slots=5):
    g = torch.Generator().manual_seed(seed)
    shape = (num_colonies, num_slots)
    new, old, kind, parameters = (torch.randn(shape, generator=g) * 0.4 for _ in range(4))
    mask = torch.arange(num_slots) < torch.randint(1, num_slots + 1, (num_colonies, 1), generator=g)
    advantage, value, target, old_value = (torch.randn(num_colonies, generator=g) for _ in range(4))
    return {
        "log_prob": new * mask,
        "old_log_prob": old * mask,
        "node_mask": mask,
        "advantage": advantage,
        "entropy": (kind * mask, parameters * mask),
        "value": value,
        "target": target,
        "old_value": old_value,
        "penalty": torch.tensor(0.25),
    }


def slow_loss(case, ratio, reduction, clip=0.2, value_coefficient=0.5, coefficients=(0.01, 0.001)):
    """The same loss with loops and math only: (total, policy, kl, clip fraction)."""
    policy = kl = kind = parameters = critic = 0.0
    outside, counted = 0, 0
    for b in range(len(case["advantage"])):
        nodes = [n for n in range(case["node_mask"].shape[1]) if case["node_mask"][b, n]]
        logs = [float(case["log_prob"][b, n]) - float(case["old_log_prob"][b, n]) for n in nodes]
        logs_used = [sum(logs)] if ratio == "graph" else logs
        a = float(case["advantage"][b])
        gains = []
        for log in logs_used:
            r = math.exp(log)
            gains.append(min(r * a, min(max(r, 1 - clip), 1 + clip) * a))
            outside += abs(r - 1) > clip
            counted += 1
        weight = 1 / len(logs_used) if reduction == "mean" else 1
        policy -= weight * sum(gains)
        kl += weight * sum(math.exp(log) - 1 - log for log in logs_used)
        node_weight = 1 / len(nodes) if reduction == "mean" else 1
        kind += node_weight * sum(float(case["entropy"][0][b, n]) for n in nodes)
        parameters += node_weight * sum(float(case["entropy"][1][b, n]) for n in nodes)
        critic += 0.5 * (float(case["value"][b]) - float(case["target"][b])) ** 2
    count = len(case["advantage"])
    total = policy + value_coefficient * critic - coefficients[0] * kind - coefficients[1] * parameters
    return total / count + float(case["penalty"]), policy / count, kl / count, outside / counted


@pytest.mark.parametrize("ratio", ["node", "graph"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_plain_loops(ratio, reduction):
    case = random_case(0)
    parts = ppo_loss(**case, ratio=ratio, reduction=reduction)
    total, policy, kl, clipped = slow_loss(case, ratio, reduction)
    assert float(parts.total) == pytest.approx(total, abs=1e-5)
    assert float(parts.policy) == pytest.approx(policy, abs=1e-5)
    assert float(parts.kl) == pytest.approx(kl, abs=1e-5)
    assert float(parts.clip_fraction) == pytest.approx(clipped, abs=1e-6)


@pytest.mark.parametrize("value_clip", [None, 0.2])
def test_equals_torchrl(value_clip):
    """TorchRL multiplies the factors of an action, so `graph` on full colonies is its ClipPPOLoss."""
    ppo = pytest.importorskip("torchrl.objectives")
    from tensordict import TensorDict
    from tensordict.nn import (
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
    )
    from torch.distributions import Independent, Normal

    g = torch.Generator().manual_seed(3)
    state, action = torch.randn(32, 4, generator=g), torch.randn(32, 3, generator=g)
    old_log_prob = torch.randn(32, generator=g) * 0.3 - 4.0
    advantage, target, old_value = (torch.randn(32, generator=g) for _ in range(3))
    torch.manual_seed(0)
    body, critic = torch.nn.Linear(4, 3), torch.nn.Linear(4, 1)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(body, in_keys=["state"], out_keys=["loc"]),
        ProbabilisticTensorDictModule(
            in_keys=["loc"],
            out_keys=["action"],
            distribution_class=lambda loc: Independent(Normal(loc, 1.0), 1),
            return_log_prob=True,
        ),
    )
    module = ppo.ClipPPOLoss(
        actor,
        TensorDictModule(critic, in_keys=["state"], out_keys=["state_value"]),
        clip_epsilon=0.2,
        entropy_coeff=0.01,
        critic_coeff=0.7,
        loss_critic_type="smooth_l1",
        clip_value=value_clip,
        functional=False,
    )
    data = TensorDict(
        {
            "state": state,
            "action": action,
            "action_log_prob": old_log_prob,
            "advantage": advantage[:, None],
            "value_target": target[:, None],
            "state_value": old_value[:, None],
        },
        [32],
    )
    theirs = module(data)
    total = theirs["loss_objective"] + theirs["loss_critic"] + theirs["loss_entropy"]
    expected = torch.autograd.grad(total, [body.weight, critic.weight])

    factors = Normal(body(state), 1.0)
    log_prob = factors.log_prob(action)
    spread = old_log_prob[:, None] / 3  # any split over the factors has the same product
    ours = ppo_loss(
        log_prob=log_prob,
        old_log_prob=spread.expand(32, 3),
        node_mask=torch.ones(32, 3, dtype=torch.bool),
        advantage=advantage,
        entropy=(factors.entropy(), torch.zeros(32, 3)),
        value=critic(state).squeeze(-1),
        target=target,
        old_value=old_value,
        penalty=torch.zeros(()),
        ratio="graph",
        reduction="sum",
        value_kind="huber",
        value_clip=value_clip,
        value_coefficient=0.7,
        entropy_coefficients=(0.01, 0.0),
    )
    assert float(ours.clip_fraction) == pytest.approx(float(theirs["clip_fraction"]), abs=1e-6)
    torch.testing.assert_close(ours.total, total, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(ours.total, [body.weight, critic.weight])
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def test_node_and_graph_ratio_in_closed_form():
    """Two nodes at ratio 1.1: each is inside the clip of 0.2, their product 1.21 is not."""
    new = torch.full((1, 2), math.log(1.1))
    old, mask, advantage = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.tensor([2.0])
    node, node_mask = log_ratios(new, old, mask, "node")
    graph, graph_mask = log_ratios(new, old, mask, "graph")
    assert float(clipped_surrogate(node, node_mask, advantage, 0.2, "mean")) == pytest.approx(-2.2)
    assert float(clipped_surrogate(node, node_mask, advantage, 0.2, "sum")) == pytest.approx(-4.4)
    assert float(clipped_surrogate(graph, graph_mask, advantage, 0.2, "mean")) == pytest.approx(-2.4)
    assert float(clip_fraction(node, node_mask, 0.2)) == 0.0
    assert float(clip_fraction(graph, graph_mask, 0.2)) == 1.0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_states_the_weight_of_a_node(reduction):
    values = torch.tensor([[3.0, 5.0, 100.0], [7.0, 100.0, 100.0], [100.0, 100.0, 100.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    expected = [4.0, 7.0, 0.0] if reduction == "mean" else [8.0, 7.0, 0.0]
    assert reduce_nodes(values, mask, reduction).tolist() == expected


@pytest.mark.parametrize("ratio", ["node", "graph"])
def test_padding_contributes_exactly_nothing(ratio):
    case = random_case(1)
    mask = case["node_mask"]
    assert not mask.all()
    clean = ppo_loss(**case, ratio=ratio)
    rubbish = torch.where(mask, 0.0, 1e30)
    log_prob = (case["log_prob"] + rubbish).requires_grad_()
    kind = (case["entropy"][0] + rubbish).requires_grad_()
    dirty = {**case, "log_prob": log_prob, "entropy": (kind, case["entropy"][1] + rubbish)}
    parts = ppo_loss(**dirty, ratio=ratio)
    for name in (
        "total",
        "policy",
        "kl",
        "entropy_kind",
        "entropy_parameters",
        "clip_fraction",
        "ratio_error",
    ):
        assert float(getattr(parts, name).detach()) == float(getattr(clean, name)), name
    parts.total.backward()
    for gradient in (log_prob.grad, kind.grad):
        assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
        assert gradient[mask].abs().sum() > 0


def test_gradient_stops_where_clipped():
    log_prob = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    mask = torch.ones(4, 1, dtype=torch.bool)
    clipped_surrogate(log_prob, mask, advantage, 0.2, "mean").backward()
    assert (log_prob.grad[:, 0] != 0).tolist() == [False, True, True, False]


def test_approximate_kl_converges_to_the_kl():
    """10^6 draws from Normal(0, 1) against Normal(0.1, 1): KL = 0.005."""
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_ratio = ((x**2 - (x - 0.1) ** 2) / 2)[None].float()
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    assert float(approximate_kl(log_ratio, mask, "mean")) == pytest.approx(0.005, rel=0.02)
    assert float(approximate_kl(torch.zeros(1, 3), torch.ones(1, 3).bool(), "mean")) == 0.0


def test_value_loss_kinds_and_clip():
    value, target, old = torch.tensor([3.0, 0.5]), torch.zeros(2), torch.tensor([2.5, 0.5])
    assert float(critic_loss(value, target, old, "mse", None)) == pytest.approx((4.5 + 0.125) / 2)
    assert float(critic_loss(value, target, old, "huber", None)) == pytest.approx((2.5 + 0.125) / 2)
    better = torch.tensor([0.0, 0.5])  # moved further than 0.2: the clipped loss is the larger one
    assert float(critic_loss(better, target, old, "mse", 0.2)) == pytest.approx((0.5 * 2.3**2 + 0.125) / 2)


def test_ratio_error_is_what_the_invariant_needs():
    case = {**random_case(2), "old_log_prob": random_case(2)["log_prob"].clone()}
    assert float(ppo_loss(**case).ratio_error) == 0.0
    case["old_log_prob"][0, 0] -= 0.3
    assert float(ppo_loss(**case).ratio_error) == pytest.approx(math.exp(0.3) - 1, abs=1e-6)
    assert float(ppo_loss(**case, ratio="graph").ratio_error) == pytest.approx(0.3, abs=1e-6)
