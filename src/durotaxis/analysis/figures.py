"""Figures of one training: the learning curve, and attention over the pre-trained models.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; every line also has its
name or marker. Figures are drawn without a display and written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from durotaxis.analysis.load import (
    EPISODE_COLUMNS,
    Attention,
    Row,
    Run,
    attention_over_training,
    by_evaluation,
    estimate,
    in_bins,
)
from durotaxis.analysis.stats import Estimate
from durotaxis.records import PHASES, RecordError, write_atomic

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
DARK = ("#0072B2", "#009E73", "#D55E00")
INK, GREY = "#212731", "#68707A"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.hashsalt": "durotaxis",
}
NUM_BINS = 25
LATE = 0.9
"""Phases are compared over the last tenth of training."""

_PANELS = {"return": "return", "success_rate": "success rate", "front_progress": "front progress"}
_EVENT_STYLES: Mapping[str, tuple[str, Any]] = {"stage": (INK, "-"), "learns": (COLOURS[5], (0, (1, 2)))}
_SUFFIXES = (".png", ".svg", ".pdf")


def learning_curve(
    run: Run,
    path: Path | str | None = None,
    references: Mapping[str, Mapping[str, float | None]] | None = None,
    num_bins: int = NUM_BINS,
) -> Figure:
    """Return, success rate and front progress against environment steps, one panel each.

    Training episodes are averaged in bins, with a band for the 95 % interval; evaluations on tuning seeds are
    points with their 95 % intervals.

    Args:
        run: the records.
        path: where to write it (.png, .svg or .pdf; folders are made); None writes nothing.
        references: policy name -> value per panel (`return`, `success_rate`, `front_progress`); drawn as
            horizontal lines where it is known.
        num_bins: over the whole training.

    Raises:
        RecordError: no episode has finished yet, or the file cannot be written.
    """
    if not run.episodes and not run.evaluations:
        raise RecordError(f"{run.path}: no episode has finished yet, so there is no learning curve")
    with mpl.rc_context(STYLE):
        figure, panels = _new_figure((7.8, 7.6), len(_PANELS), sharex=True)
        for axes, what in zip(panels, _PANELS, strict=True):
            _draw_training(axes, run, what, num_bins)
            _draw_evaluations(axes, run, what)
            _draw_references(axes, what, references or {})
            _draw_events(axes, run, named=axes is panels[-1])
            _finish_panel(axes, what)
        _label_steps(panels[-1])
        figure.suptitle(run.name, x=0.02, ha="left", fontweight="bold")
        figure.align_ylabels(panels)
        panels[0].legend(loc="upper left", ncols=3, bbox_to_anchor=(0.0, 1.2), borderaxespad=0.0)
        return written(figure, path)


def attention_figure(run: Run, path: Path | str | None = None) -> Figure:
    """Mean attention per model over training, how many models that amounts to, and which phase uses which.

    Args:
        run: the records.
        path: where to write it (.png, .svg or .pdf; folders are made); None writes nothing.

    Raises:
        RecordError: the run has no attention, or the file cannot be written.
    """
    attention = attention_over_training(run)
    if attention is None:
        raise RecordError(f"{run.path}: no attention was recorded; only runs with several models have it")
    with mpl.rc_context(STYLE):
        figure, panels = _new_figure((7.8, 7.6), 3, height_ratios=[3, 1.6, 1.6])
        _draw_attention(panels[0], attention)
        _draw_effective(panels[1], attention)
        _draw_events(panels[0], run, named=True)
        _draw_events(panels[1], run, named=False)
        _draw_phases(panels[2], run, attention.names)
        figure.suptitle(run.name, x=0.02, ha="left", fontweight="bold")
        return written(figure, path)


def _new_figure(size: tuple[float, float], rows: int, **layout: Any) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    sharex = layout.pop("sharex", False)
    return figure, list(figure.subplots(rows, 1, sharex=sharex, gridspec_kw=layout))


def _draw_training(axes: Axes, run: Run, what: str, num_bins: int) -> None:
    bins = in_bins([row for row in run.episodes if row.get(EPISODE_COLUMNS[what]) is not None], num_bins)
    if not bins:
        return
    steps = [step for step, _ in bins]
    mean, low, high = _arrays([estimate(rows, what) for _, rows in bins])
    axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    axes.plot(steps, mean, color=COLOURS[0], linewidth=1.8, label="training episodes")


def _draw_evaluations(axes: Axes, run: Run, what: str) -> None:
    groups = by_evaluation(run.evaluations)
    if not groups:
        return
    steps = sorted(groups)
    mean, low, high = _arrays([estimate(groups[step], what) for step in steps])
    axes.errorbar(
        steps,
        mean,
        yerr=np.stack([mean - low, high - mean]).clip(min=0.0),
        fmt="o",
        color=COLOURS[5],
        markersize=5,
        elinewidth=1.2,
        capsize=2.5,
        label="evaluation",
    )


def _arrays(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of each, float64; NaN where undefined."""
    columns = [[getattr(e, name) for e in estimates] for name in ("mean", "low", "high")]
    mean, low, high = (np.array(values, dtype=np.float64) for values in columns)
    return mean, low, high


def _draw_references(axes: Axes, what: str, references: Mapping[str, Mapping[str, float | None]]) -> None:
    for name, values in references.items():
        level = values.get(what)
        if level is not None:
            axes.axhline(level, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2.2)
            axes.annotate(
                name,
                (1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=GREY,
            )


def _draw_events(axes: Axes, run: Run, named: bool) -> None:
    """Where stages began (after the first) and parts began to learn; with `named`, what they are called."""
    at: dict[int, list[Row]] = {}
    for row in run.events:
        if row["event"] in _EVENT_STYLES and row["step"] > 0:
            at.setdefault(row["step"], []).append(row)
    for step, rows in at.items():
        colour, dashes = _EVENT_STYLES[rows[0]["event"]]
        axes.axvline(step, color=colour, linewidth=1.1, linestyle=dashes, zorder=2.1)
        if named:
            axes.annotate(
                " · ".join(map(_event_name, rows)),
                (step, 0.03),
                xycoords=("data", "axes fraction"),
                xytext=(-3, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=8,
                color=colour,
            )


def _event_name(row: Row) -> str:
    name = str(row["name"]).removeprefix("ptm:")
    return name if row["event"] == "stage" else f"{name} learns"


def _finish_panel(axes: Axes, what: str) -> None:
    axes.set_ylabel(_PANELS[what])
    if what != "return":
        axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _label_steps(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps")


def _draw_attention(axes: Axes, attention: Attention) -> None:
    num = len(attention.names)
    axes.axhline(1 / num, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label=f"uniform, 1/{num}")
    for index, name in enumerate(attention.names):
        axes.plot(
            attention.step,
            attention.weight[:, index],
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.8,
            label=name,
        )
    axes.set_title("mean attention per model", pad=8 + 15 * -(-(num + 1) // 4))
    axes.set_ylim(0.0, max(1.0 / num + 0.1, float(attention.weight.max()) * 1.12))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(4, num + 1), borderaxespad=0.2)
    _label_steps(axes)


def _draw_effective(axes: Axes, attention: Attention) -> None:
    num = len(attention.names)
    axes.plot(attention.step, attention.effective, color=INK, linewidth=1.6)
    axes.axhline(num, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_ylim(0.9, num + 0.15)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("effective number of models, exp(entropy)")
    _label_steps(axes)


def _draw_phases(axes: Axes, run: Run, names: Sequence[str]) -> None:
    axes.set_title("attention by phase, last tenth of training")
    means = {phase: _late_mean(run.attention, phase) for phase in PHASES}
    for row, phase in enumerate(PHASES):
        left = 0.0
        for index, weight in enumerate(means[phase]):
            colour = COLOURS[index % len(COLOURS)]
            axes.barh(row, weight, left=left, height=0.62, color=colour)
            if weight > 0.06:
                ink = "white" if colour in DARK else INK
                axes.text(left + weight / 2, row, f"{weight:.2f}", ha="center", va="center", color=ink)
            left += weight
        if not len(means[phase]):
            axes.text(0.01, row, "no colony seen", va="center", color=GREY)
    axes.set_yticks(range(len(PHASES)), PHASES)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(False)


def _late_mean(rows: Sequence[Row], phase: str) -> np.ndarray:
    """Mean attention [K] of a phase over the last tenth of training, colonies weighing the same; or empty."""
    end = max(row["step"] for row in rows)
    late = [row for row in rows if row["phase"] == phase and row["step"] >= LATE * end]
    if not late:
        return np.zeros(0)
    weight = np.array([row["value/attention"] for row in late], dtype=np.float64)
    return np.average(weight, axis=0, weights=[row["colonies"] for row in late])


def written(figure: Figure, path: Path | str | None) -> Figure:
    """Write a figure by the ending of its path, whole or not at all; None writes nothing."""
    if path is None:
        return figure
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise RecordError(f"{path}: a figure must end in {', '.join(_SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    # Dates would make two equal figures differ.
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[
        path.suffix
    ]

    def save(file: IO[bytes]) -> None:
        figure.savefig(file, format=path.suffix[1:], metadata=metadata)

    write_atomic(path, save)
    return figure
