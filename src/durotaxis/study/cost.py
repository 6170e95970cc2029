"""What each arm costs, measured in one process by turns, so that a slow moment of the machine hits all alike.

Colonies are grown by the scripted policy `delete-left`, which also acts in every rollout in the place of the
arm's own draws, so that all arms process the same nodes. Schedules are read at step 0.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from durotaxis.agent import HybridActorCritic
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.randomness import hash_keys
from durotaxis.core.schedule import Clock
from durotaxis.env import DurotaxisEnv
from durotaxis.ppo import collect, make_optimizer, start, update
from durotaxis.ppo.rollout import Rollout, Slots, keep
from durotaxis.records import ArmCost, StudyCost
from durotaxis.study.calibrate import calibrate_policy
from durotaxis.study.config import RootConfig
from durotaxis.study.provenance import own_version
from durotaxis.study.run import build_policy, select_device

GROWTH_STEPS = 60
NO_MOMENTS: Mapping[str, int] = {}


def measure_cost(
    configs: Mapping[str, RootConfig],
    scenario: str,
    turns: int,
    advance: Callable[[int], None] = lambda count: None,
    with_memory: bool = True,
) -> StudyCost:
    """Time rollouts, updates and forward passes of every arm; one turn before is not counted.

    Args:
        configs: arm -> its configuration.
        scenario: what the world is called.
        turns: measurements per arm.
        advance: called with 1 after every turn of every arm.
        with_memory: measure memory, too; otherwise it is 0.
    """
    arms = {name: _Arm(config) for name, config in configs.items()}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in arms}
    for turn in range(turns + 1):
        for name, arm in arms.items():
            times = arm.iterate()
            if turn:
                measured[name].append(times)
            advance(1)
    costs = {}
    for name, arm in arms.items():
        forward, gathered, learned = zip(*measured[name], strict=True)
        parameters = list(arm.policy.parameters())
        costs[name] = ArmCost(
            num_parameters=sum(p.numel() for p in parameters),
            num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
            forward_s=forward,
            collect_s=gathered,
            update_s=learned,
            peak_memory_mb=arm.peak_memory_mb() if with_memory else 0.0,
        )
    first = next(iter(arms.values()))
    return StudyCost(
        machine=_machine(first.device),
        device=str(first.device),
        threads=torch.get_num_threads(),
        scenario=scenario,
        colonies=first.config.ppo.num_colonies,
        steps_per_rollout=first.config.ppo.steps_per_rollout,
        num_nodes={name: arm.num_nodes for name, arm in arms.items()},
        arms=costs,
        date=datetime.now(UTC).date().isoformat(),
        version=own_version(),
    )


class _Arm:
    """A training that can be taken iteration by iteration, always from the same colonies."""

    def __init__(self, config: RootConfig) -> None:
        self.device = select_device(config)
        self.config = config
        self.ppo = config.ppo.at(Clock(0, config.training.total_steps, NO_MOMENTS))
        self.ppo = self.ppo.model_copy(update={"target_kl": None})  # every arm learns from every minibatch
        self.policy = build_policy(config, self.device)
        calibrate_policy(self.policy, config.env, config.run.seed)
        self.policy.begin_iteration(Clock(0, config.training.total_steps, NO_MOMENTS))
        self.optimizer = make_optimizer(self.policy, config.ppo)
        self.world = DurotaxisEnv(config.env, self.ppo.num_colonies, self.device, validate=False)
        self.slots = self._grown()
        self.state = self.world.state_dict()
        self.num_nodes = 0.0
        self.count = 0

    def iterate(self) -> tuple[float, float, float]:
        """Seconds of one forward pass, one rollout and one update."""
        self.count += 1
        seen = self.slots.observation
        forward, _ = self._timed(lambda: self._forward(seen))
        gathered, rollout = self._timed(self._rollout)
        learned, _ = self._timed(lambda: self._learn(rollout))
        self.num_nodes = float(rollout.node_mask.sum(2).float().mean())
        return forward, gathered, learned

    def peak_memory_mb(self) -> float:
        """Most that tensors of one rollout and update held at once, weights and optimizer included, in MB."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._learn(self._rollout())
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        with _PeakOfTensors() as peak:
            peak.hold(list(self.policy.state_dict().values()))
            peak.hold([v for s in self.optimizer.state.values() for v in s.values()])
            self._learn(self._rollout())
        return peak.most / 1e6

    def _grown(self) -> Slots:
        slots = start(self.world, self.policy, self.config.run.seed)
        observation: Any = slots.observation
        for step in range(GROWTH_STEPS):
            result = self.world.step(self._delete_left())
            ended = result.terminated | result.truncated
            seeds = hash_keys(torch.arange(self.world.num_colonies, device=self.device), step)
            observation = self.world.reset_where(ended, seeds)
        return dataclasses.replace(slots, observation=observation)

    def _delete_left(self) -> Any:
        return SCRIPTED["delete-left"](self.world.colony, self.world.substrate, self.config.env)

    def _rollout(self) -> Rollout:
        self.world.load_state_dict(self.state)
        cached = keep(self.policy, self.slots.observation, self.world, 0, 0)
        slots = dataclasses.replace(self.slots, cached=cached)
        acting: Any = _Acting(self.policy, self._delete_left)
        return collect(self.world, acting, slots, self.ppo.rollout_steps, self.config.run.seed)[0]

    def _learn(self, rollout: Rollout) -> None:
        update(self.policy, self.optimizer, rollout, self.ppo, self.config.run.seed, self.count)

    @torch.no_grad()
    def _forward(self, observation: Any) -> None:
        self.policy(observation, self.policy.precompute(observation))

    def _timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        self._finish()
        began = time.perf_counter()
        result = function()
        self._finish()
        return time.perf_counter() - began, result

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Acting:
    """A policy whose draws are evaluated but not carried out: another one acts in its place."""

    def __init__(self, policy: HybridActorCritic, act: Callable[[], Any]) -> None:
        self._policy, self._act = policy, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def __call__(self, *args: Any) -> Any:
        return self._policy(*args)

    def to_action(self, sample: Any, observation: Any) -> Any:
        """What the other does."""
        return self._act()


class _PeakOfTensors(TorchDispatchMode):
    """The most bytes that living tensors held at once, of those made within the block or given to `hold`."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.held = 0
        self._known: set[int] = set()

    def hold(self, values: Any) -> None:
        """Count these tensors until they are freed."""
        for leaf in tree_leaves(values):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known.add(key)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.most = max(self.most, self.held)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(result)
        return result


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'CPU'}, {os.cpu_count()} cores"
