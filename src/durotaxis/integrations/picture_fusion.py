"""Pictures as other libraries hold them (uint8, channels last, frame stacks), to fused representations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.core.schedule import Clock
from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, TemperatureSchedule
from durotaxis.fusion.config import validated
from durotaxis.integrations.batch import check_choice

PICTURE_CONTEXT_DIM = 64
"""Width of what `PictureContext` makes of a picture."""
SLACK = 0.01
"""Pictures may leave [0, 1] by rounding."""


@final
class PictureContext(nn.Module):
    """What the context is encoded from where there is no other state: a small trained look at the picture.

    Two 3x3 convolutions of stride 2 (16 and 32 channels, GELU), a mean over 3x3 parts, one Linear.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, 16, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(32 * 9, PICTURE_CONTEXT_DIM),
        )

    def forward(self, stack: Tensor) -> Tensor:
        """[B,C,H,W] to [B, PICTURE_CONTEXT_DIM]."""
        return self.layers(stack)


@final
class PictureFusion(nn.Module):
    """`MultiPTMFeatureExtractor` over pictures of any layout.

    Pre-trained models take three channels: of more, the last three are shown to them (of a stack of grey
    frames the three latest, of a stack of RGB frames the latest); of fewer, the last is repeated. The context
    encoder sees all channels.

    Schedules (`enters_at`, `ramp_steps`, `unfreeze_at`, a temperature's) move only when `follow_schedules` is
    called. For a model to learn once it thaws (`unfreeze_at`), the optimiser must hold all parameters from
    the start, not only those that need gradients then.

    Args:
        shape: of one picture, [C,H,W] or [H,W,C].
        channels: `first` or `last`; None takes the end of `shape` that is the smaller.
        context_width: width of a vector that conditions attention; None: a `PictureContext`.
        embedding_dim, context_dim, ptms, options: of `MultiPTMFeatureExtractor` (readout `pooled`).

    Raises:
        UserError: no shape of a picture, unknown options, a readout other than `pooled`, models that read
            graphs, and what `MultiPTMFeatureExtractor` refuses.

    Attributes:
        extractor: the models and their fusion.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        channels: str | None = None,
        context_width: int | None = None,
        embedding_dim: int = 256,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        _check_options(options)
        self.shape = tuple(int(side) for side in shape)
        self.channels_last = _channels_last(self.shape, channels)
        num_channels = self.shape[-1] if self.channels_last else self.shape[0]
        self.picture_context = PictureContext(num_channels) if context_width is None else None
        self.extractor = MultiPTMFeatureExtractor(
            embedding_dim,
            context_dim,
            ptms,
            context_input_dim=context_width or PICTURE_CONTEXT_DIM,
            **options,
        )
        readers = self.extractor.graph_readers
        if readers:
            raise UserError(
                f"{', '.join(readers)}: reads graphs, but there are only pictures here; take models that "
                "read images (`durotaxis ptm list`), or MultiPTMFeatureExtractor, which is handed graphs"
            )
        self._seen = False
        self._steps_unknown = _has_schedules(ptms or (), options.get("temperature"))

    def follow_schedules(self, step: Clock | int) -> None:
        """Set gates, temperature and which models learn to what they are then.

        Call it before every rollout; they must not change between a rollout and its update.

        Args:
            step: environment steps taken, or a `durotaxis.core.schedule.Clock`, which also knows when
                episodes and stages came and how many steps there are in all.

        Raises:
            UserError: a number alone, where a model waits for an episode or a stage, or where a temperature's
                schedule has no `steps` of its own.
        """
        self.extractor.follow_schedules(step)
        self._steps_unknown = False

    def stack(self, image: Tensor) -> Tensor:
        """All channels as float32 in [0,1], channels first: [B,C,H,W].

        Raises UserError for another shape, or for floats outside [0,1]. After the first pictures that are
        not of one colour the range is not looked at any more, which would cost a GPU its pace.
        """
        if tuple(image.shape[1:]) != self.shape:
            raise UserError(
                f"pictures have shape {list(image.shape)}; [B, {', '.join(map(str, self.shape))}]"
            )
        stack = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        if not self._seen and stack.numel():
            low, high = stack.min().item(), stack.max().item()
            if not -SLACK < low <= high < 1 + SLACK:
                raise UserError(
                    f"pictures of floats must lie in [0, 1], not {low:g} to {high:g}; divide by 255, or hand "
                    "them over as uint8 (with Stable-Baselines3, leave normalize_images at True)"
                )
            self._seen = low < high  # a black first picture tells nothing about the scale
        return stack.permute(0, 3, 1, 2) if self.channels_last else stack

    def pictures(self, image: Tensor) -> Tensor:
        """What pre-trained models see, [B,3,H,W] in [0,1]; also what to calibrate them on."""
        return three_channels(self.stack(image))

    def forward(self, image: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Representation [...,W] and attention [...,K] of pictures [..., *shape], any leading dimensions.

        W is `extractor.representation_dim`: D, or K·D with fusion `concat`.

        Args:
            context: [..., context_width], where that was given.

        Raises:
            UserError: a context is missing or one too many; models that must be calibrated first; in
                training, schedules that nobody follows.
        """
        self._require_calibrated()
        if self._steps_unknown and self.training and torch.is_grad_enabled():
            raise UserError(
                "there are schedules (enters_at, ramp_steps, unfreeze_at or of temperature), but nobody "
                "follows them; call module.follow_schedules(step) before every rollout, or model.learn(..., "
                "callback=FollowSchedules()) for a model of Stable-Baselines3"
            )
        if (context is None) != (self.picture_context is not None):
            found = "missing" if context is None else "given, but context_width was not"
            raise UserError(f"the context of pictures is {found}")
        leading = image.shape[:-3]
        stack = self.stack(image.reshape(-1, *image.shape[-3:]))
        seen = self.picture_context(stack) if self.picture_context is not None else context
        assert seen is not None
        representation, attention = self.extractor(
            three_channels(stack), seen.reshape(len(stack), -1).float(), return_attention=True
        )
        return representation.view(*leading, -1), attention.view(*leading, -1)

    def _require_calibrated(self) -> None:
        names = self.extractor.needs_calibration()
        if names:
            raise UserError(
                f"{', '.join(names)}: frozen random models need the statistics of the task's pictures first; "
                "call durotaxis.fusion.calibrate(module.extractor, module.pictures(images)), or calibrate_on "
                "for a model of Stable-Baselines3"
            )


def three_channels(stack: Tensor) -> Tensor:
    """[B,C,H,W] to [B,3,H,W]: the last three channels, or the last repeated."""
    missing = 3 - stack.shape[1]
    if missing <= 0:
        return stack[:, -3:]
    return torch.cat([stack, stack[:, -1:].expand(-1, missing, -1, -1)], 1)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises UserError for what is neither an option of the extractor nor fit for pictures."""
    if options.get("readout", "pooled") != "pooled":
        raise UserError(f"readout '{options['readout']}': pictures have no points to read at; remove it")
    parameters = inspect.signature(MultiPTMFeatureExtractor).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    allowed = [name for name in named if name not in ("context_input_dim", "readout", "context")]
    unknown = sorted(set(options) - {*allowed, "readout"})
    if unknown:
        raise UserError(
            f"unknown option {', '.join(map(repr, unknown))}; beside their own arguments, layers for "
            f"pictures take {', '.join(allowed)}"
        )


def _has_schedules(ptms: Sequence[PTMConfig | Mapping[str, Any]], temperature: Any) -> bool:
    configs = [ptm if isinstance(ptm, PTMConfig) else validated(PTMConfig, **ptm) for ptm in ptms]
    return isinstance(temperature, TemperatureSchedule | Mapping) or any(
        config.enters_at != 0 or config.ramp_steps or config.unfreeze_at is not None for config in configs
    )


def _channels_last(shape: tuple[int, ...], channels: str | None) -> bool:
    if len(shape) != 3:
        raise UserError(f"a picture has shape [C, H, W] or [H, W, C], not {list(shape)}")
    if channels is not None:
        check_choice("channels", channels, ("first", "last"))
        return channels == "last"
    if shape[0] == shape[2]:
        raise UserError(f"shape {list(shape)}: say where the channels are, channels='first' or 'last'")
    return shape[2] < shape[0]
