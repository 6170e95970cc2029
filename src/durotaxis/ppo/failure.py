"""What is left of a run that met NaN or infinity: the batch, the parameters and the place, in one file."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.ppo.checks import NonFiniteError, require_finite_parameters
from durotaxis.ppo.protocols import Policy
from durotaxis.records import RecordError, write_atomic

FAILURE = "failure.pt"
"""Its name in a run directory."""


@dataclass(frozen=True)
class Failure:
    """What a failure file holds: tensors (on the CPU), numbers and text only."""

    message: str
    tensor: str  # dotted name of what was not finite
    run_seed: int
    iteration: int  # in which it happened, from 1
    evidence: dict[str, Any]  # see NonFiniteError; nested dicts of tensors, structs by their fields
    model: dict[str, Tensor]  # the policy's state_dict when it happened
    gradients: dict[str, Tensor]  # by parameter, where there are any


def save_failure(path: Path, error: NonFiniteError, policy: Policy, run_seed: int, iteration: int) -> Path:
    """Write what is needed to see the failure again, whole or not at all.

    With the policy built by the run's configuration and loaded from `model`, the policy's outputs on the
    evidence (`before` and `cached` of a rollout, `minibatch` of an update) are not finite again.

    Returns:
        `path`.

    Raises:
        RecordError: it cannot be written.
    """
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    failure = Failure(
        message=str(error),
        tensor=error.tensor,
        run_seed=run_seed,
        iteration=iteration,
        evidence=_plain(error.evidence),
        model=_plain(policy.state_dict()),
        gradients=_plain(gradients),
    )
    # In memory first: on a full disk torch's own writer fails in ways that hide the reason.
    buffer = io.BytesIO()
    torch.save({field.name: getattr(failure, field.name) for field in dataclasses.fields(failure)}, buffer)
    write_atomic(path, buffer.getvalue())
    return path


def with_failure_saved(
    path: Path, error: NonFiniteError, policy: Policy, run_seed: int, iteration: int
) -> NonFiniteError:
    """The same error, its message with iteration, seed, the first parameter that is not finite (if any), and
    where the evidence is or why it could not be saved.
    """
    place = f"{error}; iteration {iteration}, seed {run_seed}"
    try:
        require_finite_parameters(policy.named_parameters())
    except NonFiniteError as cause:
        place += f"; parameter {cause.tensor} is not finite"
    try:
        saved = f"batch and parameters are in {save_failure(path, error, policy, run_seed, iteration)}"
    except RecordError as refused:
        saved = f"batch and parameters are lost: {refused}"
    return NonFiniteError(f"{place}: {saved}", error.tensor, error.evidence)


def load_failure(path: Path | str) -> Failure:
    """Read a failure file. Code in the file is never executed.

    Raises:
        UserError: the file is missing, damaged, or no failure file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a failure file") from error
    if not isinstance(fields, dict) or fields.keys() != Failure.__dataclass_fields__.keys():
        raise UserError(f"{path} is a torch file, but not a failure file of durotaxis")
    return Failure(**fields)


def _plain(value: Any) -> Any:
    """What can be loaded without running code: dataclasses as dicts, tensors copied to the CPU, other objects
    by their repr."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
