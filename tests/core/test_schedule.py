"""Schedules and moments: values between them in closed form, and every way to say them wrongly."""

import math
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from durotaxis.core.config import Config, ConfigError, build_config, load_config, to_yaml
from durotaxis.core.errors import UserError
from durotaxis.core.schedule import (
    AfterEpisode,
    AtStage,
    Clock,
    Moment,
    Schedule,
    as_clock,
    at,
    fixed,
    moment_key,
    walk_moments,
    walk_schedules,
)

Positive = Annotated[float, Field(gt=0)]


class Holder(Config):
    rate: Positive | Schedule[Positive] = 0.5
    begins: Moment | None = None


def make(**values):
    return build_config(Schedule[float], values)


def test_short_form_against_numpy():
    schedule = make(start=2.0, end=0.5, steps=100)
    steps = np.arange(0, 160, 7)
    wanted = np.interp(steps, [0, 100], [2.0, 0.5])
    assert [schedule.at(Clock(int(step))) for step in steps] == pytest.approx(wanted)
    geometric = make(start=2.0, end=0.5, steps=100, shape="geometric")
    wanted = np.exp(np.interp(steps, [0, 100], np.log([2.0, 0.5])))
    assert [geometric.at(Clock(int(step))) for step in steps] == pytest.approx(wanted)
    cosine = make(start=2.0, end=0.5, steps=100, shape="cosine")
    wanted = [0.5 + 0.75 * (1 + math.cos(math.pi * min(step, 100) / 100)) for step in steps]
    assert [cosine.at(Clock(int(step))) for step in steps] == pytest.approx(wanted)


def test_without_steps_it_lasts_the_whole_training():
    schedule = make(start=1.0, end=0.0)
    assert schedule.at(Clock(25, total_steps=100)) == pytest.approx(0.75)
    with pytest.raises(UserError, match="whole training, "):
        schedule.at(Clock(25))
    assert schedule.at(Clock()) == 1.0  # where it starts does not depend on how long it lasts


def test_changes_by_step_against_numpy():
    changes = [{"at": 10, "value": 2.0, "ramp_steps": 10}, {"at": 20, "value": 5.0}, {"at": 30, "value": 1.0}]
    schedule = make(start=1.0, changes=changes)
    steps = list(range(50))
    wanted = np.interp(steps, [10, 20], [1.0, 2.0])
    wanted[20:30], wanted[30:] = 5.0, 1.0
    assert [schedule.at(Clock(step)) for step in steps] == pytest.approx(wanted)


def test_changes_by_episode_and_stage_begin_when_they_came():
    schedule = make(
        start=1.0,
        changes=[
            {"at": {"stage": "a"}, "value": 2.0, "ramp_steps": 100},
            {"at": {"stage": "b"}, "value": 0.0, "ramp_steps": 10},
        ],
    )
    assert schedule.at(Clock(500)) == 1.0
    reached = {"stage a": 40}
    assert schedule.at(Clock(40, reached=reached)) == 1.0
    assert schedule.at(Clock(65, reached=reached)) == pytest.approx(1.25)
    reached["stage b"] = 90  # in the middle of the first ramp: it goes on from 1.5
    assert schedule.at(Clock(90, reached=reached)) == pytest.approx(1.5)
    assert schedule.at(Clock(95, reached=reached)) == pytest.approx(0.75)
    assert schedule.at(Clock(1000, reached=reached)) == 0.0
    by_episode = make(start=1.0, changes=[{"at": {"episode": 500}, "value": 3.0}])
    assert by_episode.at(Clock(10_000)) == 1.0
    assert by_episode.at(Clock(10_000, reached={"episode 500": 9_000})) == 3.0


def test_a_clock_tells_how_long_ago_a_moment_was():
    clock = Clock(100, reached={"episode 5": 60, "stage b": 100})
    assert [clock.since(moment) for moment in (0, 100, 101)] == [100, 0, None]
    assert clock.since(AfterEpisode(episode=5)) == 40
    assert clock.since(AtStage(stage="b")) == 0
    assert clock.since(AtStage(stage="c")) is None
    assert as_clock(7) == Clock(7)
    assert as_clock(clock) is clock
    assert moment_key(AfterEpisode(episode=5)) == "episode 5"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 1.0}, "give either `end` .* or `changes`"),
        ({"start": 1.0, "end": 2.0, "changes": [{"at": 3, "value": 1.0}]}, "give either"),
        ({"start": 1.0, "steps": 5, "changes": [{"at": 3, "value": 1.0}]}, "steps: belongs to `end`"),
        ({"start": 1.0, "end": 0.0, "shape": "geometric"}, "shape: a geometric .* above 0"),
        ({"start": 1.0, "end": 0.0, "steps": 0}, "steps: .* greater than or equal to 1"),
        (
            {"start": 1.0, "changes": [{"at": 9, "value": 1.0}, {"at": 3, "value": 2.0}]},
            r"changes\.1\.at: goes backwards: 3 after 9",
        ),
        (
            {"start": 1.0, "changes": [{"at": 9, "value": 1.0, "ramp_steps": 5}, {"at": 13, "value": 2.0}]},
            r"changes\.1\.at: overlaps .* ends at step 14",
        ),
        (
            {"start": 1.0, "changes": [{"at": 9, "value": 1.0}, {"at": {"episode": 2}, "value": 2.0}]},
            "must all count steps, episodes or stages",
        ),
        (
            {
                "start": 1.0,
                "changes": [{"at": {"episode": 9}, "value": 1.0}, {"at": {"episode": 9}, "value": 2.0}],
            },
            "goes backwards: 9 after 9",
        ),
        ({"start": 1.0, "changes": [{"at": -1, "value": 1.0}]}, "at: .*greater than or equal to 0"),
        ({"start": 1.0, "changes": [{"at": {"epsiode": 1}, "value": 1.0}]}, "unknown key|missing"),
    ],
)
def test_wrong_schedules_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make(**values)


def test_values_keep_the_limits_of_their_key():
    with pytest.raises(ConfigError, match="greater than 0"):
        build_config(Holder, {"rate": {"start": 1.0, "end": -1.0}})
    with pytest.raises(ConfigError, match="greater than 0"):
        build_config(Holder, {"rate": {"start": 1.0, "changes": [{"at": 3, "value": 0.0}]}})


def test_models_have_short_names_of_their_own_in_a_json_schema():
    class Root(Holder):
        other: Schedule[Annotated[float, Field(ge=0.5, le=1)]]
        plain: Schedule[float]

    names = {"float_gt_0", "float_ge_0.5_le_1", "float"}
    wanted = {f"{model}_{name}" for model in ("Schedule", "Change") for name in names}
    titles = [model["title"] for model in Root.model_json_schema()["$defs"].values()]
    assert sorted(titles) == sorted(wanted | {"AfterEpisode", "AtStage"})


def test_configuration_round_trip_and_what_is_in_it(tmp_path):
    changes = [{"at": {"stage": "b"}, "value": 2.0}, {"at": {"stage": "c"}, "value": 3.0}]
    config = build_config(Holder, {"rate": {"start": 1.0, "changes": changes}, "begins": {"episode": 500}})
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path, Holder) == config
    assert [key for key, _ in walk_moments(config)] == ["rate.changes.0.at", "rate.changes.1.at", "begins"]
    assert [key for key, _ in walk_schedules(config)] == ["rate"]
    assert at(config.rate, Clock(9, reached={"stage b": 3})) == 2.0
    assert at(0.25, Clock()) == fixed(0.25) == 0.25
    with pytest.raises(TypeError, match="still holds a schedule"):
        fixed(config.rate)
