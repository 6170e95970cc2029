"""Training, top to bottom: collect, learn, record, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from durotaxis.core.errors import UserError
from durotaxis.core.schedule import AfterEpisode, AtStage, Clock, fixed, moment_key
from durotaxis.ppo.checkpoint import Checkpoint, TrainState, load, restore, save, snapshot
from durotaxis.ppo.checks import NonFiniteError, RatioError, require_frozen
from durotaxis.ppo.config import MonitorConfig, PPOConfig, TrainingConfig
from durotaxis.ppo.curriculum import advance, count_episodes, share_of_new
from durotaxis.ppo.evaluate import evaluate, summarize, tuning_seeds
from durotaxis.ppo.failure import FAILURE, with_failure_saved
from durotaxis.ppo.monitor import Monitor, Progress, diagnose, rollout_metrics, timing_metrics
from durotaxis.ppo.protocols import Policy, StagedWorld, World
from durotaxis.ppo.ranks import ALONE, CollectiveError, RankLostError, Ranks, colonies_per_rank, in_order
from durotaxis.ppo.rollout import collect, keep, start
from durotaxis.ppo.update import (
    add_parameters,
    make_optimizer,
    set_learning_rate,
    trainable_parameters,
    update,
)
from durotaxis.records import RecordError, RunDirectory


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
    moments: Collection[AfterEpisode | AtStage] = (),
    progress: Progress | None = None,
    resume: bool = False,
    forget_best: bool = False,
    ranks: Ranks = ALONE,
) -> TrainState:
    """Train `policy` in place with PPO, writing records and checkpoints into `run`.

    The same seed, configuration, machine and thread count give the same weights and records to the bit,
    wall-clock columns excepted, whether or not the run was interrupted and resumed.

    Args:
        world: ppo.num_colonies slots, or this rank's share of them; its device is where rollouts live. With
            `training.curriculum` a `StagedWorld` of these stages.
        seed: the source of all randomness of training.
        evaluation_world: a second world, for tuning seeds; needed when training.evaluate_every > 0.
        moments: every moment, other than steps, that a schedule of the policy or of `ppo` waits for.
        progress: called after every iteration and every evaluation.
        resume: go on from the run's last checkpoint; from the start where there is none yet.
        forget_best: the best score so far was measured in another world, so the next evaluation is the best
            again, whatever it gives.
        ranks: the processes that share the training. All call this with equal policies and arguments; rank 0
            alone evaluates, reports progress, reads and writes `run`.

    Returns:
        Where training ended.

    Raises:
        UserError: settings that do not fit each other or the checkpoint, or a policy that is not ready.
        InvariantError: non-finite numbers, a policy that does not repeat its log-probabilities, or changed
            frozen weights.
        Interrupted: after Ctrl-C; the state at the end of the last whole iteration is saved.
        RankLostError: another rank ended; that state is saved, unless it was rank 0 that ended.
    """
    _check_settings(world, ppo, training, evaluation_world, ranks)
    with run.locked() if ranks.leads else contextlib.nullcontext():
        return _train(
            world,
            policy,
            run,
            seed,
            ppo,
            training,
            monitor,
            evaluation_world,
            moments,
            progress,
            resume,
            forget_best,
            ranks,
        )


def _train(
    world: World,
    policy: Policy,
    run: RunDirectory,
    seed: int,
    ppo: PPOConfig,
    training: TrainingConfig,
    monitor: MonitorConfig,
    evaluation_world: World | None,
    moments: Collection[AfterEpisode | AtStage],
    progress: Progress | None,
    resume: bool,
    forget_best: bool,
    ranks: Ranks,
) -> TrainState:
    """As `train`, in a run directory that is this process's alone."""
    policy.eval()
    num_iterations = training.num_iterations(ppo)
    checkpoint = ranks.first(
        lambda: load(run.last_checkpoint) if resume and run.last_checkpoint.exists() else None
    )
    if checkpoint is not None:
        state, optimizer = restore(checkpoint, run.last_checkpoint, policy, ppo, world, seed, ranks)
        policy.require_ready()
        if forget_best:
            state = dataclasses.replace(state, best_score=None)
    else:
        state, optimizer = _start_anew(world, policy, seed, ppo, training, ranks)
    sink = None
    if ranks.leads:
        if resume:
            run.cut_after(state.iteration)
        learned_attention = getattr(policy, "learns_attention", True)
        sink = Monitor(
            run, monitor, num_iterations, ppo.steps_per_rollout, state.iteration, progress, learned_attention
        )
    loop = _Loop(world, policy, optimizer, seed, ppo, training, monitor, tuple(moments), sink, ranks)
    frozen, frozen_hash = policy.frozen_hashes(), policy.frozen_hash()
    config = ranks.first(lambda: run.config_text)
    kept = snapshot(policy, optimizer, world, state, config, frozen_hash, ranks)

    def save_kept(path: Path) -> None:
        if ranks.leads:
            save(kept, path)

    iteration = state.iteration
    try:
        if checkpoint is None or checkpoint.config != config:
            save_kept(run.last_checkpoint)  # so that a run killed early can be taken up as well
        while state.iteration < num_iterations:
            last = state.iteration + 1 == num_iterations
            before = state
            begun, clock = loop.begin(state)
            if trainable_parameters(policy) != loop.trainable:
                frozen, frozen_hash = loop.follow_freezing(frozen, begun), policy.frozen_hash()
            iteration = begun.iteration + 1
            state = loop.iterate(begun, clock)
            improved = False
            if _due(training.evaluate_every, before.step, state.step, last):
                if sink is not None:
                    state, improved = _evaluate(evaluation_world, policy, state, training, sink)
                best, improved = ranks.first(lambda: (state.best_score, improved))  # noqa: B023 - at once
                state = dataclasses.replace(state, best_score=best)
            kept = snapshot(policy, optimizer, world, state, config, frozen_hash, ranks)
            if improved:
                save_kept(run.best_checkpoint)
            if improved or _due(training.checkpoint_every, before.step, state.step, False):
                save_kept(run.last_checkpoint)
        require_frozen(frozen, policy.frozen_hashes())
        save_kept(run.last_checkpoint)
    except NonFiniteError as error:
        failed = with_failure_saved(run.path / FAILURE, error, policy, seed, iteration)
        with contextlib.suppress(RecordError):  # a full disk must not hide the failure
            save_kept(run.last_checkpoint)
        raise failed from error
    except RatioError:
        save_kept(run.last_checkpoint)
        raise
    except RecordError:
        with contextlib.suppress(RecordError):  # what could not be written may have been another file
            save_kept(run.last_checkpoint)
        raise
    except (KeyboardInterrupt, CollectiveError) as error:
        ranks.take_leave(error)
        save_kept(run.last_checkpoint)
        lost = ranks.explain()
        if lost is not None:
            raise _how_to_go_on(lost, run, kept, ranks) from error
        raise Interrupted(run.last_checkpoint, kept.counters["step"]) from error
    finally:
        if sink is not None:
            sink.close()
    if ranks.leads:
        run.mark_done({key: value for key, value in kept.counters.items() if key not in ("reached", "stage")})
    return state


def _start_anew(
    world: World, policy: Policy, seed: int, ppo: PPOConfig, training: TrainingConfig, ranks: Ranks
) -> tuple[TrainState, Optimizer]:
    """The first episodes of a training, and an optimiser without moments."""
    policy.require_ready()
    if isinstance(world, StagedWorld):
        world.begin_stage(0)
    policy.begin_iteration(Clock(total_steps=training.num_iterations(ppo) * ppo.steps_per_rollout))
    slots = start(world, policy, seed, ranks.rank * world.num_colonies)
    return TrainState(slots), make_optimizer(policy, ppo)


@dataclass
class _Loop:
    """What stays the same from iteration to iteration, but for which parameters learn."""

    world: World
    policy: Policy
    optimizer: Optimizer
    seed: int
    ppo: PPOConfig
    training: TrainingConfig
    monitor: MonitorConfig
    moments: tuple[AfterEpisode | AtStage, ...]
    sink: Monitor | None  # of rank 0
    ranks: Ranks

    def __post_init__(self) -> None:
        held = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.trainable = {id(parameter) for parameter in held if parameter.requires_grad}

    def begin(self, state: TrainState) -> tuple[TrainState, Clock]:
        """Everything that changes between an update and the next rollout, and nothing else does."""
        state = self._enter_stage(state)
        came = {
            moment_key(moment): state.step
            for moment in self.moments
            if isinstance(moment, AfterEpisode) and state.episodes >= moment.episode
        }
        state = dataclasses.replace(state, reached={**came, **state.reached})
        total = self.training.num_iterations(self.ppo) * self.ppo.steps_per_rollout
        clock = Clock(state.step, total, state.reached)
        if self.policy.begin_iteration(clock):
            slots = state.slots
            place = (slots.vector_step, self.seed, slots.first_slot)
            cached = keep(self.policy, slots.observation, self.world, *place)
            state = dataclasses.replace(state, slots=dataclasses.replace(slots, cached=cached))
        return state, clock

    def follow_freezing(self, frozen: dict[str, str], state: TrainState) -> dict[str, str]:
        """Take up parameters that began to learn, by a schedule or by `requires_grad` set by hand.

        The optimiser gets a group for them, the moments of all others stay. Returns the hashes of what is
        frozen now; parts that were frozen before (`frozen`) must not have changed.
        """
        self.trainable = trainable_parameters(self.policy)
        for name in add_parameters(self.optimizer, self.policy, self.ppo):
            factor = self.ppo.learning_rate_factors.get(name, 1.0)
            self._tell(state, "learns", name, f"learns from here on, at {factor:g} times the learning rate")
        self.policy.require_ready()
        now = self.policy.frozen_hashes()
        require_frozen(frozen, now)
        return now

    def iterate(self, state: TrainState, clock: Clock) -> TrainState:
        """One iteration: a rollout, an update, a line of metrics."""
        began = time.perf_counter()
        iteration = state.iteration + 1
        ppo, world, curriculum = self.ppo.at(clock), self.world, self.training.curriculum
        set_learning_rate(self.optimizer, fixed(ppo.learning_rate))

        with _timed_forward(self.policy, world.device) as forward:
            rollout, slots, finished = collect(world, self.policy, state.slots, ppo.rollout_steps, self.seed)
        collected = time.perf_counter()
        statistics = update(self.policy, self.optimizer, rollout, ppo, self.seed, iteration, self.ranks)
        updated = time.perf_counter()
        finished = in_order(self.ranks.gather(finished))
        every = self.monitor.attention_every
        watched = self.sink is not None and every and iteration % every == 0
        attention = diagnose(self.policy, world, slots) if watched else []

        episodes = [{"episode": state.episodes + i, **row} for i, row in enumerate(finished, start=1)]
        stage, when_staged = state.stage, {}
        if curriculum:
            when_staged = {"stage": curriculum[stage.index].name}
            episodes = [{**row, "stage": curriculum[row["stage"]].name} for row in episodes]
            attention = [{**row, **when_staged} for row in attention]
            stage = count_episodes(stage, curriculum, episodes)
        state = dataclasses.replace(
            state,
            slots=slots,
            iteration=iteration,
            step=state.step + ppo.steps_per_rollout,
            episodes=state.episodes + len(finished),
            elapsed_s=state.elapsed_s + time.perf_counter() - began,
            stage=stage,
        )
        self._require_same(state)
        times = timing_metrics(
            collected - began,
            sum(forward),
            updated - collected,
            state.elapsed_s,
            ppo.steps_per_rollout,
            len(finished),
            world.device,
        )
        metrics = {
            "iteration": iteration,
            "step": state.step,
            "episodes": state.episodes,
            **when_staged,
            **({"stage_share": self._share(state, clock.step)} if curriculum else {}),
            **self.ranks.mean_numbers(rollout_metrics(rollout, finished)),
            **statistics,
            "learning_rate": fixed(ppo.learning_rate),
            "clip_range": fixed(ppo.clip_range),
            **times,
        }
        if self.sink is not None:
            self.sink.iteration(metrics, episodes, attention)
        return state

    def _require_same(self, state: TrainState) -> None:
        """Nothing that decides how training goes on may differ between ranks, and no weight."""
        if not self.ranks.alone:
            learned = (p.detach() for _, p in self.policy.named_parameters() if p.requires_grad)
            total = float(torch.stack([parameter.double().sum() for parameter in learned]).sum())
            self.ranks.require_same(
                episodes=state.episodes,
                stage=state.stage,
                moments=dict(state.reached),
                **{"sum of all weights": total},
            )

    def _enter_stage(self, state: TrainState) -> TrainState:
        """The stage of the next rollout; the world is told, and who follows the run when one begins."""
        curriculum = self.training.curriculum
        if not curriculum:
            return state
        stage, reason = advance(state.stage, curriculum, state.step)
        begins = stage.index != state.stage.index or state.iteration == 0
        name = curriculum[stage.index].name
        state = dataclasses.replace(state, stage=stage)
        if begins:
            state = dataclasses.replace(
                state, reached={**state.reached, moment_key(AtStage(stage=name)): state.step}
            )
            before = f"after {reason} of {curriculum[stage.index - 1].name}" if reason else "the first stage"
            self._tell(state, "stage", name, f"begins, {before}")
        assert isinstance(self.world, StagedWorld)
        self.world.begin_stage(stage.index, self._share(state, state.step))
        return state

    def _share(self, state: TrainState, step: int) -> float:
        stage = self.training.curriculum[state.stage.index]
        return share_of_new(state.stage, stage, step, self.ppo.steps_per_rollout)

    def _tell(self, state: TrainState, event: str, name: str, message: str) -> None:
        """An event stands with the iteration that comes next, so that resuming cuts and repeats it."""
        if self.sink is not None:
            self.sink.event(state.iteration + 1, state.step, state.episodes, event, name, message)


@contextlib.contextmanager
def _timed_forward(policy: Any, device: torch.device) -> Iterator[list[float]]:
    """Seconds of each forward pass of the policy within the block, the device's work included."""
    began, seconds = [0.0], []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def begin(*_: Any) -> None:
        began[0] = now()

    def end(*_: Any) -> None:
        seconds.append(now() - began[0])

    hooks = (policy.register_forward_pre_hook(begin), policy.register_forward_hook(end))
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


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


def _how_to_go_on(lost: RankLostError, run: RunDirectory, kept: Checkpoint, ranks: Ranks) -> RankLostError:
    """The same with where the run stands, as far as this rank knows it."""
    where = (
        f"everything up to step {kept.counters['step']:,} is saved in" if ranks.leads else "the last state is"
    )
    return RankLostError(
        f"{lost}; {where} {run.last_checkpoint}; go on with {ranks.size} processes: "
        f"torchrun --nproc-per-node {ranks.size} -m durotaxis train --resume {run.path}",
        lost.speaks,
    )


def _due(every: int, before: int, after: int, last: bool) -> bool:
    """Whether a multiple of `every` lies in (before, after], or it is the last time; never when 0."""
    return every > 0 and (last or before // every != after // every)


def _check_settings(
    world: World, ppo: PPOConfig, training: TrainingConfig, evaluation_world: World | None, ranks: Ranks
) -> None:
    share = colonies_per_rank(ppo, ranks)
    if world.num_colonies != share:
        of = "" if ranks.alone else f" for {ranks.size} processes, so each needs {share}"
        raise UserError(
            f"the world has {world.num_colonies} colonies, ppo.num_colonies is {ppo.num_colonies}{of}"
        )
    if training.curriculum and not isinstance(world, StagedWorld):
        raise UserError("training.curriculum needs a world with stages; hand over durotaxis.env.StagedEnv")
    if training.evaluate_every and evaluation_world is None and ranks.leads:
        raise UserError("training.evaluate_every is set, but no evaluation world was given")
