"""Fusion inside the policy: penalties in the loss, newcomers, model dropout, graph models, budget, transfer."""

import dataclasses
import itertools
import math

import pytest
import torch
from agent_cases import IMAGES, SMALL_PTMS, crop, make_observation, make_policy

from durotaxis.agent import ActorCriticConfig, PTMFeatures, transfer
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import hash_keys
from durotaxis.fusion import PTM, RULES, Backbone, attention_balance_penalty, attention_entropy_penalty
from durotaxis.ppo import PPOConfig
from durotaxis.ppo.rollout import narrow_nodes
from durotaxis.ppo.update import Batch, minibatch_loss

COUNTS = [5, 0, 8, 1]
KEYS = hash_keys(0, torch.arange(4))
THREE = (*SMALL_PTMS, {"model_type": "graph_cnn", "tap": "block1", "name": "late", "seed": 5})
ONLY_PENALTY = PPOConfig(
    num_colonies=4,
    rollout_steps=1,
    num_minibatches=1,
    value_coefficient=0,
    entropy_kind=0,
    entropy_parameters=0,
)


def policy_with(image="field sampled", **wsa):
    values = {"embedding_dim": 32, "context_dim": 16, "hidden_dims": (16, 8), "ptms": THREE}
    policy = make_policy(image=IMAGES[image], wsa_config=values | wsa)
    fusion = policy.actor.extractor.fusion
    if hasattr(fusion, "output_layer"):
        generator = torch.Generator().manual_seed(8)
        torch.nn.init.normal_(fusion.output_layer.weight, generator=generator)
        # One model is preferred everywhere, so that both penalties are far from 0.
        with torch.no_grad():
            favour = policy.actor.extractor.ptms[0].projection
            favour.bias.add_(torch.randn(favour.bias.shape, generator=generator) * 2)
    if hasattr(fusion, "scorer"):  # awake, or the ReLU leaves it without gradient
        torch.nn.init.normal_(fusion.scorer.weight, std=0.3, generator=torch.Generator().manual_seed(9))
        torch.nn.init.constant_(fusion.scorer.bias, 2.0)
    return policy


def batch_of(policy, observation, cached=None):
    """A batch with zero advantage: all that is left of the loss is the penalty."""
    with torch.no_grad():
        distribution, value = policy(observation, cached)
        sample = distribution.sample(KEYS)
        log_prob = distribution.log_prob(sample)
    zero = torch.zeros_like(value)
    return Batch(
        observation, cached, sample, distribution.node_mask, log_prob, value[:, None], zero, zero[:, None]
    )


OPTIONS = {
    "entropy": {"attention_entropy_coefficient": 1.0},
    "balance": {"attention_balance_coefficient": 1.0},
    "both": {"attention_entropy_coefficient": 0.3, "attention_balance_coefficient": 0.7},
    "heads": {"attention_entropy_coefficient": 1.0, "num_heads": 4},
    "learned temperature": {"attention_entropy_coefficient": 1.0, "learn_temperature": True},
    "scheduled temperature": {
        "attention_entropy_coefficient": 1.0,
        "attention_temperature": {"start": 0.5, "end": 0.1, "steps": 100},
    },
    "ramp": {
        "attention_balance_coefficient": 1.0,
        "ptms": (*SMALL_PTMS, {**THREE[2], "enters_at": 10, "ramp_steps": 100}),
    },
    "dropout": {"attention_entropy_coefficient": 1.0, "model_dropout": 0.2},
    "dot_product": {"attention_entropy_coefficient": 1.0, "fusion": "dot_product"},
    "paper": {"attention_balance_coefficient": 1.0, "fusion": "paper"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_penalties_reach_the_loss_with_the_right_sign(option):
    """Slope against finite differences in double precision, and one small step down spreads attention."""
    policy, observation = policy_with(**OPTIONS[option]).double(), make_observation(COUNTS, 9)
    observation = observation.map(lambda x: x.double() if x.is_floating_point() else x)
    policy.begin_iteration(50)
    cached = policy.precompute(observation, KEYS)
    batch = batch_of(policy, observation, cached)
    parts = minibatch_loss(policy, batch, ONLY_PENALTY)
    assert float(parts.penalty) > 1e-3
    assert float(parts.total.detach()) == pytest.approx(float(parts.penalty), rel=1e-4)
    assert float(parts.ratio_error) < 1e-4
    parts.total.backward()
    learned = {n: p for n, p in policy.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert any("state_encoder" in name for name in learned)
    assert any("ptms.resnet18_random.projection" in name for name in learned)
    assert any(name.startswith("encoder.") for name in learned)
    if option == "learned temperature":
        assert "actor.feature_extractor.fusion.log_temperature" in learned
    gradient = {name: p.grad.clone() for name, p in learned.items()}
    squared = sum(float(g.square().sum()) for g in gradient.values())

    def penalty_at(rate):
        with torch.no_grad():
            for name, p in learned.items():
                p -= rate * gradient[name]
            value = policy(observation, cached)[0].penalty.item()
            for name, p in learned.items():
                p += rate * gradient[name]
        return value

    small = 1e-5 / math.sqrt(squared)
    slope = (penalty_at(small) - penalty_at(-small)) / (2 * small)
    assert slope == pytest.approx(-squared, rel=1e-2)
    assert penalty_at(1e-3 / math.sqrt(squared)) < float(parts.penalty)


@pytest.mark.parametrize("image", ["field sampled", "field pooled", "node"])
@torch.no_grad()
def test_penalties_see_living_rows_alone(image):
    policy = policy_with(image, attention_entropy_coefficient=0.5, attention_balance_coefficient=2.0)
    observation = make_observation(COUNTS, 9)
    distribution = policy(observation)[0]
    rows = distribution.attention
    if image == "field pooled":
        assert len(rows) == 4
        rows = rows[[0, 2, 3]]
    wanted = 0.5 * attention_entropy_penalty(rows) + 2.0 * attention_balance_penalty(rows)
    torch.testing.assert_close(distribution.penalty, wanted)
    empty = policy(make_observation([0, 0], 3))[0]
    assert float(empty.penalty) == 0.0


@torch.no_grad()
def test_empty_colonies_are_not_watched_nor_shuffled_in():
    policy = policy_with("field pooled")
    extractor = policy.actor.extractor
    whole, occupied = make_observation(COUNTS, 9), [0, 2, 3]  # the colony without nodes is the second
    without = whole[torch.tensor(occupied)]
    watched, wanted = policy.diagnostics(whole)["all"], policy.diagnostics(without)["all"]
    assert watched["attention"] == pytest.approx(wanted["attention"], abs=1e-6)
    assert watched["attention_entropy"] == pytest.approx(wanted["attention_entropy"], abs=1e-6)
    assert policy.diagnostics(make_observation([0, 0], 3)) == {}
    with extractor.intervene("shuffled"):
        shuffled, alone = policy(whole)[0].kind_probs, policy(without)[0].kind_probs
    torch.testing.assert_close(shuffled[occupied], alone, atol=1e-6, rtol=0)


def test_without_coefficients_there_is_no_penalty():
    assert policy_with()(make_observation(COUNTS, 9))[0].penalty is None
    assert make_policy(use_wsa=False)(make_observation(COUNTS, 9))[0].penalty is None


def divergence(first, second, mask):
    """Largest change of a kind's probability, and largest KL of the kinds of a node."""
    p, q = first.kind_probs[mask], second.kind_probs[mask]
    kl = (p * (p.clamp_min(1e-12) / q.clamp_min(1e-12)).log()).sum(-1)
    return float((p - q).abs().max()), float(kl.max())


@torch.no_grad()
def test_a_third_model_enters_without_a_jump():
    """Heads a hundred times as loud as at the start of a training; the ramp takes 40 iterations."""
    late = {**THREE[2], "enters_at": 1_000, "ramp_steps": 40_000}
    policy, observation = policy_with(ptms=(*SMALL_PTMS, late)), make_observation([5, 8], 8)
    mask, seen = observation.node_mask, []
    for step in (0, 999, *range(1_000, 42_000, 1_000)):
        policy.begin_iteration(step)
        seen.append(policy(observation)[0])
    assert divergence(seen[0], seen[1], mask) == (0.0, pytest.approx(0.0, abs=1e-7))
    entry = divergence(seen[1], seen[2], mask)
    assert 0 < entry[0] < 1e-3
    assert entry[1] < 1e-5
    changes = [divergence(a, b, mask) for a, b in itertools.pairwise(seen[2:])]
    assert max(change for change, _ in changes) < 0.05
    assert max(kl for _, kl in changes) < 5e-3
    whole = divergence(seen[1], seen[-1], mask)
    assert whole[0] > 0.2  # what it would be at once, without a ramp
    assert whole[1] > 0.1


def test_an_iteration_says_whether_what_was_kept_still_holds():
    late = {**THREE[2], "enters_at": 10, "ramp_steps": 10}
    policy, observation = policy_with(ptms=(*SMALL_PTMS, late)), make_observation(COUNTS, 9)
    assert policy.actor.extractor.opened == ("resnet18_random", "graph_cnn")
    assert not policy.begin_iteration(0)
    assert set(policy.precompute(observation).features) == {"resnet18_random"}
    assert [policy.begin_iteration(step) for step in (9, 10, 11)] == [False, True, True]
    assert set(policy.precompute(observation).features) == {"resnet18_random", "late"}
    policy.precompute(observation, hash_keys(torch.arange(4), 1))
    assert not policy.begin_iteration(12)
    policy.precompute(observation)  # as an evaluation does: it keeps nothing for the rollout
    policy.actor.extractor.set_gate("resnet18_random", 0.0)
    assert policy.begin_iteration(12)


@pytest.mark.parametrize("image", ["field sampled", "field pooled", "tokens sampled", "node"])
@torch.no_grad()
def test_dropped_models_are_kept_beside_the_observation(image):
    policy, observation = policy_with(image, model_dropout=0.6), make_observation(COUNTS, 9)
    cached = policy.precompute(observation, KEYS)
    assert torch.equal(cached.gates, policy.precompute(observation, KEYS).gates)
    assert cached.gates.shape == (4, 3)
    assert bool(cached.gates.any(1).all())
    assert 0 < float(cached.gates.mean()) < 1
    first = policy(observation, cached)[0]
    rows = observation.node_mask.nonzero()[:, 0] if image != "field pooled" else torch.arange(4)
    assert torch.equal(first.attention == 0, cached.gates[rows] == 0)
    narrow = policy(crop(observation, 8), narrow_nodes(cached, 8))[0]
    torch.testing.assert_close(narrow.kind_probs, first.kind_probs[:, :8], atol=1e-6, rtol=0)
    without = policy.precompute(observation)
    assert without is None or without.gates is None
    assert bool((policy(observation, without)[0].attention > 0).all())
    assert policy.diagnostics(observation, cached)["all"]["attention"] == pytest.approx(
        policy.diagnostics(observation)["all"]["attention"], abs=1e-5
    )


def test_one_backbone_is_never_dropped():
    policy = make_policy(
        use_wsa=False, wsa_config={"embedding_dim": 32, "ptms": SMALL_PTMS, "model_dropout": 0.9}
    )
    assert policy.precompute(make_observation(COUNTS, 9), KEYS).gates is None


class FourOf(Backbone):
    """A fixed linear map of node features."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(13, 4)

    def forward(self, image):
        return self.linear(image)


class GraphModel(PTM):
    """A stand-in for models that read graphs: per node a map of its features, and its graph's mean."""

    calls = 0

    def features(self, image, points=None, batch=None, graph=None):
        self.calls += 1
        nodes = self.backbone(graph.nodes)
        total = nodes.new_zeros(len(graph.graph), 4).index_add(0, graph.batch, nodes)
        pooled = total / torch.bincount(graph.batch, minlength=len(total)).clamp_min(1)[:, None]
        return torch.cat([nodes, pooled[graph.batch]], 1) if self.readout == "sampled" else pooled

    def forward(self, image, points=None, batch=None, cached=None, graph=None):
        return self.projection(self.features(image, points, batch, graph) if cached is None else cached)


def with_graph_model(image, monkeypatch):
    policy = policy_with(image)
    extractor = policy.actor.extractor
    torch.manual_seed(4)
    record = dataclasses.replace(extractor.ptms["late"].record, tap="end", taps={"end": 4})
    extractor.remove_ptm("late")
    model = GraphModel(FourOf().requires_grad_(False), record, 32, extractor.readout)
    extractor.ptms.append(model)
    monkeypatch.setattr(type(extractor), "graph_readers", property(lambda self: ("late",)))
    return policy, model


@pytest.mark.parametrize("image", ["field sampled", "field pooled"])
def test_graph_models_are_given_the_graph_and_kept_per_node(image, monkeypatch):
    policy, model = with_graph_model(image, monkeypatch)
    observation = make_observation(COUNTS, 9)
    cached = policy.precompute(observation, KEYS)
    kept = cached.node_features if image == "field sampled" else cached.features
    assert kept["late"].shape == ((4, 9, 8) if image == "field sampled" else (4, 4))
    assert set(cached.features | cached.node_features) == {"resnet18_random", "late"}
    stacked = PTMFeatures.stack([cached, cached]).flatten()[4:]  # as a rollout keeps it
    batch = batch_of(policy, observation, stacked)
    calls = model.calls
    narrow = narrow_nodes(batch, 8)
    parts = minibatch_loss(policy, narrow, ONLY_PENALTY)
    assert float(parts.ratio_error) < 1e-4
    assert model.calls == calls
    direct = policy(observation)[0]
    assert model.calls == calls + 1
    torch.testing.assert_close(direct.log_prob(batch.sample), batch.log_prob, atol=1e-5, rtol=0)
    wrong = dataclasses.replace(
        stacked,
        **{
            name: {key: x + 1 for key, x in getattr(stacked, name).items()}
            for name in ("features", "node_features")
        },
    )
    other = policy(observation, wrong)[0].log_prob(batch.sample).detach()
    assert float((other - batch.log_prob).abs().max()) > 1e-3
    parts = minibatch_loss(policy, dataclasses.replace(narrow, advantage=torch.ones(4)), ONLY_PENALTY)
    parts.total.backward()
    assert model.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("readout", ["sampled", "pooled"])
@torch.no_grad()
def test_graph_models_are_kept_beside_pictures_of_tokens(readout, monkeypatch):
    policy, model = with_graph_model(f"tokens {readout}", monkeypatch)
    observation = dataclasses.replace(make_observation(COUNTS, 9), field=None)
    cached = policy.precompute(observation)
    assert set(cached.features | cached.node_features) == {"late"}
    calls = model.calls
    kept = policy(observation, cached)[0].kind_probs
    assert model.calls == calls
    torch.testing.assert_close(kept, policy(observation)[0].kind_probs, atol=1e-6, rtol=0)


def test_a_cache_over_its_budget_is_refused():
    policy, observation = policy_with(), make_observation([9, 3], 9)
    # layer1 and block1 of 24 pixels: 64 channels on 6 x 6 and on 12 x 12 cells, float32
    sizes = [x[0].numel() * 4 for x in policy.precompute(observation).features.values()]
    whole = sum(sizes) * 1000 / 1e6
    policy.require_cache_fits(observation, 1000)
    tight = make_policy(
        wsa_config={"embedding_dim": 32, "context_dim": 16, "hidden_dims": (16, 8), "ptms": THREE},
        cache_budget_mb=whole - 0.5,
    )
    tight.require_cache_fits(observation, 900)
    with pytest.raises(
        UserError, match=r"cache_budget_mb.*resnet18_random [\d.]+ MB, late [\d.]+ MB.*num_colonies"
    ) as e:
        tight.require_cache_fits(observation, 1000)
    assert "\n" not in str(e.value)
    assert f"keeps {whole:,.3g} MB" in str(e.value)
    later = (*SMALL_PTMS, {**THREE[2], "enters_at": 50})
    waiting = make_policy(
        wsa_config={"embedding_dim": 32, "context_dim": 16, "hidden_dims": (16, 8), "ptms": later},
        cache_budget_mb=0.25,
    )
    message = r"is 0\.25, but .* keeps 0\.461 MB .*resnet18_random 0\.0922 MB, late 0\.369 MB"
    with pytest.raises(UserError, match=message):
        waiting.require_cache_fits(observation, 10)
    assert not waiting.begin_iteration(0)
    make_policy(image=IMAGES["tokens sampled"], cache_budget_mb=1e-9).require_cache_fits(observation, 1000)


def test_transfer_takes_over_all_but_the_models_that_differ():
    three, two = policy_with(), policy_with(ptms=SMALL_PTMS)
    state, fresh = {k: v.clone() for k, v in three.state_dict().items()}, two.state_dict()
    report = transfer(two, state)
    assert (report.kept, report.new, report.dropped) == (("resnet18_random", "graph_cnn"), (), ("late",))
    assert all(torch.equal(value, state[name]) for name, value in two.state_dict().items())
    other = policy_with(ptms=(THREE[2], *SMALL_PTMS), context_dim=16)
    mine = {k: v.clone() for k, v in other.state_dict().items()}
    report = transfer(other, {k: v + 0 for k, v in fresh.items()})
    assert (report.kept, report.new, report.dropped) == (("resnet18_random", "graph_cnn"), ("late",), ())
    for name, value in other.state_dict().items():
        assert torch.equal(value, mine[name] if ".ptms.late." in name else fresh[name]), name
    wide = policy_with(context_dim=8)
    mine = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(UserError, match="another architecture: it differs in actor"):
        transfer(wide, state)
    assert all(torch.equal(value, mine[name]) for name, value in wide.state_dict().items())
    with pytest.raises(UserError, match="another architecture"):
        transfer(make_policy(use_wsa=False), state)


@pytest.mark.parametrize("learned", [False, True])
def test_gates_and_temperature_are_not_transferred(learned):
    """Trained to the middle of its own ramp and schedule; the other one has a later ramp."""
    ramp = {"enters_at": 10, "ramp_steps": 100}
    schedule = {"attention_temperature": {"start": 2.0, "end": 0.5, "steps": 100}}
    temperature = {"learn_temperature": True, "attention_temperature": 2.0} if learned else schedule
    trained = policy_with(ptms=(*SMALL_PTMS, {**THREE[2], **ramp}), **temperature)
    trained.begin_iteration(60)
    trained.actor.extractor.set_gate("graph_cnn", 0.5)
    if learned:
        trained.actor.extractor.fusion.temperature = 1.0
    later = (*SMALL_PTMS, {**THREE[2], "enters_at": 20, "ramp_steps": 100})
    policy = policy_with(ptms=later, **temperature)
    transfer(policy, trained.state_dict())
    assert policy.actor.extractor.gates.tolist() == [1.0, 1.0, 0.0]
    assert policy.actor.extractor.fusion.temperature == pytest.approx(1.0 if learned else 2.0)
    fixed = policy_with(attention_temperature=0.7)
    transfer(fixed, trained.state_dict())
    assert fixed.actor.extractor.gates.tolist() == [1.0, 1.0, 1.0]
    assert fixed.actor.extractor.fusion.temperature == pytest.approx(0.7)


def test_bounds_of_spawn_parameters_are_not_transferred():
    trained, policy = policy_with(), policy_with()
    trained.high += 1.0
    own = policy.high.clone()
    transfer(policy, trained.state_dict())
    assert torch.equal(policy.high, own)
    assert not torch.equal(trained.high, own)


@pytest.mark.parametrize("fusion", sorted(RULES))
@pytest.mark.parametrize("integration", ["full", "features"])
@torch.no_grad()
def test_every_rule_fits_both_actors(fusion, integration):
    policy = policy_with(fusion=fusion, integration=integration)
    observation = make_observation(COUNTS, 9)
    distribution = policy(observation, policy.precompute(observation))[0]
    assert distribution.attention.shape == (14, 3)
    width = 96 if fusion == "concat" else 32
    assert policy.actor.heads.action_mlp[0].in_features == 32 + width
    assert policy.actor.extractor.representation_dim == width


@torch.no_grad()
def test_shuffling_changes_what_nodes_do_and_needs_pictures_per_colony():
    policy, observation = policy_with(), make_observation(COUNTS, 9)
    before = policy(observation)[0].kind_probs
    with policy.actor.extractor.intervene("shuffled"):
        assert float((policy(observation)[0].kind_probs - before).abs().max()) > 1e-3
    per_node = policy_with("node")
    with (
        per_node.actor.extractor.intervene("shuffled"),
        pytest.raises(UserError, match="pictures per colony"),
    ):
        per_node(observation)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"backbone": "noise", "image": {"source": "tokens"}},
            "noise needs `image.source: field`, because pictures of tokens change with every update",
        ),
        ({"backbone": {"model_type": "graph_cnn", "enters_at": 3}}, "no PTM is open at step 0"),
        ({"backbone": {"model_type": "graph_cnn", "ramp_steps": 3}}, "nothing to ramp against; remove"),
        ({"cache_budget_mb": 0}, "cache_budget_mb"),
        (
            {"wsa_num_ptms": 1, "wsa_config": {"ptms": [{**THREE[2], "enters_at": 9}, SMALL_PTMS[0]]}},
            "no PTM is open at step 0",
        ),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticConfig.model_validate(values)
