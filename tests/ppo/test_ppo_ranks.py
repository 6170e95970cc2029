"""Training in several processes: the same episodes, gradients and records as in one, and clear ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks_worker import ITERATIONS, PARTS, WHOLE, gradients, run_toy
from toy import ToyCache, ToyPolicy, ToyWorld

from durotaxis import records
from durotaxis.core.errors import UserError
from durotaxis.ppo import PPOConfig, TrainState, collect, load, make_optimizer, start, train
from durotaxis.ppo.checkpoint import restore, save, snapshot
from durotaxis.ppo.ranks import Ranks, colonies_per_rank, in_order, launched
from durotaxis.ppo.rollout import keep
from durotaxis.records import RunDirectory

WORKER = Path(__file__).with_name("ranks_worker.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FILES = (records.METRICS, records.EPISODES, records.ATTENTION, records.EVALUATIONS, records.EVENTS)


def environment(**changes: str) -> dict[str, str]:
    source = str(Path(__file__).parents[2] / "src")
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **changes}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_processes(job: str, folder: Path) -> list[tuple[int, str]]:
    """Exit code and errors of both processes of a job, started without torchrun, which takes its time."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), job, str(folder)],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return [
        (process.wait(), errors) for process in started for errors in [process.communicate(timeout=120)[1]]
    ]


def torchrun(job: str, folder: Path) -> tuple[int, str]:
    """Exit code and errors of a job of two processes."""
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(WORKER), job, str(folder)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """What both ranks found in a job in which all goes well."""
    for code, errors in two_processes("several", folder):
        assert code == 0, errors
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def killed(folder, found):
    """A job whose rank 1 dies in the third iteration: (exit code, errors, seconds)."""
    began = time.monotonic()
    code, errors = torchrun("die-1", folder)
    return code, errors, time.monotonic() - began


@pytest.fixture(scope="module")
def resumed(folder, killed):
    """The same job taken up again, and then another one whose rank 1 fails: [(exit code, errors)]."""
    return two_processes("resume-then-fail", folder)


def timeless(run, file):
    return [records.without_wall_clock(file, row) for row in run.read(file)]


def test_alone_is_the_identity():
    alone, tensor, value = Ranks(), torch.rand(3, 2), object()
    assert alone.leads
    assert alone.cat(tensor, 1) is tensor
    assert alone.own(tensor, 1) is tensor
    assert alone.gather(value) == alone.gather_first(value) == [value]
    assert alone.first(lambda: value) is value
    numbers = {"clip_fraction": 1 / 3, "ratio_error": 0.1, "kl": None}
    assert alone.of_minibatch(numbers, 3) == alone.mean_numbers(numbers) == numbers
    policy = ToyPolicy()
    policy.head(torch.ones(32)).sum().backward()
    before = [parameter.grad for parameter in policy.parameters()]
    alone.average_gradients(make_optimizer(policy, WHOLE))
    assert all(p.grad is grad for p, grad in zip(policy.parameters(), before, strict=True))
    alone.share_weights(policy)
    alone.require_same(anything=1)
    handler = signal.getsignal(signal.SIGTERM)
    alone.take_leave(KeyboardInterrupt())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert alone.explain() is None
    with launched() as ranks:
        assert ranks.alone


def test_a_share_of_the_slots_plays_what_the_whole_does():
    policy = ToyPolicy()
    whole, half = ToyWorld(4, limit=6), ToyWorld(2, limit=6)
    rollout, slots, rows = collect(whole, policy, start(whole, policy, 3), 20, 3)
    part, part_slots, part_rows = collect(half, policy, start(half, policy, 3, first_slot=2), 20, 3)
    assert torch.equal(part.sample.kind, rollout.sample.kind[:, 2:])
    torch.testing.assert_close(part.log_prob, rollout.log_prob[:, 2:])
    assert torch.equal(part_slots.seed, slots.seed[2:])
    assert len(part_rows) > 4
    ids = ("slot", "slot_episode", "seed", "length", "vector_step")
    expected = [[row[key] for key in ids] for row in rows if row["slot"] >= 2]
    assert [[row[key] for key in ids] for row in part_rows] == expected


def test_what_a_policy_draws_for_itself_is_keyed_by_the_slot_of_the_run():
    class Keys(ToyPolicy):
        def precompute(self, observation, keys=None):
            return ToyCache(keys)

    whole, half = ToyWorld(4), ToyWorld(2)
    seeds = torch.arange(4)
    observations = whole.reset(seeds), half.reset(seeds[2:])
    expected = keep(Keys(), observations[0], whole, 7, 3)
    assert len(expected.features.unique()) == 4
    part = keep(Keys(), observations[1], half, 7, 3, first_slot=2)
    assert torch.equal(part.features, expected.features[2:])


def test_finished_episodes_come_in_the_order_of_one_process():
    world, policy = ToyWorld(4, limit=6), ToyPolicy()
    _, _, rows = collect(world, policy, start(world, policy, 3), 20, 3)
    parts = [[row for row in rows if row["slot"] % 2 == part] for part in range(2)]
    assert parts[0] + parts[1] != rows
    assert in_order(parts) == in_order([rows])
    assert [row["seed"] for row in in_order(parts)] == [row["seed"] for row in rows]
    assert "vector_step" not in in_order(parts)[0]


@pytest.mark.parametrize(
    ("ppo", "message"),
    [
        (
            {"num_colonies": 6},
            r"ppo.num_colonies \(6\) cannot be shared equally by 4 processes; choose a multi",
        ),
        (
            {"num_colonies": 4, "rollout_steps": 3, "num_minibatches": 2},
            r"ppo.num_minibatches \(2\) must divide the share of each of 4 processes in a rollout: 1 colonies",
        ),
    ],
)
def test_unequal_shares_are_refused(ppo, message, tmp_path):
    config = PPOConfig(**{"num_minibatches": 1, **ppo})
    with pytest.raises(UserError, match=message):
        colonies_per_rank(config, Ranks(size=4))
    run = RunDirectory.create(tmp_path, "config\n", {})
    with pytest.raises(UserError, match=message):
        train(ToyWorld(1), ToyPolicy(), run=run, seed=0, ppo=config, ranks=Ranks(size=4))
    assert not run.last_checkpoint.exists()


def test_the_world_holds_one_share(tmp_path):
    run = RunDirectory.create(tmp_path, "config\n", {})
    with pytest.raises(
        UserError, match=r"has 4 colonies, ppo.num_colonies is 4 for 2 processes, so each needs 2"
    ):
        train(ToyWorld(4), ToyPolicy(), run=run, seed=0, ppo=PARTS, ranks=Ranks(size=2))


@pytest.mark.parametrize(("saved", "now"), [(1, 2), (2, 1)])
def test_as_many_processes_must_resume(saved, now, tmp_path):
    policy, world, path = ToyPolicy(), ToyWorld(4), tmp_path / "last.pt"
    state = TrainState(start(world, policy, 1))
    kept = snapshot(policy, make_optimizer(policy, PARTS), world, state, "", "")
    save(type(kept)(**{**vars(kept), "shares": kept.shares * saved}), path)
    launcher = "torchrun --nproc-per-node 2 -m durotaxis" if saved == 2 else "durotaxis"
    number = ("", "1 process", "2 processes")
    said = f"in {number[saved]}, this one is in {number[now]}; resume it with as many: {launcher} train"
    with pytest.raises(UserError, match=said):
        restore(load(path), path, policy, PARTS, world, 1, Ranks(size=now))


def test_exchanges(found):
    first, second = (each["exchanges"] for each in found)
    joined = torch.tensor([[0, 1, 10, 11], [2, 3, 12, 13]])
    for each in (first, second):
        assert torch.equal(each["cat"], joined)
        assert torch.equal(each["own"], each["mine"])
        assert each["gather"] == [{"rank": 0}, {"rank": 1}]
        assert each["first"] == "said by 0"
        assert each["weights"]["weight"].tolist() == [5.0, 5.0]
        assert each["weights"]["running_mean"].tolist() == [7.0, 7.0]
        assert each["mean_numbers"] == {"a": 0.5, "b": None, "n": 3}
        # 0 of 10 and 15 of 30 ratios are clipped
        assert each["of_minibatch"] == pytest.approx(
            {"kl": 1.5, "clip_fraction": 15 / 40, "ratio_error": 0.1}
        )
        assert each["differing"] == "the ranks went different ways: episodes is [0, 1], from rank 0 on"
        both, one, none = each["uneven"]
        assert both.tolist() == [1.5, 1.5]
        assert one.tolist() == [4.0, 4.0]
        assert none is None
    assert (first["gather_first"], second["gather_first"]) == ([0, 1], [])


def require_same_gradients(expected, each):
    (gradient, statistics), (other, other_statistics) = expected, each
    assert other_statistics == statistics
    assert other.keys() == gradient.keys()
    for name, value in gradient.items():
        assert value.dtype == torch.float64
        error, size = float((other[name] - value).norm()), float(value.norm())
        assert error <= 1e-6 * size + 1e-12, (name, error, size)  # of some parts the gradient is 0


def test_gradients_of_two_processes_are_those_of_one(found):
    expected = gradients(ToyWorld(4), ToyPolicy(), WHOLE)
    assert sum(value.abs().sum() for value in expected[0].values()) > 0.1
    for each in found:
        require_same_gradients(expected, each["gradients"])


def test_training_in_two_processes_is_that_in_one(found, folder, tmp_path):
    policy, _ = run_toy(tmp_path / "one", WHOLE)
    one, two = RunDirectory.open(tmp_path / "one"), RunDirectory.open(folder / "whole")
    assert two.is_done
    metrics, expected = (timeless(run, records.METRICS) for run in (two, one))
    assert len(metrics) == len(expected) == ITERATIONS
    for row, wanted in zip(metrics, expected, strict=True):
        assert row == pytest.approx(wanted, rel=2e-3, abs=2e-5)
    for key, value in metrics[0].items():
        assert value == pytest.approx(expected[0][key], rel=1e-4, abs=1e-6), key
    first = [row for row in two.read(records.EPISODES) if row["iteration"] == 1]
    wanted = [row for row in one.read(records.EPISODES) if row["iteration"] == 1]
    assert len(first) > 8
    for row, other in zip(first, wanted, strict=True):
        assert row == pytest.approx(other)
    assert [row.keys() for row in two.read(records.EVALUATIONS)] == [
        row.keys() for row in one.read(records.EVALUATIONS)
    ]
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(found[0]["whole"][name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(found[0]["whole"][name], found[1]["whole"][name])


def test_a_dead_rank_ends_the_job_with_a_message_and_a_checkpoint(killed, folder):
    code, errors, seconds = killed
    assert code != 0
    assert seconds < 60
    told = [line for line in errors.splitlines() if line.startswith("told: ")]
    run = RunDirectory.open(folder / "die")
    step = 2 * PARTS.steps_per_rollout
    assert told == [
        "told: rank 1 of 2 stopped answering (killed, out of memory, or cut off); everything up to step "
        f"{step} is saved in {run.last_checkpoint}; go on with 2 processes: torchrun --nproc-per-node 2 -m "
        f"durotaxis train --resume {run.path}"
    ]
    checkpoint = load(run.last_checkpoint)
    assert (checkpoint.counters["iteration"], len(checkpoint.shares)) == (2, 2)
    assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(("tmp", "."))] == []
    assert not run.is_done


def test_resuming_in_two_processes_is_exact(found, resumed, folder):
    whole, again = RunDirectory.open(folder / "parts"), RunDirectory.open(folder / "die")
    for file in FILES:
        assert timeless(again, file) == timeless(whole, file), file
    for rank in range(2):
        weights = torch.load(folder / f"resumed-{rank}.pt")["parts"]
        assert all(torch.equal(value, found[rank]["parts"][name]) for name, value in weights.items())


def test_an_error_of_another_rank_is_told_once_by_the_first(resumed, folder):
    (first_code, told), (second_code, silent) = resumed
    assert (first_code, second_code) == (2, 2)
    assert "told: rank 1 stopped: reward holds nan at index [0]" in told
    assert f"everything up to step {2 * PARTS.steps_per_rollout} is saved" in told
    assert silent == ""
    assert load(folder / "spoil" / "checkpoints" / "last.pt").counters["iteration"] == 2


@pytest.mark.slow
def test_the_other_rank_speaks_when_the_first_is_dead(tmp_path):
    code, errors = torchrun("die-0", tmp_path)
    assert code != 0
    told = [line for line in errors.splitlines() if line.startswith("told: ")]
    path = tmp_path / "die" / "checkpoints" / "last.pt"
    assert len(told) == 1
    assert (
        f"rank 0 of 2 stopped answering (killed, out of memory, or cut off); the last state is {path}"
        in told[0]
    )
    assert load(path).counters["iteration"] == 2  # found better, so saved


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_saves_the_last_whole_iteration(tmp_path, number):
    command = [sys.executable, *TORCHRUN, str(WORKER), "wait", str(tmp_path)]
    job = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "ready").exists() and job.poll() is None:
        time.sleep(0.1)
    job.send_signal(number)
    _, errors = job.communicate(timeout=60)
    assert errors.count(f"interrupted at {2 * PARTS.steps_per_rollout}\n") == 1
    assert "told" not in errors
    checkpoint = load(tmp_path / "wait" / "checkpoints" / "last.pt")
    assert (checkpoint.counters["iteration"], len(checkpoint.shares)) == (2, 2)


@pytest.mark.slow
def test_gradients_of_the_real_policy(tmp_path):
    from ranks_worker import real_gradients

    one = tmp_path / "one"
    one.mkdir()
    real_gradients(Ranks(), one)
    for code, errors in two_processes("real", tmp_path):
        assert code == 0, errors
    expected = torch.load(one / "real-0.pt")
    for rank in range(2):
        require_same_gradients(expected, torch.load(tmp_path / f"real-{rank}.pt"))
