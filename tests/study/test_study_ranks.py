"""`torchrun -m durotaxis train`: the run of one process, and errors that are told once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from durotaxis import records
from durotaxis.ppo import load
from durotaxis.records import RunDirectory

SMALL = [
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=32",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.ptms=[{model_type: resnet18_random, tap: layer1}, "
    "{model_type: graph_cnn, freeze: false, tap: block1}]",
    "ppo.num_colonies=4",
    "ppo.rollout_steps=12",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=1",
    "training.total_steps=48",
    "training.evaluate_every=0",
    "env.max_steps=5",
    "monitor.tensorboard=false",
]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def train(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).parents[2] / "src")
    return subprocess.run(
        [sys.executable, *launcher, "-m", "durotaxis", "train", *arguments],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tmp_path):
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        done = train(tmp_path, *SMALL, f"run.directory={name}", launcher=launcher)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("training two") == 1
    assert "on cpu in 2 processes of 2 colonies" in done.stdout
    one, two = (RunDirectory.open(tmp_path / name) for name in ("one", "two"))
    assert two.is_done
    episodes, expected = (run.read(records.EPISODES) for run in (two, one))
    assert len(episodes) >= 8
    for row, wanted in zip(episodes, expected, strict=True):
        assert row.keys() == wanted.keys()
        for key, value in row.items():
            assert value == (
                pytest.approx(wanted[key], 1e-4, 1e-5) if isinstance(value, float) else wanted[key]
            )
    (metrics,), (wanted,) = (run.read(records.METRICS) for run in (two, one))
    for column in records.SCHEMA[records.METRICS]:
        for key in filter(column.matches, () if column.wall_clock else wanted):
            assert metrics[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-4), key
    files = [load(run.last_checkpoint) for run in (two, one)]
    assert files[0].frozen_hash == files[1].frozen_hash  # calibrated once, for all


@pytest.mark.slow
def test_a_wrong_key_is_told_once_and_leaves_nothing(tmp_path):
    done = train(tmp_path, *SMALL, "ppo.num_colonis=4", launcher=TORCHRUN)
    lines = done.stderr.splitlines()
    assert [line for line in lines if "num_colonis" in line] == [
        "command line: ppo.num_colonis: unknown key (did you mean 'num_colonies'?)  [got 4]"
    ]
    assert "exitcode  : 2" in done.stderr
    assert "durotaxis/cli/" not in done.stderr  # the traceback is torchrun's own
    assert list(tmp_path.iterdir()) == []
