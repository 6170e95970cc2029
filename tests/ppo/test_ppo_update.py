"""The update: invariants, minibatches, parameter groups, gradient norms, the KL stop."""

import copy
import math

import pytest
import torch
from toy import ToyPolicy, ToyWorld

from durotaxis.core.errors import UserError
from durotaxis.ppo import (
    InvariantError,
    NonFiniteError,
    PPOConfig,
    RatioError,
    collect,
    make_optimizer,
    start,
    update,
)
from durotaxis.ppo.rollout import narrow_nodes, num_used_slots
from durotaxis.ppo.update import (
    add_parameters,
    minibatch_indices,
    minibatch_loss,
    prepare,
    remake_optimizer,
    set_learning_rate,
)

SEED = 7
CONFIG = PPOConfig(num_colonies=8, rollout_steps=8)


def collected(policy, num_steps=8):
    world = ToyWorld(8)
    return collect(world, policy, start(world, policy, SEED), num_steps, SEED)[0]


def parameters_of(policy):
    return torch.cat([p.detach().flatten().clone() for p in policy.parameters()])


@pytest.mark.parametrize("ratio", ["node", "graph"])
def test_first_minibatch_has_ratio_one(ratio):
    policy = ToyPolicy()
    config = CONFIG.model_copy(update={"ratio": ratio})
    numbers = update(policy, make_optimizer(policy, config), collected(policy), config, SEED, 1)
    assert numbers["ratio_error"] < 1e-5
    assert numbers["minibatches"] == 16


@pytest.mark.parametrize("ratio", ["node", "graph"])
def test_dropout_trips_the_ratio_check(ratio):
    policy = ToyPolicy(dropout=0.2)
    config = CONFIG.model_copy(update={"ratio": ratio})
    rollout = collected(policy)
    before = parameters_of(policy)
    with pytest.raises(RatioError, match=r"largest \|.*ratio.*\| is .*, above .*dropout"):
        update(policy, make_optimizer(policy, config), rollout, config, SEED, 1)
    assert torch.equal(before, parameters_of(policy))


def test_update_moves_only_trainable_weights_and_ignores_the_global_generator():
    results = []
    for seed in (1, 2):
        policy = ToyPolicy()
        rollout, frozen = collected(policy), policy.frozen_hash()
        before = parameters_of(policy)
        torch.manual_seed(seed)
        update(policy, make_optimizer(policy, CONFIG), rollout, CONFIG, SEED, 1)
        assert policy.frozen_hash() == frozen
        results.append(parameters_of(policy))
    assert torch.equal(*results)
    assert not torch.equal(before, results[0])


def test_minibatches_partition_equally_and_depend_on_every_key():
    parts = minibatch_indices(24, 4, 1, 2, 3)
    assert [len(part) for part in parts] == [6] * 4
    assert sorted(torch.cat(parts).tolist()) == list(range(24))
    assert torch.equal(torch.cat(parts), torch.cat(minibatch_indices(24, 4, 1, 2, 3)))
    for keys in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(torch.cat(parts), torch.cat(minibatch_indices(24, 4, *keys)))


def test_every_place_is_equally_likely():
    """First entry over 2,000 permutations of 8: chi-squared with 7 degrees of freedom, 99.99 % below 29.9."""
    first = torch.stack([minibatch_indices(8, 1, 1, i, 0)[0][0] for i in range(2000)])
    counts = torch.bincount(first, minlength=8)
    assert float(((counts - 250.0) ** 2 / 250.0).sum()) < 29.9


def test_narrowing_changes_nothing():
    policy = ToyPolicy()
    batch, _ = prepare(collected(policy), CONFIG)
    small = batch[batch.node_mask.sum(1) <= 3]
    width = num_used_slots(small.node_mask)
    assert width == 3
    wide = minibatch_loss(policy, small, CONFIG).total
    narrow = minibatch_loss(policy, narrow_nodes(small, width), CONFIG).total
    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-6)


def test_penalty_of_the_policy_is_added_with_its_gradient():
    class Penalized(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            distribution.penalty = self.critic.weight.square().sum()
            return distribution, value

    plain, penalized = ToyPolicy(), Penalized()
    batch, _ = prepare(collected(plain), CONFIG)
    losses = [minibatch_loss(policy, batch, CONFIG) for policy in (plain, penalized)]
    penalty = penalized.critic.weight.square().sum()
    torch.testing.assert_close(losses[1].total - losses[0].total, penalty)
    gradients = [
        torch.autograd.grad(parts.total, policy.critic.weight)[0]
        for parts, policy in zip(losses, (plain, penalized), strict=True)
    ]
    torch.testing.assert_close(gradients[1] - gradients[0], 2 * penalized.critic.weight.detach())


def test_advantages_are_normalised_once_over_the_rollout():
    rollout = collected(ToyPolicy())
    batch, _ = prepare(rollout, CONFIG)
    assert float(batch.advantage.mean()) == pytest.approx(0.0, abs=1e-6)
    raw, _ = prepare(rollout, CONFIG.model_copy(update={"normalize_advantage": False}))
    torch.testing.assert_close(raw.target[:, 0], raw.advantage + raw.value[:, 0])
    assert torch.equal(raw.target, batch.target)


def test_kl_stop_ends_the_update():
    policy = ToyPolicy()
    config = CONFIG.model_copy(update={"learning_rate": 0.05, "target_kl": 0.01})
    numbers = update(policy, make_optimizer(policy, config), collected(policy), config, SEED, 1)
    assert numbers["kl_max"] > 0.01
    assert 1 <= numbers["minibatches"] < 16
    assert numbers["kl"] <= 0.01


@pytest.mark.parametrize("piecewise", [False, True], ids=["", "a part unfrozen piece by piece"])
def test_gradient_norms_and_clipping(piecewise):
    """With one minibatch, norms are those of the plain gradient, and SGD shows the clipped length."""
    policy = ToyPolicy()
    config = CONFIG.model_copy(update={"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": 0.01})
    rollout = collected(policy)
    batch, _ = prepare(rollout, config)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(minibatch_loss(policy, batch, config).total, trainable)
    length = math.sqrt(sum(float(g.square().sum()) for g in gradient))
    parts = [(n, ps) for n, ps in policy.parameter_groups().items()]
    if piecewise:
        parts = [(name, [parameter]) for name, parameters in parts for parameter in parameters]
    groups = [{"params": parameters, "name": name, "factor": 1.0} for name, parameters in parts]
    before = parameters_of(policy)
    numbers = update(policy, torch.optim.SGD(groups, lr=1.0), rollout, config, SEED, 1)
    assert numbers["gradient_norm"] == pytest.approx(length, rel=1e-4)
    parts = [numbers[f"gradient_norm/{name}"] for name in ("actor", "critic")]
    assert math.hypot(*parts) == pytest.approx(length, rel=1e-4)
    assert length > 0.01
    assert float((parameters_of(policy) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_infinite_gradient_stops_with_the_parameter():
    class Exploding(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            distribution.penalty = (self.critic.bias - self.critic.bias.detach()).sqrt().sum()
            return distribution, value

    policy = Exploding()
    rollout = collected(policy)
    before = parameters_of(policy)
    with pytest.raises(NonFiniteError, match=r"gradient of critic\.bias holds"):
        update(policy, make_optimizer(policy, CONFIG), rollout, CONFIG, SEED, 1)
    assert torch.equal(before, parameters_of(policy))


def test_nan_loss_stops():
    class Broken(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            distribution.penalty = torch.tensor(torch.nan)
            return distribution, value

    policy = Broken()
    with pytest.raises(NonFiniteError, match="loss holds nan"):
        update(policy, make_optimizer(policy, CONFIG), collected(policy), CONFIG, SEED, 1)


def test_optimizer_has_one_group_per_part_with_its_rate():
    config = PPOConfig(learning_rate=1e-3, learning_rate_factors={"critic": 0.5})
    optimizer = make_optimizer(ToyPolicy(), config)
    assert [group["name"] for group in optimizer.param_groups] == ["actor", "critic"]
    assert all(group["eps"] == 1e-5 for group in optimizer.param_groups)
    set_learning_rate(optimizer, 4e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [4e-4, 2e-4]


def test_unknown_part_is_a_user_error():
    with pytest.raises(UserError, match="no part ptm:x; this policy has actor, critic"):
        make_optimizer(ToyPolicy(), PPOConfig(learning_rate_factors={"ptm:x": 0.1}))


def test_parts_must_cover_every_trainable_parameter_once():
    class Forgetful(ToyPolicy):
        def parameter_groups(self):
            return {"actor": super().parameter_groups()["actor"]}

    with pytest.raises(InvariantError, match="exactly once"):
        make_optimizer(Forgetful(), PPOConfig())


def test_minibatches_must_be_equal():
    with pytest.raises(
        ValueError, match=r"num_minibatches \(5\) must divide num_colonies \* rollout_steps \(64\)"
    ):
        PPOConfig(num_colonies=8, rollout_steps=8, num_minibatches=5)


def test_a_part_that_begins_to_learn_leaves_all_moments_alone():
    policy = ToyPolicy()
    optimizer = make_optimizer(policy, CONFIG)
    update(policy, optimizer, collected(policy), CONFIG, SEED, 1)
    before = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    assert before
    policy.frozen.requires_grad_(True)
    groups = policy.parameter_groups() | {"frozen": list(policy.frozen.parameters())}
    policy.parameter_groups = lambda: groups
    config = CONFIG.model_copy(update={"learning_rate_factors": {"frozen": 0.1}})
    assert add_parameters(optimizer, policy, config) == ["frozen"]
    assert add_parameters(optimizer, policy, config) == []
    after = {id(p): s for p, s in optimizer.state.items()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[p][k], v) for p, s in before.items() for k, v in s.items())
    assert optimizer.param_groups[-1]["param_names"] == ["frozen.weight", "frozen.bias"]
    set_learning_rate(optimizer, 1e-3)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(1e-4)


def test_an_optimiser_is_remade_in_the_order_of_its_state():
    policy, other = ToyPolicy(), ToyPolicy(seed=4)
    optimizer = make_optimizer(policy, CONFIG)
    policy.frozen.requires_grad_(True)
    policy.parameter_groups = lambda: {"frozen": list(policy.frozen.parameters())}
    add_parameters(optimizer, policy, CONFIG)
    batch = collected(policy)
    policy.parameter_groups = lambda: (
        ToyPolicy.parameter_groups(policy) | {"frozen": list(policy.frozen.parameters())}
    )
    update(policy, optimizer, batch, CONFIG, SEED, 1)
    state = optimizer.state_dict()
    other.load_state_dict(policy.state_dict())
    other.frozen.requires_grad_(True)
    remade = remake_optimizer(other, CONFIG, copy.deepcopy(state))
    assert [group["name"] for group in remade.param_groups] == ["actor", "critic", "frozen"]
    names = {id(p): name for name, p in other.named_parameters()}
    own = {id(p): name for name, p in policy.named_parameters()}
    mine = {names[id(p)]: s for p, s in remade.state.items()}
    theirs = {own[id(p)]: s for p, s in optimizer.state.items()}
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name][k], v) for name, s in theirs.items() for k, v in s.items())
    state["param_groups"][0]["param_names"][0] = "none"
    with pytest.raises(KeyError):
        remake_optimizer(other, CONFIG, state)


def test_a_gradient_whose_norm_overflows_is_an_error():
    class Steep(ToyPolicy):
        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            return distribution, value + (1e30 * (value - value.detach()) if torch.is_grad_enabled() else 0)

    policy = Steep()
    with pytest.raises(NonFiniteError, match="gradient norm holds inf"):
        update(policy, make_optimizer(policy, CONFIG), collected(policy), CONFIG, SEED, 1)
