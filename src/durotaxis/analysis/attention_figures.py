"""Figures of attention. Models differ in colour, line style and marker, so that none alone has to carry it.

Every function returns a figure that nothing has been written of, or None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from durotaxis.analysis.attention import (
    FACTORS,
    PHASE,
    binned_shares,
    effective_estimate,
    relations,
    share_estimate,
)
from durotaxis.analysis.attention_groups import Group, Likeness, Worth, likenesses, worths
from durotaxis.analysis.figures import COLOURS, GREY, INK, STYLE
from durotaxis.analysis.stats import Estimate
from durotaxis.analysis.study_figures import LINES, MARKERS, legend_above
from durotaxis.analysis.study_tables import Column, cell_text
from durotaxis.records import PHASES

STAGE = "stage"
COLUMNS = 3
"""Panels side by side."""
UNIFORM: Any = {"color": GREY, "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 1.5}
DODGE = 0.14
"""How far apart models stand whose points would cover each other."""


def _styled(draw: Callable[[Group], Figure | None]) -> Callable[[Group], Figure | None]:
    """Draws with the project's style."""

    def inner(group: Group) -> Figure | None:
        with mpl.rc_context(STYLE):
            return draw(group)

    return inner


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@_styled
def factors_figure(group: Group) -> Figure | None:
    """Attention by bins of each factor, with 95 % intervals, a panel each."""
    panels = [name for name in (*group.borders, PHASE) if name in group.units[0].bins]
    stages = group.training.stages if group.training is not None else {}
    shown = [*panels, STAGE] if len(stages) > 1 else panels
    if len(group.ptms) < 2:
        return None
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(3.2 * columns + 0.4, 2.35 * rows + 0.6)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for spare in grid[len(shown) :]:
        spare.remove()
    for index, (axes, name) in enumerate(zip(grid, shown, strict=False)):
        if name == STAGE:
            cells = [[share_estimate(column) for column in weight.T] for weight in stages.values()]
        else:
            cells = binned_shares(group.units, name)
        _draw_bins(axes, group, cells, _labels(group, name))
        axes.set_title(_title(name))
        if index % columns == 0:
            axes.set_ylabel("attention")
    top = max(axes.get_ylim()[1] for axes in grid[: len(shown)])
    grid[0].set_ylim(0.0, min(1.02, top))
    legend_above(figure, grid[0])
    return figure


def _title(name: str) -> str:
    return {PHASE: "phase of the episode", STAGE: "curriculum stage"}.get(name) or FACTORS[name].label


def _labels(group: Group, name: str) -> list[str]:
    """Of the bins: their borders, or what they are called."""
    if name == PHASE:
        return list(PHASES)
    if name == STAGE:
        assert group.training is not None
        return list(group.training.stages)
    return bin_labels(group.borders[name])


def bin_labels(borders: np.ndarray) -> list[str]:
    """`0.2 to 0.4` and so on, with as many digits as tell borders apart."""
    digits = 0
    while digits < 4 and len({f"{value:.{digits}f}" for value in borders}) < len(borders):
        digits += 1
    texts = [f"{value:.{digits}f}" for value in borders]
    return [f"{low} to {high}" for low, high in pairwise(texts)]


def _draw_bins(axes: Axes, group: Group, cells: Sequence[Sequence[Estimate]], labels: Sequence[str]) -> None:
    num = len(group.ptms)
    axes.axhline(1 / num, label=f"uniform, 1/{num}", **UNIFORM)
    for k, name in enumerate(group.ptms):
        column = [row[k] for row in cells]
        x = np.arange(len(column)) + (k - (num - 1) / 2) * DODGE
        mean = np.array([np.nan if value.mean is None else value.mean for value in column])
        axes.plot(x, mean, linewidth=1.5, markersize=4.5, label=name, **_style(k))
        for at, value in zip(x, column, strict=True):
            if value.low is not None and value.high is not None:
                axes.plot([at, at], [value.low, value.high], color=_style(k)["color"], linewidth=1.4)
    for at, row in enumerate(cells):
        if all(value.mean is None for value in row):
            axes.text(at, 0.02, "none seen", ha="center", va="bottom", fontsize=8, color=GREY, rotation=90)
    slanted: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(labels) > 3 else {}
    axes.set_xticks(range(len(labels)), labels, fontsize=8, **slanted)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(axis="x", visible=False)


@_styled
def terms_figure(group: Group) -> Figure | None:
    """Rank correlation of each model's attention with each reward term; in bold what is more than chance."""
    found = relations(group.units, group.ptms)
    if not found:
        return None
    terms = list(dict.fromkeys(relation.term for relation in found))
    values = np.full((len(terms), len(group.ptms)), np.nan)
    texts = [["" for _ in group.ptms] for _ in terms]
    for relation in found:
        row, k = terms.index(relation.term), group.ptms.index(relation.ptm)
        values[row, k] = relation.rho.mean
        texts[row][k] = f"{_rounded(relation.rho.mean)}{' *' if relation.is_clear else ''}"
    figure = _figure(1.9 * len(group.ptms) + 2.6, 0.36 * len(terms) + 1.35)
    axes = figure.subplots()
    _heat(figure, axes, values, texts, "PuOr_r", (-1.0, 1.0), "rank correlation")
    axes.set_xticks(range(len(group.ptms)), _wrapped(group.ptms))
    axes.set_yticks(range(len(terms)), terms)
    axes.set_title(f"attention and reward terms (* more than chance, over {group.over})", loc="left", x=0.0)
    return figure


def _rounded(value: float | None) -> str:
    return cell_text(value, Column("", is_signed=True))


def _wrapped(names: Sequence[str]) -> list[str]:
    """Long names on two lines."""
    return ["_\n".join(name.rsplit("_", 1)) if len(name) > 14 else name for name in names]


def _heat(
    figure: Figure,
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    colours: str,
    limits: tuple[float, float],
    label: str,
) -> None:
    """Cells with their text in ink that can be read on them."""
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            red, green, blue, _ = image.to_rgba(values[row, column])
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            weight = "bold" if "*" in text else "normal"
            ink = "white" if is_dark and text else INK
            axes.text(column, row, text, ha="center", va="center", color=ink, fontweight=weight, fontsize=8.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)


@_styled
def worth_figure(group: Group) -> Figure | None:
    """What closing each model, or all others, changes of the return; and the Shapley values."""
    found = worths(group.probes)
    if len(found) < 2:
        return None
    to_all = "difference to all models"
    panels: list[tuple[str, str, Callable[[Worth], Estimate | None]]] = [
        ("return without it", to_all, lambda worth: worth.closed),
        ("success rate without it", to_all, lambda worth: worth.success),
        ("return with it alone", to_all, lambda worth: worth.alone),
    ]
    if all(worth.shapley is not None for worth in found):
        panels.append(("Shapley value", "return added, all orders", lambda worth: worth.shapley))
    figure = _figure(10.0, 0.42 * len(found) + 1.15)
    grid = list(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)))
    for axes, (title, below, of) in zip(grid, panels, strict=True):
        axes.axvline(0, color=INK, linewidth=1.0)
        for row, worth in enumerate(found):
            value = of(worth)
            assert value is not None
            style = _style(list(group.ptms).index(worth.ptm) if worth.ptm in group.ptms else row)
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [row, row], color=style["color"], linewidth=1.8)
            axes.plot([value.mean], [row], style["marker"], color=style["color"], markersize=6)
        axes.set_title(title, fontsize=9.5)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlabel(below)
    grid[0].set_yticks(range(len(found)), [worth.ptm for worth in found])
    grid[0].set_ylim(len(found) - 0.5, -0.5)
    return figure


@_styled
def training_figure(group: Group) -> Figure | None:
    """Attention per model and the effective number of models over training; bands are over runs."""
    training = group.training
    if training is None or len(group.ptms) < 2:
        return None
    num = len(group.ptms)
    figure = _figure(7.8, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1.0])
    upper.axhline(1 / num, label=f"uniform, 1/{num}", **UNIFORM)
    for k, name in enumerate(group.ptms):
        line = [share_estimate(column) for column in training.weight[:, :, k].T]
        style = {key: value for key, value in _style(k).items() if key != "marker"}
        _band(upper, training.step, line, name, style)
    line = [effective_estimate(column.tolist(), num) for column in training.effective.T]
    _band(lower, training.step, line, None, {"color": INK})
    lower.axhline(num, **UNIFORM)
    upper.set_title("attention over training")
    lower.set_title("effective number of models, exp(entropy)")
    upper.set_ylim(bottom=0.0)
    lower.set_ylim(0.9, num + 0.15)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True))
    lower.xaxis.set_major_formatter(EngFormatter(sep=""))
    lower.set_xlabel("environment steps")
    lower.set_xlim(left=0)
    legend_above(figure, upper)
    return figure


def _band(
    axes: Axes, step: np.ndarray, line: Sequence[Estimate], label: str | None, style: dict[str, Any]
) -> None:
    if line[0].low is not None:
        low, high = (
            np.array([getattr(point, end) for point in line], dtype=float) for end in ("low", "high")
        )
        axes.fill_between(step, low, high, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(
        step, np.array([point.mean for point in line], dtype=float), linewidth=1.8, label=label, **style
    )


@_styled
def likeness_figure(group: Group) -> Figure | None:
    """Linear CKA of every two models' embeddings."""
    found = likenesses(group.probes)
    if not found:
        return None
    names = list(group.probes[0].similarity.ptms)
    values = np.eye(len(names))
    texts = [["1" if i == j else "" for j in range(len(names))] for i in range(len(names))]
    for pair in found:
        i, j = (names.index(name) for name in pair.ptms)
        values[i, j] = values[j, i] = pair.cka.mean
        texts[i][j] = texts[j][i] = _likeness_text(pair)
    figure = _figure(1.35 * len(names) + 2.8, 0.75 * len(names) + 1.3)
    axes = figure.subplots()
    _heat(figure, axes, values, texts, "Blues", (0.0, 1.0), "linear CKA")
    axes.set_xticks(range(len(names)), _wrapped(names))
    axes.set_yticks(range(len(names)), _wrapped(names))
    axes.set_title("similarity of embeddings")
    return figure


def _likeness_text(pair: Likeness) -> str:
    value = pair.cka
    if value.low is None or value.high is None:
        return f"{value.mean:.2f}"
    return f"{value.mean:.2f}\n[{value.low:.2f}, {value.high:.2f}]"


FIGURES: tuple[tuple[str, str, Callable[[Group], Figure | None]], ...] = (
    ("factors", "Attention by bins of each factor", factors_figure),
    ("terms", "Rank correlation of attention with reward terms", terms_figure),
    ("worth", "What closing models changes", worth_figure),
    ("training", "Attention over training", training_figure),
    ("similarity", "Similarity of embeddings", likeness_figure),
)
"""End of the file's name, what it shows, how it is drawn."""
