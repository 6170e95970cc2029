"""The report of `pilot.py`: evaluations with R interfered with, figures, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from durotaxis.analysis import load_run
from durotaxis.analysis.figures import COLOURS, GREY, STYLE
from durotaxis.analysis.load import attention_over_training, column
from durotaxis.analysis.stats import Estimate, mean_interval
from durotaxis.env import DurotaxisEnv
from durotaxis.ppo import evaluate, tuning_seeds
from durotaxis.records import write_atomic
from durotaxis.study.evaluation import open_run

BINS = 12
Key = tuple[str, str, str]
Groups = dict[Key, dict[int, Path]]  # scenario, arm, picture -> seed -> run
Results = dict[Key, dict[int, dict[str, dict[str, float]]]]  # ... -> seed -> intervention -> numbers
INTERVENTIONS = ("none", "uniform", "shuffled", "zero")
LABELS = {
    "frozen": "one frozen random ResNet-18",
    "trained": "one small CNN, trained",
    "wsa": "WSA over three models",
    "none": "as trained",
    "uniform": "attention uniform",
    "shuffled": "R of another colony",
    "zero": "R zero",
}


def evaluations(run: Path, episodes: int) -> dict[str, dict[str, float]]:
    """Success rate and front progress of a finished run under every intervention; kept beside the run."""
    kept = run / "pilot.json"
    if kept.exists() and (found := json.loads(kept.read_text()))["episodes"] == episodes:
        return found["results"]
    candidate = open_run(run)
    has_attention = candidate.policy.actor.has_attention
    results = {}
    for what in INTERVENTIONS:
        if what == "uniform" and not has_attention:
            continue
        world = DurotaxisEnv(candidate.config.env, episodes, validate=False)
        with candidate.policy.actor.extractor.intervene(None if what == "none" else what):
            rows = evaluate(world, candidate.policy, tuning_seeds(episodes), whole_batch=True)
        results[what] = {
            "success": float(np.mean([row["success"] for row in rows])),
            "front": float(np.mean([row["final/front_progress"] for row in rows])),
            "return": float(np.mean([row["return"] for row in rows])),
        }
    write_atomic(kept, json.dumps({"episodes": episodes, "results": results}, indent=1) + "\n")
    print(f"{run.name}: {results['none']}", flush=True)
    return results


def curve(run: Path, total: int, what: str) -> np.ndarray:
    """Mean of a column over the training episodes in each of BINS equal stretches, NaN where none ended."""
    rows = load_run(run).episodes
    values, step = column(rows, what), column(rows, "step")
    place = np.minimum(((step - 1) * BINS / total).astype(int), BINS - 1)
    return np.array([values[place == b].mean() if (place == b).any() else np.nan for b in range(BINS)])


def learning(run: Path, total: int) -> float:
    """Front progress of training episodes, averaged over training: high if learned early and well."""
    return float(np.nanmean(curve(run, total, "final/front_progress")))


def late(run: Path, total: int, what: str) -> float:
    """A column's mean over the training episodes that ended in the last sixth of training."""
    rows = load_run(run).episodes
    values, step = column(rows, what), column(rows, "step")
    return float(values[step > total * 5 / 6].mean())


def report(
    directory: Path, jobs: Sequence[Any], episodes: int, intervened_seeds: int, out: Path, total: int
) -> None:
    """Evaluate, draw, print."""
    groups: Groups = {}
    for job in jobs:
        if (directory / job.name / "DONE").exists():
            groups.setdefault((job.scenario, job.arm, job.picture), {})[job.seed] = directory / job.name
    results: Results = {}
    for key, runs in groups.items():
        if key[2] == "field-sampled" and key[1] in ("frozen", "wsa"):
            chosen = sorted(runs)[:intervened_seeds]
            results[key] = {seed: evaluations(runs[seed], episodes) for seed in chosen}
    out.mkdir(parents=True, exist_ok=True)
    tables = [
        *trained_table(groups, total),
        "",
        *differences(groups, total),
        "",
        *intervention_table(results),
        "",
        *attention_table(groups),
    ]
    text = "\n".join(tables) + "\n"
    print(text)
    write_atomic(out / "tables.md", text)
    draw_curves(groups, total, out / "learning.png")
    draw_interventions(results, out / "interventions.png")
    draw_attention(groups, out / "attention.png")


def show(estimate: Estimate, digits: int = 2) -> str:
    """A mean with its 95 % t interval over seeds."""
    if estimate.mean is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


MEASURES = {
    "success": lambda run, total: late(run, total, "success"),
    "front progress": lambda run, total: late(run, total, "final/front_progress"),
    "learning": learning,
}
"""What is compared: the last sixth of training, and the mean front progress over all of it."""


def trained_table(groups: Groups, total: int) -> list[str]:
    """One line per arm."""
    heads = ["scenario", "arm", "picture", "seeds", *MEASURES]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, runs in groups.items():
        cells = [show(mean_interval([of(run, total) for run in runs.values()])) for of in MEASURES.values()]
        lines.append(f"| {key[0]} | {LABELS[key[1]]} | {key[2]} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def differences(groups: Groups, total: int) -> list[str]:
    """Paired by seed."""
    pairs = [
        (("moat", "wsa", "field-sampled"), ("moat", "frozen", "field-sampled")),
        (("moat", "wsa", "field-sampled"), ("moat", "trained", "field-sampled")),
        (("patches", "wsa", "field-sampled"), ("patches", "frozen", "field-sampled")),
        (("moat", "wsa", "field-sampled"), ("moat", "wsa", "field-pooled")),
        (("moat", "frozen", "field-sampled"), ("moat", "frozen", "field-pooled")),
        (("moat", "wsa", "field-sampled"), ("moat", "wsa", "tokens-sampled")),
    ]
    heads = ["difference, paired by seed", "seeds", *MEASURES]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for first, second in pairs:
        seeds = sorted(set(groups.get(first, {})) & set(groups.get(second, {})))
        if not seeds:
            continue
        gaps = [
            mean_interval([of(groups[first][s], total) - of(groups[second][s], total) for s in seeds])
            for of in MEASURES.values()
        ]
        name = f"{' '.join(first)} minus {' '.join(second)}"
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(map(show, gaps))} |")
    return lines


def intervention_table(results: Results) -> list[str]:
    """Success under every intervention, one number per agent."""
    lines = [
        "| scenario | arm | " + " | ".join(LABELS[what] for what in INTERVENTIONS) + " |",
        "|---|---|" + "---|" * len(INTERVENTIONS),
    ]
    for key, rows in results.items():
        cells = [
            ", ".join(f"{row[what]['success']:.2f}" for row in rows.values() if what in row) or "-"
            for what in INTERVENTIONS
        ]
        lines.append(f"| {key[0]} | {LABELS[key[1]]} | {' | '.join(cells)} |")
    return lines


def attention_table(groups: Groups) -> list[str]:
    """Mean attention over the last tenth of training."""
    lines = ["| scenario | picture | model | attention | effective models |", "|---|---|---|---|---|"]
    for (scenario, arm, picture), runs in groups.items():
        if arm != "wsa":
            continue
        found = [attention_over_training(load_run(run)) for _, run in sorted(runs.items())]
        late = [a.weight[-len(a.step) // 10 :].mean(0) for a in found if a is not None]
        effective = [float(a.effective[-len(a.step) // 10 :].mean()) for a in found if a is not None]
        names = next(a.names for a in found if a is not None)
        for index, name in enumerate(names):
            weight = show(mean_interval([float(row[index]) for row in late]))
            last = show(mean_interval(effective)) if index == 0 else ""
            lines.append(f"| {scenario} | {picture} | {name} | {weight} | {last} |")
    return lines


def draw_curves(groups: Groups, total: int, path: Path) -> None:
    """Front progress and success over training, one panel per question."""
    panels = [
        ("moat: which models", [("moat", arm, "field-sampled") for arm in LABELS], 1),
        ("patches: which models", [("patches", arm, "field-sampled") for arm in LABELS], 1),
        (
            "moat: which picture and readout",
            [
                ("moat", a, p)
                for a in ("wsa", "frozen")
                for p in ("field-sampled", "field-pooled", "tokens-sampled")
            ],
            2,
        ),
    ]
    centres = (np.arange(BINS) + 0.5) * total / BINS
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(panels), sharex=True, sharey="row")
        for place, (title, keys, label) in enumerate(panels):
            for row, (what, name) in enumerate(
                (("final/front_progress", "front progress"), ("success", "success rate"))
            ):
                ax = axes[row][place]
                for index, key in enumerate(key for key in keys if key in groups):
                    lines = np.stack([curve(run, total, what) for run in groups[key].values()])
                    colour = COLOURS[index]
                    ax.plot(centres, lines.T, color=colour, alpha=0.25, linewidth=0.8)
                    text = LABELS[key[1]] if label == 1 else f"{key[1]}, {key[2]}"
                    ax.plot(centres, np.nanmean(lines, 0), color=colour, linewidth=2, label=text)
                ax.set_ylim(-0.02, 1.02)
                if row == 0:
                    ax.set_title(title)
                    ax.legend(loc="upper left", fontsize=8)
                if place == 0:
                    ax.set_ylabel(f"{name} of training episodes")
                if row == 1:
                    ax.set_xlabel("environment steps (thin: seeds)")
        write_atomic(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))


def draw_interventions(results: Results, path: Path) -> None:
    """Success of every seed under every intervention."""
    keys = list(results)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for ax, key in zip(axes, keys, strict=True):
            for seed, row in results[key].items():
                present = [what for what in INTERVENTIONS if what in row]
                places = [INTERVENTIONS.index(what) for what in present]
                values = [row[what]["success"] for what in present]
                ax.plot(places, values, color=COLOURS[seed % len(COLOURS)], marker="o", linewidth=0.8)
            ax.set_xticks(
                range(len(INTERVENTIONS)), [LABELS[w].replace(" ", "\n") for w in INTERVENTIONS], fontsize=7
            )
            ax.set_title(f"{key[0]}: {key[1]}")
            ax.set_ylim(-0.03, 1.03)
        axes[0].set_ylabel("success rate, one line per seed")
        write_atomic(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))


def draw_attention(groups: Groups, path: Path) -> None:
    """Mean attention per model over training, seeds thin."""
    keys = [key for key in groups if key[1] == "wsa"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for ax, key in zip(axes, keys, strict=True):
            for run in groups[key].values():
                found = attention_over_training(load_run(run))
                assert found is not None
                for index in range(len(found.names)):
                    ax.plot(
                        found.step, found.weight[:, index], color=COLOURS[index], linewidth=0.9, alpha=0.7
                    )
            for index, name in enumerate(found.names):
                ax.plot([], [], color=COLOURS[index], label=name)
            ax.axhline(1 / len(found.names), color=GREY, linestyle=(0, (4, 3)), linewidth=1)
            ax.set_title(f"{key[0]}, {key[2]}")
            ax.set_xlabel("environment steps")
            ax.set_ylim(0, 1)
        axes[0].set_ylabel("mean attention, one line per seed")
        axes[0].legend(loc="upper left", fontsize=8)
        write_atomic(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))
