"""Plays episodes and records them step by step: one way for trained agents and for scripted policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from durotaxis.agent import ActionDistribution, HybridActorCritic
from durotaxis.agent.scripted import SCRIPTED, ScriptedPolicy
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.env.substrate import Substrate, stiffness, stiffness_lattice
from durotaxis.env.types import Action, Colony, Kind, Observation, Transition
from durotaxis.ppo import EvaluationStep, StepResult, evaluate
from durotaxis.records import ACTION_COLUMNS, EPISODE_FORMAT, Episode, EpisodeInfo
from durotaxis.study.score import world_name

PIXELS = 300
"""Of a recorded stiffness field along its longer side."""


@final
class Recorder:
    """Collects the first episodes of an evaluation.

    Args:
        world: the one that is played in; its state is looked at before every step.
        count: how many episodes to keep.
        policy: who plays, as the records are to call it.
        agent: the trained agent; None for a scripted policy, which has no values and no attention.
        trained_steps: of the agent.
    """

    def __init__(
        self,
        world: DurotaxisEnv,
        count: int,
        policy: str,
        agent: HybridActorCritic | None = None,
        trained_steps: int | None = None,
    ) -> None:
        self._world, self._count = world, count
        self._policy, self._agent, self._trained_steps = policy, agent, trained_steps
        self._rows: dict[int, list[dict[str, Any]]] = {}
        self._substrates: dict[int, Substrate] = {}

    def look(self) -> tuple[Colony, Substrate]:
        """The state before a step, for `evaluate`."""
        return self._world.colony, self._world.substrate

    def on_step(self, step: EvaluationStep) -> None:
        """Take in one step, for `evaluate`."""
        colony, substrate = step.before
        ended = step.result.terminated | step.result.truncated
        observation = cast(Observation, step.observation)
        counts = observation.node_mask.sum(1)
        firsts = counts.cumsum(0) - counts
        for row, (slot, number) in enumerate(zip(step.slots.tolist(), step.episodes.tolist(), strict=True)):
            if number >= self._count:
                continue
            first, num = int(firsts[row]), int(counts[row])
            done = _chosen(step.action, row, num) | _rewards(step.result, slot)
            if self._agent is not None:
                done |= _thoughts(step, self._agent.attention_rows, row, slice(first, first + num))
            rows = self._rows.setdefault(number, [])
            rows.append(_seen(colony, substrate, slot) | _NOTHING_DONE | done)
            if bool(ended[slot]):
                after = cast(Transition, step.result).colony
                rows.append(_seen(after, substrate, slot) | _NOTHING_DONE)
                self._substrates[number] = substrate[slot : slot + 1]

    def episodes(self, results: Sequence[Mapping[str, Any]]) -> list[Episode]:
        """What was collected, given what `evaluate` returned."""
        return [
            Episode(self._info(self._substrates[number], results[number]), rows[:-1], rows[-1])
            for number, rows in sorted(self._rows.items())
        ]

    def _info(self, substrate: Substrate, result: Mapping[str, Any]) -> EpisodeInfo:
        config, agent = self._world.config, self._agent
        finals = {key: value for key, value in result.items() if key.startswith("final/")}
        (width, height), (length, breadth), origin, (dx, dy) = (
            getattr(substrate, name)[0].tolist() for name in ("size", "extent", "origin", "direction")
        )
        rows = None if agent is None else agent.attention_rows
        return EpisodeInfo(
            format=EPISODE_FORMAT,
            seed=result["seed"],
            scenario=world_name(config),
            env=config.model_dump(mode="json"),
            policy=self._policy,
            trained_steps=self._trained_steps,
            deterministic=result["deterministic"],
            reason=result["reason"],
            success=result["success"],
            length=result["length"],
            total_reward=result["return"],
            final={key.removeprefix("final/"): value for key, value in finals.items()},
            minutes_per_step=config.minutes_per_step,
            critical_nodes=config.critical_nodes,
            size=(width, height),
            direction=float(np.arctan2(dy, dx)),
            origin=origin,
            extent=(length, breadth),
            goal=length * (1.0 - config.goal_margin),
            ptms=[] if agent is None or rows is None else agent.ptm_names,
            attention_rows=rows,
            field=_rounded(stiffness_lattice(substrate, 0, PIXELS), 4),
        )


def record_scripted(
    name: str, config: EnvConfig, seeds: Sequence[int], on_end: Callable[[int], None] = lambda count: None
) -> list[Episode]:
    """One recorded episode of a scripted policy per seed.

    Args:
        name: a key of `SCRIPTED`.
        on_end: called with the number of episodes that just ended.
    """
    world = DurotaxisEnv(config, len(seeds), validate=False)
    recorder = Recorder(world, len(seeds), name)

    def on_step(step: EvaluationStep) -> None:
        recorder.on_step(step)
        ended = (step.result.terminated | step.result.truncated) & (step.episodes < len(seeds))
        on_end(int(ended.sum()))

    player = _ScriptedPlayer(SCRIPTED[name], world)
    rows = evaluate(world, player, seeds, whole_batch=True, on_step=on_step, look=recorder.look)
    return recorder.episodes(rows)


def record_agent(
    agent: HybridActorCritic,
    config: EnvConfig,
    seeds: Sequence[int],
    policy: str = "agent",
    trained_steps: int | None = None,
    deterministic: bool = False,
) -> list[Episode]:
    """One recorded episode of an agent per seed, played as `evaluate` plays it.

    Args:
        policy: what the records are to call it.
        trained_steps: how long it was trained, for the records.
        deterministic: the mode instead of a sample.
    """
    world = DurotaxisEnv(config, len(seeds), next(agent.parameters()).device, validate=False)
    recorder = Recorder(world, len(seeds), policy, agent, trained_steps)
    rows = evaluate(
        world,
        agent,
        seeds,
        deterministic=deterministic,
        on_step=recorder.on_step,
        look=recorder.look,
    )
    return recorder.episodes(rows)


@final
class _ScriptedPlayer:
    """A scripted policy as `evaluate` plays it; it looks at the world itself, so at the whole batch."""

    def __init__(self, policy: ScriptedPolicy, world: DurotaxisEnv) -> None:
        self._policy, self._world = policy, world

    def __call__(self, observation: Any, cached: Any = None) -> tuple[_ScriptedPlayer, Tensor]:
        return self, torch.zeros(len(observation.node_mask))

    def sample(self, keys: Tensor) -> Action:
        return self.mode()

    def mode(self) -> Action:
        return self._policy(self._world.colony, self._world.substrate, self._world.config)

    def precompute(self, observation: Any) -> None:
        return None

    def to_action(self, sample: Action, observation: Any) -> Action:
        return sample

    def eval(self) -> None:
        return None


_NOTHING_DONE: dict[str, Any] = dict.fromkeys(ACTION_COLUMNS)


def _seen(colony: Colony, substrate: Substrate, slot: int) -> dict[str, Any]:
    """What there is before a step; living nodes fill the first slots, so slots are indices of `nodes`."""
    num = int(colony.alive[slot].sum())
    position = colony.position[slot, :num]
    return {
        "step": int(colony.step[slot]),
        "nodes": _rounded(position, 4),
        "node_ids": colony.node_id[slot, :num].tolist(),
        "parents": colony.parent[slot, :num].tolist(),
        "ages": colony.age[slot, :num].tolist(),
        "stiffness": _rounded(stiffness(position[None], substrate[slot : slot + 1])[0], 5),
        "marked": colony.marked[slot, :num].tolist(),
    }


def _chosen(action: Action, row: int, num: int) -> dict[str, Any]:
    kinds = action.kind[row, :num].tolist()
    parameters = _rounded(action.parameters[row, :num], 6)
    spawning = [
        values if kind == Kind.SPAWN else None for kind, values in zip(kinds, parameters, strict=True)
    ]
    return {"kinds": kinds, "parameters": spawning}


def _rewards(result: StepResult, slot: int) -> dict[str, Any]:
    terms = {f"term/{name}": float(term[slot]) for name, term in result.terms.items()}
    return {"reward": float(result.reward[slot]), **terms}


def _thoughts(step: EvaluationStep, attention_rows: str | None, row: int, nodes: slice) -> dict[str, Any]:
    """Value, entropy and attention of one colony; `nodes` are its rows among the living nodes of all."""
    distribution = cast(ActionDistribution, step.distribution)
    weights: Tensor | None = None
    if attention_rows is not None:
        attention = distribution.attention
        assert attention is not None
        weights = attention[nodes] if attention_rows == "node" else attention[row : row + 1]
    kind, parameters = (part[row].sum() for part in distribution.entropy())
    return {
        "value": float(step.value[row]),
        "entropy": float(kind + parameters) / max(1, nodes.stop - nodes.start),
        "attention": None if weights is None else _rounded(weights, 6),
    }


def _rounded(values: Tensor, decimals: int) -> Any:
    """Nested lists of numbers without the digits that float32 does not have."""
    return np.round(values.detach().cpu().double().numpy(), decimals).tolist()
