"""Recorded episodes as frames that `durotaxis.env.render` draws."""

from __future__ import annotations

import numpy as np

from durotaxis.env.render import Frame, Scene
from durotaxis.records import Episode


def frames_of(episode: Episode, title: str | None = None) -> tuple[list[Frame], Scene]:
    """The frames of a recorded episode, the last one after the last step, and their scene.

    Args:
        title: shown above; by default who played and on which seed.
    """
    info = episode.info
    frames = [
        Frame(
            position=np.array(row["nodes"], dtype=float).reshape(-1, 2),
            parent=np.array(row["parents"], dtype=int),
            alive=np.ones(len(row["node_ids"]), dtype=bool),
            step=row["step"],
            kind=None if row["kinds"] is None else np.array(row["kinds"], dtype=int),
            marked=np.array(row["marked"], dtype=bool),
            newborn=(np.array(row["ages"]) == 0) & (row["step"] > 0),
            age=np.array(row["ages"], dtype=int),
            attention=_shares(row["attention"]),
            note="" if row is not episode.last else info.reason.replace("_", " "),
        )
        for row in episode.rows
    ]
    scene = Scene(
        stiffness=np.array(info.field, dtype=float),
        size=(info.size[0], info.size[1]),
        direction=info.direction,
        goal=info.goal,
        minutes_per_step=info.minutes_per_step,
        ptms=tuple(info.ptms),
        title=f"{info.policy}, episode {info.seed}" if title is None else title,
    )
    return frames, scene


def _shares(attention: list[list[float]] | None) -> np.ndarray | None:
    """Mean over rows, summing to 1."""
    return None if not attention else np.array(attention, dtype=float).mean(0)
