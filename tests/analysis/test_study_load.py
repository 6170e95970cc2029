"""Loading a study: what its numbers are, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.fake_study import (
    DELETE_LEFT,
    RANDOM,
    REFERENCES,
    TOTAL,
    plan,
    record,
    scenario,
    write_study,
)
from durotaxis.analysis.study import NoScale, Scale, Selection, load_study, scale_of
from durotaxis.records import RecordError, record_path, write_record

SMALL = {"scenarios": [scenario("moat")], "seeds": range(100, 103)}


@pytest.fixture
def study(tmp_path):
    """A directory of 2 arms, 1 scenario, 3 seeds, and its plan."""
    return tmp_path / "study", write_study(tmp_path / "study", plan(**SMALL), with_configs=False)


def rewrite(path, made, run, **changes):
    """Replace the record of a run by one with other fields."""
    return write_record(path, replace(record(made, run), **changes))


def test_values_are_those_of_the_records(study):
    path, made = study
    loaded = load_study(path)
    assert loaded.arms == ("baseline", "wsa")
    assert loaded.others == ("wsa",)
    for run in made.runs[:3]:
        own = json.loads(record_path(path, *run.key).read_text())
        main = next(s for s in own["scores"] if s["intervention"] == "none" and not s["deterministic"])
        normalised = (main["return_mean"] - RANDOM) / (DELETE_LEFT - RANDOM)
        assert loaded.values("baseline", "moat", "normalised_return")[run.seed] == pytest.approx(normalised)
        assert (
            loaded.values("baseline", "moat", "success_rate")[run.seed]
            == main["successes"] / main["episodes"]
        )


def test_a_failed_run_counts_as_random_and_a_missing_one_does_not_count(tmp_path):
    made = plan(**SMALL, evaluated_in={"far": REFERENCES})
    failed, missing = ("wsa", "moat", 101), ("wsa", "moat", 102)
    write_study(tmp_path, made, failed=(failed,), missing=(missing,))
    loaded = load_study(tmp_path, allow_partial=True)
    assert [run.key for run in loaded.missing] == [missing]
    for where in (Selection(), Selection(scenario="far")):
        assert list(loaded.values("wsa", "moat", "normalised_return", where)) == [100, 101]
        assert loaded.values("wsa", "moat", "normalised_return", where)[101] == 0.0
        assert loaded.values("wsa", "moat", "success_rate", where)[101] == 0.0
        assert loaded.values("wsa", "moat", "front_progress", where)[101] == 0.1
    assert loaded.areas("wsa", "moat")[101] == 0.0
    assert loaded.steps_to_level("wsa", "moat")[101] is None
    assert loaded.steps_below_level("wsa", "moat")[101] == TOTAL


def test_areas_and_levels_equal_a_slow_computation(study):
    path, made = study
    loaded = load_study(path)
    ends = []
    for run in made.runs[:3]:
        curve = record(made, run).curve
        height = [(value - RANDOM) / (DELETE_LEFT - RANDOM) for value in curve["return"]]
        fine = np.linspace(0, TOTAL, 200_001)
        assert loaded.areas("baseline", "moat")[run.seed] == pytest.approx(
            np.interp(fine, curve["step"], height).mean(), abs=1e-4
        )
        late = [value for step, value in zip(curve["step"], height, strict=True) if step >= 0.9 * TOTAL]
        ends.append(sum(late) / len(late))
    assert loaded.level("moat") == pytest.approx(sum(ends) / 3)


def test_the_scale_is_undefined_where_references_are_missing_or_too_noisy():
    assert isinstance(scale_of(None), NoScale)
    assert isinstance(scale_of({"random": REFERENCES["random"]}), NoScale)
    near = {**REFERENCES["delete-left"], "return_mean": RANDOM + 0.1, "return_se": 0.1}
    below = {**REFERENCES["delete-left"], "return_mean": RANDOM - 8.0}
    for reference in (near, below):
        assert "not above random (-2.50) by 5" in scale_of({**REFERENCES, "delete-left": reference}).reason
    scale = scale_of(REFERENCES)
    assert isinstance(scale, Scale)
    assert (scale(RANDOM), scale(DELETE_LEFT)) == (0.0, 1.0)


def test_without_references_success_is_what_counts(tmp_path):
    places = [scenario("moat", references=None), scenario("stripes", references=None)]
    write_study(tmp_path, plan(scenarios=places, seeds=range(100, 102)), with_configs=False)
    loaded = load_study(tmp_path)
    assert loaded.main_measure == "success_rate"
    assert loaded.values("wsa", "moat", "normalised_return") == {}
    assert set(loaded.values("wsa", "moat", "success_rate")) == {100, 101}


def test_controls_do_not_count_unless_there_is_nothing_else(tmp_path):
    places = [scenario("moat"), scenario("stripes", references=None), scenario("linear")]
    write_study(tmp_path / "a", plan(scenarios=places, seeds=[100]), with_configs=False)
    assert load_study(tmp_path / "a").main_scenarios == ("moat",)
    write_study(tmp_path / "b", plan(scenarios=places[2:], seeds=[100]), with_configs=False)
    assert load_study(tmp_path / "b").main_scenarios == ("linear",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.0.9"}, "made by durotaxis 0.0.9, the plan by 0.1.0"),
        ({"config": "feed"}, "its configuration is feed, the plan's"),
        ({"study": "another"}, "of the study 'another', not 'made-up'"),
        ({"seed": 7}, "seed '7' is not in the plan"),
        ({"arm": "stranger"}, "arm 'stranger' is not in the plan"),
        ({"scenario": "mars"}, "scenario 'mars' is not in the plan"),
        ({"status": "sleeping"}, "its status is 'sleeping'"),
        ({"scores": ()}, "without held-out episodes"),
    ],
)
def test_records_that_do_not_belong_are_refused(study, changes, said):
    path, made = study
    file = rewrite(path, made, made.runs[0], **changes)
    with pytest.raises(RecordError, match="do not belong") as error:
        load_study(path, allow_partial=True)
    assert said in str(error.value)
    assert str(file) in str(error.value)


def test_a_record_of_another_format_is_refused(study):
    path, made = study
    file = record_path(path, *made.runs[0].key)
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(RecordError, match="of format 99"):
        load_study(path)


def test_missing_runs_are_named_and_refused(tmp_path):
    gone = (("wsa", "moat", 101), ("baseline", "moat", 100))
    write_study(tmp_path, plan(**SMALL), missing=gone, with_configs=False)
    with pytest.raises(RecordError, match="2 of 6 runs have no record: baseline/moat/100, wsa/moat/101"):
        load_study(tmp_path)
    assert len(load_study(tmp_path, allow_partial=True).records) == 4


def test_a_study_without_any_record_is_refused(tmp_path):
    made = plan(**SMALL)
    write_study(tmp_path, made, missing=tuple(run.key for run in made.runs), with_configs=False)
    with pytest.raises(RecordError, match="nothing to report"):
        load_study(tmp_path, allow_partial=True)


def test_settings_are_scenarios_made_from_the_same(tmp_path):
    places = [scenario("moat"), scenario("moat-dense", **{"env.num_initial_nodes": 9}), scenario("stripes")]
    write_study(tmp_path, plan(scenarios=places, seeds=[100]), with_configs=False)
    assert load_study(tmp_path).settings() == {"moat": ("moat", "moat-dense")}


def test_the_curve_of_a_taught_arm_rises_through_its_lesson(tmp_path):
    """From random's level at its begin to the first point that is known, in a straight line."""
    base, taught = plan().arms
    taught = replace(
        taught, start_from={"arm": "baseline", "scenario": None, "by": "distillation", "steps": 9}
    )
    made = plan(arms=[base, taught], seeds=range(100, 102), scenarios=[scenario("moat")])
    write_study(tmp_path, made, with_cost=False, with_configs=False)
    study = load_study(tmp_path)
    for arm in ("baseline", "wsa"):
        for run in study.runs(arm, "moat"):
            steps, values = study.curve(run, "normalised_return")
            dense = np.linspace(0, study.plan.total_steps, 200_001)
            first = 0.0 if arm == "wsa" else values[0]
            slow = np.interp(dense, [0.0, *steps], [first, *values]).mean()
            assert study.areas(arm, "moat")[run.seed] == pytest.approx(slow, abs=1e-4)
