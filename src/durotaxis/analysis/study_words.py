"""A study in words: the verdict in sentences, what to know before the numbers, and what the numbers are.

Every sentence of the verdict is made from numbers with their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    main_word,
    subset_difference,
    subsets,
    time_ratio,
    unpaired,
    word_of,
)
from durotaxis.analysis.factors import contrasts, effect_of
from durotaxis.analysis.pairs import held_out, paired
from durotaxis.analysis.stats import MIN_SIGNAL, Estimate, mean_interval
from durotaxis.analysis.study import HEADING, Scale, Study, score_of
from durotaxis.analysis.study_results.factors import factor_word
from durotaxis.analysis.study_results.runs import commit_of, differing
from durotaxis.analysis.study_tables import Column, cell_text
from durotaxis.records import TRAINED, TUNING

FEW = 3
"""Of more arms the headline says only how they score."""
WEAK = 0.9
"""A reference that succeeds less often than this is said to be no ceiling."""
NAMED = 40
"""So many missing or failed runs are named on the page; the table of all runs has every one."""


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before the numbers."""

    text: str
    items: Sequence[str] = ()


@dataclass(frozen=True)
class Judged:
    """A study with everything that is judged of it."""

    study: Study
    effects: Sequence[Comparison]
    goals: Sequence[Verdict]
    claims: Sequence[Verdict]

    @classmethod
    def of(cls, study: Study) -> Judged:
        """Judge a study."""
        # Claim by claim rather than arm by arm: what is compared stands together.
        by_arm = [(goals(study, arm), claims(study, arm)) for arm in study.others if study.tests_wsa(arm)]
        goal_rows = [verdict for row in zip(*(pair[0] for pair in by_arm), strict=True) for verdict in row]
        claim_rows = [verdict for row in zip(*(pair[1] for pair in by_arm), strict=True) for verdict in row]
        return cls(study, effects(study), goal_rows, claim_rows)


def headline(judged: Judged) -> list[str]:
    """The verdict in sentences."""
    study = judged.study
    lines = []
    if study.plan.purpose == TUNING:
        lines.append("These are tuning seeds: nothing here is a result.")
    if not study.others:
        lines.append(f"There is one arm, {study.plan.baseline}: nothing is compared.")
    for arm in study.others:
        if len(study.others) > FEW:
            lines.append(" ".join([comparison(study, arm), *_where(judged, arm)]))
        else:
            lines += [comparison(study, arm), *_rests_on(study, arm), *_where(judged, arm)]
            lines += _of_head_start(study, arm)
            lines += _of_goal([verdict for verdict in judged.goals if verdict.arm == arm])
            lines += _of_claims([verdict for verdict in judged.claims if verdict.arm == arm])
            lines += _of_cost(study, arm)
            lines += _of_attention(study, arm)
    lines += _of_factors(study)
    if study.failed:
        lines.append(
            f"{len(study.failed)} of {len(study.records)} runs failed; they count as agents that learnt "
            "nothing."
        )
    if study.missing:
        lines.append(
            f"{len(study.missing)} of {len(study.plan.runs)} runs are missing: all this is provisional."
        )
    return lines


_SCORES = {HELPS: "scores higher than", HURTS: "scores lower than"}


def comparison(study: Study, arm: str) -> str:
    """An arm's final score against the baseline's, as a sentence."""
    gap, base = main_difference(study, arm), study.plan.baseline
    if gap.mean is None:
        lacking = [name for name in study.main_scenarios if not _pairs(study, arm, name)]
        return f"{arm} cannot be compared with {base}: no seed that both have in {', '.join(lacking)}."
    seeds = sorted({_pairs(study, arm, name) for name in study.main_scenarios})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    runs = f"{many} seed{'s' if seeds[-1] != 1 else ''}"
    names = ", ".join(study.main_scenarios)
    by = f"by {HEADING[study.main_measure]} (IQM over {names}; {runs}): difference {_signed(gap)}"
    word = main_word(study, arm, gap)
    if word in _SCORES:
        return f"{arm} {_SCORES[word]} {base} {by}."
    if word == NEUTRAL:
        return f"{arm} scores within ±{MARGIN} of {base} {by}."
    if gap.low is None:
        return f"Undecided whether {arm} scores higher than {base} {by}: too few seeds for an interval."
    if word != word_of(gap):
        where = ", ".join(unpaired(study, arm))
        return (
            f"Undecided whether {arm} scores higher or lower than {base} {by}: no seed finished in both on "
            f"{where}."
        )
    return f"Undecided whether {arm} scores higher or lower than {base} {by}."


def _of_head_start(study: Study, arm: str) -> list[str]:
    source, base = study.head_start(arm), study.plan.baseline
    if source is None:
        return []
    return [
        f"{arm} starts from what {source} learned, {base} does not: goal and claims are not judged of it."
    ]


def _pairs(study: Study, arm: str, scenario: str) -> int:
    """Seeds with a final score of both the arm and the baseline."""
    both = paired(study.plan.baseline, arm, [scenario], held_out(study, study.main_measure))
    return len(both[0][0]) if both else 0


def _rests_on(study: Study, arm: str) -> list[str]:
    """What the comparison would be without a scenario or without failed runs, where its verdict changes."""
    word = main_word(study, arm, main_difference(study, arm))
    parts = [(part.name, subset_difference(study, arm, part)) for part in subsets(study)]
    other = [
        f"{name} {word_of(gap)} ({_signed(gap)})"
        for name, gap in parts
        if gap.mean is not None and word_of(gap) != word
    ]
    return [f"That rests on what is counted: {'; '.join(other)}."] if other else []


def _signed(value: Estimate) -> str:
    return cell_text(value, Column("", is_signed=True))


def _where(judged: Judged, arm: str) -> list[str]:
    if len(judged.study.scenarios) == 1 and not judged.study.plan.conditions:
        return []
    places: dict[str, list[str]] = {}
    for effect in judged.effects:
        if effect.arm == arm:
            where = effect.scenario + ("" if effect.condition == TRAINED else f" ({effect.condition})")
            if effect.finished.mean is not None and (word := word_of(effect.finished)) != effect.word:
                where += f" ({word} without failed runs)"
            places.setdefault(effect.word, []).append(where)
    verbs = {HELPS: "helps on", NEUTRAL: "is neutral on", HURTS: "hurts on", UNDECIDED: "is undecided on"}
    parts = [f"{verbs[word]} {', '.join(places[word])}" for word in verbs if word in places]
    return [f"Place by place, {arm} {'; '.join(parts)}."] if parts else []


def _of_factors(study: Study) -> list[str]:
    values = held_out(study, study.main_measure)
    parts = []
    for contrast in contrasts(study.plan.arms):
        gap = effect_of(contrast, study.main_scenarios, values)
        if gap.mean is not None:
            parts.append(f"{contrast.name}: {factor_word(contrast, gap).text}, {_signed(gap)}")
    return [f"Factors, by {HEADING[study.main_measure]}: {'; '.join(parts)}."] if parts else []


def _of_goal(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    first, second, *rest = verdicts
    words = [_either(first.outcome, second.outcome), *(verdict.outcome for verdict in rest)]
    names = ("score or area", "steps", "spread", "time")
    each = ", ".join(f"{name} {word}" for name, word in zip(names, words, strict=True))
    if set(words) == {NOT_TESTED}:
        return [f"The goal is not tested here for {first.arm}."]
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
    if not verdicts:
        return []
    counts = {
        word: sum(verdict.outcome == word for verdict in verdicts)
        for word in ("held", "not held", "undecided", "not tested here")
    }
    each = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return [f"Of the guide's {len(verdicts)} claims about {verdicts[0].arm}: {each}."]


def _of_cost(study: Study, arm: str) -> list[str]:
    ratio = time_ratio(study, arm)
    if ratio.mean is None:
        return []
    text = cell_text(ratio, Column(""))
    return [f"A training step of {arm} takes {text} times as long as one of {study.plan.baseline}."]


def _of_attention(study: Study, arm: str) -> list[str]:
    from durotaxis.analysis.study_figures import shares

    found = shares(study, arm)
    if found is None:
        return []
    names, _, _, effective = found
    text = cell_text(mean_interval(effective[:, -1].tolist()), Column(""))
    return [f"At the end of training {arm} attends to {text} of its {len(names)} models (effective number)."]


def banners(study: Study) -> list[Banner]:
    """What a reader must know before the numbers: tuning, missing and failed runs, mixed records."""
    found = []
    plan = study.plan
    if plan.purpose == TUNING:
        found.append(
            Banner("Tuning: these seeds are for choosing, so that nothing on this page is a result.")
        )
    if study.missing:
        named = [name_of(run.key) for run in study.missing]
        found.append(
            Banner(f"Partial: {len(study.missing)} of {len(plan.runs)} runs have no record.", _capped(named))
        )
    if study.failed:
        named = [f"{name_of(run.key)}: {run.error or 'no reason recorded'}" for run in study.failed]
        found.append(
            Banner(
                f"{counted(len(study.failed), 'run')} failed, counted at the level of the random policy, not "
                "dropped.",
                _capped(named),
            )
        )
    if plan.changes:
        found.append(Banner("The plan was changed after the first results.", list(plan.changes)))
    if study.outdated:
        found.append(
            Banner(
                f"Costs of {', '.join(study.outdated)} were measured with another configuration and are left "
                "out: durotaxis study cost."
            )
        )
    found += _mixtures(study)
    tried = {arm.name: len(arm.tried) for arm in plan.arms if arm.name in study.arms}
    if len(set(tried.values())) > 1:
        each = [f"{name}: {count}" for name, count in tried.items()]
        found.append(Banner("Arms had unequal numbers of variants tried on tuning seeds.", each))
    seeds = {(arm, name): len(study.runs(arm, name)) for arm in study.arms for name in study.scenarios}
    if 1 in seeds.values():
        found.append(Banner("There is an arm with one run in a scenario: no interval, nothing to decide by."))
    return found


def _mixtures(study: Study) -> list[Banner]:
    """What should be the same in all records and is not."""
    found = []
    for what, of in (
        ("commits", lambda record: commit_of(record.provenance)),
        ("versions of torch", lambda record: str((record.provenance.get("versions") or {}).get("torch"))),
        (
            "devices",
            lambda record: f"{record.provenance.get('device')} ({record.provenance.get('device_name')})",
        ),
        ("numbers of threads", lambda record: str(record.provenance.get("threads"))),
    ):
        values = differing(study, of)
        if len(values) > 1:
            each = [
                f"{'unknown' if value == 'None' else value}: {counted(count, 'run')}"
                for value, count in values.items()
            ]
            found.append(Banner(f"The records are of different {what}.", each))
        elif what == "commits" and "(modified)" in next(iter(values), ""):
            found.append(Banner("The source had been changed since the commit that the records name."))
    return found


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def held_out_episodes(study: Study) -> str:
    """How many episodes agents were judged on, in a sentence or two."""
    own = study.plan.episodes
    text = f"Every trained agent was judged on {own} held-out episodes."
    others = {
        score.episodes for run in study.records.values() for score in run.scores if score != score_of(run)
    }
    if others and others != {own}:
        fewer = " or ".join(map(str, sorted(others)))
        text += f" Other scores, under conditions, interventions or in other worlds, are of {fewer} episodes."
    return text


def units(study: Study) -> list[str]:
    """How far normalised returns of scenarios that are aggregated over are alike; nothing where they are."""
    scales = {name: study.scale(name) for name in study.main_scenarios}
    spans = {name: scale.span for name, scale in scales.items() if isinstance(scale, Scale)}
    if not spans or study.main_measure != "normalised_return":
        return []
    references = {name: (study.scenario(name).references or {})["delete-left"] for name in spans}
    weak = [
        f"{100 * share:.0f} % on {name}"
        for name in spans
        if (share := references[name].get("success_rate")) is not None and share < WEAK
    ]
    text = ""
    if weak:
        text = (
            f"A normalised return of 1 is delete-left's, whose success rate is {', '.join(weak)}: there it "
            "is no ceiling, and scores go beyond 1. "
        )
    small, large = min(spans, key=spans.__getitem__), max(spans, key=spans.__getitem__)
    if (ratio := spans[large] / spans[small]) > 1 + MARGIN:
        text += (
            f"Its unit is {spans[small]:.2f} of return on {small} and {spans[large]:.2f} on {large}: "
            f"the same return weighs {ratio:.1f} times as much on {small}, in means, areas and "
            "thresholds. Success rates have one unit everywhere."
        )
    return [text.strip()] if text else []


def name_of(key: tuple[str, str, int]) -> str:
    """`arm/scenario/seed`."""
    return "/".join(map(str, key))


def _capped(items: list[str]) -> list[str]:
    return items if len(items) <= NAMED else [*items[:NAMED], f"and {len(items) - NAMED} more"]


def glossary(study: Study) -> list[tuple[str, str]]:
    """How each number is defined: (term, meaning)."""
    plan = study.plan
    return [
        (
            "Run",
            "One arm trained in one scenario with one seed. Runs, not episodes, are the unit of every "
            "interval but the one that says 'over episodes'.",
        ),
        (
            "Final score",
            f"Mean over {plan.episodes} held-out episodes of the trained agent, actions sampled, on seeds "
            "that no training and no choice of a checkpoint has seen.",
        ),
        (
            "Normalised return",
            "(return - random) / (delete-left - random), with the mean returns of these two scripted "
            "policies in the same world: 0 is chance, 1 the reference, which need not be good: where "
            "delete-left fails, scores go well beyond 1. Undefined where the references are unknown or "
            f"delete-left is not above random by {MIN_SIGNAL:.0f} standard errors. The references are "
            "taken as known in intervals; the table of scenarios gives the error of the unit, which all "
            "arms share.",
        ),
        (
            "Failed and missing runs",
            "A run that failed counts with a normalised return and success rate of 0, and random's front "
            "progress. A run without a record is left out of this page, with its pair, and named at its "
            "top.",
        ),
        (
            "IQM, mean, median",
            "Interquartile mean over all runs of all scenarios that count, in one row whatever their units; "
            "mean and median over the scenarios' means.",
        ),
        (
            "Intervals",
            "95 %, two-sided. From 10 seeds per scenario on: stratified bootstrap over seeds within "
            "scenarios, pairs resampled together, with the expanded percentiles of Hesterberg (2015). "
            "Below: Student's t (Welch, Tukey-McLaughlin and Yuen for the IQM, Fieller for ratios, the "
            "jackknife for spreads). They are not corrected for the number of comparisons: of 20 "
            "comparisons without a difference, one is expected to look like one.",
        ),
        (
            "Paired",
            "Arms are compared at the seeds that both have; the same seed gives both the same worlds. "
            "Hedges' g is the mean difference over the standard deviation of paired differences, without "
            "its small-sample bias.",
        ),
        (
            "Factors",
            "Where arms are crossed: mean over the arms that have a level of the factor less the mean over "
            "those that have its first, within each seed. 'a x b' is what a adds where b has its other level "
            "less what it adds where b has its first; a factor's own row averages over both.",
        ),
        (
            "Area under the curve",
            "Mean height of a run's training curve (normalised return; success rate where that is "
            "undefined) over the planned steps.",
        ),
        (
            "Steps to the baseline's final score",
            "The level is the baseline's mean over runs of its training curve's last tenth. A run reaches "
            "it where the running mean of three points of its own curve first does. A run that never does "
            "counts with all its steps (restricted mean), the baseline's own runs too. The first arrival may "
            "be passing: 'to stay there' counts until the curve is there and never below again. Intervals "
            "take the level as known.",
        ),
        (
            "Spread over seeds",
            "Standard deviation of final scores over seeds in a scenario, with its chi-square interval "
            "(exact for normal scores); ratios are geometric means over scenarios.",
        ),
        (
            "Probability of improvement, P(better)",
            "Probability that a run of an arm scores higher than a run of the baseline, ties half, mean "
            "over scenarios.",
        ),
        (
            "Attention",
            "Weight of each pre-trained model, mean over colonies. The effective number of models is "
            "exp(entropy): 1 if one model has all of it, their number if all have the same.",
        ),
        (
            "Redundancy",
            f"Judged where the study has an arm '<arm>{USELESS}': the same arm with a useless model among "
            f"its own, added or in the place of one. Held if that costs less than {MARGIN}.",
        ),
        (
            "Cost",
            "All arms in one process, one after the other in each turn, so that the machine's drift is "
            "common; ratios are of means, paired by turn. Parameter counts are exact; memory is one "
            "measurement per arm.",
        ),
    ]
