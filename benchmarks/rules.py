"""One small training with every fusion rule, so that each is seen to learn.

    python benchmarks/rules.py --directory runs/rules          # about half an hour on two cores
    python benchmarks/rules.py --steps 4096 --rules wsa mean

Trains the agent of configs/quick.yaml, with settings for short runs, once per rule and seed, and prints
return, length, success and front progress of the first and the last tenth of the training episodes. Finished
trainings are not repeated, interrupted ones go on. One or two seeds show that a rule trains; they rank none.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pilot import SHORT_RUN, train_run

from durotaxis.analysis import load_run
from durotaxis.analysis.load import column
from durotaxis.fusion import RULES
from durotaxis.study.evaluation import open_run

LINE = "{:<16} {:>4} {:>14} {:>12} {:>12} {:>14} {:>9} {:>8}"


def overrides(rule: str, seed: int, steps: int) -> list[str]:
    """`key=value` over configs/quick.yaml."""
    return [
        *SHORT_RUN,
        f"training.total_steps={steps}",
        f"run.seed={seed}",
        f"actor_critic.wsa_config.fusion={rule}",
    ]


def summary(run: Path, rule: str, seed: int) -> dict[str, float | int | str]:
    """What was learned, how fast, and how large rule and heads are."""
    records = load_run(run)
    tenth = max(1, len(records.episodes) // 10)
    policy = open_run(run).policy
    row: dict[str, float | int | str] = {"rule": rule, "seed": seed, "episodes": len(records.episodes)}
    columns = {"return": "return", "length": "length", "success": "success", "front": "final/front_progress"}
    for what, key in columns.items():
        values = column(records.episodes, key)
        row[f"{what}_first"] = float(values[:tenth].mean())
        row[f"{what}_last"] = float(values[-tenth:].mean())
    row["steps_per_s"] = float(np.median(column(records.metrics, "steps_per_s")))
    row["trained_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return row


def main() -> None:
    """Parse, train, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=Path("runs/rules"))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=24_576)
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    jobs = {
        options.directory / f"{rule}-seed{seed}": (rule, seed)
        for seed in range(options.seeds)
        for rule in options.rules
    }
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda job: train_run(job[0], overrides(*job[1], options.steps)), jobs.items()))
    heads = ("rule", "seed", "return", "length", "success", "front progress", "trained", "steps/s")
    print(LINE.format(*heads))
    rows = [summary(run, *job) for run, job in jobs.items() if (run / "DONE").exists()]
    for row in rows:
        print(
            LINE.format(
                row["rule"],
                row["seed"],
                f"{row['return_first']:.2f}, {row['return_last']:.2f}",
                f"{row['length_first']:.0f}, {row['length_last']:.0f}",
                f"{row['success_first']:.2f}, {row['success_last']:.2f}",
                f"{row['front_first']:.2f}, {row['front_last']:.2f}",
                f"{row['trained_parameters']:,}",
                f"{row['steps_per_s']:.0f}",
            )
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
