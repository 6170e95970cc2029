"""A run directory as a training would leave it, made up: an agent that learns, attention that shifts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from durotaxis.records import ATTENTION, CONFIG, EPISODES, EVALUATIONS, METRICS, PHASES, RunDirectory

MODELS = ("resnet18_random", "resnet34_random", "graph_cnn")
STEPS_PER_ITERATION = 1536


def episode(rng: np.random.Generator, skill: float) -> dict:
    """One finished episode of an agent with skill in [0, 1]."""
    success = bool(rng.random() < skill)
    progress = 1.0 if success else float(rng.uniform(0.1, 0.4) + 0.5 * skill * rng.random())
    reason = "success" if success else str(rng.choice(["extinct", "overcrowded", "max_steps"]))
    return {
        "return": float(6.0 * progress - 3.0 + 2.0 * success + rng.normal(0.0, 0.4)),
        "length": int(rng.integers(40, 120) if success else rng.integers(20, 200)),
        "reason": reason,
        "success": success,
        "final/front_progress": progress,
    }


def attention_rows(rng: np.random.Generator, share: float) -> list[dict]:
    """Diagnostics of one iteration, share of the training done; the phase `dense` appears late."""
    rows = []
    for phase in ("all", *PHASES):
        if phase == "dense" and share < 0.3:
            continue
        tilt = share * (1.5 if phase == "migrating" else 0.9)
        weight = np.exp(np.array([0.0, -0.6 * tilt, tilt]) + rng.normal(0.0, 0.03, 3))
        weight /= weight.sum()
        entropy = float(-(weight * np.log(weight)).sum())
        rows.append(
            {
                "phase": phase,
                "colonies": 48 if phase == "all" else int(rng.integers(1, 40)),
                "value/attention": weight.tolist(),
                "value/attention_entropy": entropy,
                "value/effective_models": math.exp(entropy),
                "value/ptm_names": list(MODELS),
            }
        )
    return rows


def write_run(path: Path, num_iterations: int = 60, with_attention: bool = True) -> RunDirectory:
    """Write the records of a made-up training into a new directory."""
    rng = np.random.default_rng(5)
    path.mkdir(parents=True)
    (path / CONFIG).write_text("run: {seed: 5}\n")
    run, count = RunDirectory(path), 0
    names = (METRICS, EPISODES, ATTENTION, EVALUATIONS)
    files = {name: run.appender(name) for name in names}
    for iteration in range(1, num_iterations + 1):
        share = iteration / num_iterations
        skill = 1.0 / (1.0 + math.exp(-10.0 * (share - 0.5)))
        when = {"iteration": iteration, "step": iteration * STEPS_PER_ITERATION}
        for slot in range(int(rng.integers(6, 14))):
            count += 1
            row = {"episode": count, "slot": slot, "slot_episode": 0, "seed": count, **episode(rng, skill)}
            files[EPISODES].append({**when, **row})
        files[METRICS].append({**when, "episodes": count, "steps_per_s": 800.0})
        for row in attention_rows(rng, share) if with_attention else []:
            files[ATTENTION].append({**when, **row})
        if iteration % 10 == 0:
            for j in range(20):
                row = {"seed": 1_000_000 + j, "deterministic": False, **episode(rng, skill)}
                files[EVALUATIONS].append({**when, **row})
    for file in files.values():
        file.close()
    return run
