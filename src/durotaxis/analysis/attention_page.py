"""The page about attention: findings, figures and tables, as Markdown with its files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from durotaxis.analysis.attention import FACTORS, HIGH, PHASE, binned_shares, patterns, relations, shares
from durotaxis.analysis.attention_figures import FIGURES, bin_labels
from durotaxis.analysis.attention_groups import Group, likenesses, load_groups, worths
from durotaxis.analysis.attention_words import findings
from durotaxis.analysis.figures import written
from durotaxis.analysis.stats import NOTHING
from durotaxis.analysis.study_tables import Cell, Column, Table, csv_text, markdown
from durotaxis.records import PHASES, RecordError, write_atomic

PAGE = "attention.md"
SUFFIXES = (".png", ".svg")
NOTE = (
    "Attention is how the fused sum is weighed, not what the agent needs: a model may have most of it and be "
    "dispensable, or little and be decisive. What closing a model costs stands beside it for that reason. "
    "Nothing here says why: factors move together within an episode."
)


@dataclass(frozen=True)
class Written:
    """What was written."""

    page: Path
    findings: Sequence[tuple[str, Sequence[str]]]  # title of a group, its sentences
    models: Table  # attention and worth of every model
    files: Sequence[Path]


def write_attention(target: Path, out: Path) -> Written:
    """Analyse a run or a study from its records, and write the page, its figures and its tables.

    Args:
        target: a run directory, or a study directory.
        out: folder; made where missing, files of the same names are replaced, each as a whole.

    Raises:
        RecordError: what `load_groups` raises, or a file cannot be written.
    """
    groups = load_groups(target)
    said = [(group.title, findings(group)) for group in groups]
    pictures = [
        (group, name, title, figure)
        for group in groups
        for name, title, draw in FIGURES
        if (figure := draw(group)) is not None
    ]
    tables = [table for table in tables_of(groups) if table.rows]
    sections = [NOTE]
    for group, (title, lines) in zip(groups, said, strict=True):
        links = [
            f"![{what}, {title}]({group.name}-{name}.png)" for of, name, what, _ in pictures if of is group
        ]
        own = [markdown(table) for table in tables_of([group]) if table.rows]
        sections += [f"## {title}", " ".join(lines), *links, *own]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    files = [out / f"{group.name}-{name}{suffix}" for group, name, *_ in pictures for suffix in SUFFIXES]
    for path, figure in zip(files, [figure for *_, figure in pictures for _ in SUFFIXES], strict=True):
        written(figure, path)
    for table in tables:
        files.append(out / f"{table.name}.csv")
        write_atomic(files[-1], csv_text(table))
    write_atomic(out / PAGE, "\n\n".join(["# Attention", *sections]) + "\n")
    return Written(out / PAGE, said, tables[0], [out / PAGE, *files])


def tables_of(groups: Sequence[Group]) -> list[Table]:
    """Models, patterns, reward terms, bins, similarity: of all groups, which the first column names."""
    over = groups[0].over
    note = f"Mean [95 % interval] over {over}; p corrected by Holm's method over all rows of a group."
    return [
        Table(
            "attention-models",
            "What each model gets and what it is worth",
            [
                Column("of"),
                Column("model"),
                Column("attention", is_estimate=True),
                Column("return without it", is_estimate=True, is_signed=True),
                Column("p", 3),
                Column("success rate without it", is_estimate=True, is_signed=True),
                Column("return with it alone", is_estimate=True, is_signed=True),
                Column("Shapley value", is_estimate=True, is_signed=True),
            ],
            [row for group in groups for row in _model_rows(group)],
            note + " Returns and success rates are differences to all models open, on the same episodes.",
        ),
        Table(
            "attention-patterns",
            "Where attention differs",
            [
                Column("of"),
                Column("factor"),
                Column("compared"),
                Column("model"),
                Column("difference of attention", 3, is_estimate=True, is_signed=True),
                Column("p", 3),
                Column("pattern"),
            ],
            [row for group in groups for row in _pattern_rows(group)],
            note,
        ),
        Table(
            "attention-terms",
            "Rank correlation of attention with reward terms, step by step within an episode",
            [
                Column("of"),
                Column("reward term"),
                Column("model"),
                Column("correlation", is_estimate=True, is_signed=True),
                Column("p", 3),
                Column("pattern"),
            ],
            [row for group in groups for row in _term_rows(group)],
            note,
        ),
        Table(
            "attention-bins",
            "Attention by bins",
            [
                Column("of"),
                Column("factor"),
                Column("bin"),
                Column("model"),
                Column("attention", 3, is_estimate=True),
            ],
            [row for group in groups for row in _bin_rows(group)],
            f"Mean [95 % interval] over those {over} that have been in the bin.",
        ),
        Table(
            "attention-similarity",
            "Similarity of embeddings",
            [Column("of"), Column("model"), Column("and"), Column("linear CKA", is_estimate=True)],
            [(group.title, *pair.ptms, pair.cka) for group in groups for pair in likenesses(group.probes)],
            "1: equal up to a rotation and a scale; unrelated embeddings are near 0.",
        ),
    ]


def _model_rows(group: Group) -> list[Sequence[Cell]]:
    worth_of = {worth.ptm: worth for worth in worths(group.probes)}
    rows: list[Sequence[Cell]] = []
    for ptm, share in zip(group.ptms, shares(group.units), strict=True):
        worth = worth_of.get(ptm)
        values: Sequence[Cell] = (NOTHING, None, NOTHING, NOTHING, NOTHING)
        if worth is not None:
            values = (worth.closed, worth.p, worth.success, worth.alone, worth.shapley or NOTHING)
        rows.append((group.title, ptm, share, *values))
    return rows


def _pattern_rows(group: Group) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for pattern in patterns(group.units, group.ptms):
        if pattern.factor == PHASE:
            name, compared = "phase", f"{pattern.place} with all steps"
        else:
            name = FACTORS[pattern.factor].label
            compared = "highest with lowest fifth" if pattern.place == HIGH else "middle with both ends"
        word = "yes" if pattern.is_clear else "small" if pattern.is_certain else "no"
        rows.append((group.title, name, compared, pattern.ptm, pattern.change, pattern.p, word))
    return rows


def _term_rows(group: Group) -> list[Sequence[Cell]]:
    return [
        (group.title, r.term, r.ptm, r.rho, r.p, "yes" if r.is_clear else "no")
        for r in relations(group.units, group.ptms)
    ]


def _bin_rows(group: Group) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for factor in [*group.borders, PHASE]:
        labels = PHASES if factor == PHASE else bin_labels(group.borders[factor])
        name = "phase" if factor == PHASE else FACTORS[factor].label
        for label, cells in zip(labels, binned_shares(group.units, factor), strict=True):
            rows += [(group.title, name, label, ptm, e) for ptm, e in zip(group.ptms, cells, strict=True)]
    return rows
