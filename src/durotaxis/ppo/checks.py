"""What must hold while training. Each check is cheap, and each failure names what was found and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.struct import Struct

RATIO_TOLERANCE = 1e-4
LOG_RATIO_TOLERANCE = 1e-3


class InvariantError(RuntimeError):
    """Training stopped because a result could not be trusted."""


class NonFiniteError(InvariantError):
    """A tensor holds NaN or infinity.

    Attributes:
        tensor: its dotted name.
        evidence: what was at hand when it was found: what held the tensor, and what went into it, such as the
            minibatch and its place in the update.
    """

    def __init__(self, message: str, tensor: str = "", evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor
        self.evidence: dict[str, Any] = dict(evidence or {})


class RatioError(InvariantError):
    """The policy does not reproduce its own log-probabilities."""


class FrozenError(InvariantError):
    """Frozen weights or buffers changed."""


def require_finite(tree: Any, name: str) -> None:
    """Raise NonFiniteError when any float tensor of a Struct, dict or tensor is not finite.

    The message names the tensor, the first bad entry and how many there are; the evidence is `tree`.
    """
    for path, tensor in named_tensors(tree, name):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = (~torch.isfinite(tensor)).nonzero()
            first = tuple(bad[0].tolist())
            raise NonFiniteError(
                f"{path} holds {float(tensor[first])} at index {list(first)} "
                f"({len(bad)} of {tensor.numel()} entries are not finite)",
                path,
                {name: tree},
            )


@contextmanager
def evidence(at_hand: Mapping[str, Any]) -> Iterator[None]:
    """Adds what is at hand by then to the evidence of a NonFiniteError that passes through."""
    try:
        yield
    except NonFiniteError as error:
        error.evidence = {**at_hand, **error.evidence}
        raise


@torch.no_grad()
def require_finite_parameters(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise NonFiniteError, naming the first of these named tensors that is not finite.

    One pass over all of them; the largest magnitude cannot overflow as a sum of squares can.
    """
    named = dict(parameters)
    largest = torch._foreach_norm(list(named.values()), torch.inf)
    if not bool(torch.isfinite(torch.stack(largest)).all()):
        for name, parameter in named.items():
            require_finite(parameter, name)


def require_ratio_one(error: float, ratio: str, tolerance: float | None = None) -> None:
    """Raise RatioError when an unchanged policy gives other probabilities than in the rollout.

    Args:
        error: largest |ρ - 1| of the first minibatch (ratio `node`) or |log ρ| (`graph`).
        tolerance: the policy's own limit for the ratio `node`; ten times as much holds for `graph`.
    """
    limit = LOG_RATIO_TOLERANCE if ratio == "graph" else RATIO_TOLERANCE
    if tolerance is not None:
        limit *= tolerance / RATIO_TOLERANCE
    if not error < limit:
        what = "|log ratio|" if ratio == "graph" else "|ratio - 1|"
        raise RatioError(
            f"before any update the largest {what} is {error:.3g}, above {limit:g}: the policy does not "
            "repeat the log-probabilities of its own rollout (a part in train mode, dropout, a changed input)"
        )


def require_frozen(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise FrozenError when the hash of a part changed that was frozen before and is so after."""
    for part in before.keys() & after.keys():
        if before[part] != after[part]:
            raise FrozenError(
                f"frozen weights or buffers of {part} changed during training: "
                f"hash {before[part]} became {after[part]}"
            )


def named_tensors(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a tensor, Struct or dict of these, with its dotted path. None has none."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Struct):
        for field in dataclasses.fields(tree):  # type: ignore[arg-type]
            yield from named_tensors(getattr(tree, field.name), f"{name}.{field.name}")
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from named_tensors(value, f"{name}.{key}")
