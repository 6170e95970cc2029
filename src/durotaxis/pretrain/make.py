"""One pre-training from its configuration to its files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from durotaxis.pretrain.config import PretrainConfig
from durotaxis.pretrain.data import training_examples
from durotaxis.pretrain.files import save_trunk
from durotaxis.pretrain.train import Report, prepare, train
from durotaxis.records import encode_row, write_atomic

_OPTIONS = ("steps", "scenes", "seed")
"""Keys that are options of the command; the others are written `key=value`."""


def make_trunk(config: PretrainConfig, out: Path, advance: Callable[[int], None], report: Report) -> None:
    """Draw scenes, train, write the trunk to `out` and the losses beside it (`.jsonl`, one line per step).

    Args:
        advance: told when the scenes of a world are drawn.
        report: given the losses of every step.

    Raises:
        UserError: a task or a network that cannot be, a number that is not finite; nothing is written then.
        RecordError: files cannot be written.
    """
    prepare(config)
    examples = training_examples(config, advance)
    records = out.with_suffix(".jsonl")
    rows: list[str] = []  # written at the end, so that files of an earlier training outlive a failed one

    def keep(losses: dict[str, float]) -> None:
        row = {"step": int(losses["step"]), "loss": {k: v for k, v in losses.items() if k != "step"}}
        rows.append(encode_row(row, str(records)))
        report(losses)

    trained = train(config, examples, keep)
    save_trunk(out, trained.ptm.backbone, config, command_of(config))
    write_atomic(records, "".join(rows))


def command_of(config: PretrainConfig) -> str:
    """The command line that makes the same trunk, on the same machine and with the same number of threads."""
    words = [f"OMP_NUM_THREADS={torch.get_num_threads()}", "durotaxis", "pretrain", "--model", config.model]
    for name, value in config.model_dump(exclude_defaults=True, exclude={"model"}).items():
        if name == "data":
            words += [word for each in value for word in ("--data", each)]
        elif name == "tasks":
            words += ["--tasks", ",".join(value)]
        elif name in _OPTIONS:
            words += [f"--{name}", str(value)]
        else:
            words.append(f"{name}={value}")
    return shlex.join(words)
