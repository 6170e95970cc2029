"""Labels against networkx, breadth-first search and plain geometry."""

import networkx
import numpy as np
import pytest
import torch

from durotaxis.env import reset
from durotaxis.env.observation import observe
from durotaxis.env.substrate import stiffness
from durotaxis.pretrain import labels
from durotaxis.pretrain.examples import _balanced, _piece_under, examine
from durotaxis.pretrain.scenes import random_scenes
from durotaxis.pretrain.worlds import world


def scene_graph(examples, scene):
    """One scene's graph in networkx, nodes named by their rows."""
    graph = examples.graph
    rows = (graph.batch == scene).nonzero()[:, 0].tolist()
    whole = networkx.Graph(graph.edge_index.T.tolist())
    whole.add_nodes_from(rows)
    return whole.subgraph(rows)


@pytest.fixture(scope="module")
def by_edges():
    return examine(random_scenes(world("moat"), 3, 60), "graph", 4)


@pytest.fixture(scope="module")
def by_ground():
    scenes = random_scenes(world("checkers"), 3, 60)
    return scenes, examine(scenes, "ground", 4)


def test_components_and_marked_pairs_are_those_of_networkx(by_edges):
    answers = []
    for scene in range(len(by_edges)):
        graph = scene_graph(by_edges, scene)
        count = networkx.number_connected_components(graph)
        assert int(by_edges.of_scene["components"][scene]) == min(count, 5) - 1
        answer = int(by_edges.of_scene["joined"][scene])
        marked = (by_edges.graph.nodes[:, 10] == 1) & (by_edges.graph.batch == scene)
        if answer < 0:
            assert not bool(marked.any())
            continue
        first, second = by_edges.pair[scene].tolist()
        assert marked.nonzero()[:, 0].tolist() == sorted((first, second))
        assert networkx.has_path(graph, first, second) == bool(answer)
        answers.append(answer)
    assert answers.count(0) == answers.count(1) > 10


def test_ground_pairs_are_joined_as_breadth_first_search_finds(by_ground):
    scenes, examples = by_ground
    seen = observe(scenes.colony, scenes.substrate, scenes.config)
    answers = examples.of_scene["joined"]
    size, step = 72, 120 / 72
    for scene in (answers >= 0).nonzero()[:12, 0].tolist():
        corner = seen.frame_low[scene]
        centres = torch.arange(size) * step + 0.5 * step
        places = torch.stack(torch.meshgrid(corner[0] + centres, corner[1] + centres, indexing="ij"), -1)
        flat = places.view(1, -1, 2)
        inside = ((flat >= 0) & (flat <= scenes.substrate.size[scene])).all(-1)
        firm = (inside & (stiffness(flat, scenes.substrate[scene : scene + 1]) >= 0.3)).view(size, size)
        grid = networkx.grid_2d_graph(size, size).subgraph([tuple(c) for c in firm.nonzero().tolist()])
        first = int((examples.graph.batch == scene).nonzero()[0])
        ends = [
            tuple(((scenes.colony.position[scene, row - first] - corner) / step).long().tolist())
            for row in examples.pair[scene].tolist()
        ]
        assert networkx.has_path(grid, *ends) == bool(answers[scene])
    assert int((answers == 0).sum()) == int((answers == 1).sum()) > 5


def test_the_marked_pair_shows_in_the_picture(by_ground):
    _, examples = by_ground
    for scene in range(len(examples)):
        shown = examples.field[scene, 2].sum() * 4
        assert float(shown) == (2 if examples.of_scene["joined"][scene] >= 0 else 0)


def test_clusters_are_groups_of_touching_pixels(by_edges):
    for scene in range(20):
        pixels = [tuple(pixel) for pixel in (by_edges.field[scene, 1] > 0).nonzero().tolist()]
        graph = networkx.Graph()
        graph.add_nodes_from(pixels)
        near = [(a, b) for a in pixels for b in pixels if max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1]
        graph.add_edges_from(near)
        count = networkx.number_connected_components(graph)
        assert int(by_edges.of_scene["clusters"][scene]) == min(count, 5) - 1


def test_blocked_ahead_is_the_ground_at_that_place():
    colony, substrate = reset(world("moat"), torch.tensor([5]))
    places = torch.tensor([[60.0, 50.0], [100.0, float(substrate.moat.bridges[0, 0])], [195.0, 95.0]])
    colony.position[0, :3] = places
    blocked = labels.blocked_ahead(colony, substrate)[0]
    # 60 µm is 25 µm before the band: only the far look straight ahead (and back to 35) differs.
    assert blocked[0].tolist() == [False, True] + [False] * 14
    # On the bridge, 16 µm wide, up and down is soft at either distance, ahead is firm.
    assert not blocked[1, 0]
    assert blocked[1, [4, 5, 12, 13]].all()
    # In the upper right corner everything ahead and above lies beyond the substrate, all else is firm.
    assert blocked[2].view(8, 2).tolist() == [[True] * 2] * 4 + [[False] * 2] * 3 + [[True] * 2]


def test_the_bridge_is_left_ahead_or_right():
    config = world("moat")
    colony, substrate = reset(config, torch.tensor([5]))
    middle = float(substrate.moat.bridges[0, 0])
    places = [[70.0, middle - 9], [70.0, middle + 7], [90.0, middle + 9], [116.0, middle]]
    colony.position[0, :4] = torch.tensor(places)
    low, high = torch.tensor([[30.0, middle - 60]]), torch.tensor([[150.0, middle + 60]])
    side, offset = labels.bridge_of(colony, substrate, low, high)
    assert side[0, :4].tolist() == [labels.LEFT, labels.AHEAD, labels.RIGHT, labels.UNKNOWN]
    torch.testing.assert_close(offset[0, 0], torch.tensor([0.5, 9 / 60]))
    unseen, _ = labels.bridge_of(colony, substrate, low - 40, high - 100)
    assert (unseen == labels.UNKNOWN).all()
    nothing, _ = labels.bridge_of(*reset(world("linear"), torch.tensor([5])), low, high)
    assert (nothing == labels.UNKNOWN).all()


def test_answers_are_balanced_as_far_as_scenes_allow():
    generator = np.random.default_rng(0)
    possible = np.array([[True, True]] * 30 + [[False, True]] * 50 + [[False, False]] * 5)
    shown = _balanced(possible, generator)
    assert (shown == 0).sum() == (shown == 1).sum() > 20
    assert all(possible[scene, answer] for scene, answer in enumerate(shown) if answer >= 0)


def test_a_node_off_firm_ground_stands_on_no_piece():
    pieces = np.zeros((2, 72, 72), dtype=np.int32)
    pieces[1, :, 36:] = 3
    points = torch.tensor([[0.5, 0.0], [0.5, 0.0], [-0.5, 0.0]])
    piece = _piece_under(pieces, points, torch.tensor([0, 1, 1]))
    assert piece.tolist() == [0, 3 + 72 * 72, 0]
