"""One table value, five forms: HTML, CSV, LaTeX, Markdown and text.

Forms for readers round; the CSV holds every number in full, an estimate in four columns.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from durotaxis.analysis.stats import Estimate

UNDEFINED = "-"
LONG = 28
"""A longer text is broken into lines."""


@dataclass(frozen=True)
class Mark:
    """A word that is judged by: coloured on the page, and never by colour alone."""

    text: str
    tone: str  # good, bad, open, none


Cell = str | int | float | Mark | Estimate | None


@dataclass(frozen=True)
class Column:
    """How the cells below one heading are written."""

    heading: str
    digits: int = 2
    is_estimate: bool = False  # four columns of the CSV
    is_signed: bool = False  # + before positive numbers


@dataclass(frozen=True)
class Table:
    """Rows of equal length under their columns."""

    name: str  # of its files
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: {len(row)} cells under {len(self.columns)} columns")


def cell_text(cell: Cell, column: Column) -> str:
    """A cell for readers: rounded, an estimate as `0.42 [0.31, 0.55]`."""
    if cell is None:
        return UNDEFINED
    if isinstance(cell, Mark):
        return cell.text
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Estimate):
        if cell.mean is None:
            return UNDEFINED
        mean = _number(cell.mean, column)
        if cell.low is None or cell.high is None:
            return f"{mean} [no interval]"
        return f"{mean} [{_number(cell.low, column)}, {_number(cell.high, column)}]"
    return f"{cell:,}" if isinstance(cell, int) else _number(cell, column)


def _number(value: float, column: Column) -> str:
    text = f"{value:{'+' if column.is_signed else ''},.{column.digits}f}"
    # No sign on a rounded zero.
    return text if any(digit in text for digit in "123456789") else text.lstrip("+-")


def html(table: Table) -> str:
    """A figure-like block: caption, the table in a container of its own that scrolls, its note."""
    heads = "".join(f'<th scope="col">{escape(column.heading)}</th>' for column in table.columns)
    before = [None, *(row[0] for row in table.rows)]
    is_grouped = len(set(before)) < len(before)
    body = "".join(
        _html_row(row, table.columns, is_grouped, row[0] == last)
        for row, last in zip(table.rows, before, strict=False)
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="table" id="table-{escape(table.name)}"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.title)}"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{note}</div>"
    )


def _html_row(row: Sequence[Cell], columns: Sequence[Column], is_grouped: bool, is_same: bool) -> str:
    """A row; where rows of one first cell stand together, the first of them begins a group."""
    cells = []
    for index, (cell, column) in enumerate(zip(row, columns, strict=True)):
        text = escape(cell_text(cell, column))
        long = " long" if isinstance(cell, str) and len(cell) > LONG else ""
        if index == 0:
            cells.append(f'<th scope="row" class="{"same" if is_same else "name"}{long}">{text}</th>')
        elif isinstance(cell, Mark):
            cells.append(f'<td><span class="mark {escape(cell.tone)}">{text}</span></td>')
        elif isinstance(cell, str):
            cells.append(f'<td class="{long.strip() or "word"}">{text}</td>')
        else:
            cells.append(f'<td class="number">{_interval_html(text)}</td>')
    return f"<tr{' class=group' if is_grouped and not is_same else ''}>{''.join(cells)}</tr>"


def _interval_html(text: str) -> str:
    text = text.replace("-", "−") if text != UNDEFINED else "–"
    mean, bracket, interval = text.partition(" [")
    return f'{mean} <span class="interval">[{interval}</span>' if bracket else mean


def csv_text(table: Table) -> str:
    """Comma-separated, numbers in full, missing ones empty; an estimate is value, low, high and count."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads: list[str] = []
    for column in table.columns:
        heads.append(column.heading)
        if column.is_estimate:
            heads += [f"{column.heading} {part}" for part in ("low", "high", "count")]
    writer.writerow(heads)
    for row in table.rows:
        cells: list[str] = []
        for cell, column in zip(row, table.columns, strict=True):
            cells += _csv_cells(cell, column)
        writer.writerow(cells)
    return file.getvalue()


def _csv_cells(cell: Cell, column: Column) -> list[str]:
    if isinstance(cell, Estimate) or column.is_estimate:
        if not isinstance(cell, Estimate):
            return [_exact(cell), "", "", ""]
        return [_exact(cell.mean), _exact(cell.low), _exact(cell.high), str(cell.count)]
    return [_exact(cell)]


def _exact(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Mark):
        return cell.text
    return repr(float(cell)) if isinstance(cell, float) else str(cell)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
}


def latex(table: Table) -> str:
    """A `tabular` in the style of the booktabs package; needs nothing else."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in cells) + r" \\"

    heads, *rows = _texts(table)
    kinds = "".join("l" if _is_word(table, index) else "r" for index in range(len(table.columns)))
    lines = [
        f"% {table.title}".replace("\n", " "),
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        line(heads),
        r"\midrule",
        *map(line, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _is_word(table: Table, index: int) -> bool:
    return any(isinstance(row[index], str | Mark) for row in table.rows)


def markdown(table: Table) -> str:
    """GitHub Markdown: title, table, note; ends with a newline."""

    def plain(text: str) -> str:
        return escape(text.replace("\n", " "), quote=False).replace("|", "\\|")

    heads, *rows = [[plain(cell) for cell in line] for line in _texts(table)]
    ruler = "|" + "".join("---|" if _is_word(table, index) else "---:|" for index in range(len(heads)))
    lines = ["| " + " | ".join(line) + " |" for line in (heads, *rows)]
    lines.insert(1, ruler)
    note = ["", plain(table.note)] if table.note else []
    return "\n".join([f"**{plain(table.title)}**", "", *lines, *note]) + "\n"


def text(table: Table) -> str:
    """Aligned columns for a terminal; ends with a newline."""
    lines = _texts(table)
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(row.rstrip() for row in rows) + "\n"


def _texts(table: Table) -> list[list[str]]:
    heads = [column.heading for column in table.columns]
    return [
        heads,
        *([cell_text(c, column) for c, column in zip(row, table.columns, strict=True)] for row in table.rows),
    ]
