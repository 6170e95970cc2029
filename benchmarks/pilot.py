"""The pilot: does a fused representation carry anything, and which picture and readout learn faster?

    python benchmarks/pilot.py run --directory runs/pilot          # hours on two cores; can be interrupted
    python benchmarks/pilot.py report --directory runs/pilot --out docs/results/pilot

`run` trains every job that is not finished yet, one process per core, and goes on with those that were
interrupted. `report` evaluates some of what is finished on tuning seeds, with R interfered with, and writes
figures and tables.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STEPS = 49_152
VARIED_SEEDS = 2
SHORT_RUN = (
    "training.evaluate_every=0",
    "ppo.rollout_steps=16",
    "ppo.num_epochs=3",
    "ppo.learning_rate=1e-3",
    "ppo.entropy_kind=0.001",
    "ppo.entropy_parameters=0.0001",
    "monitor.tensorboard=false",
    "run.threads=1",
)
"""Tuned by hand on the single frozen backbone, on moat, seed 0: no arm with several models was tuned."""

ARMS: dict[str, tuple[str, ...]] = {
    "frozen": ("actor_critic.use_wsa=false", "actor_critic.backbone=resnet18_random"),
    "trained": (
        "actor_critic.use_wsa=false",
        "actor_critic.backbone={model_type: graph_cnn, freeze: false, tap: block2}",
    ),
    "wsa": (
        "actor_critic.use_wsa=true",
        "actor_critic.wsa_config.ptms=[{model_type: resnet18_random}, {model_type: resnet34_random}, "
        "{model_type: graph_cnn, freeze: false, tap: block2}]",
    ),
}
"""One frozen random ResNet-18; one small CNN trained with the policy; WSA over these two and a ResNet-34."""

PICTURES: dict[str, tuple[str, ...]] = {
    "field-sampled": ("actor_critic.image={source: field, readout: sampled}",),
    "field-pooled": ("actor_critic.image={source: field, readout: pooled}",),
    "tokens-sampled": ("actor_critic.image={source: tokens, readout: sampled}",),
}


@dataclass(frozen=True)
class Job:
    """One training."""

    scenario: str
    arm: str
    picture: str
    seed: int

    @property
    def name(self) -> str:
        """Its run directory's name."""
        return f"{self.scenario}-{self.arm}-{self.picture}-seed{self.seed}"

    def overrides(self) -> list[str]:
        """`key=value` over configs/quick.yaml."""
        return [
            f"env.scenario={self.scenario}",
            f"run.seed={self.seed}",
            "env.observation.field=true",
            f"training.total_steps={STEPS}",
            *SHORT_RUN,
            *ARMS[self.arm],
            *PICTURES[self.picture],
        ]


def jobs(seeds: int) -> list[Job]:
    """All jobs: the main comparison seed by seed, then what varies model, picture and readout."""
    listed = []
    for seed in range(seeds):
        for scenario in ("moat", "patches"):
            listed += [Job(scenario, arm, "field-sampled", seed) for arm in ("frozen", "wsa")]
    for seed in range(min(seeds, VARIED_SEEDS)):
        listed.append(Job("moat", "trained", "field-sampled", seed))
        listed += [Job("moat", arm, "field-pooled", seed) for arm in ("wsa", "frozen")]
    return [*listed, Job("moat", "wsa", "tokens-sampled", 0)]


def train_run(run: Path, overrides: Sequence[str]) -> None:
    """Train configs/quick.yaml with `overrides` to its end in `run`, in a process of its own.

    Goes on with an interrupted run, and does nothing for a finished one. Output goes to `<run>.log`.
    """
    if (run / "DONE").exists():
        return
    command = [sys.executable, "-m", "durotaxis", "train"]
    command += ["--resume", str(run)] if run.exists() else [f"run.directory={run}", *overrides]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_name(f"{run.name}.log").open("a") as log:
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    print(f"{run.name}: {'finished' if code == 0 else f'stopped with code {code}, see its log'}", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--directory", type=Path, default=Path("runs/pilot"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=40, help="tuning episodes per agent and intervention")
    parser.add_argument("--intervened-seeds", type=int, default=3, help="agents per arm to interfere with")
    parser.add_argument("--out", type=Path, default=Path("docs/results/pilot"))
    options = parser.parse_args()
    if options.what == "run":
        with ThreadPoolExecutor(options.workers) as pool:
            listed = jobs(options.seeds)
            list(pool.map(lambda job: train_run(options.directory / job.name, job.overrides()), listed))
    else:
        from pilot_report import report

        report(
            options.directory,
            jobs(options.seeds),
            options.episodes,
            options.intervened_seeds,
            options.out,
            STEPS,
        )


if __name__ == "__main__":
    main()
