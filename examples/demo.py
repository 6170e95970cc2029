"""The main job: train a WSA agent, then ask on held-out episodes what it learned and what it uses.

    python examples/demo.py
    python examples/demo.py --directory runs/other run.seed=1 training.total_steps=20000

Trains on a configuration and evaluates on the same held-out seeds: the scripted policies, the agent
before and after training, and the trained agent with its representation R set to zero or its attention forced
uniform. Leaves a table, the learning curve, attention over training and a film in the run directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from durotaxis.agent import HybridActorCritic
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.analysis import (
    Result,
    attention_figure,
    learning_curve,
    load_run,
    markdown_table,
    samples_of_scores,
    summarise,
    text_table,
)
from durotaxis.console import counting_view, how_to_go_on, make_console, training_view
from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.env.render import film
from durotaxis.ppo import Interrupted, evaluate, load, load_policy, report_seeds
from durotaxis.records import RecordError, write_atomic, write_episodes
from durotaxis.study.episode import record_agent
from durotaxis.study.film import frames_of
from durotaxis.study.run import Job, build_policy, prepare
from durotaxis.study.score import NORMALISERS, play, scenario_scores

Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _parse(arguments)
    console = make_console()
    try:
        run_demo(options.config, options.directory, options.seeds, options.overrides, console)
    except Interrupted as stop:
        console.print(how_to_go_on(stop, stop.path.parents[1]), markup=False, soft_wrap=True)
        return 130
    except KeyboardInterrupt:
        console.print("demo: interrupted; the training is kept, its comparison is not", markup=False)
        return 130
    except (UserError, RecordError) as error:
        console.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    return 0


def run_demo(config: str, directory: str | None, num_seeds: int, overrides: list[str], console: Any) -> None:
    """Train, compare, draw."""
    where = [f"run.directory={directory}"] if directory else []
    job = prepare(config, [*overrides, *where])
    console.print(job.describe(), markup=False, soft_wrap=True)
    seeds = report_seeds(num_seeds)
    with training_view(console) as progress:
        job.train(progress)
    results = compare(job, seeds, console)
    folder = job.directory
    write_atomic(folder / "demo.md", markdown_table(results))
    console.print(f"\n{num_seeds} held-out episodes on `{job.config.env.scenario}`:\n", markup=False)
    sys.stdout.write(text_table(results))
    for path in draw(job, results, seeds[0]):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def compare(job: Job, seeds: list[int], console: Any) -> list[Result]:
    """The results of every policy on the same seeds; the episodes are kept in `demo.json`."""
    config, trained = job.config, best_policy(job)
    untrained = build_policy(config, job.device)
    # Calibrated statistics of frozen models are part of the untrained agent too.
    load_policy(untrained, load(job.run.last_checkpoint), job.run.last_checkpoint)
    reset_trainable(untrained, build_policy(config, job.device))
    rows: dict[str, Rows] = {}
    players: list[tuple[str, HybridActorCritic, str | None]] = [
        ("untrained agent", untrained, None),
        ("trained agent", trained, None),
    ]
    if trained.actor.has_attention:
        players += [
            ("trained, attention uniform", trained, "uniform"),
            ("trained, R set to zero", trained, "zero"),
        ]
    with counting_view(console, "policies", len(players) + len(NORMALISERS)) as advance:
        for name in NORMALISERS:
            rows[name] = scripted_rows(name, config.env, seeds)
            advance(1)
        for name, policy, intervention in players:
            world = DurotaxisEnv(config.env, len(seeds), job.device, validate=False)
            with intervening(policy, intervention):
                rows[name] = evaluate(world, policy, seeds)
            advance(1)
    write_atomic(job.directory / "demo.json", json.dumps(rows, allow_nan=False) + "\n")
    references = samples_of_scores(scenario_scores(config.env), NORMALISERS)
    return [summarise(name, episodes, *references) for name, episodes in rows.items()]


def best_policy(job: Job) -> HybridActorCritic:
    """The trained policy that did best on the tuning seeds, or the last where none were played."""
    path = job.run.chosen_checkpoint
    load_policy(job.policy, load(path), path)
    return job.policy


def reset_trainable(policy: HybridActorCritic, fresh: HybridActorCritic) -> None:
    """Give `policy` the initial values of everything that is trained."""
    start = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name])


@contextmanager
def intervening(policy: HybridActorCritic, what: str | None) -> Iterator[None]:
    """The policy with its fusion interfered with; None changes nothing."""
    with policy.actor.extractor.intervene(what) if what else nullcontext():
        yield


def scripted_rows(name: str, env: EnvConfig, seeds: list[int]) -> Rows:
    """Episodes of a scripted policy, as rows of `evaluations.jsonl`."""
    return play(SCRIPTED[name], env, torch.tensor(seeds)).rows()


def draw(job: Job, results: list[Result], seed: int) -> list[Path]:
    """Learning curve, attention over training, and a film of the first held-out episode."""
    figures = job.directory / "figures"
    run = load_run(job.directory)
    references = {
        result.policy: {
            "return": result.episode_return.mean,
            "success_rate": result.success_rate.mean,
            "front_progress": result.front_progress.mean,
        }
        for result in results
        if result.policy in NORMALISERS
    }
    learning_curve(run, figures / "learning-curve.png", references)
    paths = [figures / "learning-curve.png"]
    if job.policy.actor.has_attention:
        attention_figure(run, figures / "attention.png")
        paths.append(figures / "attention.png")
    episodes = record_agent(job.policy, job.config.env, [seed], "trained agent")
    write_episodes(job.directory, episodes)
    film(*frames_of(episodes[0]), figures / "episode.gif")
    return [*paths, figures / "episode.gif", job.directory / "demo.md"]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a WSA agent and compare it on held-out episodes.")
    parser.add_argument("--config", default="quick", help="a YAML file or a configuration of the package")
    parser.add_argument("--directory", help="the run directory; default runs/<config>-<first free number>")
    parser.add_argument("--seeds", type=int, default=100, help="held-out episodes per policy")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values that replace the file's")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
