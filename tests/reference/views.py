"""What is observed of one colony, computed one node, edge or pixel at a time."""

from __future__ import annotations

import math

import numpy as np

from durotaxis.env.config import EnvConfig
from reference.ground import Ground
from reference.world import World, centroid, forest

Point = tuple[float, float]


def hull(points: list[Point]) -> list[Point]:
    """The strict vertices of the convex hull, counter-clockwise (monotone chain, exact integers)."""
    exact = sorted({(int(x * 2.0**60), int(y * 2.0**60)) for x, y in points})
    if len(exact) < 3:
        return [(x / 2**60, y / 2**60) for x, y in exact]

    def half(ordered):
        chain: list[tuple[int, int]] = []
        for p in ordered:
            while len(chain) > 1 and turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    def turn(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return [(x / 2**60, y / 2**60) for x, y in half(exact) + half(exact[::-1])]


def polygon_area(vertices: list[Point]) -> float:
    shifted = vertices[1:] + vertices[:1]
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(vertices, shifted, strict=True))) / 2


def node_features(world: World, ground: Ground) -> np.ndarray:
    """[n,13] raw."""
    nodes = world.nodes
    if not nodes:
        return np.zeros((0, 13))
    graph = forest(world)
    cx, cy = centroid(nodes)
    corners = set(hull([(n.x, n.y) for n in nodes]))
    rows = []
    for n in nodes:
        others = [math.dist((n.x, n.y), (o.x, o.y)) for o in nodes if o is not n]
        centrality = min(10 / max(sum(others) / len(others), 1e-3), 100.0) if others else 1.0
        rows.append(
            [
                n.x,
                n.y,
                ground.stiffness(n.x, n.y),
                graph.in_degree(n.node_id),
                graph.out_degree(n.node_id),
                centrality,
                math.dist((n.x, n.y), (cx, cy)),
                float((n.x, n.y) in corners),
                float(n.newborn),
                n.age,
                float(n.marked),
                *ground.log_gradient(n.x, n.y),
            ]
        )
    return np.array(rows)


def edge_features(world: World) -> np.ndarray:
    """[n,3] raw: the edge from each node's parent, 0 for roots."""
    by_id = {n.node_id: n for n in world.nodes}
    rows = []
    for n in world.nodes:
        if n.parent is None:
            rows.append([0.0, 0.0, 0.0])
            continue
        p = by_id[n.parent]
        dx, dy = n.x - p.x, n.y - p.y
        length = math.hypot(dx, dy)
        rows.append([length, dx / length if length else 0.0, dy / length if length else 0.0])
    return np.array(rows).reshape(-1, 3)


def graph_features(world: World, ground: Ground, config: EnvConfig) -> np.ndarray:
    """[16] raw."""
    nodes = world.nodes
    if not nodes:
        return np.zeros(16)
    graph = forest(world)
    num_nodes, num_edges = len(graph), graph.number_of_edges()
    xs, ys = [n.x for n in nodes], [n.y for n in nodes]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    goals = (*config.reward.milestones, 1.0)
    return np.array(
        [
            num_nodes,
            num_edges,
            num_edges / (num_nodes * (num_nodes - 1)) if num_nodes > 1 else 0.0,
            *centroid(nodes),
            min(xs),
            min(ys),
            max(xs),
            max(ys),
            width,
            height,
            width * height,
            polygon_area(hull(list(zip(xs, ys, strict=True)))),
            num_edges / num_nodes,
            world.drift_count / config.left_moves_limit if config.left_moves_limit else 0.0,
            goals[world.milestones],
        ]
    )


def scale_nodes(raw: np.ndarray, ground: Ground) -> np.ndarray:
    scaled = raw.copy()
    scaled[:, 0] /= ground.width
    scaled[:, 1] /= ground.height
    scaled[:, 2] = [scale_stiffness(value) for value in raw[:, 2]]
    scaled[:, 3:5] = np.minimum(raw[:, 3:5], 12) / 4
    scaled[:, 5] = np.minimum(raw[:, 5], 10)
    scaled[:, 6] /= math.sqrt(ground.length * ground.breadth) / 10
    scaled[:, 9] = np.minimum(raw[:, 9], 50) / 50
    scaled[:, 11:13] *= 10
    return scaled


def scale_edges(raw: np.ndarray) -> np.ndarray:
    return raw / np.array([10.0, 1.0, 1.0])


def scale_graph(raw: np.ndarray, ground: Ground, config: EnvConfig) -> np.ndarray:
    w, h = ground.width, ground.height
    count = config.observation.count_scale or config.max_nodes
    return raw / np.array([count, count, 1, w, h, w, h, w, h, w, h, w * h, w * h, 1, 1, 1])


def scale_stiffness(value: float) -> float:
    return math.log(value / 0.1) / math.log(2000)


def frame(world: World, ground: Ground, config: EnvConfig) -> tuple[Point, Point]:
    """Lower left and upper right corner of the picture."""
    if config.observation.frame == "substrate":
        return (0.0, 0.0), (ground.width, ground.height)
    cx, cy = centroid(world.nodes)
    half = config.observation.frame_size / 2
    return (cx - half, cy - half), (cx + half, cy + half)


def picture(world: World, ground: Ground, config: EnvConfig) -> tuple[np.ndarray, np.ndarray]:
    """The field [3,24,24], and where it is sure: no sample or node so close to a border that rounding decides."""
    (x0, y0), (x1, y1) = frame(world, ground, config)
    wide, high = (x1 - x0) / 24, (y1 - y0) / 24
    result, sure = np.zeros((3, 24, 24)), np.ones((3, 24, 24), dtype=bool)
    for row in range(24):
        for column in range(24):
            left, bottom = x0 + column * wide, y1 - (row + 1) * high
            for i in range(3):
                for j in range(3):
                    x, y = left + (i + 0.5) / 3 * wide, bottom + (j + 0.5) / 3 * high
                    near = (abs(x), abs(x - ground.width), abs(y), abs(y - ground.height))
                    if min(near) < 1e-3 or ground.near_edge(x, y):
                        sure[0, row, column] = False
                    if not ground.is_outside(x, y):
                        result[0, row, column] += scale_stiffness(ground.stiffness(x, y)) / 9
    for n in world.nodes:
        places = ((n.x - x0) / (x1 - x0) * 24, (y1 - n.y) / (y1 - y0) * 24)
        if any(p not in (0.0, 24.0) and abs(p - round(p)) < 1e-4 for p in places):
            sure[1:] = False
        if all(0 <= p <= 24 for p in places):
            column, row = (min(int(p), 23) for p in places)
            result[1, row, column] += 0.25
            result[2, row, column] += 0.25 * n.marked
    return np.minimum(result, 1.0), sure
