"""Recorded episodes as one self-contained page that plays them: no server, nothing loaded from elsewhere.

The page holds a description (JSON) and all numbers as typed arrays, one behind the other, little-endian,
deflated, in base64. The description says of every array its `type`, first byte and `length`; a "u2" array is
quantised: the value is low + (high - low) number / 65535. With T steps, M nodes over all T + 1 rows and S
spawns an episode has

    begin             i4 [T+2]  where the nodes of each row begin
    id, parent        i4 [M]    parent: place within the row, -1 for roots
    birth             i4 [M]    step - age
    x, y, stiffness   f4 [M]    µm, kPa
    state             u1 [M]    kind, 3 where no action follows; +4 where marked
    max_step, half_saturation, noise, angle
                      u2 [S]    of the spawning nodes, in order
    attention/<k>     u2        in [0, 1]; per node of the T steps, or per step
    value, entropy, reward, term/<name>
                      f4 [T]    value and entropy only where recorded
    field             f4        stiffness of the pixels, row by row
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from durotaxis.records import CHECKPOINTS, Episode, EpisodeInfo, RecordError, cannot_write, write_atomic

SUFFIX = ".html"
MANY_NODES = 800
"""Of a step with more nodes the page draws plain dots."""
PARAMETERS = ("max_step", "half_saturation", "noise", "angle")
UNDECIDED, MARKED = 3, 4
_LEVELS = 65535

_SCRIPTS = ("data.js", "colony.js", "curves.js", "player.js")

_COLOURS = {
    "ink": (33, 39, 49),
    "paper": (255, 255, 255),
    "mark": (190, 30, 130),
    "old": (0, 50, 95),
    "kinds": ((250, 250, 250), (0, 114, 178), (213, 94, 0)),
    "categories": (
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (86, 180, 233),
        (213, 94, 0),
        (150, 150, 150),
    ),
}
"""Those of the films (`durotaxis.env.render`), which this layer cannot import; a test holds them equal."""


def write_replay(episodes: Sequence[Episode], path: Path, *, allow_different: bool = False) -> Path:
    """Write the page of one episode, or of two side by side under one clock.

    Args:
        episodes: one, or two of different agents in the same world on the same seed.
        path: a file ending in `.html`; its folder is made. Replaced whole or not at all.
        allow_different: accept two episodes of different seeds or worlds.

    Returns:
        `path`.

    Raises:
        RecordError: none or more than two episodes, one without steps, two that differ in seed or world,
            records that do not fit together, another ending, or a file that cannot be written.
    """
    if path.suffix != SUFFIX:
        raise RecordError(f"cannot write {path}: a replay is a page; let its name end in {SUFFIX}")
    if not 1 <= len(episodes) <= 2:
        raise RecordError(f"a replay shows one episode or two side by side, not {len(episodes)}")
    if not all(episode.steps for episode in episodes):
        raise RecordError("an episode has no step: there is nothing to show")
    if len(episodes) == 2 and not allow_different:
        _require_same_world(episodes[0].info, episodes[1].info)
    page = _page(episodes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    write_atomic(path, page)
    return path


def agent_name(info: EpisodeInfo) -> str:
    """Who played, in short: of a checkpoint its run, else the record's own words."""
    parts = PurePath(info.policy).parts
    return parts[-3] if len(parts) > 2 and parts[-2] == CHECKPOINTS else info.policy


def _require_same_world(first: EpisodeInfo, second: EpisodeInfo) -> None:
    for what in ("seed", "scenario"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            raise RecordError(
                f"cannot show the episodes side by side: {what} {a} and {what} {b}; take equal ones"
            )
    world = ("size", "direction", "goal", "minutes_per_step")
    odd = [what for what in world if _plain(getattr(first, what)) != _plain(getattr(second, what))]
    fields = np.array(first.field), np.array(second.field)
    # The last digit of a recorded stiffness may differ between devices.
    if fields[0].shape != fields[1].shape or not np.allclose(*fields, atol=1e-3):
        odd.append("field")
    if odd:
        raise RecordError(
            f"cannot show the episodes side by side: their worlds differ in {', '.join(odd)}; "
            "record both in the same world"
        )


def _plain(value: Any) -> Any:
    """Lists for tuples, so that what was written compares with what was read."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


# Numbers


@dataclass(frozen=True)
class _Quantised:
    """Numbers in [low, high], to be kept as 16 bits each."""

    values: np.ndarray
    low: float
    high: float


def _columns(episode: Episode) -> dict[str, np.ndarray | _Quantised]:
    """All numbers of an episode, as the head of this module lists them."""
    rows, steps = episode.rows, episode.steps
    counts = [len(row["node_ids"]) for row in rows]
    places = np.array([at for row in rows for at in row["nodes"]], dtype="<f4").reshape(-1, 2)
    columns: dict[str, np.ndarray | _Quantised] = {
        "begin": np.cumsum([0, *counts]).astype("<i4"),
        "id": _flat(rows, "node_ids", "<i4"),
        "parent": _flat(rows, "parents", "<i4"),
        "birth": np.repeat([row["step"] for row in rows], counts).astype("<i4") - _flat(rows, "ages", "<i4"),
        "x": places[:, 0],
        "y": places[:, 1],
        "stiffness": _flat(rows, "stiffness", "<f4"),
        "state": _states(rows),
    }
    columns |= _parameters(episode)
    columns |= _attention(episode)
    for name in ("value", "entropy"):
        if all(row[name] is not None for row in steps):
            columns[name] = _flat(steps, name, "<f4")
    for name in ("reward", *(f"term/{term}" for term in episode.terms)):
        columns[name] = _flat(steps, name, "<f4")
    columns["field"] = np.array(episode.info.field, dtype="<f4").reshape(-1)
    return columns


def _flat(rows: Sequence[Mapping[str, Any]], name: str, kind: str) -> np.ndarray:
    if rows and isinstance(rows[0][name], list):
        return np.array([value for row in rows for value in row[name]], dtype=kind)
    return np.array([row[name] for row in rows], dtype=kind)


def _states(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    states = [
        kind + MARKED * marked
        for row in rows
        for kind, marked in zip(row["kinds"] or [UNDECIDED] * len(row["marked"]), row["marked"], strict=True)
    ]
    return np.array(states, dtype="<u1")


def _parameters(episode: Episode) -> dict[str, _Quantised]:
    spawned = []
    for row in episode.steps:
        found = [of for of, kind in zip(row["parameters"], row["kinds"], strict=True) if kind == 1]
        if any(of is None for of in found):
            raise RecordError(
                f"step {row['step']}: a node spawned without parameters; record the episode again"
            )
        spawned += found
    table = np.array(spawned, dtype=float).reshape(-1, len(PARAMETERS))
    return {name: _ranged(table[:, k]) for k, name in enumerate(PARAMETERS)}


def _ranged(values: np.ndarray) -> _Quantised:
    return _Quantised(values, float(values.min(initial=0.0)), float(values.max(initial=0.0)))


def _attention(episode: Episode) -> dict[str, _Quantised]:
    info = episode.info
    if info.attention_rows is None:
        return {}
    for row in episode.steps:
        num = len(row["node_ids"]) if info.attention_rows == "node" else 1
        shape = np.shape(row["attention"] or [])
        if num and shape != (num, len(info.ptms)):
            raise RecordError(
                f"step {row['step']}: attention of shape {list(shape)}, expected {[num, len(info.ptms)]}; "
                "record the episode again"
            )
    table = np.array([of for row in episode.steps for of in row["attention"] or []], dtype=float)
    table = table.reshape(-1, len(info.ptms))
    return {f"attention/{k}": _Quantised(table[:, k], 0.0, 1.0) for k in range(len(info.ptms))}


def _pack(tables: Sequence[Mapping[str, np.ndarray | _Quantised]]) -> tuple[list[dict[str, Any]], str]:
    """Where each array of each table lies, and all of them as text."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    size = 0
    for table in tables:
        places: dict[str, Any] = {}
        for name, column in table.items():
            place: dict[str, Any] = {}
            if isinstance(column, _Quantised):
                width = column.high - column.low or 1.0
                numbers = np.rint((column.values - column.low) / width * _LEVELS).astype("<u2")
                place = {"low": column.low, "high": column.low + width}
            else:
                numbers = column
            content = numbers.tobytes()
            content += bytes(-len(content) % 4)  # typed arrays begin at multiples of their width
            kind = numbers.dtype.str[1:]
            places[name] = {"type": kind, "start": size, "length": numbers.size, **place}
            parts.append(content)
            size += len(content)
        described.append(places)
    return described, base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()


# The page


def _page(episodes: Sequence[Episode]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    places, packed = _pack([_columns(episode) for episode in episodes])
    names = _names(episodes)
    data = {
        "colours": {**_COLOURS, "ground": _viridis(0.45), "viridis": _viridis(0.0)},
        "manyNodes": MANY_NODES,
        "episodes": [
            {
                "name": name,
                "length": episode.info.length,
                "minutesPerStep": episode.info.minutes_per_step,
                "reason": _words(episode.info.reason),
                "size": list(episode.info.size),
                "direction": episode.info.direction,
                "origin": list(episode.info.origin),
                "goal": episode.info.goal,
                "ptms": list(episode.info.ptms),
                "attentionRows": episode.info.attention_rows,
                "terms": episode.terms,
                "pixels": [len(episode.info.field), len(episode.info.field[0])],
                "columns": columns,
            }
            for name, episode, columns in zip(names, episodes, places, strict=True)
        ],
    }
    folder = resources.files("durotaxis.analysis") / "templates" / "replay"
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((folder / "page.html.jinja").read_text("utf-8"))
    settings = [_setting(episode.info) for episode in episodes]
    shared = [fact for fact in settings[0] if all(fact in of for of in settings)]
    facts = [
        [fact for fact in of if fact not in shared] + _outcome(episode.info)
        for of, episode in zip(settings, episodes, strict=True)
    ]
    if len(episodes) == 1:
        shared, facts = shared + facts[0], [[]]
    return template.render(
        title=f"{' and '.join(names)}, {episodes[0].info.scenario}, seed {episodes[0].info.seed}",
        facts=shared,
        agents=[
            {"name": name, "facts": of, "policy": episode.info.policy}
            for name, of, episode in zip(names, facts, episodes, strict=True)
        ],
        ratio=[episode.info.size[0] / episode.info.size[1] for episode in episodes],
        data=data,
        packed=packed,
        style=Markup((folder / "style.css").read_text("utf-8")),
        script=Markup("\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)),
    )


def _names(episodes: Sequence[Episode]) -> list[str]:
    names = [agent_name(episode.info) for episode in episodes]
    return names if len(set(names)) == len(names) else [f"{name} {k + 1}" for k, name in enumerate(names)]


def _setting(info: EpisodeInfo) -> list[str]:
    facts = [info.scenario, f"seed {info.seed}"]
    if info.trained_steps is not None:
        facts.append(f"{PurePath(info.policy).name}, trained for {info.trained_steps:,} steps")
        facts.append("most likely actions" if info.deterministic else "sampled actions")
    return facts


def _outcome(info: EpisodeInfo) -> list[str]:
    facts = [f"ended after {info.length} steps: {_words(info.reason)}", f"return {info.total_reward:.2f}"]
    if "front_progress" in info.final:
        facts.append(f"front progress {info.final['front_progress']:.2f}")
    return facts


def _words(name: str) -> str:
    return name.replace("_", " ")


def _viridis(lighten: float) -> list[list[int]]:
    """256 colours of viridis from soft to stiff, mixed with so much white."""
    import matplotlib

    rgb = matplotlib.colormaps["viridis"](np.linspace(0.05, 1.0, 256))[:, :3]
    return ((rgb + (1.0 - rgb) * lighten) * 255).round().astype(int).tolist()
