"""Makes docs/gallery.md and its pictures: trains the agents of configs/gallery, looks at them in every way.

    python examples/gallery.py
    python examples/gallery.py --out runs/gallery/page training.total_steps=4608

Trainings are kept in runs/gallery and gone on with. A training that was made with other values is refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from durotaxis import cli
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.analysis import attention_figure, learning_curve, load_run
from durotaxis.core.config import load_config, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig
from durotaxis.env.render import Style, film
from durotaxis.records import Episode, RecordError, RunDirectory, read_episode, read_episodes, write_atomic
from durotaxis.study.config import RootConfig
from durotaxis.study.episode import record_scripted
from durotaxis.study.film import frames_of
from durotaxis.study.run import differences

CONFIGS = Path("configs/gallery")
AGENTS = ("wsa", "baseline")
SCRIPTED_FILMS = {"linear": "delete-left", "moat": "delete-left"}
"""Scenario -> the scripted policy that is filmed in it."""
SEED = 2_000_000


@dataclass(frozen=True)
class Figure:
    """One picture of the page."""

    file: str
    title: str
    caption: str
    command: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the gallery; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make docs/gallery.md and its pictures.")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of gallery.md and gallery/")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"), help="folder of the trainings")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values that replace the files'")
    options = parser.parse_args(arguments)
    try:
        make_gallery(options.out, options.runs, options.overrides)
    except (UserError, RecordError) as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 2
    return 0


def make_gallery(out: Path, runs: Path, overrides: Sequence[str]) -> Path:
    """Train, evaluate, draw, write the page; returns it."""
    pictures = out / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    for agent in AGENTS:
        train(CONFIGS / f"{agent}.yaml", runs / agent, overrides)
        durotaxis("evaluate", runs / agent, "--seeds", 100)
    figures = [*scripted(pictures), *agents(pictures, runs)]
    page = out / "gallery.md"
    write_atomic(page, text_of(figures, runs))
    print(f"written to {page}")
    return page


def durotaxis(*words: object) -> None:
    """Run a command; what it refuses ends the gallery."""
    code = cli.run([str(word) for word in words])
    if code:
        raise UserError(f"`durotaxis {' '.join(map(str, words))}` ended with exit code {code}")


def train(config: Path, run: Path, overrides: Sequence[str]) -> None:
    """Train an agent, or go on where it was; a finished one stays."""
    if not run.exists():
        durotaxis("train", "--config", config, f"run.directory={run}", *overrides)
        return
    kept = RunDirectory.open(run)
    wanted = load_config(config, RootConfig, overrides).settled()
    if changes := differences(kept.config_text, to_yaml(wanted)):
        raise UserError(f"{run} was trained with other values of {', '.join(changes)}; remove it first")
    if not kept.is_done:
        durotaxis("train", "--resume", run)


def scripted(pictures: Path) -> list[Figure]:
    """Films of what a blind rule does."""
    found = []
    for scenario, policy in SCRIPTED_FILMS.items():
        assert policy in SCRIPTED
        (episode,) = record_scripted(policy, EnvConfig(scenario=scenario), [SEED])
        name = f"{scenario}-{policy}.webp"
        film(*frames_of(episode, f"{policy} on {scenario}"), pictures / name, Style(width=640))
        end = "reaches the goal" if episode.info.success else "does not reach the goal"
        caption = f"The scripted policy `{policy}` on `{scenario}`: it {end} in {episode.info.length} steps."
        found.append(Figure(name, f"A rule without eyes: {scenario}", caption, "python examples/gallery.py"))
    return found


def agents(pictures: Path, runs: Path) -> list[Figure]:
    """Films, curves, attention, metrics and a replay of the two trained agents."""
    wsa, baseline = (runs / agent for agent in AGENTS)
    number = median_episode(list(read_episodes(wsa)))
    found = []
    for agent, run in zip(AGENTS, (wsa, baseline), strict=True):
        info = read_episode(run, number).info
        name = f"{agent}.webp"
        durotaxis("render", run, "--episode", number, "--out", pictures / name, "--width", 640)
        end = "reaches the goal" if info.success else f"ends with {info.reason.replace('_', ' ')}"
        what = f"The {'WSA agent' if agent == 'wsa' else 'baseline'} in held-out episode {info.seed}"
        caption = f"{what}: it {end} after {info.length} steps."
        found.append(
            Figure(name, f"{agent} on {info.scenario}", caption, f"durotaxis render {run} --episode {number}")
        )
    step = min(40, read_episode(wsa, number).info.length)
    options = ("--episode", number, "--step", step, "--width", 480, "--colour-by", "age")
    durotaxis("render", wsa, *options, "--out", pictures / "step.png")
    command = f"durotaxis render {wsa} {' '.join(map(str, options))}"
    caption = f"Step {step} of the same episode of the WSA agent; nodes darken as they age."
    found.append(Figure("step.png", "One step, 480 pixels wide", caption, command))
    durotaxis("replay", wsa, "--episode", number, "--beside", baseline, "--out", pictures / "replay.html")
    return [*found, *curves(pictures, wsa), *analyses(pictures, wsa)]


def curves(pictures: Path, run: Path) -> list[Figure]:
    """How a training went."""
    learning_curve(load_run(run), pictures / "learning-curve.png")
    attention_figure(load_run(run), pictures / "attention.png")
    return [
        Figure(
            "learning-curve.png",
            "A training",
            "Return, success and front progress of the WSA agent's training episodes, and its evaluations.",
            "durotaxis.analysis.learning_curve",
        ),
        Figure(
            "attention.png",
            "Attention over training",
            "Mean attention to each model while the agent learns.",
            "durotaxis.analysis.attention_figure",
        ),
    ]


def analyses(pictures: Path, run: Path) -> list[Figure]:
    """Which model leads where, what each is worth, and how the colony migrates."""
    folder = run / "analysis"
    durotaxis("analyse", run)
    durotaxis("analyse", run, "metrics")
    command = f"durotaxis analyse {run}"
    chosen = [
        Figure(
            "attention-factors.png",
            "Which model leads where",
            "Attention in bins of what colony and ground are like, with 95 % intervals over episodes.",
            command,
        ),
        Figure(
            "attention-worth.png",
            "What each model is worth",
            "What closing a model changes, what it does alone, and its Shapley value, on the same episodes.",
            command,
        ),
        Figure(
            "metrics.png",
            "How the colony migrates",
            "The agent and two scripted policies, in its own world and in one without a gradient.",
            f"{command} metrics",
        ),
        Figure(
            "metrics-msd.png",
            "Mean squared displacement",
            "Of the centroids, with the exponent; 1 is a random walk, 2 a straight one.",
            f"{command} metrics",
        ),
    ]
    for figure in chosen:
        shutil.copy(folder / figure.file, pictures / figure.file)
    return chosen


def median_episode(episodes: Sequence[Episode]) -> int:
    """The number of the episode whose return is in the middle."""
    order = sorted(range(len(episodes)), key=lambda number: episodes[number].info.total_reward)
    return order[(len(order) - 1) // 2]


def text_of(figures: Sequence[Figure], runs: Path) -> str:
    """The page."""
    lines = [
        "# Gallery",
        "",
        "Made by one command from [configs/gallery](../configs/gallery): two agents, trained on the tuning",
        "seed 0, on `stripes`. These are pictures of two trainings, not a comparison; for that see",
        "[studies.md](studies.md).",
        "",
        "```bash",
        "python examples/gallery.py   # trains both agents first: about 15 minutes on two CPU cores",
        "```",
    ]
    lines += [
        "",
        "The two agents in the same episode, to play in a browser: [replay.html](gallery/replay.html)",
    ]
    lines += ["(save it and open it; [replay.md](replay.md) says what it shows)."]
    for figure in figures:
        lines += ["", f"## {figure.title}", "", f"![{figure.title}](gallery/{figure.file})", ""]
        lines += [figure.caption, "", f"`{figure.command}`"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
