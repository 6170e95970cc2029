"""Pre-trained models inside Stable-Baselines3: layouts, and weights that survive all that SB3 does to them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from integration_cases import TINY
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import calibrate
from durotaxis.fusion.backbones import Backbone
from durotaxis.integrations import (
    ColonyVecEnv,
    FollowSchedules,
    PictureFusion,
    WSAFeaturesExtractor,
    calibrate_on,
    wsa_policy_kwargs,
)
from durotaxis.integrations.picture_fusion import three_channels

PTMS = [
    {"model_type": "resnet18_random", "tap": "layer1"},
    {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
]
SIZES = {"features_dim": 16, "context_dim": 8, "ptms": PTMS}


class Dots(gym.Env):
    """A bright dot left or right; naming its side is worth 1."""

    def __init__(self, layout="last", channels=4, dtype=np.uint8):
        self.channels, self.layout, self.dtype = channels, layout, dtype
        shape = (16, 20, channels) if layout == "last" else (channels, 16, 20)
        self.observation_space = spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)
        self.action_space = spaces.Discrete(2)

    def _look(self):
        self.side = int(self.np_random.integers(2))
        picture = self.np_random.random((16, 20, self.channels)) * 0.2
        picture[4:12, 10 * self.side : 10 * self.side + 10] += 0.7
        picture = picture if self.layout == "last" else picture.transpose(2, 0, 1)
        return (picture * 255).astype(np.uint8) if self.dtype == np.uint8 else picture.astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._look(), {}

    def step(self, action):
        self.count += 1
        reward = float(action == self.side)
        return self._look(), reward, False, self.count >= 8, {}


def ppo(env, **kwargs):
    return PPO(
        "CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=2, seed=0, device="cpu", policy_kwargs=kwargs
    )


def frozen(model):
    return model.policy.features_extractor.fusion.extractor.frozen_hash()


def backbones(model):
    ptms = model.policy.features_extractor.fusion.extractor.ptms
    return [value.clone() for ptm in ptms for value in ptm.backbone.state_dict().values()]


@pytest.fixture(scope="module")
def trained():
    model = ppo(Dots(), **wsa_policy_kwargs(**SIZES))
    assert calibrate_on(model, num_images=512) == ["resnet18_random"]
    before, weights = frozen(model), backbones(model)
    model.learn(32)
    return model, before, weights


def test_pre_trained_weights_survive_ppo_to_the_bit(trained):
    model, before, weights = trained
    assert frozen(model) == before
    after = backbones(model)
    changed = [not torch.equal(one, two) for one, two in zip(weights, after, strict=True)]
    num_frozen = len(model.policy.features_extractor.fusion.extractor.ptms[0].backbone.state_dict())
    assert not any(changed[:num_frozen])
    assert all(changed[num_frozen:]), "the trainable model did not learn"
    scorer = model.policy.features_extractor.fusion.extractor.fusion.output_layer.weight
    assert scorer.grad is not None
    assert scorer.grad.abs().sum() > 0


def test_without_the_guards_the_same_training_changes_them(monkeypatch):
    """The proof that the hash sees what SB3 does: batch statistics, and orthogonal initialisation."""
    monkeypatch.setattr(Backbone, "train", nn.Module.train)
    model = ppo(Dots(), **wsa_policy_kwargs(**SIZES))
    calibrate_on(model)
    before = frozen(model)
    model.learn(16)
    assert frozen(model) != before

    def unguarded(module, fn):
        return nn.Module.apply(module.to(memory_format=torch.contiguous_format), fn)

    monkeypatch.setattr(WSAFeaturesExtractor, "apply", unguarded)
    options = {**wsa_policy_kwargs(**SIZES), "ortho_init": True}
    assert frozen(ppo(Dots(), **options)) != frozen(ppo(Dots(), **{**options, "ortho_init": False}))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_orthogonal_initialisation_is_refused(algorithm, shared):
    options = {**wsa_policy_kwargs(**SIZES), "ortho_init": True, "share_features_extractor": shared}
    with pytest.raises(UserError, match="would overwrite the weights of pre-trained models; pass policy_kw"):
        algorithm("CnnPolicy", Dots(), policy_kwargs=options, device="cpu")


def test_what_was_overwritten_is_restored_and_harmless_functions_pass():
    extractor = WSAFeaturesExtractor(Dots().observation_space, **SIZES)
    before = extractor.fusion.extractor.frozen_hash()
    with pytest.raises(UserError):
        extractor.apply(lambda part: nn.init.ones_(part.weight) if isinstance(part, nn.Conv2d) else None)
    assert extractor.fusion.extractor.frozen_hash() == before
    seen = []
    assert extractor.apply(lambda part: seen.append(part)) is extractor
    assert extractor in seen


def test_saved_models_come_back_calibrated(trained, tmp_path):
    model, before, _ = trained
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    assert frozen(loaded) == before
    assert calibrate_on(loaded) == []
    observation = Dots().reset(seed=3)[0]
    assert (
        loaded.predict(observation, deterministic=True)[0]
        == model.predict(observation, deterministic=True)[0]
    )


def test_other_algorithms_and_no_calibration_where_none_is_needed():
    options = wsa_policy_kwargs(**{**SIZES, "ptms": PTMS[1:]})
    del options["ortho_init"]
    model = DQN("CnnPolicy", Dots(), policy_kwargs=options, buffer_size=64, learning_starts=8, device="cpu")
    assert calibrate_on(model) == []
    model.learn(16)


def test_uncalibrated_models_are_refused_before_they_are_used():
    extractor = WSAFeaturesExtractor(Dots().observation_space, **SIZES)
    with pytest.raises(UserError, match="resnet18_random: frozen random models need the statistics"):
        extractor(torch.zeros(1, 16, 20, 4))


def test_a_model_added_later_is_refused_until_it_is_calibrated():
    module = graph_cnn_fusion((3, 16, 20))
    image = torch.rand(512, 3, 16, 20)
    module(image[:2])
    module.extractor.add_ptm(PTMS[0])
    with pytest.raises(UserError, match="resnet18_random: frozen random models need the statistics"):
        module(image[:2])
    calibrate(module.extractor, module.pictures(image))
    assert module(image[:2])[1].shape == (2, 3)


def test_representations_side_by_side_are_as_wide_as_sb3_is_told():
    env = ColonyVecEnv(2, config={**TINY, "observation": {"field": True}}, seed=0)
    options = {**SIZES, "ptms": PTMS[1:] * 3, "fusion": "concat"}
    plain = PPO(
        "CnnPolicy", Dots(), policy_kwargs=wsa_policy_kwargs(**options), n_steps=8, device="cpu", batch_size=8
    )
    assert plain.policy.features_dim == 3 * 16
    plain.learn(8)
    kwargs = wsa_policy_kwargs(**options, image_key="field", context_key="graph")
    model = PPO("MultiInputPolicy", env, policy_kwargs=kwargs, n_steps=4, device="cpu", batch_size=8)
    assert model.policy.features_dim == 3 * 16 + 16
    model.learn(8)


SCHEDULED = {
    **SIZES,
    "ptms": [PTMS[1], {**PTMS[1], "enters_at": 16, "ramp_steps": 32}],
    "temperature": {"start": 2.0, "end": 0.5, "steps": 32},
}


def test_gates_and_temperature_follow_the_steps_of_sb3():
    model = ppo(Dots(), **wsa_policy_kwargs(**SCHEDULED))
    extractor = model.policy.features_extractor.fusion.extractor
    assert extractor.gates.tolist() == [1, 0]
    model.learn(48, callback=FollowSchedules())  # the last rollout began at step 32
    torch.testing.assert_close(extractor.gates, torch.tensor([1, 1e-3**0.5]))
    assert extractor.fusion.temperature == pytest.approx(0.5)


def test_a_model_that_thaws_learns_from_then_on():
    ptms = [PTMS[1], {**PTMS[1], "freeze": True, "unfreeze_at": 32}]
    model = ppo(Dots(), **wsa_policy_kwargs(**{**SIZES, "ptms": ptms}))
    backbone = model.policy.features_extractor.fusion.extractor.ptms[1].backbone
    moved = []
    for _ in range(3):  # rollouts that begin at steps 0, 16 and 32
        before = [p.clone() for p in backbone.parameters()]
        model.learn(16, callback=FollowSchedules(), reset_num_timesteps=False)
        moved.append(
            any(not torch.equal(p, old) for p, old in zip(backbone.parameters(), before, strict=True))
        )
    assert moved == [False, False, True]


def test_target_networks_follow_too():
    options = wsa_policy_kwargs(**SCHEDULED)
    del options["ortho_init"]
    model = DQN("CnnPolicy", Dots(), policy_kwargs=options, buffer_size=64, learning_starts=8, device="cpu")
    model.learn(56, callback=FollowSchedules())
    for network in (model.q_net, model.q_net_target):
        assert network.features_extractor.fusion.extractor.gates.tolist() == [1, 1]


def test_schedules_that_nobody_follows_are_refused_in_training():
    with pytest.raises(UserError, match=r"nobody follows them; .* callback=FollowSchedules\(\)"):
        ppo(Dots(), **wsa_policy_kwargs(**SCHEDULED)).learn(16)
    for change in ({"ptms": SCHEDULED["ptms"]}, {"temperature": SCHEDULED["temperature"]}):
        module = PictureFusion((3, 16, 20), **{"ptms": PTMS[1:], **change})
        image = torch.rand(1, 3, 16, 20)
        with pytest.raises(UserError, match="nobody follows them"):
            module(image)
        with torch.no_grad():
            module(image)
        module.eval()(image)
        module.train().follow_schedules(0)
        module(image)


def first_pictures(seed, calibration=None):
    """What a model sees first in `learn`, calibrated before."""
    options = {**SIZES, "ptms": PTMS if calibration else PTMS[1:]}
    model = PPO(
        "CnnPolicy",
        Dots(),
        n_steps=2,
        batch_size=2,
        n_epochs=1,
        seed=seed,
        device="cpu",
        policy_kwargs=wsa_policy_kwargs(**options),
    )
    if calibration:
        assert calibrate_on(model, **calibration) == ["resnet18_random"]
    model.learn(2)
    return model.rollout_buffer.observations.copy()


def test_calibration_leaves_each_seed_its_own_environments():
    one, two = first_pictures(1, {"seed": 5}), first_pictures(2, {"seed": None})
    assert np.array_equal(one, first_pictures(1))
    assert np.array_equal(two, first_pictures(2))
    assert not np.array_equal(one, two)


def test_calibration_with_a_seed_fixes_nothing_of_a_model_without_one():
    assert not np.array_equal(first_pictures(None, {"seed": 5}), first_pictures(None, {"seed": 5}))


def test_random_play_moves_no_statistics_of_rewards():
    env = VecNormalize(DummyVecEnv([Dots]), norm_obs=False)
    model = ppo(env, **wsa_policy_kwargs(**SIZES))
    count = env.ret_rms.count
    calibrate_on(model)
    assert env.ret_rms.count == count
    assert env.training


@pytest.mark.parametrize(
    ("low", "high", "dtype", "fits"),
    [
        (0, 255, np.uint8, True),
        (0, 1, np.float32, True),
        (0, np.inf, np.float32, True),
        (0, 1, np.uint8, True),
        (0, 255, np.float32, False),
        (0, 200, np.uint8, False),
        (-1, 1, np.float32, False),
    ],
)
def test_the_space_says_on_which_scale_pictures_are(low, high, dtype, fits):
    space = spaces.Box(low, high, (3, 16, 20), dtype)
    options = {**SIZES, "ptms": PTMS[1:]}
    if fits:
        WSAFeaturesExtractor(space, **options)
    else:
        with pytest.raises(
            UserError, match=f"from {low} to {high} would reach the models on that scale; make"
        ):
            WSAFeaturesExtractor(space, **options)


def test_a_black_first_picture_hides_no_wrong_scale():
    module = graph_cnn_fusion((3, 16, 20))
    module(torch.zeros(2, 3, 16, 20))
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
        module(255 * torch.rand(2, 3, 16, 20))


def graph_cnn_fusion(shape, **options):
    torch.manual_seed(0)
    return PictureFusion(shape, embedding_dim=8, context_dim=4, ptms=PTMS[1:] * 2, **options)


def test_layouts_and_dtypes_are_the_same_picture():
    first = graph_cnn_fusion((4, 16, 20))
    last = graph_cnn_fusion((16, 20, 4))
    image = torch.randint(0, 256, (2, 4, 16, 20), dtype=torch.uint8)
    expected = first(image)
    for module, value in ((first, image / 255), (last, image.permute(0, 2, 3, 1))):
        torch.testing.assert_close(module(value), expected)
    sequence = first(image.view(1, 2, 4, 16, 20))
    assert sequence[0].shape == (1, 2, 8)
    torch.testing.assert_close(sequence[1][0], expected[1])


def test_models_see_three_channels_and_the_context_all():
    stack = torch.arange(5.0).view(1, 5, 1, 1)
    seen = {count: three_channels(stack[:, :count]).flatten().tolist() for count in range(1, 6)}
    assert seen == {1: [0, 0, 0], 2: [0, 1, 1], 3: [0, 1, 2], 4: [1, 2, 3], 5: [2, 3, 4]}
    module = graph_cnn_fusion((4, 16, 20))
    image = torch.rand(1, 4, 16, 20)
    older = image.clone()
    older[:, 0] = 0
    assert torch.equal(module.pictures(image), module.pictures(older))
    assert not torch.equal(module.picture_context(image), module.picture_context(older))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph_cnn_fusion((16, 20)), r"a picture has shape \[C, H, W\] or \[H, W, C\], not \[16, 20\]"),
        (lambda: graph_cnn_fusion((3, 9, 3)), "say where the channels are"),
        (lambda: graph_cnn_fusion((3, 9, 9), channels="middle"), "channels is 'middle'"),
        (lambda: graph_cnn_fusion((3, 9, 9), readout="sampled"), "readout 'sampled': pictures have no points"),
        (lambda: PictureFusion((3, 9, 9), ptms=[{"model_type": "graph_gnn"}]), "graph_gnn: reads graphs, but there are only"),
        (lambda: graph_cnn_fusion((3, 9, 9), foo=1), "unknown option 'foo'; .* take temperature, num_heads, .*match_parameters$"),
        (lambda: ppo(Dots(), **wsa_policy_kwargs(**SIZES, model_dropout=0.5)), "unknown option 'model_dropout'"),
        (lambda: graph_cnn_fusion((3, 9, 9), context_input_dim=3), "unknown option 'context_input_dim'"),
        (lambda: graph_cnn_fusion((3, 9, 9))(torch.zeros(1, 9, 9, 3)), r"shape \[1, 9, 9, 3\]; \[B, 3, 9, 9\]"),
        (lambda: graph_cnn_fusion((3, 9, 9))(torch.full((1, 3, 9, 9), 255.0)), r"must lie in \[0, 1\], not 255"),
        (lambda: graph_cnn_fusion((3, 9, 9))(torch.zeros(1, 3, 9, 9), torch.zeros(1, 2)), "context of pictures is given"),
        (lambda: graph_cnn_fusion((3, 9, 9), context_width=2)(torch.zeros(1, 3, 9, 9)), "context of pictures is missing"),
        (lambda: WSAFeaturesExtractor(spaces.Discrete(3), **SIZES), "must be a Box, not Discrete"),
        (lambda: WSAFeaturesExtractor(spaces.Dict(a=spaces.Discrete(3)), **SIZES), "image_key is needed for a Dict observation; its keys are a"),
        (lambda: WSAFeaturesExtractor(spaces.Dict(a=spaces.Discrete(3)), image_key="b", **SIZES), "has no 'b'; its keys are a"),
        (lambda: WSAFeaturesExtractor(Dots().observation_space, image_key="b", **SIZES), "the observation is no Dict"),
    ],
)  # fmt: skip
def test_wrong_pictures_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_colony_with_field_and_context():
    """DurotaxisGlobal: the field is the picture, the graph features condition attention and are appended."""
    env = ColonyVecEnv(64, config={**TINY, "observation": {"field": True}}, seed=0)
    options = wsa_policy_kwargs(**SIZES, image_key="field", context_key="graph")
    model = PPO(
        "MultiInputPolicy",
        env,
        n_steps=1,
        batch_size=32,
        n_epochs=1,
        policy_kwargs=options,
        seed=0,
        device="cpu",
    )
    assert calibrate_on(model) == ["resnet18_random"]
    before = frozen(model)
    model.learn(64)
    assert frozen(model) == before
    assert model.policy.features_dim == 16 + 16
    extractor = model.policy.features_extractor
    seen = {name: torch.as_tensor(value) for name, value in env.reset().items()}
    features = extractor(seen)
    assert torch.equal(features[:, 16:], seen["graph"])
    attention = extractor.attention(seen)
    assert attention.shape == (64, 2)
    torch.testing.assert_close(attention.sum(1), torch.ones(64))
    other = {**seen, "graph": seen["graph"] + 1}
    assert not torch.equal(extractor.attention(other), attention)
