"""Values that change with the environment step. They change only between an update and the next rollout."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer


def scheduled(start: float, kind: Literal["constant", "linear"], end: float, progress: float) -> float:
    """A value at `progress` in [0, 1]: always `start`, or the straight line from `start` to start · end."""
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is {progress}, outside [0, 1]")
    return start if kind == "constant" else start * (1.0 + (end - 1.0) * progress)


def set_learning_rate(optimizer: Optimizer, base: float) -> None:
    """Give every parameter group `base` times its own factor. Moments stay as they are."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]
