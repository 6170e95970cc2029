"""Warnings: each on a history made for it, silence on healthy ones, told once, and remedies that exist."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from durotaxis.core.config import Config
from durotaxis.ppo.alerts import HISTORY, Alert, Thresholds, Watch, alerts
from durotaxis.records import ATTENTION, METRICS, unknown_columns
from durotaxis.study.config import RootConfig

NAMES = ["one", "two", "three"]


def healthy(iteration: int) -> dict[str, Any]:
    """A row of metrics with nothing wrong in it, and some noise."""
    wave = math.sin(iteration)
    return {
        "iteration": iteration,
        "step": 768 * iteration,
        "entropy_kind": 0.4 + 0.1 * wave,
        "explained_variance": 0.6 + 0.3 * wave,
        "clip_fraction": 0.15 + 0.1 * wave,
        "success_rate": 0.5,
        "gradient_norm": 1.5,
        "gradient_norm/actor": 1.0 + 0.1 * wave,
        "gradient_norm/critic": 1.0,
        "gradient_norm/ptm:two": 0.3,
    }


def looking(iteration: int, attention: list[float] | None = None, **values: Any) -> dict[str, Any]:
    """A row of attention of all colonies."""
    weights = attention or [0.5, 0.3, 0.2]
    entropy = -sum(w * math.log(w) for w in weights if w)
    return {
        "iteration": iteration,
        "phase": "all",
        "colonies": 48,
        "value/attention": weights,
        "value/effective_models": math.exp(entropy),
        "value/gates": [1.0, 1.0, 1.0],
        "value/ptm_names": NAMES,
        "value/embedding_spread": [0.7, 0.2, 1.1],
        **{f"value/{name}": value for name, value in values.items()},
    }


def metrics(first: int, count: int, **values: Any) -> list[dict[str, Any]]:
    return [{**healthy(i), **values} for i in range(first, first + count)]


def attended(first: int, count: int, attention: list[float] | None = None, **values: Any):
    return [looking(i, attention, **values) for i in range(first, first + count)]


DOMINATED = {"gradient_norm/critic": 5.0}  # 25 of 26.3, 95.1 %
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], int, str, list[str]]] = {
    "attention_collapsed": (
        [],
        attended(31, 20, [0.01, 0.98, 0.01], effective_models=1.09),
        31,
        "two",
        ["1.09 effective of 3 open models", "rests on two (0.98)"],
    ),
    "attention_uniform": (
        [],
        attended(11, 50, [0.34, 0.33, 0.33]),
        11,
        "",
        ["3.000 effective of 3 open models"],
    ),
    "entropy_gone": (
        metrics(5, 20, entropy_kind=0.0219),
        [],
        5,
        "",
        ["entropy_kind 0.0219 nat, below 0.022", "success rate 0.50"],
    ),
    "value_unexplained": (
        metrics(1, 40, explained_variance=0.09),
        [],
        21,
        "",
        ["explained_variance 0.09 on average, below 0.1"],
    ),
    "clip_fraction_high": (
        metrics(70, 10, clip_fraction=0.41),
        [],
        70,
        "",
        ["clip_fraction 0.41, above 0.4"],
    ),
    "gradient_dominated": (
        metrics(9, 20, **DOMINATED, **{"gradient_norm/actor": 1.1}),
        [],
        9,
        "critic",
        ["all but that of critic: 95.1% of the squared norm, above 95%"],
    ),
    "embedding_constant": (
        [],
        attended(40, 5, embedding_spread=[0.7, 9e-4, 1.1]),
        40,
        "two",
        ["two says the same of every state: embedding_spread 9.0e-04"],
    ),
}


def found(history: list[dict[str, Any]], attention: list[dict[str, Any]], **options: Any) -> list[Alert]:
    return alerts(history, attention, **options)


def test_made_rows_have_the_columns_of_the_records():
    assert not unknown_columns(METRICS, healthy(1))
    assert not unknown_columns(ATTENTION, looking(1))


@pytest.mark.parametrize("name", CASES)
def test_it_is_seen_with_its_numbers_and_since_when(name):
    history, attention, since, _, numbers = CASES[name]
    (alert,) = found(history, attention)
    assert alert.name == name
    rows = max(len(history), len(attention)) - (20 if name == "value_unexplained" else 0)
    assert f"since iteration {since} ({rows} rows)" in alert.message
    for number in numbers:
        assert number in alert.message


@pytest.mark.parametrize("name", CASES)
def test_it_takes_so_many_rows_running(name):
    history, attention, *_ = CASES[name]
    early = 21 if name == "value_unexplained" else 1
    assert found(history[early:], attention[1:]) == []
    for middle in (-1, -5):
        broken = [*history, *history], [*attention, *attention]
        assert found(*broken) != []
        for rows, well in zip(broken, (healthy, looking), strict=True):
            if rows:
                rows[middle] = well(rows[middle]["iteration"])
        assert found(*broken) == [], "one healthy row ends it"


@pytest.mark.parametrize("name", CASES)
def test_what_lies_on_the_good_side_of_the_threshold_is_not_seen(name):
    good: dict[str, dict[str, Any]] = {
        "attention_collapsed": {"value/effective_models": 1.11},
        "attention_uniform": {"value/effective_models": 2.96},
        "entropy_gone": {"entropy_kind": 0.0221},
        "value_unexplained": {"explained_variance": 0.11},
        "clip_fraction_high": {"clip_fraction": 0.39},
        "gradient_dominated": {"gradient_norm/critic": 4.9},
        "embedding_constant": {"value/embedding_spread": [0.7, 1.1e-3, 1.1]},
    }
    history, attention, *_ = CASES[name]
    better = [[{**row, **good[name]} for row in rows] for rows in (history, attention)]
    assert found(*better) == []


def test_a_healthy_run_gives_no_warning():
    watch = Watch()
    assert not any(watch.see(healthy(i), [looking(i)]) for i in range(1, 300))
    assert found([], []) == []


def test_rows_that_say_nothing_neither_count_nor_break():
    history, *_ = CASES["value_unexplained"]
    gap = [{"iteration": 41}, {**healthy(42), "explained_variance": None}]
    assert "(20 rows)" in found([*history, *gap], [])[0].message
    assert found([*history[:-1], *gap], []) == []
    without = [{"iteration": i, "phase": "all", "colonies": 48} for i in range(60)]
    assert found([{"iteration": i} for i in range(60)], without) == []


@pytest.mark.parametrize("column", ["attention", "effective_models", "ptm_names", "embedding_spread"])
def test_rows_that_lack_a_column_are_not_judged_by_it(column):
    for weights, spread in (([0.0, 1.0, 0.0], 0.5), ([0.34, 0.33, 0.33], 0.5), ([0.5, 0.3, 0.2], 0.0)):
        rows = attended(1, 60, weights, embedding_spread=[spread] * 3)
        lacking = [{key: value for key, value in row.items() if key != f"value/{column}"} for row in rows]
        names = {alert.name for alert in found([], lacking)}
        left = {alert.name for alert in found([], rows)}
        judged_by_it = "embedding_constant" if column == "embedding_spread" else "attention"
        kept = set() if column == "ptm_names" else {n for n in left if not n.startswith(judged_by_it)}
        assert names == kept


def test_without_gates_every_model_is_open():
    rows = [{k: v for k, v in row.items() if k != "value/gates"} for row in CASES["attention_uniform"][1]]
    (alert,) = found([], rows)
    assert "of 3 open models" in alert.message


def test_only_rows_of_all_colonies_are_looked_at():
    _, attention, *_ = CASES["attention_collapsed"]
    early = [{**row, "phase": "early"} for row in attended(31, 20)]
    mixed = [row for pair in zip(attention, early, strict=True) for row in pair]
    assert [alert.name for alert in found([], mixed)] == ["attention_collapsed"]
    assert found([], [{**row, "phase": "early"} for row in attention]) == []


@pytest.mark.parametrize("gates", [[0.0, 1.0, 0.0], [0.0, 1.0, 0.3]])
def test_attention_to_the_only_open_model_is_no_collapse(gates):
    assert found([], attended(1, 60, [0.0, 1.0, 0.0], gates=gates)) == []
    assert found([], attended(1, 60, [0.0, 1.0, 0.0])) != []


def test_closed_models_do_not_count_as_uniform_nor_as_constant():
    two = attended(1, 60, [0.5, 0.5, 0.0], gates=[1.0, 1.0, 0.0])
    assert [alert.name for alert in found([], two)] == ["attention_uniform"]
    constant = {"embedding_spread": [0.7, 0.2, 0.0]}
    assert found([], attended(1, 60, [0.8, 0.2, 0.0], gates=[1.0, 1.0, 0.0], **constant)) == []
    (alert,) = found([], attended(1, 60, [0.8, 0.2, 0.0], gates=[1.0, 1.0, 0.001], **constant))
    assert alert.about == "three"


def test_attention_that_cannot_move_is_not_judged():
    for name in ("attention_collapsed", "attention_uniform"):
        assert found([], CASES[name][1], learned_attention=False) == []
    assert found([], CASES["embedding_constant"][1], learned_attention=False) != []
    watch = Watch(learned_attention=False)
    assert not any(watch.see({"iteration": row["iteration"]}, [row]) for row in CASES["attention_uniform"][1])


def test_a_sure_policy_that_succeeds_is_what_was_wanted():
    assert found(metrics(5, 30, entropy_kind=0.001, success_rate=0.95), []) == []
    (alert,) = found(metrics(5, 30, entropy_kind=0.001, success_rate=None), [])
    assert "no finished episode" in alert.message


def test_a_single_part_has_nobody_to_dominate():
    alone = [{"iteration": i, "gradient_norm": 1.0, "gradient_norm/all": 1.0} for i in range(40)]
    assert found(alone, []) == []
    assert (
        found(metrics(1, 40, **{f"gradient_norm/{p}": 0.0 for p in ("actor", "critic", "ptm:two")}), []) == []
    )
    alternating = [
        {**row, "gradient_norm/actor" if i % 2 else "gradient_norm/critic": 50.0}
        for i, row in enumerate(metrics(1, 40))
    ]
    assert found(alternating, []) == [], "it must be the same part"


def seen_at(watch: Watch, rows: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> list[tuple[int, str]]:
    return [(m["iteration"], a.name) for m, attention in rows for a in watch.see(m, attention)]


def story(bad: Callable[[int], bool], length: int, name: str = "clip_fraction_high"):
    changes = {"clip_fraction_high": {"clip_fraction": 0.6}, "attention_collapsed": {}}[name]
    return [
        (
            {**healthy(i), **(changes if bad(i) else {})},
            [looking(i, [0.0, 1.0, 0.0] if bad(i) and not changes else None)],
        )
        for i in range(1, length + 1)
    ]


def test_it_is_told_once_and_again_after_it_came_back():
    rows = story(lambda i: 5 <= i < 40 or i >= 50, 70)
    assert seen_at(Watch(), rows) == [(14, "clip_fraction_high"), (59, "clip_fraction_high")]
    rows = story(lambda i: 5 <= i < 40 or i >= 50, 80, "attention_collapsed")
    assert seen_at(Watch(), rows) == [(24, "attention_collapsed"), (69, "attention_collapsed")]


def test_what_stays_is_told_again_after_ten_times_its_rows():
    watch = Watch(Thresholds(clip_rows=3))
    assert [i for i, _ in seen_at(watch, story(lambda i: True, 70))] == [3, 33, 63]
    rows = story(lambda i: True, 90, "attention_collapsed")
    assert [i for i, _ in seen_at(Watch(Thresholds(collapsed_rows=4)), rows)] == [4, 44, 84]


def test_it_goes_on_as_uninterrupted_once_it_saw_the_rows_so_far():
    rows = story(lambda i: i % 70 > 20, 260)
    whole, resumed = Watch(), Watch()
    told = seen_at(whole, rows)
    seen_at(resumed, rows[:130])
    assert seen_at(resumed, rows[130:]) == [(i, name) for i, name in told if i > 130]
    assert len(told) == 4


def test_alerts_about_different_models_are_told_one_by_one():
    watch = Watch()
    first = attended(1, 20, embedding_spread=[0.0, 0.2, 1.1])
    both = attended(21, 20, embedding_spread=[0.0, 0.2, 0.0])
    told = [
        (row["iteration"], alert.about)
        for row in [*first, *both]
        for alert in watch.see(healthy(row["iteration"]), [row])
    ]
    assert told == [(5, "one"), (25, "three")]


def test_a_watch_looks_back_far_enough():
    limits = Thresholds()
    assert max(value for name, value in vars(limits).items() if name.endswith("_rows")) <= HISTORY
    assert limits.explained_from + limits.explained_rows <= HISTORY


EVERY = [
    *(alert for history, attention, *_ in CASES.values() for alert in alerts(history, attention)),
    *alerts(metrics(1, 30, **{"gradient_norm/ptm:two": 50.0}), []),
    *alerts(metrics(1, 30, **{"gradient_norm/actor": 50.0}), []),
]


@pytest.mark.parametrize("alert", EVERY, ids=lambda alert: f"{alert.name}-{alert.about}")
def test_the_keys_of_a_remedy_exist(alert):
    keys = [key for key in re.findall(r"`([^`]+)`", alert.message) if "." in key]
    assert keys, "a remedy names what to change"
    for key in keys:
        assert exists(key), key
    for entry in re.findall(r"`(enters_at|ramp_steps|freeze)\b", alert.message):
        assert exists(f"actor_critic.wsa_config.ptms.0.{entry}")


def exists(key: str) -> bool:
    """Whether a dotted key leads through the models of a configuration; entries of lists by index."""
    models: list[Any] = [RootConfig]
    for part in key.split("."):
        if part.isdecimal():
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields:
            return False
        models = [leaf for field in fields for leaf in models_in(field.annotation)]
    return True


def models_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [leaf for inner in getattr(annotation, "__args__", ()) for leaf in models_in(inner)]


def test_the_check_of_keys_can_fail():
    assert not exists("ppo.learning_rat")
    assert not exists("actor_critic.wsa_config.ptms.0.tapp")
    assert exists("actor_critic.wsa_config.ptms.0.tap")


def test_the_remedy_is_that_of_the_part():
    by_part = {alert.about: alert.message for alert in EVERY if alert.name == "gradient_dominated"}
    assert "Lower `ppo.value_coefficient`" in by_part["critic"]
    assert "Freeze it at first" in by_part["ptm:two"]
    assert "slow actor down in `ppo.learning_rate_factors`" in by_part["actor"]
