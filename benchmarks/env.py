"""How fast the world steps: colony-steps per second, what a step spends its time in, memory per colony.

    python benchmarks/env.py                                  # the table of docs/performance.md
    python benchmarks/env.py --batch 256 --nodes 50 --profile
    python benchmarks/env.py --batch 100000 --nodes 10 --steps 3
    python benchmarks/env.py --device cuda

Each colony holds its number of nodes: every step the newest tenth spawns and the oldest tenth is deleted,
with spawn parameters drawn over their whole ranges. A step includes dynamics, reward, ends and observation,
but no policy and no check of the action.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.env import Action, Colony, DurotaxisEnv, EnvConfig, Kind, Transition
from durotaxis.env import env as world_module
from durotaxis.env.dynamics import slots_needed
from durotaxis.env.hull import convex_hull
from durotaxis.env.observation import complete, observe_survey
from durotaxis.env.slots import crop, pad

GIGA = 1e9


def make_world(batch: int, nodes: int, device: str, compiled: bool) -> DurotaxisEnv:
    """A batch of colonies of `nodes` nodes that no rule ends; marks are on, the field is off."""
    config = EnvConfig(
        num_initial_nodes=nodes,
        critical_nodes=max(1, round(0.8 * nodes)),
        max_nodes=2 * nodes,
        capacity=round(2.4 * nodes) + 1,
        max_steps=10**9,
        left_moves_limit=None,
    )
    world = DurotaxisEnv(config, batch, device, validate=False, compile=compiled)
    world.reset(torch.arange(batch))
    return world


def steady_action(world: DurotaxisEnv) -> Action:
    """As many births as deaths: the newest tenth spawns, the oldest tenth goes."""
    colony = world.colony
    drawn = SCRIPTED["random"](colony, world.substrate, world.config)
    slot = torch.arange(colony.capacity, device=colony.alive.device)
    count = colony.num_nodes[:, None]
    tenth = (count // 10).clamp_min(1)
    kind = torch.where(slot < tenth, int(Kind.DELETE), int(Kind.REST))
    kind = torch.where((slot >= count - tenth) & colony.alive, int(Kind.SPAWN), kind)
    return Action(torch.where(colony.alive, kind, int(Kind.REST)), drawn.parameters)


def seconds_per_call(function: Callable[[], Any], calls: int, device: str) -> float:
    """The median of `calls` calls after two that are not counted."""
    taken = []
    for index in range(calls + 2):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        if index >= 2:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(batch: int, nodes: int, steps: int, device: str, compiled: bool) -> dict[str, Any]:
    """One cell of the table."""
    world = make_world(batch, nodes, device, compiled)
    actions = []
    for _ in range(3):
        actions.append(steady_action(world))
        result = world.step(actions[-1])
    action = steady_action(world)
    seconds = seconds_per_call(lambda: world_step(world, action), steps, device)
    return {
        "batch": batch,
        "nodes": nodes,
        "compiled": compiled,
        "ms_per_step": 1e3 * seconds,
        "colony_steps_per_s": batch / seconds,
        "bytes_per_step": moved_bytes(world.colony, result, action),
        "bytes_per_colony": sum(tensor_bytes(s) for s in (world.colony, world.substrate)) / batch,
        "bytes_per_observation": tensor_bytes(result.observation) / batch,
    }


def world_step(world: DurotaxisEnv, action: Action) -> Transition:
    """One step that leaves the world where it was, so that every call does the same work."""
    return world_module.step(
        world.colony, action, world.substrate, world.config, validate=False, look=world._look
    )


def tensor_bytes(struct: Any) -> int:
    """Bytes of all tensors of a struct."""
    total = 0
    for value in vars(struct).values():
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif hasattr(value, "__dataclass_fields__"):
            total += tensor_bytes(value)
    return total


def moved_bytes(colony: Colony, result: Transition, action: Action) -> int:
    """The least a step must move: read state and action, write state and observation."""
    return 2 * tensor_bytes(colony) + tensor_bytes(action) + tensor_bytes(result.observation)


def bandwidth(device: str) -> float:
    """Bytes per second of copying 256 MB (read and written)."""
    source = torch.zeros(64 * 1024**2, device=device)
    target = torch.empty_like(source)
    seconds = seconds_per_call(lambda: target.copy_(source), 5, device)
    return 2 * source.numel() * source.element_size() / seconds


def profile(batch: int, nodes: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Milliseconds of the parts of an eager step."""
    world = make_world(batch, nodes, device, compiled=False)
    for _ in range(3):
        world.step(steady_action(world))
    action, config = steady_action(world), world.config
    colony, substrate = world.colony, world.substrate
    width = slots_needed(colony, action, config)
    living, act = crop(colony, width), crop(action, width)
    now, _, _ = world_module.live(living, act, substrate, config)
    hull = convex_hull(now.colony.position, now.colony.alive)
    seen = observe_survey(now, hull, config)
    after = pad(now.colony, colony.capacity)
    parts: dict[str, Callable[[], Any]] = {
        "cut off empty slots": lambda: (slots_needed(colony, action, config), crop(colony, width)),
        "births, deaths, reward, ends": lambda: world_module.live(living, act, substrate, config),
        "convex hulls": lambda: convex_hull(now.colony.position, now.colony.alive),
        "observation": lambda: observe_survey(now, hull, config),
        "put slots back, action mask": lambda: complete(seen, pad(now.colony, after.capacity), now, config),
    }
    rows = [{"part": name, "ms": 1e3 * seconds_per_call(part, steps, device)} for name, part in parts.items()]
    return [
        *rows,
        {
            "part": "whole step",
            "ms": 1e3 * seconds_per_call(lambda: world_step(world, action), steps, device),
        },
    ]


def share_of_processes(arguments: tuple[int, int, int, int, bool]) -> float:
    """Colony-steps per second of one of several processes, over the same few seconds."""
    batch, nodes, steps, threads, compiled = arguments
    torch.set_num_threads(threads)
    world = make_world(batch, nodes, "cpu", compiled)
    for _ in range(3):
        world.step(steady_action(world))
    action = steady_action(world)
    world_step(world, action)
    start = time.perf_counter()
    for _ in range(steps):
        world_step(world, action)
    return batch * steps / (time.perf_counter() - start)


def machine(device: str) -> str:
    """The processor or card, threads and versions."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def several_processes(options: argparse.Namespace, forms: list[bool]) -> list[dict[str, Any]]:
    """The first batch shared among processes: one row per form."""
    rows = []
    context = multiprocessing.get_context("spawn")
    batch, nodes = options.batch[0] // options.processes, options.nodes[0]
    with concurrent.futures.ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        for compiled in forms:
            job = (batch, nodes, options.steps, options.threads, compiled)
            total = sum(pool.map(share_of_processes, [job] * options.processes))
            rows.append(
                {"processes": options.processes, "batch": batch, "nodes": nodes, "compiled": compiled}
                | {"colony_steps_per_s": total}
            )
            print(
                f"{options.processes} processes x {batch} colonies of {nodes} nodes, "
                f"{form_name(compiled)}: {total:,.0f} colony-steps/s"
            )
    return rows


def whole_table(options: argparse.Namespace, forms: list[bool]) -> list[dict[str, Any]]:
    """Every form, number of nodes and batch, printed as they come."""
    heads = ("B", "N", "form", "ms/step", "steps/s", "GB/s moved", "kB/colony", "kB/obs.")
    print("{:>6} {:>4} {:>8} {:>9} {:>9} {:>11} {:>10} {:>8}".format(*heads))
    rows = []
    for compiled, nodes, batch in itertools.product(forms, options.nodes, options.batch):
        cell = measure(batch, nodes, options.steps, options.device, compiled)
        rows.append(cell)
        moved = cell["bytes_per_step"] / cell["ms_per_step"] * 1e3 / GIGA
        print(
            f"{batch:>6} {nodes:>4} {form_name(compiled):>8} {cell['ms_per_step']:>9.2f} "
            f"{cell['colony_steps_per_s']:>9,.0f} {moved:>11.3f} "
            f"{cell['bytes_per_colony'] / 1e3:>10.2f} {cell['bytes_per_observation'] / 1e3:>8.2f}",
            flush=True,
        )
    return rows


def form_name(compiled: bool) -> str:
    """How a row calls its form."""
    return "compiled" if compiled else "eager"


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 50, 150])
    parser.add_argument("--steps", type=int, default=10, help="counted steps per cell")
    parser.add_argument("--threads", type=int, default=1, help="of torch, per process")
    parser.add_argument("--processes", type=int, default=1, help="share the first batch among so many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["eager", "compiled"], help="one of the two; default both")
    parser.add_argument("--profile", action="store_true", help="what a step spends its time in")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    forms = {"eager": [False], "compiled": [True]}.get(options.only, [False, True])
    report: dict[str, Any] = {"machine": machine(options.device), "bytes_per_s": bandwidth(options.device)}
    print(f"{report['machine']}\ncopying moves {report['bytes_per_s'] / GIGA:.1f} GB/s\n")
    report["cells"] = (several_processes if options.processes > 1 else whole_table)(options, forms)
    report["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\npeak memory of the process {report['peak_bytes'] / GIGA:.2f} GB")
    if options.profile:
        report["profile"] = profile(options.batch[0], options.nodes[0], options.steps, options.device)
        print(f"\na step of {options.batch[0]} colonies of {options.nodes[0]} nodes, eager")
        for row in report["profile"]:
            print(f"{row['part']:>30} {row['ms']:8.2f} ms")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
