"""What is drawn: frames and their scene as numpy arrays, and how to take them from a live world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import Substrate, stiffness_lattice
from durotaxis.env.types import Colony, Reason

OLD_AGE = 30
"""Steps; older nodes look the same."""
_SAMPLES = 400  # of the stiffness, along the longer side


@dataclass(frozen=True)
class Frame:
    """One step of one colony. Slots that are not alive are ignored; parents are slot indices."""

    position: np.ndarray  # [N,2] float, µm
    parent: np.ndarray  # [N] int, -1 for roots
    alive: np.ndarray  # [N] bool
    step: int
    kind: np.ndarray | None = None  # [N] int, Kind chosen at this step; None: not yet chosen
    marked: np.ndarray | None = None  # [N] bool
    newborn: np.ndarray | None = None  # [N] bool
    age: np.ndarray | None = None  # [N] int, steps
    attention: np.ndarray | None = None  # [K] float, mean over the colony's rows, summing to 1
    note: str = ""  # shown beside the step, such as the reason of the end


@dataclass(frozen=True)
class Scene:
    """What stays the same during an episode."""

    stiffness: np.ndarray  # [H,W] float, kPa at pixel centres, row 0 = largest y
    size: tuple[float, float]  # µm, width and height
    direction: float = 0.0  # radians, counter-clockwise from +x
    goal: float | None = None  # µm along `direction`; None: no goal line
    minutes_per_step: float = 10.0
    ptms: tuple[str, ...] = ()  # K names for the attention strip; empty: no strip
    title: str = ""


@dataclass(frozen=True)
class Style:
    """How to draw it."""

    width: int = 720  # pixels; 480 is the least that stays legible
    colour_by: Literal["kind", "age"] = "kind"
    hull: bool = False


def frame_of(
    colony: Colony,
    index: int = 0,
    kind: Tensor | None = None,
    attention: Tensor | None = None,
    reason: int = Reason.RUNNING,
) -> Frame:
    """One colony of a batch as a frame.

    Args:
        colony: the state before the action.
        index: which colony of the batch.
        kind: [B,N] int64, the kinds about to be carried out; None after the last step.
        attention: [rows,K] float32 of this colony alone (averaged here), or [K].
        reason: of the end, shown beside the step; `Reason.RUNNING` shows nothing.
    """

    def numpy(values: Tensor) -> np.ndarray:
        return values[index].detach().cpu().numpy()

    weights = (
        None if attention is None else attention.detach().float().reshape(-1, attention.shape[-1]).mean(0)
    )
    return Frame(
        position=numpy(colony.position),
        parent=numpy(colony.parent),
        alive=numpy(colony.alive),
        step=int(colony.step[index]),
        kind=None if kind is None else numpy(kind),
        marked=numpy(colony.marked),
        newborn=numpy(colony.newborn),
        age=numpy(colony.age),
        attention=None if weights is None else weights.cpu().numpy(),
        note="" if reason == Reason.RUNNING else Reason(reason).name.lower().replace("_", " "),
    )


def scene_of(
    substrate: Substrate, config: EnvConfig, index: int = 0, title: str = "", ptms: Sequence[str] = ()
) -> Scene:
    """The scene of one colony of a batch.

    Args:
        substrate: of the batch.
        config: of the world.
        index: which colony.
        title: shown above the picture.
        ptms: names for the attention strip; empty: no strip.
    """
    one = substrate[index : index + 1].to("cpu")
    return Scene(
        stiffness=stiffness_lattice(one, 0, _SAMPLES).numpy(),
        size=(float(one.size[0, 0]), float(one.size[0, 1])),
        direction=math.atan2(float(one.direction[0, 1]), float(one.direction[0, 0])),
        goal=float(one.extent[0, 0]) * (1.0 - config.goal_margin),
        minutes_per_step=config.minutes_per_step,
        ptms=tuple(ptms),
        title=title,
    )


def check(frames: Sequence[Frame], scene: Scene, style: Style) -> None:
    if style.width < 480:
        raise UserError(f"render: a width of {style.width} pixels is illegible; take 480 or more")
    field = scene.stiffness
    if field.ndim != 2 or field.size == 0 or not np.isfinite(field).all():
        raise UserError("render: the stiffness map must be a finite matrix [H,W] in kPa")
    for frame in frames:
        num = len(frame.alive)
        for name in ("position", "parent", "kind", "marked", "newborn", "age"):
            value: Any = getattr(frame, name)
            if value is not None and len(value) != num:
                raise UserError(f"render: step {frame.step}: {name} has {len(value)} rows, alive has {num}")
        if scene.ptms and frame.attention is not None and len(frame.attention) != len(scene.ptms):
            raise UserError(
                f"render: step {frame.step}: attention over {len(frame.attention)} models, "
                f"the scene names {len(scene.ptms)}"
            )
