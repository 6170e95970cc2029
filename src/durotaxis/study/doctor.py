"""What this computer offers a run: versions, devices, pre-trained weights, and what is missing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import torch

from durotaxis.fusion import list_ptms
from durotaxis.fusion.registry import ptm_type
from durotaxis.fusion.sources import at_hand, needs_weights
from durotaxis.study.config import shipped_configs


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: python, package, extra, device, weights or configs.
        name: what was looked for.
        state: what was found.
        is_good: False where something is missing that a run may need.
        advice: what to do about it; empty when nothing.
    """

    topic: str
    name: str
    state: str
    is_good: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Everything `durotaxis doctor` reports. Touches no network and runs no model."""
    return [
        Finding("python", "python", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        *_devices(),
        *_weights(),
        Finding("configs", "shipped", ", ".join(shipped_configs()) or "none", bool(shipped_configs())),
    ]


def _packages() -> Iterator[Finding]:
    for requirement in requires("durotaxis") or []:
        name, extra = _parse(requirement)
        if extra == "dev":
            continue
        topic = "package" if extra is None else "extra"
        try:
            yield Finding(topic, name, version(name))
        except PackageNotFoundError:
            advice = (
                f"pip install {name}" if extra is None else f"pip install 'durotaxis[{extra}]', if wanted"
            )
            yield Finding(topic, name, "not installed", extra is not None, advice)


def _parse(requirement: str) -> tuple[str, str | None]:
    name = re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
    return name, extra[1] if extra else None


def _devices() -> Iterator[Finding]:
    threads = torch.get_num_threads()
    yield Finding("device", "cpu", f"{os.cpu_count()} cores, {threads} threads used by torch")
    if not torch.cuda.is_available():
        yield Finding("device", "cuda", "no GPU that torch can use; runs take the CPU")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = properties.total_memory / 2**30
        yield Finding("device", f"cuda:{index}", f"{properties.name}, {size:.0f} GiB")


def _weights() -> Iterator[Finding]:
    for record in list_ptms():
        name, hub = record.model_type, ptm_type(record.model_type).hub
        if not needs_weights(name):
            yield Finding("weights", name, "needs none")
        elif (path := at_hand(name)) is not None:
            yield Finding("weights", name, str(path))
        else:
            source = f"go online once (hub: {hub})" if hub else "make it with `durotaxis pretrain`"
            advice = f"{source}, or name a file or directory with `weights:` in the config"
            yield Finding("weights", name, "missing", False, advice)
