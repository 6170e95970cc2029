"""The world, one colony and one node at a time: slow, obvious, and written apart from the library.

Numbers are Python floats, nodes know their parents by id, a forest is a networkx graph. Random numbers are
the library's own, since they are a function of their keys alone. Where a comparison is so close that single
precision may decide it the other way, the outcome carries a doubt and the caller leaves it out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import networkx as nx
import torch

from durotaxis.core.randomness import Purpose, normal, uniform
from durotaxis.env.config import EnvConfig
from durotaxis.env.types import Colony, Kind, Reason
from reference.ground import Ground


@dataclass
class Node:
    node_id: int
    x: float
    y: float
    parent: int | None  # node_id
    age: int
    newborn: bool
    marked: bool
    share: float


@dataclass
class World:
    nodes: list[Node]
    step: int
    seed: int
    next_id: int
    drift_count: int
    milestones: int
    front: float  # µm, the largest s any node has reached so far
    recoveries: int = 0


@dataclass
class Outcome:
    world: World
    terms: dict[str, float]
    terminated: bool
    truncated: bool
    reason: Reason
    counts: dict[str, int]
    doubts: list[str] = field(default_factory=list)


def read_world(colony: Colony, row: int) -> World:
    """One row of a batch as a list of nodes, in slot order."""
    names = ("node_id", "position", "parent", "age", "newborn", "marked", "spawn_share", "alive")
    columns = [getattr(colony, name)[row].tolist() for name in names]
    ids = columns[0]
    nodes = [
        Node(node_id, x, y, ids[parent] if parent >= 0 else None, age, newborn, marked, share)
        for node_id, (x, y), parent, age, newborn, marked, share, alive in zip(*columns, strict=True)
        if alive
    ]
    plain = ("step", "seed", "next_id", "drift_count", "milestones")
    counters = (int(getattr(colony, name)[row]) for name in plain)
    return World(nodes, *counters, front=float(colony.front[row]), recoveries=int(colony.recoveries[row]))


def reach_of(max_step: float, half_saturation: float, stiffness: float, config: EnvConfig) -> float:
    """The noiseless step length, straight from the formulas of the environment page."""
    law, h = config.response.law, config.response.exponent
    if law == "threshold" and stiffness < config.response.threshold:
        return 0.0
    denominator = 1 + (half_saturation / stiffness) ** h
    if law == "biphasic":
        denominator += (half_saturation * stiffness / config.response.optimum**2) ** h
    return max_step / denominator


def founders(ground: Ground, seed: int, attempt: int, first_id: int, config: EnvConfig) -> list[Node]:
    """A fresh colony: places drawn in the start box, clamped, a chain in order of s."""
    ids = torch.arange(config.num_initial_nodes)
    along, across = (uniform(seed, Purpose.INITIAL, 2 * attempt + axis, ids).tolist() for axis in (0, 1))
    places = []
    ux, uy = ground.unit
    for a, b in zip(along, across, strict=True):
        s = 0.1 * ground.length * a + ground.lowest[0]
        t = ground.breadth * (0.4 + 0.2 * b) + ground.lowest[1]
        places.append(ground.clamp(s * ux - t * uy, s * uy + t * ux))
    places.sort(key=lambda place: ground.along(*place))
    return [
        Node(first_id + k, x, y, first_id + k - 1 if k else None, 0, False, False, 0.0)
        for k, (x, y) in enumerate(places)
    ]


def forest(world: World) -> nx.DiGraph:
    """The colony as a graph of node ids, edges parent -> child."""
    graph = nx.DiGraph()
    graph.add_nodes_from(node.node_id for node in world.nodes)
    graph.add_edges_from((node.parent, node.node_id) for node in world.nodes if node.parent is not None)
    return graph


def centroid(nodes: Sequence[Node]) -> tuple[float, float]:
    return (
        math.fsum(node.x for node in nodes) / len(nodes),
        math.fsum(node.y for node in nodes) / len(nodes),
    )


class _Step:
    """The state of one step of one colony."""

    def __init__(self, world: World, kinds, parameters, ground: Ground, config: EnvConfig) -> None:
        self.before = world
        self.kinds = dict(zip((n.node_id for n in world.nodes), kinds, strict=False))
        self.parameters = dict(zip((n.node_id for n in world.nodes), parameters, strict=False))
        self.ground, self.config = ground, config
        self.doubts: list[str] = []
        if any(ground.near_edge(n.x, n.y) for n in world.nodes):
            self.doubts.append("a node where stiffness jumps")

    def less(self, a: float, b: float, margin: float, what: str) -> bool:
        if a != b and abs(a - b) < margin:
            self.doubts.append(what)
        return a < b

    def spawn(self) -> None:
        slots = self.config.max_nodes if self.config.overcrowding == "cap" else self.config.num_slots
        free = slots - len(self.before.nodes)
        parents = [n for n in self.before.nodes if self.kinds[n.node_id] == Kind.SPAWN]
        self.dropped = max(0, len(parents) - free)
        self.parents = parents[:free]
        ids = torch.tensor([p.node_id for p in self.parents], dtype=torch.int64)
        draws = normal(self.before.seed, Purpose.SPAWN_NOISE, self.before.step, ids).tolist()
        self.signs: list[float] = []
        self.children = [
            self.child(parent, self.before.next_id + k, xi)
            for k, (parent, xi) in enumerate(zip(self.parents, draws, strict=True))
        ]
        self.next_id = self.before.next_id + len(self.children)

    def child(self, parent: Node, node_id: int, xi: float) -> Node:
        max_step, half_saturation, noise, angle = self.parameters[parent.node_id]
        ground, config = self.ground, self.config
        stiffness = ground.stiffness(parent.x, parent.y)
        factor = min(max(1 + noise * xi, 0.0), 2.0)
        reach = reach_of(max_step, half_saturation, stiffness, config) * factor
        heading = ground.direction + angle
        x, y = parent.x + reach * math.cos(heading), parent.y + reach * math.sin(heading)
        if config.boundary == "clamp":
            x, y = ground.clamp(x, y)
        if ground.near_edge(x, y):
            self.doubts.append("a child where stiffness jumps")
        child = Node(node_id, x, y, parent.node_id, 0, True, False, 0.0)
        stiffer = stiffness * (1 + config.reward.spawn_threshold)
        gains = ground.stiffness(x, y)
        uphill = not self.less(gains, stiffer, 3e-6 * stiffer, "child as stiff as its parent")
        uphill = uphill and gains != stiffer
        child.share = config.reward.spawn / len(self.before.nodes) if uphill else 0.0
        self.signs.append(1.0 if uphill else -1.0)
        return child

    def delete(self) -> None:
        self.gone = {n.node_id for n in self.before.nodes if self.kinds[n.node_id] == Kind.DELETE}
        family = forest(dataclasses.replace(self.before, nodes=[*self.before.nodes, *self.children]))
        assert len(family) == 0 or nx.is_branching(family)
        parents = {}
        for node_id in family:
            path = [node_id]
            while (above := next(family.predecessors(path[-1]), None)) is not None:
                path.append(above)
            parents[node_id] = next((a for a in path[1:] if a not in self.gone), None)
        old = [
            dataclasses.replace(n, age=n.age + 1, newborn=False)
            for n in self.before.nodes
            if n.node_id not in self.gone
        ]
        self.nodes = [
            dataclasses.replace(n, parent=parents[n.node_id], marked=False) for n in [*old, *self.children]
        ]

    def mark(self) -> None:
        config = self.config
        excess = len(self.nodes) - config.critical_nodes
        if excess <= 0 or config.mark_fraction == 0:
            return
        values = {n.node_id: self.ground.stiffness(n.x, n.y) for n in self.nodes}
        mean = sum(Fraction(v) for v in values.values()) / len(values)
        old = [n for n in self.nodes if n.age >= config.delta_time]
        soft = []
        for n in old:
            value = Fraction(values[n.node_id])
            if value != mean and abs(value - mean) < Fraction(1e-5) * mean:
                self.doubts.append("a node as stiff as the mean")
            if value < mean:
                soft.append(n.node_id)
        soft.sort(key=lambda node_id: (values[node_id], node_id))
        quota = max(1, math.floor(Fraction(repr(config.mark_fraction)) * excess))
        for a, b in pairwise(soft[: quota + 1]):
            if values[a] != values[b] and abs(values[a] - values[b]) < 1e-5 * values[a]:
                self.doubts.append("two nodes equally soft")
        for n in self.nodes:
            n.marked = n.node_id in soft[:quota]

    def advance(self) -> World:
        """Drift and milestones."""
        config, ground, before = self.config, self.ground, self.before
        drift, milestones, furthest = 0, before.milestones, before.front
        recoveries = before.recoveries
        if not self.nodes and recoveries < config.max_recoveries:
            recoveries += 1
            self.nodes = founders(ground, before.seed, recoveries, self.next_id, config)
            self.next_id += len(self.nodes)
        if self.nodes:
            was = ground.along(*centroid(before.nodes))
            now = ground.along(*centroid(self.nodes))
            same = [(n.x, n.y) for n in self.nodes] == [(n.x, n.y) for n in before.nodes]
            recovered = recoveries > before.recoveries
            if not same and not recovered and self.less(now, was, 1e-4, "the centroid hardly moved"):
                drift = before.drift_count + 1
            front = max(ground.along(n.x, n.y) for n in self.nodes)
            reached = sum(
                not self.less(front, m * ground.length, 1e-4, "milestone") for m in config.reward.milestones
            )
            milestones, furthest = max(milestones, reached), max(furthest, front)
        counters = (before.step + 1, before.seed, self.next_id, drift, milestones)
        return World(self.nodes, *counters, furthest, recoveries)

    def zone_value(self, node: Node) -> tuple[float, bool]:
        zones, weights = self.config.reward.boundary_zones, self.config.reward.boundary_weights
        t = self.ground.across(node.x, node.y)
        q = min(t, self.ground.breadth - t) / self.ground.breadth
        for zone, weight in zip(zones, weights, strict=True):
            if self.less(q, zone, 1e-6, "on the border of a zone"):
                return -weight, False
        return 0.0, True

    def terms(self, after: World, reason: Reason) -> dict[str, float]:
        c, ground, config = self.config.reward, self.ground, self.config
        before, num_before, num_after = self.before, len(self.before.nodes), len(after.nodes)
        fronts = [max((ground.along(n.x, n.y) for n in w.nodes), default=0.0) for w in (before, after)]
        terms: dict[str, float] = dict.fromkeys(
            ("progress_centroid", "progress_front", "spawn", "delete", "population", "boundary"), 0.0
        )
        terms |= {"edge_direction": 0.0, "effort": 0.0, "survival": c.survival}
        terms |= {"recovery": c.recovery * (after.recoveries - before.recoveries), "termination": 0.0}
        if num_after:
            moved = ground.along(*centroid(after.nodes)) - ground.along(*centroid(before.nodes))
            terms["progress_centroid"] = c.progress_centroid * moved / ground.length
            terms["progress_front"] = c.progress_front * (fronts[1] - fronts[0]) / ground.length
            zones = [self.zone_value(n) for n in after.nodes]
            cost = sum(value for value, _ in zones) / num_after
            safe = sum(is_safe for _, is_safe in zones) / num_after
            terms["boundary"] = c.boundary * cost + c.boundary_safe * safe
        if num_before:
            gone = [n for n in before.nodes if n.node_id in self.gone]
            owed = sum(n.share for n in gone if n.age <= config.delta_time)
            terms["spawn"] = c.spawn * sum(self.signs) / num_before - owed
            good = sum(n.marked for n in gone)
            kept = sum(n.marked for n in before.nodes) - good
            bad = len(gone) - good
            terms["delete"] = (
                c.delete_marked * good - c.keep_marked * kept - c.delete_unmarked * bad
            ) / num_before
            terms["edge_direction"] = c.edge_direction * sum(self.cosines()) / num_before
            costs = [self.parameters[p.node_id][:2] for p in self.parents]
            terms["effort"] = -c.effort * sum((a / 10) ** 2 + 2 / h for a, h in costs) / num_before
        if num_after < 2:
            terms["population"] = -c.too_few
        elif num_after > config.critical_nodes:
            terms["population"] = -c.too_many * (num_after - config.critical_nodes) / config.critical_nodes
        terms["milestone"] = c.milestone * (after.milestones - before.milestones)
        if reason not in (Reason.RUNNING, Reason.MAX_STEPS):
            terms["termination"] = getattr(c, reason.name.lower())
        return terms

    def cosines(self) -> list[float]:
        ux, uy = self.ground.unit
        result = []
        for parent, child in zip(self.parents, self.children, strict=True):
            dx, dy = child.x - parent.x, child.y - parent.y
            length = math.hypot(dx, dy)
            if 0 < length < 3e-3:
                self.doubts.append("an edge too short for its direction in single precision")
            result.append((dx * ux + dy * uy) / length if length else 0.0)
        return result

    def reason(self, after: World) -> Reason:
        config, ground, nodes = self.config, self.ground, after.nodes
        goal = ground.length * (1 - config.goal_margin)
        reached = any(not self.less(ground.along(n.x, n.y), goal, 1e-4, "goal") for n in nodes)
        outside = config.boundary == "terminate" and any(ground.is_outside(n.x, n.y) for n in nodes)
        limit = config.left_moves_limit
        ends = (
            (Reason.SUCCESS, reached),
            (Reason.EXTINCT, not nodes),
            (Reason.OVERCROWDED, config.overcrowding == "terminate" and len(nodes) > config.max_nodes),
            (Reason.OUT_OF_BOUNDS, outside),
            (Reason.DRIFT, limit is not None and after.drift_count >= limit),
            (Reason.MAX_STEPS, after.step >= config.max_steps),
        )
        return next((reason for reason, holds in ends if holds), Reason.RUNNING)


def step_world(world: World, kinds, parameters, ground: Ground, config: EnvConfig) -> Outcome:
    """One step: spawn, delete and re-attach, age, mark, reward, end. Kinds and parameters in slot order."""
    step = _Step(world, kinds, parameters, ground, config)
    step.spawn()
    step.delete()
    step.mark()
    after = step.advance()
    reason = step.reason(after)
    terms = step.terms(after, reason)
    truncated = reason == Reason.MAX_STEPS
    terminated = not truncated and reason != Reason.RUNNING
    counts = {"spawned": len(step.children), "deleted": len(step.gone), "dropped": step.dropped}
    return Outcome(after, terms, terminated, truncated, reason, counts, step.doubts)
