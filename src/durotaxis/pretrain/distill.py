"""Distillation: a student learns what a trained teacher would do, before PPO goes on.

States are met while playing: a part of the colonies is driven by the teacher, the others by the student as
it is (after DAgger, Ross, Gordon and Bagnell 2011), so that it is also taught where it gets to by itself. In
every state the teacher says what it would do, and the student is moved towards that:

    loss = mean over colonies of Σ_nodes KL(teacher ‖ student) + value_coefficient · (V_teacher - V_student)²

    KL of a node = Σ_kind p ln(p/q) + p(spawn) · Σ_j KL(Beta(a_j, b_j) ‖ Beta(c_j, d_j))

with p of the teacher and q of the student (parameters count only where a node spawns). Dropout acts in the
student's heads while it learns, as nowhere else; what it plays and is measured by is without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from durotaxis.agent import ActionDistribution, HybridActorCritic, PTMFeatures, state_value
from durotaxis.core.config import Config
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.core.struct import Struct
from durotaxis.env import DurotaxisEnv, Observation
from durotaxis.env.types import Kind

_TAUGHT, _HELD_OUT = 101, 102  # keep these episodes and draws apart from each other and from PPO's
HELD_OUT_COLONIES = 32
HELD_OUT_STEPS = 128
_HELD_OUT_EVERY = 8  # neighbouring states look alike
_TINY = torch.finfo(torch.float32).tiny


class DivergedError(UserError):
    """Numbers ran away while learning; a lower rate may help."""


class DistillConfig(Config):
    """How a student is taught; the keys `distill.*` of the command."""

    total_steps: int = Field(default=50_000, ge=1)  # environment steps, rounded up to whole rollouts
    num_colonies: int = Field(default=48, ge=1, le=1_000_000)
    rollout_steps: int = Field(default=16, ge=1)  # steps of every colony between two updates
    student_share: float = Field(default=0.5, ge=0, le=1)  # of the colonies that the student drives
    num_epochs: int = Field(default=4, ge=1)  # passes over a rollout
    num_minibatches: int = Field(default=4, ge=1)
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3  # Adam; falls linearly to 0
    value_coefficient: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @property
    def num_iterations(self) -> int:
        """Rollouts, each followed by an update."""
        return -(-self.total_steps // (self.num_colonies * self.rollout_steps))


@dataclass(frozen=True)
class Targets(Struct):
    """What the teacher says about B states."""

    kind_probs: Tensor  # [B,N,3], 0 in empty slots
    alpha: Tensor  # [B,N,4], 1 in empty slots
    beta: Tensor  # [B,N,4]
    value: Tensor  # [B]


@dataclass(frozen=True)
class Lesson(Struct):
    """States and what the teacher says about them; everything leads with [B]."""

    observation: Observation
    cached: PTMFeatures | None  # of the student's frozen models
    targets: Targets


@dataclass(frozen=True)
class Seats:
    """Where the batch of colonies stands between two steps."""

    observation: Observation
    episode: Tensor  # [B] int64, episodes begun before the present one
    step: int  # steps of the batch so far


def beta_kl(alpha: Tensor, beta: Tensor, other_alpha: Tensor, other_beta: Tensor) -> Tensor:
    """KL(Beta(alpha, beta) ‖ Beta(other_alpha, other_beta)), elementwise, nats."""
    more_alpha, more_beta = other_alpha - alpha, other_beta - beta
    return (
        _log_beta(other_alpha, other_beta)
        - _log_beta(alpha, beta)
        - more_alpha * torch.digamma(alpha)
        - more_beta * torch.digamma(beta)
        + (more_alpha + more_beta) * torch.digamma(alpha + beta)
    )


def action_kl(teacher: Targets, student: ActionDistribution) -> Tensor:
    """KL(teacher ‖ student) of every node's kind and parameters, [B,N] nats; 0 in empty slots."""
    ours, theirs = teacher.kind_probs, student.kind_probs
    # A kind the mask forbids has probability 0 in both.
    log_ratio = ours.clamp_min(_TINY).log() - theirs.clamp_min(_TINY).log()
    of_kind = (ours * log_ratio).sum(-1)
    of_parameters = beta_kl(teacher.alpha, teacher.beta, student.alpha, student.beta).sum(-1)
    return of_kind + ours[..., Kind.SPAWN] * of_parameters


def distill(
    world: DurotaxisEnv,
    teacher: HybridActorCritic,
    student: HybridActorCritic,
    config: DistillConfig,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Teach `student` in place; yields a row per iteration, with the columns of `distillation.jsonl`.

    The first `student_share` of the colonies are driven by the student, the others by the teacher; episodes
    go on across iterations. After the last row, or wherever the caller stops, the student is in eval mode.

    Args:
        world: `config.num_colonies` colonies, observed as both can read it.
        seed: of episodes, actions and minibatches.

    Raises:
        UserError: the world has another number of colonies, or a loss or gradient is not finite (the student
            is then as before that step).
    """
    if world.num_colonies != config.num_colonies:
        raise UserError(
            f"the world has {world.num_colonies} colonies, distill.num_colonies is {config.num_colonies}"
        )
    teacher.eval()
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate)
    driven = round(config.student_share * config.num_colonies)
    seats = sit_down(world, seed, _TAUGHT)
    began = time.perf_counter()
    for iteration in range(1, config.num_iterations + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - (iteration - 1) / config.num_iterations)
        lesson, seats = play(world, teacher, student, seats, config.rollout_steps, driven, seed, _TAUGHT)
        with _dropout(student, int(hash_keys(seed, Purpose.MINIBATCH, iteration, _TAUGHT))):
            means = _learn(student, optimizer, lesson, config)
        step = iteration * config.num_colonies * config.rollout_steps
        elapsed = time.perf_counter() - began
        yield {
            "iteration": iteration,
            "step": step,
            **means,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "elapsed_s": elapsed,
            "steps_per_s": step / elapsed,
        }


def held_out(
    world: DurotaxisEnv, teacher: HybridActorCritic, student: HybridActorCritic, seed: int, by_student: bool
) -> Lesson:
    """States of episodes that are not trained on, met by the teacher or by the student as it is now.

    Args:
        world: a batch of its own; every eighth of 128 steps is kept.
    """
    driven = world.num_colonies if by_student else 0
    seats = sit_down(world, seed, _HELD_OUT)
    return play(world, teacher, student, seats, HELD_OUT_STEPS, driven, seed, _HELD_OUT, _HELD_OUT_EVERY)[0]


@torch.no_grad()
def measure(student: HybridActorCritic, lesson: Lesson, batch: int = 128) -> dict[str, float]:
    """How far the student is from the teacher: `kl` (mean over states of the sum over nodes, nats),
    `kl_per_node` (mean over nodes), `value_error` (root mean square), and `value_spread` (standard deviation
    of the teacher's values, for comparison).
    """
    student.eval()
    kl, error = [], []
    for rows in torch.arange(len(lesson.targets.value), device=lesson.targets.value.device).split(batch):
        part = lesson[rows]
        distribution, value = student(part.observation, part.cached)
        kl.append(action_kl(part.targets, distribution).sum(1))
        error.append(state_value(value) - part.targets.value)
    total, nodes = torch.cat(kl), lesson.observation.node_mask.sum()
    return {
        "kl": float(total.mean()),
        "kl_per_node": float(total.sum() / nodes.clamp_min(1)),
        "value_error": float(torch.cat(error).square().mean().sqrt()),
        "value_spread": float(lesson.targets.value.std()),
    }


def _learn(
    student: HybridActorCritic,
    optimizer: torch.optim.Optimizer,
    lesson: Lesson,
    config: DistillConfig,
) -> dict[str, float]:
    """Several passes over a lesson; returns means over minibatches."""
    sums: dict[str, float] = {}
    count = 0
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(config.num_epochs):
        order = torch.randperm(len(lesson.targets.value)).to(lesson.targets.value.device)
        for rows in order.tensor_split(config.num_minibatches):
            part = lesson[rows]
            distribution, value = student(part.observation, part.cached)
            kl = action_kl(part.targets, distribution).sum(1).mean()
            error = (state_value(value) - part.targets.value).square().mean()
            loss = kl + config.value_coefficient * error
            if not bool(loss.isfinite()):
                raise DivergedError(
                    f"the loss is not finite (kl {kl.item():g}, value {error.item():g}); "
                    "try a lower distill.learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(learned, config.max_grad_norm)
            if not bool(norm.isfinite()):
                raise DivergedError(
                    f"the gradient is not finite (loss {loss.item():g}); try a lower distill.learning_rate"
                )
            optimizer.step()
            count += 1
            nodes = part.observation.node_mask.sum(1).float().mean().clamp_min(1e-6)
            row = {
                "kl": kl,
                "kl_per_node": kl / nodes,
                "value_loss": error,
                "gradient_norm": norm,
            }
            sums = {name: sums.get(name, 0.0) + float(number.detach()) for name, number in row.items()}
    return {name: total / count for name, total in sums.items()}


@contextmanager
def _dropout(student: HybridActorCritic, seed: int) -> Iterator[None]:
    """Dropout in the heads (pre-trained parts stay in eval mode), all of torch's draws from `seed`."""
    device = student.low.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        student.train()
        try:
            yield
        finally:
            student.eval()


def sit_down(world: DurotaxisEnv, seed: int, use: int) -> Seats:
    """The first episode of every colony; `use` keeps the episodes of different uses of a seed apart."""
    episode = torch.zeros(world.num_colonies, dtype=torch.int64, device=world.device)
    return Seats(world.reset(_seeds(seed, episode, use)), episode, 0)


def _seeds(seed: int, episode: Tensor, use: int) -> Tensor:
    slots = torch.arange(len(episode), device=episode.device)
    return hash_keys(seed, Purpose.EPISODE, slots, episode, use)


@torch.no_grad()
def play(
    world: DurotaxisEnv,
    teacher: HybridActorCritic,
    student: HybridActorCritic,
    seats: Seats,
    num_steps: int,
    driven: int,
    seed: int,
    use: int,
    every: int = 1,
) -> tuple[Lesson, Seats]:
    """Play on, the first `driven` colonies by the student; each `every`-th state goes into the lesson.

    Draws depend on (seed, use, step, colony) alone, so a colony's life depends only on who drives it.
    """
    slots = torch.arange(world.num_colonies, device=world.device)
    lessons = []
    for number in range(1, num_steps + 1):
        observation = seats.observation
        keys = hash_keys(seed, Purpose.POLICY, seats.step, slots, use)
        distribution, value = teacher(observation, teacher.precompute(observation))
        action = teacher.to_action(distribution.sample(keys), observation)
        kept = number % every == 0
        cached = student.precompute(observation) if kept or driven else None
        if driven:
            mine, part = observation[:driven], None if cached is None else cached[:driven]
            sample = student(mine, part)[0].sample(keys[:driven])
            action = action.put(slots[:driven], student.to_action(sample, mine))
        if kept:
            said = Targets(distribution.kind_probs, distribution.alpha, distribution.beta, state_value(value))
            lessons.append(Lesson(observation, cached, said))
        result = world.step(action)
        ended = result.terminated | result.truncated
        episode, observation = seats.episode + ended, result.observation
        if bool(ended.any()):
            observation = world.reset_where(ended, _seeds(seed, episode, use))
        seats = Seats(observation, episode, seats.step + 1)
    return Lesson.cat(lessons), seats


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
