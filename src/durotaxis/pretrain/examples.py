"""Scenes as models see them, with every label: one flat table that training and probes take batches from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from durotaxis.agent.graph import flatten
from durotaxis.agent.image import frame_points
from durotaxis.env import GRAPH_FEATURES, NODE_FEATURES, Colony, Observation, observe
from durotaxis.env.observation import DEGREE_LIMIT, DEGREE_SCALE, LENGTH_SCALE
from durotaxis.fusion import GraphInput
from durotaxis.pretrain import labels
from durotaxis.pretrain.scenes import Scenes

Joined = Literal["graph", "ground"]
"""What a pair of marked nodes is asked about: joined by edges, or by firm ground in the picture."""
_IN, _OUT = NODE_FEATURES.index("in_degree"), NODE_FEATURES.index("out_degree")
_NUM_EDGES, _DENSITY = GRAPH_FEATURES.index("num_edges"), GRAPH_FEATURES.index("density")
_NUM_NODES, _MEAN_DEGREE = GRAPH_FEATURES.index("num_nodes"), GRAPH_FEATURES.index("mean_degree")
_PAIR_SHARE = 0.8
_PAIR_TRIALS = 60
_PAIR_DISTANCE = (0.1, 1.3)  # in units of half the picture
_AT_ONCE = 1024
"""Scenes that are drawn together, so that the lattice of a picture stays small."""


@dataclass(frozen=True)
class Examples:
    """S scenes with n nodes and E edges in all; nodes and edges are sorted by scene."""

    graph: GraphInput  # batch: the scene of each node
    field: Tensor  # [S,3,24,24] float32, as observed
    points: Tensor  # [n,2] float32, places of the nodes in the picture, in [-1,1]
    pair: Tensor  # [S,2] int64, rows of the two marked nodes; -1 where none are
    source: Tensor  # [S] int64, Source
    group: Tensor  # [S] int64, equal in the states of one episode and nowhere else
    of_scene: dict[str, Tensor]  # labels [S,...]: components, clusters, joined, next
    of_node: dict[str, Tensor]  # labels [n,...]: bridge, bridge_offset, blocked

    def __len__(self) -> int:
        return len(self.field)

    def take(self, scenes: Tensor) -> Examples:
        """The scenes of these rows [R], in this order."""
        graph = self.graph
        node_count = torch.bincount(graph.batch, minlength=len(self))
        edge_count = torch.bincount(graph.batch[graph.edge_index[0]], minlength=len(self))
        node_rows, scene = _ranges(node_count, scenes)
        edge_rows, _ = _ranges(edge_count, scenes)
        first_old = node_count.cumsum(0) - node_count
        first_new = node_count[scenes].cumsum(0) - node_count[scenes]
        shift = (first_new - first_old[scenes]).repeat_interleave(edge_count[scenes])
        pair = self.pair[scenes]
        moved = pair + (first_new - first_old[scenes])[:, None]
        return Examples(
            graph=GraphInput(
                graph.nodes[node_rows],
                graph.edge_index[:, edge_rows] + shift,
                graph.edges[edge_rows],
                scene,
                graph.graph[scenes],
            ),
            field=self.field[scenes],
            points=self.points[node_rows],
            pair=torch.where(pair >= 0, moved, -1),
            source=self.source[scenes],
            group=self.group[scenes],
            of_scene={name: value[scenes] for name, value in self.of_scene.items()},
            of_node={name: value[node_rows] for name, value in self.of_node.items()},
        )

    @staticmethod
    def cat(parts: Sequence[Examples]) -> Examples:
        """The scenes of all parts, one after the other."""
        nodes = _offsets([len(part.graph.nodes) for part in parts])
        scenes = _offsets([len(part) for part in parts])
        graph = GraphInput(
            nodes=torch.cat([part.graph.nodes for part in parts]),
            edge_index=torch.cat([p.graph.edge_index + n for p, n in zip(parts, nodes, strict=True)], 1),
            edges=torch.cat([part.graph.edges for part in parts]),
            batch=torch.cat([p.graph.batch + s for p, s in zip(parts, scenes, strict=True)]),
            graph=torch.cat([part.graph.graph for part in parts]),
        )
        pairs = [torch.where(p.pair >= 0, p.pair + n, -1) for p, n in zip(parts, nodes, strict=True)]
        return Examples(
            graph=graph,
            field=torch.cat([part.field for part in parts]),
            points=torch.cat([part.points for part in parts]),
            pair=torch.cat(pairs),
            source=torch.cat([part.source for part in parts]),
            group=torch.cat([part.group for part in parts]),
            of_scene={k: torch.cat([p.of_scene[k] for p in parts]) for k in parts[0].of_scene},
            of_node={k: torch.cat([p.of_node[k] for p in parts]) for k in parts[0].of_node},
        )


def examine(scenes: Scenes, joined: Joined, seed: int) -> Examples:
    """Observe scenes, mark a pair of nodes in most of them, and label everything.

    A marked pair is shown instead of the colony's own marks. Pairs that are joined and pairs that are not
    are equally frequent; where that leaves a scene out, its own marks stay.
    """
    generator = np.random.default_rng(seed % (1 << 63))
    count = scenes.colony.batch_size
    rows = torch.arange(count).split(_AT_ONCE)
    return Examples.cat([_examine(_part(scenes, part), joined, generator) for part in rows])


def with_edges(graph: GraphInput, keep: Tensor) -> GraphInput:
    """The same nodes with the edges of `keep` [E] bool alone, and degrees and counts that fit them."""
    edge_index = graph.edge_index[:, keep]
    nodes = graph.nodes.clone()
    for column, end in ((_IN, 1), (_OUT, 0)):
        degree = torch.bincount(edge_index[end], minlength=len(nodes)).to(nodes.dtype)
        nodes[:, column] = degree.clamp_max(DEGREE_LIMIT) / DEGREE_SCALE
    number = torch.bincount(graph.batch, minlength=len(graph.graph)).to(nodes.dtype)
    edges = torch.bincount(graph.batch[edge_index[0]], minlength=len(graph.graph)).to(nodes.dtype)
    whole = graph.graph.clone()
    whole[:, _NUM_EDGES] = edges * whole[:, _NUM_NODES] / number.clamp_min(1)
    whole[:, _DENSITY] = edges / (number * (number - 1)).clamp_min(1)
    whole[:, _MEAN_DEGREE] = edges / number.clamp_min(1)
    return GraphInput(nodes, edge_index, graph.edges[keep], graph.batch, whole)


def observed_graph(seen: Observation, links: Tensor) -> GraphInput:
    """An observation as a graph with these edges [3,E] (scene, source slot, target slot).

    For a colony's own edges it equals `durotaxis.agent.graph.flatten(seen).to_input()`.
    """
    flat = flatten(seen)
    row = (seen.node_mask.flatten().cumsum(0) - 1).view(seen.node_mask.shape)
    scene, source, target = links
    edge = seen.position[scene, target] - seen.position[scene, source]
    length = edge.square().sum(-1, keepdim=True).sqrt()
    features = torch.cat([length / LENGTH_SCALE, edge / length.clamp_min(1e-12)], 1)
    ends = torch.stack([row[scene, source], row[scene, target]])
    bare = GraphInput(flat.nodes, ends, features, flat.batch, flat.graph)
    return with_edges(bare, torch.ones(len(scene), dtype=torch.bool))


def _examine(scenes: Scenes, joined: Joined, generator: np.random.Generator) -> Examples:
    colony = replace(scenes.colony, parent=torch.full_like(scenes.colony.parent, -1))
    seen = observe(colony, scenes.substrate, scenes.config)
    graph = observed_graph(seen, scenes.links)
    assert seen.field is not None
    points = frame_points(seen.position[seen.node_mask], seen.frame_low, seen.frame_high, graph.batch)
    component = labels.component_of(len(graph.nodes), graph.edge_index)
    piece = component
    if joined == "ground":
        pieces = labels.firm_pieces(scenes.substrate, seen.frame_low, seen.frame_high)
        piece = _piece_under(pieces, points, graph.batch)
    pair, answer = _draw_pairs(
        piece, graph.batch.numpy(), points.numpy(), len(seen.field), generator, joined == "ground"
    )
    seen = observe(_with_marks(colony, pair, graph.batch), scenes.substrate, scenes.config)
    assert seen.field is not None
    side, offset = labels.bridge_of(colony, scenes.substrate, seen.frame_low, seen.frame_high)
    blocked = labels.blocked_ahead(colony, scenes.substrate)
    count = labels.num_components(component, graph.batch.numpy(), len(seen.field))
    return Examples(
        graph=observed_graph(seen, scenes.links),
        field=seen.field,
        points=points,
        pair=pair,
        source=torch.full_like(answer, scenes.source),
        group=colony.seed,
        of_scene={
            "components": labels.count_class(count),
            "clusters": labels.count_class(labels.num_clusters(seen.field)),
            "joined": answer,
            "next": scenes.next,
        },
        of_node={
            "bridge": side[seen.node_mask],
            "bridge_offset": offset[seen.node_mask],
            "blocked": blocked[seen.node_mask],
        },
    )


def _piece_under(pieces: np.ndarray, points: Tensor, batch: Tensor) -> np.ndarray:
    """The piece of firm ground under each node, [n], numbered over all scenes; 0 where it is not firm."""
    size = pieces.shape[-1]
    column, row = ((points + 1.0) * (0.5 * size)).floor().clamp(0, size - 1).to(torch.int64).unbind(1)
    piece = torch.from_numpy(pieces).to(torch.int64)[batch, row, column]
    return torch.where(piece > 0, piece + batch * size * size, 0).numpy()


def _draw_pairs(
    piece: np.ndarray,
    batch: np.ndarray,
    points: np.ndarray,
    count: int,
    generator: np.random.Generator,
    skip_zero: bool,
) -> tuple[Tensor, Tensor]:
    """Rows of two nodes per scene [S,2], or -1, and whether they lie in one piece [S] (1, 0, UNKNOWN).

    Both answers are equally frequent, and for both the pair is the one whose distance is nearest to a length
    drawn from one range, so that distance tells little.
    """
    pair = np.full((count, 2, 2), -1)  # for each scene one pair apart and one joined
    bounds = np.searchsorted(batch, np.arange(count + 1))
    for scene in range(count):
        rows = np.arange(bounds[scene], bounds[scene + 1])
        rows = rows[piece[rows] > 0] if skip_zero else rows
        if len(rows) < 2:
            continue
        trials = rows[generator.integers(0, len(rows), (_PAIR_TRIALS, 2))]
        trials = trials[trials[:, 0] != trials[:, 1]]
        is_joined = piece[trials[:, 0]] == piece[trials[:, 1]]
        distance = np.linalg.norm(points[trials[:, 0]] - points[trials[:, 1]], axis=1)
        unlike = np.abs(distance - generator.uniform(*_PAIR_DISTANCE))
        for answer in (0, 1):
            if (is_joined == answer).any():
                pair[scene, answer] = trials[np.where(is_joined == answer, unlike, np.inf).argmin()]
    shown = _balanced(pair[:, :, 0] >= 0, generator)
    chosen = np.where(shown[:, None] >= 0, pair[np.arange(count), shown], -1)
    return torch.from_numpy(chosen), torch.from_numpy(shown)


def _balanced(possible: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One of two answers for each scene that can give it [S,2] bool, as often as the other; else UNKNOWN."""
    order = generator.permutation(np.flatnonzero(possible.any(1)))
    order = order[: math.ceil(_PAIR_SHARE * len(order))]
    shown = np.full(len(possible), labels.UNKNOWN)
    for scene in sorted(order, key=lambda scene: possible[scene].sum()):
        counts = [int((shown == answer).sum()) for answer in (0, 1)]
        rarer = int(counts[1] < counts[0])
        shown[scene] = rarer if possible[scene, rarer] else 1 - rarer
    for answer in (0, 1):
        mine, surplus = (
            np.flatnonzero(shown == answer),
            int((shown == answer).sum() - (shown == 1 - answer).sum()),
        )
        if surplus > 0:
            shown[generator.choice(mine, surplus, replace=False)] = labels.UNKNOWN
    return shown


def _with_marks(colony: Colony, pair: Tensor, batch: Tensor) -> Colony:
    """The pair alone is marked where there is one."""
    is_pair = torch.zeros(len(batch), dtype=torch.bool)
    is_pair[pair[pair >= 0]] = True
    marked = torch.zeros_like(colony.marked)
    marked[colony.alive] = is_pair
    return replace(colony, marked=torch.where((pair >= 0).any(1)[:, None], marked, colony.marked))


def _part(scenes: Scenes, rows: Tensor) -> Scenes:
    """Consecutive scenes."""
    first, last = int(rows[0]), int(rows[-1])
    links = scenes.links[:, (scenes.links[0] >= first) & (scenes.links[0] <= last)]
    links = torch.stack([links[0] - first, links[1], links[2]])
    return Scenes(
        scenes.colony[first : last + 1],
        scenes.substrate[first : last + 1],
        links,
        scenes.next[first : last + 1],
        scenes.config,
        scenes.source,
    )


def _ranges(counts: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the chosen groups, one after the other, and the new group of each; the table is sorted."""
    first = counts.cumsum(0) - counts
    sizes = counts[chosen]
    group = torch.arange(len(chosen)).repeat_interleave(sizes)
    start = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) - start[group] + first[chosen][group], group


def _offsets(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:index]) for index in range(len(sizes))]
