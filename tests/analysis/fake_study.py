"""A study directory made up by a generator with a known truth.

`wsa` is better than `baseline` by 0.3 on moat, equal on linear (the control) and patches, worse by 0.3 on
stripes; it learns faster where it is better. Scores of a run scatter about the truth with `noise`.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from durotaxis.records import (
    CONFIGS,
    COST,
    FAILED,
    FINISHED,
    REPORT,
    TRAINED,
    ArmCost,
    ArmPlan,
    RunPlan,
    RunRecord,
    ScenarioPlan,
    Score,
    StudyCost,
    StudyPlan,
    write_json,
    write_plan,
    write_record,
)

RANDOM, DELETE_LEFT = -2.5, 5.5
REFERENCES = {
    "random": {
        "episodes": 1000,
        "return_mean": RANDOM,
        "return_se": 0.02,
        "success_rate": 0.0,
        "front_progress": 0.1,
    },
    "delete-left": {
        "episodes": 1000,
        "return_mean": DELETE_LEFT,
        "return_se": 0.05,
        "success_rate": 1.0,
        "front_progress": 1.0,
    },
}
BASE = {"moat": 0.4, "patches": 0.5, "stripes": 0.6, "linear": 0.9}
TRUTH = {"moat": 0.3, "patches": 0.0, "stripes": -0.3, "linear": 0.0}
"""Scenario -> final normalised return of the baseline, and what wsa adds."""
MODELS = ["resnet18_random", "graph_cnn", "resnet34_random"]
TOTAL, BINS, EPISODES = 200_000, 20, 50


def scenario(name: str, **changes: object) -> ScenarioPlan:
    """A scenario of the plan; `name` may be `base-setting`."""
    references = changes.pop("references", REFERENCES)
    return ScenarioPlan(name, name.split("-")[0], changes, name == "linear", "0" * 12, references)


def plan(**changes: object) -> StudyPlan:
    """The plan of two arms in four scenarios with ten seeds; fields are replaced by `changes`."""
    whole = StudyPlan(
        name="made-up",
        question="Does WSA help, where, by how much, at what cost?",
        purpose=REPORT,
        baseline="baseline",
        arms=[
            ArmPlan("baseline", "one backbone", {}, ["lr 3e-4", "lr 1e-4"], None),
            ArmPlan("wsa", "three models", {"actor_critic.use_wsa": True}, ["lr 3e-4", "lr 1e-4"], None),
        ],
        scenarios=[scenario(name) for name in ("moat", "patches", "stripes", "linear")],
        seeds=range(100, 110),
        total_steps=TOTAL,
        episodes=EPISODES,
        evaluated_in={},
        conditions={},
        interventions=["zero", "shuffled", "uniform"],
        runs=[],
        command="durotaxis study run made-up.yaml",
        version="0.1.0",
    )
    whole = replace(whole, **changes)
    runs = [
        RunPlan(arm.name, place.name, seed, digest(arm.name, place.name, seed))
        for arm in whole.arms
        for place in whole.scenarios
        for seed in whole.seeds
    ]
    return replace(whole, seeds=list(whole.seeds), runs=changes.get("runs") or runs)


def digest(arm: str, place: str, seed: int) -> str:
    """Of a made-up configuration."""
    return f"{hash_of(f'{arm}/{place}/{seed}'):012x}"


def hash_of(text: str) -> int:
    """The same in every process."""
    return zlib.crc32(text.encode())


def truth_of(arm: str, place: str) -> float:
    """Expected final normalised return."""
    base = place.split("-")[0]
    return BASE[base] + (TRUTH[base] if arm.startswith("wsa") else 0.0)


def score(rng: np.random.Generator, value: float, place: str, **changes: object) -> Score:
    """Held-out episodes of an agent with a normalised return of exactly `value`."""
    success = float(np.clip(value, 0.0, 1.0))
    whole = Score(
        scenario=place,
        condition=TRAINED,
        intervention="none",
        world="0" * 12,
        deterministic=False,
        episodes=EPISODES,
        return_mean=RANDOM + value * (DELETE_LEFT - RANDOM),
        return_se=0.2,
        successes=int(rng.binomial(EPISODES, success)),
        front_progress=0.1 + 0.9 * success,
        length_mean=90.0,
        steps_to_success=60.0 if success > 0 else None,
    )
    return replace(whole, **changes)


def curve(rng: np.random.Generator, value: float, pace: float) -> dict[str, list[float]]:
    """Training episodes: an exponential approach to `value` with a time constant of 0.3/pace of training."""
    share = np.arange(1, BINS + 1) / BINS
    height = value * (1 - np.exp(-share * pace / 0.3)) + rng.normal(0.0, 0.01, BINS)
    return {
        "step": (share * TOTAL).tolist(),
        "return": (RANDOM + height * (DELETE_LEFT - RANDOM)).tolist(),
        "success_rate": height.clip(0, 1).tolist(),
        "front_progress": (0.1 + 0.9 * height.clip(0, 1)).tolist(),
        "episodes": [40] * BINS,
    }


def attention(rng: np.random.Generator) -> dict[str, object]:
    """Attention that moves from uniform to the second model."""
    share = np.arange(1, 11) / 10
    logits = np.stack([np.zeros(10), 1.2 * share, -0.5 * share], 1) + rng.normal(0.0, 0.05, (10, 3))
    weight = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    effective = np.exp(-(weight * np.log(weight)).sum(1))
    return {
        "names": MODELS,
        "step": (share * TOTAL).tolist(),
        "weight": weight.tolist(),
        "effective": effective.tolist(),
        "phases": {"early": weight[-1].tolist(), "migrating": weight[-2].tolist()},
    }


def record(study: StudyPlan, run: RunPlan, noise: float = 0.05, failed: bool = False) -> RunRecord:
    """The record of one run of the plan."""
    rng = np.random.default_rng(hash_of(f"{run.arm}/{run.scenario}/{run.seed}"))
    seed_luck = np.random.default_rng(run.seed).normal(0.0, noise)  # common to arms: pairs are alike
    value = truth_of(run.arm, run.scenario) + seed_luck + rng.normal(0.0, noise)
    has_models = run.arm.startswith("wsa")
    scores = [score(rng, value, run.scenario)]
    scores += [score(rng, value - 0.05, run.scenario, deterministic=True)]
    scores += [
        score(rng, value - 0.1 * k, run.scenario, condition=name)
        for k, name in enumerate(study.conditions, 1)
    ]
    scores += [score(rng, value - 0.2, name) for name in study.evaluated_in if name != run.scenario]
    if has_models:
        scores += [score(rng, value - 0.25, run.scenario, intervention=name) for name in study.interventions]
    return RunRecord(
        study=study.name,
        arm=run.arm,
        scenario=run.scenario,
        seed=run.seed,
        config=run.config,
        status=FAILED if failed else FINISHED,
        attempts=3 if failed else 1,
        error="the process was killed (out of memory)" if failed else None,
        steps=TOTAL // 2 if failed else TOTAL,
        episodes=BINS * 40,
        curve=curve(rng, value, 2.0 if has_models and TRUTH[run.scenario.split("-")[0]] > 0 else 1.0),
        scores=() if failed else scores,
        attention=attention(rng) if has_models else None,
        warnings={"entropy_gone": 2} if run.seed == 100 else {},
        cost={
            "elapsed_s": 250.0,
            "steps_per_s": float(rng.normal(600.0 if has_models else 800.0, 10.0)),
            "host_memory_mb": 900.0,
            "num_parameters": 31_000_000 if has_models else 11_000_000,
            "num_trainable": 900_000,
        },
        provenance={
            "started": f"2026-11-2{run.seed % 5}T10:00:00+00:00",
            "commit": "51e5580" * 5,
            "modified": False,
            "versions": {"torch": "2.13.0", "numpy": "2.4.0"},
            "platform": "Linux",
            "device": "cpu",
            "device_name": "cpu",
            "threads": 1,
            "frozen_hash": "ab" * 32 if has_models else None,
            "ptms": [{"name": name, "sha256": None, "frozen": True} for name in MODELS] if has_models else [],
        },
        version="0.1.0",
    )


TIME, PARAMETERS, MEMORY = 1.3, 3, 2.0
"""What a step, the parameters and the memory of every arm but the baseline are, over the baseline's."""


def cost(study: StudyPlan) -> StudyCost:
    """Costs measured by turns."""
    drift = 1.0 + 0.05 * np.sin(np.arange(8))  # the machine's, common to arms
    rng = np.random.default_rng(3)

    def times(seconds: float) -> list[float]:
        return (seconds * drift * rng.normal(1.0, 0.005, 8)).tolist()

    def of(is_base: bool) -> ArmCost:
        time, parameters, memory = (1.0, 1, 1.0) if is_base else (TIME, PARAMETERS, MEMORY)
        seconds = [times(0.01 * time), times(time), times(2.0 * time)]
        return ArmCost(11_000_000 * parameters, 900_000, *seconds, 200.0 * memory)

    return StudyCost(
        machine="Made-up CPU",
        device="cpu",
        threads=1,
        scenario=study.scenarios[0].name,
        colonies=32,
        steps_per_rollout=1024,
        num_nodes={arm.name: 20.0 for arm in study.arms},
        arms={arm.name: of(arm.name == study.baseline) for arm in study.arms},
        date="2026-11-26",
        version="0.1.0",
    )


def write_study(
    path: Path,
    study: StudyPlan | None = None,
    *,
    failed: tuple[tuple[str, str, int], ...] = (),
    missing: tuple[tuple[str, str, int], ...] = (),
    noise: float = 0.05,
    with_cost: bool = True,
    with_configs: bool = True,
) -> StudyPlan:
    """Write the directory; returns its plan."""
    study = study or plan()
    path.mkdir(parents=True, exist_ok=True)
    write_plan(path, study)
    for run in study.runs:
        if run.key not in missing:
            write_record(path, record(study, run, noise, run.key in failed))
    if with_cost:
        write_json(path / COST, cost(study).to_json())
    if with_configs:
        (path / CONFIGS).mkdir(exist_ok=True)
        for run in study.runs:
            text = f"run:\n  seed: {run.seed}\nenv:\n  scenario: {run.scenario}\nactor_critic:\n  use_wsa: {run.arm != 'baseline'}\n"
            (path / CONFIGS / f"{run.config}.yaml").write_text(text)
    return study
