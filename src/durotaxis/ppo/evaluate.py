"""Evaluation: one episode per seed, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.core.struct import Struct
from durotaxis.ppo.checks import evidence, require_finite
from durotaxis.ppo.protocols import Choice, Player, StepResult, World
from durotaxis.ppo.tally import Tally, finished_rows, mean_of
from durotaxis.ppo.value import as_heads

TUNING_SEED = 1_000_000
REPORT_SEED = 2_000_000


@dataclass(frozen=True)
class EvaluationStep:
    """One step of the episodes still running, before any reset. A rows; `result` has all B.

    With `whole_batch` there is a row for every slot; those whose `episodes` is no index into the seeds are
    idle and do not count.
    """

    slots: Tensor  # [A] int64, slot of each row
    episodes: Tensor  # [A] int64, index into the seeds
    lengths: Tensor  # [A] int64, step within the episode, from 0
    observation: Struct  # [A,...] before the step
    distribution: Choice
    action: Any  # [A,...] in the world's units
    value: Tensor  # [A], of the total reward
    result: StepResult  # [B,...]
    before: Any = None  # what `look` returned before the step


def tuning_seeds(count: int) -> list[int]:
    """Seeds for choosing among checkpoints and settings; never reported."""
    return [TUNING_SEED + j for j in range(count)]


def report_seeds(count: int) -> list[int]:
    """Held-out seeds for results."""
    return [REPORT_SEED + j for j in range(count)]


@torch.no_grad()
def evaluate(
    world: World,
    policy: Player,
    seeds: Sequence[int],
    *,
    deterministic: bool = False,
    whole_batch: bool = False,
    on_step: Callable[[EvaluationStep], None] | None = None,
    look: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Run one episode per seed; a slot that finishes takes the next seed, or is ignored when none is left.

    Draws depend on (episode seed, step) alone, so an episode does not depend on its companions (up to the
    rounding of networks run on batches of another size).

    Args:
        world: any batch size; len(seeds) slots do all at once. Its present state is lost.
        deterministic: the distribution's mode instead of a sample.
        whole_batch: let the policy see and play all slots to the end, also those for which no episode is
            left. For policies whose colonies look at each other, such as under an intervention that exchanges
            something between them; otherwise the last episode would be alone.
        on_step: called after every step with what was seen and done, for recording.
        look: called before every step; what it returns, such as the world's state, is handed to `on_step`.

    Returns:
        One row per seed, in the order of `seeds`: seed, deterministic, and the episode columns of records.

    Raises:
        NonFiniteError: an observation, reward or value is not finite.
    """
    policy.eval()
    if not len(seeds):
        return []
    table = torch.tensor(list(seeds), dtype=torch.int64, device=world.device)
    queue = _Queue.start(table, world.num_colonies)
    observation = world.reset(queue.seeds)
    tally = Tally.zeros(world.num_colonies, table.device)
    rows: dict[int, dict[str, Any]] = {}
    while len(rows) < len(table):
        slots = torch.arange(world.num_colonies, device=table.device) if whole_batch else queue.active
        seen = observation if len(slots) == world.num_colonies else observation[slots]
        distribution, value = policy(seen, policy.precompute(seen))
        keys = hash_keys(queue.seeds[slots], Purpose.POLICY, tally.length[slots])
        sample = distribution.mode() if deterministic else distribution.sample(keys)
        action = policy.to_action(sample, seen)
        before = look()
        result = world.step(_spread(action, slots, world.num_colonies))
        with evidence({"before": seen, "sample": sample, "action": action, "result": result}):
            require_finite(value, "value")
            require_finite(result.observation, "observation")
            require_finite(result.reward, "reward")
        if on_step is not None:
            episodes, lengths = queue.episode[slots], tally.length[slots]
            total = as_heads(value).sum(-1)
            on_step(
                EvaluationStep(slots, episodes, lengths, seen, distribution, action, total, result, before)
            )
        tally = tally.add(result)
        ended = result.terminated | result.truncated
        observation = result.observation
        if bool(ended.any()):
            done = queue.active[ended[queue.active]]
            finished = finished_rows(world, tally, result.reason, done)
            for index, row in zip(queue.episode[done].tolist(), finished, strict=True):
                rows[index] = {"seed": int(table[index]), "deterministic": deterministic, **row}
            queue, tally = queue.take(done), tally.clear(ended)
            observation = world.reset_where(ended, queue.seeds)
    return [rows[index] for index in range(len(table))]


def summarize(rows: list[dict[str, Any]]) -> dict[str, int | float | None]:
    """Means over evaluation episodes: return_mean, success_rate, length_mean, and the world's numbers."""
    finals = [key for key in rows[0] if key.startswith("final/")] if rows else []
    return {
        "return_mean": mean_of(rows, "return"),
        "success_rate": mean_of(rows, "success"),
        "length_mean": mean_of(rows, "length"),
        **{key: mean_of(rows, key) for key in finals},
    }


@dataclass(frozen=True)
class _Queue:
    """Which episode each slot runs, and which comes next."""

    table: Tensor  # [J] int64, seed of every episode
    episode: Tensor  # [B] int64, index into `table`; J or more: nothing is left for this slot
    next: int

    @classmethod
    def start(cls, table: Tensor, num_colonies: int) -> _Queue:
        """The first episodes in the first slots."""
        return cls(table, torch.arange(num_colonies, device=table.device), num_colonies)

    @property
    def active(self) -> Tensor:
        """Slots whose episode counts, [A] int64."""
        return (self.episode < len(self.table)).nonzero().squeeze(1)

    @property
    def seeds(self) -> Tensor:
        """Seed per slot, [B] int64; a slot without an episode repeats the last seed."""
        return self.table[self.episode.clamp(max=len(self.table) - 1)]

    def take(self, slots: Tensor) -> _Queue:
        """The next episodes for `slots`."""
        stop = self.next + len(slots)
        fresh = torch.arange(self.next, stop, device=self.table.device)
        return _Queue(self.table, self.episode.index_copy(0, slots, fresh), stop)


def _spread(action: Struct, slots: Tensor, num_colonies: int) -> Struct:
    """Rows of `action` [A,...] put into their slots of [B,...]; zeros (rest) elsewhere."""
    if len(slots) == num_colonies:
        return action
    return action.map(lambda rows: rows.new_zeros((num_colonies, *rows.shape[1:])).index_copy(0, slots, rows))
