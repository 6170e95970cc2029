"""Studies that are run: what is made, in which order, how often, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from study_cases import FakeLauncher, fake_record, write_study

from durotaxis.analysis.study import load_study as load_for_report
from durotaxis.cli import run as cli
from durotaxis.cli.study import _names
from durotaxis.core.errors import UserError
from durotaxis.ppo import load
from durotaxis.pretrain.distill import DivergedError
from durotaxis.records import (
    FAILED,
    FINISHED,
    METRICS,
    NotFiniteError,
    RecordError,
    RunDirectory,
    Score,
    read_plan,
    read_record,
    read_records,
    record_path,
    write_record,
)
from durotaxis.study.config import shipped_studies
from durotaxis.study.drive import run_study
from durotaxis.study.execute import DIGEST, Assignment, execute, what_is_judged
from durotaxis.study.launchers import Outcome, attempt, make_launcher
from durotaxis.study.plan import load_study
from durotaxis.study.run import begin_with_weights, build_policy
from durotaxis.study.study import (
    Selection,
    alone,
    borrow_records,
    estimate_seconds,
    forget_failures,
    has_cost,
    open_study,
    require_arms,
    run_directory,
    write_cost,
)

pytestmark = pytest.mark.unchecked

REPORTED = {"seeds": [100, 101]}


@pytest.fixture(autouse=True, scope="module")
def short_references():
    """Fewer episodes of the policies that normalise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("durotaxis.study.study.REFERENCE_EPISODES", 20)
        yield


def opened(tmp_path, changes=None, place="study", selection=Selection(), borrow=None):  # noqa: B008 - frozen
    study = load_study(write_study(tmp_path, changes))
    state = open_study(study, tmp_path / place, selection)
    if borrow is not None:
        state, _ = borrow_records(state, borrow)
    return state


def names(state):
    return [run.name for run in state.left]


def test_every_run_is_made_once_in_the_order_of_the_plan(tmp_path):
    state, launcher = opened(tmp_path), FakeLauncher()
    order = names(state)
    state = run_study(state, launcher)
    assert [name for name, _ in launcher.started] == order
    assert {attempts for _, attempts in launcher.started} == {1}
    assert not state.left
    assert launcher.stopped == 1
    for run in state.study.runs:
        text = (state.directory / "configs" / f"{run.digest}.yaml").read_text()
        assert yaml.safe_load(text)["run"]["seed"] == run.key[2]
    again = FakeLauncher()
    run_study(opened(tmp_path), again)
    assert again.started == []


def test_the_plan_is_written_for_readers_of_records_alone(tmp_path):
    state = opened(tmp_path)
    plan = read_plan(state.directory)
    assert [(run.key, run.config) for run in plan.runs] == [(run.key, run.digest) for run in state.study.runs]
    assert (plan.baseline, plan.purpose, plan.total_steps, plan.seeds) == ("baseline", "tuning", 128, [0, 1])
    assert {scenario.name: scenario.is_control for scenario in plan.scenarios} == {
        "linear": True,
        "moat": False,
    }
    assert plan.arms[1].changes == {"actor_critic.use_wsa": True}
    # The world was changed (max_steps), so the two policies that normalise were played in it.
    assert plan.scenarios[0].references["delete-left"]["episodes"] == 20


def test_a_crash_is_started_again_and_given_up_after_the_stated_number_of_times(tmp_path):
    def act(assignment, attempts):
        if assignment.name == "wsa/linear/0" and attempts == 1:
            return Outcome(assignment, crash="killed by SIGKILL")
        if assignment.name == "wsa/moat/0":
            return Outcome(assignment, crash="loss is not finite")
        return Outcome(assignment, fake_record(assignment, attempts))

    launcher, lines = FakeLauncher(act), []
    state = opened(tmp_path, {"attempts": 3})
    state = run_study(state, launcher, lambda state, running, line: lines.append(line))
    assert [n for name, n in launcher.started if name == "wsa/linear/0"] == [1, 2]
    assert [n for name, n in launcher.started if name == "wsa/moat/0"] == [1, 2, 3]
    record = read_record(record_path(state.directory, "wsa", "moat", 0))
    assert (record.status, record.attempts, record.error) == (FAILED, 3, "loss is not finite")
    assert read_record(record_path(state.directory, "wsa", "linear", 0)).attempts == 2
    assert [each.key for each in state.failed] == [("wsa", "moat", 0)]
    assert "wsa/moat/0: failed after 3 attempts, loss is not finite" in lines
    # Counted, not dropped: it is not made again unless asked for.
    assert not opened(tmp_path, {"attempts": 3}).left
    elsewhere = opened(tmp_path, {"attempts": 3}, selection=Selection(arms=("baseline",)))
    assert forget_failures(elsewhere).failed
    assert names(forget_failures(state)) == ["wsa/moat/0"]
    assert '"retried"' in (state.directory / "study.jsonl").read_text()
    assert (state.directory / "study.jsonl").read_text().count("loss is not finite") == 4
    # What failed before is not forgotten: it has as many attempts again, and its record counts all of them.
    again = FakeLauncher(act)
    state = run_study(opened(tmp_path, {"attempts": 3}), again)
    assert again.started == [("wsa/moat/0", n) for n in (4, 5, 6)]
    assert read_record(record_path(state.directory, "wsa", "moat", 0)).attempts == 6


def test_crashes_of_another_design_do_not_count(tmp_path):
    broken = FakeLauncher(lambda assignment, attempts: Outcome(assignment, crash="no"))
    run_study(opened(tmp_path, selection=Selection(arms=("wsa",))), broken)
    changed = {"arms": {"wsa": {"overrides": {"ppo": {"learning_rate": 1e-4}}}}}
    again = FakeLauncher()
    run_study(opened(tmp_path, changed, selection=Selection(arms=("wsa",))), again)
    assert {attempts for _, attempts in again.started} == {1}


def test_crashes_are_counted_over_kills_of_the_study(tmp_path):
    def stop_after_first(assignment, attempts):
        if attempts == 1:
            return Outcome(assignment, crash="killed by SIGKILL")
        raise KeyboardInterrupt

    launcher = FakeLauncher(stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        run_study(opened(tmp_path), launcher)
    assert launcher.stopped == 1
    second = FakeLauncher(lambda assignment, attempts: Outcome(assignment, crash="again"))
    run_study(opened(tmp_path), second)
    assert second.started[0] == ("baseline/linear/0", 2)
    assert second.started[1][0] == "wsa/linear/0"


def test_a_refused_run_ends_the_study_with_its_reason_after_the_others(tmp_path):
    def act(assignment, attempts):
        if assignment.arm == "wsa" and assignment.seed == 0:
            return Outcome(assignment, refusal="no such weights")
        return Outcome(assignment, fake_record(assignment))

    launcher, state = FakeLauncher(act), opened(tmp_path)
    with pytest.raises(UserError, match="wsa/linear/0: no such weights; wsa/moat/0: no such weights"):
        run_study(state, launcher)
    assert len(launcher.started) == 8
    assert len(list(read_records(state.directory))) == 6


def test_a_selection_is_made_and_the_rest_is_left(tmp_path):
    part = Selection(arms=("wsa",), seeds=(1,))
    assert names(opened(tmp_path, selection=part)) == ["wsa/linear/1", "wsa/moat/1"]
    with pytest.raises(UserError, match="the study has no seed 7; it has 0, 1"):
        opened(tmp_path, selection=Selection(seeds=(7,)))
    assert len(read_plan(tmp_path / "study").runs) == 8


TUNED = {
    "arms": {
        "tuned": {
            "start_from": {"arm": "wsa"},
            "overrides": {"actor_critic": {"use_wsa": True, "wsa_config": {"attention_temperature": 0.5}}},
        }
    },
    "seeds": [0],
    "scenarios": ["linear"],
    "control": [],
}


def test_a_run_waits_for_the_one_it_starts_from(tmp_path):
    launcher = FakeLauncher(room=3)
    state = opened(tmp_path, TUNED, selection=Selection(arms=("tuned",)))
    assert names(state) == ["wsa/linear/0", "tuned/linear/0"]
    run_study(state, launcher)
    assert [name for name, _ in launcher.started] == ["wsa/linear/0", "tuned/linear/0"]


def test_a_parent_of_which_only_the_record_is_here_is_made_again_for_its_weights(tmp_path):
    state = run_study(opened(tmp_path, TUNED), FakeLauncher())
    record_path(state.directory, "tuned", "linear", 0).unlink()
    for arm in ("wsa", "tuned"):
        place = run_directory(state.directory, (arm, "linear", 0))
        place.rename(place.with_name("elsewhere"))
    kept = record_path(state.directory, "wsa", "linear", 0).read_text()
    state = opened(tmp_path, TUNED)
    assert names(state) == ["wsa/linear/0", "tuned/linear/0"]
    run_study(state, FakeLauncher())
    assert record_path(state.directory, "wsa", "linear", 0).read_text() == kept


def test_a_record_stands_when_the_run_breaks_down_while_it_is_made_again(tmp_path):
    state = run_study(opened(tmp_path, TUNED), FakeLauncher())
    record_path(state.directory, "tuned", "linear", 0).unlink()
    shutil.rmtree(run_directory(state.directory, ("wsa", "linear", 0)))
    kept = record_path(state.directory, "wsa", "linear", 0).read_text()
    broken = FakeLauncher(lambda assignment, attempts: Outcome(assignment, crash="out of memory"))
    with pytest.raises(UserError, match="wsa/linear/0: out of memory; its record of before stands"):
        run_study(opened(tmp_path, TUNED), broken)
    assert record_path(state.directory, "wsa", "linear", 0).read_text() == kept
    assert not record_path(state.directory, "tuned", "linear", 0).exists()


def test_a_run_that_lacks_a_score_keeps_its_record_when_it_breaks_down(tmp_path):
    state = run_study(opened(tmp_path), FakeLauncher())
    more = {"evaluation": {"conditions": {"lone": {"num_initial_nodes": 1}}}}
    assert len(names(opened(tmp_path, more))) == 8
    broken = FakeLauncher(lambda assignment, attempts: Outcome(assignment, crash="out of memory"))
    with pytest.raises(UserError, match="its record of before stands"):
        run_study(opened(tmp_path, more), broken)
    assert {record.status for record in read_records(state.directory)} == {FINISHED}


def test_only_scores_that_a_record_lacks_are_made(tmp_path):
    state = run_study(opened(tmp_path), FakeLauncher())
    more = {"evaluation": {"conditions": {"lone": {"num_initial_nodes": 1}}}}
    before = {record.key: record for record in read_records(state.directory)}

    def act(assignment, attempts):
        known = {what_is_judged(score) for score in assignment.known}
        lacking = [probe for probe in assignment.probes if what_is_judged(probe) not in known]
        assert [probe["condition"] for probe in lacking] == ["lone"]
        assert [Score(**score) for score in assignment.known] == list(before[assignment.key].scores)
        return Outcome(assignment, fake_record(assignment, attempts))

    run_study(opened(tmp_path, more), FakeLauncher(act))
    changed = {"overrides": {"ppo": {"learning_rate": 1e-4}}}
    launcher = FakeLauncher(lambda assignment, attempts: Outcome(assignment, refusal=str(assignment.known)))
    with pytest.raises(UserError, match=r"baseline/linear/0: \(\);"):
        run_study(opened(tmp_path, changed), launcher)


def test_a_run_does_not_start_from_weights_of_another_design(tmp_path):
    run_study(opened(tmp_path, TUNED), FakeLauncher())
    digests = {run.key[0]: run.digest for run in opened(tmp_path, TUNED).study.runs}
    changed = {**TUNED, "overrides": {"ppo": {"learning_rate": 1e-4}}}
    state = opened(tmp_path, changed)

    def act(assignment, attempts):
        if assignment.arm == "tuned":
            parent = Path(assignment.parent, DIGEST).read_text()
            assert parent == assignment.parent_digest != digests["wsa"]
            assert read_record(record_path(state.directory, "wsa", "linear", 0)).config == parent
        return Outcome(assignment, fake_record(assignment))

    run_study(state, FakeLauncher(act, room=3))
    assert read_record(record_path(state.directory, "tuned", "linear", 0)).config != digests["tuned"]


def test_a_fault_that_all_runs_share_stops_the_study_and_fails_none(tmp_path):
    def act(assignment, attempts):
        return Outcome(assignment, crash="no module named durotaxis", has_progressed=False)

    broken = FakeLauncher(act, room=2)
    with pytest.raises(UserError, match=r"4 runs in a row broke down before any iteration.*no module named"):
        run_study(opened(tmp_path), broken)
    assert len({name for name, _ in broken.started}) == len(broken.started) == 4
    state = opened(tmp_path)
    assert not state.records
    # Those crashes do not count: each may break down as often as the study allows.
    calls = []

    def twice(assignment, attempts):
        calls.append(assignment.name)
        if calls.count(assignment.name) < 2:
            return Outcome(assignment, crash="killed by SIGKILL")
        return Outcome(assignment, fake_record(assignment, attempts))

    assert not run_study(state, FakeLauncher(twice)).failed


def test_a_fault_of_one_arm_does_not_stop_the_others(tmp_path):
    def act(assignment, attempts):
        if assignment.arm == "wsa":
            return Outcome(assignment, crash="no such layer", has_progressed=False)
        return Outcome(assignment, fake_record(assignment))

    state = run_study(opened(tmp_path), FakeLauncher(act))
    assert {record.arm for record in state.failed} == {"wsa"}
    assert len(state.failed) == len(state.records) - len(state.failed) == 4


def test_a_parent_that_was_refused_takes_its_children_along(tmp_path):
    def act(assignment, attempts):
        if assignment.arm == "wsa":
            return Outcome(assignment, refusal="no such weights")
        return Outcome(assignment, fake_record(assignment))

    launcher = FakeLauncher(act)
    with pytest.raises(UserError, match="wsa/linear/0: no such weights"):
        run_study(opened(tmp_path, TUNED), launcher)
    assert [name for name, _ in launcher.started] == ["baseline/linear/0", "wsa/linear/0"]


def test_runs_that_start_from_a_failed_one_have_failed(tmp_path):
    def act(assignment, attempts):
        if assignment.arm == "wsa":
            return Outcome(assignment, crash="out of memory")
        return Outcome(assignment, fake_record(assignment))

    state = run_study(opened(tmp_path, TUNED), FakeLauncher(act))
    assert state.records[("tuned", "linear", 0)].error == "starts from wsa/linear/0, which failed"
    assert not opened(tmp_path, TUNED).left


def test_a_study_goes_on_from_records_alone(tmp_path):
    state = run_study(opened(tmp_path, REPORTED), FakeLauncher())
    record_path(state.directory, "wsa", "moat", 101).unlink()
    (tmp_path / "elsewhere").mkdir()
    (state.directory / "records").rename(tmp_path / "elsewhere" / "records")
    moved = opened(tmp_path, REPORTED, "fresh", borrow=tmp_path / "elsewhere")
    assert names(moved) == ["wsa/moat/101"]


def test_equal_runs_are_borrowed_under_another_name_and_others_are_not(tmp_path):
    run_study(opened(tmp_path, REPORTED), FakeLauncher())
    more = {
        **REPORTED,
        "arms": {
            "sharp": {
                "overrides": {"actor_critic": {"use_wsa": True, "wsa_config": {"attention_temperature": 0.1}}}
            }
        },
    }
    text = write_study(tmp_path, more, "other").read_text().replace("  wsa:", "  plain-wsa:")
    (tmp_path / "other.yaml").write_text(text)
    other = load_study(tmp_path / "other.yaml")
    empty = open_study(other, tmp_path / "other")
    dry, borrowed = borrow_records(empty, tmp_path / "study", write=False)
    assert (borrowed.taken, list(read_records(empty.directory))) == (8, [])
    state, _ = borrow_records(empty, tmp_path / "study")
    assert state == dry == open_study(other, empty.directory)
    assert str(borrow_records(state, tmp_path / "study")[1]) == (
        "0 records fit and were taken; left: 8 already there"
    )
    assert {run.key[0] for run in state.left} == {"sharp"}
    assert state.records[("plain-wsa", "moat", 100)].study == "other"
    judged = {**REPORTED, "evaluation": {"episodes": 5}}
    stricter = opened(tmp_path, judged, "stricter", borrow=tmp_path / "study")
    assert len(stricter.left) == 8


def test_names_have_commas_between_them_and_some_in_them():
    known = ["moat,clip_range=0.1", "moat,clip_range=0.2", "linear", "moat"]
    for text, names in (
        ("linear", ("linear",)),
        ("linear,moat", ("linear", "moat")),
        ("moat,clip_range=0.1", ("moat,clip_range=0.1",)),
        ("moat,clip_range=0.2, linear,moat", ("moat,clip_range=0.2", "linear", "moat")),
        ("moot,clip_range=0.1", ("moot", "clip_range=0.1")),
    ):
        assert _names(text, known) == names
    assert _names(None, known) is None


def test_reported_seeds_are_run_once(tmp_path):
    run_study(opened(tmp_path, REPORTED), FakeLauncher())
    changed = {**REPORTED, "overrides": {"ppo": {"learning_rate": 1e-4}}}
    before = read_plan(tmp_path / "study")
    with pytest.raises(RecordError, match=r"was reported with another configuration.*run once.*200 on"):
        opened(tmp_path, changed)
    assert read_plan(tmp_path / "study") == before


def test_reported_seeds_of_another_directory_count_where_its_records_are_taken(tmp_path):
    run_study(opened(tmp_path, REPORTED), FakeLauncher())
    changed = {**REPORTED, "arms": {"wsa": {"overrides": {"ppo": {"learning_rate": 1e-4}}}}}
    with pytest.raises(RecordError, match=r"study/records/wsa/linear/100\.json: this seed was reported with"):
        opened(tmp_path, changed, "fresh", borrow=tmp_path / "study")
    tuning = {"arms": changed["arms"], "seeds": [0, 1]}
    run_study(opened(tmp_path, {"seeds": [0, 1]}, "tuned"), FakeLauncher())
    assert len(opened(tmp_path, tuning, "afresh", borrow=tmp_path / "tuned").records) == 4


def test_a_record_that_does_not_fit_makes_room_for_one_that_does(tmp_path):
    run_study(opened(tmp_path), FakeLauncher())
    changed = {"overrides": {"ppo": {"learning_rate": 1e-4}}}
    run_study(opened(tmp_path, changed, "other"), FakeLauncher())
    assert not opened(tmp_path, changed, borrow=tmp_path / "other").left


def test_changes_of_a_plan_after_the_first_results_are_kept(tmp_path):
    directory = opened(tmp_path, {"seeds": [100]}).directory
    opened(tmp_path, REPORTED)
    assert read_plan(directory).changes == []  # nothing was known yet
    run_study(opened(tmp_path, REPORTED), FakeLauncher())
    opened(tmp_path, {"seeds": [100, 101, 102], "control": []})
    opened(tmp_path, {"seeds": [100, 101, 102], "control": []})
    assert [line.partition(", when ")[2] for line in read_plan(directory).changes] == [
        "8 runs had records: control: linear -> none",
        "8 runs had records: seeds: 100, 101 -> 100, 101, 102",
    ]


def test_costs_are_those_of_the_arms_as_they_are(tmp_path):
    changes = {"arms": {"wsa": {"overrides": {"ppo": {"learning_rate": 1e-4}}}}}
    state = opened(tmp_path)
    assert not has_cost(state)
    write_cost(state, 1)
    assert has_cost(state)
    assert not has_cost(opened(tmp_path, changes))
    assert not has_cost(opened(tmp_path, {"arms": {"more": {"overrides": {"ppo": {"discount": 0.9}}}}}))
    run_study(opened(tmp_path, changes), FakeLauncher())
    seen = load_for_report(state.directory)
    assert (seen.outdated, list(seen.cost.arms)) == (("wsa",), ["baseline"])


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"taught": {"start_from": {"arm": "baseline"}, "overrides": {"actor_critic": {"use_wsa": True}}}},
            "arm taught: cannot take the weights of baseline, which lacks",
        ),
        (
            {
                "taught": {
                    "start_from": {"arm": "baseline", "by": "distillation", "steps": 32},
                    "overrides": {
                        "actor_critic": {"use_wsa": True, "image": {"source": "tokens"}},
                        "training": {"total_steps": 96},
                        "env": {"observation": {"field": False}},
                    },
                }
            },
            "arm taught: the teacher looks at the field",
        ),
        (
            {
                "onward": {
                    "start_from": {"arm": "baseline"},
                    "overrides": {
                        "actor_critic": {"use_wsa": False},
                        "env": {"observation": {"count_scale": 30}},
                    },
                }
            },
            "arm onward: counts are divided by 60 for the parent, 30 for the child; set",
        ),
        ({"wsa": {"overrides": {"actor_critic": {"cache_budget_mb": 0.001}}}}, "arm wsa: .*cache_budget_mb"),
    ],
)
def test_what_would_be_refused_after_hours_is_refused_at_once(tmp_path, arms, message):
    with pytest.raises(UserError, match=message):
        require_arms(load_study(write_study(tmp_path, {"arms": arms})))


def test_scores_of_another_condition_or_world_do_not_count(tmp_path):
    """Conditions are known by the world they make, not by their name."""
    crowd = {"evaluation": {"conditions": {"dense": {"num_initial_nodes": 9}}}}
    run_study(opened(tmp_path, {**REPORTED, **crowd}), FakeLauncher())
    assert not opened(tmp_path, {**REPORTED, **crowd}).left
    crowd = {"evaluation": {"conditions": {"dense": {"num_initial_nodes": 8}}}}
    assert len(opened(tmp_path, {**REPORTED, **crowd}).left) == 8


def test_references_follow_the_world(tmp_path):
    first = read_plan(opened(tmp_path).directory).scenarios[0]
    longer = {"overrides": {"env": {"max_steps": 30}}}
    second = read_plan(opened(tmp_path, longer).directory).scenarios[0]
    third = read_plan(opened(tmp_path, longer, "fresh").directory).scenarios[0]
    assert first.references != second.references == third.references


def test_tuning_seeds_are_made_again_when_the_design_changes(tmp_path):
    run_study(opened(tmp_path), FakeLauncher())
    state = opened(tmp_path, {"arms": {"wsa": {"overrides": {"ppo": {"learning_rate": 1e-4}}}}})
    assert {run.key[0] for run in state.left} == {"wsa"}


def test_records_of_another_version_are_not_mixed_in(tmp_path):
    state = run_study(opened(tmp_path, REPORTED), FakeLauncher())
    path = record_path(state.directory, "wsa", "moat", 100)
    write_record(state.directory, replace(read_record(path), version="0.0.1"))
    with pytest.raises(RecordError, match=r"moat/100\.json: made by durotaxis 0\.0\.1, this is"):
        opened(tmp_path, REPORTED)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "format": 0}))
    with pytest.raises(RecordError, match="of format 0, this version reads 1"):
        opened(tmp_path, REPORTED)
    path.write_text('{"format": 1, "arm"')
    with pytest.raises(RecordError, match="not JSON"):
        opened(tmp_path, REPORTED)
    path.write_text(json.dumps({key: value for key, value in data.items() if key != "curve"}))
    with pytest.raises(RecordError, match=r"not a record of this version .curve"):
        opened(tmp_path, REPORTED)


def test_records_of_other_runs_are_refused(tmp_path):
    state = run_study(opened(tmp_path, REPORTED), FakeLauncher())
    path = record_path(state.directory, "wsa", "moat", 100)
    path.rename(path.with_name("300.json"))
    with pytest.raises(RecordError, match=r"300\.json holds the record of wsa/moat/100; put it there"):
        opened(tmp_path, REPORTED)
    path.with_name("300.json").unlink()
    with pytest.raises(RecordError, match="the study plans no such run"):
        opened(tmp_path, {"seeds": [101]})


def test_a_directory_holds_one_study(tmp_path):
    opened(tmp_path)
    other = load_study(write_study(tmp_path, name="other"))
    with pytest.raises(UserError, match="holds the study tiny, not other; choose another --directory"):
        open_study(other, tmp_path / "study")


def test_two_processes_cannot_run_one_study(tmp_path):
    with (
        alone(tmp_path / "study"),
        pytest.raises(RecordError, match="another process runs this study"),
        alone(tmp_path / "study"),
    ):
        pass


def test_the_estimate_is_taken_from_records_where_there_are_some(tmp_path):
    state = run_study(opened(tmp_path, selection=Selection(seeds=(0,))), FakeLauncher())
    state = replace(state, wanted=frozenset(run.key for run in state.study.runs))
    assert estimate_seconds(state, 2) == pytest.approx(4 * 128 / 128.0 / 2)
    done = run_study(state, FakeLauncher())
    assert estimate_seconds(done, 2) is None


def without_time(record):
    """A record but for what was measured."""
    origin = {key: value for key, value in record.provenance.items() if key != "started"}
    parameters = {key: record.cost[key] for key in ("num_parameters", "num_trainable")}
    return replace(record, cost=parameters, provenance=origin)


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """The tiny study, really made in this process: its state."""
    folder = tmp_path_factory.mktemp("inline")
    changes = {"seeds": [0], "scenarios": ["linear"], "control": [], "arms": TUNED["arms"]}
    changes["evaluation"] = {"scenarios": ["moat"], "conditions": {"dense": {"num_initial_nodes": 9}}}
    state = opened(folder, changes)
    return run_study(state, make_launcher("inline", 1, 1))


def test_a_real_run_leaves_a_small_record_with_all_that_was_asked_for(inline):
    records = inline.records
    assert set(records) == {(arm, "linear", 0) for arm in ("baseline", "wsa", "tuned")}
    for record in records.values():
        path = record_path(inline.directory, *record.key)
        assert path.stat().st_size < 6000
        assert record.steps == 128
        assert sum(record.curve["episodes"]) == record.episodes > 0
        assert record.cost["elapsed_s"] > 0
    scored = {
        (s.scenario, s.condition, s.intervention, s.episodes) for s in records[("wsa", "linear", 0)].scores
    }
    assert scored == {
        ("linear", "trained", "none", 4),
        ("linear", "trained", "none", 2),
        ("linear", "trained", "zero", 2),
        ("linear", "trained", "uniform", 2),
        ("linear", "dense", "none", 2),
        ("moat", "trained", "none", 2),
    }
    assert ("linear", "trained", "uniform") not in {
        (s.scenario, s.condition, s.intervention) for s in records[("baseline", "linear", 0)].scores
    }
    attention = records[("wsa", "linear", 0)].attention
    assert attention["names"] == ["graph_cnn", "graph_gnn_connectivity"]
    assert all(sum(weight) == pytest.approx(1.0, abs=1e-4) for weight in attention["weight"])
    assert records[("baseline", "linear", 0)].attention is None


def test_a_run_that_starts_from_another_begins_with_all_its_weights(inline, tmp_path):
    parent = run_directory(inline.directory, ("wsa", "linear", 0))
    config = inline.directory / "configs" / f"{inline.study.run(('tuned', 'linear', 0)).digest}.yaml"
    job = begin_with_weights(parent, config, [f"run.directory={tmp_path / 'run'}"])
    trained = load(parent / "checkpoints" / "last.pt").model
    assert load(job.run.last_checkpoint).counters["step"] == 0
    fresh = build_policy(job.config, job.device).state_dict()
    learned = [name for name, value in job.policy.named_parameters() if value.requires_grad]
    assert any(not torch.equal(fresh[name], trained[name]) for name in learned)
    for name, value in job.policy.state_dict().items():
        own = name.endswith("log_temperature")  # what is not learned is the arm's own
        assert torch.equal(value, fresh[name] if own else trained[name]), name
    sharper = [
        f"run.directory={tmp_path / 'sharper'}",
        "actor_critic.wsa_config.attention_temperature=0.5",
        "env.spawn_bounds.max_step=[1, 8]",
    ]
    other = begin_with_weights(parent, config, sharper).policy
    assert other.actor.extractor.fusion.temperature == pytest.approx(0.5)
    assert float(other.high[0]) == 8.0


def test_a_run_of_another_design_in_the_same_place_is_made_anew(tmp_path):
    """On tuning seeds the design may change; the agent of before must not be taken for the new one."""
    small = {"seeds": [0], "scenarios": ["linear"], "control": [], "evaluation": {"interventions": []}}
    study = write_study(tmp_path, {**small, "overrides": {"training": {"total_steps": 32}}})
    only = Selection(arms=("baseline",))
    launcher = make_launcher("inline", 1, 1)
    before = run_study(open_study(load_study(study), tmp_path / "study", only), launcher)
    changed = load_study(study, ["overrides.ppo.learning_rate=1e-4"])
    after = run_study(open_study(changed, tmp_path / "study", only), launcher)
    key = ("baseline", "linear", 0)
    assert before.records[key].config != after.records[key].config
    assert "learning_rate: 0.0001" in (run_directory(tmp_path / "study", key) / "config.yaml").read_text()


def test_processes_make_the_same_records_through_a_kill_9(tmp_path, inline):
    """The study is killed while a run trains; the same command goes on, and nothing differs."""
    changes = {"seeds": [0], "scenarios": ["linear"], "control": [], "arms": TUNED["arms"]}
    changes["evaluation"] = {"scenarios": ["moat"], "conditions": {"dense": {"num_initial_nodes": 9}}}
    file, place = write_study(tmp_path, changes), tmp_path / "study #2"  # no comment in a path
    command = [
        sys.executable,
        "-m",
        "durotaxis",
        "study",
        "run",
        str(file),
        "--directory",
        str(place),
        "--arms",
        "baseline,wsa",
        "--workers",
        "1",
        "--cost-turns",
        "0",
    ]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    metrics = place / "runs/baseline/linear/0/metrics.jsonl"
    end = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 1) and time.monotonic() < end:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not record_path(place, "baseline", "linear", 0).exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 runs have a record, 0 of them failed" in done.stdout
    theirs = {record.key: without_time(record) for record in read_records(place)}
    ours = {key: without_time(record) for key, record in inline.records.items() if key[0] != "tuned"}
    assert theirs == ours


def test_ray_makes_the_same_records(tmp_path, inline):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'durotaxis[ray]'")
    changes = {"seeds": [0], "scenarios": ["linear"], "control": [], "arms": TUNED["arms"]}
    changes["evaluation"] = {"scenarios": ["moat"], "conditions": {"dense": {"num_initial_nodes": 9}}}
    state = run_study(opened(tmp_path, changes), make_launcher("ray", 1, 1))
    theirs = {key: without_time(record) for key, record in state.records.items()}
    assert theirs == {key: without_time(record) for key, record in inline.records.items()}


@pytest.mark.parametrize(
    ("error", "ends", "has_progressed"),
    [
        (DivergedError("the loss is not finite"), "crash", True),
        (NotFiniteError("kl_max is not a finite number"), "crash", True),
        (ValueError("too many nodes"), "crash", False),
        (RecordError("the disk is full"), "refusal", True),
        (UserError("no such weights"), "refusal", True),
    ],
)
def test_what_runs_away_is_a_crash_and_what_is_wrong_a_refusal(
    tmp_path, monkeypatch, error, ends, has_progressed
):
    def execute(assignment, attempts, progress):
        raise error

    monkeypatch.setattr("durotaxis.study.launchers.execute", execute)
    outcome = attempt(assignment_in(tmp_path / "run"), 1)
    assert str(error) in getattr(outcome, ends)
    assert outcome.has_progressed == has_progressed


def test_a_crash_after_an_iteration_is_told_from_one_before(tmp_path, monkeypatch):
    def execute(assignment, attempts, progress):
        with (tmp_path / "run" / METRICS).open("a") as file:
            file.write("{}\n")
        raise RuntimeError("no memory")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("durotaxis.study.launchers.execute", execute)
    assert attempt(assignment_in(tmp_path / "run"), 1).has_progressed


def test_what_another_version_began_is_not_gone_on_with(tmp_path):
    assignment = assignment_in(tmp_path / "run")
    RunDirectory.create(tmp_path / "run", "", {"versions": {"durotaxis": "0.0.1"}})
    (tmp_path / "run" / DIGEST).write_text(assignment.digest)
    with pytest.raises(UserError, match=r"run was begun by durotaxis 0\.0\.1, this is .*; go on with that"):
        execute(assignment)


def assignment_in(directory):
    parent = {"parent": None, "parent_digest": None, "start_by": None, "start_steps": None}
    return Assignment("s", "wsa", "moat", 0, "c.yaml", "0" * 16, str(directory), **parent, probes=())


def test_a_launcher_that_is_none():
    with pytest.raises(UserError, match="launcher 'cloud' must be one of inline, process, ray"):
        make_launcher("cloud", 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "run", "nothing.yaml"], "nothing.yaml: no such study"),
        (["study", "run", "FILE", "--seeds", "a,b"], "--seeds a,b: give numbers with commas"),
        (["study", "run", "FILE", "--arms", "wsb"], "the study has no arm wsb; it has baseline, wsa"),
        (
            ["study", "run", "FILE", "--launcher", "cloud", "--plan"],
            "--launcher cloud must be one of inline, process, ray",
        ),
        (["study", "run", "FILE", "--address", "auto"], "--address is of a Ray cluster"),
        (["study", "run", "FILE", "--arms", ""], "a list of names is empty"),
        (["study", "run", "FILE", "--records", "nowhere"], "--records nowhere: no such directory"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    assert cli([str(file) if part == "FILE" else part for part in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_study_of_the_package_is_named_and_another_by_its_path(tmp_path):
    for given in ("unfreeze", shipped_studies()["unfreeze"], os.path.relpath(shipped_studies()["unfreeze"])):
        directory = tmp_path / "own"
        open_study(load_study(given), directory)
        assert read_plan(directory).command == "durotaxis study run unfreeze"
    file = write_study(tmp_path).rename(tmp_path / "unfreeze.yaml")
    open_study(load_study(file), tmp_path / "other")
    assert read_plan(tmp_path / "other").command == f"durotaxis study run {file}"


def test_the_plan_is_printed_and_nothing_is_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli(["study", "run", str(write_study(tmp_path)), "--plan"]) == 0
    said = capsys.readouterr().out
    assert (
        "2 arms x 2 scenarios x 2 seeds (tuning seeds: nothing of this is a result) = 8 runs of 128 steps"
        in said
    )
    assert "2 seeds find a difference in a scenario with a chance of 80 % where it is 11.5 standard" in said
    assert "call it neutral where these are at most 0.01" in said
    assert "estimate: " in said
    assert not Path("runs").exists()
