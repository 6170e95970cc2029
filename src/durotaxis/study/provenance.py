"""Where a run comes from: code, versions, machine, seed and weights."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.fusion import PTM
from durotaxis.ppo import library_versions

_GIT_SECONDS = 10


def own_version() -> str:
    """Version of this package."""
    return version("durotaxis")


def provenance(
    policy: HybridActorCritic, seed: int, device: torch.device, calibrated: list[str]
) -> dict[str, Any]:
    """What `provenance.json` holds.

    Args:
        policy: with its weights in place; frozen ones are hashed.
        calibrated: names of the models whose statistics were set for this run.
    """
    on_gpu = device.type == "cuda"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **source_state(),
        "versions": library_versions(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "seed": seed,
        "num_parameters": sum(p.numel() for p in policy.parameters()),
        "num_trainable": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "frozen_hash": policy.frozen_hash(),
        "ptms": [
            {**ptm.record.to_dict(), "frozen": ptm.is_frozen, "calibrated": ptm.name in calibrated}
            for ptm in policy.actor.extractor.ptms
            if isinstance(ptm, PTM)
        ],
    }


def source_state() -> dict[str, Any]:
    """`commit` of the checkout the package runs from and whether it was `modified`; null when installed."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return {"commit": None, "modified": None}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "modified": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
