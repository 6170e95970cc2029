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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from durotaxis.analysis.claims import (
    HELPS,
    HURTS,
    MARGIN,
    MET,
    NEUTRAL,
    NOT_MET,
    NOT_TESTED,
    UNDECIDED,
    USELESS,
    Comparison,
    Verdict,
    claims,
    effects,
    goals,
    main_difference,
    time_ratio,
    word_of,
)
from durotaxis.analysis.stats import MIN_SIGNAL, Estimate, mean_interval
from durotaxis.analysis.study import HEADING, NoScale, Study, load_study
from durotaxis.analysis.study_results import (
    ALL,
    arms_table,
    attention_table,
    claims_table,
    commit_of,
    cost_table,
    deterministic_table,
    differences_table,
    differing,
    goals_table,
    helps_table,
    improvement_rows,
    interventions_table,
    learning_table,
    ratios_table,
    results_table,
    runs_table,
    scenarios_table,
    settings_table,
    speeds_table,
    transfer_table,
)
from durotaxis.analysis.study_tables import Column, Table, cell_text, csv_text, html, latex, markdown
from durotaxis.records import CONFIGS, FAILED, TUNING, RecordError, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML, MARKDOWN, FIGURES, TABLES = "report.html", "report.md", "figures", "tables"
FORMATS = ("svg", "png", "pdf")
MANY = 12
"""A table of more rows scrolls on the page."""
NAMED = 40
"""So many missing or failed runs are named on the page; the table of all runs has every one."""


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


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before the numbers."""

    text: str
    items: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page; in the Markdown too where it is `in_short`."""

    anchor: str
    title: str
    blocks: Sequence[Table | Picture | Listing] = ()
    paragraphs: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = field(default=())
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
    judged = _Judged.of(loaded)
    sections = [section for section in _sections(judged) if section.blocks or section.terms]
    lines = headline(judged)
    banners = _banners(loaded)
    for folder in (out / FIGURES, out / TABLES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    blocks = [block for section in sections for block in section.blocks]
    tables = [block for block in blocks if isinstance(block, Table)]
    pictures = [block for block in blocks if isinstance(block, Picture)]
    figure_paths = [path for picture in pictures for path in _write_figure(picture, out, formats)]
    table_paths = [path for table in tables for path in _write_table(table, out)]
    write_atomic(out / HTML, _page(loaded, lines, banners, sections, out))
    write_atomic(out / MARKDOWN, _markdown(loaded, lines, banners, sections))
    return Report(out / HTML, out / MARKDOWN, figure_paths, table_paths, lines)


@dataclass(frozen=True)
class _Judged:
    """A study with everything that is judged of it."""

    study: Study
    effects: Sequence[Comparison]
    goals: Sequence[Verdict]
    claims: Sequence[Verdict]

    @classmethod
    def of(cls, study: Study) -> _Judged:
        # Claim by claim rather than arm by arm: what is compared stands together.
        by_arm = [(goals(study, arm), claims(study, arm)) for arm in study.others]
        goal_rows = [verdict for row in zip(*(pair[0] for pair in by_arm), strict=True) for verdict in row]
        claim_rows = [verdict for row in zip(*(pair[1] for pair in by_arm), strict=True) for verdict in row]
        return cls(study, effects(study), goal_rows, claim_rows)


# Words


def headline(judged: _Judged) -> list[str]:
    """The verdict in sentences."""
    study = judged.study
    lines = []
    if study.plan.purpose == TUNING:
        lines.append("These are tuning seeds: nothing here is a result.")
    if not study.others:
        lines.append(f"There is one arm, {study.plan.baseline}: nothing is compared.")
    for arm in study.others:
        lines.append(_comparison(study, arm))
        lines += _where(judged, arm)
        lines += _of_goal([verdict for verdict in judged.goals if verdict.arm == arm])
        lines += _of_claims([verdict for verdict in judged.claims if verdict.arm == arm])
    if study.failed:
        lines.append(
            f"{len(study.failed)} of {len(study.records)} runs failed; they count as agents that learnt nothing."
        )
    if study.missing:
        lines.append(f"{len(study.missing)} of {len(study.plan.runs)} runs are missing: all this is provisional.")
    return lines


_SCORES = {HELPS: "scores higher than", HURTS: "scores lower than"}


def _comparison(study: Study, arm: str) -> str:
    gap, base = main_difference(study, arm), study.plan.baseline
    if gap.mean is None:
        return f"{arm} cannot be compared with {base}: there is a scenario without a seed that both have."
    seeds = sorted({len(study.values(arm, name, study.main_measure)) for name in study.main_scenarios})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    runs = f"{many} seed{'s' if seeds[-1] != 1 else ''}"
    names = ", ".join(study.main_scenarios)
    by = f"by {HEADING[study.main_measure]} (IQM over {names}; {runs}): difference {_signed(gap)}"
    word = word_of(gap)
    if word in _SCORES:
        return f"{arm} {_SCORES[word]} {base} {by}."
    if word == NEUTRAL:
        return f"{arm} scores the same as {base} within ±{MARGIN} {by}."
    if gap.low is None:
        return f"Undecided whether {arm} scores higher than {base} {by}: too few seeds for an interval."
    return f"Undecided whether {arm} scores higher or lower than {base} {by}."


def _signed(value: Estimate) -> str:
    return cell_text(value, Column("", is_signed=True))


def _where(judged: _Judged, arm: str) -> list[str]:
    if len(judged.study.scenarios) == 1 and not judged.study.plan.conditions:
        return []
    places: dict[str, list[str]] = {}
    for effect in judged.effects:
        if effect.arm == arm:
            where = effect.scenario + ("" if effect.condition == "trained" else f" ({effect.condition})")
            places.setdefault(effect.word, []).append(where)
    verbs = {HELPS: "helps on", NEUTRAL: "is neutral on", HURTS: "hurts on", UNDECIDED: "is undecided on"}
    parts = [f"{verbs[word]} {', '.join(places[word])}" for word in verbs if word in places]
    return [f"Place by place, {arm} {'; '.join(parts)}."] if parts else []


def _of_goal(verdicts: Sequence[Verdict]) -> list[str]:
    first, second, *rest = verdicts
    words = [_either(first.outcome, second.outcome), *(verdict.outcome for verdict in rest)]
    names = ("score or area", "steps", "spread", "time")
    each = ", ".join(f"{name} {word}" for name, word in zip(names, words, strict=True))
    whole = MET if set(words) == {MET} else NOT_MET if NOT_MET in words else UNDECIDED
    return [f"The goal is {whole} by {first.arm}: {each}."]


def _either(first: str, second: str) -> str:
    if MET in (first, second):
        return MET
    known = [word for word in (first, second) if word != NOT_TESTED]
    if not known:
        return NOT_TESTED
    return NOT_MET if set(known) == {NOT_MET} else UNDECIDED


def _of_claims(verdicts: Sequence[Verdict]) -> list[str]:
    counts = {
        word: sum(verdict.outcome == word for verdict in verdicts)
        for word in ("held", "not held", "undecided", "not tested here")
    }
    each = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return [f"Of the guide's {len(verdicts)} claims about {verdicts[0].arm}: {each}."]


def _banners(study: Study) -> list[Banner]:
    found = []
    plan = study.plan
    if plan.purpose == TUNING:
        found.append(Banner("Tuning: these seeds are for choosing, so that nothing on this page is a result."))
    if study.missing:
        named = [_name(run.key) for run in study.missing]
        found.append(
            Banner(f"Partial: {len(study.missing)} of {len(plan.runs)} runs have no record.", _capped(named))
        )
    if study.failed:
        named = [f"{_name(run.key)}: {run.error or 'no reason recorded'}" for run in study.failed]
        found.append(
            Banner(
                f"{_count(len(study.failed), 'run')} failed, counted at the level of the random policy, not dropped.",
                _capped(named),
            )
        )
    found += _mixtures(study)
    tried = {arm.name: len(arm.tried) for arm in plan.arms if arm.name in study.arms}
    if len(set(tried.values())) > 1:
        each = [f"{name}: {count}" for name, count in tried.items()]
        found.append(Banner("Arms had unequal numbers of variants tried on tuning seeds.", each))
    seeds = {(arm, name): len(study.runs(arm, name)) for arm in study.arms for name in study.scenarios}
    if min(seeds.values()) == 1:
        found.append(Banner("There is an arm with one run in a scenario: no interval, nothing to decide by."))
    return found


def _mixtures(study: Study) -> list[Banner]:
    """What should be the same in all records and is not."""
    found = []
    for what, of in (
        ("commits", lambda record: commit_of(record.provenance)),
        ("versions of torch", lambda record: str((record.provenance.get("versions") or {}).get("torch"))),
        ("devices", lambda record: f"{record.provenance.get('device')} ({record.provenance.get('device_name')})"),
        ("numbers of threads", lambda record: str(record.provenance.get("threads"))),
    ):
        values = differing(study, of)
        if len(values) > 1:
            each = [f"{'unknown' if value == 'None' else value}: {_count(count, 'run')}" for value, count in values.items()]
            found.append(Banner(f"The records are of different {what}.", each))
        elif what == "commits" and "(modified)" in next(iter(values), ""):
            found.append(Banner("The source had been changed since the commit that the records name."))
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(key: tuple[str, str, int]) -> str:
    return "/".join(map(str, key))


def _capped(items: list[str]) -> list[str]:
    return items if len(items) <= NAMED else [*items[:NAMED], f"and {len(items) - NAMED} more"]


# Sections


def _sections(judged: _Judged) -> list[Section]:
    return [
        _plan(judged.study),
        _main(judged.study),
        _goal(judged),
        _helps(judged),
        _curves(judged.study),
        _distributions(judged),
        _tampering(judged.study),
        _elsewhere(judged.study),
        _settings(judged.study),
        _attention(judged.study),
        _cost(judged.study),
        _claims(judged),
        _provenance(judged.study),
        Section("definitions", "How each number is defined", terms=_glossary(judged.study)),
    ]


def _tables(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _plan(study: Study) -> Section:
    plan = study.plan
    trained = sorted(plan.seeds)
    text = (
        f"{len(study.arms)} arms, {len(study.scenarios)} scenarios, {len(trained)} seeds "
        f"({trained[0]} to {trained[-1]}), {len(plan.runs)} runs of {plan.total_steps:,} environment steps each. "
        f"Every trained agent was judged on {plan.episodes} held-out episodes per score. Arms are compared with "
        f"{plan.baseline}."
    )
    blocks: list[Table | Picture | Listing] = [arms_table(study), scenarios_table(study)]
    tried = [f"{arm.name}:\n" + "\n".join(f"  {line}" for line in arm.tried) for arm in plan.arms if arm.tried]
    if tried:
        blocks.append(Listing("Variants tried on tuning seeds", "\n".join(tried)))
    return Section("plan", "Plan", blocks, [text], in_short=True)


def _main(study: Study) -> Section:
    over = ", ".join(study.main_scenarios)
    text = f"Aggregates ('{ALL}') are over {over}." if len(study.main_scenarios) > 1 else f"What counts: {over}."
    undefined = [name for name in study.scenarios if isinstance(study.scale(name), NoScale)]
    if undefined:
        text += (
            f" The normalised return is undefined in {', '.join(undefined)}; there, success rate and front "
            "progress stand."
        )
    against = [differences_table(study), ratios_table(study)] if study.others else []
    tables = [results_table(study), *against[:1], learning_table(study), *against[1:]]
    more = deterministic_table(study)
    return Section("results", "Results", [*tables, *_tables(more)], [text], in_short=True)


def _goal(judged: _Judged) -> Section:
    blocks = [goals_table(judged.goals)] if judged.goals else []
    return Section("goal", "The goal", blocks, in_short=True)


def _helps(judged: _Judged) -> Section:
    from durotaxis.analysis.study_figures import forest

    study = judged.study
    blocks: list[Table | Picture] = []
    if judged.effects:
        blocks.append(helps_table(study, judged.effects))
        total = [(arm, main_difference(study, arm)) for arm in study.others]
        blocks += _picture(
            "differences",
            "Differences to the baseline with 95 % intervals, one row per scenario and the aggregate below. "
            + " ".join(_comparison(study, arm) for arm in study.others),
            "Mean difference over paired seeds with 95 % interval; the last row is the IQM over the scenarios "
            "that count. Right of the line is better than the baseline.",
            forest(study, judged.effects, total),
        )
    return Section("helps", "Where it helps, is neutral, or hurts", blocks, in_short=True)


def _picture(name: str, alt: str, caption: str, figure: Figure | None) -> list[Picture]:
    return [] if figure is None else [Picture(name, alt, caption, figure)]


def _curves(study: Study) -> Section:
    from durotaxis.analysis.study_figures import learning_curves

    blocks = []
    for measure in ("normalised_return", "success_rate"):
        blocks += _picture(
            f"curves-{measure.replace('_', '-')}",
            f"Learning curves: {HEADING[measure]} of training episodes against environment steps, a panel per "
            f"scenario, a line per arm ({', '.join(study.arms)}).",
            "Training episodes, mean over runs; bands are pointwise 95 % t intervals over seeds. Failed runs "
            "are in it at random's level.",
            learning_curves(study, measure),
        )
    return Section("curves", "Learning curves", blocks, in_short=True)


def _distributions(judged: _Judged) -> Section:
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
            f"Share of runs over {', '.join(study.main_scenarios)} that score above x, with pointwise 95 % bands. "
            "A line further right is better throughout.",
            profiles(study),
        ),
        *_picture(
            "improvement",
            "Probability that a run of an arm scores higher than one of the baseline, with 95 % intervals.",
            "Probability that a run of the arm scores higher than a run of the baseline, ties counted half; "
            "0.5 is no difference.",
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
    from durotaxis.analysis.study_figures import attention

    table = attention_table(study)
    blocks = [
        *_picture(
            "attention",
            "Mean attention per pre-trained model over training, and the effective number of models.",
            "Mean over runs of all scenarios with 95 % bands over runs. Dashed: uniform attention, and all models.",
            attention(study),
        ),
        *_tables(table),
    ]
    return Section("attention", "Attention", blocks, in_short=True)


def _cost(study: Study) -> Section:
    paragraphs = []
    if study.cost is None:
        paragraphs.append("Costs were not measured in one process; what follows cannot be made into ratios.")
    for arm in study.others:
        ratio = time_ratio(study, arm)
        if ratio.mean is not None:
            text = cell_text(ratio, Column(""))
            paragraphs.append(f"A training step of {arm} takes {text} times as long as one of {study.plan.baseline}.")
    return Section(
        "cost", "Cost", _tables(cost_table(study), speeds_table(study)), paragraphs, in_short=study.cost is not None
    )


def _claims(judged: _Judged) -> Section:
    blocks = [claims_table(judged.claims)] if judged.claims else []
    return Section("claims", "The guide's claims", blocks, in_short=True)


def _provenance(study: Study) -> Section:
    plan = study.plan
    blocks = [runs_table(study), Listing("Command", plan.command), *_configurations(study)]
    text = f"Made by durotaxis {plan.version}, records of format {plan.format}. Directory of the study: {plan.name}."
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
        found.append(Listing(f"Configuration of {_name(first.key)} ({first.config})", whole))
        changed = []
        for run in runs:
            text = texts[run.key]
            if run is first:
                continue
            changed.append(f"{_name(run.key)} ({run.config})")
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


def _glossary(study: Study) -> list[tuple[str, str]]:
    plan = study.plan
    return [
        (
            "Run",
            "One arm trained in one scenario with one seed. Runs, not episodes, are the unit of every interval but "
            "the one that says 'over episodes'.",
        ),
        (
            "Final score",
            f"Mean over {plan.episodes} held-out episodes of the trained agent, actions sampled, on seeds that no "
            "training and no choice of a checkpoint has seen.",
        ),
        (
            "Normalised return",
            "(return - random) / (delete-left - random), with the mean returns of these two scripted policies in the "
            "same world: 0 is chance, 1 the reference. Undefined where the references are unknown or their "
            f"difference is under {MIN_SIGNAL:.0f} standard errors. The references are taken as known in "
            "intervals; the table of scenarios gives the error of the unit, which all arms share.",
        ),
        (
            "Failed and missing runs",
            "A run that failed counts with a normalised return and success rate of 0, and random's front progress. A "
            "run without a record is left out of this page, with its pair, and named at its top.",
        ),
        (
            "IQM, mean, median",
            "Interquartile mean over all runs of all scenarios that count; mean and median over the scenarios' means.",
        ),
        (
            "Intervals",
            "95 %, two-sided. From 10 seeds per scenario on: stratified bootstrap over seeds within scenarios, pairs "
            "resampled together, with the expanded percentiles of Hesterberg (2015). Below: Student's t (Welch, "
            "Tukey-McLaughlin and Yuen for the IQM, Fieller for ratios, the jackknife for spreads). None is corrected "
            "for the number of comparisons: of 20 comparisons without a difference, one is expected to look like one.",
        ),
        (
            "Paired",
            "Arms are compared at the seeds that both have; the same seed gives both the same worlds. Hedges' g is the "
            "mean difference over the standard deviation of paired differences, without its small-sample bias.",
        ),
        (
            "Area under the curve",
            "Mean height of a run's training curve (normalised return; success rate where that is undefined) over the "
            "planned steps.",
        ),
        (
            "Steps to the baseline's final score",
            "The level is the baseline's mean over runs of its training curve's last tenth. A run reaches it where the "
            "running mean of three points of its own curve first does. A run that never does counts with all its "
            "steps (restricted mean), the baseline's own runs too.",
        ),
        (
            "Spread over seeds",
            "Standard deviation of final scores over seeds in a scenario, with its chi-square interval (exact for "
            "normal scores); ratios are geometric means over scenarios.",
        ),
        (
            "Probability of improvement, P(better)",
            "Probability that a run of an arm scores higher than a run of the baseline, ties half, mean over scenarios.",
        ),
        (
            "Attention",
            "Weight of each pre-trained model, mean over colonies. The effective number of models is exp(entropy): 1 if "
            "one model has all of it, their number if all have the same.",
        ),
        (
            "Redundancy",
            f"Judged where the study has an arm '<arm>{USELESS}': the same arm with one of its models replaced by a "
            f"useless one. Held if that costs less than {MARGIN}.",
        ),
        (
            "Cost",
            "All arms in one process, one after the other in each turn, so that the machine's drift is common; ratios "
            "are of means, paired by turn. Parameter counts are exact; memory is one measurement per arm.",
        ),
    ]


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
    study: Study, lines: Sequence[str], banners: Sequence[Banner], sections: Sequence[Section], out: Path
) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def render(block: Table | Picture | Listing) -> Markup:
        return Markup(_block(block, out))  # noqa: S704

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["render"] = render
    source = resources.files("durotaxis.analysis") / "templates" / "study.html.jinja"
    template = environment.from_string(source.read_text("utf-8"))
    return template.render(
        title=study.plan.name,
        question=study.plan.question,
        dates=_dates(study),
        headline=lines,
        banners=banners,
        sections=sections,
    )


def _block(block: Table | Picture | Listing, out: Path) -> str:
    if isinstance(block, Table):
        text = html(block)
        return f'<div class="tall">{text}</div>' if len(block.rows) > MANY and block.name == "runs" else text
    if isinstance(block, Listing):
        return f"<details><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"
    from durotaxis.analysis.study_figures import inline_svg

    svg = inline_svg((out / FIGURES / f"{block.name}.svg").read_text("utf-8"), block.name, block.alt)
    return (
        f'<figure id="figure-{block.name}"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(block.name)}">{svg}</div><figcaption>{escape(block.caption)}</figcaption></figure>'
    )


def _dates(study: Study) -> str:
    started = sorted(str(run.provenance["started"])[:10] for run in study.records.values() if run.provenance.get("started"))
    today = datetime.now(UTC).date().isoformat()
    if not started:
        return f"Reported {today}."
    between = started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}"
    return f"Runs started {between}; reported {today}."


def _markdown(
    study: Study, lines: Sequence[str], banners: Sequence[Banner], sections: Sequence[Section]
) -> str:
    def plain(text: str) -> str:
        return escape(" ".join(text.split()), quote=False)

    parts = [f"# {plain(study.plan.name)}", plain(study.plan.question), plain(_dates(study))]
    parts.append("\n".join(f"- {plain(line)}" for line in lines))
    for banner in banners:
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
        f"{len(study.records)} of {len(study.plan.runs)} runs have a record, {failed} of them failed; durotaxis "
        f"{study.plan.version}. Every run with its seed, configuration, commit and hashes: `{TABLES}/runs.csv`."
    )
    parts.append(f"```bash\n{study.plan.command}\n```")
    return "\n\n".join(parts) + "\n"
