"""Tracks, graphs and metrics as files that others read: CSV, Parquet, GraphML, JSON. Each is written whole or
not at all.

Columns are described by `TRACK_COLUMNS`, `CENTROID_COLUMNS`, `METRIC_COLUMNS` and `GRAPH_COLUMNS`. What is
undefined is an empty cell, null, or an attribute that is left out.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from durotaxis.analysis.tracks import (
    CENTROID_COLUMNS,
    NOBODY,
    TRACK_COLUMNS,
    Centroids,
    Tracks,
    columns_of,
)
from durotaxis.records import Column, EpisodeInfo, RecordError, cannot_write, write_atomic

if TYPE_CHECKING:
    import networkx

Columns = Mapping[str, np.ndarray]
"""Name -> column, [R] each."""

TABLE_FORMATS = ("csv", "parquet")
GRAPH_FORMATS = ("graphml", "json")
IDS = ("parent_id", "mother_id")
"""Whole numbers that may be none."""

_OF_GRAPHS = ("episode", "step", "minutes")
NODE_COLUMNS = tuple(
    column for column in TRACK_COLUMNS if column.name not in (*_OF_GRAPHS, "track_id", "parent_id")
)
"""Attributes of a node; its name is its track_id."""
EDGE_COLUMNS = (Column("length_um", "µm", "distance from parent to child"),)
"""Attributes of an edge, which runs from a parent to its child."""
GRAPH_COLUMNS = (
    *(column for column in TRACK_COLUMNS if column.name in _OF_GRAPHS),
    Column("seed", "int64", "of the episode"),
    Column("scenario", "name", "world that it was played in"),
    Column("direction_rad", "rad", "way to the goal, counter-clockwise from +x"),
    Column("width_um", "µm", "of the substrate"),
    Column("height_um", "µm", "of the substrate"),
)
"""Attributes of a graph."""

NO_PYARROW = "Parquet needs pyarrow: pip install 'durotaxis[parquet]', or choose --format csv"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first date that zip knows; two equal exports are equal to the byte


def column_tables() -> str:
    """All columns as Markdown, for the documentation."""
    from durotaxis.analysis.metrics import METRIC_COLUMNS
    from durotaxis.analysis.migration import SUMMARY_COLUMNS

    tables = {
        "`tracks`": TRACK_COLUMNS,
        "`centroids`": CENTROID_COLUMNS,
        "`metrics`": METRIC_COLUMNS,
        "`metrics-summary`": SUMMARY_COLUMNS,
        "`graphs`: of a graph": GRAPH_COLUMNS,
        "`graphs`: of a node": NODE_COLUMNS,
        "`graphs`: of an edge": EDGE_COLUMNS,
    }
    parts = []
    for title, columns in tables.items():
        rows = [f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in columns]
        parts.append("\n".join([f"### {title}", "", "| column | unit | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def arrays_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of equal keys as columns; at least one row."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def is_missing(name: str, column: np.ndarray) -> np.ndarray:
    """Which entries of a column stand for nothing, bool."""
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind == "U":
        return column == ""
    return column == NOBODY if name in IDS else np.zeros(len(column), dtype=bool)


def write_csv(path: Path, columns: Columns, schema: Sequence[Column]) -> Path:
    """A table as CSV (UTF-8, commas): true and false, numbers with all their digits, empty cells for nothing.

    Raises:
        RecordError: the file cannot be written.
    """
    _require_schema(columns, schema)
    cells = [_texts(name, column) for name, column in columns.items()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*cells, strict=True))
    return _written(path, text.getvalue().encode())


def write_parquet(path: Path, columns: Columns, schema: Sequence[Column]) -> Path:
    """A table as Parquet. Unit and meaning of each column stand in the metadata of its field.

    Raises:
        RecordError: pyarrow is not installed, or the file cannot be written.
    """
    _require_schema(columns, schema)
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise RecordError(NO_PYARROW) from error
    arrays = [
        arrow.array(column.tolist(), type=_arrow_type(arrow, column), mask=is_missing(name, column))
        for name, column in columns.items()
    ]
    about = [
        arrow.field(c.name, array.type, metadata={"unit": c.unit, "meaning": c.meaning})
        for c, array in zip(schema, arrays, strict=True)
    ]
    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=arrow.schema(about)), buffer)
    return _written(path, buffer.getvalue())


def write_table(folder: Path, name: str, columns: Columns, schema: Sequence[Column], form: str) -> Path:
    """A table in one of TABLE_FORMATS, as `<folder>/<name>.<form>`."""
    write = write_csv if form == "csv" else write_parquet
    return write(folder / f"{name}.{form}", columns, schema)


def table_columns(table: Tracks | Centroids) -> tuple[Columns, Sequence[Column]]:
    """The columns of a table, and what they mean."""
    return columns_of(table), TRACK_COLUMNS if isinstance(table, Tracks) else CENTROID_COLUMNS


def graph_of(tracks: Tracks, rows: np.ndarray, step: int, info: EpisodeInfo) -> networkx.DiGraph:
    """The colony at one step: nodes are named by track_id, edges run from parent to child.

    Args:
        tracks: of one episode.
        rows: which of them are of the step, indices; none for a colony that died out.
        step: within the episode.
        info: of the episode.
    """
    import networkx

    columns = {c.name: getattr(tracks, c.name)[rows] for c in NODE_COLUMNS}
    kept = {name: ~is_missing(name, column) for name, column in columns.items()}
    graph = networkx.DiGraph(
        episode=int(tracks.episode[0]),
        step=step,
        minutes=step * info.minutes_per_step,
        seed=info.seed,
        scenario=info.scenario,
        direction_rad=info.direction,
        width_um=float(info.size[0]),
        height_um=float(info.size[1]),
    )
    for index, node in enumerate(tracks.track_id[rows].tolist()):
        graph.add_node(node, **{name: c[index].item() for name, c in columns.items() if kept[name][index]})
    for node, parent in zip(tracks.track_id[rows].tolist(), tracks.parent_id[rows].tolist(), strict=True):
        if parent != NOBODY:
            child, origin = graph.nodes[node], graph.nodes[parent]
            length = np.hypot(child["x_um"] - origin["x_um"], child["y_um"] - origin["y_um"])
            graph.add_edge(parent, node, length_um=float(length))
    return graph


def write_graphs(
    path: Path, tracks: Tracks, info: EpisodeInfo, form: str = "graphml", every: int = 1
) -> Path:
    """The colony of one episode at every k-th step and at the end, one file per step within a zip file.

    One file per step alone would make thousands of them, and many would be left by an export that is cut off.

    Args:
        path: ends in .zip.
        tracks: of one episode.
        form: one of GRAPH_FORMATS: GraphML, or the node-link JSON of networkx and D3 with the key `edges`.
        every: k, at least 1.

    Raises:
        RecordError: the file cannot be written.
    """
    steps = sorted({*range(0, info.length + 1, every), info.length})
    first, end = (np.searchsorted(tracks.step, steps, side=side) for side in ("left", "right"))

    def save(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for step, low, high in zip(steps, first, end, strict=True):
                graph = graph_of(tracks, np.arange(low, high), step, info)
                entry = zipfile.ZipInfo(f"{step:05d}.{form}", _LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, _graph_bytes(graph, form))

    return _written(path, save)


def _graph_bytes(graph: networkx.DiGraph, form: str) -> bytes:
    if form == "graphml":
        from networkx.readwrite.graphml import write_graphml_xml

        buffer = io.BytesIO()
        write_graphml_xml(graph, buffer)
        return buffer.getvalue()
    # By hand, since the key of the edges depends on the version of networkx.
    nodes = [{"id": node, **values} for node, values in graph.nodes(data=True)]
    edges = [{"source": a, "target": b, **values} for a, b, values in graph.edges(data=True)]
    whole = {"directed": True, "multigraph": False, "graph": graph.graph, "nodes": nodes, "edges": edges}
    return json.dumps(whole, allow_nan=False).encode()


def _texts(name: str, column: np.ndarray) -> list[str]:
    missing = is_missing(name, column).tolist()
    return ["" if none else _text(value) for value, none in zip(column.tolist(), missing, strict=True)]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _arrow_type(arrow: Any, column: np.ndarray) -> Any:
    kinds = {"f": arrow.float64(), "i": arrow.int64(), "b": arrow.bool_(), "U": arrow.string()}
    return kinds[column.dtype.kind]


def _require_schema(columns: Columns, schema: Sequence[Column]) -> None:
    if list(columns) != [column.name for column in schema]:
        raise ValueError(f"columns {', '.join(columns)} are not those that are described")


def _written(path: Path, content: Any) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    write_atomic(path, content)
    return path
