"""What the commands draw: a live line on a terminal, plain lines elsewhere, tables."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from durotaxis.ppo import Interrupted, Status
    from durotaxis.study.drive import Running
    from durotaxis.study.study import State

PLAIN_SECONDS = 10.0
"""Plain output: one line per so many seconds at most."""


PLAIN_WIDTH = 160


def make_console() -> Console:
    """Standard output, as wide as the terminal; wider where it is a file or a pipe."""
    console = Console(emoji=False)  # `ptm:one:` is a name
    return console if console.is_terminal else Console(width=PLAIN_WIDTH, emoji=False)


@contextmanager
def training_view(console: Console) -> Iterator[Callable[[Status], None]]:
    """The `progress` of a training: a bar with its numbers, or a line now and then."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("train", total=None, numbers="starting")

            def update(status: Status) -> None:
                for line in status.lines:
                    bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
                bar.update(
                    task,
                    total=status.total_steps,
                    completed=status.step,
                    numbers=describe(status),
                )

            yield update
        return
    shown: list[float] = []

    def print_line(status: Status) -> None:
        for line in status.lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        now = time.monotonic()
        if not shown or now - shown[-1] >= PLAIN_SECONDS or status.step >= status.total_steps:
            shown.append(now)
            console.print(
                f"step {status.step:,} of {status.total_steps:,}  {describe(status)}", soft_wrap=True
            )

    yield print_line


@contextmanager
def counting_view(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Counts finished pieces of work: a bar on a terminal, nothing elsewhere."""
    if not console.is_terminal:
        yield lambda count: None
        return
    with _bar(console) as bar:
        task = bar.add_task(label, total=total, numbers=label)
        yield lambda count: bar.update(task, advance=count)


@contextmanager
def reporting_view(console: Console, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
    """Shows (done, numbers): a bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(unit, total=total, numbers="starting")
            yield lambda done, numbers: bar.update(task, completed=done, numbers=numbers)
        return
    shown: list[float] = []

    def print_line(done: int, numbers: str) -> None:
        now = time.monotonic()
        if not shown or now - shown[-1] >= PLAIN_SECONDS or done >= total:
            shown.append(now)
            console.print(f"{unit} {done:,} of {total:,}  {numbers}", soft_wrap=True)

    yield print_line


STUDY_PLAIN_SECONDS = 60.0


@contextmanager
def study_view(console: Console) -> Iterator[Callable[[State, Sequence[Running], str | None], None]]:
    """The `report` of a study: a table of what is running, lines of what ended; plain lines elsewhere."""
    shown = [0.0]
    said: list[str] = []

    def new(line: str | None) -> bool:
        """Whether a line is to be printed: the same wait is told once."""
        if line is None or said[-1:] == [line]:
            return False
        said.append(line)
        return True

    if console.is_terminal:
        with Live(console=console, refresh_per_second=2) as live:

            def draw(state: State, running: Sequence[Running], line: str | None) -> None:
                if new(line):
                    live.console.print(line, markup=False, highlight=False, soft_wrap=True)
                live.update(_study_table(state, running))

            yield draw
        return

    def print_lines(state: State, running: Sequence[Running], line: str | None) -> None:
        now = time.monotonic()
        if new(line):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif running and now - shown[0] >= STUDY_PLAIN_SECONDS:
            shown[0] = now
            parts = [f"{run.name} {run.step / run.total_steps:.0%}" for run in running]
            console.print(
                f"{len(state.records)} of {len(state.study.runs)} runs done; running: {', '.join(parts)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    yield print_lines


def _study_table(state: State, running: Sequence[Running]) -> Table:
    done, total = len(state.records), len(state.study.runs)
    failed = f", {len(state.failed)} failed" if state.failed else ""
    rows = []
    for run in running:
        share = run.step / run.total_steps
        spent = time.monotonic() - run.started
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        rows.append((run.name, bar, f"{share:.0%}", f"success {_number(run.success_rate)}", duration(spent)))
    return table(f"{done} of {total} runs done{failed}", ("running", "", "", "", "for"), rows)


def how_to_go_on(stop: Interrupted, directory: Path) -> str:
    """What to tell after Ctrl-C."""
    return (
        f"interrupted at step {stop.step:,}; everything up to there is in {stop.path}\n"
        f"go on:   durotaxis train --resume {directory}\n"
        f"look at: durotaxis evaluate {directory}"
    )


def describe(status: Status) -> str:
    """Return, success, attention per PTM, speed and time left, in one line."""
    parts = [] if status.stage is None else [status.stage]
    parts += [
        f"return {_number(status.return_mean)}",
        f"success {_number(status.success_rate)}",
    ]
    attention = status.diagnostics.get("attention")
    if attention:
        names = status.diagnostics.get("ptm_names") or range(len(attention))
        weights = (f"{name} {weight:.2f}" for name, weight in zip(names, attention, strict=True))
        parts.append("attention " + " ".join(weights))
    if status.evaluation is not None:
        parts.append(f"evaluated {_number(status.evaluation.get('success_rate'))}")
    if status.steps_per_s is not None:
        parts.append(f"{status.steps_per_s:,.0f} steps/s")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A plain table; cells are shown as text."""
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _bar(console: Console) -> Progress:
    return Progress(
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[numbers]}"),
        console=console,
    )


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, which schedulers send, does what Ctrl-C does within the block."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
