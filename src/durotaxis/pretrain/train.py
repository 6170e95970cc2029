"""Pre-training: draw scenes, ask the tasks, keep the trunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.fusion import PTM, PTMConfig, build_ptm
from durotaxis.pretrain.config import PretrainConfig
from durotaxis.pretrain.examples import Examples
from durotaxis.pretrain.tasks import TASKS_OF, Task, Views, hide, look, make_tasks

Report = Callable[[dict[str, float]], None]
"""Given `step` and the loss of every task, once per step."""
_WARMUP = 0.05
_HIDDEN = 3  # one scene in so many has parts hidden
_CLIP = 1.0


@dataclass(frozen=True)
class Trained:
    """A trunk with the heads it was trained with."""

    ptm: PTM
    tasks: nn.ModuleDict


def task_names(config: PretrainConfig) -> tuple[str, ...]:
    """The tasks of a configuration."""
    return TASKS_OF[config.model] if config.tasks is None else config.tasks


def untrained(model: str, seed: int) -> PTM:
    """The architecture with weights drawn from `seed`, read out at its nodes."""
    return build_ptm(PTMConfig(model_type=model, seed=seed, freeze=False), embedding_dim=1, readout="sampled")


def prepare(config: PretrainConfig) -> Trained:
    """The model before training.

    Raises:
        UserError: a task that the model cannot be asked.
    """
    with _seeded(config.seed):
        ptm = untrained(config.model, config.seed)
        return Trained(ptm, make_tasks(config.model, task_names(config), ptm.record.width))


def train(config: PretrainConfig, examples: Examples, report: Report) -> Trained:
    """Train on these scenes. On one machine and number of threads the result is the same to the bit.

    Raises:
        UserError: a loss, gradient or weight is not finite.
    """
    model = prepare(config)
    generator = torch.Generator().manual_seed(int(hash_keys(config.seed, Purpose.MINIBATCH)))
    weights = [*model.ptm.backbone.parameters(), *model.tasks.parameters()]
    optimiser = torch.optim.AdamW(weights, config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config.steps))
    for step in range(config.steps):
        views = draw_views(model.ptm, examples, config.batch_size, generator)
        losses = {name: _task(task).loss(views, generator) for name, task in model.tasks.items()}
        optimiser.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        _require_finite(total, "loss", step + 1)
        total.backward()
        _require_finite(nn.utils.clip_grad_norm_(weights, _CLIP), "gradient", step + 1)
        optimiser.step()
        schedule.step()
        report({"step": step + 1, **{name: float(loss.detach()) for name, loss in losses.items()}})
    for weight in weights:
        _require_finite(weight, "weight", config.steps)
    return model


def _require_finite(value: torch.Tensor, what: str, step: int) -> None:
    if not bool(value.isfinite().all()):
        raise UserError(
            f"a {what} is not finite at step {step}; nothing is written; try a lower learning_rate"
        )


def draw_views(ptm: PTM, examples: Examples, batch_size: int, generator: torch.Generator) -> Views:
    """A batch drawn at random, a third of it with parts hidden."""
    rows = torch.randint(len(examples), (batch_size,), generator=generator)
    cut = batch_size // _HIDDEN
    plain, whole = examples.take(rows[cut:]), examples.take(rows[:cut])
    hidden = hide(whole, generator)
    return Views(plain, look(ptm, plain), whole, hidden, look(ptm, hidden.examples))


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then half a cosine to 0."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _task(module: nn.Module) -> Task:
    assert isinstance(module, Task)
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global random numbers follow `seed` within the block, and are as before after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hash_keys(seed, Purpose.WEIGHTS)))
        yield
