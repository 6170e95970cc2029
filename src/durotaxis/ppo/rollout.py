"""A rollout: T steps of B episodes, with everything the update needs and nothing it must guess."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.core.struct import Struct
from durotaxis.ppo.checks import evidence, require_finite
from durotaxis.ppo.protocols import Policy, StepResult, World
from durotaxis.ppo.tally import Tally, finished_rows
from durotaxis.ppo.value import as_heads, require_names, value_names


@dataclass(frozen=True)
class Rollout(Struct):
    """Everything leads with [T,B]; `flatten()` makes it [T·B]."""

    observation: Struct  # before the step
    cached: Struct | None  # outputs of frozen parts on it
    sample: Struct  # what the policy drew
    node_mask: Tensor  # [T,B,N] bool
    log_prob: Tensor  # [T,B,N] float32, under the policy that drew
    value: Tensor  # [T,B,V] float32, values of the observation
    reward: Tensor  # [T,B] float32
    terms: dict[str, Tensor]  # {name: [T,B] float32}
    terminated: Tensor  # [T,B] bool
    truncated: Tensor  # [T,B] bool
    next_value: Tensor  # [T,B,V] float32, values after the step, before any reset, times (1 - terminated)

    @property
    def ended(self) -> Tensor:
        """[T,B] bool: the step was the last of its episode."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Slots:
    """Where every slot of the batch stands between two steps.

    Slot i of the batch is slot `first_slot` + i of the run, which other processes may share.
    """

    observation: Struct  # [B,...]
    cached: Struct | None
    vector_step: int  # steps the batch has taken since the start of the run
    slot_episode: Tensor  # [B] int64, episodes begun in the slot before the present one
    seed: Tensor  # [B] int64, seed of the present episode
    tally: Tally
    first_slot: int = 0


def episode_seeds(run_seed: int, slot_episode: Tensor, first_slot: int = 0) -> Tensor:
    """Seed of training episode k of slot i, [B] int64."""
    slots = first_slot + torch.arange(len(slot_episode), device=slot_episode.device)
    return hash_keys(run_seed, Purpose.EPISODE, slots, slot_episode)


def start(world: World, policy: Policy, run_seed: int, first_slot: int = 0) -> Slots:
    """Begin the first episode of every slot."""
    slot_episode = torch.zeros(world.num_colonies, dtype=torch.int64, device=world.device)
    seed = episode_seeds(run_seed, slot_episode, first_slot)
    observation = world.reset(seed)
    require_finite(observation, "observation")
    tally = Tally.zeros(world.num_colonies, slot_episode.device)
    cached = keep(policy, observation, world, 0, run_seed, first_slot)
    return Slots(observation, cached, 0, slot_episode, seed, tally, first_slot)


def keep(
    policy: Policy,
    observation: Struct,
    world: World,
    vector_step: int,
    run_seed: int,
    first_slot: int = 0,
) -> Struct | None:
    """What the policy keeps beside the observation of a rollout: outputs of frozen parts, and its own draws.

    The draws depend on (run_seed, vector_step, slot) alone, so it can be made again.
    """
    slots = first_slot + torch.arange(world.num_colonies, device=world.device)
    return policy.precompute(observation, hash_keys(run_seed, Purpose.MODEL_DROPOUT, vector_step, slots))


@torch.no_grad()
def collect(
    world: World, policy: Policy, slots: Slots, num_steps: int, run_seed: int
) -> tuple[Rollout, Slots, list[dict[str, Any]]]:
    """Take `num_steps` steps in every slot.

    The last observation of an episode is valued before its slot is reset: `next_value` is its value where
    the episode was truncated, 0 where it terminated. Draws depend on (run_seed, step, slot) alone.

    Args:
        slots: where the batch stands; use the returned one for the next call.

    Returns:
        The rollout [T,B], the new slots, and one row per finished episode; `ranks.in_order` makes records of
        them.

    Raises:
        NonFiniteError: an observation, reward, value or log-probability is not finite; its evidence is what
            the policy saw and drew, and what came of it.
        UserError: the policy's `value_names` are not the names of the world's reward terms.
    """
    steps: list[Rollout] = []
    finished: list[dict[str, Any]] = []
    index = slots.first_slot + torch.arange(world.num_colonies, device=slots.seed.device)
    for _ in range(num_steps):
        keys = hash_keys(run_seed, Purpose.POLICY, slots.vector_step, index)
        with evidence({"vector_step": slots.vector_step, "seed": slots.seed}):
            step, result = _take_step(world, policy, slots, keys)
            steps.append(step)
            slots, rows = _advance(world, policy, slots, result, run_seed)
        finished += rows
    with evidence({"before": slots.observation, "cached": slots.cached}):
        value = as_heads(policy(slots.observation, slots.cached)[1]).float()
        require_finite(value, "value")
    return _join(steps, value), slots, finished


def _take_step(world: World, policy: Policy, slots: Slots, keys: Tensor) -> tuple[Rollout, StepResult]:
    """Let the policy act once. Everything is checked as it arises, so that the first cause is named."""
    before, cached = slots.observation, slots.cached
    at_hand: dict[str, Any] = {"before": before, "cached": cached}
    with evidence(at_hand):
        distribution, value = policy(before, cached)
        value = as_heads(value).float()
        require_finite(value, "value")
        sample = at_hand["sample"] = distribution.sample(keys)
        log_prob = distribution.log_prob(sample)
        require_finite(log_prob, "log_prob")
        action = at_hand["action"] = policy.to_action(sample, before)
        result = at_hand["result"] = world.step(action)
        require_finite(result.observation, "observation")
        require_finite(result.reward, "reward")
        require_names(value_names(policy), value, result.terms)
        next_value = _final_value(policy, result, value)
        require_finite(next_value, "next_value")
    return (
        Rollout(
            observation=before,
            cached=cached,
            sample=sample,
            node_mask=distribution.node_mask,
            log_prob=log_prob,
            value=value,
            reward=result.reward.float(),
            terms=result.terms,
            terminated=result.terminated,
            truncated=result.truncated,
            next_value=next_value,
        ),
        result,
    )


def _final_value(policy: Policy, result: StepResult, value: Tensor) -> Tensor:
    """Values of the last observation of truncated episodes, 0 elsewhere, [B,V], like `value`."""
    values = torch.zeros_like(value)
    bootstrapped = result.truncated & ~result.terminated
    if bool(bootstrapped.any()):
        final = result.observation[bootstrapped]
        values[bootstrapped] = as_heads(policy(final, policy.precompute(final))[1]).float()
    return values


def _advance(
    world: World, policy: Policy, slots: Slots, result: StepResult, run_seed: int
) -> tuple[Slots, list[dict[str, Any]]]:
    """Count the step; then, and only then, reset the slots whose episode ended."""
    tally = slots.tally.add(result)
    ended = result.terminated | result.truncated
    observation, seed, slot_episode = result.observation, slots.seed, slots.slot_episode
    rows: list[dict[str, Any]] = []
    if bool(ended.any()):
        where = ended.nonzero().squeeze(1)
        rows = finished_rows(world, tally, result.reason, where)
        for row, slot in zip(rows, where.tolist(), strict=True):
            row.update(slot=slots.first_slot + slot, slot_episode=int(slot_episode[slot]))
            row.update(seed=int(seed[slot]), vector_step=slots.vector_step)
        slot_episode = slot_episode + ended.long()
        seed = torch.where(ended, episode_seeds(run_seed, slot_episode, slots.first_slot), seed)
        tally = tally.clear(ended)
        observation = world.reset_where(ended, seed)
        require_finite(observation, "observation")
    vector_step, first_slot = slots.vector_step + 1, slots.first_slot
    cached = keep(policy, observation, world, vector_step, run_seed, first_slot)
    return Slots(observation, cached, vector_step, slot_episode, seed, tally, first_slot), rows


def _join(steps: list[Rollout], value_after: Tensor) -> Rollout:
    """Stack steps to [T,B] and fill `next_value` where the episode went on."""
    rollout = Rollout.stack(steps)
    following = torch.cat([rollout.value[1:], value_after[None]])
    next_value = torch.where(rollout.ended[..., None], rollout.next_value, following)
    return dataclasses.replace(rollout, next_value=next_value)


def narrow_nodes(tree: Any, num_nodes: int) -> Any:
    """The first `num_nodes` node slots of every field named in its class's `node_fields`.

    The node dimension is the second ([B,N,...]). Structs without `node_fields` and tensors pass unchanged;
    nested structs are narrowed too.
    """
    if not isinstance(tree, Struct):
        return tree
    names = getattr(type(tree), "node_fields", ())
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(tree):  # type: ignore[arg-type]
        value = getattr(tree, field.name)
        if field.name in names and isinstance(value, Tensor):
            changes[field.name] = value[:, :num_nodes]
        elif field.name in names and isinstance(value, dict):
            changes[field.name] = {key: tensor[:, :num_nodes] for key, tensor in value.items()}
        else:
            changes[field.name] = narrow_nodes(value, num_nodes)
    return dataclasses.replace(tree, **changes)  # type: ignore[type-var]


def num_used_slots(node_mask: Tensor) -> int:
    """One more than the last living slot of any colony in `node_mask` [B,N]; at least 1."""
    used = node_mask.any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
