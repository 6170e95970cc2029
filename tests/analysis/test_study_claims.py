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
    steps_ratio,
    word_of,
)
from durotaxis.analysis.spreads import beyond_chance, spread_over_settings
from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study import load_study
from durotaxis.analysis.study_results.beyond import interventions_table
from durotaxis.analysis.study_words import Judged, comparison, headline
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
    assert comparison(none, "wsa").endswith("no seed finished in both on moat, patches, stripes.")


def test_failures_of_one_side_alone_decide_nothing(tmp_path):
    """They may be the machine's; a single seed that finished in both lets the others count."""
    lost = tuple(run.key for run in plan().runs if run.key[:2] == ("baseline", "moat"))
    write_study(tmp_path / "all", plan(scenarios=[scenario("moat")]), failed=lost)
    study = load_study(tmp_path / "all")
    assert {effect.word for effect in effects(study)} == {UNDECIDED}
    assert comparison(study, "wsa").startswith("Undecided")
    judged = [*goals(study, "wsa"), *claims(study, "wsa")]
    assert {v.outcome for v in judged if "no seed finished in both on moat" in v.measured} == {UNDECIDED}
    assert not {MET, HELD} & {
        v.outcome
        for v in judged
        if "one process" not in v.measured
        and "exact" not in v.measured
        and "one measurement" not in v.measured
    }
    assert of(goals(study, "wsa"), "at most 1.5").outcome == MET
    write_study(tmp_path / "some", plan(scenarios=[scenario("moat")]), failed=lost[:-1])
    assert {effect.word for effect in effects(load_study(tmp_path / "some"))} == {HELPS}


def test_steps_to_a_level_that_was_never_learned_say_nothing(tmp_path):
    made = plan(scenarios=[scenario("moat"), scenario("stripes")])
    write_study(tmp_path, made, with_configs=False)
    rng = np.random.default_rng(0)
    for run in made.runs:
        if run.key[:2] == ("baseline", "stripes"):
            whole = record(made, run)
            flat = (-2.5 + rng.normal(0.0, 0.3, len(whole.curve["step"]))).tolist()
            write_record(tmp_path, replace(whole, curve={**whole.curve, "return": flat}))
    study = load_study(tmp_path)
    assert [study.learns(name) for name in ("moat", "stripes")] == [True, False]
    assert steps_ratio(study, "wsa", ["stripes"]) == NOTHING
    assert steps_ratio(study, "wsa", ["moat", "stripes"]) == steps_ratio(study, "wsa", ["moat"])
    assert (
        "without stripes, where the baseline does not learn" in of(goals(study, "wsa"), "the base").measured
    )


def test_a_lesson_is_no_first_tenth(tmp_path):
    arms = [
        ArmPlan("baseline", "", {}, [], None),
        ArmPlan("wsa", "", {}, [], {"arm": "t", "by": "distillation"}),
    ]
    write_study(tmp_path, plan(arms=arms), with_configs=False)
    study = load_study(tmp_path)
    assert of(claims(study, "wsa"), "Initial").outcome == NOT_TESTED
    assert (study.tests_wsa("wsa"), study.head_start("wsa")) == (False, "t")
    assert any(
        "wsa starts from what t learned, baseline does not" in line for line in headline(Judged.of(study))
    )


def under_conditions(value, errors=0.2):
    """Score of an agent that scores `value` on top of its own score under the condition `sparse`."""

    def change(score):
        raised = score.return_mean + (8 * value if score.condition == "sparse" else 0.0)
        return replace(score, return_mean=raised, return_se=errors, episodes=20)

    return change


@pytest.mark.parametrize(("errors", "outcome"), [(0.05, HELD), (3.0, NOT_TESTED)])
def test_robustness_is_not_judged_within_what_few_episodes_scatter(tmp_path, errors, outcome):
    made = plan(scenarios=[scenario("moat")], conditions={"sparse": {"env.num_initial_nodes": 3}})
    write_study(tmp_path, made, with_configs=False)
    for run in made.runs:
        whole = record(made, run)
        change = under_conditions(0.4 if run.arm == "baseline" else 0.15, errors)
        write_record(tmp_path, replace(whole, scores=tuple(map(change, whole.scores))))
    found = of(claims(load_study(tmp_path), "wsa"), "Robust to initial")
    assert found.outcome == outcome
    assert ("scatter by chance" in found.measured) == (outcome == NOT_TESTED)


def test_the_variance_beyond_chance_is_what_conditions_add(tmp_path):
    """Scores that scatter by their errors alone have none."""
    made = plan(scenarios=[scenario("moat")], conditions={"a": {}, "b": {}}, seeds=range(100, 400))
    write_study(tmp_path, made, with_configs=False, with_cost=False)
    rng = np.random.default_rng(0)
    for run in made.runs:
        whole = record(made, run)
        own = [replace(s, return_mean=3.0 + rng.normal(0.0, 0.4), return_se=0.4) for s in whole.scores]
        if run.arm == "wsa":
            own = [replace(s, return_mean=s.return_mean + (1.6 if s.condition == "a" else 0.0)) for s in own]
        write_record(tmp_path, replace(whole, scores=tuple(own)))
    study = load_study(tmp_path)
    nothing, added = (beyond_chance(study, arm, ["moat"]) for arm in ("baseline", "wsa"))
    assert nothing.low < 0 < nothing.high
    assert added.low < 0.2**2 / 3 < added.high  # variance of (0.2, 0, 0) with 2 degrees of freedom


def test_failed_runs_are_not_robust(tmp_path):
    made = plan(scenarios=[scenario("moat"), scenario("moat-dense", **{"env.num_initial_nodes": 9})])
    lost = tuple(run.key for run in made.runs if run.arm == "wsa" and run.seed > 101)
    write_study(tmp_path, made, failed=lost, with_configs=False)
    study = load_study(tmp_path)
    assert list(spread_over_settings(study, "wsa", ["moat", "moat-dense"])) == [100, 101]


def test_agents_are_tampered_with_over_the_same_episodes(tmp_path):
    """The main score is over other episodes, luckier by 0.2, than those that are tampered with."""
    made = plan(scenarios=[scenario("moat")])
    write_study(tmp_path, made, with_configs=False)
    for run in made.runs:
        whole = record(made, run)
        main, *rest = whole.scores
        same = replace(main, return_mean=main.return_mean - 8 * 0.2, episodes=20)
        rest = [replace(score, episodes=20) for score in rest]
        write_record(tmp_path, replace(whole, scores=(main, same, *rest)))
    rows = interventions_table(load_study(tmp_path)).rows
    assert [row[3].mean for row in rows] == pytest.approx([-0.05] * 3)  # -0.25 of the main score
    for run in made.runs:
        whole = record(made, run)
        rest = [replace(score, episodes=20) for score in whole.scores[1:]]
        write_record(tmp_path, replace(whole, scores=(whole.scores[0], *rest)))
    assert interventions_table(load_study(tmp_path)) is None


def test_an_arm_that_learned_nothing_has_nothing_to_lose(tmp_path):
    arms = [ArmPlan(name, "", {}, [], None) for name in ("baseline", "wsa", "wsa" + USELESS)]
    made = plan(arms=arms, scenarios=[scenario("moat")])
    write_study(tmp_path, made, noise=0.02, with_configs=False)
    for run in made.runs:
        if run.arm != "baseline":
            whole = record(made, run, 0.02)
            low = replace(whole.scores[0], return_mean=-2.5 + 0.01 * (run.seed - 104))
            write_record(tmp_path, replace(whole, scores=(low, *whole.scores[1:])))
    assert of(claims(load_study(tmp_path), "wsa"), "Redundancy").outcome == UNDECIDED


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
