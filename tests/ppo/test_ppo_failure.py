"""NaN and infinity: what is named, what is saved, and that the saved file shows the failure again."""

import resource

import pytest
import torch
from toy import ToyAction, ToyCache, ToyObservation, ToyPolicy, ToyWorld

from durotaxis.core.errors import UserError
from durotaxis.ppo import (
    NonFiniteError,
    PPOConfig,
    collect,
    evaluate,
    load_failure,
    make_optimizer,
    save_failure,
    start,
    update,
    with_failure_saved,
)
from durotaxis.ppo.checks import require_finite_parameters
from durotaxis.ppo.update import Batch, minibatch_indices, minibatch_loss, prepare
from durotaxis.records import RecordError

SEED = 5
CONFIG = PPOConfig(num_colonies=8, rollout_steps=8)


def collected(policy, world=None):
    world = world or ToyWorld(8)
    return collect(world, policy, start(world, policy, SEED), 8, SEED)[0]


def failure_of(path, policy, run):
    """What is saved of the NonFiniteError that `run` raises, and the error."""
    with pytest.raises(NonFiniteError) as caught:
        run()
    return load_failure(save_failure(path / "failure.pt", caught.value, policy, SEED, 3)), caught.value


def observation_of(values):
    return ToyObservation.from_dict(values)


def batch_of(values):
    """The minibatch of a failure file, as `minibatch_loss` takes it."""
    kinds = {"observation": ToyObservation, "cached": ToyCache, "sample": ToyAction}
    return Batch(
        **{key: kinds[key].from_dict(value) if key in kinds else value for key, value in values.items()}
    )


def test_a_poisoned_world_leaves_the_step(tmp_path):
    policy, world = ToyPolicy(), ToyWorld(8, poison=3)
    failure, error = failure_of(tmp_path, policy, lambda: collected(policy, world))
    assert failure.message == str(error)
    assert (failure.tensor, failure.run_seed, failure.iteration) == ("reward", SEED, 3)
    seen = failure.evidence
    assert seen["vector_step"] == 2
    assert seen["result"]["reward"].isnan().all()
    before = observation_of(seen["before"])
    with torch.no_grad():
        sample = policy(before, ToyCache.from_dict(seen["cached"]))[0].log_prob(
            ToyAction.from_dict(seen["sample"])
        )
    assert sample.isfinite().all()
    replayed = ToyWorld(8, poison=3)
    replayed.reset(seen["seed"])
    replayed.load_state_dict({"seed": seen["seed"], "time": torch.full((8,), 2), "hits": torch.zeros(8)})
    assert torch.equal(replayed.observe().nodes, before.nodes)
    assert replayed.step(ToyAction.from_dict(seen["action"])).reward.isnan().all()


def test_a_poisoned_weight_leaves_what_was_seen(tmp_path):
    policy = ToyPolicy()
    with torch.no_grad():
        policy.critic.weight[0, 4] = torch.inf
    failure, error = failure_of(tmp_path, policy, lambda: collected(policy))
    assert failure.tensor == "value"
    assert str(error).startswith("value holds ")
    fresh = ToyPolicy(seed=9)
    fresh.load_state_dict(failure.model)
    cached = ToyCache.from_dict(failure.evidence["cached"])
    value = fresh(observation_of(failure.evidence["before"]), cached)[1]
    assert torch.equal(value.isfinite(), failure.evidence["value"][:, 0].isfinite())
    assert not value.isfinite().any()
    told = with_failure_saved(tmp_path / "failure.pt", error, policy, SEED, 3)
    assert str(told) == (
        f"{error}; iteration 3, seed 5; parameter critic.weight is not finite: "
        f"batch and parameters are in {tmp_path / 'failure.pt'}"
    )
    assert (told.tensor, told.evidence) == (error.tensor, error.evidence)


class Exploding(ToyPolicy):
    """The gradient of sqrt at 0 is infinite."""

    def forward(self, observation, cached=None):
        distribution, value = super().forward(observation, cached)
        distribution.penalty = (self.critic.bias - self.critic.bias.detach()).sqrt().sum()
        return distribution, value


def test_a_poisoned_gradient_leaves_the_minibatch(tmp_path):
    policy = Exploding()
    rollout = collected(policy)
    optimizer = make_optimizer(policy, CONFIG)
    failure, _ = failure_of(tmp_path, policy, lambda: update(policy, optimizer, rollout, CONFIG, SEED, 3))
    assert failure.tensor == "gradient of critic.bias"
    assert failure.gradients["critic.bias"].isinf().all()
    assert failure.gradients["head.weight"].isfinite().all()
    assert "frozen.weight" not in failure.gradients
    fresh = Exploding(seed=9)
    fresh.load_state_dict(failure.model)
    minibatch_loss(fresh, batch_of(failure.evidence["minibatch"]), CONFIG).total.backward()
    for name, parameter in fresh.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, failure.gradients[name]), name


def test_a_loss_that_is_nan_leaves_its_place_in_the_update(tmp_path):
    class Later(ToyPolicy):
        """Fails in the sixth minibatch."""

        learned = 0

        def forward(self, observation, cached=None):
            distribution, value = super().forward(observation, cached)
            self.learned += torch.is_grad_enabled()
            if self.learned == 6:
                value = value * torch.nan
            return distribution, value

    policy = Later()
    rollout = collected(policy)
    failure, _ = failure_of(
        tmp_path,
        policy,
        lambda: update(policy, make_optimizer(policy, CONFIG), rollout, CONFIG, SEED, 3),
    )
    seen = failure.evidence
    assert failure.tensor == "loss"
    assert (seen["iteration"], seen["epoch"]) == (3, 1)
    index = minibatch_indices(64, 4, SEED, 3, 1)[1]
    assert torch.equal(seen["index"], index)
    whole, _ = prepare(rollout, CONFIG)
    assert torch.equal(seen["minibatch"]["target"], whole.target[index])
    assert torch.equal(
        batch_of(seen["minibatch"]).sample.unit,
        whole.sample.unit[index][:, : seen["minibatch"]["node_mask"].shape[1]],
    )


def test_a_parameter_that_is_not_finite_after_the_last_step_is_named():
    class Careless(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.param_groups[1]["params"][0].data[0, 7] = torch.nan

    policy = ToyPolicy()
    config = CONFIG.model_copy(update={"num_epochs": 1, "num_minibatches": 1})
    groups = [{"params": ps, "name": name} for name, ps in policy.parameter_groups().items()]
    with pytest.raises(NonFiniteError, match=r"^critic\.weight holds nan at index \[0, 7\] \(1 of 32"):
        update(policy, Careless(groups, lr=1e-3), collected(policy), config, SEED, 1)


def test_large_parameters_are_finite():
    """The sum of squares of these is infinite in float32."""
    require_finite_parameters([("a", torch.full((3,), 3e38)), ("b", torch.zeros(2, dtype=torch.float64))])
    with pytest.raises(NonFiniteError, match=r"^b holds -inf"):
        require_finite_parameters([("a", torch.ones(2)), ("b", torch.tensor([1.0, -torch.inf]))])


def test_an_evaluation_leaves_its_step(tmp_path):
    policy = ToyPolicy()
    failure, _ = failure_of(tmp_path, policy, lambda: evaluate(ToyWorld(3, poison=2), policy, [1, 2, 3]))
    assert failure.tensor == "reward"
    assert {"before", "sample", "action", "result"} <= failure.evidence.keys()


def an_error():
    return NonFiniteError("reward holds nan", "reward", {"reward": torch.full((4,), torch.nan)})


def test_a_full_disk_loses_neither_error(tmp_path):
    """A limit on the size of files is what a full disk is to a program: a write that fails half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        told = with_failure_saved(tmp_path / "failure.pt", an_error(), ToyPolicy(), SEED, 3)
        with pytest.raises(RecordError, match=r"cannot write .*failure\.pt: File too large"):
            save_failure(tmp_path / "failure.pt", an_error(), ToyPolicy(), SEED, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(told).startswith(
        "reward holds nan; iteration 3, seed 5: batch and parameters are lost: cannot"
    )
    assert "File too large" in str(told)
    assert "\n" not in str(told)
    assert told.tensor == "reward"
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_failures_are_refused(tmp_path):
    path = save_failure(tmp_path / "failure.pt", an_error(), ToyPolicy(), SEED, 3)
    whole = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"message": "?"}, tmp_path / "other.pt")
    for name, message in (
        ("none", "no such file"),
        ("cut", "damaged or not a failure file"),
        ("text", "damaged or not a failure file"),
        ("other", "not a failure file of durotaxis"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_failure(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)


def test_what_is_no_data_is_saved_as_text(tmp_path):
    class Strange:
        def __repr__(self):
            return "<strange>"

    error = NonFiniteError("x holds nan", "x", {"thing": Strange(), "list": (1, None, "a"), "flag": True})
    seen = load_failure(save_failure(tmp_path / "failure.pt", error, ToyPolicy(), SEED, 1)).evidence
    assert seen == {"thing": "<strange>", "list": [1, None, "a"], "flag": True}
