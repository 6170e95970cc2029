"""Episodes with attention that are made up, so that it is known what it follows; and a probe of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from durotaxis.analysis.attention import Seen
from durotaxis.records import Episode, EpisodeInfo, Probe, Similarity, Subset, write_probe

NAMES = ("cnn", "gnn", "resnet")
LENGTH, BREADTH, GOAL, CRITICAL = 200.0, 100.0, 198.0, 12

Logits = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(places [n,2], stiffness [n], generator) -> scores [n,K]."""


def noise(places: np.ndarray, kpa: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Attention that follows nothing."""
    return rng.normal(0.0, 0.2, (len(places), len(NAMES)))


def episode(
    seed: int, logits: Logits = noise, steps: int = 40, rows: str = "node", names: Sequence[str] = NAMES
) -> Episode:
    """A colony of changing size that walks to the right on ground that gets stiffer and has lanes."""
    rng = np.random.default_rng(seed)
    field = np.tile(1.0 + 0.05 * np.linspace(0.0, LENGTH, 60), (30, 1))
    field[10:14] = 0.15
    records, count = [], 9
    for step in range(steps + 1):
        count = int(np.clip(count + rng.integers(-4, 5), 3, 20))
        centre = np.array([10.0 + 130.0 * step / steps, 50.0]) + rng.normal(0.0, 2.0, 2)
        places = (centre + rng.normal(0.0, rng.uniform(3.0, 9.0, 2), (count, 2))).clip(
            [0, 0], [LENGTH, BREADTH]
        )
        kpa = 1.0 + 0.05 * places[:, 0] + rng.normal(0.0, 0.3, count)
        score = logits(places, kpa, rng)[:, : len(names)]
        weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        is_last = step == steps
        records.append(
            {
                "step": step,
                "nodes": places.tolist(),
                "node_ids": list(range(count)),
                "parents": [index - 1 for index in range(count)],
                "ages": [0] * count,
                "stiffness": kpa.tolist(),
                "marked": [False] * count,
                "kinds": None if is_last else [0] * count,
                "parameters": None if is_last else [None] * count,
                "attention": None if is_last else (weight if rows == "node" else weight[:1]).tolist(),
                "value": None if is_last else 0.0,
                "entropy": None if is_last else 0.1,
                "reward": None if is_last else 0.1,
                "term/progress": None if is_last else float(rng.normal()),
                "term/survival": None if is_last else 0.0,
            }
        )
    info = EpisodeInfo(
        format=1,
        seed=seed,
        scenario="stripes",
        env={},
        policy="made up",
        trained_steps=1000,
        deterministic=False,
        reason="max_steps",
        success=False,
        length=steps,
        total_reward=1.0,
        final={},
        minutes_per_step=10.0,
        critical_nodes=CRITICAL,
        size=(LENGTH, BREADTH),
        direction=0.0,
        origin=(0.0, 0.0),
        extent=(LENGTH, BREADTH),
        goal=GOAL,
        ptms=list(names),
        attention_rows=rows,
        field=field.tolist(),
    )
    return Episode(info, records[:-1], records[-1])


def drifting(rng: np.random.Generator, steps: int = 50) -> Seen:
    """An episode in which everything is a random walk of its own: steps are alike, and nothing follows."""
    score = rng.normal(0.0, 0.1, (steps, 3)).cumsum(0)
    share = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    names = ("nodes", "density", "elongation", "stiffness", "contrast", "progress")
    walks = {name: (rng.normal(size=steps).cumsum(), share) for name in names}
    terms = {name: rng.normal(size=steps).cumsum() for name in ("progress", "spawn", "delete")}
    return Seen(share, np.full(steps, 2.5), rng.integers(0, 3, steps), walks, terms)


def probe(place: Path, names: Sequence[str] = NAMES, episodes: int = 8, seed: int = 0) -> Probe:
    """Only gnn is worth anything: 3 of return; the rest is noise of the episodes."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0.0, 1.0, episodes)  # of the episodes, common to all sets of models
    subsets = []
    for size in range(len(names) + 1):
        for chosen in itertools.combinations(names, size):
            value = luck + 3.0 * ("gnn" in chosen) + rng.normal(0.0, 0.05, episodes)
            subsets.append(Subset(chosen, value.tolist(), (value > 1.5).tolist(), [0.5] * episodes))
    cka = np.full((len(names), len(names)), 0.2)
    np.fill_diagonal(cka, 1.0)
    without = [(cka + rng.normal(0.0, 0.01) * (cka < 1)).tolist() for _ in range(episodes)]
    found = Probe(
        checkpoint="checkpoints/last.pt",
        sha256="ab" * 32,
        step=1000,
        scenario="stripes",
        world="0" * 12,
        seeds=range(episodes),
        deterministic=False,
        ptms=names,
        is_complete=True,
        subsets=subsets,
        similarity=Similarity(names, 400, 16, cka.tolist(), without),
        version="0.1.0",
    )
    found = Probe(**{**vars(found), "seeds": list(found.seeds)})
    write_probe(place, found)
    return found
