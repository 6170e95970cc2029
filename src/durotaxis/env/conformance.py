"""Is it a world? A check for people who write variants of the environment."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.core.randomness import hash_keys, uniform
from durotaxis.core.struct import Struct
from durotaxis.env.config import EnvConfig
from durotaxis.env.observation import action_mask
from durotaxis.env.types import Action, Colony, Kind, Observation, Transition, empty_action

World = Any
"""An object with the interface of `DurotaxisEnv`: the values `config`, `num_colonies` and `colony`, and the
methods `reset(seeds)`, `observe()`, `step(action)` and `reset_where(mask, seeds)`."""


class ConformanceError(UserError):
    """What a world does that a world must not do."""


_FIRST_SEED = 4_000
_ACTION_KEY = 1_000_003
"""Keeps these draws apart from those of the world."""


def check_env(env: World, num_steps: int = 40) -> None:
    """Play a world with random actions and hold it to what every part of durotaxis relies on.

    Checked at every step: packed slots, a forest, unique ids that are never reused, N within the capacity,
    numbers that are finite, a reward that is the sum of its terms, ends that exclude each other, the mask of
    allowed actions, and a transition that shows the state it left. And: a masked reset starts the masked
    colonies and touches no other, equal seeds give equal lives, a colony's life does not depend on its
    companions or its place in the batch, and invalid actions are refused.

    Args:
        env: any object with the interface of `DurotaxisEnv`, at least 4 colonies, checking its actions.
        num_steps: length of each of the three plays.

    Raises:
        ConformanceError: the first thing that is wrong, with step and colony where there is one.
        UserError: fewer than 4 colonies.
    """
    if env.num_colonies < 4:
        raise UserError(f"check_env needs at least 4 colonies, not {env.num_colonies}: companions matter")
    device = env.reset(_seeds(env, 0)).nodes.device
    seeds = _seeds(env, 0).to(device)
    _check_masked_reset(env, seeds)
    first = _play(env, seeds, num_steps)
    again = _play(env, seeds, num_steps)
    _compare(
        first, again, slice(None), slice(None), "the same seeds and actions give another life: determinism"
    )
    others = _seeds(env, env.num_colonies).to(device)
    others[-1] = seeds[0]
    moved = _play(env, others, num_steps)
    message = "the same seed and actions beside other colonies give another life: companions matter"
    _compare(first, moved, slice(0, 1), slice(-1, None), message)
    _check_refusals(env, seeds)


def _seeds(env: World, offset: int) -> Tensor:
    return _FIRST_SEED + offset + torch.arange(env.num_colonies)


def _play(env: World, seeds: Tensor, num_steps: int) -> list[Transition]:
    """The transitions of random actions, each checked; ended colonies begin again with seeds of their own."""
    observation = env.reset(seeds)
    _check_colony(env.colony, env.config, "after reset")
    _check_observation(observation, env.colony, env.config, "after reset")
    _require(env.colony.seed == seeds, "after reset", "colony.seed is not the seed that was asked for")
    transitions = []
    for step in range(num_steps):
        before, where = env.colony, f"step {step}"
        action = _random_action(before, env.config)
        transition = env.step(action)
        _check_transition(before, transition, env.config, where)
        _check_latest(env, transition, where)
        transitions.append(transition)
        ended = transition.terminated | transition.truncated
        if bool(ended.any()):
            fresh = hash_keys(before.seed, _ACTION_KEY, 5) & 0xFFFFFFFF
            env.reset_where(ended, fresh)
            _check_colony(env.colony, env.config, f"{where}, after reset_where")
    return transitions


def _random_action(colony: Colony, config: EnvConfig) -> Action:
    """Any allowed action, a function of each colony's own seed, step and node ids."""

    def draw(index: int) -> Tensor:
        return uniform(colony.seed[:, None], _ACTION_KEY, colony.step[:, None], colony.node_id, index)

    pick = draw(0)
    kind = torch.where(
        pick < 0.4, int(Kind.SPAWN), torch.where(pick < 0.75, int(Kind.DELETE), int(Kind.REST))
    )
    allowed = action_mask(colony, config).gather(-1, kind[..., None])[..., 0]
    unit = torch.stack([draw(1 + index) for index in range(4)], -1)
    low, high = (
        torch.tensor(bound, device=kind.device)
        for bound in (config.spawn_bounds.low, config.spawn_bounds.high)
    )
    parameters = (low + unit * (high - low)).maximum(low).minimum(high)
    return Action(torch.where(allowed, kind, int(Kind.REST)), parameters)


def _check_colony(colony: Colony, config: EnvConfig, where: str) -> None:
    alive, parent, count = colony.alive, colony.parent, colony.num_nodes
    slot = torch.arange(colony.capacity, device=alive.device).expand_as(parent)
    if colony.capacity != config.num_slots:
        raise ConformanceError(
            f"{where}: {colony.capacity} node slots, the configuration says {config.num_slots}"
        )
    _require(alive == (slot < count[:, None]), where, "living nodes do not fill the first slots: packing")
    _require(~alive | (colony.node_id >= 0), where, "a living node has no node_id")
    ids = torch.where(alive, colony.node_id, -1 - slot).sort(1).values
    _require(ids[:, 1:] != ids[:, :-1], where, "two living nodes share a node_id")
    later = alive[:, 1:]
    _require(~later | (colony.node_id[:, 1:] > colony.node_id[:, :-1]), where, "slots are not older first")
    _require(~alive | (colony.node_id < colony.next_id[:, None]), where, "a node_id is not below next_id")
    _require((parent >= -1) & (parent < count[:, None]), where, "a parent is no living slot: forest")
    # Parents are older, so they stand in earlier slots; that excludes circles.
    _require(parent < slot, where, "a node's parent does not come before it: forest")
    _require(alive | (parent == -1), where, "an empty slot has a parent: forest")
    for item in fields(colony):
        value = getattr(colony, item.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            _require(torch.isfinite(value), where, f"colony.{item.name} is not finite")


def _check_observation(observation: Observation, colony: Colony, config: EnvConfig, where: str) -> None:
    for item in fields(observation):
        value = getattr(observation, item.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            _require(torch.isfinite(value), where, f"observation.{item.name} is not finite")
    _require(observation.node_mask == colony.alive, where, "observation.node_mask is not who lives")
    _require(
        observation.action_mask == action_mask(colony, config),
        where,
        "observation.action_mask is not what the rules allow",
    )


def _check_transition(before: Colony, transition: Transition, config: EnvConfig, where: str) -> None:
    after = transition.colony
    _require(after.seed == before.seed, where, "the seed changed within an episode")
    _require(
        after.step == before.step + 1, where, "colony.step did not advance by one: was it reset inside step?"
    )
    _check_colony(after, config, where)
    _require(after.next_id >= before.next_id, where, "next_id went back, so ids can be reused")
    # Of the nodes that live, those not here before must carry ids that were never given out.
    known = (after.node_id[:, :, None] == before.node_id[:, None]).any(-1)
    new = after.alive & ~known
    _require(~new | (after.node_id >= before.next_id[:, None]), where, "a node_id was reused")
    total = sum(transition.terms.values(), start=torch.zeros_like(transition.reward))
    _require(torch.isfinite(transition.reward), where, "the reward is not finite")
    gap = (transition.reward - total).abs()
    _require(gap <= 1e-5 * (1.0 + total.abs()), where, "the reward is not the sum of its terms")
    _require(~(transition.terminated & transition.truncated), where, "terminated and truncated together")


def _check_latest(env: World, transition: Transition, where: str) -> None:
    """Nothing was reset on the way: the transition shows the state that the world is in."""
    _check_observation(transition.observation, transition.colony, env.config, where)
    message = "the transition does not show the state after the step: the last observation is lost"
    for one, two in ((transition.colony, env.colony), (transition.observation, env.observe())):
        wrong = _difference(one, two)
        if wrong:
            raise ConformanceError(f"{where}: {message} ({wrong})")


def _check_masked_reset(env: World, seeds: Tensor) -> None:
    env.reset(seeds)
    for step in range(3):
        before = env.colony
        transition = env.step(_random_action(before, env.config))
        _check_transition(before, transition, env.config, f"step {step}")
    before = env.colony
    mask = torch.arange(len(seeds), device=seeds.device) % 2 == 0
    fresh = seeds + 1_000
    observation = env.reset_where(mask, fresh)
    after = env.colony
    wrong = _difference(before[~mask], after[~mask])
    if wrong:
        raise ConformanceError(f"reset_where touched colonies outside the mask ({wrong})")
    env.reset(fresh)
    wrong = _difference(env.colony[mask], after[mask])
    if wrong:
        raise ConformanceError(f"reset_where does not start the masked colonies as reset does ({wrong})")
    _check_observation(observation, after, env.config, "after reset_where")


def _check_refusals(env: World, seeds: Tensor) -> None:
    """Wrong kinds, masked kinds, and parameters out of bounds must not pass."""
    config = env.config
    env.reset(seeds)
    colony = env.colony
    rest = empty_action(colony)
    spawn = torch.full_like(rest.kind, int(Kind.SPAWN))
    high = torch.tensor(config.spawn_bounds.high, device=seeds.device)
    above = high.expand_as(rest.parameters) + torch.tensor([1.0, 0.0, 0.0, 0.0], device=seeds.device)
    cases: dict[str, Action] = {
        "a kind that does not exist": replace(rest, kind=torch.full_like(rest.kind, 3)),
        "a max_step above its bound": Action(spawn, above),
        "a parameter that is no number": Action(spawn, torch.full_like(above, torch.nan)),
    }
    if bool((~action_mask(colony, config)[..., Kind.DELETE] & colony.alive).any()):
        cases["a delete that is masked"] = replace(rest, kind=torch.full_like(rest.kind, int(Kind.DELETE)))
    for name, action in cases.items():
        try:
            env.step(action)
        except UserError:
            continue
        raise ConformanceError(f"an invalid action was not refused: {name}")


def _compare(
    first: list[Transition], second: list[Transition], rows: slice, other_rows: slice, message: str
) -> None:
    for step, (one, two) in enumerate(zip(first, second, strict=True)):
        wrong = _difference(one[rows], two[other_rows])
        if wrong:
            raise ConformanceError(f"step {step}: {message} ({wrong})")


def _difference(one: Struct, two: Struct) -> str:
    """Dotted name of the first field in which two values differ, or the empty string."""
    for item in fields(one):  # type: ignore[arg-type]
        a, b = getattr(one, item.name), getattr(two, item.name)
        if isinstance(a, Struct):
            inner = _difference(a, b)
            if inner:
                return f"{item.name}.{inner}"
        elif isinstance(a, dict):
            for name in a:
                if not torch.equal(a[name], b[name]):
                    return f"{item.name}.{name}"
        elif isinstance(a, Tensor) and not torch.equal(a, b):
            return item.name
    return ""


def _require(good: Any, where: str, message: str) -> None:
    """Refuse a world where `good` [B,...] bool is not true everywhere."""
    if not bool(good.all()):
        colony = int((~good).nonzero()[0][0])
        raise ConformanceError(f"{where}, colony {colony}: {message}")
