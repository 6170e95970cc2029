"""Networks of the user: every format, real loading code, and clear refusals."""

import socket
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.pretrain.networks import Network, excerpt, read_network
from durotaxis.pretrain.scenes import network_scenes
from durotaxis.pretrain.worlds import world


def edges_of(network):
    return {tuple(sorted(edge)) for edge in network.edges.tolist()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "source,target,weight\nx,y,0.3\ny,z,1\nz,y,2\nx,x,1\n"),
        ("a.tsv", "protein1\tprotein2\tscore\nx\ty\t1\ny\tz\t1\n"),
        ("a.txt", "# nodes and edges\n% more\n\nx y\n  y   z 4\n"),
        ("a.edgelist", "x y {'weight': 1, 'kind': 2}\ny z {}\n"),
        ("a.tsv", "gene1\tgene2\nx\ty\ny\tz\n"),
        ("a.csv", "Interactor_A,Interactor B\nx,y\ny,z\n"),
        ("a.txt", "a b\nb c\n"),
        ("a.csv", "U,V\nV,W\n"),
        ("a.txt", "source b\nb c\n"),
        ("a.csv", '"x, human", y\ny, "z ""2"""\n"x, human","x, human"\n'),
        ("a.tsv", '"x\t1"\ty\ny\tz\n'),
        ("a.txt", '"x 1"  y\ny z\n'),
        ("a.sif", "x pp y\ny pd z\n"),
    ],
)
def test_edge_lists(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    network = read_network(str(tmp_path / name), tmp_path)
    assert network.num_nodes == 3
    assert edges_of(network) == {(0, 1), (1, 2)}
    assert network.places is None


def test_sif_lists_several_targets_and_lone_nodes(tmp_path):
    path = tmp_path / "a.sif"
    path.write_text("node one\tpp\tb\tc\nlone\nb\tpp\tc\n")
    network = read_network(str(path), tmp_path)
    assert network.num_nodes == 4
    assert edges_of(network) == {(0, 1), (0, 2), (1, 2)}


def test_graphml_with_and_without_places(tmp_path):
    graph = networkx.random_geometric_graph(20, 0.4, seed=1)
    networkx.write_graphml(networkx.Graph(graph.edges), tmp_path / "bare.graphml")
    for _, values in graph.nodes(data=True):
        values["x"], values["y"] = map(float, values.pop("pos"))
    networkx.write_graphml(graph, tmp_path / "placed.graphml")
    placed = read_network(str(tmp_path / "placed.graphml"), tmp_path)
    assert edges_of(placed) == {tuple(sorted(edge)) for edge in graph.edges}
    expected = [[values["x"], values["y"]] for _, values in graph.nodes(data=True)]
    np.testing.assert_allclose(placed.places, expected)
    assert read_network(str(tmp_path / "bare.graphml"), tmp_path).places is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "left"])
def test_places_that_are_no_finite_numbers_are_refused(tmp_path, value):
    graph = networkx.path_graph(3)
    networkx.set_node_attributes(graph, {0: value, 1: value, 2: value}, "x")
    networkx.set_node_attributes(graph, 1.0, "y")
    networkx.write_graphml(graph, tmp_path / "a.graphml")
    with pytest.raises(UserError, match=r"a\.graphml: x and y of every node must be finite numbers"):
        read_network(str(tmp_path / "a.graphml"), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), True])
def test_places_of_a_dataset_are_checked_too(tmp_path, monkeypatch, value):
    from torch_geometric import datasets
    from torch_geometric.data import Data

    graph = Data(edge_index=torch.tensor([[0], [1]]), pos=torch.full((2, 2), value), num_nodes=2)
    monkeypatch.setattr(
        datasets, "KarateClub", type("KarateClub", (list,), {"__init__": lambda s: s.append(graph)})
    )
    with pytest.raises(UserError, match="pyg:KarateClub: pos of every node must be finite numbers"):
        read_network("pyg:KarateClub", tmp_path)


def test_a_dataset_of_torch_geometric_that_needs_no_download(tmp_path):
    network = read_network("pyg:KarateClub", tmp_path)
    expected = networkx.karate_club_graph()
    assert network.num_nodes == 34
    assert edges_of(network) == {tuple(sorted(edge)) for edge in expected.edges}


def test_a_dataset_of_torch_geometric_from_raw_files(tmp_path):
    raw = tmp_path / "TUDataset" / "TINY" / "raw"
    raw.mkdir(parents=True)
    (raw / "TINY_A.txt").write_text("1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n")
    (raw / "TINY_graph_indicator.txt").write_text("1\n1\n1\n2\n2\n")
    (raw / "TINY_graph_labels.txt").write_text("0\n1\n")
    network = read_network("pyg:TUDataset/TINY", tmp_path)
    assert network.num_nodes == 5
    assert edges_of(network) == {(0, 1), (1, 2), (3, 4)}


def test_a_dataset_that_cannot_be_fetched_says_where_to_put_it(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(UserError, match=r"pyg:TUDataset/MUTAG: cannot be had .*raw files under .*TUDataset"):
        read_network("pyg:TUDataset/MUTAG", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\nz\n", r"a\.csv:2: needs two node names, not 'z'"),
        ("a.txt", "x x\n", "holds no edge between two nodes"),
        ("a.txt", "x, y\ny, z\n", r"a\.txt:1: 'x,' is no node name: .* ends in \.csv"),
        ("a.txt", "x y\ny ;z\n", r"a\.txt:2: ';z' is no node name"),
        ("a.csv", 'x,"y\n', r"a\.csv:1: quotes do not close"),
        ("a.sif", "x pp\n", r"a\.sif:1: needs `node type node`"),
        ("a.graphml", "<graphml><broken", "not readable as GraphML"),
        ("a.xlsx", "", "a network ends in .csv"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_network(str(tmp_path / name), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.csv", "does not exist"),
        ("gone.graphml", "does not exist"),
        ("pyg:KarateClubb", "did you mean 'KarateClub'"),
        ("pyg:TUDataset", "needs the name of a part"),
        ("pyg:KarateClub/x", "has no parts"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        read_network(str(tmp_path / name) if name.startswith("gone") else name, tmp_path)


def test_excerpts_are_parts_of_the_network():
    grid = networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(9, 9), label_attribute="at")
    places = np.array([grid.nodes[node]["at"] for node in grid], dtype=float)
    network = Network("grid", 81, np.array(list(grid.edges)), places)
    generator = np.random.default_rng(0)
    for _ in range(10):
        drawn, edges = excerpt(network, generator, 30)
        assert 4 <= len(drawn) <= 30
        lengths = np.linalg.norm(drawn[edges[:, 0]] - drawn[edges[:, 1]], axis=1)
        # Every edge of a grid is equally long, whatever the excerpt; loose ends would not be.
        np.testing.assert_allclose(lengths, lengths[0])
        assert 3 <= lengths[0] <= 10


def test_networks_become_scenes():
    network = read_network("pyg:KarateClub", Path())
    scenes, again = (network_scenes(world("moat"), network, 3, 6) for _ in range(2))
    assert scenes.colony.batch_size == 6
    assert bool((scenes.colony.position == again.colony.position).all())
    scene, source, target = scenes.links
    assert bool(scenes.colony.alive[scene, source].all())
    assert bool(scenes.colony.alive[scene, target].all())
