"""What fusing several pre-trained models costs, against one backbone in the same agent.

    python benchmarks/fusion.py                                   # the tables of docs/performance.md
    python benchmarks/fusion.py --models 3 --repeats 9 --json fusion.json
    python benchmarks/fusion.py --config configs/wsa.yaml

A colony's cost is one rollout forward (frozen models included) plus one update pass (forward, loss, backward)
over it, without the world and without Adam. `cached` keeps the outputs of frozen models from the rollout for
the update; `uncached` computes them in both. Every arm is timed in turn with the baseline, on the same
observations of a seeded rollout, and the ratio is the median over turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.config import load_config
from durotaxis.core.randomness import hash_keys
from durotaxis.env import DurotaxisEnv, Observation
from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, check_ptm, list_ptms
from durotaxis.fusion.sources import at_hand, needs_weights
from durotaxis.ppo.loss import ppo_loss
from durotaxis.study.calibrate import calibrate_policy
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.run import build_policy
from env import machine, tensor_bytes

POOL = tuple(f"{{model_type: resnet18_random, seed: {seed}, freeze: FREEZE}}" for seed in range(6))
"""The models of WSA with K = 1 to 6: all like the baseline's, so that arithmetic is K times its."""


@dataclass(frozen=True)
class Arm:
    """An agent and how its cost is measured."""

    name: str
    policy: HybridActorCritic
    cached: bool


def make_arm(name: str, config: str, overrides: Sequence[str], cached: bool) -> Arm:
    """Build and calibrate the agent of a configuration."""
    root = load_config(find_config(config), RootConfig, ["monitor.tensorboard=false", *overrides])
    policy = build_policy(root, torch.device("cpu"))
    calibrate_policy(policy, root.env, seed=0)
    return Arm(name, policy, cached)


def observations(config: str, num_colonies: int, steps: int) -> Observation:
    """Observations of a mixed-size batch: colonies after `steps` steps of the delete-left policy."""
    root = load_config(find_config(config), RootConfig, ["env.observation.field=true"])
    world = DurotaxisEnv(root.env, num_colonies, validate=False)
    observation = world.reset(hash_keys(torch.arange(num_colonies), 0))
    for _ in range(steps):
        result = world.step(SCRIPTED["delete-left"](world.colony, world.substrate, root.env))
        ended = result.terminated | result.truncated
        observation = world.reset_where(ended, hash_keys(torch.arange(num_colonies), 1))
    return observation


def narrow(observation: Observation) -> Observation:
    """Without the node slots that no colony uses, as the update sees a minibatch."""
    from durotaxis.ppo.rollout import narrow_nodes, num_used_slots

    return narrow_nodes(observation, num_used_slots(observation.node_mask))


def rollout_forward(arm: Arm, observation: Observation) -> tuple[Any, Any]:
    """What a rollout computes for a batch; returns the sample and what is kept."""
    with torch.no_grad():
        cached = arm.policy.precompute(observation)
        distribution, _ = arm.policy(observation, cached)
        return distribution.sample(torch.arange(len(observation.node_mask))), cached


def update_pass(arm: Arm, observation: Observation, sample: Any, cached: Any) -> None:
    """Forward, loss and backward over a batch."""
    distribution, value = arm.policy(observation, cached if arm.cached else None)
    log_prob = distribution.log_prob(sample)
    loss = ppo_loss(
        log_prob=log_prob,
        old_log_prob=log_prob.detach(),
        node_mask=distribution.node_mask,
        advantage=torch.ones_like(value),
        entropy=distribution.entropy(),
        value=value,
        target=torch.zeros_like(value),
        old_value=value.detach(),
        penalty=value.new_zeros(()),
    )
    arm.policy.zero_grad(set_to_none=True)
    loss.total.backward()


def cost(arm: Arm, observation: Observation) -> tuple[float, float]:
    """Seconds of the rollout forward and of the update pass."""
    began = time.perf_counter()
    sample, cached = rollout_forward(arm, observation)
    middle = time.perf_counter()
    update_pass(arm, observation, sample, cached)
    return middle - began, time.perf_counter() - middle


def kept_bytes(arm: Arm, observation: Observation) -> float:
    """Bytes per colony-step that a rollout keeps of frozen models."""
    cached = arm.policy.precompute(observation)
    if cached is None or not arm.cached:
        return 0.0
    tensors = (cached.features | cached.node_features).values()
    return sum(t.numel() * t.element_size() for t in tensors) / len(observation.node_mask)


def compare(arm: Arm, baseline: Arm, observation: Observation, repeats: int) -> dict[str, Any]:
    """Median cost of an arm, and its ratio to the baseline, both timed in turn."""
    for warm in (arm, baseline):
        cost(warm, observation)
    own, other = [], []
    for _ in range(repeats):
        own.append(cost(arm, observation))
        other.append(cost(baseline, observation))
    colonies = len(observation.node_mask)
    ratios = [sum(mine) / sum(theirs) for mine, theirs in zip(own, other, strict=True)]
    extractor = arm.policy.actor.extractor
    return {
        "arm": arm.name,
        "cached": arm.cached,
        "rollout_ms": 1e3 * statistics.median(row[0] for row in own) / colonies,
        "update_ms": 1e3 * statistics.median(row[1] for row in own) / colonies,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "backbone_parameters": backbone_parameters(extractor),
        "trained_parameters": sum(p.numel() for p in arm.policy.parameters() if p.requires_grad),
        "kept_kb": kept_bytes(arm, observation) / 1e3,
    }


def backbone_parameters(extractor: MultiPTMFeatureExtractor) -> int:
    """Parameters of all backbones up to their taps."""
    return sum(p.numel() for ptm in extractor.ptms for p in ptm.backbone.parameters())


def freeze_all(ptms: Sequence[str], freeze: bool) -> str:
    """A list of models as a value for the command line."""
    return "[" + ", ".join(ptms).replace("FREEZE", str(freeze).lower()) + "]"


def own_models(config: str, freeze: bool) -> str:
    """The models of a configuration, all frozen or all trained, as a value for the command line."""
    ptms = load_config(find_config(config), RootConfig).actor_critic.wsa_config.ptms
    return json.dumps([ptm.model_dump(exclude_defaults=True) | {"freeze": freeze} for ptm in ptms])


def baseline_of(config: str, freeze: bool, cached: bool) -> Arm:
    """The plain actor with the first model of the pool."""
    backbone = POOL[0].replace("FREEZE", str(freeze).lower())
    overrides = ["actor_critic.use_wsa=false", f"actor_critic.backbone={backbone}"]
    return make_arm("one backbone", config, overrides, cached)


def arms_table(options: argparse.Namespace, observation: Observation) -> list[dict[str, Any]]:
    """WSA with K models against one backbone, frozen (cached and not) and trained."""
    heads = (
        "arm",
        "models",
        "cache",
        "rollout",
        "update",
        "ratio",
        "low - high",
        "backbones",
        "trained",
        "kept",
    )
    line = "{:<24} {:<8} {:<6} {:>9} {:>9} {:>6} {:>12} {:>11} {:>10} {:>9}"
    print("\n" + line.format(*heads))
    rows = []
    for freeze, cached in ((True, True), (True, False), (False, False)):
        baseline = baseline_of(options.config, freeze, cached)
        arms = [baseline]
        for count in options.models:
            ptms = freeze_all(POOL[:count], freeze)
            overrides = ["actor_critic.use_wsa=true", f"actor_critic.wsa_config.ptms={ptms}"]
            arms.append(make_arm(f"WSA, K = {count}", options.config, overrides, cached))
        overrides = ["actor_critic.use_wsa=true"]
        if freeze:
            arms.append(make_arm(f"WSA as in {options.config}", options.config, overrides, cached))
        overrides.append(f"actor_critic.wsa_config.ptms={own_models(options.config, freeze)}")
        name = f"{options.config}, all {'frozen' if freeze else 'trained'}"
        arms.append(make_arm(name, options.config, overrides, cached))
        for arm in arms:
            row = compare(arm, baseline, observation, options.repeats)
            rows.append({"frozen": freeze, **row})
            print(
                line.format(
                    row["arm"],
                    "frozen" if freeze else "trained",
                    "yes" if cached else "no",
                    f"{row['rollout_ms']:.3f} ms",
                    f"{row['update_ms']:.3f} ms",
                    f"{row['ratio']:.2f}",
                    f"{row['ratio_low']:.2f} - {row['ratio_high']:.2f}",
                    f"{row['backbone_parameters']:,}",
                    f"{row['trained_parameters']:,}",
                    f"{row['kept_kb']:.1f} kB",
                ),
                flush=True,
            )
    return rows


def models_table(options: argparse.Namespace, observation: Observation) -> list[dict[str, Any]]:
    """Every model at hand by itself, as the backbone of the plain actor: frozen and cached, and trained."""
    line = "{:<24} {:>6} {:>12} {:>8} {:>11} {:>10} {:>10} {:>14} {:>14}"
    heads = ("model", "width", "parameters", "weights", "per input", "rollout", "kept")
    print(line.format(*heads, "update frozen", "update trained"))
    rows = []
    for record in list_ptms():
        name = record.model_type
        if needs_weights(name) and at_hand(name) is None:
            continue
        found = check_ptm(PTMConfig(model_type=name))
        costs = []
        for freeze in (True, False):
            backbone = f"actor_critic.backbone={{model_type: {name}, freeze: {str(freeze).lower()}}}"
            arm = make_arm(name, options.config, ["actor_critic.use_wsa=false", backbone], cached=freeze)
            cost(arm, observation)
            times = [cost(arm, observation) for _ in range(options.repeats)]
            medians = [1e3 * statistics.median(t[i] for t in times) / options.colonies for i in (0, 1)]
            costs.append((*medians, kept_bytes(arm, observation) / 1e3))
        row = {
            "model": name,
            "width": found.record.width,
            "parameters": found.num_parameters,
            "weights_mb": 4 * found.num_parameters / 1e6,
            "ms_per_input": found.milliseconds,
            "rollout_ms": costs[0][0],
            "kept_kb": costs[0][2],
            "update_frozen_ms": costs[0][1],
            "update_trained_ms": costs[1][1],
        }
        rows.append(row)
        print(
            line.format(
                name,
                row["width"],
                f"{row['parameters']:,}",
                f"{row['weights_mb']:.1f} MB",
                f"{row['ms_per_input']:.2f} ms",
                f"{row['rollout_ms']:.2f} ms",
                f"{row['kept_kb']:.1f} kB",
                f"{row['update_frozen_ms']:.2f} ms",
                f"{row['update_trained_ms']:.2f} ms",
            ),
            flush=True,
        )
    return rows


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="quick", help="the agent around the models")
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], metavar="K")
    parser.add_argument("--colonies", type=int, default=192, help="observations per batch")
    parser.add_argument("--repeats", type=int, default=7, help="turns per arm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    if not all(1 <= count <= len(POOL) for count in options.models):
        parser.error(f"--models takes 1 to {len(POOL)}")
    torch.set_num_threads(options.threads)
    print(machine("cpu") + "\n")
    report: dict[str, Any] = {"machine": machine("cpu")}
    observation = narrow(observations(options.config, options.colonies, steps=60))
    report["nodes"] = float(observation.node_mask.sum(1).float().mean())
    print(f"{options.colonies} colonies of {report['nodes']:.1f} nodes on average; times per colony")
    report["models"] = models_table(options, observation)
    report["arms"] = arms_table(options, observation)
    report["observation_kb"] = tensor_bytes(observation) / options.colonies / 1e3
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
