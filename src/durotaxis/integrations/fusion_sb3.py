"""Stable-Baselines3: several pre-trained models as the features extractor of any of its policies.

Needs the extra: `pip install "durotaxis[sb3]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import MIN_CALIBRATION_IMAGES, PTM, PTMConfig, calibrate
from durotaxis.integrations.picture_fusion import SLACK, PictureFusion

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
except ModuleNotFoundError as error:
    raise UserError(
        f'Stable-Baselines3 is not installed (no module {error.name}): pip install "durotaxis[sb3]"'
    ) from None

Observations = Any
"""Of SB3: a tensor, or a dict of tensors, already preprocessed (uint8 pictures divided by 255)."""
_EVERY = 4  # neighbouring steps look alike


@final
class WSAFeaturesExtractor(BaseFeaturesExtractor):
    """Pictures to the fused representation of several pre-trained models.

    Of a Box the observation is the picture. Of a Dict, `image_key` names the picture, and `context_key`, if
    given, a vector that conditions attention and is appended to the representation; other keys are not read.
    Without one, attention is conditioned by a small trained network on the picture (`PictureContext`).
    Layouts and frame stacks: see `PictureFusion`.

    SB3's own orthogonal initialisation would overwrite the models: it is undone and refused (see
    `wsa_policy_kwargs`). Its switches between train and eval mode change nothing. Schedules need
    `FollowSchedules`.

    Args:
        observation_space: a Box of pictures (uint8, or floats in [0,1]), or a Dict with one.
        features_dim: width D of embeddings, and of the representation unless `fusion` is `concat` (K·D).
        image_key, context_key: keys of a Dict.
        channels: `first` or `last`; None: the smaller end of the shape.
        context_dim, ptms, options: of `MultiPTMFeatureExtractor`.

    Raises:
        UserError: a space without such parts or with pictures on another scale, and what `PictureFusion`
            refuses.

    Attributes:
        fusion: the `PictureFusion`; `fusion.extractor` holds the models.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        features_dim: int = 256,
        *,
        image_key: str | None = None,
        context_key: str | None = None,
        channels: str | None = None,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        box = _part(observation_space, image_key, "image_key")
        _check_scale(box)
        context = None if context_key is None else _part(observation_space, context_key, "context_key")
        width = None if context is None else int(np.prod(context.shape))
        super().__init__(observation_space, features_dim)
        self.image_key = image_key
        self.context_key = context_key
        self.fusion = PictureFusion(
            box.shape,
            channels=channels,
            context_width=width,
            embedding_dim=features_dim,
            context_dim=context_dim,
            ptms=ptms,
            **options,
        )
        self._features_dim = self.fusion.extractor.representation_dim + (width or 0)

    def forward(self, observations: Observations) -> Tensor:
        """Features [B, features_dim]: the representation, followed by the context if there is one."""
        context = self._context(observations)
        representation = self.fusion(self._image(observations), context)[0]
        return representation if context is None else torch.cat([representation, context], 1)

    @torch.no_grad()
    def attention(self, observations: Observations) -> Tensor:
        """Weights over the models, [B,K], in the order of `fusion.extractor.names`."""
        return self.fusion(self._image(observations), self._context(observations))[1]

    def pictures(self, observations: Observations) -> Tensor:
        """What the models see, [B,3,H,W]."""
        return self.fusion.pictures(self._image(observations))

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """As of nn.Module, but the models' weights must come out as they went in.

        Raises UserError, with the weights restored, where `fn` changed them (SB3's `ortho_init`).
        """
        backbones = nn.ModuleList(ptm.backbone for ptm in self.fusion.extractor.ptms if isinstance(ptm, PTM))
        before = {name: value.clone() for name, value in backbones.state_dict().items()}
        # torch's orthogonal initialisation takes no weights that lie channels last in memory.
        _lay_out(backbones, torch.contiguous_format)
        super().apply(fn)
        changed = any(not torch.equal(value, before[name]) for name, value in backbones.state_dict().items())
        backbones.load_state_dict(before)
        _lay_out(backbones, torch.channels_last)
        if changed:
            raise UserError(
                "this initialisation would overwrite the weights of pre-trained models; pass "
                "policy_kwargs=wsa_policy_kwargs(...), or {'ortho_init': False} in your own"
            )
        return self

    def _image(self, observations: Observations) -> Tensor:
        return observations if self.image_key is None else observations[self.image_key]

    def _context(self, observations: Observations) -> Tensor | None:
        return None if self.context_key is None else observations[self.context_key].flatten(1)


def wsa_policy_kwargs(features_dim: int = 256, **options: Any) -> dict[str, Any]:
    """`policy_kwargs` of PPO and A2C: this extractor, and no orthogonal initialisation over its models.

    Policies without `ortho_init` (DQN, SAC, TD3) take the first two entries.

    Args:
        features_dim, options: of `WSAFeaturesExtractor`.
    """
    return {
        "features_extractor_class": WSAFeaturesExtractor,
        "features_extractor_kwargs": {"features_dim": features_dim, **options},
        "ortho_init": False,
    }


@final
class FollowSchedules(BaseCallback):
    """Lets `WSAFeaturesExtractor` follow the steps: `learn(n, callback=this)`.

    Gates, temperature and which models learn (`unfreeze_at`) change at the beginning of rollouts only, so
    rollout and update see the same function. Steps are environment steps over all environments, SB3's
    `num_timesteps`. A model that thaws learns because SB3's optimizers hold all parameters of a policy from
    the start; one that you make yourself must do so too.
    """

    def _on_rollout_start(self) -> None:
        for part in _extractors(self.model):
            part.fusion.follow_schedules(self.model.num_timesteps)

    def _on_step(self) -> bool:
        return True


@torch.no_grad()
def calibrate_on(
    model: BaseAlgorithm, seed: int | None = None, num_images: int = MIN_CALIBRATION_IMAGES
) -> list[str]:
    """Set the BatchNorm statistics of frozen random models from random actions in the model's environment.

    Call it between making the model and `learn`; a picture is taken at every fourth step. Models that need
    no statistics are left alone; a loaded model has them already.

    Afterwards `learn` begins with a reset, and environments have the model's own seed again (random ones if
    it has none and `seed` was given). The statistics of a `VecNormalize` do not move.

    Args:
        seed: of the environments and of the actions while calibrating; None: the model's own, if it has one.

    Returns:
        Names of the models that were set.

    Raises:
        UserError: the model has no environment, or `num_images` are too few.
    """
    extractors = _extractors(model)
    if not any(part.fusion.extractor.needs_calibration() for part in extractors):
        return []
    env = model.get_env()
    if env is None:
        raise UserError("the model has no environment to calibrate in; call model.set_env(env) first")
    played = model.seed if seed is None else seed
    if played is not None:
        _seed(env, played)
    with _statistics_kept(env):
        seen = _random_play(model, env, num_images)
    if played is not None:
        _seed(env, model.seed)
    model.set_env(env)  # forgets the last observation, so that `learn` resets
    names: list[str] = []
    for part in extractors:
        pictures = torch.cat([part.pictures(one) for one in seen])
        names += calibrate(part.fusion.extractor, pictures)
    return list(dict.fromkeys(names))


def _extractors(model: BaseAlgorithm) -> list[WSAFeaturesExtractor]:
    return [part for part in model.policy.modules() if isinstance(part, WSAFeaturesExtractor)]


def _seed(env: VecEnv, seed: int | None) -> None:
    env.seed(seed)
    env.action_space.seed(seed)


@contextmanager
def _statistics_kept(env: VecEnv) -> Iterator[None]:
    """A VecNormalize among the wrappers learns nothing within the block."""
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        yield
        return
    before, normalizer.training = normalizer.training, False
    try:
        yield
    finally:
        normalizer.training = before


def _random_play(model: BaseAlgorithm, env: VecEnv, num_images: int) -> list[Observations]:
    """Observations of every fourth step, as the policy would see them."""
    observations: Any = env.reset()
    seen = []
    for step in range(-(-num_images // env.num_envs) * _EVERY):
        if step % _EVERY == 0:
            tensors, _ = model.policy.obs_to_tensor(observations)
            seen.append(
                preprocess_obs(
                    tensors, model.policy.observation_space, normalize_images=model.policy.normalize_images
                )
            )
        observations = env.step(np.stack([env.action_space.sample() for _ in range(env.num_envs)]))[0]
    return seen


def _check_scale(box: spaces.Box) -> None:
    """Raises UserError for pictures whose bounds say that they leave [0, 1] when SB3 hands them over."""
    if is_image_space(box):  # which SB3 divides by 255
        return
    low, high = float(np.min(box.low)), float(np.max(box.high))
    if -np.inf < low < -SLACK or 1 + SLACK < high < np.inf:
        raise UserError(
            f"pictures of {box.dtype} from {low:g} to {high:g} would reach the models on that scale; make "
            "the observation uint8 from 0 to 255, which SB3 divides by 255, or floats in [0, 1] (and do not "
            "let VecNormalize normalise pictures)"
        )


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def _part(space: spaces.Space, key: str | None, argument: str) -> spaces.Box:
    """The Box of a key, or the space itself."""
    if isinstance(space, spaces.Dict):
        known = ", ".join(space)
        if key is None:
            raise UserError(f"{argument} is needed for a Dict observation; its keys are {known}")
        if key not in space.spaces:
            raise UserError(f"{argument}: the observation has no '{key}'; its keys are {known}")
        space = space[key]
    elif key is not None:
        raise UserError(f"{argument} '{key}' is given, but the observation is no Dict")
    if not isinstance(space, spaces.Box):
        raise UserError(f"{argument}: the observation must be a Box, not {type(space).__name__}")
    return space
