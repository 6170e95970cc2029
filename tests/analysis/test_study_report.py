"""The report of a study: what its page says, that it stands alone, and that odd studies can be reported."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from analysis.fake_study import REFERENCES, plan, record, scenario, write_study
from durotaxis.analysis.report import FORMATS, write_report
from durotaxis.analysis.scores import aggregate, difference
from durotaxis.analysis.stats import wilson
from durotaxis.analysis.study import Study, load_study
from durotaxis.analysis.study_figures import shares
from durotaxis.analysis.study_words import Judged, headline, held_out_episodes, units
from durotaxis.records import TUNING, RecordError, write_record

VOID = {"meta", "link", "br", "img", "input", "hr"}
FAILED_RUN = ("baseline", "moat", 103)
HOSTILE = "<script>alert('x')</script> & <img src=http://example.org/a.png>"


class Page(HTMLParser):
    """A page's structure: are tags closed in order, which ids and links there are, the text in sight."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.targets, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        self.targets += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def leave_unlaid(patch):
    """Let figures be drawn where they are: half of a report's time is their layout."""
    patch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study with everything in it: (its plan, its directory, the report, the page)."""
    folder = tmp_path_factory.mktemp("report")
    study = plan(
        question=f"Does it help? {HOSTILE}",
        conditions={"sparse": {"env.num_initial_nodes": 3}},
        evaluated_in={"exponential": REFERENCES, "odd": None},
    )
    write_study(folder / "study", study, failed=(FAILED_RUN,))
    broken = record(study, study.runs[3], failed=True)
    write_record(folder / "study", replace(broken, error=HOSTILE))
    with pytest.MonkeyPatch.context() as patch:
        leave_unlaid(patch)
        report = write_report(folder / "study", folder / "out", formats=("svg",))
    return study, folder / "study", report, report.html.read_text("utf-8")


def require_sound(text):
    """Well-formed, ids once, links that lead somewhere, nothing from elsewhere, no number that is none."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for target in page.targets:
        assert target == "data:," or target.removeprefix("#") in page.ids, target
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "embed")]
    assert not re.search(r"url\((?!#)|@import", text)
    assert not re.search(r"\b(nan|None|inf)\b", page.text)
    assert all(values.get("aria-label") for tag, values in page.tags if tag == "svg")
    return page


def rows_of(report, name):
    path = next(path for path in report.tables if path.name == f"{name}.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_stands_alone(made):
    text = made[3]
    page = require_sound(text)
    assert len(text) < 3_000_000
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 7
    sections = [values["id"] for tag, values in page.tags if tag == "section"]
    assert sections == [
        *("plan", "results", "goal", "helps", "curves", "distributions", "interventions", "transfer"),
        *("attention", "cost", "claims", "reproducibility", "definitions"),
    ]


def test_what_comes_from_records_is_escaped(made):
    _, _, report, text = made
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "<script>" not in report.markdown.read_text("utf-8")


def test_every_figure_and_table_is_written_in_every_form(odd):
    report, _ = odd("one arm")
    names = {path.stem for path in report.figures}
    assert names == {"curves-normalised-return", "curves-success-rate", "finals", "profiles"}
    assert len(report.figures) == 3 * len(names)
    for path in report.figures:
        assert path.stat().st_size > 1000
    with Image.open(next(path for path in report.figures if path.suffix == ".png")) as picture:
        assert picture.size[0] >= 700
    text = report.html.read_text("utf-8")
    assert {path.suffix for path in report.tables} == {".csv", ".tex"}
    for path in report.tables:
        assert f'id="table-{path.stem}"' in text
    assert [path for path in report.html.parent.rglob("*") if path.name.startswith(".")] == []


def test_numbers_in_the_csv_equal_a_slow_computation(made):
    study, _, report, _ = made
    scores = {}
    for run in study.runs:
        score = record(study, run).scores[0]
        value = (score.return_mean + 2.5) / 8.0, score.successes
        scores[run.key] = (0.0, 0) if run.key == FAILED_RUN else value
    tasks = {
        arm: [
            np.array([scores[arm, name, seed][0] for seed in study.seeds])
            for name in ("moat", "patches", "stripes")
        ]
        for arm in ("baseline", "wsa")
    }
    rows = {(row["scenario"], row["arm"]): row for row in rows_of(report, "results")}
    for arm, values in tasks.items():
        pooled = np.sort(np.concatenate(values))
        row = rows["all that count", arm]
        assert float(row["normalised return, IQM"]) == pytest.approx(pooled[7:23].mean())
        assert float(row["its mean"]) == pytest.approx(pooled.mean())
        assert float(row["normalised return, IQM low"]) == aggregate(values, "iqm").low
        wins = sum(scores[key][1] for key in scores if key[0] == arm and key[1] != "linear")
        expected = wilson(wins, 30 * study.episodes)
        assert float(row["success rate, over episodes"]) == expected.mean
        assert float(row["success rate, over episodes high"]) == expected.high
    gaps = {row["scenario"]: row for row in rows_of(report, "differences")}
    expected = difference(tasks["baseline"], tasks["wsa"], "iqm")
    assert float(gaps["all that count"]["final score, IQM high"]) == pytest.approx(expected.high)
    assert float(gaps["moat"]["its mean"]) == pytest.approx((tasks["wsa"][0] - tasks["baseline"][0]).mean())


def test_the_headline_is_the_truth_with_its_intervals(made):
    report, text = made[2:]
    first, rests, places, goal, _, cost, attention, failed = report.headline
    assert re.match(r"wsa scores within ±0.1 of baseline .* difference \+?-?0\.0\d \[", first)
    assert re.fullmatch(
        r"That rests on what is counted: without moat hurts \(-0\.1\d \[.*\]\); without stripes helps \(.*\)\.",
        rests,
    )
    assert places == (
        "Place by place, wsa helps on moat, moat (sparse); is neutral on patches, patches (sparse), linear, "
        "linear (sparse); hurts on stripes, stripes (sparse)."
    )
    assert goal.startswith("The goal is not met by wsa: ")
    assert re.search(r"A training step of wsa takes 1\.3\d \[1\.", cost)
    assert "of its 3 models" in attention
    assert "1 of 80 runs failed" in failed
    page = Page(text)
    for line in report.headline:
        assert line in page.text


def test_the_aggregate_is_shown_without_each_scenario_and_without_failed_runs(made):
    study, _, report, _ = made
    true = {run.key: (record(study, run).scores[0].return_mean + 2.5) / 8.0 for run in study.runs}
    names = ("moat", "patches", "stripes")

    def middle(arm, names, left_out=()):
        """The middle half of its runs, as (score, scenario)."""
        rows = [
            (0.0 if key == FAILED_RUN else value, key[1])
            for key, value in true.items()
            if key[0] == arm and key[1] in names and key[1:] not in left_out
        ]
        return sorted(rows)[len(rows) // 4 : len(rows) - len(rows) // 4]

    def gap(*what):
        means = [np.mean([score for score, _ in middle(arm, *what)]) for arm in ("baseline", "wsa")]
        return pytest.approx(means[1] - means[0])

    rows = {row["all that count"]: row for row in rows_of(report, "subsets")}
    assert list(rows) == [*(f"without {name}" for name in names), "without failed runs"]
    assert float(rows["without moat"]["final score, IQM"]) == gap(names[1:])
    assert float(rows["without failed runs"]["final score, IQM"]) == gap(names, [FAILED_RUN[1:]])
    assert rows["without failed runs"]["area, ratio count"] == "29"
    for row in rows_of(report, "middle"):
        kept = [name for _, name in middle(row["arm"], names)]
        assert [row[name] for name in names] == [f"{kept.count(name)} of 10" for name in names]
    helps = {(row["scenario"], row["judged in"]): row for row in rows_of(report, "helps")}
    row = helps["moat", "trained"]
    assert float(row["without failed runs"]) < float(row["difference in score"])
    assert (row["without failed runs count"], row["difference in score count"]) == ("9", "10")


def test_units_that_differ_and_references_that_fail_are_said():
    weak = {
        "random": REFERENCES["random"],
        "delete-left": {**REFERENCES["delete-left"], "success_rate": 0.07},
    }
    weak["delete-left"]["return_mean"] = 1.5
    alike, unlike = (
        Study(Path(), plan(scenarios=[scenario("moat"), scenario("stripes", references=of)]), {}, None, ())
        for of in (REFERENCES, weak)
    )
    assert units(alike) == []
    (said,) = units(unlike)
    assert "success rate is 7 % on stripes" in said
    assert "4.00 of return on stripes and 8.00 on moat: the same return weighs 2.0 times" in said


def test_episodes_of_other_scores_are_counted(made):
    study = made[0]
    whole = record(study, study.runs[0])
    assert len(whole.scores) > 1

    def said(episodes):
        scores = [whole.scores[0], *(replace(score, episodes=episodes) for score in whole.scores[1:])]
        records = {whole.key: replace(whole, scores=scores)}
        return held_out_episodes(Study(Path(), study, records, None, ()))

    assert said(50) == "Every trained agent was judged on 50 held-out episodes."
    assert "worlds, are of 20 episodes." in said(20)


def test_a_run_that_failed_has_no_attention_at_the_end(made):
    study = made[0]
    of = {run.key: record(study, run, failed=run.seed == 100) for run in study.runs}
    found = shares(Study(Path(), study, of, None, ()), "wsa")
    assert len(found[2]) == 4 * 9


def test_failed_runs_stand_at_the_top_and_in_the_table_of_runs(made):
    study, _, report, text = made
    assert "1 run failed, counted at the level of the random policy" in Page(text).text
    rows = {(row["arm"], row["scenario"], row["seed"]): row for row in rows_of(report, "runs")}
    assert len(rows) == len(study.runs)
    assert rows["baseline", "moat", "103"]["status"] == "failed"
    assert rows["baseline", "moat", "103"]["error"] == HOSTILE
    assert rows["wsa", "moat", "100"]["frozen models"] == "ab" * 6
    assert rows["wsa", "moat", "100"]["configuration"] in text


def test_every_configuration_can_be_read_from_the_page(made):
    study, _, _, text = made
    words = Page(text).text
    assert "use_wsa: True" in words
    for run in study.runs:
        assert run.config in words
    assert "- seed: 100 + seed: 104" in words


def test_interventions_and_other_worlds_are_shown(made):
    _, _, report, _ = made
    rows = rows_of(report, "interventions")
    assert {row["intervention"] for row in rows} == {"zero", "shuffled", "uniform"}
    assert all(float(row["change in final score"]) == pytest.approx(-0.25) for row in rows)
    worlds = {(row["judged in"], row["what"]) for row in rows_of(report, "transfer")}
    assert worlds == {("exponential", "normalised return"), ("odd", "success rate")}


def test_the_markdown_links_figures_that_exist(made):
    _, _, report, _ = made
    text = report.markdown.read_text("utf-8")
    links = re.findall(r"\]\((\S+?)\)", text)
    assert len(links) == 7
    assert all((report.markdown.parent / link).is_file() for link in links)
    assert "durotaxis study run made-up.yaml" in text
    assert not re.search(r"\b(nan|None)\b", text)


MOAT = [scenario("moat")]
ODD = {
    "one seed": (
        plan(
            purpose=TUNING,
            arms=[replace(plan().arms[0], tried=[]), plan().arms[1]],
            scenarios=[*MOAT, scenario("stripes", references=None)],
            seeds=[0],
        ),
        {},
    ),
    "one arm": (plan(arms=plan().arms[:1], scenarios=[scenario("linear")], seeds=range(100, 102)), {}),
    "all failed": (
        plan(
            arms=[*plan().arms, replace(plan().arms[1], name="idle")], scenarios=MOAT, seeds=range(100, 103)
        ),
        {"failed": "all", "missing": tuple(("idle", "moat", seed) for seed in range(100, 103))},
    ),
    "settings": (
        plan(
            scenarios=[
                scenario("moat", references=None),
                scenario("moat-fast", references=None, **{"ppo.learning_rate": 1e-3}),
            ],
            seeds=range(100, 103),
        ),
        {"missing": (("baseline", "moat", 101),)},
    ),
}


def mix(path, made):
    """Let one record be of another commit and another torch."""
    whole = record(made, made.runs[0])
    of = {**whole.provenance, "commit": "f00d" * 10, "modified": True, "versions": {"torch": "2.12.0"}}
    write_record(path, replace(whole, provenance=of))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Reports of odd studies: name -> (report, text in sight)."""

    def make(name):
        if name not in known:
            made, how = ODD[name]
            folder = tmp_path_factory.mktemp("odd")
            if how.get("failed") == "all":
                how = {**how, "failed": tuple(run.key for run in made.runs)}
            write_study(folder / "study", made, with_cost=False, with_configs=False, **how)
            formats = FORMATS if name == "one arm" else ("svg",)
            if name == "one arm":
                mix(folder / "study", made)
            with pytest.MonkeyPatch.context() as patch:
                if name != "one arm":
                    leave_unlaid(patch)
                report = write_report(folder / "study", folder / "out", allow_partial=True, formats=formats)
            known[name] = (report, require_sound(report.html.read_text("utf-8")).text)
        return known[name]

    known = {}
    return make


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one seed", "Undecided whether wsa scores higher than baseline"),
        ("one seed", "no interval, nothing to decide by"),
        ("one seed", "Arms had unequal numbers of variants tried"),
        ("one arm", "The records are of different commits."),
        ("one arm", "f00df00df0 (modified): 1 run"),
        ("one arm", "2.12.0: 1 run"),
        ("one arm", "There is one arm, baseline: nothing is compared."),
        ("all failed", "6 of 6 runs failed"),
        ("settings", "undefined: the scripted policies were not played in it"),
        ("settings", "by success rate"),
        ("one seed", "stripes: success rate"),
        ("one arm", "What counts: linear."),
        ("one seed", "These are tuning seeds: nothing here is a result."),
        ("settings", "Partial: 1 of 12 runs have no record."),
        ("settings", "baseline/moat/101"),
        ("settings", "; 2 to 3 seeds)"),
        ("all failed", "idle cannot be compared with baseline: no seed that both have in moat."),
        ("all failed", "The goal is not tested here for idle."),
        ("settings", "Robustness over settings"),
    ],
)
def test_odd_studies_are_reported_for_what_they_are(odd, name, said):
    assert said in odd(name)[1]


def test_the_goal_and_the_claims_are_of_fusion_against_a_single_model(tmp_path):
    for name, fused, judged in (
        ("unknown", (None, None), True),
        ("single against fused", (False, True), True),
        ("both fused", (True, True), False),
        ("both single", (False, False), False),
        ("fused first", (True, False), False),
    ):
        arms = [replace(arm, use_wsa=use) for arm, use in zip(plan().arms, fused, strict=True)]
        made = plan(seeds=range(100, 103), scenarios=MOAT, arms=arms)
        write_study(tmp_path / name, made, with_cost=False, with_configs=False)
        found = Judged.of(load_study(tmp_path / name))
        assert bool(found.goals) == bool(found.claims) == judged, name
        said = any(line.startswith(("The goal", "Of the guide")) for line in headline(found))
        assert said == judged, name


def test_no_verdict_without_an_interval(odd):
    report, _ = odd("one seed")
    assert report.headline[1].startswith("Undecided")
    words = {row["verdict"] for name in ("goal", "claims", "helps") for row in rows_of(report, name)}
    assert words <= {"undecided", "not tested here"}


def test_of_arms_that_all_failed_nothing_is_known(odd):
    report, _ = odd("all failed")
    assert report.headline[0].startswith("Undecided whether wsa scores higher or lower than baseline")
    assert {row["verdict"] for row in rows_of(report, "helps")} == {"undecided"}
    assert {row["without failed runs"] for row in rows_of(report, "helps")} == {""}


def test_an_unfinished_study_is_refused_and_nothing_written(tmp_path):
    made = plan(scenarios=MOAT, seeds=[100])
    write_study(tmp_path / "study", made, missing=(("wsa", "moat", 100),), with_configs=False)
    with pytest.raises(RecordError, match="wsa/moat/100"):
        write_report(tmp_path / "study", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    made = plan(scenarios=MOAT, seeds=[100])
    write_study(tmp_path / "study", made, with_configs=False)
    (tmp_path / "out").touch()
    with pytest.raises(RecordError, match="cannot write"):
        write_report(tmp_path / "study", tmp_path / "out")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll, pre, nav") && e.getBoundingClientRect().right > innerWidth + 1);
  parent.document.body.dataset["at" + innerWidth] = [
    document.documentElement.scrollWidth - innerWidth, wide.length,
    performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    document.querySelectorAll("figure svg").length].join(" ");
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium found")
def test_a_browser_shows_it_without_sideways_scrolling_or_loading(made, tmp_path):
    """On a phone and a desk, each a frame: a window of its own is never narrower than 500 pixels."""
    inner = escape(made[3].replace("</body>", PROBE))
    frames = [f'<iframe width="{width}" height="900" srcdoc="{inner}"></iframe>' for width in (390, 1200)]
    page = tmp_path / "probe.html"
    page.write_text(f"<style>iframe {{ border: 0 }}</style><body>{''.join(frames)}</body>", "utf-8")
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1700,900"),
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for width in (390, 1200):
        probe = re.search(rf'data-at{width}="(-?\d+) (\d+) (\d+) (\d+)"', done.stdout)
        assert probe is not None
        overflow, wide, loaded, figures = map(int, probe.groups())
        assert overflow <= 0
        assert wide == 0
        assert loaded == 0
        assert figures == 7
    assert ":CONSOLE" not in done.stderr
