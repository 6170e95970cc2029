import dataclasses
import math

import pytest
import torch
from agent_cases import IMAGES, SMALL_PTMS, crop, make_observation, make_policy, permute

from durotaxis.agent import (
    Actor,
    ActorCriticConfig,
    EncoderConfig,
    HybridActorCritic,
    PTMFeatures,
    WSAEnhancedActor,
)
from durotaxis.core.errors import UserError
from durotaxis.fusion import calibrate

every_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
COUNTS = [5, 0, 8, 1]
KEYS = torch.arange(4)


@torch.no_grad()
def outputs(policy, observation, cached=None):
    distribution, value = policy(observation, cached)
    return distribution.kind_probs, distribution.alpha, distribution.beta, value


@every_image
def test_a_colony_does_not_see_its_companions(image):
    policy, observation = make_policy(image=image), make_observation(COUNTS, 9)
    together = outputs(policy, observation)
    for b in range(len(COUNTS)):
        for whole, alone in zip(together, outputs(policy, observation[b : b + 1]), strict=True):
            torch.testing.assert_close(alone[0], whole[b], rtol=0, atol=1e-5)


@every_image
def test_node_order_does_not_matter(image):
    policy, observation = make_policy(image=image), make_observation([7, 7], 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    before, after = outputs(policy, observation), outputs(policy, permute(observation, order))
    for whole, moved in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(moved, whole[:, order], rtol=0, atol=1e-5)
    torch.testing.assert_close(after[3], before[3], rtol=0, atol=1e-5)
    assert float((before[0][:, 0] - before[0][:, 1]).abs().max()) > 1e-3


@every_image
def test_number_of_slots_does_not_matter(image):
    policy, observation = make_policy(image=image), make_observation(COUNTS, 12)
    cached, cropped = policy.precompute(observation), crop(observation, 8)
    for whole, part in zip(
        outputs(policy, observation, cached), outputs(policy, cropped, cached), strict=True
    ):
        torch.testing.assert_close(part, whole[:, :8] if whole.dim() == 3 else whole, rtol=0, atol=1e-6)
    whole, part = (policy(seen)[0].sample(KEYS) for seen in (observation, cropped))
    assert torch.equal(part.kind, whole.kind[:, :8])


@every_image
@pytest.mark.parametrize("use_wsa", [True, False])
@torch.no_grad()
def test_cached_equals_uncached(image, use_wsa):
    policy, observation = make_policy(use_wsa=use_wsa, image=image), make_observation(COUNTS, 9)
    cached = policy.precompute(observation)
    if image["source"] == "tokens":
        assert cached is None
        return
    assert cached is not None
    assert list(cached.features) == ["resnet18_random"]
    stacked = PTMFeatures.stack([cached, cached])[1]  # as a rollout keeps it
    direct, stored = (policy(observation, kept)[0] for kept in (None, stacked))
    sample = direct.sample(KEYS)
    torch.testing.assert_close(stored.log_prob(sample), direct.log_prob(sample), rtol=0, atol=1e-5)
    wrong = policy(observation, cached.map(lambda x: x + 1))[0]
    assert float((wrong.log_prob(sample) - direct.log_prob(sample)).abs().max()) > 1e-3


@every_image
@pytest.mark.parametrize("use_wsa", [True, False])
def test_parameter_groups_partition_what_is_trained(image, use_wsa):
    policy = make_policy(use_wsa=use_wsa, image=image)
    groups = policy.parameter_groups()
    expected = {"encoder", "actor", "critic"} | ({"ptm:graph_cnn"} if use_wsa else set())
    assert groups.keys() == expected
    listed = [id(parameter) for group in groups.values() for parameter in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in policy.parameters() if p.requires_grad}
    observation = make_observation(COUNTS, 9)
    distribution, value = policy(observation, policy.precompute(observation))
    loss = distribution.log_prob(distribution.sample(KEYS)).sum() + value.square().sum()
    (loss + sum(part.sum() for part in distribution.entropy())).backward()
    without = [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    for name, group in groups.items():
        assert any(bool((parameter.grad != 0).any()) for parameter in group), name


def test_unfreezing_by_hand_moves_a_model_to_a_group_of_its_own():
    policy = make_policy()
    before = policy.frozen_hash()
    policy.actor.feature_extractor.ptms[0].backbone.requires_grad_(True)
    assert "ptm:resnet18_random" in policy.parameter_groups()
    assert policy.precompute(make_observation([3], 3)) is None
    assert policy.frozen_hash() != before


def test_frozen_hash_sees_frozen_weights_alone():
    policy = make_policy()
    before = policy.frozen_hash()
    with torch.no_grad():
        policy.critic.value_head.bias.add_(1)
        policy.actor.feature_extractor.ptms[1].backbone.state_dict()  # trainable
        next(policy.actor.feature_extractor.ptms[1].backbone.parameters()).add_(1)
    assert policy.frozen_hash() == before
    with torch.no_grad():
        next(policy.actor.feature_extractor.ptms[0].backbone.parameters()).add_(1)
    assert policy.frozen_hash() != before


def test_values_depend_on_tokens_and_field():
    policy, observation = make_policy(), make_observation([3, 4], 4)
    value = policy(observation)[1]
    value.sum().backward()
    reached = policy.parameter_groups()
    assert all(parameter.grad is None for parameter in policy.actor.parameters())
    assert any(bool((parameter.grad != 0).any()) for parameter in reached["encoder"])
    dark = dataclasses.replace(
        observation, field=observation.field * torch.tensor([1.0, 0.0])[:, None, None, None]
    )
    change = (policy(dark)[1] - value).detach().abs()
    assert float(change[0]) == 0
    assert float(change[1]) > 1e-4
    blind = HybridActorCritic(policy.encoder, policy.config, observes_field=False)
    assert blind.critic.field_cnn is None
    with pytest.raises(UserError, match="the critic needs the field"):
        policy.critic(torch.randn(2, 32), None)


def test_actions_in_physical_units():
    policy, observation = make_policy(), make_observation([4], 5)
    sample = policy(observation)[0].sample(KEYS[:1])
    low, high = torch.tensor([1.0, 2.0, 0.0, -math.pi]), torch.tensor([10.0, 20.0, 0.5, math.pi])
    for fraction in (1e-6, 0.25, 1 - 1e-6):
        unit = torch.full_like(sample.unit, fraction)
        action = policy.to_action(dataclasses.replace(sample, unit=unit), observation)
        assert torch.equal(action.kind, sample.kind)
        assert action.parameters.dtype == torch.float32
        torch.testing.assert_close(action.parameters[0, 0], low + fraction * (high - low))
        assert bool((action.parameters >= low).all() and (action.parameters <= high).all())
    narrow = HybridActorCritic(
        policy.encoder, policy.config, spawn_bounds=((2.0, 2.0, 0.0, 0.0), (4.0, 3.0, 0.1, 1.0))
    )
    half = dataclasses.replace(sample, unit=torch.full_like(sample.unit, 0.5))
    expected = torch.tensor([3.0, 2.5, 0.05, 0.5])
    torch.testing.assert_close(narrow.to_action(half, observation).parameters[0, 0], expected)


def test_diagnostics():
    observation = make_observation(COUNTS, 9)
    report = make_policy().diagnostics(observation)["all"]
    assert report["ptm_names"] == ["resnet18_random", "graph_cnn"]
    assert sum(report["attention"]) == pytest.approx(1.0, abs=1e-5)
    assert report["attention_entropy"] == pytest.approx(math.log(2), abs=0.01)
    assert report["effective_models"] == pytest.approx(2.0, abs=0.02)
    assert make_policy(use_wsa=False).diagnostics(observation) == {}
    assert make_policy().diagnostics(make_observation([0], 3)) == {}


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
@torch.no_grad()
def test_diagnostics_of_a_group_are_those_of_its_colonies_alone(readout):
    observation = make_observation(COUNTS, 9)  # the second colony has no nodes
    policy = make_policy(image={"source": "field", "scope": "graph", "readout": readout})
    torch.nn.init.normal_(policy.actor.extractor.fusion.output_layer.weight)
    groups = {
        "some": torch.tensor([True, True, False, True]),
        "empty": torch.tensor([False, True, False, False]),
        "none": torch.zeros(4, dtype=torch.bool),
    }
    found = policy.diagnostics(observation, None, groups)
    assert set(found) == {"all", "some"}
    alone = policy.diagnostics(observation[groups["some"]])["all"]
    for name, value in alone.items():
        assert found["some"][name] == pytest.approx(value, abs=1e-5) if name != "ptm_names" else True
    assert found["some"]["attention"] != pytest.approx(found["all"]["attention"], abs=1e-4)
    assert all(1e-3 < spread < 2 for spread in found["all"]["embedding_spread"])
    policy.actor.extractor.ptms[0].projection.weight.zero_()
    policy.actor.extractor.ptms[0].projection.bias.normal_()
    constant, varies = policy.diagnostics(observation)["all"]["embedding_spread"]
    assert constant < 1e-5 < varies


def test_three_ways_in():
    full, features, off = (
        make_policy(),
        make_policy(
            wsa_config={"integration": "features", "embedding_dim": 32, "context_dim": 16, "ptms": SMALL_PTMS}
        ),
        make_policy(use_wsa=False),
    )
    assert isinstance(full.actor, WSAEnhancedActor)
    assert isinstance(features.actor, Actor)
    assert features.actor.has_attention
    assert isinstance(off.actor, Actor)
    assert not off.actor.has_attention
    for name, value in full.state_dict().items():
        if "extractor" not in name:
            assert torch.equal(value, off.state_dict()[name]), name


def test_a_constant_seed_gives_a_constant_policy():
    observation = make_observation(COUNTS, 9)
    for first, second in zip(
        outputs(make_policy(1), observation), outputs(make_policy(1), observation), strict=True
    ):
        assert torch.equal(first, second)


@torch.no_grad()
def test_all_colonies_empty():
    policy, observation = make_policy(), make_observation([0, 0], 4)
    distribution, value = policy(observation, policy.precompute(observation))
    assert torch.isfinite(value).all()
    assert float(distribution.log_prob(distribution.sample(KEYS[:2])).abs().sum().detach()) == 0


def test_reading_a_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "ppo: {unknown: here}\n"
        "encoder: {hidden_dim: 32, num_layers: 1, out_dim: 32, simplicial: off}\n"
        "actor_critic:\n"
        "  use_wsa_enhancement: true\n"
        "  hidden_dim: 16\n"
        "  wsa_config: {embedding_dim: 32, ptms: [{model_type: graph_cnn, freeze: false}]}\n"
    )
    policy = HybridActorCritic(config_path=path)
    assert policy.encoder.config.simplicial == "off"
    assert policy.hidden_dim == 16
    assert isinstance(policy.actor, WSAEnhancedActor)
    assert len(policy.notes) == 1
    off = HybridActorCritic(policy.encoder, str(path), use_wsa=False, backbone="graph_cnn", hidden_dim=8)
    assert isinstance(off.actor, Actor)
    assert off.hidden_dim == 8
    assert off.config.wsa_config.embedding_dim == 32
    merged = HybridActorCritic(policy.encoder, path, wsa_config={"context_dim": 7})
    assert merged.config.wsa_config.context_dim == 7
    assert merged.config.wsa_config.embedding_dim == 32


def test_bad_configs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"use_was"):
        HybridActorCritic(None, ActorCriticConfig(), use_was=True)
    with pytest.raises(UserError, match=r"actor_critic\.hidden_dim"):
        HybridActorCritic(None, ActorCriticConfig(), hidden_dim=0)
    with pytest.raises(UserError, match="YAML file"):
        HybridActorCritic(None, EncoderConfig())
    with pytest.raises(UserError, match=r"missing\.yaml"):
        HybridActorCritic(None, tmp_path / "missing.yaml")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_gpu_equals_cpu():
    policy, observation = make_policy(), make_observation(COUNTS, 9)
    distribution, value = policy(observation, policy.precompute(observation))
    policy, there = policy.to("cuda"), observation.to("cuda")
    distribution_there, value_there = policy(there, policy.precompute(there))
    torch.testing.assert_close(value_there.cpu(), value, rtol=0, atol=1e-4)
    sample = distribution.sample(KEYS)
    on_gpu = distribution_there.log_prob(sample.to("cuda")).cpu()
    torch.testing.assert_close(on_gpu, distribution.log_prob(sample), rtol=1e-3, atol=1e-3)
    drawn = distribution_there.sample(KEYS.to("cuda"))
    assert torch.equal(drawn.kind.cpu(), sample.kind)


def test_a_policy_is_ready_once_its_frozen_random_models_are_calibrated():
    policy = make_policy()
    with pytest.raises(UserError, match=r"^resnet18_random: .*durotaxis\.fusion\.calibrate") as caught:
        policy.require_ready()
    assert "\n" not in str(caught.value)
    calibrate(policy.actor.extractor, torch.rand(512, 3, 24, 24, generator=torch.Generator().manual_seed(0)))
    policy.require_ready()
    before = policy.frozen_hashes()
    assert set(before) == {"ptm:resnet18_random"}
    policy.actor.extractor.add_ptm({"model_type": "resnet18_random", "tap": "layer1", "ramp_steps": 64})
    with pytest.raises(UserError, match=r"^resnet18_random_2: "):
        policy.require_ready()
    after = policy.frozen_hashes()
    assert after == before | {"ptm:resnet18_random_2": after["ptm:resnet18_random_2"]}
    policy.actor.extractor.ptms[0].backbone.bn1.running_mean.add_(1.0)
    changed = policy.frozen_hashes()
    assert [part for part in after if changed[part] != after[part]] == ["ptm:resnet18_random"]
