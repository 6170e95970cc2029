"""The file that a pre-training leaves: safetensors of the trunk, with how it was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import PTM, PTMConfig, build_ptm
from durotaxis.pretrain.config import PretrainConfig
from durotaxis.pretrain.tasks import TASKS_OF
from durotaxis.records import write_atomic

_KEY = "durotaxis"


def save_trunk(path: Path, backbone: nn.Module, config: PretrainConfig, command: str) -> None:
    """Write the trunk whole or not at all.

    Args:
        command: the command that makes the same file again.
    """
    from safetensors.torch import save

    about = {
        "model": config.model,
        "command": command,
        "config": config.model_dump(mode="json"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    state = {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    # One key, because the order of several is not kept and the bytes should be the same every time.
    write_atomic(path, save(state, {_KEY: json.dumps(about, sort_keys=True)}))


def describe_trunk(path: Path) -> Mapping[str, object]:
    """What `save_trunk` wrote about the file: model, command, config, torch, threads, machine.

    Raises:
        UserError: not such a file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: does not exist; make it with `durotaxis pretrain --out {path}`")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: is no file of `durotaxis pretrain` ({error})") from error
    if (
        not isinstance(about, dict)
        or about.get("model") not in tuple(TASKS_OF)
        or not isinstance(about.get("command"), str)
    ):
        raise UserError(
            f"{path}: is no file of `durotaxis pretrain`: its metadata name no such model or no command"
        )
    return about


def load_trunk(path: Path) -> PTM:
    """The model of such a file, frozen, read out at its nodes.

    Raises:
        UserError: not such a file, or weights that do not fit.
    """
    model = str(describe_trunk(path)["model"])
    config = PTMConfig(model_type=f"{model}_connectivity", weights=str(path), freeze=True)
    return build_ptm(config, embedding_dim=1, readout="sampled")
