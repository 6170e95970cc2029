"""What is written while training: JSONL is the truth, TensorBoard a second sink, a callback the live view."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from durotaxis.ppo.alerts import Watch
from durotaxis.ppo.config import MonitorConfig
from durotaxis.ppo.protocols import Policy, World
from durotaxis.ppo.rollout import Rollout, Slots
from durotaxis.ppo.tally import mean_of
from durotaxis.records import (
    ATTENTION,
    EPISODES,
    EVALUATIONS,
    EVENTS,
    METRICS,
    PHASES,
    TENSORBOARD,
    RunDirectory,
    cannot_write,
)

WINDOW = 100


@dataclass(frozen=True)
class Status:
    """What a live view shows after every iteration and every evaluation."""

    iteration: int
    num_iterations: int
    step: int
    total_steps: int
    episodes: int
    return_mean: float | None  # over the last WINDOW finished training episodes; None before the first
    success_rate: float | None  # likewise
    diagnostics: Mapping[str, Any]  # of all colonies, such as the mean attention per PTM; empty when none
    evaluation: Mapping[str, Any] | None  # means of the latest evaluation; None before the first
    steps_per_s: float | None  # of rollout and update, this iteration
    seconds_left: float | None  # at the mean pace since this process began
    stage: str | None = None  # of the curriculum
    lines: tuple[str, ...] = ()  # to be shown once: events since the last status


Progress = Callable[[Status], None]


class Monitor:
    """The sinks of one training; a context manager that closes them."""

    def __init__(
        self,
        run: RunDirectory,
        config: MonitorConfig,
        num_iterations: int,
        steps_per_rollout: int,
        first_iteration: int = 0,
        progress: Progress | None = None,
        learned_attention: bool = True,
    ) -> None:
        self._watch = _watch(run, learned_attention)
        self._num_iterations, self._first = num_iterations, first_iteration
        self._steps_per_rollout = steps_per_rollout
        self._began = time.perf_counter()
        self._progress = progress
        files = (METRICS, EPISODES, ATTENTION, EVALUATIONS, EVENTS)
        self._console_every = config.console_every
        self._attention_told: int | None = None  # how many times so many episodes had finished when last told
        self._files = {name: run.appender(name) for name in files}
        self._board = _open_board(run, first_iteration * steps_per_rollout) if config.tensorboard else None
        self._board_path, self._board_broken = run.path / TENSORBOARD, False
        self._recent: deque[dict[str, Any]] = deque(maxlen=WINDOW)
        self._latest: dict[str, Any] = {}
        self._diagnostics: dict[str, Any] = {}
        self._evaluation: dict[str, Any] | None = None
        self._told: list[str] = []

    def iteration(
        self,
        metrics: Mapping[str, Any],
        episodes: list[dict[str, Any]],
        attention: list[dict[str, Any]],
    ) -> None:
        """Record one iteration: its metrics, the episodes that finished, and the policy's diagnostics."""
        when = {"iteration": metrics["iteration"], "step": metrics["step"]}
        for row in episodes:
            self._files[EPISODES].append({**when, **row})
        for row in attention:
            self._files[ATTENTION].append({**when, **row})
            self._scalars(f"attention/{row['phase']}", row, when["step"])
        self._files[METRICS].append(metrics)
        self._scalars("train", metrics, when["step"])
        self._recent.extend(episodes)
        self._latest = dict(metrics)
        if attention:
            self._diagnostics = {
                key.partition("/")[2]: value for key, value in attention[0].items() if "/" in key
            }
            self._tell_attention(metrics["episodes"], len(episodes))
        for alert in self._watch.see(metrics, [{**when, **row} for row in attention]):
            name = f"{alert.name} {alert.about}".strip()
            self.event(when["iteration"], when["step"], metrics["episodes"], "warning", name, alert.message)
        self._report()

    def evaluation(
        self, iteration: int, step: int, rows: list[dict[str, Any]], summary: Mapping[str, Any]
    ) -> None:
        """Record an evaluation: one row per episode, and its means for the live view."""
        for row in rows:
            self._files[EVALUATIONS].append({"iteration": iteration, "step": step, **row})
        self._scalars("evaluation", summary, step)
        self._evaluation = dict(summary)
        self._report()

    def event(self, iteration: int, step: int, episodes: int, event: str, name: str, message: str) -> None:
        """Record something that happened once, for the records, TensorBoard and the live view."""
        when = {"iteration": iteration, "step": step, "episodes": episodes}
        self._files[EVENTS].append({**when, "event": event, "name": name, "message": message})
        if self._board is not None:
            with self._board_errors():
                self._board.add_text(f"events/{event}", f"{name}: {message}", step)
        self._told.append(f"step {step:,}: {'! ' * (event == 'warning')}{name}: {message}")

    def close(self) -> None:
        """Close all sinks."""
        for file in self._files.values():
            file.close()
        if self._board is not None and not self._board_broken:
            with self._board_errors():
                self._board.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _board_errors(self) -> Iterator[None]:
        """TensorBoard writes in a thread of its own, and raises what went wrong there at some later call."""
        try:
            yield
        except OSError as error:
            self._board_broken = True
            raise cannot_write(self._board_path, error) from error

    def _scalars(self, prefix: str, row: Mapping[str, Any], step: int) -> None:
        if self._board is None:
            return
        names = row.get("value/ptm_names") or ()
        for key, value in row.items():
            tag = f"{prefix}/{key.removeprefix('value/')}"
            entries = {tag: value}
            if isinstance(value, list):
                places = names if len(names) == len(value) else range(len(value))
                entries = {f"{tag}/{place}": entry for place, entry in zip(places, value, strict=True)}
            with self._board_errors():
                for place, entry in entries.items():
                    if isinstance(entry, (int, float)) and not isinstance(entry, bool):
                        self._board.add_scalar(place, entry, step)

    def _tell_attention(self, count: int, finished: int) -> None:
        """A line per PTM for the live view, each time `console_every` more episodes have finished."""
        every, weights = self._console_every, self._diagnostics.get("attention")
        if not every or not weights:
            return
        before = (count - finished) // every if self._attention_told is None else self._attention_told
        self._attention_told = count // every
        if self._attention_told == before:
            return
        names = self._diagnostics.get("ptm_names") or [""] * len(weights)
        self._told.append(f"episode {count}: attention")
        for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
            self._told.append(f"  PTM {i} {name}: {weight:.3f}")

    def _report(self) -> None:
        if self._progress is None:
            return
        done = self._latest["iteration"]
        pace = (time.perf_counter() - self._began) / max(done - self._first, 1)
        recent, lines = list(self._recent), self._told
        self._told = []
        self._progress(
            Status(
                iteration=done,
                num_iterations=self._num_iterations,
                step=self._latest["step"],
                total_steps=self._num_iterations * self._steps_per_rollout,
                episodes=self._latest["episodes"],
                return_mean=mean_of(recent, "return"),
                success_rate=mean_of(recent, "success"),
                diagnostics=self._diagnostics,
                evaluation=self._evaluation,
                steps_per_s=self._latest["steps_per_s"],
                seconds_left=pace * (self._num_iterations - done),
                stage=self._latest.get("stage"),
                lines=tuple(lines),
            )
        )


@torch.no_grad()
def diagnose(policy: Policy, world: World, slots: Slots) -> list[dict[str, Any]]:
    """The policy's diagnostics on the present observation: of all colonies, then of each phase present."""
    phase = world.summary().get("phase")
    groups = {} if phase is None else {name: torch.eq(phase, i) for i, name in enumerate(PHASES)}
    counts = {"all": world.num_colonies} | {name: int(mask.sum()) for name, mask in groups.items()}
    found = policy.diagnostics(slots.observation, slots.cached, groups)
    return [_diagnostic_row(name, counts[name], numbers) for name, numbers in found.items()]


def rollout_metrics(rollout: Rollout, finished: list[dict[str, Any]]) -> dict[str, int | float | None]:
    """Means over a rollout and over the episodes that finished in it, named as in records.SCHEMA."""
    finals = [key for key in finished[0] if key.startswith("final/")] if finished else []
    return {
        "finished": len(finished),
        "return_mean": mean_of(finished, "return"),
        "length_mean": mean_of(finished, "length"),
        "success_rate": mean_of(finished, "success"),
        **{key: mean_of(finished, key) for key in finals},
        "reward_mean": float(rollout.reward.mean()),
        **{f"term/{name}": float(term.mean()) for name, term in rollout.terms.items()},
        "num_nodes": float(rollout.node_mask.sum(2).float().mean()),
    }


def timing_metrics(
    collect_s: float,
    forward_s: float,
    update_s: float,
    elapsed_s: float,
    num_steps: int,
    finished: int,
    device: torch.device,
) -> dict[str, int | float | None]:
    """Times, rates and memory, named as in records.SCHEMA."""
    seconds = collect_s + update_s
    on_gpu = device.type == "cuda"
    return {
        "collect_s": collect_s,
        "forward_s": forward_s,
        "update_s": update_s,
        "elapsed_s": elapsed_s,
        "steps_per_s": num_steps / seconds,
        "episodes_per_hour": 3600.0 * finished / seconds,
        "seconds_per_episode": seconds / finished if finished else None,
        "host_memory_mb": _peak_memory_mb(),
        "device_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else None,
    }


def _diagnostic_row(phase: str, count: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"phase": phase, "colonies": count, **{f"value/{key}": value for key, value in numbers.items()}}


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _watch(run: RunDirectory, learned_attention: bool) -> Watch:
    """A watch that has seen what the run has recorded so far."""
    watch, rows = Watch(learned_attention=learned_attention), defaultdict(list)
    if (run.path / METRICS).exists():
        for row in run.read(ATTENTION) if (run.path / ATTENTION).exists() else []:
            rows[row["iteration"]].append(row)
        for row in run.read(METRICS):
            watch.see(row, rows[row["iteration"]])
    return watch


def _open_board(run: RunDirectory, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / TENSORBOARD), purge_step=first_step + 1 if first_step else None)
