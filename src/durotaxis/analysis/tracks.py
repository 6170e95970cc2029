"""Recorded episodes as tracks: one row per node and step, and one row per step for the colony as a whole.

Nodes never move in this world. A node's track is the time it lives; what moves is the colony's centroid and
its front. Times count from the start of the episode, lengths are in µm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from durotaxis.records import Column, Episode, RecordError

ACTIONS = ("rest", "spawn", "delete")
"""Names of the kinds 0, 1, 2."""
NOBODY = -1
"""Stands for no node in columns of ids; such cells are empty in what is exported."""
NO_ACTION = ""
"""Stands for no action, in the last row of an episode."""

TRACK_COLUMNS = (
    Column("episode", "count", "number of the recorded episode, from 0"),
    Column("step", "steps", "step within the episode, from 0"),
    Column("minutes", "min", "time since the start of the episode"),
    Column("track_id", "int", "the node, never reused within an episode"),
    Column("parent_id", "int", "start of the edge that leads to it at this step; empty for roots"),
    Column("mother_id", "int", "node that it was born of, the same in all its rows; empty for founders"),
    Column("generation", "count", "births between it and a founder"),
    Column("founder", "true/false", "whether the colony began with it, or began anew with it"),
    Column("x_um", "µm", "place; nodes do not move"),
    Column("y_um", "µm", "place"),
    Column("s_um", "µm", "the same along the direction of the goal, from the substrate's lowest corner"),
    Column("t_um", "µm", "across, to the left of it"),
    Column("stiffness_kpa", "kPa", "of the substrate under it"),
    Column("age_steps", "steps", "since its birth"),
    Column("action", "name", "rest, spawn or delete in the step that follows; empty at the end"),
    Column("max_step_um", "µm", "longest step that its spawn asks for; empty unless it spawns"),
    Column("half_saturation_kpa", "kPa", "stiffness of half that step; empty unless it spawns"),
    Column("noise", "1", "relative noise of the step; empty unless it spawns"),
    Column("angle_rad", "rad", "of the spawn, counter-clockwise from the direction; empty unless it spawns"),
    Column("marked", "true/false", "whether it should be deleted"),
    Column("birth", "true/false", "first row of a node that was born; founders have none"),
    Column(
        "death", "true/false", "last row of a node that was deleted; those that live at the end have none"
    ),
)
"""Columns of tracks: one row per living node and step, in the order of steps."""

CENTROID_COLUMNS = (
    Column("episode", "count", "number of the recorded episode, from 0"),
    Column("step", "steps", "step within the episode, from 0; the last row is the end"),
    Column("minutes", "min", "time since the start of the episode"),
    Column("num_nodes", "count", "living nodes"),
    Column("x_um", "µm", "mean place of the nodes; empty where nobody lives, as all that follows"),
    Column("y_um", "µm", "mean place"),
    Column("s_um", "µm", "mean place along the direction of the goal"),
    Column("t_um", "µm", "mean place across"),
    Column("front_um", "µm", "largest s of a living node"),
    Column("stiffness_kpa", "kPa", "mean under the nodes"),
    Column("hull_area_um2", "µm²", "area of the convex hull; 0 for one or two nodes, or all in a line"),
    Column("generation", "count", "mean births between a living node and its founder"),
    Column("generation_max", "count", "the largest of these"),
    Column("births", "count", "nodes born in the step before"),
    Column("deaths", "count", "nodes deleted in the step that follows; 0 at the end"),
)
"""Columns of centroid tracks: one row per step and one for the end."""


@dataclass(frozen=True)
class Tracks:
    """One entry per living node and step, [R] each; `TRACK_COLUMNS` says what they hold.

    NaN is no number, NOBODY no node and NO_ACTION no action.
    """

    episode: np.ndarray  # int64
    step: np.ndarray  # int64
    minutes: np.ndarray  # float64
    track_id: np.ndarray  # int64
    parent_id: np.ndarray  # int64
    mother_id: np.ndarray  # int64
    generation: np.ndarray  # int64
    founder: np.ndarray  # bool
    x_um: np.ndarray  # float64
    y_um: np.ndarray  # float64
    s_um: np.ndarray  # float64
    t_um: np.ndarray  # float64
    stiffness_kpa: np.ndarray  # float64
    age_steps: np.ndarray  # int64
    action: np.ndarray  # str
    max_step_um: np.ndarray  # float64
    half_saturation_kpa: np.ndarray  # float64
    noise: np.ndarray  # float64
    angle_rad: np.ndarray  # float64
    marked: np.ndarray  # bool
    birth: np.ndarray  # bool
    death: np.ndarray  # bool


@dataclass(frozen=True)
class Centroids:
    """The colony as a whole, one entry per step and one for the end, [R] each; see `CENTROID_COLUMNS`.

    NaN where nobody lives.
    """

    episode: np.ndarray  # int64
    step: np.ndarray  # int64
    minutes: np.ndarray  # float64
    num_nodes: np.ndarray  # int64
    x_um: np.ndarray  # float64
    y_um: np.ndarray  # float64
    s_um: np.ndarray  # float64
    t_um: np.ndarray  # float64
    front_um: np.ndarray  # float64
    stiffness_kpa: np.ndarray  # float64
    hull_area_um2: np.ndarray  # float64
    generation: np.ndarray  # float64
    generation_max: np.ndarray  # float64
    births: np.ndarray  # int64
    deaths: np.ndarray  # int64


Table = TypeVar("Table", Tracks, Centroids)


def columns_of(table: Tracks | Centroids) -> dict[str, np.ndarray]:
    """Name -> column, in order."""
    return {field.name: getattr(table, field.name) for field in fields(table)}


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several episodes below each other."""
    first = tables[0]
    return type(first)(
        **{name: np.concatenate([getattr(t, name) for t in tables]) for name in columns_of(first)}
    )


def tracks_of(episode: Episode, number: int = 0) -> Tracks:
    """The tracks of one recorded episode.

    A child's parent at its birth is its mother, since a node that spawns is not deleted in the same step.
    Later, when a parent is deleted, its children are attached to its nearest living ancestor, or become
    roots: `parent_id` follows that, `mother_id` and `generation` do not. Founders are joined to a chain, so
    they have parents, but no mothers; their generation is 0.

    Args:
        number: of the episode, for the column.

    Raises:
        RecordError: a node appears that has no parent to be born of.
    """
    rows, info = episode.rows, episode.info
    ids = [np.array(row["node_ids"], dtype=np.int64) for row in rows]
    counts = [len(one) for one in ids]
    born, dies = _births(ids), _deaths(ids)
    parents = [_parent_ids(row, one) for row, one in zip(rows, ids, strict=True)]
    mothers, generations = _lineage(ids, parents, born, number)
    step = np.repeat(np.array([row["step"] for row in rows], dtype=np.int64), counts)
    place = _stacked([row["nodes"] for row in rows], (0, 2))
    along, across = along_across(place, info.direction, info.origin)
    track_id = np.concatenate(ids)
    mother_id = _looked_up(mothers, track_id)
    parameters = _stacked([_parameters(row, count) for row, count in zip(rows, counts, strict=True)], (0, 4))
    return Tracks(
        episode=np.full(len(track_id), number, dtype=np.int64),
        step=step,
        minutes=step * info.minutes_per_step,
        track_id=track_id,
        parent_id=np.concatenate(parents),
        mother_id=mother_id,
        generation=_looked_up(generations, track_id),
        founder=mother_id == NOBODY,
        x_um=place[:, 0],
        y_um=place[:, 1],
        s_um=along,
        t_um=across,
        stiffness_kpa=_stacked([row["stiffness"] for row in rows], (0,)),
        age_steps=_stacked([row["ages"] for row in rows], (0,)).astype(np.int64),
        action=np.concatenate([_actions(row, count) for row, count in zip(rows, counts, strict=True)]),
        max_step_um=parameters[:, 0],
        half_saturation_kpa=parameters[:, 1],
        noise=parameters[:, 2],
        angle_rad=parameters[:, 3],
        marked=_stacked([row["marked"] for row in rows], (0,)).astype(bool),
        birth=np.concatenate(born),
        death=np.concatenate(dies),
    )


def centroids_of(episode: Episode, tracks: Tracks) -> Centroids:
    """The centroid track of one recorded episode.

    Args:
        tracks: of this episode alone.
    """
    steps = np.array([row["step"] for row in episode.rows], dtype=np.int64)
    counts = np.array([len(row["node_ids"]) for row in episode.rows], dtype=np.int64)
    ends = np.cumsum(counts)
    parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    number = int(tracks.episode[0]) if len(tracks.episode) else 0

    def over(column: np.ndarray, reduce: Any) -> np.ndarray:
        return np.array([reduce(column[part]) if len(column[part]) else math.nan for part in parts], float)

    places = np.stack([tracks.x_um, tracks.y_um], axis=1)
    return Centroids(
        episode=np.full(len(steps), number, dtype=np.int64),
        step=steps,
        minutes=steps * episode.info.minutes_per_step,
        num_nodes=counts,
        x_um=over(tracks.x_um, np.mean),
        y_um=over(tracks.y_um, np.mean),
        s_um=over(tracks.s_um, np.mean),
        t_um=over(tracks.t_um, np.mean),
        front_um=over(tracks.s_um, np.max),
        stiffness_kpa=over(tracks.stiffness_kpa, np.mean),
        hull_area_um2=over(places, hull_area),
        generation=over(tracks.generation, np.mean),
        generation_max=over(tracks.generation, np.max),
        births=np.array([tracks.birth[part].sum() for part in parts], dtype=np.int64),
        deaths=np.array([tracks.death[part].sum() for part in parts], dtype=np.int64),
    )


def along_across(
    place: np.ndarray, direction: float, origin: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """s along a direction (radians from +x) and t to its left, [R] µm each, of places x, y [R,2]."""
    cos, sin = math.cos(direction), math.sin(direction)
    x, y = place[:, 0], place[:, 1]
    return x * cos + y * sin - origin[0], y * cos - x * sin - origin[1]


def hull_area(places: np.ndarray) -> float:
    """Area of the convex hull of points [R,2]: µm² for µm; 0 where all lie in a line."""
    if len(places) < 3:
        return 0.0
    try:
        return float(ConvexHull(places).volume)
    except QhullError:  # flat
        return 0.0


def _births(ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Who of each row was born in the step before it, bool.

    Where nobody stayed nobody can have given birth: then all are founders of a colony that begins anew.
    """
    flags = [np.zeros(len(ids[0]), dtype=bool)]
    for before, now in itertools.pairwise(ids):
        new = ~np.isin(now, before)
        flags.append(new if not new.all() else np.zeros(len(now), dtype=bool))
    return flags


def _deaths(ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Who of each row is gone in the next, bool."""
    gone = [~np.isin(now, after) for now, after in itertools.pairwise(ids)]
    return [*gone, np.zeros(len(ids[-1]), dtype=bool)]


def _parent_ids(row: Mapping[str, Any], ids: np.ndarray) -> np.ndarray:
    parents = np.array(row["parents"], dtype=np.int64)
    return np.where(parents >= 0, ids[parents], NOBODY) if len(ids) else parents


def _lineage(
    ids: Sequence[np.ndarray], parents: Sequence[np.ndarray], born: Sequence[np.ndarray], number: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Mother and generation of every node."""
    mothers: dict[int, int] = {}
    generations: dict[int, int] = {}
    for row in zip(ids, parents, born, strict=True):
        for node, parent, is_born in zip(*(part.tolist() for part in row), strict=True):
            if node in mothers:
                continue
            if is_born and parent not in generations:
                raise RecordError(
                    f"episode {number}: node {node} has no parent to be born of; record the episode again"
                )
            mothers[node] = parent if is_born else NOBODY
            generations[node] = generations[parent] + 1 if is_born else 0
    return mothers, generations


def _looked_up(table: Mapping[int, int], keys: np.ndarray) -> np.ndarray:
    return np.array([table[key] for key in keys.tolist()], dtype=np.int64)


def _actions(row: Mapping[str, Any], count: int) -> np.ndarray:
    kinds = row["kinds"]
    return np.array([NO_ACTION] * count if kinds is None else [ACTIONS[kind] for kind in kinds], dtype="<U6")


def _parameters(row: Mapping[str, Any], count: int) -> list[list[float]]:
    nothing = [math.nan] * 4
    given = row["parameters"] or [None] * count
    return [nothing if values is None else values for values in given]


def _stacked(parts: Sequence[Sequence[Any]], shape: tuple[int, ...]) -> np.ndarray:
    """The entries of all parts as one float64 array; `shape` is that of none."""
    entries = [entry for part in parts for entry in part]
    return np.array(entries, dtype=np.float64).reshape(len(entries), *shape[1:])
