"""Exports read back by other programs, and compared with the records."""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile

import networkx
import numpy as np
import pandas
import pytest

from analysis.made_episodes import PARAMETERS, STORIES, story
from durotaxis import cli
from durotaxis.analysis import export
from durotaxis.analysis.export import (
    EDGE_COLUMNS,
    GRAPH_COLUMNS,
    IDS,
    NODE_COLUMNS,
    arrays_of,
    graph_of,
    write_csv,
    write_graphs,
)
from durotaxis.analysis.metrics import METRIC_COLUMNS, metrics_of, row_of
from durotaxis.analysis.tracks import CENTROID_COLUMNS, TRACK_COLUMNS, centroids_of, tracks_of
from durotaxis.records import write_episodes

NAMES = list(STORIES)
PARAMETER_COLUMNS = ["max_step_um", "half_saturation_kpa", "noise", "angle_rad"]
WHOLE = dict.fromkeys(IDS, "Int64")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one recorded episode per story, from which commands run."""
    monkeypatch.chdir(tmp_path)
    write_episodes(tmp_path / "run", [story(frames, seed=9) for frames in STORIES.values()])
    return tmp_path / "run"


@pytest.fixture
def call(capsys):
    def call(*arguments: str) -> tuple[int, str]:
        code = cli.run(["export", *arguments])
        out, err = capsys.readouterr()
        return code, err or out

    return call


def compare_tracks(table: pandas.DataFrame, names: list[str]) -> None:
    """Row by row with what was written down."""
    assert list(table.columns) == [column.name for column in TRACK_COLUMNS]
    rows = iter(table.to_dict("records"))
    for name in names:
        frames = STORIES[name]
        for step, frame in enumerate(frames):
            for node in frame:
                row = next(rows)
                assert (row["episode"], row["step"], row["minutes"]) == (NAMES.index(name), step, 10.0 * step)
                assert (row["track_id"], row["x_um"], row["y_um"]) == (node.id, node.x, node.y)
                assert (row["s_um"], row["t_um"]) == (node.x, node.y)
                assert row["stiffness_kpa"] == 1 + node.x / 10
                assert (
                    pandas.isna(row["parent_id"]) if node.parent is None else row["parent_id"] == node.parent
                )
                assert row["marked"] is node.marked
                is_end = step == len(frames) - 1
                if is_end:
                    assert pandas.isna(row["action"])
                else:
                    assert row["action"] == ("rest", "spawn", "delete")[node.kind]
                    assert row["death"] is (node.kind == 2)
                values = [row[column] for column in PARAMETER_COLUMNS]
                if node.kind == 1 and not is_end:
                    assert values == PARAMETERS
                else:
                    assert all(pandas.isna(value) for value in values)
    assert next(rows, None) is None


def test_tracks_as_csv(place, call):
    assert call(str(place), "tracks")[0] == 0
    table = pandas.read_csv(place / "exports" / "tracks.csv", dtype=WHOLE)
    compare_tracks(table, NAMES)
    assert table[["founder", "marked", "birth", "death"]].dtypes.eq(bool).all()
    colony = pandas.read_csv(place / "exports" / "centroids.csv")
    assert list(colony.columns) == [column.name for column in CENTROID_COLUMNS]
    means = table.groupby(["episode", "step"])[["x_um", "y_um", "stiffness_kpa"]].mean().reset_index()
    both = colony.merge(means, on=["episode", "step"], how="left", suffixes=("", "_mean"))
    for name in ("x_um", "y_um", "stiffness_kpa"):
        np.testing.assert_allclose(both[name], both[f"{name}_mean"])
    gone = colony[colony.num_nodes == 0]
    assert len(gone) == 1
    assert gone.x_um.isna().all()


def test_chosen_episodes_into_a_chosen_folder(place, call):
    code, out = call(str(place), "tracks", "--episode", "3", "--episode", "0", "--out", "new/tables")
    assert code == 0
    assert out.splitlines() == ["written to new/tables/tracks.csv", "written to new/tables/centroids.csv"]
    compare_tracks(pandas.read_csv("new/tables/tracks.csv", dtype=WHOLE), [NAMES[0], NAMES[3]])
    assert not (place / "exports").exists()


def test_metrics_as_csv(place, call):
    assert call(str(place), "metrics")[0] == 0
    table = pandas.read_csv(place / "exports" / "metrics.csv")
    assert list(table.columns) == [column.name for column in METRIC_COLUMNS]
    for number, frames in enumerate(STORIES.values()):
        episode = story(frames, seed=9)
        tracks = tracks_of(episode, number)
        for name, value in row_of(metrics_of(episode, tracks, centroids_of(episode, tracks))).items():
            found = table[name][number]
            assert pandas.isna(found) if isinstance(value, float) and np.isnan(value) else found == value, (
                name
            )


def test_parquet_holds_the_same_with_types_units_and_meanings(place, call):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'durotaxis[parquet]'")
    assert call(str(place), "tracks", "--format", "parquet")[0] == 0
    assert call(str(place), "metrics", "--format", "parquet")[0] == 0
    table = pandas.read_parquet(place / "exports" / "tracks.parquet", dtype_backend="numpy_nullable")
    assert str(table.parent_id.dtype) == str(table.step.dtype) == "Int64"
    assert str(table.x_um.dtype) == "Float64"
    assert str(table.death.dtype) == "boolean"
    compare_tracks(table, NAMES)
    for file, schema in {
        "tracks": TRACK_COLUMNS,
        "centroids": CENTROID_COLUMNS,
        "metrics": METRIC_COLUMNS,
    }.items():
        if file == "centroids":
            found = parquet.read_schema(place / "exports" / "centroids.parquet")
        else:
            found = parquet.read_schema(place / "exports" / f"{file}.parquet")
        about = {
            field.name: (field.metadata[b"unit"].decode(), field.metadata[b"meaning"].decode())
            for field in found
        }
        assert about == {column.name: (column.unit, column.meaning) for column in schema}


def test_without_pyarrow_the_way_out_is_named(place, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, err = call(str(place), "tracks", "--format", "parquet")
    assert (code, err) == (2, f"durotaxis: {export.NO_PYARROW}\n")
    assert "pip install 'durotaxis[parquet]'" in err
    assert not (place / "exports").exists()


def read_graphs(path, form) -> dict[int, networkx.DiGraph]:
    graphs = {}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            content = archive.read(name)
            if form == "graphml":
                graphs[int(name.split(".")[0])] = networkx.read_graphml(io.BytesIO(content), node_type=int)
            else:
                graphs[int(name.split(".")[0])] = networkx.node_link_graph(json.loads(content), edges="edges")
    return graphs


TYPES = {
    "generation": int,
    "founder": bool,
    "x_um": float,
    "age_steps": int,
    "action": str,
    "marked": bool,
    "noise": float,
}


@pytest.mark.parametrize("form", ["graphml", "json"])
def test_graphs(place, call, form):
    code, out = call(str(place), "graphs", "--format", form)
    assert code == 0
    assert len(out.splitlines()) == len(STORIES)
    for number, frames in enumerate(STORIES.values()):
        graphs = read_graphs(place / "exports" / f"graphs-{number}.{form}.zip", form)
        assert list(graphs) == list(range(len(frames)))
        for step, frame in enumerate(frames):
            graph = graphs[step]
            assert graph.is_directed()
            assert not graph.is_multigraph()
            stated = {c.name for c in GRAPH_COLUMNS}
            assert stated <= set(graph.graph)
            assert (graph.graph["episode"], graph.graph["step"], graph.graph["minutes"]) == (
                number,
                step,
                10.0 * step,
            )
            assert sorted(graph) == sorted(node.id for node in frame)
            edges = {(node.parent, node.id) for node in frame if node.parent is not None}
            assert set(graph.edges) == edges
            for node in frame:
                values = graph.nodes[node.id]
                assert set(values) <= {c.name for c in NODE_COLUMNS}
                assert (values["x_um"], values["y_um"], values["marked"]) == (node.x, node.y, node.marked)
                for name, kind in TYPES.items():
                    assert type(values.get(name, kind())) is kind, name
                assert ("noise" in values) is (node.kind == 1 and step < len(frames) - 1)
                assert ("action" in values) is (step < len(frames) - 1)
            places = {node.id: np.array([node.x, node.y]) for node in frame}
            for a, b, values in graph.edges(data=True):
                assert set(values) == {c.name for c in EDGE_COLUMNS}
                assert values["length_um"] == pytest.approx(np.linalg.norm(places[a] - places[b]))


def test_every_so_many_steps_and_the_end(place, call):
    assert call(str(place), "graphs", "--every", "3", "--episode", "0")[0] == 0
    assert list(read_graphs(place / "exports" / "graphs-0.graphml.zip", "graphml")) == [0, 3, 4]


def test_a_step_where_nobody_lives_is_an_empty_graph():
    episode = story(STORIES["dies out"])
    graph = graph_of(tracks_of(episode), np.zeros(0, dtype=int), 2, episode.info)
    assert (len(graph), graph.graph["step"]) == (0, 2)


def test_two_exports_are_equal_to_the_byte(tmp_path):
    episode = story(STORIES["family"])
    tracks = tracks_of(episode)
    paths = [write_graphs(tmp_path / f"{name}.zip", tracks, episode.info) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_csv_keeps_all_digits_and_awkward_names(tmp_path):
    episode = story(STORIES["family"], policy='a "b", c\nd', minutes_per_step=1 / 3)
    tracks = tracks_of(episode)
    row = row_of(metrics_of(episode, tracks, centroids_of(episode, tracks)))
    path = write_csv(tmp_path / "m.csv", arrays_of([row]), METRIC_COLUMNS)
    with path.open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["policy"] == row["policy"]
    assert float(found["velocity"]) == row["velocity"]
    assert (found["success"], found["autocorrelation"]) == ("false", "")


def test_columns_that_nobody_described_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not those that are described"):
        write_csv(tmp_path / "m.csv", {"x": np.zeros(2)}, METRIC_COLUMNS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "tracks"], "none is not a run directory: it has no config.yaml"),
        (["empty", "tracks"], "empty has no recorded episodes; `durotaxis evaluate empty` plays some"),
        (["run", "films"], "'films' is not one of 'tracks', 'graphs', 'metrics', 'policy'"),
        (["run", "tracks", "--format", "xlsx"], "--format xlsx: tracks come as csv or parquet"),
        (["run", "graphs", "--format", "csv"], "--format csv: graphs come as graphml or json"),
        (["run", "graphs", "--every", "0"], "Invalid value for '--every'"),
        (["run", "metrics", "--every", "2"], "--every: nothing to choose for `metrics`; leave it out"),
        (["run", "policy", "--episode", "0", "--format", "csv"], "--episode, --format: nothing to choose for `policy`"),
        (["run", "tracks", "--episode", "9"], "run has no episode 9; it has 0 to 4"),
        (["run", "tracks", "--out", "file"], "cannot write into file: file is not a directory"),
        (["run", "tracks", "--out", "file/deeper"], "file is not a directory; choose another one"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(place, call, arguments, message):
    (place.parent / "empty").mkdir()
    (place.parent / "empty" / "config.yaml").touch()
    (place.parent / "file").touch()
    code, err = call(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert {path.name for path in place.parent.iterdir()} == {"run", "empty", "file"}
    assert {path.name for path in place.iterdir()} == {"episodes"}


def test_a_damaged_episode_leaves_nothing_half_written(place, call):
    (place / "episodes" / "4.jsonl.gz").write_bytes(b"no gzip")
    code, err = call(str(place), "graphs")
    assert code == 2
    assert "4.jsonl.gz cannot be read" in err
    assert not (place / "exports").exists()


def test_a_full_disk_leaves_what_was_there(place, call, monkeypatch):
    assert call(str(place), "graphs", "--episode", "0")[0] == 0
    path = place / "exports" / "graphs-0.graphml.zip"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.zipfile.ZipFile, "writestr", full)
    code, err = call(str(place), "graphs", "--episode", "0")
    assert code == 2
    assert "the disk is full" in err
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_policies_are_exported_elsewhere(place, call, monkeypatch):
    asked = []
    deploy = type(cli)("durotaxis.cli.deploy")
    deploy.export_policy = lambda target, out: asked.append((target, out))
    monkeypatch.setitem(sys.modules, "durotaxis.cli.deploy", deploy)
    assert call(str(place), "policy", "--out", "agent")[0] == 0
    assert [(str(target), str(out)) for target, out in asked] == [(str(place), "agent")]
