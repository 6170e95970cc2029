"""Judgements, against a truth that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fake_study import PARAMETERS, TIME, TRUTH, plan, record, scenario, write_study
from durotaxis.analysis.claims import (
    HELD,
    HELPS,
    HURTS,
    MET,
    NEUTRAL,
    NOT_HELD,
    NOT_MET,
    NOT_TESTED,
    UNDECIDED,
    USELESS,
    _goal,
    _judge,
    claims,
    effects,
    goals,
    main_difference,
    word_of,
)
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import load_study
from durotaxis.analysis.study_words import comparison
from durotaxis.records import ArmPlan, Score, write_record


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "claims"
    write_study(path, plan(conditions={"sparse": {"env.num_initial_nodes": 3}}), with_configs=False)
    return load_study(path)


def of(verdicts, claim):
    """The one verdict whose claim begins so."""
    (found,) = [verdict for verdict in verdicts if verdict.claim.startswith(claim)]
    return found


def test_where_it_helps_is_the_truth(study):
    found = {(effect.scenario, effect.condition): effect for effect in effects(study)}
    words = {"moat": HELPS, "patches": NEUTRAL, "stripes": HURTS, "linear": NEUTRAL}
    assert {key: effect.word for key, effect in found.items()} == {
        (name, condition): words[name] for name in words for condition in ("trained", "sparse")
    }
    for (name, _), effect in found.items():
        assert effect.difference.low <= TRUTH[name] <= effect.difference.high


def test_failures_on_both_sides_do_not_make_arms_alike(tmp_path):
    failed = tuple(run.key for run in plan().runs)
    write_study(tmp_path / "none", failed=failed)
    none = load_study(tmp_path / "none")
    assert {effect.word for effect in effects(none)} == {UNDECIDED}
    assert comparison(none, "wsa").endswith("no seed finished in both.")
    write_study(tmp_path / "theirs", failed=tuple(key for key in failed if key[0] == "baseline"))
    assert {effect.word for effect in effects(load_study(tmp_path / "theirs"))} == {HELPS}


def test_differences_equal_a_slow_computation(study):
    gaps = []
    for seed in range(100, 110):
        scores = [
            (record(study.plan, run).scores[0].return_mean + 2.5) / 8.0
            for arm in ("baseline", "wsa")
            for run in study.plan.runs
            if run.key == (arm, "moat", seed)
        ]
        gaps.append(scores[1] - scores[0])
    effect = next(e for e in effects(study) if (e.scenario, e.condition) == ("moat", "trained"))
    assert effect.difference.mean == pytest.approx(np.mean(gaps))
    assert effect.difference.count == 10


def test_costs_are_judged_by_what_was_measured(study):
    found = claims(study, "wsa")
    assert of(found, "1.5-2x").estimate.mean == pytest.approx(TIME, rel=0.01)
    assert of(found, "1.5-2x").outcome == NOT_HELD  # 1.3: cheaper than the guide says
    assert of(found, "~3x").estimate == Estimate(PARAMETERS, PARAMETERS, PARAMETERS, 1)
    assert of(found, "~3x").outcome == HELD
    assert of(found, "~2x").outcome == HELD
    assert of(goals(study, "wsa"), "at most 1.5").outcome == MET


def test_a_study_on_moat_alone_meets_the_goal_but_for_spread(tmp_path):
    write_study(tmp_path, plan(scenarios=[scenario("moat")]), with_configs=False)
    study = load_study(tmp_path)
    met = {verdict.claim: verdict.outcome for verdict in goals(study, "wsa")}
    assert list(met.values()) == [MET, MET, MET, UNDECIDED, MET]
    found = claims(study, "wsa")
    assert of(found, "20-30 %").outcome == HELD
    assert of(found, "15-20 %").outcome == HELD
    assert of(found, "Initial").outcome == NOT_HELD
    assert of(found, "More stable").outcome == UNDECIDED
    assert of(found, "Robust to hyper").outcome == NOT_TESTED
    assert of(found, "Redundancy").outcome == NOT_TESTED


def test_a_study_on_stripes_alone_does_not(tmp_path):
    write_study(tmp_path, plan(scenarios=[scenario("stripes")]), with_configs=False, with_cost=False)
    study = load_study(tmp_path)
    outcomes = [verdict.outcome for verdict in goals(study, "wsa")]
    assert outcomes == [NOT_MET, NOT_MET, NOT_MET, UNDECIDED, NOT_TESTED]
    found = claims(study, "wsa")
    assert of(found, "10-15 %").outcome == NOT_HELD
    assert of(found, "5-10 %").outcome == NOT_HELD
    assert of(found, "~3x").outcome == NOT_TESTED


def test_one_seed_decides_nothing(tmp_path):
    write_study(tmp_path, plan(seeds=[100]), with_configs=False, with_cost=False)
    study = load_study(tmp_path)
    assert main_difference(study, "wsa").low is None
    assert {verdict.outcome for verdict in goals(study, "wsa")} <= {UNDECIDED, NOT_TESTED}
    assert {verdict.outcome for verdict in claims(study, "wsa")} <= {UNDECIDED, NOT_TESTED}
    assert {effect.word for effect in effects(study)} == {UNDECIDED}


def test_robustness_is_judged_over_the_settings_of_its_kind(tmp_path):
    """wsa scores the same in all settings here, the baseline does not."""
    made = plan(
        scenarios=[
            scenario("moat"),
            scenario("moat-dense", **{"env.num_initial_nodes": 9}),
            scenario("moat-fast", **{"ppo.learning_rate": 1e-3}),
        ]
    )
    write_study(tmp_path, made, noise=0.02, with_configs=False)
    drop = {"moat": 0.0, "moat-dense": 0.3, "moat-fast": 0.3}
    for run in made.runs:
        if run.arm == "baseline":
            whole = record(made, run, 0.02)
            lowered = replace(
                whole.scores[0], return_mean=whole.scores[0].return_mean - 8 * drop[run.scenario]
            )
            write_record(tmp_path, replace(whole, scores=(lowered, *whole.scores[1:])))
    found = claims(load_study(tmp_path), "wsa")
    assert of(found, "Robust to initial").outcome == HELD
    assert of(found, "Robust to hyper").outcome == HELD


@pytest.mark.parametrize(("loss", "outcome"), [(0.0, HELD), (0.3, NOT_HELD)])
def test_redundancy_is_judged_by_an_arm_with_a_useless_model(tmp_path, loss, outcome):
    arms = [ArmPlan(name, "", {}, [], None) for name in ("baseline", "wsa", "wsa" + USELESS)]
    made = plan(arms=arms, scenarios=[scenario("moat")])
    write_study(tmp_path, made, noise=0.02, with_configs=False)
    for run in made.runs:
        if run.arm.endswith(USELESS):
            whole = record(made, run, 0.02)
            lowered: Score = replace(whole.scores[0], return_mean=whole.scores[0].return_mean - 8 * loss)
            write_record(tmp_path, replace(whole, scores=(lowered, *whole.scores[1:])))
    assert of(claims(load_study(tmp_path), "wsa"), "Redundancy").outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.3, HELPS),
        (-0.3, -0.01, HURTS),
        (-0.09, 0.09, NEUTRAL),
        (0.01, 0.09, NEUTRAL),
        (-0.09, -0.01, NEUTRAL),
        (0.05, 0.1, HELPS),
        (-0.1, -0.05, HURTS),
        (-0.09, 0.11, UNDECIDED),
        (-0.2, 0.05, UNDECIDED),
        (0.0, 0.0, NEUTRAL),
    ],
)
def test_words_follow_the_interval(low, high, word):
    assert word_of(Estimate((low + high) / 2, low, high, 10)) == word


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.6, 1.9, HELD),
        (1.0, 1.4, NOT_HELD),
        (2.1, 3.0, NOT_HELD),
        (1.4, 1.9, UNDECIDED),
        (1.6, 2.1, UNDECIDED),
    ],
)
def test_a_claim_of_a_range_is_held_only_within_it(low, high, outcome):
    estimate = Estimate((low + high) / 2, low, high, 8)
    assert _judge("c", "wsa", estimate, "", "", above=1.5, below=2.0).outcome == outcome


def test_no_number_is_not_tested_and_an_undefined_one_undecided():
    assert _judge("c", "wsa", NOTHING, "", "", above=0.1).outcome == NOT_TESTED
    assert _judge("c", "wsa", Estimate(None, None, None, 20), "", "", above=0.1).outcome == UNDECIDED


@pytest.mark.parametrize(
    ("mean", "low", "high", "outcome", "beyond"),
    [
        (0.25, 0.21, 0.29, MET, True),
        (0.25, 0.05, 0.45, MET, False),
        (0.25, -0.1, 0.6, UNDECIDED, False),
        (0.15, 0.05, 0.25, UNDECIDED, False),
        (0.1, 0.05, 0.15, NOT_MET, False),
    ],
)
def test_the_goal_needs_its_target_and_an_interval_clear_of_zero(mean, low, high, outcome, beyond):
    found = _goal("wsa", "", Estimate(mean, low, high, 10), "", lambda v: v - 0.2, lambda v: v)
    assert (found.outcome, found.beyond) == (outcome, beyond)
