"""Training, top to bottom: collect, learn, record, evaluate, save."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from durotaxis.core.errors import UserError
from durotaxis.ppo.checkpoint import TrainState, load, restore, save, snapshot
from durotaxis.ppo.checks import NonFiniteError, RatioError, require_frozen
from durotaxis.ppo.config import MonitorConfig, PPOConfig, TrainingConfig
from durotaxis.ppo.evaluate import evaluate, summarize, tuning_seeds
from durotaxis.ppo.monitor import Monitor, Progress, diagnose, rollout_metrics, timing_metrics
from durotaxis.ppo.protocols import Policy, World
from durotaxis.ppo.rollout import collect, keep, start
from durotaxis.ppo.schedule import scheduled, set_learning_rate
from durotaxis.ppo.update import add_parameters, make_optimizer, trainable_parameters, update
from durotaxis.records import RunDirectory


class Interrupted(Exception):
    """Training was interrupted (Ctrl-C) and saved. `path`: the checkpoint, `step`: how far it is."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(f"interrupted; everything up to step {step:,} is saved in {path}")
        self.path = path
        self.step = step


def train(
    world: World,
    policy: Policy,
    *,
    run: RunDirectory,
    seed: int,
    ppo: PPOConfig = PPOConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008
    monitor: MonitorConfig = MonitorConfig(),  # noqa: B008
    evaluation_world: World | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> TrainState:
    """Train `policy` in place with PPO, writing records and checkpoints into `run`.

    The same seed, configuration, machine and thread count give the same weights and records to the bit,
    wall-clock columns excepted, whether or not the run was interrupted and resumed.

    Args:
        world: ppo.num_colonies slots; its device is where rollouts live.
        seed: the source of all randomness of training.
        evaluation_world: a second world, for tuning seeds; needed when training.evaluate_every > 0.
        progress: called after every iteration and every evaluation.
        resume: go on from the run's last checkpoint.

    Returns:
        Where training ended.

    Raises:
        UserError: settings that do not fit each other or the checkpoint, or a policy that is not ready.
        InvariantError: non-finite numbers, a policy that does not repeat its log-probabilities, or changed
            frozen weights.
        Interrupted: after Ctrl-C; the state at the end of the last whole iteration is saved.
    """
    _check_settings(world, ppo, training, evaluation_world)
    policy.eval()
    optimizer = make_optimizer(policy, ppo)
    num_iterations = training.num_iterations(ppo)
    if resume:
        state = restore(load(run.last_checkpoint), run.last_checkpoint, policy, optimizer, world, seed)
        policy.require_ready()
        run.cut_after(state.iteration)
    else:
        policy.require_ready()
        policy.begin_iteration(0)
        state = TrainState(start(world, policy, seed))
    frozen, frozen_hash, config = policy.frozen_hashes(), policy.frozen_hash(), run.config_text
    kept = snapshot(policy, optimizer, world, state, config, frozen_hash)
    if not resume:
        save(kept, run.last_checkpoint)  # so that a run killed early can be taken up as well
    trainable = trainable_parameters(policy)
    sink = Monitor(run, monitor, num_iterations, ppo.steps_per_rollout, state.iteration, progress)
    try:
        while state.iteration < num_iterations:
            last = state.iteration + 1 == num_iterations
            if trainable_parameters(policy) != trainable:
                trainable = trainable_parameters(policy)
                frozen = _follow_freezing(policy, optimizer, ppo, frozen)
                frozen_hash = policy.frozen_hash()
                state = _keep_anew(policy, world, state, seed)
            before, state = (
                state,
                _iterate(world, policy, optimizer, state, seed, ppo, training, monitor, sink),
            )
            improved = False
            if _due(training.evaluate_every, before.step, state.step, last):
                state, improved = _evaluate(evaluation_world, policy, state, training, sink)
            kept = snapshot(policy, optimizer, world, state, config, frozen_hash)
            if improved:
                save(kept, run.best_checkpoint)
            if _due(training.checkpoint_every, before.step, state.step, False):
                save(kept, run.last_checkpoint)
        require_frozen(frozen, policy.frozen_hashes())
        save(kept, run.last_checkpoint)
    except (NonFiniteError, RatioError):
        save(kept, run.last_checkpoint)
        raise
    except KeyboardInterrupt as error:
        save(kept, run.last_checkpoint)
        raise Interrupted(run.last_checkpoint, kept.counters["step"]) from error
    finally:
        sink.close()
    run.mark_done(kept.counters)
    return state


def _follow_freezing(
    policy: Policy, optimizer: Any, ppo: PPOConfig, frozen: dict[str, str]
) -> dict[str, str]:
    """Take up parameters whose `requires_grad` was set by hand since the last update.

    The optimiser gets a group for what began to learn, the moments of all others stay. Returns the hashes of
    what is frozen now; parts that were frozen before (`frozen`) must not have changed.
    """
    add_parameters(optimizer, policy, ppo)
    policy.require_ready()
    now = policy.frozen_hashes()
    require_frozen(frozen, now)
    return now


def _keep_anew(policy: Policy, world: World, state: TrainState, seed: int) -> TrainState:
    """The same state, with what the policy keeps beside the present observation computed anew."""
    slots = state.slots
    cached = keep(policy, slots.observation, world, slots.vector_step, seed)
    return dataclasses.replace(state, slots=dataclasses.replace(slots, cached=cached))


def _iterate(
    world: World,
    policy: Policy,
    optimizer: Any,
    state: TrainState,
    seed: int,
    ppo: PPOConfig,
    training: TrainingConfig,
    monitor: MonitorConfig,
    sink: Monitor,
) -> TrainState:
    """One iteration: a rollout, an update, a line of metrics. Schedules change here and nowhere else."""
    began = time.perf_counter()
    iteration = state.iteration + 1
    done = state.iteration / training.num_iterations(ppo)
    if policy.begin_iteration(state.step):
        state = _keep_anew(policy, world, state, seed)
    rate = scheduled(ppo.learning_rate, ppo.learning_rate_schedule, ppo.learning_rate_end, done)
    set_learning_rate(optimizer, rate)

    rollout, slots, finished = collect(world, policy, state.slots, ppo.rollout_steps, seed)
    collected = time.perf_counter()
    statistics = update(policy, optimizer, rollout, ppo, seed, iteration)
    updated = time.perf_counter()
    watched = monitor.attention_every and iteration % monitor.attention_every == 0
    attention = diagnose(policy, world, slots) if watched else []

    episodes = [{"episode": state.episodes + i, **row} for i, row in enumerate(finished, start=1)]
    state = TrainState(
        slots=slots,
        iteration=iteration,
        step=state.step + ppo.steps_per_rollout,
        episodes=state.episodes + len(finished),
        best_score=state.best_score,
        elapsed_s=state.elapsed_s + time.perf_counter() - began,
    )
    times = timing_metrics(
        collected - began,
        updated - collected,
        state.elapsed_s,
        ppo.steps_per_rollout,
        len(finished),
        world.device,
    )
    when = {"iteration": iteration, "step": state.step, "episodes": state.episodes}
    metrics = {**when, **rollout_metrics(rollout, finished), **statistics, "learning_rate": rate, **times}
    sink.iteration(metrics, episodes, attention)
    return state


def _evaluate(
    world: World | None, policy: Policy, state: TrainState, training: TrainingConfig, sink: Monitor
) -> tuple[TrainState, bool]:
    """Evaluate on the tuning seeds; returns whether the mean return there is the best so far."""
    assert world is not None
    began = time.perf_counter()
    rows = evaluate(world, policy, tuning_seeds(training.evaluation_episodes))
    summary = summarize(rows)
    sink.evaluation(state.iteration, state.step, rows, summary)
    score = summary["return_mean"]
    assert score is not None
    improved = state.best_score is None or score > state.best_score
    best = score if improved else state.best_score
    elapsed = state.elapsed_s + time.perf_counter() - began
    return dataclasses.replace(state, best_score=best, elapsed_s=elapsed), improved


def _due(every: int, before: int, after: int, last: bool) -> bool:
    """Whether a multiple of `every` lies in (before, after], or it is the last time; never when 0."""
    return every > 0 and (last or before // every != after // every)


def _check_settings(
    world: World, ppo: PPOConfig, training: TrainingConfig, evaluation_world: World | None
) -> None:
    if world.num_colonies != ppo.num_colonies:
        raise UserError(
            f"the world has {world.num_colonies} colonies, ppo.num_colonies is {ppo.num_colonies}"
        )
    if training.evaluate_every and evaluation_world is None:
        raise UserError("training.evaluate_every is set, but no evaluation world was given")
