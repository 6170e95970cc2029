"""Study files: what follows from one, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
import torch
from study_cases import TINY, write_study

from durotaxis.core.config import load_config, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.core.marks import dump
from durotaxis.fusion import RULES
from durotaxis.study.config import RootConfig, find_config, shipped_studies
from durotaxis.study.plan import digest_of, find_study, load_study
from durotaxis.study.run import build_policy


def test_arms_times_scenarios_times_seeds_seed_by_seed(tmp_path):
    study = load_study(write_study(tmp_path))
    keys = [run.key for run in study.runs]
    assert keys == [
        (arm, scenario, seed)
        for seed, scenario, arm in itertools.product((0, 1), ("linear", "moat"), ("baseline", "wsa"))
    ]
    assert study.total_steps == 128
    assert study.config.baseline == "baseline"
    assert study.config.purpose == "tuning"
    assert [setting.is_control for setting in study.settings] == [True, False]


def test_a_run_is_base_then_study_then_scenario_then_arm_then_seed(tmp_path):
    changes = {
        "overrides": {"ppo": {"learning_rate": 1e-4, "clip_range": 0.3, "gae_lambda": 0.9}},
        "scenarios": [
            {
                "name": "slow",
                "scenario": "moat",
                "overrides": {"ppo": {"clip_range": 0.1, "learning_rate": 2e-4}},
            }
        ],
        "control": [],
        "arms": {"wsa": {"overrides": {"ppo": {"learning_rate": 3e-4}}}},
    }
    run = load_study(write_study(tmp_path, changes)).run(("wsa", "slow", 1))
    ppo = run.config.ppo
    assert (ppo.learning_rate, ppo.clip_range, ppo.gae_lambda) == (3e-4, 0.1, 0.9)
    assert run.config.env.scenario == "moat"
    assert run.config.run.seed == 1
    assert run.config.run.threads == 1


def test_the_digest_names_what_a_run_computes_not_where(tmp_path):
    one, two = (run.config for run in load_study(write_study(tmp_path)).runs[:2])
    moved = one.model_copy(update={"run": one.run.model_copy(update={"directory": "x", "device": "cpu"})})
    assert digest_of(moved) == digest_of(one) != digest_of(two)
    seeded = one.model_copy(update={"run": one.run.model_copy(update={"seed": 7})})
    assert digest_of(seeded) != digest_of(one)


def test_what_varies_makes_a_scenario_of_every_combination(tmp_path):
    vary = {"ppo.learning_rate": [1e-3, 1e-4], "env.num_initial_nodes": [2, 5]}
    study = load_study(write_study(tmp_path, {"vary": vary, "scenarios": ["moat"], "control": []}))
    names = [setting.name for setting in study.settings]
    assert names == [
        "moat,learning_rate=0.001,num_initial_nodes=2",
        "moat,learning_rate=0.001,num_initial_nodes=5",
        "moat,learning_rate=0.0001,num_initial_nodes=2",
        "moat,learning_rate=0.0001,num_initial_nodes=5",
    ]
    last = study.run(("wsa", names[-1], 0)).config
    assert (last.ppo.learning_rate, last.env.num_initial_nodes) == (1e-4, 5)


def test_an_arm_comes_after_the_one_it_starts_from(tmp_path):
    arms = {
        "tuned": {
            "start_from": {"arm": "wsa", "scenario": {"linear": "moat", "moat": "linear"}},
            "overrides": {"actor_critic": {"use_wsa": True}},
        },
    }
    study = load_study(write_study(tmp_path, {"arms": arms}))
    order = [run.key for run in study.runs]
    for run in study.runs:
        if run.parent is not None:
            assert order.index(run.parent) < order.index(run.key)
            assert run.digest != study.run(("wsa", *run.key[1:])).digest
    assert study.run(("tuned", "linear", 0)).parent == ("wsa", "moat", 0)


def test_what_varies_is_kept_where_an_arm_starts_from_another_scenario(tmp_path):
    arms = {
        "tuned": {
            "start_from": {"arm": "wsa", "scenario": {"linear": "moat", "moat": "linear"}},
            "overrides": {"actor_critic": {"use_wsa": True}},
        },
    }
    study = load_study(write_study(tmp_path, {"arms": arms, "vary": {"ppo.clip_range": [0.1, 0.2]}}))
    assert study.run(("tuned", "linear,clip_range=0.2", 0)).parent == ("wsa", "moat,clip_range=0.2", 0)


def test_agents_are_judged_in_the_worlds_as_the_study_changes_them(tmp_path):
    changes = {"evaluation": {"scenarios": ["stripes"], "conditions": {"lone": {"num_initial_nodes": 1}}}}
    run = load_study(write_study(tmp_path, changes)).run(("wsa", "linear", 0))
    probes = {(p.scenario, p.condition, p.intervention): p for p in run.probes}
    assert list(probes) == [
        ("linear", "trained", "none"),
        ("linear", "trained", "zero"),
        ("linear", "trained", "uniform"),
        ("linear", "lone", "none"),
        ("stripes", "trained", "none"),
    ]
    # Over fewer episodes than the main score: what these are held against is over as few.
    assert [p.episodes for p in run.probes] == [4, 2, 2, 2, 2, 2]
    assert run.probes[1].intervention == "none"
    same = load_study(write_study(tmp_path, {"evaluation": {"probe_episodes": 4}})).run(("wsa", "linear", 0))
    assert [p.intervention for p in same.probes] == ["none", "zero", "uniform"]
    elsewhere = probes[("stripes", "trained", "none")]
    assert (elsewhere.env.scenario, elsewhere.env.max_steps, elsewhere.episodes) == ("stripes", 10, 2)
    assert elsewhere.env.count_scale == run.config.env.count_scale
    assert probes[("linear", "lone", "none")].env.num_initial_nodes == 1
    assert len({probe.world for probe in run.probes}) == 3


def test_agents_are_judged_under_interventions_that_their_fusion_has(tmp_path):
    arms = {
        rule: {"overrides": {"actor_critic": {"use_wsa": True, "wsa_config": {"fusion": rule}}}}
        for rule in RULES
    }
    file = tmp_path / "rules.yaml"
    file.write_text(dump({**TINY, "arms": arms, "baseline": "mean"}), "utf-8")
    runs = {rule: load_study(file).run((rule, "linear", 0)) for rule in RULES}
    planned = {
        rule: [p.intervention for p in run.probes if p.intervention != "none"] for rule, run in runs.items()
    }
    for rule, run in runs.items():
        extractor = build_policy(run.config, torch.device("cpu")).actor.extractor
        for intervention in planned[rule]:
            with extractor.intervene(intervention):  # raises where there is nothing to force
                pass
    assert planned["projected_concat"] == ["zero"]
    assert planned["paper"] == ["zero", "uniform"]


def test_a_lesson_counts_as_training(tmp_path):
    taught = {
        "start_from": {"arm": "baseline", "by": "distillation", "steps": 64},
        "overrides": {"actor_critic": {"use_wsa": True}, "training": {"total_steps": 64}},
    }
    study = load_study(write_study(tmp_path, {"arms": {"taught": taught}}))
    assert {run.total_steps for run in study.runs} == {128}


def test_a_weights_file_is_pinned_by_what_is_in_it(tmp_path):
    weights = tmp_path / "own.safetensors"
    ptms = [{"model_type": "graph_gnn_connectivity", "weights": str(weights)}]
    arm = {"overrides": {"actor_critic": {"use_wsa": True, "wsa_config": {"ptms": ptms}}}}
    file = write_study(tmp_path, {"arms": {"own": arm}})
    digests = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        digests.append(load_study(file).run(("own", "linear", 0)).digest)
    assert digests[0] == digests[2] != digests[1]
    pinned = load_study(file).run(("own", "linear", 0)).config.actor_critic.wsa_config.ptms[0].sha256
    assert pinned == hashlib.sha256(b"one").hexdigest()


WRONG = {
    "arms that differ in what neither reads": (
        {
            "arms": {
                "sharp": {"overrides": {"actor_critic": {"use_wsa": True, "backbone": {"tap": "block2"}}}}
            }
        },
        r"arms sharp and wsa are the same; remove one of them .an actor reads `wsa_config`",
    ),
    "two worlds of a name": (
        {
            "scenarios": [
                "linear",
                {"name": "long", "scenario": "linear", "overrides": {"env": {"max_steps": 20}}},
            ],
            "evaluation": {"scenarios": ["exponential"]},
        },
        "two different worlds that are both called exponential",
    ),
    "runs in a circle": (
        {
            "arms": {
                "wsa": {
                    "start_from": {"arm": "wsa", "scenario": {"linear": "moat", "moat": "linear"}},
                }
            }
        },
        "runs wsa/linear/0, wsa/moat/0 start from each other",
    ),
    "the same control twice and another": (
        {"control": ["linear", "linear", "moat"]},
        "names every scenario",
    ),
    "no seeds": ({"seeds": []}, "seeds: .*at least 1"),
    "seeds of both kinds": ({"seeds": [0, 100]}, "0 to 4, to choose designs on, or from 100 on, to report"),
    "seeds of neither kind": ({"seeds": [7]}, "0 to 4"),
    "a seed twice": ({"seeds": [0, 0]}, "listed twice"),
    "an unknown scenario": (
        {"scenarios": ["moot"]},
        r"scenarios\.0: there is no scenario 'moot' \(did you mean 'moat'\?\)",
    ),
    "a scenario twice": ({"scenarios": ["moat", "moat"], "control": []}, "'moat' is listed twice"),
    "an unknown control": ({"control": ["stripes"]}, r"control\.0: there is no scenario 'stripes'"),
    "an unknown baseline": (
        {"baseline": "basline"},
        r"baseline: there is no arm 'basline' \(did you mean 'baseline'\?\)",
    ),
    "an unknown judge": (
        {"evaluation": {"scenarios": ["moot"]}},
        r"evaluation\.scenarios\.0: there is no scenario 'moot'",
    ),
    "equal arms": (
        {"arms": {"twin": {"overrides": {"actor_critic": {"use_wsa": True}}}}},
        "arms twin and wsa are the same|arms wsa and twin are the same",
    ),
    "another budget": (
        {"arms": {"wsa": {"overrides": {"training": {"total_steps": 256}}}}},
        r"differ in budget \(128 and 256",
    ),
    "another world": (
        {"arms": {"wsa": {"overrides": {"env": {"max_nodes": 30}}}}},
        r"differ in the world \(env.max_nodes: 60 and 30",
    ),
    "a key that is none": (
        {"arms": {"wsa": {"overrides": {"ppo": {"learning_rat": 1}}}}},
        r"arm wsa, scenario linear: ppo.learning_rat: unknown key \(did you mean 'learning_rate'",
    ),
    "an unknown parent": ({"arms": {"wsa": {"start_from": {"arm": "bas"}}}}, "there is no arm 'bas'"),
    "its own parent": ({"arms": {"wsa": {"start_from": {"arm": "wsa"}}}}, "would start from itself"),
    "parents in a circle": (
        {"arms": {"baseline": {"start_from": {"arm": "wsa"}}, "wsa": {"start_from": {"arm": "baseline"}}}},
        "start from each other",
    ),
    "a lesson without steps": (
        {"arms": {"wsa": {"start_from": {"arm": "baseline", "by": "distillation"}}}},
        "needs `steps`",
    ),
    "a seed of its own": (
        {"arms": {"wsa": {"overrides": {"run": {"seed": 3}}}}},
        "run.seed is set by `seeds`",
    ),
    "a device of its own": (
        {"arms": {"wsa": {"overrides": {"run": {"device": "cpu"}}}}},
        "`run` is the same for all",
    ),
    "seeds that vary": ({"vary": {"run.seed": [1, 2]}}, "run.seed is set by `seeds`"),
    "a scenario by the back door": ({"overrides": {"env": {"scenario": "moat"}}}, "env.scenario is set by"),
    "another scenario's name": (
        {"scenarios": [{"name": "linear", "scenario": "moat"}, "moat"]},
        "'linear' is another scenario's name",
    ),
    "one world twice": (
        {"scenarios": [{"name": "a", "scenario": "moat"}, {"name": "b", "scenario": "moat"}], "control": []},
        "scenarios a and b are the same for arm baseline",
    ),
    "a value twice": ({"vary": {"ppo.clip_range": [0.1, 0.1]}}, "lists a value twice"),
    "controls alone": ({"control": ["linear", "moat"]}, "names every scenario"),
    "seeds that are none": ({"seeds": [True]}, "seeds"),
    "another checkpoint": (
        {"arms": {"wsa": {"overrides": {"training": {"evaluate_every": 32}}}}},
        "differ in training.evaluate_every",
    ),
    "a condition that is another world": (
        {"evaluation": {"conditions": {"d": {"scenario": "moat"}}}},
        "d.scenario: cannot be a condition",
    ),
    "a condition that changes nothing": (
        {"evaluation": {"conditions": {"d": {"num_initial_nodes": 5}}}},
        "conditions.d: changes nothing",
    ),
    "a condition that is wrong": (
        {"evaluation": {"conditions": {"d": {"max_node": 5}}}},
        "max_node: unknown key",
    ),
    "half a rollout of lessons": (
        {"arms": {"wsa": {"start_from": {"arm": "baseline", "by": "distillation", "steps": 40}}}},
        "no whole number of rollouts of 32",
    ),
    "a bad name": ({"arms": {"a/b": {}}}, "letters, digits"),
    "the name of no condition": (
        {"evaluation": {"conditions": {"trained": {}}}},
        "cannot be the name of a condition",
    ),
    "more variants than the baseline": (
        {"seeds": [100], "arms": {"wsa": {"tried": ["lr 1e-4", "lr 1e-3"]}}},
        "chosen among 2 variants, the baseline baseline among 0",
    ),
    "threads of its own": (
        {"arms": {"wsa": {"overrides": {"run": {"threads": 2}}}}},
        "`run` is the same for all",
    ),
    "a curriculum of its own": (
        {
            "arms": {
                "wsa": {
                    "overrides": {"training": {"curriculum": [{"name": "a", "max_steps": 32}, {"name": "b"}]}}
                }
            }
        },
        "differ in training.curriculum",
    ),
    "other factors": (
        {"arms": {"baseline": {"factors": {"models": "one"}}, "wsa": {"factors": {"number": "three"}}}},
        r"arms\.wsa\.factors: names number, the arm baseline models",
    ),
    "a level of all arms": (
        {"arms": {"baseline": {"factors": {"models": "one"}}}},
        r"arms\.baseline\.factors\.models: is one in every arm",
    ),
    "levels of another arm": (
        {"arms": {"baseline": {"factors": {"models": "one"}}, "wsa": {"factors": {"models": "one"}}}},
        r"arms\.wsa\.factors: has the levels of the arm baseline",
    ),
    "a combination without an arm": (
        {
            "arms": {
                "baseline": {"factors": {"models": "one", "start": "scratch"}},
                "wsa": {"factors": {"models": "three", "start": "taught"}},
            }
        },
        r"no arm has \{models: one, start: taught\}",
    ),
    "a level that is no name": (
        {"arms": {"baseline": {"factors": {"models": "$\\frac$"}}}},
        r"arms\.baseline\.factors: '\$.*': factors and levels are made of letters",
    ),
    "a level that is no text": (
        {"arms": {"baseline": {"factors": {"models": False}}}},
        r"arms\.baseline\.factors\.models: .*string",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path, name):
    changes, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        load_study(write_study(tmp_path, changes))


def test_an_arm_given_twice_is_refused_with_its_line(tmp_path):
    path = write_study(tmp_path)
    path.write_text(path.read_text() + "arms: {}\n")
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+:1: .*arms"):
        load_study(path)


def test_a_study_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"no such study \(did you mean 'ablation'\?\)"):
        find_study("ablaton")


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_every_ready_study_resolves_with_report_seeds(name):
    study = load_study(name)
    assert study.config.purpose == "report"
    assert len(study.config.arms) >= 2
    assert all(arm.description for arm in study.config.arms.values())


def test_factors_of_the_ready_studies_are_what_their_arms_are():
    ablation = load_study("ablation")
    for run in ablation.runs:
        levels = ablation.config.arms[run.key[0]].factors
        agent = run.config.actor_critic
        models = agent.wsa_config.ptms if agent.use_wsa else (agent.backbone,)
        names = {model.model_type for model in models}
        assert ("graph_gnn_connectivity" in names) == (levels["weights"] == "pretrained")
        assert len(models) == {"alone": 1, "wsa": 2}[levels["fusion"]]
        assert (run.config.encoder.simplicial == "off") == (levels["embedding"] == "plain")
    for name, start in (("transfer", "elsewhere"), ("pretrain-then-wsa", "taught")):
        study = load_study(name)
        for run in study.runs:
            levels = study.config.arms[run.key[0]].factors
            assert (levels["start"] in (start, "own")) == (run.start_from is not None)
            assert (levels["models"] == "three") == run.config.actor_critic.use_wsa


def test_the_runs_beside_the_first_result_are_those_of_its_arms():
    """So that records of one are records of the other."""
    main = load_study("baseline-vs-wsa")
    beside = load_study(Path(__file__).parents[2] / "docs/results/baseline-vs-wsa/one-model-or-three.yaml")
    for scenario, seed in itertools.product(("moat", "patches"), range(100, 105)):
        for own, other in (("wsa", "wsa"), ("resnet", "baseline")):
            run, same = beside.run((own, scenario, seed)), main.run((other, scenario, seed))
            assert run.digest == same.digest
            assert set(run.probes) <= set(same.probes)


def test_the_ready_studies_are_those_that_were_asked_for():
    assert sorted(shipped_studies()) == [
        "ablation",
        "baseline-vs-wsa",
        "fusion-methods",
        "pretrain-then-wsa",
        "ptm-combinations",
        "ptm-curriculum",
        "robustness",
        "temperature-and-heads",
        "transfer",
        "unfreeze",
    ]
    assert TINY["base"] == "quick"


def test_scenarios_of_a_study_hold_over_a_base_that_is_written_out(tmp_path):
    """The worlds are those of a study whose `base` says only what it changes."""
    whole = load_config(find_config("quick"), RootConfig, ["env.left_moves_limit=20"])
    (tmp_path / "whole.yaml").write_text(to_yaml(whole), "utf-8")
    written = load_study(write_study(tmp_path, {"base": "whole.yaml"}))
    changes = {"overrides": {"env": {"left_moves_limit": 20}}}
    named = load_study(write_study(tmp_path, changes, "named"))
    assert {run.config.env.substrate.kind for run in written.runs} == {"linear", "moat"}
    assert [run.config.env for run in written.runs] == [run.config.env for run in named.runs]
