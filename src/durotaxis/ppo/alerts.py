"""Warnings that a person can act on: what was seen in the records, since when, and what to change.

They are a pure function of the last rows of `metrics.jsonl` and `attention.jsonl`; columns that a row lacks
are not judged. `value/embedding_spread` of attention rows is a list with one number per PTM, in the order of
`value/ptm_names`: the standard deviation over rows (those that attention is averaged over) of the embedding
after its parameter-free LayerNorm, averaged over its dimensions. It is of order 1 for a model that tells
states apart, and 0 for one that says the same of all of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

Row = Mapping[str, Any]

HISTORY = 200
"""Rows that `Watch` looks back; "since" in a message goes back no further."""
_AGAIN = 10
"""An alert that stays is told again after so many times the iterations that it took."""
_FULL_GATE = 0.999
"""Below it a model still ramps, and is meant to weigh little."""
_NORM = "gradient_norm/"
_ATTENTION = ("value/attention", "value/effective_models", "value/ptm_names")
_WSA = "actor_critic.wsa_config"


@final
@dataclass(frozen=True)
class Thresholds:
    """When something is worth a warning. `..._rows`: so many rows running."""

    collapsed_models: float = 1.1  # effective models; an attention of 98 % on one of two
    collapsed_rows: int = 20  # rows; shorter spells pass by themselves
    uniform_margin: float = 0.01  # of the number of open models; healthy runs here leave it within 10 rows
    uniform_rows: int = 50  # rows; attention starts uniform, and needs time to leave it
    entropy_kind: float = 0.02 * math.log(3.0)  # nat; 2 % of three equal kinds: 1 choice in 300 is another
    entropy_rows: int = 20
    entropy_solved: float = 0.9  # success rate above which a sure policy is what was wanted
    explained_variance: float = 0.1  # below it the critic is hardly better than a constant
    explained_from: int = 20  # iterations in which a critic may still know nothing
    explained_rows: int = 20  # single bad iterations happen whenever the policy finds something new
    clip_fraction: float = 0.4  # healthy runs here stay under 0.3
    clip_rows: int = 10
    gradient_share: float = 0.95  # of the squared norm: the other parts share a clip that is not theirs
    gradient_rows: int = 20  # healthy runs here have spells of 11
    embedding_spread: float = 1e-3  # a thousandth of what an informative model has
    embedding_rows: int = 5  # a batch of colonies that have just begun may look alike


@final
@dataclass(frozen=True)
class Alert:
    """One warning.

    Attributes:
        name: which kind.
        message: what was seen, since when, and what to do; keys of the configuration in backticks.
        about: the PTM or part of the policy it is about; empty when there is but one such alert.
        rows: how many rows running it takes.
    """

    name: str
    message: str
    about: str = ""
    rows: int = 1


def alerts(
    history: Sequence[Row],
    attention: Sequence[Row],
    thresholds: Thresholds = Thresholds(),
    *,
    learned_attention: bool = True,
) -> list[Alert]:
    """What is wrong now.

    Args:
        history: the last rows of `metrics.jsonl`, oldest first.
        attention: the last rows of `attention.jsonl`, oldest first; those of phase `all` are looked at.
        learned_attention: whether attention can move at all, which it cannot under the rules `mean`, `first`,
            `concat` and `projected_concat`.
    """
    rows = [row for row in attention if row.get("phase") == "all"]
    found = [check(history, thresholds) for check in (_entropy, _value, _clipping, _gradients)]
    if learned_attention:
        found += [check(rows, thresholds) for check in (_collapsed, _uniform)]
    found.append(_constant_embeddings(rows, thresholds))
    return [alert for part in found for alert in part]


@final
class Watch:
    """Tells an alert once, and again only when it came back, or stays ten times as long as it took.

    It is a pure function of the rows it saw. To go on after an interruption, let it see the rows so far.
    """

    def __init__(
        self,
        thresholds: Thresholds = Thresholds(),
        *,
        learned_attention: bool = True,
    ) -> None:
        self._thresholds = thresholds
        self._learned_attention = learned_attention
        self._history: deque[Row] = deque(maxlen=HISTORY)
        self._attention: deque[Row] = deque(maxlen=HISTORY)
        self._told: dict[tuple[str, str], int] = {}  # (name, about) -> iteration

    def see(self, metrics: Row, attention: Sequence[Row] = ()) -> list[Alert]:
        """The alerts to tell after one iteration: its row of metrics, and its rows of attention if any."""
        self._history.append(metrics)
        self._attention.extend(row for row in attention if row.get("phase") == "all")
        found = alerts(
            list(self._history),
            list(self._attention),
            self._thresholds,
            learned_attention=self._learned_attention,
        )
        now = int(metrics["iteration"])
        told, new = self._told, []
        self._told = {}  # what is not found any more is forgotten
        for alert in found:
            key = (alert.name, alert.about)
            when = told.get(key)
            if when is None or now - when >= _AGAIN * alert.rows:
                new.append(alert)
                when = now
            self._told[key] = when
        return new


def _entropy(history: Sequence[Row], limits: Thresholds) -> list[Alert]:
    judge = _of("entropy_kind", lambda value: value < limits.entropy_kind)
    streak = _streak(history, judge, limits.entropy_rows)
    rates = [row["success_rate"] for row in streak if row.get("success_rate") is not None]
    success = sum(rates) / len(rates) if rates else None
    if not streak or (success is not None and success >= limits.entropy_solved):
        return []
    seen = "no finished episode" if success is None else f"success rate {success:.2f}"
    return [
        Alert(
            "entropy_gone",
            f"the policy no longer explores: entropy_kind {streak[-1]['entropy_kind']:.4f} nat, below "
            f"{limits.entropy_kind:.3f}, at a {seen}, {_since(streak)}. Raise `ppo.entropy_kind`, or lower "
            "`ppo.learning_rate`.",
            rows=limits.entropy_rows,
        )
    ]


def _value(history: Sequence[Row], limits: Thresholds) -> list[Alert]:
    late = [row for row in history if row["iteration"] > limits.explained_from]
    judge = _of("explained_variance", lambda value: value < limits.explained_variance)
    streak = _streak(late, judge, limits.explained_rows)
    if not streak:
        return []
    mean = sum(row["explained_variance"] for row in streak) / len(streak)
    return [
        Alert(
            "value_unexplained",
            f"the critic predicts returns hardly better than a constant: explained_variance {mean:.2f} on "
            f"average, below {limits.explained_variance:g}, {_since(streak)}. Raise `ppo.value_coefficient` "
            "or `ppo.num_epochs`; lengthen `ppo.rollout_steps` for better targets; remove `ppo.value_clip` "
            "if it is set.",
            rows=limits.explained_rows,
        )
    ]


def _clipping(history: Sequence[Row], limits: Thresholds) -> list[Alert]:
    judge = _of("clip_fraction", lambda value: value > limits.clip_fraction)
    streak = _streak(history, judge, limits.clip_rows)
    if not streak:
        return []
    return [
        Alert(
            "clip_fraction_high",
            f"updates go too far: clip_fraction {streak[-1]['clip_fraction']:.2f}, above "
            f"{limits.clip_fraction:g}, {_since(streak)}. Lower `ppo.learning_rate` or `ppo.num_epochs`, or "
            "lower `ppo.target_kl`, which ends an update early.",
            rows=limits.clip_rows,
        )
    ]


def _gradients(history: Sequence[Row], limits: Thresholds) -> list[Alert]:
    latest = _gradient_shares(history[-1]) if history else None
    if latest is None:
        return []
    part = max(latest, key=lambda name: latest[name])
    streak = _streak(history, partial(_dominates, part, limits), limits.gradient_rows)
    if not streak:
        return []
    message = (
        f"the gradient is all but that of {part}: {latest[part]:.1%} of the squared norm, above "
        f"{limits.gradient_share:.0%}, {_since(streak)}; the clip at `ppo.max_grad_norm` leaves little to "
        f"the others. {_calm(part)}"
    )
    return [Alert("gradient_dominated", message, part, limits.gradient_rows)]


def _dominates(part: str, limits: Thresholds, row: Row) -> bool | None:
    shares = _gradient_shares(row)
    if shares is None:
        return None
    return len(shares) > 1 and shares.get(part, 0.0) > limits.gradient_share


def _calm(part: str) -> str:
    """What to do about a part whose gradient is too large."""
    if part == "critic":
        return "Lower `ppo.value_coefficient`, or set `ppo.value_loss` to huber."
    slower = f"raise `ppo.max_grad_norm`, or slow {part} down in `ppo.learning_rate_factors` ({part}: 0.1)."
    if part.startswith("ptm:"):
        return f"Freeze it at first (`freeze: true` of its entry in `{_WSA}.ptms`); or {slower}"
    return slower[0].upper() + slower[1:]


def _collapsed(attention: Sequence[Row], limits: Thresholds) -> list[Alert]:
    judge = partial(_compare_effective, lambda models, _: models < limits.collapsed_models)
    streak = _streak(attention, judge, limits.collapsed_rows)
    if not streak:
        return []
    last = streak[-1]
    weight, name = max(zip(last["value/attention"], last["value/ptm_names"], strict=True))
    return [
        Alert(
            "attention_collapsed",
            f"attention rests on {name} ({weight:.2f}): {last['value/effective_models']:.2f} effective of "
            f"{_num_open(last)} open models, below {limits.collapsed_models:g}, {_since(streak)}. Raise "
            f"`{_WSA}.attention_temperature`, or reward diverse attention with "
            f"`{_WSA}.attention_entropy_coefficient`; or start simpler, with two models in `{_WSA}.ptms`, "
            "and let the others in one at a time (`enters_at`, `ramp_steps`).",
            rows=limits.collapsed_rows,
        )
    ]


def _uniform(attention: Sequence[Row], limits: Thresholds) -> list[Alert]:
    least = 1.0 - limits.uniform_margin
    judge = partial(_compare_effective, lambda models, num_open: models > least * num_open)
    streak = _streak(attention, judge, limits.uniform_rows)
    if not streak:
        return []
    last = streak[-1]
    return [
        Alert(
            "attention_uniform",
            f"attention does not choose: {last['value/effective_models']:.3f} effective of "
            f"{_num_open(last)} open models, {_since(streak)}. Lower `{_WSA}.attention_temperature` "
            f"(sharper), raise `{_WSA}.context_dim` (a richer context), and lower "
            f"`{_WSA}.attention_entropy_coefficient` and `{_WSA}.attention_balance_coefficient` if they are "
            "set.",
            rows=limits.uniform_rows,
        )
    ]


def _compare_effective(is_bad: Callable[[float, int], bool], row: Row) -> bool | None:
    """Whether the effective number of models is bad beside the number of open ones, if these are several."""
    if any(row.get(column) is None for column in _ATTENTION):
        return None
    num_open = _num_open(row)
    return num_open > 1 and is_bad(row["value/effective_models"], num_open)


def _constant_embeddings(attention: Sequence[Row], limits: Thresholds) -> list[Alert]:
    names = attention[-1].get("value/ptm_names", ()) if attention else ()
    found = []
    for index, name in enumerate(names):
        streak = _streak(attention, partial(_is_constant, index, limits), limits.embedding_rows)
        if streak:
            spread, key = streak[-1]["value/embedding_spread"][index], f"{_WSA}.ptms.{index}"
            message = (
                f"{name} says the same of every state: embedding_spread {spread:.1e}, below "
                f"{limits.embedding_spread:g} (0.04 to 1 is usual), {_since(streak)}. Choose another "
                f"`{key}.tap` or `{key}.pooling`, train it with `{key}.freeze` false, or take it out."
            )
            found.append(Alert("embedding_constant", message, name, limits.embedding_rows))
    return found


def _is_constant(index: int, limits: Thresholds, row: Row) -> bool | None:
    spread = row.get("value/embedding_spread")
    if spread is None:
        return None
    return _gates(row)[index] > 0.0 and spread[index] < limits.embedding_spread


def _of(column: str, is_bad: Callable[[float], bool]) -> Callable[[Row], bool | None]:
    """Whether a row is bad by one column; None where that is missing or null."""
    return lambda row: None if row.get(column) is None else is_bad(row[column])


def _streak(rows: Sequence[Row], judge: Callable[[Row], bool | None], least: int) -> list[Row]:
    """The latest bad rows running, oldest first; none when they are fewer than `least`.

    Rows of which `judge` says None are passed over.
    """
    streak: list[Row] = []
    for row in reversed(rows):
        is_bad = judge(row)
        if is_bad:
            streak.append(row)
        elif is_bad is not None:
            break
    return streak[::-1] if len(streak) >= least else []


def _since(streak: Sequence[Row]) -> str:
    return f"since iteration {streak[0]['iteration']} ({len(streak)} rows)"


def _gradient_shares(row: Row) -> dict[str, float] | None:
    """Part -> its share of the squared norm; None where no gradient was taken."""
    squares = {key.removeprefix(_NORM): row[key] ** 2 for key in row if key.startswith(_NORM)}
    total = sum(squares.values())
    return {part: square / total for part, square in squares.items()} if total > 0 else None


def _gates(row: Row) -> list[float]:
    """Of every model; 1 where none are recorded."""
    return list(row.get("value/gates") or [1.0] * len(row["value/ptm_names"]))


def _num_open(row: Row) -> int:
    return sum(gate >= _FULL_GATE for gate in _gates(row))
