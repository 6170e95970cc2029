"""Kill a training with SIGKILL again and again, resume it each time, and compare it with one left alone.

    python tests/study/kills.py --kills 100 --seed 3

The training is small, but has everything that must survive: stages with an overlap, schedules by step,
episode and stage, a model that enters, one that thaws, model dropout, what is kept of frozen models, value
normalisation, evaluations and checkpoints at almost every iteration. Half of the kills come at a random
moment, half in the middle of the work on a file of the run directory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from durotaxis import records
from durotaxis.ppo import load
from durotaxis.records import CONFIG, RunDirectory
from durotaxis.study.run import prepare, prepare_resume

FILES = (records.METRICS, records.EPISODES, records.ATTENTION, records.EVALUATIONS, records.EVENTS)
CURRICULUM = (
    "[{name: first, env: {max_steps: 6, max_nodes: 20}, max_episodes: 8}, "
    "{name: second, env: {max_steps: 9}, max_steps: 48, overlap_steps: 32}, {name: third}]"
)
PTMS = (
    "[{model_type: graph_cnn, tap: block1, seed: 1, name: one, unfreeze_at: {stage: second}}, "
    "{model_type: graph_cnn, tap: block1, seed: 2, name: two, freeze: false}, "
    "{model_type: resnet18_random, tap: layer1, seed: 3, name: late, enters_at: {episode: 10}, "
    "ramp_steps: 40, unfreeze_at: 128}]"
)
OVERRIDES = (
    "env.max_steps=12",
    "encoder={num_layers: 1, hidden_dim: 16, out_dim: 16, simplicial: {groups: 4}}",
    "actor_critic.use_wsa=true",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.hidden_dims=[16, 8]",
    "actor_critic.wsa_config.model_dropout=0.3",
    "actor_critic.wsa_config.attention_temperature={start: 2.0, end: 0.5, steps: 100}",
    "actor_critic.wsa_config.attention_entropy_coefficient="
    "{start: 0.1, changes: [{at: {stage: third}, value: 0.0, ramp_steps: 32}]}",
    f"actor_critic.wsa_config.ptms={PTMS}",
    "ppo={num_colonies: 4, rollout_steps: 4, num_epochs: 2, num_minibatches: 2, target_kl: null, "
    "learning_rate: {start: 1e-3, end: 1e-4, shape: cosine}, learning_rate_factors: {'ptm:late': 0.1}}",
    "ppo.clip_range={start: 0.2, changes: [{at: {episode: 16}, value: 0.1}]}",
    "training={total_steps: 192, evaluate_every: 48, evaluation_episodes: 2, checkpoint_every: 16, "
    f"curriculum: {CURRICULUM}}}",
    "monitor.tensorboard=false",
    "run.device=cpu",
)


def start(directory: Path) -> None:
    """Train from the beginning, or from the last checkpoint where there is a run already."""
    if (directory / CONFIG).exists():
        prepare_resume(directory).train()
    else:
        prepare("quick", [*OVERRIDES, f"run.directory={directory}"]).train()


def killed_child(directory: Path, at_event: int | None, after_s: float | None) -> bool:
    """Train in a child process that is killed; returns whether it had finished before.

    Args:
        at_event: kill at the n-th time that a file of the run directory is opened, renamed or removed.
        after_s: kill after so many seconds.
    """
    child = os.fork()
    if child == 0:
        _train_and_exit(directory, at_event)
    if after_s is not None:
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            return _is_done(directory)
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        return _is_done(directory)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"the training in {directory} failed by itself; its error is above")
    return _is_done(directory)


def _train_and_exit(directory: Path, at_event: int | None) -> None:
    if at_event is not None:
        left = [at_event]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("open", "os.rename", "os.remove") and str(directory) in str(arguments[0]):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
    code = 1
    try:
        start(directory)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def _is_done(directory: Path) -> bool:
    return (directory / records.DONE).exists()


def kill_until_done(directory: Path, kills: int, seed: int) -> int:
    """Kill and resume until so many kills are spent, then train to the end. Returns the kills that hit."""
    draw, hits = random.Random(seed), 0
    while hits < kills:
        at_file = draw.random() < 0.5
        at_event, after_s = (draw.randrange(40), None) if at_file else (None, draw.uniform(0.02, 1.5))
        if killed_child(directory, at_event, after_s):
            return hits
        hits += 1
    while not _is_done(directory):
        killed_child(directory, None, None)
    return hits


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two finished runs, but for wall-clock columns and the directory's name."""
    one, two = RunDirectory.open(first), RunDirectory.open(second)
    found = []
    for file in FILES:
        rows = [[records.without_wall_clock(file, row) for row in run.read(file)] for run in (one, two)]
        if rows[0] != rows[1]:
            found.append(file)
    for name in ("last_checkpoint", "best_checkpoint"):
        states = [load(getattr(run, name)) for run in (one, two)]
        if not all(map(torch.equal, states[0].model.values(), states[1].model.values())):
            found.append(f"weights of {name}")
        moments = [state.optimizer["state"] for state in states]
        for key, values in moments[0].items():
            if not all(torch.equal(values[name], moments[1][key][name]) for name in values):
                found.append(f"moments of {name}")
                break
    return found


def compare(folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """One training left alone, one killed: (kills that hit, what differs)."""
    killed_child(folder / "whole", None, None)
    hits = kill_until_done(folder / "cut", kills, seed)
    left = [str(path) for path in (folder / "cut").rglob("*.tmp")]
    return hits, differences(folder / "whole", folder / "cut") + [f"left behind: {path}" for path in left]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often to kill (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent, found, rounds = 0, [], 0
    while spent < options.kills and not found:
        folder = Path(tempfile.mkdtemp(prefix="kills-"))
        try:
            hits, found = compare(folder, options.kills - spent, options.seed + rounds)
        finally:
            shutil.rmtree(folder)
        spent, rounds = spent + hits, rounds + 1
        sys.stdout.write(f"{spent} kills, {rounds} trainings: {found or 'equal to the bit'}\n")
        sys.stdout.flush()
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
