"""Figures of a study. Arms differ in colour, line style and marker, so that none alone has to carry it.

Every function returns a figure that nothing has been written of, or None where the study has nothing to draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from durotaxis.analysis.claims import Comparison
from durotaxis.analysis.factors import contrasts, effect_of
from durotaxis.analysis.figures import COLOURS, GREY, INK, STYLE
from durotaxis.analysis.pairs import held_out
from durotaxis.analysis.scores import performance_profile, probability_of_improvement
from durotaxis.analysis.stats import Estimate, mean_interval
from durotaxis.analysis.study import HEADING, Measure, Study
from durotaxis.records import FINISHED, TRAINED

LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP"
GRID = 40
"""Points of a curve that is drawn."""
STUDY_STYLE = {**STYLE, "svg.fonttype": "none"}
MAX_ATTENTION_PANELS = 6
"""Arms with attention that are drawn."""


def _style(study: Study, arm: str) -> dict[str, Any]:
    index = study.arms.index(arm)
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def _marker(study: Study, arm: str) -> str:
    return MARKERS[study.arms.index(arm) % len(MARKERS)]


def _panels(count: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """At most two panels side by side."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(7.8 if columns == 2 else 5.4, rows * height + 0.4), dpi=150, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def legend_above(figure: Figure, axes: Axes) -> None:
    """Above the panels, in as many columns as the names leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        inches = 0.7 + 0.085 * max(map(len, labels))
        columns = max(1, min(len(labels), int(figure.get_figwidth() / inches)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def styled(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """Draws with the report's style."""

    def inner(*args: Any) -> Figure | None:
        with mpl.rc_context(STUDY_STYLE):
            return draw(*args)

    return inner


def band(study: Study, arm: str, scenario: str, measure: Measure) -> tuple[np.ndarray, list[Estimate]]:
    """Mean over runs at GRID steps with pointwise 95 % t intervals over seeds."""
    runs = study.runs(arm, scenario)
    curves = [curve for run in runs if len((curve := study.curve(run, measure))[0])]
    if not curves:
        return np.zeros(0), []
    # Only where all of them have begun and none has ended; the one point of a failed run is a level.
    spans = [steps for steps, _ in curves if len(steps) > 1] or [np.array([0.0, study.plan.total_steps])]
    start, end = max(steps[0] for steps in spans), min(steps[-1] for steps in spans)
    grid = np.linspace(min(start, end), max(start, end), GRID)
    rows = np.stack([np.interp(grid, steps, values) for steps, values in curves])
    return grid, [mean_interval(column.tolist()) for column in rows.T]


@styled
def learning_curves(study: Study, measure: Measure) -> Figure | None:
    """Training curves, one panel per scenario: mean over runs and pointwise 95 % interval over seeds."""
    names = [
        name for name in study.scenarios if any(len(band(study, a, name, measure)[0]) for a in study.arms)
    ]
    if not names:
        return None
    figure, panels = _panels(len(names), 2.4, share=True)
    for axes, name in zip(panels, names, strict=True):
        for arm in study.arms:
            grid, line = band(study, arm, name, measure)
            if not len(grid):
                continue
            _fill(axes, grid, line, color=_style(study, arm)["color"])
            axes.plot(grid, _means(line), label=arm, linewidth=1.8, **_style(study, arm))
        axes.set_title(_title(study, name))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(0, study.plan.total_steps)
        axes.set_ylabel(HEADING[measure])
        axes.axhline(0, color=GREY, linewidth=0.8)
        if measure != "normalised_return":
            axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[-2:]:
        axes.set_xlabel("environment steps")
        axes.tick_params(labelbottom=True)
    legend_above(figure, panels[0])
    return figure


def _fill(axes: Axes, x: np.ndarray, line: Sequence[Estimate], color: str) -> None:
    known = [(at, point.low, point.high) for at, point in zip(x, line, strict=True) if point.low is not None]
    if known:
        at, low, high = np.array(known, dtype=float).T
        axes.fill_between(at, low, high, color=color, alpha=0.16, linewidth=0)


def _means(line: Sequence[Estimate]) -> np.ndarray:
    return np.array([point.mean for point in line], dtype=float)


def _title(study: Study, name: str) -> str:
    return f"{name} (control)" if study.scenario(name).is_control else name


@styled
def finals(study: Study) -> Figure | None:
    """Every run's final score, a dot each, with the mean and its 95 % interval over seeds."""
    figure, panels = _panels(1, 0.55 * len(study.scenarios) * max(1.0, 0.35 * len(study.arms)) + 0.8)
    axes, step = panels[0], 0.8 / len(study.arms)
    named: set[str] = set()
    for row, name in enumerate(study.scenarios):
        for index, arm in enumerate(study.arms):
            values = list(study.values(arm, name, study.measure(name)).values())
            if not values:
                continue
            y, colour = row - 0.4 + (index + 0.5) * step, _style(study, arm)["color"]
            axes.plot(values, np.full(len(values), y), ".", color=colour, alpha=0.45, markersize=5)
            mean = mean_interval(values)
            label = None if arm in named else arm
            named.add(arm)
            _whisker(axes, mean, y, colour, _marker(study, arm), label)
    axes.set_yticks(range(len(study.scenarios)), [_title(study, name) for name in study.scenarios])
    axes.set_ylim(len(study.scenarios) - 0.5, -0.5)
    axes.set_xlabel(f"final held-out {HEADING[study.main_measure]}{_exceptions(study)}")
    legend_above(figure, axes)
    return figure


def _exceptions(study: Study) -> str:
    other = [name for name in study.scenarios if study.measure(name) != study.main_measure]
    return f" ({', '.join(other)}: success rate)" if other else ""


def _whisker(axes: Axes, value: Estimate, y: float, colour: str, marker: str, label: str | None) -> None:
    if value.mean is None:
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [y, y], color=colour, linewidth=1.6)
    axes.plot([value.mean], [y], marker, color=colour, markersize=6, label=label, linestyle="none")


@styled
def forest(
    study: Study, effects: Sequence[Comparison], total: Sequence[tuple[str, Estimate]]
) -> Figure | None:
    """Differences to the baseline with 95 % intervals, per scenario; the aggregate (IQM) below."""
    rows = [
        effect for effect in effects if effect.condition == TRAINED and effect.difference.mean is not None
    ]
    names = list(dict.fromkeys(effect.scenario for effect in rows))
    if not rows:
        return None
    height = (len(names) + 1) * max(0.42, 0.2 * len(study.others)) + 0.9
    figure, (axes,) = _panels(1, height)
    step = 0.8 / len(study.others)
    for index, arm in enumerate(study.others):
        offset = -0.4 + (index + 0.5) * step
        colour, marker = _style(study, arm)["color"], _marker(study, arm)
        for effect in rows:
            if effect.arm == arm:
                _whisker(axes, effect.difference, names.index(effect.scenario) + offset, colour, marker, None)
        _whisker(axes, dict(total)[arm], len(names) + offset, colour, marker, arm)
    axes.axvline(0, color=INK, linewidth=1.0)
    axes.axhline(len(names) - 0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(names) + 1), [*(_title(study, name) for name in names), "all that count (IQM)"])
    axes.set_ylim(len(names) + 0.5, -0.5)
    axes.set_xlabel(f"difference to {study.plan.baseline}, {HEADING[study.main_measure]}{_exceptions(study)}")
    legend_above(figure, axes)
    return figure


@styled
def factors(study: Study) -> Figure | None:
    """Effects of factors with 95 % intervals, the scenarios that count side by side and their mean."""
    places = [("mean", study.main_scenarios)] if len(study.main_scenarios) > 1 else []
    places += [(name, (name,)) for name in study.main_scenarios]
    values = held_out(study, study.main_measure)
    rows = contrasts(study.plan.arms)
    found = {
        (row, place): gap
        for row, contrast in enumerate(rows)
        for place, scenarios in places
        if (gap := effect_of(contrast, scenarios, values)).mean is not None
    }
    if not found:
        return None
    figure, (axes,) = _panels(1, len(rows) * max(0.42, 0.2 * len(places)) + 0.9)
    step, named = 0.8 / len(places), set()
    for index, (place, _) in enumerate(places):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for row in range(len(rows)):
            if (row, place) in found:
                y = row - 0.4 + (index + 0.5) * step
                _whisker(axes, found[row, place], y, colour, marker, None if place in named else place)
                named.add(place)
    axes.axvline(0, color=INK, linewidth=1.0)
    axes.set_yticks(range(len(rows)), [contrast.name for contrast in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {HEADING[study.main_measure]}")
    legend_above(figure, axes)
    return figure


@styled
def profiles(study: Study) -> Figure | None:
    """Share of runs that scored above each value, over the scenarios that count, with 95 % bands."""
    values = held_out(study, study.main_measure)
    scores = {
        arm: [np.array(list(values(arm, name).values())) for name in study.main_scenarios]
        for arm in study.arms
    }
    scores = {arm: tasks for arm, tasks in scores.items() if all(len(task) for task in tasks)}
    if not scores:
        return None
    pooled = np.concatenate([task for tasks in scores.values() for task in tasks])
    margin = 0.05 * max(float(np.ptp(pooled)), 0.1)
    grid = np.linspace(pooled.min() - margin, pooled.max() + margin, 2 * GRID)
    figure, (axes,) = _panels(1, 2.8)
    for arm, tasks in scores.items():
        line = performance_profile(tasks, grid)
        _fill(axes, grid, line, color=_style(study, arm)["color"])
        axes.plot(grid, _means(line), label=arm, linewidth=1.8, **_style(study, arm))
    axes.set_xlabel(f"final held-out {HEADING[study.main_measure]}, x")
    axes.set_ylabel("share of runs above x")
    axes.set_ylim(-0.03, 1.03)
    legend_above(figure, axes)
    return figure


def improvement(study: Study, arm: str, scenarios: Sequence[str]) -> Estimate:
    """Probability that a run of the arm scores higher than one of the baseline."""
    values = held_out(study, study.main_measure if len(scenarios) > 1 else study.measure(scenarios[0]))
    both = [
        [np.array(list(values(name, s).values())) for s in scenarios] for name in (study.plan.baseline, arm)
    ]
    if not all(len(task) for tasks in both for task in tasks):
        return Estimate(None, None, None, 0)
    return probability_of_improvement(*both)


@styled
def improvements(study: Study, rows: Sequence[tuple[str, str, Estimate]]) -> Figure | None:
    """Probability of improvement over the baseline: (arm, place, estimate) per row."""
    rows = [row for row in rows if row[2].mean is not None]
    places = list(dict.fromkeys(place for _, place, _ in rows))
    if not rows:
        return None
    figure, (axes,) = _panels(1, len(places) * max(0.42, 0.2 * len(study.others)) + 0.9)
    step, named = 0.8 / len(study.others), set()
    for arm, place, estimate in rows:
        y = places.index(place) - 0.4 + (study.others.index(arm) + 0.5) * step
        label = None if arm in named else arm
        named.add(arm)
        _whisker(axes, estimate, y, _style(study, arm)["color"], _marker(study, arm), label)
    axes.axvline(0.5, color=INK, linewidth=1.0)
    axes.set_yticks(range(len(places)), places)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P(a run scores higher than one of {study.plan.baseline})")
    legend_above(figure, axes)
    return figure


@styled
def attention(study: Study) -> Figure | None:
    """Mean attention over runs per model while training, with 95 % bands over runs; two panels per arm."""
    ordered = (study.plan.baseline, *study.others)
    arms = [arm for arm in ordered if shares(study, arm)][:MAX_ATTENTION_PANELS]
    if not arms:
        return None
    figure, panels = _panels(2 * len(arms), 2.4)
    for arm, left, right in zip(arms, panels[::2], panels[1::2], strict=True):
        drawn = shares(study, arm)
        assert drawn is not None
        names, grid, weight, effective = drawn
        for index, name in enumerate(names):
            line = [mean_interval(column.tolist()) for column in weight[:, :, index].T]
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}
            _fill(left, grid, line, color=str(style["color"]))
            left.plot(grid, _means(line), label=name, linewidth=1.8, **style)
        left.axhline(1 / len(names), color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        left.set_title(f"{arm}: attention")
        left.set_ylim(0, None)
        left.legend(fontsize=8, loc="best")
        line = [mean_interval(column.tolist()) for column in effective.T]
        _fill(right, grid, line, color=INK)
        right.plot(grid, _means(line), color=INK, linewidth=1.6)
        right.axhline(len(names), color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        right.set_title(f"{arm}: effective number of models")
        right.set_ylim(0.9, len(names) + 0.15)
        for axes in (left, right):
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlabel("environment steps")
    return figure


def shares(study: Study, arm: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray] | None:
    """Attention of an arm: names [K], steps [T], weight [runs,T,K], effective number [runs,T].

    Failed runs and those with other models than the first are left out; None where no run has attention, or
    the arm's rule gives every state the same.
    """
    if not study.learns_attention(arm):
        return None
    runs = [run for name in study.scenarios for run in study.runs(arm, name) if run.status == FINISHED]
    with_models = [run.attention for run in runs if run.attention and len(run.attention["step"])]
    if not with_models:
        return None
    names = list(with_models[0]["names"])
    alike = [one for one in with_models if list(one["names"]) == names]
    return names, *resampled(alike, study.plan.total_steps)


def resampled(
    recorded: Sequence[Mapping[str, Any]], total_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`RunRecord.attention` at GRID common steps: steps [T], weight [runs,T,K], effective [runs,T]."""
    grid = np.linspace(0, total_steps, GRID + 1)[1:]
    weight = [
        np.stack([np.interp(grid, one["step"], column) for column in np.array(one["weight"], float).T], 1)
        for one in recorded
    ]
    effective = [np.interp(grid, one["step"], np.array(one["effective"], float)) for one in recorded]
    return grid, np.stack(weight), np.stack(effective)


def inline_svg(svg: str, name: str, alt: str) -> str:
    """A figure's SVG to stand in a page: ids of its own, the page's ink, paper and grid."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')
    for colour, value in (
        (INK, "var(--ink)"),
        (GREY, "var(--muted)"),
        ("#E4E7EB", "var(--grid)"),
        ("#FFFFFF", "none"),
    ):
        svg = re.sub(colour, value, svg, flags=re.IGNORECASE)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[\d.]+pt"', "", head)
    width = re.search(r'viewBox="0 0 ([\d.]+)', head)
    assert width is not None
    pixels = round(float(width.group(1)) * 4 / 3)
    return (
        f'{head} role="img" aria-label="{escape(alt)}" style="max-width: {pixels}px">'
        f"<title>{escape(alt)}</title>{rest}"
    )
