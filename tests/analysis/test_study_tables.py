"""One table, five forms."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from durotaxis.analysis.stats import NOTHING, Estimate
from durotaxis.analysis.study_tables import (
    Column,
    Mark,
    Table,
    cell_text,
    csv_text,
    html,
    latex,
    markdown,
    text,
)

TABLE = Table(
    "t",
    "A <b> title",
    [
        Column("arm|name"),
        Column("score", is_estimate=True, is_signed=True),
        Column("steps", 0),
        Column("word"),
    ],
    [
        ["a_b & 50%", Estimate(1 / 3, 0.25, 0.5, 10), 123456.7, Mark("helps", "good")],
        ["<script>", NOTHING, None, "x|y"],
    ],
    "Note.",
)


class Cells(HTMLParser):
    """Texts of cells, and whether tags were closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag in ("td", "th"):
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.texts and {"td", "th"} & set(self.open):
            self.texts[-1] += data


@pytest.mark.parametrize(
    ("cell", "column", "expected"),
    [
        (Estimate(0.4211, 0.3149, 0.5551, 9), Column(""), "0.42 [0.31, 0.56]"),
        (Estimate(0.4211, None, None, 1), Column(""), "0.42 [no interval]"),
        (Estimate(-0.001, -0.3, 0.2, 9), Column("", is_signed=True), "0.00 [-0.30, +0.20]"),
        (NOTHING, Column(""), "-"),
        (None, Column(""), "-"),
        (123456, Column(""), "123,456"),
        (1234.5678, Column("", 1), "1,234.6"),
        (Mark("held", "good"), Column(""), "held"),
    ],
)
def test_cells_are_rounded_for_readers(cell, column, expected):
    assert cell_text(cell, column) == expected


def test_html_is_closed_and_escaped():
    page = html(TABLE)
    cells = Cells()
    cells.feed(page)
    assert cells.open == []
    assert "<script>" not in page
    assert "<b>" not in page
    assert cells.texts[4:8] == ["a_b & 50%", "+0.33 [+0.25, +0.50]", "123,457", "helps"]


def test_csv_holds_numbers_in_full():
    rows = list(csv.reader(io.StringIO(csv_text(TABLE))))
    assert rows[0] == ["arm|name", "score", "score low", "score high", "score count", "steps", "word"]
    assert [float(cell) for cell in rows[1][1:6]] == [1 / 3, 0.25, 0.5, 10, 123456.7]
    assert rows[2] == ["<script>", "", "", "", "0", "", "x|y"]


def test_latex_escapes_and_has_as_many_columns_everywhere():
    lines = latex(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrl}"
    assert lines[3].startswith(r"arm\textbar{}name & score")
    assert lines[5] == r"a\_b \& 50\% & +0.33 [+0.25, +0.50] & 123,457 & helps \\"
    assert lines[6].startswith(r"\textless{}script\textgreater{} & - & -")


def test_markdown_and_text_keep_their_columns():
    lines = markdown(TABLE).splitlines()
    assert lines[3] == "|---|---:|---:|---|"
    assert lines[5] == r"| &lt;script&gt; | - | - | x\|y |"
    rows = text(TABLE).splitlines()
    assert rows[0].index("score") == rows[2].index("+0.33") == rows[3].index("- ")


def test_rows_must_fit_their_columns():
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        Table("t", "t", [Column("a")], [["x", "y"]])
