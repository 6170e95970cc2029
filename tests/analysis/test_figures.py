"""Figures: what they show, and that they are written whole."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.fake_run import MODELS, STEPS_PER_ITERATION, write_run
from durotaxis.analysis.figures import attention_figure, learning_curve, written
from durotaxis.analysis.load import attention_over_training, by_evaluation, estimate, load_run
from durotaxis.records import EVENTS, RecordError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(write_run(tmp_path_factory.mktemp("runs") / "made-up", 30).path)


def line_named(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_learning_curve_has_the_three_panels_and_its_numbers(run):
    figure = learning_curve(run, num_bins=10)
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["return", "success rate", "front progress"]
    curve = line_named(panels[1], "training episodes")
    assert len(curve.get_xdata()) == 10
    last = [row for row in run.episodes if row["step"] > 27 * STEPS_PER_ITERATION]
    assert curve.get_ydata()[-1] == pytest.approx(estimate(last, "success_rate").mean)
    points = panels[1].containers[0]
    groups = by_evaluation(run.evaluations)
    assert points[0].get_xdata().tolist() == sorted(groups)
    for segment, rows in zip(points[2][0].get_segments(), groups.values(), strict=True):
        expected = estimate(rows, "success_rate")
        assert segment[:, 1] == pytest.approx([expected.low, expected.high])


def test_references_are_labelled_lines(run):
    figure = learning_curve(
        run, references={"random": {"return": -2.5}, "delete-left": {"success_rate": 1.0, "return": None}}
    )
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["random"], ["delete-left"], []]


def test_a_run_without_evaluations_has_a_curve_and_one_without_episodes_has_none(run):
    quiet = type(run)(run.path, run.metrics, run.episodes, run.attention, ())
    assert len(learning_curve(quiet).axes[0].containers) == 0
    empty = type(run)(run.path, run.metrics, (), run.attention, ())
    with pytest.raises(RecordError, match="no episode has finished"):
        learning_curve(empty)


def test_attention_lines_are_the_records_and_uniform_is_drawn(run):
    figure = attention_figure(run)
    attention = attention_over_training(run)
    top = figure.axes[0]
    for index, name in enumerate(MODELS):
        assert np.array_equal(line_named(top, name).get_ydata(), attention.weight[:, index])
    assert line_named(top, "uniform, 1/3").get_ydata() == pytest.approx([1 / 3, 1 / 3])
    assert np.array_equal(figure.axes[1].get_lines()[0].get_ydata(), attention.effective)


def test_phases_are_means_over_the_last_tenth(run):
    bars = attention_figure(run).axes[2].patches
    end = 30 * STEPS_PER_ITERATION
    late = [row for row in run.attention if row["phase"] == "migrating" and row["step"] >= 0.9 * end]
    weights = [row["colonies"] for row in late]
    expected = np.average([row["value/attention"] for row in late], axis=0, weights=weights)
    assert [bar.get_width() for bar in bars[3:6]] == pytest.approx(expected.tolist())
    assert len(bars) == 9


def test_a_run_without_attention_says_so(tmp_path):
    run = load_run(write_run(tmp_path / "baseline", 5, with_attention=False).path)
    with pytest.raises(RecordError, match="no attention was recorded"):
        attention_figure(run)


def test_equal_runs_give_equal_files(run, tmp_path):
    for name in "ab":
        attention_figure(run, tmp_path / f"{name}.svg")
        small = Figure()
        small.subplots().plot([0.0, 1.0], label="a line")
        for suffix in (".png", ".pdf"):
            written(small, tmp_path / f"{name}{suffix}")
    assert len(list(tmp_path.iterdir())) == 6
    for suffix in (".png", ".svg", ".pdf"):
        first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
        assert first == second


def test_wrong_places_are_refused(run, tmp_path):
    with pytest.raises(RecordError, match=r"must end in \.png"):
        learning_curve(run, tmp_path / "a.jpeg")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        learning_curve(run, tmp_path / "file" / "a.png")
    learning_curve(run, tmp_path / "figures" / "a.png")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "figures" / "a.png") as picture:
        assert picture.size[0] >= 1000


def test_stages_and_models_that_learn_are_drawn_where_they_began(tmp_path):
    """One line per moment, in every panel; warnings and the first stage are not drawn."""
    directory = write_run(tmp_path / "run")
    with directory.appender(EVENTS) as events:
        for step, event, name in (
            (0, "stage", "first"),
            (30_000, "stage", "second"),
            (30_000, "learns", "ptm:graph_cnn"),
            (50_000, "learns", "encoder"),
            (60_000, "warning", "entropy_gone"),
        ):
            row = {"iteration": 1, "step": step, "episodes": 1, "event": event, "name": name, "message": "m"}
            events.append(row)
    run = load_run(tmp_path / "run")
    assert len(run.events) == 5
    for figure, panels in ((learning_curve(run), 3), (attention_figure(run), 2)):
        for axes in figure.axes[:panels]:
            vertical = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
            assert sorted(float(line.get_xdata()[0]) for line in vertical) == [30_000, 50_000]
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert "second · graph_cnn learns" in texts
        assert "encoder learns" in texts
