"""Training by several processes (ranks), each with its own share of the colonies: what they exchange.

Each rank plays its own equal part of the run's slots. Whatever depends on a slot is keyed by its place among
all, so the episodes of all ranks are those that one process would play. Whatever decides how training goes on
is the same on every rank: taken over all colonies, or what rank 0 says. With one process nothing is exchanged
and every method hands back what it got.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from durotaxis.core.errors import UserError
from durotaxis.ppo.checks import InvariantError
from durotaxis.ppo.config import PPOConfig
from durotaxis.records import RecordError

JOIN_TIMEOUT = timedelta(minutes=5)
"""How long the processes wait for each other at the start."""
ANSWER_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another one that is alive but silent. Rank 0 evaluates while the others wait."""
LAST_WORDS_S = 5.0
"""How long a rank that must stop waits for what the others have to say about it."""

_INTERRUPTED, _LOST = "interrupted", "lost another rank"
_FAULT, _INTERRUPTION = 2, 130  # exit codes of the command line
_Value = TypeVar("_Value")


class CollectiveError(RuntimeError):
    """An exchange with the other ranks failed: one of them ended, or did not answer in time."""


class RankLostError(UserError):
    """The job ended because of another rank. `speaks`: whether this rank is the one to tell the user."""

    def __init__(self, message: str, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


@dataclass(frozen=True)
class Ranks:
    """One process among those of a job. Without arguments: the only one.

    Every method but `say`, `take_leave` and `explain` must be called by all ranks, in the same order.

    Attributes:
        rank: 0 to size - 1; rank 0 leads: it alone writes, evaluates and talks to the user.
        size: number of processes.
        local_rank: its number on its own machine, which is the number of its GPU.
        store: a `torch.distributed.Store` for last words.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def cat(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The tensors of all ranks, equal in shape, joined along `dim` in the order of ranks; no gradient."""
        if self.alone:
            return tensor
        tensor = tensor.detach().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _exchange():
            dist.all_gather(parts, tensor)
        return torch.cat(parts, dim)

    def own(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """This rank's part of what `cat` returned."""
        return tensor if self.alone else tensor.chunk(self.size, dim)[self.rank]

    def gather(self, value: _Value) -> list[_Value]:
        """What each rank has, in their order, on every rank. For small values that can be pickled."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.size
        with _exchange():
            dist.all_gather_object(values, value)
        return values

    def gather_first(self, value: _Value) -> list[_Value]:
        """The same on rank 0 alone; an empty list elsewhere."""
        if self.alone:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        with _exchange():
            dist.gather_object(value, values, dst=0)
        return values or []

    def first(self, work: Callable[[], _Value]) -> _Value:
        """What `work`, called on rank 0 alone, returns there: on every rank. On the CPU; can be pickled."""
        if self.alone:
            return work()
        values: list[Any] = [work() if self.leads else None]
        with _exchange():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def share_weights(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers that rank 0 has."""
        if self.alone:
            return
        weights = self.first(lambda: {key: value.cpu() for key, value in module.state_dict().items()})
        if not self.leads:
            module.load_state_dict(weights)

    def average_gradients(self, optimizer: Optimizer) -> None:
        """Replace every gradient by the mean over ranks, in one exchange.

        A parameter without a gradient counts as 0 where others have one, and stays without where none has.
        """
        if self.alone:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        here = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([here, *(gradient.flatten() for gradient in gradients)])
        with _exchange():
            dist.all_reduce(flat)
        present, *means = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, count, total in zip(parameters, present.tolist(), means, strict=True):
            parameter.grad = (total / self.size).view_as(parameter).to(parameter) if count else None

    def mean_numbers(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Means over ranks of numbers that are means over as many things on each; the same keys on all.

        What is equal everywhere stays as it is, whatever it is.
        """
        rows = self.gather(dict(numbers))
        return {
            key: value
            if all(row[key] == value for row in rows)
            else sum(row[key] for row in rows) / len(rows)
            for key, value in rows[0].items()
        }

    def of_minibatch(self, numbers: Mapping[str, float], num_ratios: int) -> dict[str, float]:
        """The numbers of a minibatch over all ranks, from those of each rank's equal number of colony-steps.

        Means, but for `ratio_error`, which is the largest, and `clip_fraction`, a share of `num_ratios`.
        """
        if self.alone:
            return dict(numbers)
        rows = self.cat(torch.tensor([[*numbers.values(), num_ratios]], dtype=torch.float64))
        table = dict(zip([*numbers, "num_ratios"], rows.unbind(1), strict=True))
        weights = table.pop("num_ratios")
        whole = {key: float(column.mean()) for key, column in table.items()}
        whole["ratio_error"] = float(table["ratio_error"].max())
        whole["clip_fraction"] = float((table["clip_fraction"] * weights).sum() / weights.sum().clamp_min(1))
        return whole

    def require_same(self, **values: Any) -> None:
        """Raise InvariantError naming the values in which the ranks differ; for what must never differ."""
        if self.alone:
            return
        rows = self.gather(values)
        differing = [key for key in values if any(row[key] != rows[0][key] for row in rows)]
        if differing:
            shown = "; ".join(f"{key} is {[row[key] for row in rows]}" for key in differing)
            raise InvariantError(f"the ranks went different ways: {shown}, from rank 0 on")

    def say(self, words: str) -> None:
        """Leave one's last words to the others; only the first ones count."""
        if self.store is not None:
            with contextlib.suppress(RuntimeError):  # the store went with the process that had it
                if not self.store.check([str(self.rank)]):
                    self.store.set(str(self.rank), words)

    def take_leave(self, error: BaseException) -> None:
        """Stop answering the others after an interruption or a CollectiveError, so that none waits for this.

        From here on the process is not to be interrupted any more: it has a checkpoint to write.
        """
        if self.alone:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread, which no signal reaches
                signal.signal(number, signal.SIG_IGN)
        self.say(_INTERRUPTED if isinstance(error, KeyboardInterrupt) else _LOST)
        _close()

    def explain(self) -> RankLostError | None:
        """After `take_leave`, why the job ended; None when it was interrupted as a whole."""
        if self.alone:
            return None
        heard = self._hear()
        faults = {rank: words for rank, words in heard.items() if words not in (_INTERRUPTED, _LOST)}
        silent = [str(rank) for rank in range(self.size) if rank not in heard]
        if faults:
            why = "; ".join(f"rank {rank} stopped: {words}" for rank, words in sorted(faults.items()))
        elif silent:
            which = f"rank{'s' if len(silent) > 1 else ''} {', '.join(silent)} of {self.size}"
            why = f"{which} stopped answering (killed, out of memory, or cut off)"
        elif _INTERRUPTED in heard.values():
            return None
        else:
            why = "the ranks could not reach each other any more"
        return RankLostError(why, speaks=self.rank == min(heard))

    def _hear(self) -> dict[int, str]:
        """The last words of every rank that says some in time, this one included."""
        heard: dict[int, str] = {}
        end = time.monotonic() + LAST_WORDS_S
        with contextlib.suppress(RuntimeError):  # the store went with the process that had it
            while len(heard) < self.size and time.monotonic() < end:
                for rank in set(range(self.size)) - heard.keys():
                    if self.store.check([str(rank)]):
                        heard[rank] = self.store.get(str(rank)).decode()
                time.sleep(0.02)
        return heard or {self.rank: _LOST}


ALONE = Ranks()


def colonies_per_rank(ppo: PPOConfig, ranks: Ranks) -> int:
    """The number of slots of each rank.

    Raises:
        UserError: the ranks cannot have equal shares of colonies and minibatches.
    """
    share, rest = divmod(ppo.num_colonies, ranks.size)
    if rest:
        raise UserError(
            f"ppo.num_colonies ({ppo.num_colonies}) cannot be shared equally by {ranks.size} processes; "
            f"choose a multiple of {ranks.size}, or another number of processes"
        )
    steps = share * ppo.rollout_steps
    if steps % ppo.num_minibatches:
        raise UserError(
            f"ppo.num_minibatches ({ppo.num_minibatches}) must divide the share of each of {ranks.size} "
            f"processes in a rollout: {share} colonies * {ppo.rollout_steps} steps = {steps}"
        )
    return share


def in_order(finished: Sequence[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of finished episodes of each rank as one process would have found them: by step, then by slot."""
    rows = [dict(row) for part in finished for row in part]
    rows.sort(key=lambda row: (row["vector_step"], row["slot"]))
    return [{key: value for key, value in row.items() if key != "vector_step"} for row in rows]


@contextlib.contextmanager
def launched() -> Iterator[Ranks]:
    """The ranks of a job started by torchrun, joined within the block; `ALONE` without torchrun.

    Exchanges of CPU tensors go through gloo, those of GPU tensors through nccl. When the block fails, the
    others are told, and all but the rank that is to tell the user leave quietly with the exit code of the
    command line. An error that no user can fix keeps its traceback everywhere.

    Raises:
        UserError: the other processes do not come.
        RankLostError: another rank ended the job.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    ranks = _join()
    try:
        yield ranks
    except (KeyboardInterrupt, CollectiveError) as error:
        ranks.take_leave(error)
        _leave(ranks, ranks.explain() or error)
    except (UserError, RecordError, InvariantError) as error:
        ranks.say(str(error))
        _leave(ranks, error)
    except Exception as error:
        ranks.say(f"{type(error).__name__}: {error}")
        raise
    finally:
        _close()


def _join() -> Ranks:
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=JOIN_TIMEOUT))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=ANSWER_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise UserError(
            f"rank {os.environ['RANK']} could not join the other processes at {place}: {error}; "
            "start all of them with torchrun"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    last_words = dist.PrefixStore(f"last words {attempt}", store)
    return Ranks(rank, size, int(os.environ["LOCAL_RANK"]), last_words)


def _leave(ranks: Ranks, error: BaseException) -> NoReturn:
    speaks = error.speaks if isinstance(error, RankLostError) else ranks.leads
    if speaks:
        raise error
    raise SystemExit(_INTERRUPTION if isinstance(error, KeyboardInterrupt) else _FAULT) from None


def _close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error
