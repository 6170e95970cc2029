"""Made-up episodes, grown from a seed, of any size, direction and kind of policy."""

from __future__ import annotations

import numpy as np

from durotaxis.records import EPISODE_FORMAT, Episode, EpisodeInfo

TERMS = ("progress_front", "spawn", "effort", "survival")


def episode(
    steps=12,
    nodes=9,
    ptms=("resnet", "gnn"),
    rows="node",
    scripted=False,
    direction=0.0,
    size=(200.0, 100.0),
    seed=7,
    **info,
):
    """An episode in which `nodes` nodes live at every step: the oldest leaves, a child of another comes."""
    rng = np.random.default_rng(seed)
    rows = None if scripted or not ptms else rows
    ids, parents, births = list(range(nodes)), [max(-1, n - 1) for n in range(nodes)], [0] * nodes
    places = [list(map(float, rng.uniform(0.2, 0.5, 2) * size)) for _ in ids]
    table = []
    for step in range(steps + 1):
        is_last = step == steps
        kinds = rng.integers(0, 2, nodes).tolist()
        kinds[0] = 2
        slots = {node: slot for slot, node in enumerate(ids)}
        weights = rng.dirichlet(np.ones(len(ptms)), nodes if rows == "node" else 1) if rows else None
        terms = {f"term/{name}": float(rng.normal()) if name != "survival" else 0.0 for name in TERMS}
        table.append(
            {
                "step": step,
                "nodes": [[round(x, 4) for x in place] for place in places],
                "node_ids": list(ids),
                "parents": [slots.get(parent, -1) for parent in parents],
                "ages": [step - birth for birth in births],
                "stiffness": [round(1 + 0.05 * x, 5) for x, _ in places],
                "marked": [n == 1 for n in range(nodes)],
                "kinds": None if is_last else kinds,
                "parameters": None if is_last else [_drawn(rng) if kind == 1 else None for kind in kinds],
                "attention": None if is_last or weights is None else np.round(weights, 6).tolist(),
                "value": None if is_last or scripted else float(rng.normal()),
                "entropy": None if is_last or scripted else float(rng.normal()),
                "reward": None if is_last else sum(terms.values()),
                **({} if is_last else terms),
            }
        )
        mother = nodes - 1
        child = (np.array(places[mother]) + rng.normal(0, 3, 2)).clip((0, 0), size)
        for kept, new in (
            (ids, ids[-1] + 1),
            (parents, ids[mother]),
            (births, step + 1),
            (places, list(map(float, child))),
        ):
            kept.append(new)
            kept.pop(0)
    pixels = (np.array([[1 + 0.05 * (x + 0.5) * size[0] / 30 for x in range(30)]] * 15)).round(4)
    known = {
        "format": EPISODE_FORMAT,
        "seed": 2_000_000,
        "scenario": "quick",
        "env": {},
        "policy": "delete-left" if scripted else "runs/<made up>/checkpoints/best.pt",
        "trained_steps": None if scripted else 76_800,
        "deterministic": False,
        "reason": "max_steps",
        "success": False,
        "length": steps,
        "total_reward": sum(row["reward"] for row in table[:-1]),
        "final": {"front_progress": 0.5},
        "minutes_per_step": 10.0,
        "critical_nodes": 20,
        "size": size,
        "direction": direction,
        "origin": (0.0, 0.0),
        "extent": size,
        "goal": 0.9 * size[0],
        "ptms": list(ptms) if rows else [],
        "attention_rows": rows,
        "field": pixels.tolist(),
    }
    return Episode(EpisodeInfo(**{**known, **info}), table[:-1], table[-1])


def _drawn(rng):
    return (np.array([1, 2, 0, -3.1]) + rng.random(4) * [9, 18, 0.5, 6.2]).round(6).tolist()
