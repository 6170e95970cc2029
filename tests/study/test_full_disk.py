"""A disk that fills up while training: one clear line, and the last good checkpoint is intact."""

import contextlib
import os
import resource
import shutil
import subprocess

import pytest
from test_resume import TINY

from durotaxis import records
from durotaxis.cli import run as command
from durotaxis.ppo import load
from durotaxis.records import RecordError, RunDirectory
from durotaxis.study.run import Job, prepare, prepare_resume


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB: room for the run, until a test fills it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_file_system(small_disk, capsys):
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    job = prepare("quick", [*TINY, f"run.directory={run}"])

    def fill(status):
        if status.iteration == 2:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

    with pytest.raises(RecordError, match=r"cannot write .*No space left.*the disk is full.* is intact"):
        job.train(fill)
    assert load(run / "checkpoints" / "last.pt").counters["iteration"] >= 1
    ballast.unlink(missing_ok=True)
    prepare_resume(run).train()
    rows = RunDirectory.open(run).read(records.METRICS)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert not list(run.rglob("*.tmp"))


@pytest.fixture
def file_limit():
    """Lets a test limit the size of files, as a quota does; lifted afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_quota_within_a_checkpoint_leaves_the_one_before(tmp_path, file_limit):
    job = prepare("quick", [*TINY, f"run.directory={tmp_path / 'run'}"])
    with pytest.raises(RecordError, match=r"cannot write .*last\.pt.* the disk is full .or a quota"):
        job.train(lambda status: file_limit(50_000) if status.iteration == 2 else None)
    file_limit(resource.RLIM_INFINITY)
    assert load(job.run.last_checkpoint).counters["iteration"] == 1
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert not job.run.is_done
    prepare_resume(tmp_path / "run").train()
    assert job.run.is_done


def test_a_quota_within_a_record(tmp_path, file_limit):
    """The line that was cut is dropped when the run goes on."""
    job = prepare("quick", [*TINY, f"run.directory={tmp_path / 'run'}"])
    metrics = tmp_path / "run" / records.METRICS

    def limit(status):
        if status.iteration == 2:
            file_limit(metrics.stat().st_size + 50)

    with pytest.raises(RecordError, match=r"cannot write .*\.jsonl.* the disk is full|last\.pt"):
        job.train(limit)
    file_limit(resource.RLIM_INFINITY)
    prepare_resume(tmp_path / "run").train()
    assert [row["iteration"] for row in job.run.read(records.METRICS)] == [1, 2, 3, 4]


def test_the_command_says_how_to_go_on(tmp_path, file_limit, capsys, monkeypatch):
    original = Job.train

    def train(self, progress=None):
        file_limit(50_000)
        return original(self, progress)

    monkeypatch.setattr(Job, "train", train)
    code = command(["train", *TINY, f"run.directory={tmp_path / 'run'}"])
    file_limit(resource.RLIM_INFINITY)
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"durotaxis train --resume {tmp_path / 'run'}" in error
