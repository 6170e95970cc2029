"""How fast training is, end to end: steps per second, where the time goes, memory, growth, switches, limits.

    python benchmarks/train.py                                     # the tables of docs/performance.md
    python benchmarks/train.py --tables arms --arms baseline wsa --turns 9 --json train.json
    python benchmarks/train.py --tables switches --switches bfloat16 compile
    python benchmarks/train.py --tables growth --growth nodes ptms
    python benchmarks/train.py --tables full --colonies 4 --rollout 2
    python benchmarks/train.py --turns 1 --set ppo.num_colonies=8 ppo.rollout_steps=2   # a quick look

A training is a rollout, an update and the records, as `durotaxis train` does them. Every iteration starts
from the same world: colonies after some steps of the delete-left policy, which holds them near their critical
number of nodes. It goes on acting in the rollout, in place of what the policy draws, so that all arms see
the same colonies. There is no KL stop, so every iteration makes all its minibatches. Arms of one table take
turns in one process, and ratios are medians over turns; peak memory is that of a process with one arm alone.

world: steps and resets. forward: the policy in the rollout, frozen models included. update: advantages, all
minibatches, Adam. monitoring: diagnostics and records. rest: sampling, checks, keeping the rollout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.config import load_config
from durotaxis.core.randomness import hash_keys
from durotaxis.env import Action, DurotaxisEnv
from durotaxis.ppo import collect, make_optimizer, start, update
from durotaxis.ppo.monitor import Monitor, diagnose, rollout_metrics, timing_metrics
from durotaxis.ppo.ranks import in_order
from durotaxis.ppo.rollout import Rollout, Slots, keep
from durotaxis.ppo.update import minibatch_indices, minibatch_loss, prepare
from durotaxis.records import RunDirectory
from durotaxis.study.calibrate import calibrate_policy
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.run import build_policy
from env import GIGA, bandwidth, machine

FROZEN = (
    "actor_critic.wsa_config.ptms=[{model_type: resnet18_random, freeze: true}, "
    "{model_type: graph_cnn, freeze: true, tap: block2, seed: 1}, "
    "{model_type: graph_gnn_connectivity, freeze: true}]"
)
LEARNING = FROZEN.replace("graph_cnn, freeze: true", "graph_cnn, freeze: false").replace(
    "resnet18_random, freeze: true", "resnet18_random, freeze: false"
)
ARMS = {
    "baseline": ["actor_critic.use_wsa=false"],
    "wsa": ["actor_critic.use_wsa=true", FROZEN],
    "quick": ["actor_critic.use_wsa=true"],
    "learning": ["actor_critic.use_wsa=true", LEARNING],
}
"""One frozen backbone; three frozen models; quick's own three, one of which learns; two of three learn."""

FULL = [
    "env.scenario=full",
    "encoder.num_layers=4",
    "encoder.hidden_dim=128",
    "actor_critic.wsa_config.embedding_dim=256",
    "actor_critic.wsa_config.context_dim=128",
    "actor_critic.wsa_config.hidden_dims=[256,128]",
]
SWITCHES = {
    "none": [],
    "encoder checkpointing": ["encoder.gradient_checkpointing=true"],
    "backbone checkpointing": ["actor_critic.gradient_checkpointing=true"],
    "microbatches of 48": ["ppo.microbatch_size=48"],
    "bfloat16": ["actor_critic.precision=bfloat16"],
    "compile": ["actor_critic.compile=true"],
}
POOL = [f"{{model_type: resnet18_random, seed: {seed}, freeze: true}}" for seed in range(6)]
GROWTH = {
    "nodes": {
        str(n): [f"env.critical_nodes={n}", f"env.max_nodes={3 * n}", "env.max_steps=100000"]
        for n in (10, 20, 40, 80)
    },
    "ptms": {str(k): [f"actor_critic.wsa_config.ptms=[{', '.join(POOL[:k])}]"] for k in range(1, 7)},
    "width": {str(d): [f"actor_critic.wsa_config.embedding_dim={d}"] for d in (64, 128, 256, 512)},
    "batch": {str(b): [f"ppo.num_colonies={b}"] for b in (12, 24, 48, 96)},
}
PARTS = ("world", "forward", "update", "monitoring", "rest")


class Clock:
    """Seconds by name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            result = function(*args, **kwargs)
            self.seconds[name] += self.now() - began
            return result

        return call


class Timed:
    """An object of which some methods are timed."""

    def __init__(self, inner: Any, clock: Clock, name: str, methods: Sequence[str]) -> None:
        self._inner = inner
        self._call = clock.timed(name, inner) if "__call__" in methods else None
        for method in set(methods) - {"__call__"}:
            setattr(self, method, clock.timed(name, getattr(inner, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *args: Any) -> Any:
        assert self._call is not None
        return self._call(*args)


class Training:
    """A training that can be taken iteration by iteration, always from the same world."""

    def __init__(self, name: str, overrides: Sequence[str], options: argparse.Namespace) -> None:
        self.name = name
        fixed = ["ppo.target_kl=null", f"monitor.tensorboard={str(options.tensorboard).lower()}"]
        self.config = load_config(find_config("quick"), RootConfig, [*fixed, *options.set, *overrides])
        self.device = torch.device(options.device)
        self.policy = build_policy(self.config, self.device)
        calibrate_policy(self.policy, self.config.env, seed=0)
        self.optimizer = make_optimizer(self.policy, self.config.ppo)
        self.world = DurotaxisEnv(self.config.env, self.config.ppo.num_colonies, self.device, validate=False)
        self.slots = self._grown(options.warm_up)
        self.state = self.world.state_dict()
        self.folder = tempfile.TemporaryDirectory()
        run = RunDirectory.create(Path(self.folder.name) / "run", "", {})
        self.monitor = Monitor(run, self.config.monitor, 1000, self.config.ppo.steps_per_rollout)
        self.count = 0

    def _grown(self, steps: int) -> Slots:
        """Where the colonies stand after `steps` of delete-left."""
        slots = start(self.world, self.policy, 0)
        observation: Any = slots.observation
        for step in range(steps):
            result = self.world.step(self._delete_left())
            ended = result.terminated | result.truncated
            seeds = hash_keys(torch.arange(self.world.num_colonies, device=self.device), step)
            observation = self.world.reset_where(ended, seeds)
        cached = keep(self.policy, observation, self.world, 0, 0)
        return dataclasses.replace(slots, observation=observation, cached=cached)

    def _delete_left(self) -> Action:
        return SCRIPTED["delete-left"](self.world.colony, self.world.substrate, self.config.env)

    def rollout(self, clock: Clock) -> tuple[Rollout, Slots, list[dict[str, Any]]]:
        """One rollout from the same world as always."""
        self.world.load_state_dict(self.state)
        slots = dataclasses.replace(
            self.slots, cached=keep(self.policy, self.slots.observation, self.world, 0, 0)
        )
        world: Any = Timed(self.world, clock, "world", ("step", "reset_where", "summary"))
        policy: Any = Timed(self.policy, clock, "forward", ("__call__", "precompute"))
        policy.to_action = lambda sample, observation: self._delete_left()
        return collect(world, policy, slots, self.config.ppo.rollout_steps, 0)

    def iterate(self) -> dict[str, float]:
        """Seconds of the parts of one iteration and of the whole, its nodes and its steps."""
        clock = Clock(self.device)
        self.count += 1
        ppo = self.config.ppo
        began = clock.now()
        rollout, slots, finished = self.rollout(clock)
        learn = clock.timed("update", update)
        numbers = learn(self.policy, self.optimizer, rollout, ppo, 0, self.count)
        clock.timed("monitoring", self.watch)(rollout, slots, finished, numbers)
        whole = clock.now() - began
        parts = dict(clock.seconds)
        return {
            **parts,
            "rest": whole - sum(parts.values()),
            "whole": whole,
            "steps": ppo.steps_per_rollout,
            "nodes": float(rollout.node_mask.sum(2).float().mean()),
        }

    def watch(
        self, rollout: Rollout, slots: Slots, finished: list[dict[str, Any]], numbers: dict[str, Any]
    ) -> None:
        """What a training records of one iteration."""
        rows = diagnose(self.policy, self.world, slots)
        episodes = [{"episode": i, **row} for i, row in enumerate(in_order([finished]), start=1)]
        times = timing_metrics(1.0, 1.0, 1.0, 1.0, self.config.ppo.steps_per_rollout, 1, self.device)
        when = {"iteration": self.count, "step": self.count, "episodes": 0, "learning_rate": 0.0}
        metrics = {**when, **rollout_metrics(rollout, finished), **numbers, **times}
        self.monitor.iteration(metrics, episodes, rows)

    def close(self) -> None:
        """Remove what was recorded."""
        self.monitor.close()
        self.folder.cleanup()


def take_turns(arms: dict[str, list[str]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm in turn with the first, `turns` times after one that does not count: medians and ratios."""
    trainings = {name: Training(name, overrides, options) for name, overrides in arms.items()}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for turn in range(options.turns + 1):
        for name, training in trainings.items():
            progress(f"{name}: iteration {turn} of {options.turns}")
            numbers = training.iterate()
            if turn:
                seen[name].append(numbers)
    for training in trainings.values():
        training.close()
    first = [row["steps"] / row["whole"] for row in seen[next(iter(arms))]]
    return [summarise(name, rows, first) for name, rows in seen.items()]


def summarise(name: str, rows: list[dict[str, float]], first: list[float]) -> dict[str, Any]:
    """Medians over iterations; the ratio is to the first arm's speed in the same turn."""
    median = {key: statistics.median(row.get(key, 0.0) for row in rows) for key in (*PARTS, "whole", "nodes")}
    rates = [row["steps"] / row["whole"] for row in rows]
    ratios = [own / other for own, other in zip(rates, first, strict=True)]
    return {
        "arm": name,
        "nodes": median["nodes"],
        "steps_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "ratio": statistics.median(ratios),
        "shares": {part: median[part] / median["whole"] for part in PARTS},
    }


def with_memory(
    rows: list[dict[str, Any]], arms: dict[str, list[str]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows with the peak memory of each arm, measured in a process of its own."""
    return [row | {"peak_mb": peak_memory(arms[row["arm"]], options)} for row in rows]


def peak_memory(overrides: list[str], options: argparse.Namespace) -> float | None:
    """Peak resident MB of a process that makes two iterations; on a GPU, of its memory. None if skipped."""
    if options.no_memory:
        return None
    progress("peak memory")
    common = ["--device", options.device, "--threads", str(options.threads)]
    common += ["--warm-up", str(options.warm_up), "--set", *options.set]
    command = [sys.executable, __file__, *common, "--worker", json.dumps(overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def worker(overrides: list[str], options: argparse.Namespace) -> None:
    """What `peak_memory` runs."""
    training = Training("", overrides, options)
    for _ in range(2):
        training.iterate()
    training.close()
    if options.device != "cpu":
        print(torch.cuda.max_memory_allocated() / 1e6)
    else:
        print(peak_resident_mb())


def peak_resident_mb() -> float:
    """Of this program alone: what `getrusage` says is never less than the process that started it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


class ByteCounter(TorchDispatchMode):
    """Bytes that eager operations read and write, views left out: what memory would move without a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        places = {leaf.untyped_storage().data_ptr() for leaf in read}
        is_view = all(leaf.untyped_storage().data_ptr() in places for leaf in written)
        if not is_view or func._schema.is_mutable:
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in [*read, *written])
        return result


def work_per_step(name: str, overrides: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Arithmetic and bytes of one environment step: its share of the rollout's and of the update's passes."""
    training = Training(name, overrides, options)
    ppo, clock = training.config.ppo, Clock(training.device)
    rollout, _, _ = training.rollout(clock)
    batch, _ = prepare(rollout, ppo)
    index = minibatch_indices(len(batch.value), ppo.num_minibatches, 0, 1, 0)[0].to(training.device)

    seen = training.slots.observation

    def forward() -> None:
        with torch.no_grad():
            training.policy(seen, training.policy.precompute(seen))

    def learn() -> None:
        minibatch_loss(training.policy, batch[index], ppo).total.backward()

    total = {"flops": 0.0, "bytes": 0.0}
    for function, passes in ((forward, 1 / ppo.num_colonies), (learn, ppo.num_epochs / len(index))):
        with FlopCounterMode(display=False) as flops:
            function()
        with ByteCounter() as moved:
            function()
        total["flops"] += passes * flops.get_total_flops()
        total["bytes"] += passes * moved.bytes
    training.close()
    return {"arm": name, **total}


def peak_flops(device: str) -> float:
    """Multiplications and additions per second of square products in float32, the best of several."""
    best = 0.0
    for side in (512, 1024, 2048):
        a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        clock = Clock(torch.device(device))
        torch.mm(a, b)
        for _ in range(3):
            began = clock.now()
            torch.mm(a, b)
            best = max(best, 2 * side**3 / (clock.now() - began))
    return best


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """One table."""
    line = "{:<24} {:>6} {:>9} {:>17} {:>6} {:>8}  " + "{:>6} " * len(PARTS)
    print(f"\n{title}\n" + line.format("", "nodes", "steps/s", "low - high", "ratio", "peak", *PARTS))
    for row in rows:
        peak = row.get("peak_mb")
        print(
            line.format(
                row["arm"],
                f"{row['nodes']:.1f}",
                f"{row['steps_per_s']:.1f}",
                f"{row['slowest']:.1f} - {row['fastest']:.1f}",
                f"{row['ratio']:.2f}",
                "" if peak is None else f"{peak:,.0f} MB",
                *(f"{100 * row['shares'][part]:.1f} %" for part in PARTS),
            ),
            flush=True,
        )


def progress(text: str) -> None:
    """One line on a terminal, overwritten by the next."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)


def reduced(options: argparse.Namespace) -> list[str]:
    """The full world with a batch that a CPU can take."""
    size = [f"ppo.num_colonies={options.colonies}", f"ppo.rollout_steps={options.rollout}"]
    return [*FULL, *size, "ppo.num_minibatches=4", "ppo.num_epochs=1"]


def arms_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Arms on the small world."""
    arms = {name: ARMS[name] for name in options.arms}
    rows = with_memory(take_turns(arms, options), arms, options)
    print_rows("quick", rows)
    return rows


def full_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Arms on the large world."""
    small = reduced(options) if options.device == "cpu" else FULL
    arms = {name: [*ARMS[name], *small] for name in options.arms}
    longer = argparse.Namespace(**{**vars(options), "warm_up": 4 * options.warm_up})
    rows = with_memory(take_turns(arms, longer), arms, longer)
    note = f", {options.colonies} colonies, {options.rollout} steps, 1 epoch" if small != FULL else ""
    print_rows(f"full, 4 layers of 128{note}", rows)
    return rows


def switches_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every switch against none, for three models of which two learn."""
    chosen = ["none", *(name for name in options.switches if name != "none")]
    arms = {name: [*ARMS["learning"], *SWITCHES[name]] for name in chosen}
    rows = with_memory(take_turns(arms, options), arms, options)
    print_rows("switches (a ResNet-18 and a CNN learn)", rows)
    return rows


def growth_table(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What grows with nodes, models, width and batch."""
    tables = {}
    for what in options.growth:
        arms = {key: [*ARMS["wsa"], *values] for key, values in GROWTH[what].items()}
        tables[what] = with_memory(take_turns(arms, options), arms, options)
        print_rows(f"growth with {what} (three frozen models)", tables[what])
    return tables


def monitor_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The share of an iteration that diagnostics and records take, with and without TensorBoard."""
    rows = []
    for board in (True, False):
        watched = argparse.Namespace(**{**vars(options), "tensorboard": board})
        (row,) = take_turns({"wsa": ARMS["wsa"]}, watched)
        rows.append({"tensorboard": board, "share": row["shares"]["monitoring"]})
        kind = "with" if board else "without"
        print(f"monitoring {kind} TensorBoard: {100 * rows[-1]['share']:.2f} % of an iteration")
    return rows


def bound_table(options: argparse.Namespace) -> dict[str, Any]:
    """What arithmetic and memory allow, beside nothing else."""
    peak, copied = peak_flops(options.device), bandwidth(options.device)
    print(f"\nproducts: {peak / GIGA:.1f} GFLOP/s; copying: {copied / GIGA:.1f} GB/s")
    line = "{:<12} {:>14} {:>14} {:>22} {:>22}"
    print(line.format("", "MFLOP/step", "MB/step", "arithmetic allows", "moving allows"))
    rows = []
    for name in options.arms:
        row = work_per_step(name, ARMS[name], options)
        row |= {"by_arithmetic": peak / row["flops"], "by_moving": copied / row["bytes"]}
        rows.append(row)
        print(
            line.format(
                name,
                f"{row['flops'] / 1e6:.1f}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['by_arithmetic']:,.0f} steps/s",
                f"{row['by_moving']:,.0f} steps/s",
            ),
            flush=True,
        )
    return {"flops_per_s": peak, "bytes_per_s": copied, "arms": rows}


TABLES: dict[str, Callable[[argparse.Namespace], Any]] = {
    "arms": arms_table,
    "bound": bound_table,
    "monitor": monitor_table,
    "switches": switches_table,
    "growth": growth_table,
    "full": full_table,
}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["baseline", "wsa", "quick"])
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--growth", nargs="+", choices=GROWTH, default=list(GROWTH))
    parser.add_argument("--turns", type=int, default=5, help="iterations per arm that count")
    parser.add_argument("--warm-up", type=int, default=60, help="steps of delete-left before (full: 4 times)")
    parser.add_argument("--colonies", type=int, default=8, help="of the full world on a CPU")
    parser.add_argument("--rollout", type=int, default=4, help="steps of the full world on a CPU")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for all arms alike")
    parser.add_argument("--tensorboard", action="store_true", help="in all tables, not in `monitor` alone")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker is not None:
        worker(options.worker, options)
        return
    load = os.getloadavg()
    report: dict[str, Any] = {"machine": machine(options.device), "load_before": load}
    print(f"{report['machine']}\nload average {load[0]:.1f}: above 0 the machine did other work as well")
    for name in options.tables:
        report[name] = TABLES[name](options)
    report["load_after"] = os.getloadavg()
    print(f"\nload average at the end {report['load_after'][0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
