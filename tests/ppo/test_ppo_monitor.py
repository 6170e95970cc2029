"""What a training tells while it runs: attention every so many episodes, events, and warnings once."""

import pytest

from durotaxis import records
from durotaxis.ppo import MonitorConfig
from durotaxis.ppo.monitor import Monitor
from durotaxis.records import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "config\n", {})


def metrics(iteration, episodes=0, **numbers):
    row = {"iteration": iteration, "step": 10 * iteration, "episodes": episodes, "steps_per_s": 1.0}
    return row | numbers


def episode(number):
    return {"episode": number, "return": 0.0, "success": False}


def attention(*weights, names=("one", "two")):
    row = {"phase": "all", "colonies": 4, "value/attention": list(weights), "value/effective_models": 2.0}
    return [{**row, "value/ptm_names": list(names)}]


def monitor(run, told, **config):
    config = MonitorConfig(**{"tensorboard": False, **config})
    return Monitor(run, config, 100, 10, progress=lambda status: told.append(status.lines))


def test_attention_is_told_every_so_many_episodes(run):
    told = []
    with monitor(run, told, console_every=10) as sink:
        sink.iteration(metrics(1, 4), [episode(i) for i in range(4)], attention(0.25, 0.75))
        sink.iteration(metrics(2, 12), [episode(i) for i in range(8)], attention(0.331, 0.669))
        sink.iteration(metrics(3, 15), [episode(i) for i in range(3)], attention(0.5, 0.5))
        sink.iteration(metrics(4, 40), [episode(i) for i in range(25)], attention(0.5, 0.5))
        sink.iteration(metrics(5, 60), [episode(i) for i in range(20)], [])
    shown = ("episode 12: attention", "  PTM 0 one: 0.331", "  PTM 1 two: 0.669")
    again = ("episode 40: attention", "  PTM 0 one: 0.500", "  PTM 1 two: 0.500")
    assert told == [(), shown, (), again, ()]


def test_attention_is_never_told_with_zero(run):
    told = []
    with monitor(run, told, console_every=0) as sink:
        sink.iteration(metrics(1, 40), [episode(i) for i in range(40)], attention(0.25, 0.75))
    assert told == [()]


def one_sided(iteration):
    return metrics(iteration, **{"gradient_norm/critic": 10.0, "gradient_norm/actor": 0.1})


def test_a_warning_is_told_once_and_recorded_also_over_a_resumption(run):
    told = []
    with monitor(run, told) as sink:
        for iteration in range(1, 26):
            sink.iteration(one_sided(iteration), [], [])
    lines = [line for group in told for line in group]
    (line,) = lines
    assert line.startswith("step 200: ! gradient_dominated critic: the gradient is all but that of critic")
    assert "`ppo.value_coefficient`" in line
    (row,) = run.read(records.EVENTS)
    assert (row["event"], row["name"], row["iteration"]) == ("warning", "gradient_dominated critic", 20)
    told.clear()
    with monitor(run, told) as sink:
        for iteration in range(26, 40):
            sink.iteration(one_sided(iteration), [], [])
    assert not any(told)
    assert len(run.read(records.EVENTS)) == 1


def test_events_are_told_with_the_next_status_and_not_again(run):
    told = []
    with monitor(run, told) as sink:
        sink.event(1, 0, 0, "stage", "navigate", "begins, the first stage")
        sink.iteration(metrics(1), [], [])
        sink.iteration(metrics(2), [], [])
    assert told == [("step 0: navigate: begins, the first stage",), ()]


def test_warnings_about_attention_reach_the_events(run):
    """Rows as a training hands them over: without the iteration, which the monitor adds."""
    told = []
    with monitor(run, told, console_every=0) as sink:
        for iteration in range(1, 61):
            sink.iteration(metrics(iteration), [], attention(0.5, 0.5))
    (row,) = run.read(records.EVENTS)
    assert (row["event"], row["name"], row["iteration"]) == ("warning", "attention_uniform", 50)
    assert "since iteration 1 (50 rows)" in row["message"]


def test_attention_is_told_although_it_is_not_watched_in_every_iteration(run):
    told = []
    with monitor(run, told, console_every=10) as sink:
        for iteration in range(1, 9):
            rows = attention(0.5, 0.5) if iteration % 4 == 0 else []
            sink.iteration(metrics(iteration, 11 * iteration), [episode(i) for i in range(11)], rows)
    assert [bool(lines) for lines in told] == [False, False, False, True] * 2


def test_a_full_disk_met_by_tensorboard_is_a_record_error(run, monkeypatch):
    with monitor(run, [], tensorboard=True) as sink:

        def fail(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sink._board, "add_scalar", fail)
        with pytest.raises(records.RecordError, match=r"tensorboard: No space left.* is intact"):
            sink.iteration(metrics(1), [], [])
