"""Recorded episodes written down by hand: who lives where at each step, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from durotaxis.records import Episode, EpisodeInfo


class Node(NamedTuple):
    """One node at one step. Spawning takes parameters; a parent of None makes a root."""

    id: int
    x: float
    y: float = 0.0
    parent: int | None = None
    kind: int = 0
    kpa: float | None = None  # 1 + x / 10 by default
    marked: bool = False


PARAMETERS = [5.0, 4.0, 0.25, -0.5]


def story(frames: Sequence[Sequence[Node]], **info: Any) -> Episode:
    """An episode of one frame per step and one for the end."""
    first_seen: dict[int, int] = {}
    rows = []
    for step, frame in enumerate(frames):
        slots = {node.id: slot for slot, node in enumerate(frame)}
        for node in frame:
            first_seen.setdefault(node.id, step)
        is_end = step == len(frames) - 1
        rows.append(
            {
                "step": step,
                "nodes": [[node.x, node.y] for node in frame],
                "node_ids": [node.id for node in frame],
                "parents": [-1 if node.parent is None else slots[node.parent] for node in frame],
                "ages": [step - first_seen[node.id] for node in frame],
                "stiffness": [1 + node.x / 10 if node.kpa is None else node.kpa for node in frame],
                "marked": [node.marked for node in frame],
                "kinds": None if is_end else [node.kind for node in frame],
                "parameters": None if is_end else [PARAMETERS if node.kind == 1 else None for node in frame],
                "attention": None,
                "value": None,
                "entropy": None,
                "reward": None if is_end else 0.5,
                **({} if is_end else {"term/survival": 0.5}),
            }
        )
    return Episode(EpisodeInfo(**{**INFO, "length": len(rows) - 1, **info}), rows[:-1], rows[-1])


INFO: Mapping[str, Any] = {
    "format": 1,
    "seed": 7,
    "scenario": "linear",
    "env": {},
    "policy": "agent",
    "trained_steps": None,
    "deterministic": False,
    "reason": "max_steps",
    "success": False,
    "length": 0,
    "total_reward": 0.0,
    "final": {},
    "minutes_per_step": 10.0,
    "critical_nodes": 20,
    "size": [200.0, 100.0],
    "direction": 0.0,
    "origin": [0.0, 0.0],
    "extent": [200.0, 100.0],
    "goal": 198.0,
    "ptms": [],
    "attention_rows": None,
    "field": [[1.0, 2.0]],
}

# 0 and 1 found the colony, a chain. 1 bears 2, 2 bears 3, then 2 dies: 3 is handed to 1. Then 1 dies: to 0.
FAMILY = (
    (Node(0, 0.0), Node(1, 4.0, 0.0, 0, kind=1)),
    (Node(0, 0.0), Node(1, 4.0, 0.0, 0), Node(2, 8.0, 3.0, 1, kind=1)),
    (Node(0, 0.0), Node(1, 4.0, 0.0, 0), Node(2, 8.0, 3.0, 1, kind=2, marked=True), Node(3, 6.0, 1.0, 2)),
    (Node(0, 0.0), Node(1, 4.0, 0.0, 0, kind=2), Node(3, 6.0, 1.0, 1)),
    (Node(0, 0.0), Node(3, 6.0, 1.0, 0)),
)
DIES_OUT = ((Node(0, 1.0), Node(1, 3.0, 0.0, 0)), (Node(0, 1.0, kind=2), Node(1, 3.0, 0.0, 0, kind=2)), ())
BEGINS_ANEW = (
    (Node(0, 1.0, kind=2), Node(1, 3.0, 0.0, 0, kind=2)),
    (Node(2, 2.0), Node(3, 5.0, 0.0, 2, kind=1)),
    (Node(2, 2.0), Node(3, 5.0, 0.0, 2), Node(4, 9.0, 0.0, 3)),
)
ALONE = ((Node(0, 5.0, 5.0),), (Node(0, 5.0, 5.0),), (Node(0, 5.0, 5.0),))
ONE_STEP = (
    (Node(0, 1.0), Node(1, 3.0, 0.0, 0, kind=1)),
    (Node(0, 1.0), Node(1, 3.0, 0.0, 0), Node(2, 5.0, 0.0, 1)),
)
STORIES = {
    "family": FAMILY,
    "dies out": DIES_OUT,
    "begins anew": BEGINS_ANEW,
    "alone": ALONE,
    "one step": ONE_STEP,
}
