"""Graphs lying on substrates: colonies from rollouts, random graphs, parts of given networks.

Everything is a pure function of its seed. A scene keeps its edges apart from the colony, because a colony
is a forest, and a network need not be one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.randomness import Purpose, hash_keys, uniform
from durotaxis.env import Action, Colony, EnvConfig, Substrate, outcome, reset, reset_where
from durotaxis.env.slots import crop
from durotaxis.env.substrate import clamp, coordinates
from durotaxis.env.survey import survey
from durotaxis.pretrain.networks import Network, excerpt

NEXT = ("centroid_x", "centroid_y", "front", "num_nodes")
"""What the next step changes: the centroid and the front in units of 10 µm, the count in units of 10."""
_ROLLOUT_COLONIES = 48
_ROLLOUT_STEPS = 160
_POLICIES = ("random", "delete-left", "mixed")
_MOST_NODES = 48


class Source(IntEnum):
    """Where a scene comes from."""

    ROLLOUT = 0
    RANDOM = 1
    NETWORK = 2


@dataclass(frozen=True)
class Scenes:
    """S graphs on S substrates; the nodes of a scene fill the first of N slots.

    Scenes of one seed of `colony` are states of one episode and look alike; no other two share a seed.
    """

    colony: Colony  # [S,N]; parents are not read
    substrate: Substrate  # [S]
    links: Tensor  # [3,E] int64, rows of scene, source slot, target slot; sorted by scene
    next: Tensor  # [S,4] float32, NEXT; NaN where there is no next step
    config: EnvConfig
    source: Source


def rollout_scenes(config: EnvConfig, seed: int, count: int) -> Scenes:
    """About `count` colonies out of rollouts under random, delete-left and mixed policies, late ones too.

    A mixed policy draws one of the other two at each step. Ended colonies start anew. There are 48 colonies,
    or more, a third for each policy, where every step of 48 is not enough.
    """
    colonies = max(_ROLLOUT_COLONIES, len(_POLICIES) * math.ceil(count / (len(_POLICIES) * _ROLLOUT_STEPS)))
    slots = torch.arange(colonies)
    episode = torch.zeros_like(slots)
    colony, substrate = reset(config, hash_keys(seed, Purpose.EPISODE, slots, episode))
    every = max(1, _ROLLOUT_STEPS * colonies // count)
    kept: list[tuple[Colony, Substrate, Tensor]] = []
    for step in range(_ROLLOUT_STEPS):
        action = _behave(colony, substrate, config, slots % len(_POLICIES))
        after, _, reason = outcome(colony, action, substrate, config)
        # Neighbouring steps look alike, so slots take turns.
        due = slots[(slots + step) % every == 0] if every > 1 else slots
        if len(due):
            kept.append((colony[due], substrate[due], _changes(colony, after, substrate)[due]))
        ended = reason > 0
        episode = episode + ended
        colony, substrate = reset_where(
            after, substrate, ended, hash_keys(seed, Purpose.EPISODE, slots, episode), config
        )
    states, substrates, changes = zip(*kept, strict=True)
    whole = Colony.cat(states)
    whole = crop(whole, max(1, int(whole.num_nodes.max())))
    return Scenes(
        whole, Substrate.cat(substrates), links_of(whole), torch.cat(changes), config, Source.ROLLOUT
    )


def links_of(colony: Colony) -> Tensor:
    """The edges of forests from parent to child, [3,E], sorted by scene and child."""
    scene, child = colony.is_edge.nonzero(as_tuple=True)
    return torch.stack([scene, colony.parent[scene, child], child])


def random_scenes(config: EnvConfig, seed: int, count: int) -> Scenes:
    """`count` random graphs in clusters at random places: geometric, Erdos-Renyi, trees and forests."""
    generator = np.random.default_rng(_entropy(seed))
    placed = [_random_graph(generator) for _ in range(count)]
    return _place(config, placed, seed, generator, Source.RANDOM)


def network_scenes(config: EnvConfig, network: Network, seed: int, count: int) -> Scenes:
    """`count` excerpts of a network, each drawn around a place of the substrate."""
    generator = np.random.default_rng(_entropy(seed))
    placed = [excerpt(network, generator, _MOST_NODES) for _ in range(count)]
    return _place(config, placed, seed, generator, Source.NETWORK)


def _behave(colony: Colony, substrate: Substrate, config: EnvConfig, policy: Tensor) -> Action:
    chance = uniform(colony.seed, Purpose.POLICY, colony.step) < 0.5
    is_random = (policy == 0) | ((policy == 2) & chance)
    choices = (SCRIPTED[name](colony, substrate, config) for name in ("random", "delete-left"))
    return Action.where(is_random, *choices)


def _changes(before: Colony, after: Colony, substrate: Substrate) -> Tensor:
    was, now = survey(before, substrate), survey(after, substrate)
    moved = (now.centroid - was.centroid) / 10.0
    others = [(now.front - was.front) / 10.0, (now.num_nodes - was.num_nodes) / 10.0]
    change = torch.stack([moved[:, 0], moved[:, 1], *others], 1).to(torch.float32)
    return torch.where((now.num_nodes > 0)[:, None], change, torch.nan)


Drawing = tuple[np.ndarray, np.ndarray]
"""Places [N,2] in µm about 0, and edges [E,2] as indices of source and target."""


def _random_graph(generator: np.random.Generator) -> Drawing:
    number = int(generator.integers(4, _MOST_NODES + 1))
    clusters = int(generator.integers(1, 4))
    centres = generator.uniform(-40.0, 40.0, (clusters, 2))
    spread = generator.uniform(4.0, 25.0)
    places = centres[generator.integers(0, clusters, number)] + spread * generator.normal(size=(number, 2))
    kind = generator.choice(("geometric", "erdos-renyi", "forest"))
    if kind == "forest":
        return places, _forest(places, generator)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    if kind == "geometric":
        joined = distance < spread * generator.uniform(0.3, 0.9)
    else:
        joined = generator.random((number, number)) < generator.uniform(0.5, 2.5) / number
    first, second = np.nonzero(np.triu(joined, 1))
    return places, _turned(np.stack([first, second], 1), generator)


def _forest(places: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every node is a root, or hangs from one of the three nearest before it."""
    share_of_roots = generator.uniform(0.0, 0.3)
    edges = []
    for child in range(1, len(places)):
        if generator.random() < share_of_roots:
            continue
        nearest = np.argsort(np.linalg.norm(places[:child] - places[child], axis=1), kind="stable")[:3]
        edges.append((int(generator.choice(nearest)), child))
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


def _turned(edges: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Edges [E,2], each turned round with probability 1/2."""
    return np.where(generator.random((len(edges), 1)) < 0.5, edges, edges[:, ::-1])


def _place(
    config: EnvConfig, drawings: list[Drawing], seed: int, generator: np.random.Generator, source: Source
) -> Scenes:
    """Lay drawings on substrates, turned and shifted at random; ages are drawn."""
    count, most = len(drawings), max(len(places) for places, _ in drawings)
    seeds = hash_keys(seed, Purpose.SUBSTRATE, torch.arange(count))
    _, substrate = reset(config, seeds)
    position = np.zeros((count, most, 2))
    alive = np.zeros((count, most), dtype=bool)
    links = []
    for row, (places, edges) in enumerate(drawings):
        angle = generator.uniform(0.0, 2.0 * math.pi)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        centre = generator.random(2) * substrate.size[row].numpy()
        position[row, : len(places)] = places @ turn + centre
        alive[row, : len(places)] = True
        links.append(np.stack([np.full(len(edges), row), edges[:, 0], edges[:, 1]]))
    living = torch.from_numpy(alive)
    places_on = clamp(torch.from_numpy(position).to(torch.float32), substrate) * living[..., None]
    age = torch.from_numpy(generator.integers(0, 40, alive.shape)) * living
    zero = torch.zeros(count, dtype=torch.int64)
    colony = Colony(
        position=places_on,
        alive=living,
        parent=torch.full_like(age, -1),
        node_id=torch.where(living, torch.arange(most), -1),
        age=age,
        newborn=living & (age == 0),
        marked=torch.zeros_like(living),
        spawn_share=torch.zeros(alive.shape),
        step=zero,
        seed=seeds,
        next_id=zero + most,
        drift_count=zero,
        milestones=zero,
        front=torch.where(living, coordinates(places_on, substrate)[0], -torch.inf).amax(1),
        recoveries=zero,
    )
    nothing = torch.full((count, len(NEXT)), torch.nan)
    return Scenes(colony, substrate, torch.from_numpy(np.concatenate(links, 1)), nothing, config, source)


def _entropy(seed: int) -> int:
    """A seed of numpy: not negative."""
    return seed % (1 << 63)
