"""Effects of crossed arms, against a regression on their levels and a truth that is known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.fake_study import plan, record, scenario, write_study
from durotaxis.analysis.factors import contrasts, effect_of
from durotaxis.analysis.pairs import held_out
from durotaxis.analysis.report import write_report
from durotaxis.analysis.study import load_study
from durotaxis.analysis.study_results.factors import factors_table
from durotaxis.analysis.study_tables import csv_text
from durotaxis.records import ArmPlan, RecordError, read_plan, write_record

ADDS = {"weights": 0.3, "models": 0.0, "both": 0.25}
"""What pretrained weights, two models, and the two together add to the normalised return."""


def arms(**levels):
    """One arm per combination."""
    return [
        ArmPlan("-".join(cell), "", {"arm": "-".join(cell)}, [], None, dict(zip(levels, cell, strict=True)))
        for cell in itertools.product(*levels.values())
    ]


CROSSED = arms(weights=("random", "pretrained"), models=("one", "two"), embedding=("simplicial", "plain"))


def write_crossed(path, seeds=12, noise=0.02):
    made = plan(
        baseline="random-one-simplicial",
        arms=[*CROSSED, ArmPlan("aside", "", {}, [], None)],
        scenarios=[scenario("moat"), scenario("patches"), scenario("linear")],
        seeds=range(100, 100 + seeds),
    )
    write_study(path, made, noise=noise, with_cost=False, with_configs=False)
    for run in made.runs:
        if run.arm == "aside":
            continue
        weights, models, _ = run.arm.split("-")
        gain = ADDS["weights"] * (weights == "pretrained")
        gain += ADDS["both"] * (weights == "pretrained" and models == "two")
        whole = record(made, run, noise)
        (own, *_) = whole.scores
        raised = replace(own, return_mean=own.return_mean + 8.0 * gain)
        write_record(path, replace(whole, scores=(raised, *whole.scores[1:])))
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("factors") / "study"
    write_crossed(path)
    return load_study(path)


def regression(study, place):
    """Coefficients of a saturated linear model of all runs in a scenario, levels coded -1/2 and 1/2."""
    rows, scores = [], []
    for arm in CROSSED:
        codes = [-0.5 if level in ("random", "one", "simplicial") else 0.5 for level in arm.factors.values()]
        for score in study.values(arm.name, place, "normalised_return").values():
            rows.append([1, *codes, *(a * b for a, b in itertools.combinations(codes, 2)), np.prod(codes)])
            scores.append(score)
    return np.linalg.lstsq(np.array(rows), np.array(scores), rcond=None)[0]


def test_effects_are_the_coefficients_of_a_regression(study):
    found = contrasts(study.plan.arms)
    assert [contrast.name for contrast in found] == [
        "weights (pretrained less random)",
        "models (two less one)",
        "embedding (plain less simplicial)",
        "weights x models",
        "weights x embedding",
        "models x embedding",
    ]
    values = held_out(study, "normalised_return")
    for place in ("moat", "patches"):
        expected = regression(study, place)
        for contrast, coefficient in zip(found, expected[1:], strict=False):
            assert effect_of(contrast, (place,), values).mean == pytest.approx(coefficient, abs=1e-9)


def test_effects_are_the_truth_and_weights_sum_to_nothing(study):
    values = held_out(study, "normalised_return")
    truth = (ADDS["weights"] + ADDS["both"] / 2, ADDS["both"] / 2, 0.0, ADDS["both"], 0.0, 0.0)
    for contrast, true in zip(contrasts(study.plan.arms), truth, strict=True):
        assert sum(contrast.weights.values()) == pytest.approx(0)
        gap = effect_of(contrast, ("moat", "patches"), values)
        assert gap.low <= true <= gap.high
        assert gap.high - gap.low < 0.1  # a seed's luck, common to all its arms, drops out
        assert gap.count == 24


def test_a_factor_of_three_levels_is_compared_with_its_first():
    found = contrasts(arms(size=("small", "middle", "large"), kind=("a", "b")))
    assert [contrast.name for contrast in found] == [
        "size (middle less small)",
        "size (large less small)",
        "kind (b less a)",
        "size middle x kind",
        "size large x kind",
    ]
    assert found[1].weights == {"small-a": -0.5, "small-b": -0.5, "large-a": 0.5, "large-b": 0.5}
    assert found[4].weights == {"small-a": 1.0, "small-b": -1.0, "large-a": -1.0, "large-b": 1.0}
    assert contrasts([ArmPlan("alone", "", {}, [], None)]) == []


def test_without_a_seed_that_all_arms_have_there_is_no_effect(tmp_path):
    made = write_crossed(tmp_path / "study", seeds=2)
    lacking = next(run for run in made.runs if run.key == ("random-two-plain", "moat", 100))
    (tmp_path / "study" / "records" / "/".join(map(str, lacking.key))).with_suffix(".json").unlink()
    study = load_study(tmp_path / "study", allow_partial=True)
    values = held_out(study, "normalised_return")
    first = contrasts(study.plan.arms)[0]
    assert effect_of(first, ("moat",), values).count == 1
    assert effect_of(first, ("patches",), values).count == 2
    (tmp_path / "study" / "records" / "random-two-plain" / "moat" / "101.json").unlink()
    study = load_study(tmp_path / "study", allow_partial=True)
    values = held_out(study, "normalised_return")
    assert effect_of(first, ("moat",), values).mean is None
    assert effect_of(first, ("moat", "patches"), values).mean is None
    assert {row[0] for row in factors_table(study).rows} == {"patches", "linear"}


def test_the_report_says_what_factors_add(tmp_path):
    write_crossed(tmp_path / "study", seeds=8)  # t intervals: a bootstrap of so many arms takes long
    study = load_study(tmp_path / "study")
    report = write_report(study.path, tmp_path, formats=("svg",))
    (line,) = [line for line in report.headline if line.startswith("Factors, by normalised return: ")]
    assert "weights (pretrained less random): helps, +0.4" in line
    assert "weights x models: reinforce, +0.2" in line
    assert "embedding (plain less simplicial): neutral, " in line
    assert "weights x embedding: add up, " in line
    page = report.html.read_text("utf-8")
    assert "What each factor adds" in page
    assert 'id="figure-factors"' in page
    text = csv_text(factors_table(study))
    assert text.count("\n") == 1 + 6 * 4  # of the aggregate, two scenarios and the control
    assert (tmp_path / "tables" / "factors.csv").read_text("utf-8") == text


def test_without_crossed_arms_there_is_no_such_section(tmp_path):
    write_study(tmp_path / "study", plan(seeds=range(100, 102)), with_cost=False, with_configs=False)
    study = load_study(tmp_path / "study")
    assert factors_table(study) is None
    report = write_report(tmp_path / "study", tmp_path / "out", formats=("svg",))
    assert not any(line.startswith("Factors") for line in report.headline)
    assert "What each factor adds" not in report.html.read_text("utf-8")


def test_plans_without_factors_are_read_and_other_keys_refused(tmp_path):
    write_study(tmp_path, plan(), with_cost=False, with_configs=False)
    path = tmp_path / "study.json"
    data = json.loads(path.read_text())
    for arm in data["arms"]:
        del arm["factors"]
    path.write_text(json.dumps(data))
    assert [arm.factors for arm in read_plan(tmp_path).arms] == [{}, {}]
    data["arms"][0]["level"] = "high"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=r"not a record of this version \(level\)"):
        read_plan(tmp_path)
    del data["arms"][0]["level"], data["arms"][0]["tried"]
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=r"not a record of this version \(tried\)"):
        read_plan(tmp_path)
