"""Hyperparameter search: as many trials for every arm, failures counted, continued after any end."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from study_cases import FakeLauncher, fake_record, write_study

from durotaxis import cli
from durotaxis.core.config import load_config
from durotaxis.core.errors import UserError
from durotaxis.core.marks import read_file
from durotaxis.records import RecordError, read_plan, read_record
from durotaxis.study.config import RootConfig
from durotaxis.study.launchers import Outcome
from durotaxis.study.plan import load_study
from durotaxis.study.search import (
    RESULT,
    TRIED,
    WORST,
    best_trial,
    plan_search,
    run_score,
    run_search,
    write_result,
)
from durotaxis.study.space import read_space

pytestmark = pytest.mark.unchecked

SPACE = """\
ppo.learning_rate: {low: 1e-4, high: 3e-3, log: true}
ppo.num_epochs: {low: 1, high: 4}
actor_critic.wsa_config.hidden_dims: [[8, 4], [4, 4]]
"""
TWO = {"scenarios": ["linear", "moat"], "control": ["linear"]}
TARGET = math.log10(1e-3)


def closed_form(text):
    """A score that is best at a learning rate of 0.001, and one epoch; of a configuration as it is stored."""
    rate, epochs = (
        float(re.search(rf"\b{key}: ([^,}}\n]+)", text)[1]) for key in ("learning_rate", "num_epochs")
    )
    return -abs(math.log10(rate) - TARGET) - 0.05 * (epochs - 1)


def act(assignment, attempts):
    """A run that ends with exactly that normalised return, on top of what its scenario is good for."""
    record = fake_record(assignment, attempts)
    low, high = (reference(assignment.scenario, policy) for policy in ("random", "delete-left"))
    value = low + (high - low) * closed_form(Path(assignment.config).read_text())
    scores = tuple(dataclasses.replace(score, return_mean=value) for score in record.scores)
    return Outcome(assignment, dataclasses.replace(record, scores=scores))


def reference(scenario, policy):
    from durotaxis.study.score import load_scores

    return load_scores()[scenario][policy]["return_mean"]


@pytest.fixture
def make(tmp_path):
    """A search over the tiny study in worlds of the package, whose scores are known, on seed 0."""

    def make(trials=3, space=SPACE, changes=None, seed=0, objective="return", directory="search", out="out"):
        values = {"seeds": [0], "scenarios": ["moat"], "control": [], **(changes or {})}
        path = write_study(tmp_path, values)
        text = path.read_text("utf-8").replace("env: {max_steps: 10}", "env: {}")
        assert "env: {}" in text
        path.write_text(text, "utf-8")
        (tmp_path / "space.yaml").write_text(space, "utf-8")
        return plan_search(
            load_study(path),
            read_space(tmp_path / "space.yaml"),
            trials,
            objective,
            seed,
            tmp_path / directory,
            tmp_path / out,
        )

    return make


def run(search, acting=act, **options):
    launcher = FakeLauncher(acting, **options)
    return run_search(search, lambda: launcher), launcher


def values_of(trials):
    return {arm: [trial.values for trial in each] for arm, each in trials.items()}


def test_every_arm_gets_as_many_trials_of_the_same_space(make):
    search = make(changes=TWO)
    trials, launcher = run(search)
    assert {arm: len(each) for arm, each in trials.items()} == {"baseline": 3, "wsa": 3}
    assert len(launcher.started) == 2 * 3 * 2 == len({name for name, _ in launcher.started})
    drawn = values_of(trials)
    assert drawn["baseline"] == drawn["wsa"]  # the same sampler, and equal scores
    for values in drawn["wsa"]:
        assert 1e-4 <= values["ppo.learning_rate"] <= 3e-3
        assert values["ppo.num_epochs"] in (1, 2, 3, 4)
        assert values["actor_critic.wsa_config.hidden_dims"] in ([8, 4], [4, 4])
    assert len({values["ppo.learning_rate"] for values in drawn["wsa"]}) == 3
    other, _ = run(make(seed=7, directory="other"))
    assert values_of(other) != drawn
    assert len(read_plan(search.directory).arms) == 6


def test_scores_are_normalised_means_and_the_best_is_found(make):
    trials, _ = run(make(trials=4, changes=TWO))
    for arm, each in trials.items():
        expected = [
            -abs(math.log10(t.values["ppo.learning_rate"]) - TARGET) - 0.05 * (t.values["ppo.num_epochs"] - 1)
            for t in each
        ]
        assert [trial.score for trial in each] == pytest.approx([max(WORST, e) for e in expected], abs=1e-6)
        assert best_trial(each).number == int(np.argmax(expected)), arm


@pytest.mark.slow
def test_later_trials_learn_from_earlier_ones(make):
    """Beyond the ten random ones the sampler stays near the best; uniform draws would not."""
    space = "ppo.learning_rate: {low: 1e-5, high: 1e-1, log: true}\n"
    trials, _ = run(make(trials=20, space=space))
    distance = [abs(math.log10(t.values["ppo.learning_rate"]) - TARGET) for t in trials["wsa"]]
    assert np.median(distance[10:]) < 0.5 * np.median(distance[:10])


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(make):
    whole, _ = run(make())
    for stop_at in (4,):
        count = 0

        def killed(assignment, attempts, stop_at=stop_at):
            nonlocal count
            count += 1
            if count == stop_at:
                raise KeyboardInterrupt
            return act(assignment, attempts)

        search = make(directory=f"killed{stop_at}", out=f"out{stop_at}")
        with pytest.raises(KeyboardInterrupt):
            run(search, killed)
        resumed, launcher = run(search)
        assert resumed == whole
        assert len(launcher.started) == 6 - (stop_at - 1)
        again, launcher = run(search)
        assert (again, launcher.started) == (whole, [])


def test_a_kill_between_two_arms_of_a_turn_leaves_them_equal_in_the_end(make):
    search = make()

    def tired(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(search, lambda: FakeLauncher(act), say=tired)
    resumed, _ = run(search)
    assert {len(each) for each in resumed.values()} == {3}
    assert resumed == run(make(directory="whole"))[0]


def test_more_trials_continue_and_fewer_are_refused(make):
    three, _ = run(make())
    five, launcher = run(make(trials=5))
    assert {arm: each[:3] for arm, each in five.items()} == three
    assert len(launcher.started) == 2 * 2
    with pytest.raises(UserError, match=r"had 5 trials already; ask for as many, or more, of every arm"):
        run(make(trials=4))


def test_a_crashed_trial_has_the_worst_score_and_is_not_dropped(make):
    def crashing(assignment, attempts):
        if assignment.arm == "wsa,trial=1" and assignment.scenario == "moat":
            return Outcome(assignment, crash="ValueError: broke")
        return act(assignment, attempts)

    search = make(changes=TWO)
    said = []
    launcher = FakeLauncher(crashing)
    trials = run_search(search, lambda: launcher, say=said.append)
    failed = trials["wsa"][1]
    assert (failed.state, failed.score, failed.error) == ("failed", WORST, "moat/0: ValueError: broke")
    assert launcher.started.count(("wsa,trial=1/moat/0", 2)) == 1  # the study's two attempts
    assert len(said) == 6
    assert any("trial 1" in line and line.endswith("failed: moat/0: ValueError: broke") for line in said)
    write_result(search, trials)
    rows = json.loads((search.out / RESULT).read_text())["arms"]["wsa"]["trials"]
    assert [row["state"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["error"] == "moat/0: ValueError: broke"


def test_a_run_scores_no_less_than_a_failed_one(make):
    record = act_record(-500.0)
    references = {
        "random": {"return_mean": 0.0, "return_se": 0.1},
        "delete-left": {"return_mean": 10.0, "return_se": 0.1},
    }
    assert run_score(record, references, "return") == WORST
    assert run_score(act_record(4.0), references, "return") == pytest.approx(0.4)


OWN_WORLD = MappingProxyType(
    {"scenario": "linear", "condition": "trained", "intervention": "none", "world": "0" * 12, "episodes": 4}
)


def act_record(value, curve=None):
    """A record of one run with that return, success in 3 of 4 episodes."""

    @dataclasses.dataclass(frozen=True)
    class Plain:
        study: str = "s"
        arm: str = "a"
        scenario: str = "linear"
        seed: int = 0
        digest: str = "d"
        probes: tuple = (OWN_WORLD,)

    record = fake_record(Plain(), success=0.75)
    scores = tuple(dataclasses.replace(score, return_mean=value) for score in record.scores)
    return dataclasses.replace(record, scores=scores, **({} if curve is None else {"curve": curve}))


def test_the_area_under_the_curve_counts_the_whole_training():
    """Flat 1 to step 32, then straight to 3 at step 96, flat to 128: (32 + 2 * 64 + 3 * 32) / 128."""
    references = {
        "random": {"return_mean": 1.0, "return_se": 0.0},
        "delete-left": {"return_mean": 5.0, "return_se": 0.0},
    }
    curve = {"step": [32, 96], "return": [1.0, 3.0], "success_rate": [0.0, 0.5]}
    record = act_record(9.0, curve)
    height = (32 * 1 + 64 * 2 + 32 * 3) / 128
    assert run_score(record, references, "auc") == pytest.approx((height - 1) / 4)
    assert run_score(record, None, "auc") == pytest.approx((64 * 0.25 + 32 * 0.5) / 128)
    empty = {"step": [], "return": [], "success_rate": []}
    assert run_score(act_record(9.0, empty), references, "auc") == WORST


@pytest.mark.parametrize("reference_mean", [0.0, -3.0, 0.6])
def test_success_takes_the_place_of_a_return_that_cannot_be_normalised(reference_mean):
    """Equal, in the wrong order, or less than 5 standard errors apart."""
    references = {
        "random": {"return_mean": 0.0, "return_se": 0.1},
        "delete-left": {"return_mean": reference_mean, "return_se": 0.1},
    }
    assert run_score(act_record(9.0), references, "return") == 0.75


def test_values_that_do_not_go_together_are_a_failed_trial(make):
    """Each fits alone; 12 wide with 8 heads does not."""
    space = "encoder.hidden_dim: [16, 12]\nencoder.num_heads: [4, 8]\n"
    trials, launcher = run(make(trials=8, space=space))
    wrong = [t for t in trials["wsa"] if set(t.values.values()) == {12, 8}]
    assert wrong
    for trial in wrong:
        assert (trial.state, trial.score) == ("failed", WORST)
        assert "hidden_dim (12) must be divisible by num_heads (8)" in trial.error
    assert not any(f",trial={wrong[0].number}/" in name for name, _ in launcher.started)
    # Equal values were drawn more than once, but trained once.
    different = {tuple(t.values.values()) for t in trials["wsa"] if t.state == "finished"}
    assert len(launcher.started) == 2 * len(different)
    assert run(make(trials=8, space=space))[0] == trials


def test_the_files_that_come_of_it(make):
    search = make(changes=TWO)
    trials, _ = run(search)
    written = write_result(search, trials)
    assert set(written) == {"baseline", "wsa"}
    for arm, path in written.items():
        best = best_trial(trials[arm])
        head = path.read_text().split("\nenv:")[0]
        for part in (
            "the study tiny",
            f"arm {arm}",
            f"trial {best.number}",
            "best of 3 trials",
            "objective return",
            "linear, moat",
            "tuning seeds 0",
        ):
            assert part in head
        for scenario in ("linear", "moat"):
            digest = read_record(search.directory / f"records/{best.name}/{scenario}/0.json").config
            trained = load_config(search.directory / f"configs/{digest}.yaml", RootConfig)
            found = load_config(path, RootConfig, [f"env.scenario={scenario}", "run.seed=0"]).settled()
            assert found == trained
    result = json.loads((search.out / RESULT).read_text())
    assert result["arms"]["wsa"]["best"] == best_trial(trials["wsa"]).number
    assert [row["score"] for row in result["arms"]["wsa"]["trials"]] == [t.score for t in trials["wsa"]]
    assert (result["trials"], result["seeds"], result["total_steps"]) == (3, [0], 128)
    tried = read_file(search.out / TRIED).values["arms"]
    assert {arm: len(entry["tried"]) for arm, entry in tried.items()} == {"baseline": 3, "wsa": 3}
    assert tried["wsa"]["tried"][0].startswith("search tiny, return, trial 0: ppo.learning_rate=")


def test_what_was_found_can_be_the_base_of_a_study_that_reports(make, tmp_path):
    search = make()
    trials, _ = run(search)
    path = write_result(search, trials)["wsa"]
    text = f"question: Is it good?\nbase: {path}\narms: {{only: {{}}}}\nscenarios: [moat]\nseeds: [100]\n"
    (tmp_path / "report.yaml").write_text(text)
    config = load_study(tmp_path / "report.yaml").runs[0].config
    assert config.ppo.learning_rate == best_trial(trials["wsa"]).values["ppo.learning_rate"]
    assert config.env == load_config(None, RootConfig, ["env.scenario=moat"]).env
    lines = read_file(search.out / TRIED).values["arms"]["wsa"]["tried"]
    (tmp_path / "report.yaml").write_text(text.replace("{}", json.dumps({"tried": lines})))
    assert len(load_study(tmp_path / "report.yaml").config.arms["only"].tried) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seeds": [100]},
            r"chosen on seeds 0 to 4, and this study has seeds from 100 on; add seeds=\[0,1\]",
        ),
        (
            {"arms": {"late": {"start_from": {"arm": "wsa"}}}},
            "arm late starts from wsa, and a search trains every trial from the start",
        ),
    ],
)
def test_studies_that_cannot_be_searched(make, changes, message):
    with pytest.raises(UserError, match=message):
        make(changes=changes)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "ppo.learning_rat: [1, 2]",
            "--space, ppo.learning_rat: 1 does not fit: .*did you mean 'learning_rate'",
        ),
        (
            "ppo.clip_range: {low: 0.1, high: 0.9}\nppo.num_epochs: {low: 0, high: 3}",
            "--space, ppo.num_epochs: 0 does not fit",
        ),
        (
            "env.max_steps: [1, 2]",
            r"space.yaml:1:\d+: env.max_steps: only keys of encoder, actor_critic, ppo can be",
        ),
        ("training.total_steps: [1, 2]", "training.total_steps: only keys of"),
        ("ppo: [1, 2]", "ppo: only keys of"),
        (
            "ppo.rollout_steps: [8, 9]",
            "9 does not fit: .*changes the budget of arm baseline to 144 .* from 128",
        ),
        ("ppo.a: {low: 2, high: 1}", r"low \(2\) must be below high \(1\)"),
        ("ppo.a: {low: 0, high: 1, log: true}", "must be above 0 where `log` is true"),
        ("ppo.a: {low: 1, high: 3, log: true, step: 1}", "`log` and `step` exclude each other"),
        ("ppo.a: {low: 1, high: 4, step: 2}", r"high - low \(3\) must be a multiple of step"),
        ("ppo.a: {low: 1, high: 4, step: 0.5}", "must be a whole number between whole numbers"),
        ("ppo.a: {lwo: 1, high: 4}", "ppo.a: lwo: unknown key .did you mean 'low'"),
        ("ppo.a: {low: true, high: 4}", "a number is wanted, not true or false"),
        ("ppo.a: [1]", "ppo.a: values: .*at least 2"),
        ("ppo.a: [1, 2, 1]", "1 is listed twice"),
        ("ppo.a: 3", "give a range, such as {low: 1, high: 8}, or a list of choices"),
        ("ppo.a: [1, 2]\nppo.a.b: [1, 2]", r"ppo.a: holds ppo.a.b; search one of the two"),
        ("{}", "is empty; name at least one key"),
    ],
)
def test_wrong_spaces_are_refused(make, space, message):
    with pytest.raises(UserError, match=message):
        make(space=space)


def test_all_that_is_wrong_with_a_space_is_said_at_once(make):
    with pytest.raises(UserError) as error:
        make(space="ppo.a: 3\nenv.b: [1, 2]\nppo.c: {low: 2, high: 1}\n")
    assert len(str(error.value).splitlines()) == 3


def test_another_search_in_the_same_place_is_refused(make, tmp_path):
    search = make(trials=1)
    trials, _ = run(search)
    write_result(search, trials)
    for changed, part in (
        (make(space=SPACE.replace("3e-3", "2e-3"), out="b"), "space"),
        (make(seed=1, out="b"), "sampler_seed"),
        (make(objective="auc", out="b"), "objective"),
        (make(changes={"seeds": [0, 1]}, out="b"), "runs"),
    ):
        with pytest.raises(
            UserError, match=rf"holds another search \(it differs in {part}\); choose another --dir"
        ):
            run(changed)
    with pytest.raises(
        UserError, match=r"holds another search \(it differs in sampler_seed\); choose another --out"
    ):
        run(make(trials=1, seed=1, directory="elsewhere"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "wsa.yaml").write_text("precious")
    with pytest.raises(UserError, match=r"wsa.yaml: exists already; choose another --out"):
        run(make(directory="elsewhere", out="mine"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_search_is_made_by_one_process(make):
    from durotaxis.study.study import alone

    search = make()
    with alone(search.directory), pytest.raises(RecordError, match="another process runs this study"):
        run(search)


def test_refused_runs_end_the_search_and_it_goes_on_when_they_are_mended(make):
    search = make()
    with pytest.raises(UserError, match="no weights here"):
        run(search, lambda assignment, attempts: Outcome(assignment, refusal="no weights here"))
    assert run(search)[0] == run(make(directory="whole"))[0]


def test_unknown_objectives_and_a_missing_optuna(make, monkeypatch):
    with pytest.raises(UserError, match="--objective best: must be one of return, auc"):
        make(objective="best")
    search = make()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'durotaxis\[optuna\]'"):
        run(search)


def test_the_command_searches_and_says_what_it_found(tmp_path, capfd):
    """Real trainings: two arms, two trials, one scenario, one seed."""
    path = write_study(tmp_path, {"seeds": [0], "scenarios": ["moat"], "control": []})
    (tmp_path / "space.yaml").write_text("ppo.learning_rate: {low: 1e-4, high: 3e-3, log: true}\n")
    command = ["study", "search", str(path), "--trials", "2", "--space", str(tmp_path / "space.yaml")]
    command += [
        "--out",
        str(tmp_path / "found"),
        "--directory",
        str(tmp_path / "search"),
        "--launcher",
        "inline",
    ]
    assert cli.run([*command, "--plan"]) == 0
    out, err = capfd.readouterr()
    assert "2 arms x 2 trials x 1 scenarios x 1 seeds = 4 runs of 128 steps; objective return" in out
    assert not (tmp_path / "search").exists()
    assert cli.run(command) == 0
    out, err = capfd.readouterr()
    assert "optuna" not in (out + err).lower()
    for arm in ("baseline", "wsa"):
        for number in (0, 1):
            assert f"{arm}, trial {number}: ppo.learning_rate=" in out
        assert f"best of {arm}: trial" in out
    rows = json.loads((tmp_path / "found" / RESULT).read_text())["arms"]["wsa"]
    assert [row["state"] for row in rows["trials"]] == ["finished", "finished"]
    best = rows["trials"][rows["best"]]
    record = read_record(tmp_path / f"search/records/wsa,trial={best['number']}/moat/0.json")
    references = read_plan(tmp_path / "search").scenarios[0].references
    assert run_score(record, references, "return") == best["score"] == max(r["score"] for r in rows["trials"])
    found = load_config(tmp_path / "found" / "wsa.yaml", RootConfig, ["run.seed=0"]).settled()
    assert found == load_config(tmp_path / f"search/configs/{record.config}.yaml", RootConfig)
    assert found.ppo.learning_rate == best["values"]["ppo.learning_rate"]


def test_the_command_refuses_report_seeds(tmp_path, capfd):
    path = write_study(tmp_path, {"seeds": [100]})
    (tmp_path / "space.yaml").write_text("ppo.num_epochs: [1, 2]\n")
    command = ["study", "search", str(path), "--trials", "2", "--space", str(tmp_path / "space.yaml")]
    assert cli.run([*command, "--out", str(tmp_path / "found")]) == 2
    assert "designs are chosen on seeds 0 to 4" in capfd.readouterr().err
