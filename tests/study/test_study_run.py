"""From a configuration to a policy: seeds, calibration, devices, where files are found."""

import importlib.metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from durotaxis.core.config import KeyedError, load_config
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.study import calibrate as calibration
from durotaxis.study import doctor
from durotaxis.study.calibrate import calibrate_policy, make_images, random_observations
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.run import build_policy, prepare, select_device

CPU = torch.device("cpu")
SMALL = [
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.ptms=[{model_type: resnet18_random, tap: layer1}, {model_type: graph_cnn, freeze: false, tap: block1}]",
]


def small(*overrides: str) -> RootConfig:
    return load_config(find_config("quick"), RootConfig, [*SMALL, *overrides])


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_weights_are_a_function_of_the_seed_alone():
    before = torch.random.get_rng_state()
    first = build_policy(small(), CPU)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(7)
    assert torch.equal(weights(first), weights(build_policy(small(), CPU)))
    assert not torch.equal(weights(first.encoder), weights(build_policy(small("run.seed=1"), CPU).encoder))


def test_both_arms_start_from_the_same_encoder_and_critic():
    wsa, plain = build_policy(small(), CPU), build_policy(small("actor_critic.use_wsa=false"), CPU)
    assert torch.equal(weights(wsa.encoder), weights(plain.encoder))
    assert torch.equal(weights(wsa.critic), weights(plain.critic))


@pytest.fixture(scope="module")
def observations():
    return random_observations(small().env, 0, CPU)


def test_calibration_images_come_from_a_seeded_random_rollout(observations, monkeypatch):
    fields = torch.cat([o.field for o in observations])
    assert len(fields) >= 512
    assert len(fields.flatten(1).unique(dim=0)) > 450
    monkeypatch.setattr(calibration, "NUM_STEPS", 8)
    (_, again), (_, other) = (random_observations(small().env, seed, CPU) for seed in (0, 1))
    assert torch.equal(observations[1].field, again.field)
    assert not torch.equal(observations[1].field, other.field)


def test_calibration_sets_frozen_random_statistics_once(monkeypatch, observations):
    monkeypatch.setattr(calibration, "random_observations", lambda *_: observations)
    config = small()
    policy = build_policy(config, CPU)
    assert calibrate_policy(policy, config.env, 0) == ["resnet18_random"]
    ptm = policy.actor.extractor.ptms[0]
    images = torch.cat([make_images(policy, o) for o in observations])
    with torch.no_grad():
        first = ptm.backbone.bn1(ptm.backbone.conv1(ptm.prepare(images)))
    assert first.mean((0, 2, 3)).abs().max() < 0.02
    assert (first.var((0, 2, 3)) - 1).abs().max() < 0.05
    statistics = policy.frozen_hash()
    assert calibrate_policy(policy, config.env, 1) == []
    assert policy.frozen_hash() == statistics


def test_calibration_sees_the_pictures_painted_from_tokens(monkeypatch, observations):
    monkeypatch.setattr(calibration, "random_observations", lambda *_: observations)
    config = small("actor_critic.image.source=tokens")
    policy = build_policy(config, CPU)
    images = make_images(policy, observations[0])
    assert images.shape == (32, 3, 24, 24)
    assert not torch.equal(images, observations[0].field)
    assert calibrate_policy(policy, config.env, 0) == ["resnet18_random"]
    config = small("actor_critic.image={source: tokens, scope: node, readout: pooled}")
    images = make_images(build_policy(config, CPU), observations[0])
    assert len(images) == int(observations[0].node_mask.sum())


def test_the_field_is_observed_where_the_image_needs_it():
    assert RootConfig().env.observation.field
    tokens = {"image": {"source": "tokens"}}
    assert not RootConfig(actor_critic=tokens).env.observation.field
    assert RootConfig(env={"scenario": "moat"}).env.observation.field
    with pytest.raises(ValueError, match="must be true while") as caught:
        RootConfig(env=EnvConfig())
    assert isinstance(caught.value.errors()[0]["ctx"]["error"], KeyedError)


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ("enters_at: 33", "1.enters_at: late would never enter: the last rollout begins at step 32;"),
        ("enters_at: 100", "1.enters_at: late would never enter"),
        ("ramp_steps: 16", "1.ramp_steps: late would enter in full .* one takes 16 steps;"),
        ("enters_at: 32, ramp_steps: 17", None),
    ],
)
def test_newcomers_that_never_enter_or_ramp_within_a_rollout_are_refused(late, message):
    overrides = [
        "ppo.num_colonies=4",
        "ppo.rollout_steps=4",
        "training.total_steps=40",  # three rollouts
        f"actor_critic.wsa_config.ptms=[{{model_type: graph_cnn}}, {{model_type: graph_cnn, name: late, {late}}}]",
    ]
    small(*overrides, "actor_critic.use_wsa=false")
    if message is None:
        assert small(*overrides).actor_critic.use_wsa
    else:
        with pytest.raises(UserError, match=f"actor_critic.wsa_config.ptms.{message}"):
            small(*overrides)


def test_shipped_configurations_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("quick").name == "quick.yaml"
    Path("quick").write_text("run: {seed: 4}")
    assert find_config("quick") == Path("quick")
    with pytest.raises(UserError, match="no such file \\(did you mean 'baseline'"):
        find_config("configs/baselin.yaml")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("ptm:resnet18_random", "ptm:resnet18_random is frozen and does not learn"),
        (
            "ptm:graph",
            r"no part ptm:graph \(did you mean 'ptm:graph_cnn'\?\); this policy has ptm:graph_cnn, ",
        ),
    ],
)
def test_a_learning_rate_of_a_wrong_part_is_found_before_the_run_directory_is_made(tmp_path, part, message):
    factors = f"ppo.learning_rate_factors={{'{part}': 0.1}}"
    with pytest.raises(UserError, match=message):
        prepare("quick", [*SMALL, factors, f"run.directory={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_threads_and_device():
    before = torch.get_num_threads()
    try:
        assert select_device(small("run.threads=2", "run.device=cpu")) == CPU
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match=r"use run\.device=cpu"):
        select_device(small("run.device=cuda:63"))


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch):
    def version(name: str) -> str:
        if name in ("scipy", "torchrl"):
            raise importlib.metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "at_hand", lambda name: None)
    found = {finding.name: finding for finding in doctor.examine()}
    assert (found["scipy"].is_good, found["scipy"].advice) == (False, "pip install scipy")
    assert (found["torchrl"].is_good, found["torchrl"].advice) == (
        True,
        "pip install 'durotaxis[torchrl]', if wanted",
    )
    assert not found["resnet18_imagenet"].is_good
    assert "timm/resnet18.tv_in1k" in found["resnet18_imagenet"].advice
    assert found["graph_cnn"].is_good
    assert "cores" in found["cpu"].state
    assert "pytest" not in found
