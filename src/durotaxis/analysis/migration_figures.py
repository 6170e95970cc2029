"""Figures of migration metrics. Policies differ in colour and marker, worlds in filled and open markers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from durotaxis.analysis.figures import COLOURS, GREY, INK, STYLE, written
from durotaxis.analysis.metrics import NUMBERS
from durotaxis.analysis.migration import Group, all_turning_angles, displacement_curve, estimate, unit_of
from durotaxis.records import Column

MARKERS = "osD^vP"
COLUMNS = 4
"""Panels side by side."""
SECTORS = 24
"""Of a rose of turning angles."""

TITLES: Mapping[str, str] = {
    "success": "success rate",
    "velocity": "velocity",
    "speed": "speed",
    "front_speed": "front speed",
    "forward_index": "forward index",
    "directness": "directness",
    "persistence": "persistence",
    "autocorrelation": "autocorrelation, 1 h",
    "turning": "turning angle",
    "msd_exponent": "MSD exponent α",
    "durotaxis_index": "durotaxis index",
    "durotaxis_index_colony": "durotaxis, colony",
    "forward_births": "forward births",
    "birth_rate": "births",
    "death_rate": "deaths",
    "num_nodes": "nodes",
    "hull_area": "hull area",
    "generation": "mean generation",
    "generation_max": "largest generation",
}
REFERENCES: Mapping[str, Sequence[float]] = {
    "velocity": (0.0,),
    "forward_index": (0.0,),
    "turning": (math.pi / 2,),
    "msd_exponent": (1.0, 2.0),
    "durotaxis_index": (0.0,),
    "durotaxis_index_colony": (0.0,),
    "forward_births": (0.0,),
}
"""Values that mean something by themselves: no bias, a random and a straight walk."""


def metrics_figure(groups: Sequence[Group]) -> Figure:
    """Mean and 95 % interval of every metric, one panel each, with a line per group.

    Args:
        groups: the first one is drawn on top.
    """
    with mpl.rc_context(STYLE):
        rows = -(-len(NUMBERS) // COLUMNS)
        figure = _figure((10.4, 0.62 * rows + rows * (0.35 + 0.16 * len(groups))))
        panels = list(figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat)
        for axes, metric in zip(panels, NUMBERS, strict=False):
            _draw_metric(axes, groups, metric)
        for axes in panels[len(NUMBERS) :]:
            axes.remove()
        panels[0].set_yticks(range(len(groups)), [group.name for group in groups])
        panels[0].set_ylim(len(groups) - 0.5, -0.5)
        note = (
            "mean and 95 % interval over episodes; dashed: no bias, or slopes of a random and a straight walk"
        )
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=GREY)
        return figure


def displacement_figure(groups: Sequence[Group]) -> Figure:
    """Mean squared displacement of the centroid over lag, both logarithmic, with the exponent of each group.

    Curves are geometric means of the episodes that are long enough; bands, of the first group's world alone,
    are pointwise 95 % intervals. Exponents are means over all episodes. Grey lines show slopes 1 and 2.
    """
    with mpl.rc_context(STYLE):
        figure = _figure((7.4, 5.2))
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for group in groups:
            _draw_displacement(axes, group, groups)
        _draw_slopes(axes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("lag (h)")
        axes.set_ylabel("mean squared displacement of the centroid (µm²)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.6)
        else:
            _say_nothing(axes, "no episode lasts four steps")
        return figure


def turning_figure(groups: Sequence[Group]) -> Figure:
    """Turning angles of the centroid as roses, one per group: straight on is up, left turns are left.

    The area of a sector is its share of the angles; the dashed circle is that of even shares.
    """
    with mpl.rc_context(STYLE):
        columns = min(3, len(groups))
        rows = -(-len(groups) // columns)
        figure = _figure((3.0 * columns, 3.2 * rows))
        panels = list(figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).flat)
        angles = [all_turning_angles(group) for group in groups]
        for axes, group, each in zip(panels, groups, angles, strict=False):
            _draw_rose(axes, group, groups, each)
        for axes in panels[len(groups) :]:
            axes.remove()
        return figure


FIGURES: Mapping[str, Callable[[Sequence[Group]], Figure]] = {
    "metrics": metrics_figure,
    "metrics-msd": displacement_figure,
    "metrics-turning": turning_figure,
}
"""File name without ending -> figure."""


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw all FIGURES and write each as PNG and SVG.

    Raises:
        RecordError: a file cannot be written.
    """
    paths = []
    for name, draw in FIGURES.items():
        figure = draw(groups)
        with mpl.rc_context(STYLE):
            for ending in ("png", "svg"):
                paths.append(folder / f"{name}.{ending}")
                written(figure, paths[-1])
    return paths


def _figure(size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _look(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    """Colour and marker by policy; open markers for worlds other than the first group's."""
    policies = list(dict.fromkeys(each.policy for each in groups))
    index = policies.index(group.policy)
    colour = (COLOURS[0], COLOURS[5], COLOURS[2], *COLOURS[3:5])[index % 5]
    fill = colour if group.scenario == groups[0].scenario else "white"
    return {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markerfacecolor": fill}


def _draw_metric(axes: Axes, groups: Sequence[Group], metric: Column) -> None:
    estimates = [estimate(group, metric.name) for group in groups]
    for row, (group, value) in enumerate(zip(groups, estimates, strict=True)):
        if value.mean is None:
            axes.text(
                0.02,
                row,
                "undefined",
                transform=axes.get_yaxis_transform(),
                va="center",
                color=GREY,
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [row, row], color=_look(group, groups)["color"], linewidth=1.6)
        axes.plot(value.mean, row, linestyle="none", markersize=5.5, **_look(group, groups))
    for level in REFERENCES.get(metric.name, ()):
        axes.axvline(level, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    if metric.name == "success":
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0.0, 0.5, 1.0])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    unit = "" if unit_of(metric) in ("1", "count") else f" ({metric.unit})"
    axes.set_title(f"{TITLES[metric.name]}{unit}", fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _draw_displacement(axes: Axes, group: Group, groups: Sequence[Group]) -> None:
    hours, curve = displacement_curve(group)
    usable = [(hour, v, v.mean) for hour, v in zip(hours, curve, strict=True) if v.mean]
    if not usable:
        return
    look, x = _look(group, groups), [hour for hour, _, _ in usable]
    is_own = group.scenario == groups[0].scenario
    axes.plot(
        x,
        [mean for _, _, mean in usable],
        linestyle="-" if is_own else (0, (4, 2)),
        linewidth=1.8,
        markersize=4.5,
        markevery=max(1, len(x) // 8),
        label=f"{group.name}\n{_exponent(group)}\n{curve[0].count} of {len(group.paths)} episodes",
        **look,
    )
    banded = [(h, v.low, v.high) for h, v, _ in usable if v.low is not None]
    if banded and is_own:
        h, low, high = zip(*banded, strict=True)
        axes.fill_between(h, low, high, color=look["color"], alpha=0.13, linewidth=0)


def _exponent(group: Group) -> str:
    value = estimate(group, "msd_exponent")
    if value.mean is None:
        return "α undefined"
    if value.low is None or value.high is None:
        return f"α = {value.mean:.2f}"
    return f"α = {value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _draw_slopes(axes: Axes) -> None:
    """Slopes 1 and 2 through the middle of the lower edge, for the eye."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = np.array([left, right])
    for slope in (1, 2):
        y = bottom * 1.5 * (x / left) ** slope
        axes.plot(x, y, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        at = min(right, left * (0.6 * top / (1.5 * bottom)) ** (1 / slope))
        place = (at, bottom * 1.5 * (at / left) ** slope)
        axes.annotate(f"slope {slope}", place, color=GREY, fontsize=8, ha="right", va="bottom")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _sector_radii(angles: np.ndarray) -> np.ndarray:
    """Root of the share of angles in each sector, the first one centred straight on; zeros without angles."""
    width = 2 * math.pi / SECTORS
    sector = np.round(angles / width).astype(int) % SECTORS
    return np.sqrt(np.bincount(sector, minlength=SECTORS) / max(1, len(angles)))


def _draw_rose(axes: Any, group: Group, groups: Sequence[Group], angles: np.ndarray) -> None:
    width, radius, even = 2 * math.pi / SECTORS, _sector_radii(angles), 1 / math.sqrt(SECTORS)
    axes.set_axisbelow(True)
    axes.set_theta_zero_location("N")
    around = np.linspace(0, 2 * math.pi, 200)
    axes.plot(around, np.full(200, even), color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    colour = _look(group, groups)["color"]
    axes.bar(np.arange(SECTORS) * width, radius, width=0.92 * width, color=colour, alpha=0.85)
    axes.set_ylim(0, 1.05 * max(even, float(radius.max())))
    axes.set_yticks([])
    axes.set_xticks(np.arange(0, 2 * math.pi, math.pi / 2), ["0°", "90°", "180°", "-90°"])
    axes.set_title(f"{group.name}\n{len(angles)} angles", fontsize=9.5, loc="center", color=INK)


def _say_nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
