"""Attention explained: numbers against closed forms, words against episodes of which the truth is known."""

from __future__ import annotations

import csv
import dataclasses
import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import fake_study
from analysis.fake_attention import CRITICAL, NAMES, drifting, episode, noise, probe
from analysis.fake_run import write_run
from durotaxis.analysis.attention import (
    FACTORS,
    HIGH,
    MIDDLE,
    PHASE,
    bin_edges,
    contrast_map,
    elongation,
    leader,
    mean_unit,
    patterns,
    relations,
    seen,
    unit_of,
)
from durotaxis.analysis.attention_figures import (
    FIGURES,
    bin_labels,
    factors_figure,
    likeness_figure,
    terms_figure,
    training_figure,
    worth_figure,
)
from durotaxis.analysis.attention_groups import (
    Group,
    Training,
    jackknife,
    likenesses,
    load_groups,
    shapley,
    worths,
)
from durotaxis.analysis.attention_page import write_attention
from durotaxis.analysis.attention_words import findings
from durotaxis.analysis.stats import holm, mean_interval, p_of_mean
from durotaxis.analysis.tracks import hull_area
from durotaxis.records import (
    ATTENTION,
    PHASES,
    RecordError,
    Subset,
    read_episodes,
    read_jsonl,
    read_probe,
    write_episodes,
)


def group_of(observed, probes=(), training=None, **changes):
    """A group of made-up episodes."""
    borders = bin_edges(observed)
    units = [unit_of(one, borders) for one in observed]
    names = NAMES[: observed[0].share.shape[1]]
    whole = Group("made up", "attention", names, "episodes", "nothing real", units, borders, training, probes)
    return dataclasses.replace(whole, **changes)


def said(logits, count=10, **how):
    """The findings about episodes whose attention has these scores."""
    return " ".join(findings(group_of([seen(episode(seed, logits, **how)) for seed in range(count)])))


def follows(which, factor):
    """Scores in which one model's rises with something, of (places, stiffness)."""

    def logits(places, kpa, rng):
        score = noise(places, kpa, rng)
        score[:, NAMES.index(which)] += factor(places, kpa)
        return score

    return logits


# Shapes and ground


def test_shapes_have_their_closed_forms():
    square = np.array([[0, 0], [20, 0], [20, 20], [0, 20], [10, 10]], dtype=float)
    assert hull_area(square) == pytest.approx(400.0)
    assert elongation(square) == pytest.approx(0.0)
    line = np.array([[0, 0], [1, 2], [2, 4], [3, 6]], dtype=float)
    assert hull_area(line) == 0.0
    assert elongation(line) == pytest.approx(1.0, abs=1e-6)
    assert hull_area(line[:2]) == 0.0
    assert math.isnan(elongation(line[:1]))
    turned = square * [4.0, 1.0] @ np.array([[0.6, -0.8], [0.8, 0.6]])  # four times as long as wide, turned
    assert elongation(turned) == pytest.approx(0.75)


def test_contrast_is_none_on_even_ground_and_known_on_a_step():
    assert contrast_map(np.full((20, 40), 6.0), 1.0).max() == pytest.approx(0.0, abs=1e-6)
    step = np.ones((20, 60))
    step[:, 30:] = 3.0
    around = contrast_map(step, 1.0)  # windows of 21 pixels
    share = 11 / 21  # of stiff ground, at the first stiff column
    mean = 1 + 2 * share
    assert around[10, 30] == pytest.approx(2 * math.sqrt(share * (1 - share)) / mean)
    assert around[10, 15] == pytest.approx(0.0, abs=1e-6)


def test_an_episode_is_read_as_it_was_written():
    made = episode(3)
    found = seen(made)
    first = made.steps[0]
    weight = np.array(first["attention"])
    assert found.share[0] == pytest.approx(weight.mean(0))
    entropy = -(weight * np.log(weight)).sum(1)
    assert found.effective[0] == pytest.approx(np.exp(entropy).mean())
    assert len(found.factors["stiffness"][0]) == sum(len(row["nodes"]) for row in made.steps)
    assert found.factors["nodes"][0].tolist() == [len(row["nodes"]) for row in made.steps]
    assert found.factors["progress"][0][0] == pytest.approx(np.array(first["nodes"])[:, 0].mean() / 198.0)
    fronts = np.maximum.accumulate([max(x for x, _ in row["nodes"]) for row in made.steps])
    for phase, row, front in zip(found.phase, made.steps, fronts, strict=True):
        is_dense = len(row["nodes"]) > CRITICAL
        assert PHASES[phase] == ("dense" if is_dense else "migrating" if front >= 50.0 else "early")
    of_colony = seen(episode(3, rows="colony"))
    assert len(of_colony.factors["stiffness"][0]) == len(made.steps)
    assert seen(episode(3, names=())) is None


def test_contrast_is_read_at_the_nodes():
    """The soft lane lies in rows 10 to 14 of 30 from above: y from 53 to 67."""
    made = episode(0)
    nodes = [[100.0, 60.0], [100.0, 72.0], [100.0, 30.0]]
    rows = [
        {**row, "nodes": nodes, "stiffness": [1.0] * 3, "attention": [[0.2, 0.3, 0.5]] * 3}
        for row in made.steps
    ]
    around = seen(dataclasses.replace(made, steps=rows)).factors["contrast"][0][:3]
    assert around[1] > 0.3
    assert around[2] < 0.1


# Statistics


def test_corrected_p_values_are_holms():
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_of_a_mean_is_students():
    values = [0.3, -0.1, 0.5, 0.2]
    assert p_of_mean(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0.0).pvalue)
    assert p_of_mean([0.0, 0.0, 0.0]) == 1.0
    assert p_of_mean([0.25, 0.25, 0.25]) == 0.0
    assert p_of_mean([1.0, 2.0]) is None


def test_correlations_are_spearmans_within_each_episode():
    observed = [seen(episode(seed)) for seed in range(4)]
    group = group_of(observed)
    for unit, one in zip(group.units, observed, strict=True):
        for k in range(3):
            expected = scipy_stats.spearmanr(one.terms["progress"], one.share[:, k]).statistic
            assert unit.terms["progress"][k] == pytest.approx(expected)
        assert np.isnan(unit.terms["survival"]).all()
    found = relations(group.units, NAMES)
    assert {relation.term for relation in found} == {"progress"}
    assert found[1].rho == mean_interval([unit.terms["progress"][1] for unit in group.units])


def test_places_are_fifths_of_the_episodes_own_values():
    share = np.stack([np.arange(20.0), np.zeros(20)], 1)
    base = drifting(np.random.default_rng(0), 20)
    values = np.arange(20.0)
    observed = dataclasses.replace(base, share=share, factors=dict.fromkeys(FACTORS, (values, share)))
    unit = unit_of(observed, bin_edges([observed]))
    assert unit.contrasts["nodes", HIGH] == pytest.approx(
        [(16 + 17 + 18 + 19) / 4 - (0 + 1 + 2 + 3) / 4, 0.0]
    )
    assert unit.contrasts["nodes", MIDDLE] == pytest.approx([0.0, 0.0])
    assert unit.bins["nodes"][:, 0] == pytest.approx([1.5, 5.5, 9.5, 13.5, 17.5])
    few = dataclasses.replace(
        observed, factors=dict.fromkeys(FACTORS, (np.repeat([0.0, 1.0], [19, 1]), share))
    )
    assert np.isnan(unit_of(few, bin_edges([few])).contrasts["nodes", HIGH]).all()


def test_the_mean_of_units_leaves_out_what_says_nothing():
    units = group_of([seen(episode(seed)) for seed in range(3)]).units
    hollow = dataclasses.replace(units[0], terms={**units[0].terms, "progress": np.full(3, np.nan)})
    mean = mean_unit([hollow, *units[1:]])
    assert mean.terms["progress"] == pytest.approx(np.mean([unit.terms["progress"] for unit in units[1:]], 0))
    assert np.isnan(mean.terms["survival"]).all()


def test_of_noise_whose_steps_are_alike_few_sets_show_any_pattern():
    """Random walks: thousands of tests over steps would find patterns in nearly every set."""
    wrong_places = wrong_terms = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        observed = [drifting(rng) for _ in range(6)]
        group = group_of(observed)
        wrong_places += any(pattern.is_certain for pattern in patterns(group.units, NAMES))
        wrong_terms += any(relation.is_clear for relation in relations(group.units, NAMES))
    assert wrong_places <= 5  # 1.25 expected, at most; 5 or fewer with 0.999
    assert wrong_terms <= 5


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.array([0.2, 0.5, 0.9, 0.4])
    without = [float(np.delete(values, index).mean()) for index in range(4)]
    found, expected = jackknife(float(values.mean()), without), mean_interval(values.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert jackknife(0.5, [0.5]).low is None


def test_shapley_values_of_a_game_with_an_answer(tmp_path):
    """Two models that are worth 1 together and nothing apart share it; they add up in every game."""
    found = probe(tmp_path)
    total = np.array(found.subset(NAMES).returns) - np.array(found.subset(()).returns)
    assert sum(shapley(found, name) for name in NAMES) == pytest.approx(total)
    subsets = [
        Subset(one.ptms, [float({"cnn", "gnn"} <= set(one.ptms))] * 8, one.success, one.front_progress)
        for one in found.subsets
    ]
    game = dataclasses.replace(found, subsets=subsets)
    values = [shapley(game, name)[0] for name in ("cnn", "gnn", "resnet")]
    assert values == pytest.approx([0.5, 0.5, 0.0])


def test_worth_is_paired_by_episode(tmp_path):
    found = {worth.ptm: worth for worth in worths([probe(tmp_path)])}
    gnn, cnn = found["gnn"], found["cnn"]
    assert gnn.closed.mean == pytest.approx(-3.0, abs=0.1)
    assert gnn.closed.high - gnn.closed.low < 0.3  # unpaired, the episodes' luck would make it 2
    assert gnn.is_needed
    assert not cnn.is_clear
    assert cnn.alone.mean == pytest.approx(-3.0, abs=0.1)
    assert gnn.alone.mean == pytest.approx(0.0, abs=0.1)
    several = [probe(tmp_path, seed=seed) for seed in range(3)]
    over_runs = {worth.ptm: worth for worth in worths(several)}["gnn"]
    assert over_runs.closed.count == 3
    partial = dataclasses.replace(several[0], is_complete=False)
    assert all(worth.shapley is None for worth in worths([partial]))


# Words


def test_noise_has_no_clear_pattern():
    text = said(noise)
    assert "No model clearly leads: " in text
    assert (
        "No clear pattern with node count, density, colony shape, stiffness, stiffness contrast, progress or "
        "phase of the episode." in text
    )
    assert "No clear pattern with any reward term." in text
    assert "more attention" not in text


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [
        (lambda places, kpa: 0.1 * len(places), "With more nodes, cnn has more attention (+"),
        (lambda places, kpa: -0.3 * kpa, "On stiffer ground, cnn has less attention (-"),
        (lambda places, kpa: 0.01 * places[:, 0].mean(), "Nearer to the goal, cnn has more attention (+"),
        (lambda places, kpa: 0.8 * (len(places) > CRITICAL), "In phase dense, cnn has more attention (+"),
        (
            lambda places, kpa: 0.8 * (5 < len(places) < 18),
            "At middling node count, cnn has more attention (+",
        ),
        (
            lambda places, kpa: 2 * (abs(places[:, 1] - 60) < 12),
            "Where stiffness changes more around a node, cnn ",
        ),
    ],
)
def test_a_known_pattern_is_said(factor, sentence):
    assert sentence in said(follows("cnn", factor))


def test_a_pattern_that_is_certain_but_tiny_is_called_so():
    def logits(places, kpa, rng):
        return np.array([[0.001 * len(places), 0.0, 0.0]]).repeat(len(places), 0)

    text = said(logits)
    assert re.search(r"More than chance, but below 0\.01 of attention: differences with node count", text)


def test_attention_that_never_changes_follows_nothing():
    """Means of equal weights differ by rounding errors, which go with the number of nodes."""
    fixed = np.log([[0.2, 0.1, 0.7]])
    text = said(lambda places, kpa, rng: fixed.repeat(len(places), 0))
    assert "resnet leads everywhere: 0.70 [0.70, 0.70] of attention" in text
    assert "No clear pattern with node count, density" in text
    assert "reward term" not in text


def test_who_leads_is_said_with_where():
    ahead = follows("gnn", lambda places, kpa: 1.0)
    text = said(ahead)
    assert re.search(r"gnn leads everywhere: 0\.\d\d \[0\.\d\d, 0\.\d\d\] of attention; ", text)

    def turned(places, kpa):
        return np.full(len(places), -2.0 if len(places) > 16 else 1.0)

    assert "gnn leads on the whole" in (text := said(follows("gnn", turned)))
    assert re.search(r"others lead elsewhere: .*at the highest node count", text)
    assert "gnn leads everywhere, by little: " in said(follows("gnn", lambda places, kpa: 0.1), count=30)


def test_leading_needs_to_be_ahead_of_every_other():
    rng = np.random.default_rng(1)
    units = group_of([drifting(rng) for _ in range(6)]).units
    level = [dataclasses.replace(u, share=np.array([0.4, 0.4, 0.2]) + rng.normal(0, 0.02, 3)) for u in units]
    assert leader(level)[1] is False
    clear = [dataclasses.replace(u, share=np.array([0.3, 0.5, 0.2]) + rng.normal(0, 0.02, 3)) for u in units]
    assert leader(clear) == (1, True)


def test_a_reward_term_that_goes_with_attention_is_named():
    observed = [seen(episode(seed)) for seed in range(20, 28)]
    tied = [
        dataclasses.replace(one, terms={"spawn": one.share[:, 0] ** 3, "delete": one.terms["progress"]})
        for one in observed
    ]
    text = " ".join(findings(group_of(tied)))
    assert "Reward terms that go with attention, step by step (rank correlation): spawn (cnn +1.00" in text
    assert "delete (" not in text
    assert "No clear pattern with delete." in text


def test_attention_and_worth_are_set_against_each_other(tmp_path):
    observed = [seen(episode(seed, follows("cnn", lambda places, kpa: 1.0))) for seed in range(8)]
    text = " ".join(findings(group_of(observed, [probe(tmp_path)])))
    assert "over 8 episodes of the agent of 1,000 steps: closing gnn costs return (-3.0" in text
    assert "Closing one of the others makes no clear difference: cnn " in text
    assert "With the best one alone, gnn, the return changes by " in text
    assert "So the model with most attention, cnn, is not one that is clearly needed." in text
    assert "the most similar embeddings (CKA 0.20 [" in text
    assert "What each model is worth was not measured." in " ".join(findings(group_of(observed)))


def test_few_episodes_and_one_model_are_said_plainly():
    assert "Too few episodes (2) to tell patterns from chance." in said(noise, count=2)
    text = said(noise, names=("cnn",))
    assert "There is one model, cnn, so that it has all attention." in text
    assert "pattern" not in text


def test_training_is_told_from_its_first_to_its_last_tenth():
    step = np.arange(1, 21) * 100.0
    effective = np.linspace(3.0, 1.1, 20)[None]
    stages = {"easy": np.array([[0.7, 0.2, 0.1]]), "hard": np.array([[0.1, 0.8, 0.1]])}
    training = Training(step, np.full((1, 20, 3), 1 / 3), effective, stages)
    text = " ".join(findings(group_of([seen(episode(seed)) for seed in range(4)], training=training)))
    assert "in training it went from 2.95 (first tenth) to 1.20 (last)." in text
    assert "Most attention by curriculum stage: easy cnn (0.70), hard gnn (0.80)." in text


# Runs and studies


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with attention over training in two stages, recorded episodes and a probe."""
    path = tmp_path_factory.mktemp("runs") / "made-up"
    write_run(path, 20)
    rows = read_jsonl(path / ATTENTION)
    (path / ATTENTION).unlink()
    with (path / ATTENTION).open("w") as file:
        import json

        for row in rows:
            row |= {"value/ptm_names": list(NAMES), "stage": "easy" if row["iteration"] <= 8 else "hard"}
            file.write(json.dumps(row) + "\n")
    write_episodes(path, [episode(seed, follows("gnn", lambda places, kpa: 1.0)) for seed in range(6)])
    probe(path)
    return path


def test_a_page_with_its_figures_and_tables_is_written(run, tmp_path, monkeypatch):
    drawn = [entry for entry in FIGURES if entry[0] in ("worth", "similarity")]
    monkeypatch.setattr("durotaxis.analysis.attention_page.FIGURES", drawn)
    done = write_attention(run, tmp_path / "out")
    page = done.page.read_text("utf-8")
    linked = re.findall(r"\]\(([^)]+)\)", page)
    assert sorted(linked) == ["attention-similarity.png", "attention-worth.png"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in done.files}
    assert {link.replace("png", "svg") for link in linked} < names
    assert set(linked) < names
    assert "gnn leads everywhere" in page
    ((_, lines),) = done.findings
    assert all(line in page for line in lines)
    with (tmp_path / "out" / "attention-models.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(NAMES)
    (group,) = load_groups(run)
    assert float(rows["gnn"]["attention"]) == pytest.approx(np.mean([unit.share[1] for unit in group.units]))
    assert float(rows["gnn"]["return without it"]) == worths(group.probes)[1].closed.mean


def test_figures_show_the_numbers(run):
    (group,) = load_groups(run)
    panels = factors_figure(group).axes
    titles = [factor.label for factor in FACTORS.values()] + ["phase of the episode", "curriculum stage"]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    line = next(line for line in panels[0].get_lines() if line.get_label() == "gnn")
    bins = np.stack([unit.bins["nodes"] for unit in group.units])[:, :, 1]
    known = ~np.isnan(bins)
    assert line.get_ydata() == pytest.approx(np.where(known, bins, 0).sum(0) / known.sum(0))
    cells = [text.get_text() for text in terms_figure(group).axes[0].texts]
    assert [text.rstrip(" *") for text in cells] == [
        f"{relation.rho.mean:+.2f}" for relation in relations(group.units, NAMES)
    ]
    assert len(likeness_figure(group).axes[0].texts) == 9
    upper, lower = training_figure(group).axes
    assert np.array_equal(lower.get_lines()[0].get_ydata(), group.training.effective[0])
    assert len(upper.get_lines()) == 4
    first, *_, last = worth_figure(group).axes
    marks = [line.get_xdata()[0] for line in first.get_lines() if len(line.get_xdata()) == 1]
    assert marks == [worth.closed.mean for worth in worths(group.probes)]
    assert last.get_title(loc="left") == "Shapley value"
    assert bin_labels(np.array([0.0, 0.25, 0.5])) == ["0.0 to 0.2", "0.2 to 0.5"]


def test_a_run_without_attention_or_episodes_is_refused(run, tmp_path):
    plain = write_run(tmp_path / "plain", 3, with_attention=False).path
    with pytest.raises(RecordError, match="plain has no attention: its agent has one model"):
        load_groups(plain)
    bare = write_run(tmp_path / "bare", 3).path
    with pytest.raises(RecordError, match="has no recorded episodes; `durotaxis evaluate"):
        load_groups(bare)
    write_episodes(bare, [episode(0, names=())])
    with pytest.raises(RecordError, match="its recorded episodes have no attention"):
        load_groups(bare)
    with pytest.raises(RecordError, match="is not a run directory"):
        load_groups(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        write_attention(run, tmp_path / "file")


def in_scenario(name: str, made):
    return dataclasses.replace(made, info=dataclasses.replace(made.info, scenario=name))


def test_a_probe_of_another_agent_or_world_is_not_set_beside_episodes(tmp_path):
    """Attention and worth are of one agent, or worth is left out."""
    place = write_run(tmp_path / "run").path
    made = [episode(seed) for seed in range(4)]
    write_episodes(place, made)
    probe(place)
    assert len(load_groups(place)[0].probes) == 1
    for odd in ({"trained_steps": 7}, {"scenario": "moat"}, {"deterministic": True}):
        write_episodes(place, [dataclasses.replace(e, info=dataclasses.replace(e.info, **odd)) for e in made])
        assert len(load_groups(place)[0].probes) == 0, odd


def test_a_study_is_analysed_from_its_records_and_from_what_runs_are_left(tmp_path):
    fake_study.write_study(tmp_path / "study", with_cost=False, with_configs=False)
    groups = load_groups(tmp_path / "study")
    assert [group.title for group in groups] == [f"wsa in {name}" for name in fake_study.BASE]
    assert {group.over for group in groups} == {"runs"}
    assert all(len(group.units) == 10 for group in groups)
    text = " ".join(findings(groups[0]))
    assert "From the records of 10 runs, attention in the last tenth of training: no run directory" in text
    assert "graph_cnn leads everywhere" in text
    for seed in (100, 101, 102):
        place = tmp_path / "study" / "runs" / "wsa" / "moat" / str(seed)
        place.mkdir(parents=True)
        names = tuple(fake_study.MODELS)
        write_episodes(place, [in_scenario("moat", episode(10 * seed + j, names=names)) for j in range(3)])
        probe(place, names=("graph_cnn", "gnn", "resnet34_random"), seed=seed)
    elsewhere = tmp_path / "study" / "runs" / "wsa" / "moat" / "103"
    elsewhere.mkdir()
    write_episodes(elsewhere, [in_scenario("linear", episode(7, names=names))])  # evaluated there
    moat, patches, *_ = load_groups(tmp_path / "study")
    assert "From 9 recorded episodes of 3 of 10 runs" in " ".join(findings(moat))
    assert len(moat.units) == 3
    assert "the records of 10 runs" in findings(patches)[0]
    own = [unit_of(one, moat.borders) for one in map(seen, read_episodes(place))]
    assert moat.units[2].share == pytest.approx(np.mean([unit.share for unit in own], 0))
    assert worths(moat.probes)[1].closed.count == 3
    assert likenesses(moat.probes)[0].cka.count == 3


def test_a_study_without_attention_is_refused(tmp_path):
    study = fake_study.plan()
    only = dataclasses.replace(
        study, arms=study.arms[:1], runs=[run for run in study.runs if run.arm == "baseline"]
    )
    fake_study.write_study(tmp_path / "study", only, with_cost=False, with_configs=False)
    with pytest.raises(RecordError, match="none of its finished runs has attention"):
        load_groups(tmp_path / "study")


def test_a_probe_is_read_back_and_damage_is_told(tmp_path):
    made = probe(tmp_path)
    found = read_probe(tmp_path)
    assert found.subset(["gnn", "cnn"]).returns == made.subset(("cnn", "gnn")).returns
    with pytest.raises(KeyError, match="other"):
        found.subset(["other"])
    path = tmp_path / "probe.json"
    text = path.read_text()
    for old, new, message in (
        ('"format":1', '"format":9', "of format 9, this version reads 1"),
        ('"step":1000', '"stop":1000', "missing or unknown: step, stop"),
        ('"seeds":[0,', '"seeds":[', "7 seeds, but columns of"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(RecordError, match=message):
            read_probe(tmp_path)
    path.unlink()
    assert read_probe(tmp_path) is None


def test_phase_places_compare_with_the_whole_episode():
    one = seen(episode(5))
    unit = unit_of(one, bin_edges([one]))
    dense = one.share[one.phase == 2].mean(0)
    assert unit.contrasts[PHASE, "dense"] == pytest.approx(dense - one.share.mean(0))
    always = dataclasses.replace(one, phase=np.full(len(one.phase), 2))
    assert np.isnan(unit_of(always, bin_edges([one])).contrasts[PHASE, "dense"]).all()
