"""Attention in words: sentences made from numbers with their intervals, also that there is nothing.

What is called a pattern has passed a corrected test; everything else that was looked at is named as showing
none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from durotaxis.analysis.attention import (
    FACTORS,
    FEW,
    HIGH,
    MIDDLE,
    PHASE,
    SMALL,
    Pattern,
    Relation,
    effective_estimate,
    leader,
    other_leaders,
    patterns,
    relations,
    share_estimate,
    shares,
)
from durotaxis.analysis.attention_groups import Group, Likeness, Worth, likenesses, worths
from durotaxis.analysis.stats import Estimate
from durotaxis.analysis.study_tables import Column, cell_text
from durotaxis.records import PHASES

LITTLE = 0.05
"""A lead of less attention than this is a small one."""
TENTH = 0.1


def findings(group: Group) -> list[str]:
    """The paragraph about a group, a sentence each."""
    lines = [f"From {group.basis}. Intervals are 95 % over {group.over}."]
    lines += _of_leader(group)
    lines += _of_effective(group)
    lines += _of_stages(group)
    if len(group.ptms) > 1:
        if len(group.units) < FEW:
            lines.append(f"Too few {group.over} ({len(group.units)}) to tell patterns from chance.")
        else:
            lines += _of_patterns(group, patterns(group.units, group.ptms))
            lines += _of_relations(relations(group.units, group.ptms))
    lines += of_worth(worths(group.probes), group)
    lines += _of_likeness(likenesses(group.probes))
    return lines


def _of_leader(group: Group) -> list[str]:
    found = shares(group.units)
    if len(found) == 1:
        return [f"There is one model, {group.ptms[0]}, so that it has all attention."]
    order = np.argsort([-(estimate.mean or 0.0) for estimate in found], kind="stable")
    named = [f"{group.ptms[k]} {_number(found[k])}" for k in order]
    top, is_ahead = leader(group.units)
    name = group.ptms[top]
    if len(group.units) < FEW:
        return [f"{name} has most attention: {_joined(named)}."]
    if not is_ahead:
        return [f"No model clearly leads: {_joined(named)} of attention."]
    everywhere, others = other_leaders(group.units, top)
    lead = (found[order[0]].mean or 0.0) - (found[order[1]].mean or 0.0)
    by = ", by little" if lead < LITTLE else ""
    numbers = f"{_number(found[top])} of attention; {_joined(named[1:])}"
    if everywhere:
        return [f"{name} leads everywhere{by}: {numbers}."]
    if not others:
        return [f"{name} leads{by}: {numbers}. In some places another one is level with it."]
    places: dict[str, list[str]] = {}
    for factor, row, other in others:
        places.setdefault(group.ptms[other], []).append(
            place_name(factor, row, len(group.units[0].bins[factor]))
        )
    where = [f"{other} {_joined(found)}" for other, found in places.items()]
    return [f"{name} leads on the whole{by}: {numbers}. But others lead elsewhere: {'; '.join(where)}."]


def place_name(factor: str, row: int, count: int) -> str:
    """A bin in a sentence."""
    if factor == PHASE:
        return f"in phase {PHASES[row]}"
    noun = FACTORS[factor].noun
    if row in (0, count - 1):
        return f"at the {'lowest' if row == 0 else 'highest'} {noun}"
    return f"in part {row + 1} of {count} of {noun}"


def _of_effective(group: Group) -> list[str]:
    if len(group.ptms) == 1:
        return []
    num = len(group.ptms)
    within = effective_estimate([unit.effective for unit in group.units], num)
    line = f"Attention amounts to {_number(within)} of {num} models (effective number)"
    if group.training is None:
        return [line + "."]
    step, effective = group.training.step, group.training.effective
    early, late = step <= max(step[0], TENTH * step[-1]), step >= (1 - TENTH) * step[-1]
    first, last = (effective_estimate(effective[:, rows].mean(1).tolist(), num) for rows in (early, late))
    return [f"{line}; in training it went from {_number(first)} (first tenth) to {_number(last)} (last)."]


def _of_stages(group: Group) -> list[str]:
    if group.training is None or len(group.training.stages) < 2:
        return []
    parts = []
    for stage, weight in group.training.stages.items():
        top = int(weight.mean(0).argmax())
        parts.append(f"{stage} {group.ptms[top]} ({_number(share_estimate(weight[:, top]))})")
    return [f"Most attention by curriculum stage: {', '.join(parts)}."]


def _of_patterns(group: Group, found: Sequence[Pattern]) -> list[str]:
    lines: list[str] = []
    silent, small = [], []
    for factor in [*group.borders, PHASE]:
        here = [pattern for pattern in found if pattern.factor == factor]
        clear = [pattern for pattern in here if pattern.is_clear]
        lines += [
            _place(place, factor, clear) for place in _places(factor) if any(p.place == place for p in clear)
        ]
        if any(pattern.is_certain for pattern in here) and not clear:
            small.append(_noun(factor))
        elif here and not clear:
            silent.append(_noun(factor))
    if small:
        lines.append(f"More than chance, but below {SMALL} of attention: differences with {_joined(small)}.")
    if silent:
        lines.append(f"No clear pattern with {_joined(silent, 'or')}.")
    still = [FACTORS[name].noun for name in FACTORS if name not in group.borders]
    if group.borders and still:
        lines.append(f"Without variation: {_joined(still)}.")
    return lines


def _places(factor: str) -> Sequence[str]:
    return PHASES if factor == PHASE else (HIGH, MIDDLE)


def _noun(factor: str) -> str:
    return "phase of the episode" if factor == PHASE else FACTORS[factor].noun


def _place(place: str, factor: str, clear: Sequence[Pattern]) -> str:
    """Who has more and who less attention in one place."""
    if factor == PHASE:
        where, against = f"In phase {place}", "against the episode's mean"
    elif place == HIGH:
        where, against = FACTORS[factor].more.capitalize(), "highest against lowest fifth of an episode"
    else:
        where, against = f"At middling {FACTORS[factor].noun}", "against both ends"
    parts = []
    for pattern in clear:
        if pattern.place == place:
            more = "more" if (pattern.change.mean or 0.0) > 0 else "less"
            parts.append(f"{pattern.ptm} has {more} attention ({_number(pattern.change, 3, True)})")
    return f"{where}, {_joined(parts)}, {against}."


def _of_relations(found: Sequence[Relation]) -> list[str]:
    clear = [relation for relation in found if relation.is_clear]
    if not found:
        return []
    if not clear:
        return ["No clear pattern with any reward term."]
    terms = list(dict.fromkeys(relation.term for relation in clear))
    parts = []
    for term in terms:
        each = [f"{r.ptm} {_number(r.rho, 2, True)}" for r in clear if r.term == term]
        parts.append(f"{term} ({', '.join(each)})")
    others = [term for term in dict.fromkeys(relation.term for relation in found) if term not in terms]
    rest = f" No clear pattern with {_joined(others, 'or')}." if others else ""
    return [
        f"Reward terms that go with attention, step by step (rank correlation): {'; '.join(parts)}.{rest}"
    ]


def of_worth(found: Sequence[Worth], group: Group) -> list[str]:
    """What the agent loses without each model, and whether the model with most attention is the one."""
    if not found:
        return ["What each model is worth was not measured."]
    probe = group.probes[0]
    how = f"over {len(probe.seeds)} episodes of the agent of {probe.step:,} steps"
    if len(group.probes) > 1:
        how = f"over {len(group.probes)} runs"
    if len(found) == 1:
        change = _number(found[0].closed, 2, True)
        return [f"With the representation set to zero the return changes by {change}, {how}."]
    clear = sorted((worth for worth in found if worth.is_clear), key=lambda worth: worth.closed.mean or 0.0)
    rest = [f"{worth.ptm} {_number(worth.closed, 2, True)}" for worth in found if not worth.is_clear]
    lines = []
    if clear:
        each = [
            f"closing {worth.ptm} {'costs' if worth.is_needed else 'brings'} return "
            f"({_number(worth.closed, 2, True)})"
            for worth in clear
        ]
        lines.append(f"With models closed, {how}: {_joined(each)}.")
        if rest:
            lines.append(f"Closing one of the others makes no clear difference: {', '.join(rest)}.")
    else:
        lines.append(
            f"Closing any one model makes no clear difference to the return, {how}: {', '.join(rest)}."
        )
    if len(found) > 2:
        best = max(found, key=lambda worth: worth.alone.mean or 0.0)
        lines.append(
            f"With the best one alone, {best.ptm}, the return changes by {_number(best.alone, 2, True)}."
        )
    return [*lines, *_attention_against_worth([worth.ptm for worth in clear if worth.is_needed], group)]


def _attention_against_worth(needed: Sequence[str], group: Group) -> list[str]:
    top, is_ahead = leader(group.units)
    name = group.ptms[top]
    if not is_ahead:
        return []
    if not needed:
        return [f"So most attention, to {name}, does not show that the agent needs it."]
    if name not in needed:
        return [f"So the model with most attention, {name}, is not one that is clearly needed."]
    others = [other for other in needed if other != name]
    too = f", as {_joined(others)} {'is' if len(others) == 1 else 'are'}" if others else ""
    return [f"The model with most attention is one that the agent needs{too}."]


def _of_likeness(found: Sequence[Likeness]) -> list[str]:
    if not found:
        return []
    order = sorted(found, key=lambda pair: -(pair.cka.mean or 0.0))
    most, least = order[0], order[-1]
    line = f"{' and '.join(most.ptms)} have the most similar embeddings (CKA {_number(most.cka)})"
    if len(order) == 1:
        return [f"The embeddings of {' and '.join(most.ptms)} have a CKA of {_number(most.cka)}."]
    return [f"{line}, {' and '.join(least.ptms)} the least ({_number(least.cka)})."]


def _number(value: Estimate, digits: int = 2, is_signed: bool = False) -> str:
    return cell_text(value, Column("", digits, is_signed=is_signed)).replace(" [no interval]", "")


def _joined(parts: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
