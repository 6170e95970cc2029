"""Gradient checkpointing: less memory in the backward pass for a second forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, keeping its inputs alone; the backward pass computes the rest again.

    Without gradient it is a plain call. Whether a module is in eval mode does not matter, unlike in the
    checkpointing that libraries bring along. The function must not draw random numbers.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost" (arXiv 1604.06174).
    """
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def recompute(modules: list[nn.Module]) -> None:
    """Let every call of these modules go through `recomputed`, in place; their states stay as they are."""
    for module in modules:
        module.forward = partial(recomputed, module.forward)
