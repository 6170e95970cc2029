"""The report of a study: one page that stands alone, a short Markdown, figures and tables.

    report.html          everything, in one file: no script, nothing loaded from elsewhere
    report.md            the results in short, with links to the figures beside it
    figures/*.svg, .png, .pdf
    tables/*.csv, .tex

Every sentence of the verdict is made from numbers with their intervals.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from durotaxis.analysis.claims import main_difference
from durotaxis.analysis.study import HEADING, NoScale, Study, load_study
from durotaxis.analysis.study_results.attention import attention_table
from durotaxis.analysis.study_results.beyond import (
    deterministic_table,
    interventions_table,
    settings_table,
    transfer_table,
)
from durotaxis.analysis.study_results.cost import cost_table, speeds_table
from durotaxis.analysis.study_results.factors import factors_table
from durotaxis.analysis.study_results.plan import arms_table, scenarios_table
from durotaxis.analysis.study_results.rows import ALL
from durotaxis.analysis.study_results.runs import runs_table
from durotaxis.analysis.study_results.scores import (
    differences_table,
    learning_table,
    middle_table,
    ratios_table,
    results_table,
    subsets_table,
)
from durotaxis.analysis.study_results.verdicts import claims_table, goals_table, helps_table, improvement_rows
from durotaxis.analysis.study_tables import Table, csv_text, html, latex, markdown
from durotaxis.analysis.study_words import (
    Banner,
    Judged,
    banners,
    comparison,
    counted,
    glossary,
    headline,
    held_out_episodes,
    name_of,
    units,
)
from durotaxis.records import CONFIGS, FAILED, RecordError, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML, MARKDOWN, FIGURES, TABLES = "report.html", "report.md", "figures", "tables"
FORMATS = ("svg", "png", "pdf")
MANY = 12
"""A table of more rows scrolls on the page."""
NARROW = 6.0
"""A wider figure, in inches, scrolls on a phone."""


@dataclass(frozen=True)
class Report:
    """What was written, and what a terminal says of it."""

    html: Path
    markdown: Path
    figures: Sequence[Path]
    tables: Sequence[Path]
    headline: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A figure with its words. `alt` says what is to be seen, `caption` how it was made."""

    name: str
    alt: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Listing:
    """Text that is folded away."""

    title: str
    text: str


Block = Table | Picture | Listing


@dataclass(frozen=True)
class Section:
    """A part of the page; in the Markdown too where it is `in_short`."""

    anchor: str
    title: str
    blocks: Sequence[Block] = ()
    paragraphs: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    in_short: bool = False


def write_report(
    study: Path, out: Path, *, allow_partial: bool = False, formats: Sequence[str] = FORMATS
) -> Report:
    """Report a study.

    Args:
        study: its directory.
        out: where to write; made where missing, files of the same names are replaced.
        allow_partial: report it although runs are missing; the page says so at its top.
        formats: of the figures' files, `svg` among them.

    Raises:
        RecordError: as `load_study`; or a file cannot be written.
    """
    loaded = load_study(study, allow_partial=allow_partial)
    for folder in (out / FIGURES, out / TABLES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    judged = Judged.of(loaded)
    sections = [section for section in _sections(judged) if section.blocks or section.terms]
    lines = headline(judged)
    notes = banners(loaded)
    blocks = [block for section in sections for block in section.blocks]
    tables = [block for block in blocks if isinstance(block, Table)]
    pictures = [block for block in blocks if isinstance(block, Picture)]
    figure_paths = [path for picture in pictures for path in _write_figure(picture, out, formats)]
    table_paths = [path for table in tables for path in _write_table(table, out)]
    write_atomic(out / HTML, _page(loaded, lines, notes, sections, out))
    write_atomic(out / MARKDOWN, _markdown(loaded, lines, notes, sections))
    return Report(out / HTML, out / MARKDOWN, figure_paths, table_paths, lines)


# Sections


def _sections(judged: Judged) -> list[Section]:
    return [
        _plan(judged.study),
        _main(judged.study),
        _goal(judged),
        _helps(judged),
        _factors(judged.study),
        _curves(judged.study),
        _distributions(judged),
        _tampering(judged.study),
        _elsewhere(judged.study),
        _settings(judged.study),
        _attention(judged.study),
        _cost(judged.study),
        _claims(judged),
        _provenance(judged.study),
        Section("definitions", "How each number is defined", terms=glossary(judged.study)),
    ]


def _tables(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _plan(study: Study) -> Section:
    plan = study.plan
    trained = sorted(plan.seeds)
    counts = ", ".join(
        counted(number, what)
        for number, what in (
            (len(study.arms), "arm"),
            (len(study.scenarios), "scenario"),
            (len(trained), "seed"),
        )
    )
    text = (
        f"{counts} ({', '.join(map(str, trained))}), {counted(len(plan.runs), 'run')} of "
        f"{plan.total_steps:,} environment steps each. {held_out_episodes(study)} Arms are compared with "
        f"{plan.baseline}."
    )
    if any(arm.start_from for arm in plan.arms):
        text += " What an arm starts from was trained before: those steps are not among its own."
    blocks: list[Block] = [arms_table(study), scenarios_table(study)]
    tried = [
        f"{arm.name}:\n" + "\n".join(f"  {line}" for line in arm.tried) for arm in plan.arms if arm.tried
    ]
    if tried:
        blocks.append(Listing("Variants tried on tuning seeds", "\n".join(tried)))
    return Section("plan", "Plan", blocks, [text], in_short=True)


def _main(study: Study) -> Section:
    over = ", ".join(study.main_scenarios)
    text = (
        f"Aggregates ('{ALL}') are over {over}." if len(study.main_scenarios) > 1 else f"What counts: {over}."
    )
    undefined = [name for name in study.scenarios if isinstance(study.scale(name), NoScale)]
    if undefined:
        text += (
            f" The normalised return is undefined in {', '.join(undefined)}; there, success rate and front "
            "progress stand."
        )
    against = [differences_table(study), ratios_table(study)] if study.others else []
    tables = [results_table(study), *against[:1], learning_table(study), *against[1:]]
    more = _tables(subsets_table(study), middle_table(study), deterministic_table(study))
    return Section("results", "Results", [*tables, *more], [text, *units(study)], in_short=True)


def _goal(judged: Judged) -> Section:
    blocks = [goals_table(judged.goals)] if judged.goals else []
    return Section("goal", "The goal", blocks, in_short=True)


def _helps(judged: Judged) -> Section:
    from durotaxis.analysis.study_figures import forest

    study = judged.study
    blocks: list[Table | Picture] = []
    if judged.effects:
        blocks.append(helps_table(study, judged.effects))
        total = [(arm, main_difference(study, arm)) for arm in study.others]
        blocks += _picture(
            "differences",
            "Differences to the baseline with 95 % intervals, one row per scenario and the aggregate below. "
            + " ".join(comparison(study, arm) for arm in study.others),
            "Mean difference over paired seeds with 95 % interval; the last row is the IQM over the "
            "scenarios that count. Right of the line is better than the baseline.",
            forest(study, judged.effects, total),
        )
    return Section("helps", "Where it helps, is neutral, or hurts", blocks, in_short=True)


def _picture(name: str, alt: str, caption: str, figure: Figure | None) -> list[Picture]:
    return [] if figure is None else [Picture(name, alt, caption, figure)]


def _factors(study: Study) -> Section:
    from durotaxis.analysis.study_figures import factors

    blocks: list[Block] = [
        *_tables(factors_table(study)),
        *_picture(
            "factors",
            "What each factor adds to the final score, and what pairs of them add beyond that, with 95 % "
            "intervals; a row per factor.",
            "Mean over seeds with 95 % interval; 'mean' is that over the scenarios that count. Right of the "
            "line the level that is named first is better, and two factors reinforce each other.",
            factors(study),
        ),
    ]
    return Section("factors", "What each factor adds", blocks, in_short=True)


def _curves(study: Study) -> Section:
    from durotaxis.analysis.study_figures import learning_curves

    blocks = []
    for measure in ("normalised_return", "success_rate"):
        blocks += _picture(
            f"curves-{measure.replace('_', '-')}",
            f"Learning curves: {HEADING[measure]} of training episodes against environment steps, a panel "
            f"per scenario, a line per arm ({', '.join(study.arms)}).",
            "Training episodes, mean over runs; bands are pointwise 95 % t intervals over seeds. Failed "
            "runs are in it at random's level.",
            learning_curves(study, measure),
        )
    return Section("curves", "Learning curves", blocks, in_short=True)


def _distributions(judged: Judged) -> Section:
    from durotaxis.analysis.study_figures import finals, improvements, profiles

    study = judged.study
    blocks = [
        *_picture(
            "finals",
            "Final scores: a dot per run, a marker with a 95 % interval per arm, a row per scenario.",
            "Every run is a dot; markers are means with 95 % t intervals over seeds.",
            finals(study),
        ),
        *_picture(
            "profiles",
            f"Performance profiles: share of runs above each {HEADING[study.main_measure]}, a line per arm.",
            f"Share of runs over {', '.join(study.main_scenarios)} that score above x, with pointwise 95 % "
            "bands. A line further right is better throughout.",
            profiles(study),
        ),
        *_picture(
            "improvement",
            "Probability that a run of an arm scores higher than one of the baseline, with 95 % intervals.",
            "Probability that a run of the arm scores higher than a run of the baseline, ties counted "
            "half; 0.5 is no difference.",
            improvements(study, improvement_rows(study)),
        ),
    ]
    return Section("distributions", "Distributions over runs", blocks, in_short=True)


def _tampering(study: Study) -> Section:
    return Section(
        "interventions", "Does the policy use it?", _tables(interventions_table(study)), in_short=True
    )


def _elsewhere(study: Study) -> Section:
    return Section("transfer", "Judged elsewhere", _tables(transfer_table(study)), in_short=True)


def _settings(study: Study) -> Section:
    return Section("settings", "Robustness over settings", _tables(settings_table(study)), in_short=True)


def _attention(study: Study) -> Section:
    from durotaxis.analysis.study_figures import MAX_ATTENTION_PANELS, attention

    blocks: list[Block] = [
        *_picture(
            "attention",
            "Mean attention per pre-trained model over training, and the effective number of models.",
            "Mean over finished runs of all scenarios with 95 % bands over runs. Dashed: uniform attention, "
            f"and all models. Of more than {MAX_ATTENTION_PANELS} arms the first are drawn; the table has "
            "all.",
            attention(study),
        ),
        *_tables(attention_table(study)),
    ]
    return Section("attention", "Attention", blocks, in_short=True)


def _cost(study: Study) -> Section:
    paragraphs = []
    if study.cost is None:
        paragraphs.append("Costs were not measured in one process; what follows cannot be made into ratios.")
    return Section(
        "cost",
        "Cost",
        _tables(cost_table(study), speeds_table(study)),
        paragraphs,
        in_short=study.cost is not None,
    )


def _claims(judged: Judged) -> Section:
    blocks = [claims_table(judged.claims)] if judged.claims else []
    return Section("claims", "The guide's claims", blocks, in_short=True)


def _provenance(study: Study) -> Section:
    plan = study.plan
    configurations = _configurations(study)
    blocks: list[Block] = [runs_table(study), Listing("Command", plan.command), *configurations]
    text = f"Planned by durotaxis {plan.version}; records of format {plan.format}."
    if not configurations:
        text += f" Configurations are not shown: the study's directory has no {CONFIGS}/."
    return Section("reproducibility", "Reproducibility", blocks, [text])


def _configurations(study: Study) -> list[Listing]:
    """Of each arm one configuration whole, of its other runs the lines that differ from that one."""
    found = []
    for arm in study.arms:
        runs = [run for run in study.plan.runs if run.arm == arm]
        texts = {run.key: _read_configuration(study, run.config) for run in runs}
        first = next((run for run in runs if texts[run.key] is not None), None)
        if first is None:
            continue
        whole = texts[first.key] or ""
        found.append(Listing(f"Configuration of {name_of(first.key)} ({first.config})", whole))
        changed = []
        for run in runs:
            text = texts[run.key]
            if run is first:
                continue
            changed.append(f"{name_of(run.key)} ({run.config})")
            changed += ["  its file is missing"] if text is None else _changed_lines(whole, text)
        if changed:
            found.append(Listing(f"How the other configurations of {arm} differ from it", "\n".join(changed)))
    return found


def _read_configuration(study: Study, digest: str) -> str | None:
    path = study.path / CONFIGS / f"{digest}.yaml"
    try:
        return path.read_text("utf-8") if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error


def _changed_lines(first: str, second: str) -> list[str]:
    lines = list(difflib.unified_diff(first.splitlines(), second.splitlines(), n=0, lineterm=""))[2:]
    return [f"  {line}" for line in lines if not line.startswith("@@")] or ["  not at all"]


# Writing


def _write_figure(picture: Picture, out: Path, formats: Sequence[str]) -> list[Path]:
    import matplotlib as mpl

    from durotaxis.analysis.figures import written
    from durotaxis.analysis.study_figures import STUDY_STYLE

    paths = [out / FIGURES / f"{picture.name}.{suffix}" for suffix in formats]
    with mpl.rc_context(STUDY_STYLE):
        for path in paths:
            written(picture.figure, path)
            picture.figure.set_layout_engine("none")  # it stays as it was laid out for the first
    return paths


def _write_table(table: Table, out: Path) -> list[Path]:
    paths = []
    for suffix, form in ((".csv", csv_text), (".tex", latex)):
        path = out / TABLES / f"{table.name}{suffix}"
        write_atomic(path, form(table))
        paths.append(path)
    return paths


def _page(
    study: Study, lines: Sequence[str], notes: Sequence[Banner], sections: Sequence[Section], out: Path
) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def render(block: Block) -> Markup:
        return Markup(_block(block, out))

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["render"] = render
    source = resources.files("durotaxis.analysis") / "templates" / "study.html.jinja"
    template = environment.from_string(source.read_text("utf-8"))
    return template.render(
        title=study.plan.name,
        question=study.plan.question,
        dates=_dates(study),
        headline=lines,
        banners=notes,
        sections=sections,
    )


def _block(block: Block, out: Path) -> str:
    if isinstance(block, Table):
        text = html(block)
        return f'<div class="tall">{text}</div>' if len(block.rows) > MANY and block.name == "runs" else text
    if isinstance(block, Listing):
        return f"<details><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"
    from durotaxis.analysis.study_figures import inline_svg

    svg = inline_svg((out / FIGURES / f"{block.name}.svg").read_text("utf-8"), block.name, block.alt)
    kind = ' class="broad"' if block.figure.get_figwidth() > NARROW else ""
    return (
        f'<figure id="figure-{block.name}"{kind}><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(block.name)}">{svg}</div><figcaption>{escape(block.caption)}</figcaption></figure>'
    )


def _dates(study: Study) -> str:
    started = sorted(
        str(run.provenance["started"])[:10] for run in study.records.values() if run.provenance.get("started")
    )
    today = datetime.now(UTC).date().isoformat()
    if not started:
        return f"Reported {today}."
    between = started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}"
    return f"Runs started {between}; reported {today}."


def _markdown(
    study: Study, lines: Sequence[str], notes: Sequence[Banner], sections: Sequence[Section]
) -> str:
    def plain(text: str) -> str:
        return escape(" ".join(text.split()), quote=False)

    parts = [f"# {plain(study.plan.name)}", plain(study.plan.question), plain(_dates(study))]
    parts.append("\n".join(f"- {plain(line)}" for line in lines))
    for banner in notes:
        items = "".join(f"\n> - {plain(item)}" for item in banner.items)
        parts.append(f"> **{plain(banner.text)}**{chr(10) + '>' if items else ''}{items}")
    for section in sections:
        if not section.in_short:
            continue
        parts.append(f"## {plain(section.title)}")
        parts += [plain(paragraph) for paragraph in section.paragraphs]
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(markdown(block).rstrip())
            elif isinstance(block, Picture):
                parts.append(f"![{plain(block.alt)}]({FIGURES}/{block.name}.svg)\n\n{plain(block.caption)}")
    failed = sum(run.status == FAILED for run in study.records.values())
    parts.append("## Reproducibility")
    parts.append(
        f"{len(study.records)} of {len(study.plan.runs)} runs have a record, {failed} of them failed; "
        f"durotaxis {study.plan.version}. Every run with its seed, configuration, commit and hashes: "
        f"`{TABLES}/runs.csv`."
    )
    parts.append(f"```bash\n{study.plan.command}\n```")
    return "\n\n".join(parts) + "\n"
