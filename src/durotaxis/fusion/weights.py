"""Reading pre-trained weights without trusting them, and fitting them to a backbone without guessing.

Nothing is replaced silently: whatever is missing, unexpected, damaged or of another shape is a UserError
that names the file. Pickles that carry code are refused.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.registry import is_finite_number


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a torch file read with `weights_only=True`.

    Raises UserError if the file is truncated, holds anything but named tensors, or wants to run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it is not plain tensors (pickles may run code); save a state_dict, "
            "best as safetensors"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a weights file ({_first_line(error)})") from error
    plain = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for key, value in state.items()
    )
    if not plain:
        raise UserError(f"{path}: holds no plain table of tensors; save a state_dict")
    return dict(state)


_FROM_TRANSFORMERS = (
    (r"^resnet\.", ""),
    (r"^classifier\.1\.", "fc."),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d+)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d+)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
)


def to_torchvision_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's state dict in transformers' key names, renamed to torchvision's; others pass unchanged."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _FROM_TRANSFORMERS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def read_resnet(path: Path) -> dict[str, Tensor]:
    """A ResNet's trunk in torchvision's key names, from a file in torchvision's or transformers' format.

    The classifier is left out. Raises UserError if a transformers config beside the file states a stride
    layout that differs from torchvision's.
    """
    layout = read_json(path.with_name("config.json"))
    for key in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if layout.get(key):
            raise UserError(
                f"{path.with_name('config.json')}: {key} is not torchvision's layout; not supported"
            )
    state = to_torchvision_keys(read_state(path))
    return {key: value for key, value in state.items() if key not in ("fc.weight", "fc.bias")}


def load_matching(
    module: nn.Module, state: dict[str, Tensor], whole: Mapping[str, Tensor], path: Path
) -> None:
    """Copy `state` into `module`, after checking it against `whole`: keys, shapes, types.

    Args:
        module: holds a part of the keys of `whole` (it stops at its tap).
        whole: state dict of the complete architecture; only shapes are read (tensors may be on `meta`).
        path: named in errors.

    BatchNorm's `num_batches_tracked` may be absent (older torchvision files have none). Raises UserError.
    """
    needed = {key for key in whole if not key.endswith("num_batches_tracked")}
    problems = [
        listed("missing", sorted(needed - state.keys())),
        listed("unexpected", sorted(state.keys() - whole.keys())),
        listed("wrong shape", _misshapen(state, whole)),
        listed("wrong type", _mistyped({key: state[key] for key in needed & state.keys()}, whole)),
        listed("not finite", not_finite({key: state[key] for key in needed & state.keys()})),
    ]
    refuse_misfit(path, problems)
    own = module.state_dict()
    counters = {key: torch.zeros_like(own[key]) for key in own if key not in needed}
    module.load_state_dict(counters | {key: state[key] for key in own if key in state})


def image_statistics(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std, for images in [0, 1], of the image processor saved beside the weights, if there is one.

    A processor multiplies pixels in [0, 255] by its `rescale_factor`, then normalises; both are folded into
    mean and std. Raises UserError unless they are three finite numbers each, with positive std, or where the
    processor reorders the colours or normalises in a further way.
    """
    processor_path = path.with_name("preprocessor_config.json")
    processor = read_json(processor_path)
    if not {"image_mean", "image_std", "do_normalize"} & processor.keys():
        return None
    if processor.get("do_flip_channel_order"):
        raise UserError(
            f"{processor_path}: do_flip_channel_order is not supported; colours are red, green, blue"
        )
    for key in ("rescale_offset", "include_top"):
        if processor.get(key):
            raise UserError(f"{processor_path}: {key} is not supported: it normalises in a further way")
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    if not is_finite_number(factor) or factor <= 0:
        raise UserError(f"{processor_path}: rescale_factor must be a positive, finite number")
    scale = 255 * factor
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        stated = (_three_numbers(processor.get(key)) for key in ("image_mean", "image_std"))
        mean, std = (numbers or () for numbers in stated)
    if not mean or not std or min(std) <= 0:
        raise UserError(
            f"{processor_path}: image_mean and image_std must be three numbers each, finite, std positive"
        )
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def licence_of(directory: Path) -> str:
    """The licence that the model card beside the weights states (`README.md`, between its `---` lines)."""
    unknown = "unknown, see the repository"
    card = directory / "README.md"
    if not card.is_file():
        return unknown
    front = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        stated = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return unknown
    licence = stated.get("license") if isinstance(stated, dict) else None
    return licence if isinstance(licence, str) else unknown


def refuse_misfit(path: Path, problems: Sequence[str]) -> None:
    """Raise UserError that lists what does not fit, unless there is nothing (empty strings)."""
    if any(problems):
        raise UserError(f"{path}: these weights do not fit: {'; '.join(filter(None, problems))}")


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with a NaN or an infinity, in order."""
    return sorted(key for key, value in state.items() if not bool(value.isfinite().all()))


def _three_numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or len(values) != 3:
        return None
    return tuple(map(float, values)) if all(map(is_finite_number, values)) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file. Raises UserError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content


def foreign_types(state: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are no weights of a plain model, in order: complex, bool, quantised.

    For files whose model is not known yet. Buffers of counts and indices are int64, so these pass unless they
    are called weight or bias.
    """
    return [
        f"{key} {_type_name(value)}"
        for key, value in sorted(state.items())
        if not value.is_floating_point()
        and (value.dtype != torch.int64 or key.rpartition(".")[2] in ("weight", "bias"))
    ]


def _mistyped(state: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key} {_type_name(value)} instead of {_type_name(whole[key])}"
        for key, value in sorted(state.items())
        if whole[key].is_floating_point() and not value.is_floating_point()
    ]


def _type_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _misshapen(state: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key} {list(state[key].shape)} instead of {list(whole[key].shape)}"
        for key in sorted(state.keys() & whole.keys())
        if state[key].shape != whole[key].shape
    ]


def listed(label: str, items: Sequence[str], limit: int = 3) -> str:
    """`label a, b, c and 2 more`; empty for no items."""
    if not items:
        return ""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return f"{label} {', '.join(items[:limit])}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
