"""Results that are published are what their records say, and pages quote their reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from durotaxis.analysis.report import write_report

RESULTS = Path(__file__).parents[1] / "docs" / "results"
REPORTS = sorted(RESULTS.glob("*/*/report/report.md"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
QUOTED = re.compile(r"From the \[report\]\(([^)]*report\.md)\)")


def words_and_numbers(line: str) -> tuple[str, list[float]]:
    """A line with its numbers taken out, and these."""
    return NUMBER.sub("#", line), [float(text.replace(",", "")) for text in NUMBER.findall(line)]


@pytest.mark.parametrize("published", REPORTS, ids=lambda path: path.parents[2].name)
def test_a_report_made_again_says_the_same(published, tmp_path):
    again = write_report(published.parents[1], tmp_path, formats=("svg",)).markdown
    lines, new = (
        [line for line in path.read_text("utf-8").splitlines() if not line.startswith("Runs started ")]
        for path in (published, again)
    )
    assert len(lines) == len(new)
    for line, other in zip(lines, new, strict=True):
        (words, numbers), (same_words, same_numbers) = words_and_numbers(line), words_and_numbers(other)
        assert words == same_words
        # Rounding at a tie may differ from machine to machine.
        assert numbers == pytest.approx(same_numbers, rel=1e-4, abs=0.011), line


def quotations() -> list[tuple[Path, Path, str]]:
    """(page, report, section) of every section that says it is from a report."""
    found = []
    for page in sorted(RESULTS.glob("*.md")):
        for section in page.read_text("utf-8").split("\n## "):
            found += [(page, page.parent / link, section) for link in QUOTED.findall(section)[:1]]
    return found


@pytest.mark.parametrize(
    ("page", "report", "section"), quotations(), ids=[f"{p.stem}-{s[:20]}" for p, _, s in quotations()]
)
def test_a_page_quotes_its_report(page, report, section):
    """Every row of a table in such a section is a row of the report."""
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert rows, f"{page.name}: a section is said to be from {report.name}, and quotes nothing"
    lines = report.read_text("utf-8").splitlines()
    assert [row for row in rows if row not in lines] == []
