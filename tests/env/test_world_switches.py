"""Every key of the world's configuration does something, and each rule does what its key says."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from durotaxis.core.config import Config, merge
from durotaxis.env import EnvConfig, Kind, Reason, observe, reset, step
from durotaxis.env.render import scene_of
from durotaxis.env.response import step_length
from reference.colonies import action_of, colony_at, random_action

SMALL = {
    "max_nodes": 14,
    "capacity": 18,
    "critical_nodes": 6,
    "max_steps": 25,
    "observation": {"field": True},
}
SHORT = {"substrate": {"size": (40.0, 30.0), "slope": 0.3}, "spawn_bounds": {"half_saturation": (0.5, 2.0)}}
LEAVING = merge(SHORT, {"boundary": "terminate"})
BACKWARDS = {"left_moves_limit": 2, "delta_time": 0}
EMPTYING = {"min_nodes": 0, "num_initial_nodes": 1}
MAPS = Path(tempfile.mkdtemp(prefix="durotaxis-maps-"))
for name, top in (("one.csv", 8.0), ("other.csv", 12.0)):
    (MAPS / name).write_text("\n".join(f"1,{top / 2},{top}" for _ in range(2)))
Image.fromarray(np.array([[0, 90, 255], [30, 120, 200]], dtype=np.uint8)).save(MAPS / "grey.png")
atexit.register(shutil.rmtree, MAPS, ignore_errors=True)


def over(kind: str, **section: Any) -> dict[str, Any]:
    """A world on ground of this kind, with values of the kind's own section."""
    if kind == "map":
        section.setdefault("micrometres_per_pixel", 20.0)
    return {"substrate": {"kind": kind, kind: section} if section else {"kind": kind}}


REFUSED = {"substrate.map.sha256": (over("map", file=str(MAPS / "one.csv")), "0" * 64)}
"""Keys that change nothing of a world, because every other value of theirs is refused."""

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "scenario": ({}, "exponential"),
    "substrate.kind": ({}, "uniform"),
    "substrate.size": ({}, (150.0, 100.0)),
    "substrate.direction": ({}, 1.0),
    "substrate.slope": ({}, 0.08),
    "substrate.base": ({}, 2.0),
    "substrate.ground": (over("noise"), "exponential"),
    "substrate.step.position": (over("step"), 0.05),
    "substrate.step.low": (over("step"), 2.0),
    "substrate.step.high": (over("step"), 20.0),
    "substrate.step.ramp": (over("step"), 30.0),
    "substrate.stripes.lane_width": (over("stripes"), 15.0),
    "substrate.stripes.stiffness": (over("stripes"), 0.3),
    "substrate.stripes.shift_every": (over("stripes"), 40.0),
    "substrate.stripes.gap": (over("stripes"), 10.0),
    "substrate.patches.radius": (over("patches"), (8.0, 20.0)),
    "substrate.patches.stiffness": (over("patches"), 0.3),
    "substrate.patches.covered": (over("patches"), 0.2),
    "substrate.patches.corridor": (over("patches"), 25.0),
    "substrate.moat.width": (over("moat"), 20.0),
    "substrate.moat.stiffness": (over("moat"), 0.3),
    "substrate.moat.num_bridges": (over("moat"), 3),
    "substrate.moat.bridge_width": (over("moat"), 10.0),
    "substrate.noise.amplitude": (over("noise"), 0.1),
    "substrate.noise.length": (over("noise"), 30.0),
    "substrate.map.file": (over("map", file=str(MAPS / "one.csv")), str(MAPS / "other.csv")),
    "substrate.map.micrometres_per_pixel": (over("map", file=str(MAPS / "one.csv")), 5.0),
    "substrate.map.stiffness": (
        over("map", file=str(MAPS / "grey.png"), stiffness=(1.0, 9.0)),
        (2.0, 50.0),
    ),
    "substrate.random.kinds": (over("random"), ("exponential", "moat")),
    "num_initial_nodes": ({}, 4),
    "min_nodes": ({}, 8),
    "critical_nodes": ({}, 7),
    "max_nodes": ({}, 12),
    "capacity": ({}, 15),
    "max_steps": ({}, 20),
    "delta_time": ({}, 1),
    "minutes_per_step": ({}, 5.0),
    "spawn_bounds.max_step": ({}, (1.0, 5.0)),
    "spawn_bounds.half_saturation": ({}, (1.0, 5.0)),
    "spawn_bounds.noise": ({}, (0.0, 0.1)),
    "spawn_bounds.angle": ({}, (-0.5, 0.5)),
    "response.law": ({}, "biphasic"),
    "response.exponent": ({}, 3.0),
    "response.optimum": ({"response": {"law": "biphasic"}}, 2.0),
    "response.threshold": ({"response": {"law": "threshold"}}, 1.3),
    "boundary": (SHORT, "terminate"),
    "goal_margin": (SHORT, 0.8),
    "left_moves_limit": (BACKWARDS, 1),
    "overcrowding": ({}, "cap"),
    "max_recoveries": (EMPTYING, 1),
    "mark_fraction": ({}, 0.9),
    "observation.field": ({}, False),
    "observation.frame": ({}, "substrate"),
    "observation.frame_size": ({}, 60.0),
    "observation.count_scale": ({}, 99),
    "reward.progress_centroid": ({}, 1.0),
    "reward.progress_front": ({}, 1.0),
    "reward.spawn": ({}, 0.1),
    "reward.spawn_threshold": ({}, 0.2),
    "reward.delete_marked": ({}, 0.5),
    "reward.keep_marked": ({}, 0.5),
    "reward.delete_unmarked": ({}, 0.5),
    "reward.too_few": (EMPTYING, 0.5),
    "reward.too_many": ({}, 0.5),
    "reward.boundary": (SHORT, 0.5),
    "reward.boundary_zones": (SHORT, (0.1, 0.2, 0.4)),
    "reward.boundary_weights": (SHORT, (3.0, 2.0, 1.0)),
    "reward.boundary_safe": ({}, 0.5),
    "reward.edge_direction": ({}, 0.5),
    "reward.effort": ({}, 0.5),
    "reward.milestone": (SHORT, 0.5),
    "reward.milestones": ({}, (0.01, 0.02)),
    "reward.survival": ({}, 0.5),
    "reward.success": (merge(SHORT, {"goal_margin": 0.8}), 5.0),
    "reward.extinct": (EMPTYING, -5.0),
    "reward.overcrowded": ({}, -5.0),
    "reward.out_of_bounds": (LEAVING, -5.0),
    "reward.drift": (BACKWARDS, -5.0),
    "reward.recovery": (EMPTYING | {"max_recoveries": 2}, -5.0),
}
"""Key -> the world in which it is changed, and the value it is changed to."""


def keys(model: type[Config], before: str = "") -> Iterator[str]:
    """Every key of a configuration, dotted, sections opened."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            yield from keys(inner, f"{before}{name}.")
        else:
            yield before + name


def nested(key: str, value: Any) -> dict[str, Any]:
    """`nested("a.b", 1)` is {"a": {"b": 1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def life(config: EnvConfig) -> list[torch.Tensor]:
    """All that a batch of colonies does and shows in 30 steps of seeded random actions, never reset."""
    generator = torch.Generator().manual_seed(5)
    colony, substrate = reset(config, torch.arange(12))
    mix = [[3, 4, 3], [2, 6, 1], [1, 1, 8], [0.3, 8, 2]] * 3
    seen = [torch.from_numpy(scene_of(substrate, config).stiffness)]
    seen.append(torch.tensor(scene_of(substrate, config).minutes_per_step))
    for _ in range(30):
        result = step(colony, random_action(colony, config, generator, mix), substrate, config)
        colony = result.colony
        raw = observe(colony, substrate, config, scaled=False)
        for struct in (colony, result.observation, raw):
            seen += [value for value in vars(struct).values() if value is not None]
        seen += [*result.terms.values(), result.reason]
    return seen


@cache
def usual_life(base: str) -> list[torch.Tensor]:
    return life(EnvConfig(**eval(base)))


def test_every_key_is_listed():
    assert CHANGES.keys() | REFUSED.keys() == set(keys(EnvConfig)), "each key needs a change that can be seen"


@pytest.mark.parametrize("key", REFUSED)
def test_other_values_are_refused(key):
    base, value = REFUSED[key]
    EnvConfig(**base)
    with pytest.raises(ValidationError):
        EnvConfig(**merge(base, nested(key, value)))


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_changes_something(key):
    base, value = CHANGES[key]
    base = merge(SMALL, base)
    usual, other = usual_life(repr(base)), life(EnvConfig(**merge(base, nested(key, value))))
    same = len(usual) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(usual, other, strict=True)
    )
    assert not same, f"env.{key} = {value!r} changes nothing"


def world(**values):
    return EnvConfig(**{"max_nodes": 12, "critical_nodes": 8, **values})


def run(colony, action, config, seed=0):
    _, substrate = reset(config, torch.tensor([seed]))
    return step(colony, action, substrate, config)


STIFFNESS = torch.tensor([0.15, 0.5, 1.0, 2.0, 4.0, 6.0, 12.0, 36.0, 150.0], dtype=torch.float64)


def length(response, half_saturation=3.0, max_step=8.0):
    config = EnvConfig(response=response)
    return step_length(
        torch.tensor(max_step, dtype=torch.float64),
        torch.tensor(half_saturation, dtype=torch.float64),
        STIFFNESS,
        config.response,
    )


@pytest.mark.parametrize("h", [0.5, 1.0, 2.0, 4.0])
def test_hill_is_half_at_half_saturation_and_has_slope_h(h):
    """In log-odds the law is a straight line: log(r / (max - r)) = h log(E / K)."""
    r = length({"exponent": h})
    torch.testing.assert_close((r / (8.0 - r)).log(), h * (STIFFNESS / 3.0).log())


@pytest.mark.parametrize("h", [1.0, 2.0])
@pytest.mark.parametrize("half_saturation", [2.0, 7.0])
def test_biphasic_peaks_at_its_optimum_and_is_symmetric_about_it(h, half_saturation):
    optimum = 6.0
    r = length({"law": "biphasic", "optimum": optimum, "exponent": h}, half_saturation)
    assert int(r.argmax()) == int((optimum == STIFFNESS).nonzero())
    peak = 8.0 / (1 + 2 * (half_saturation / optimum) ** h)
    assert float(r.max()) == pytest.approx(peak)
    assert float(r[6]) == pytest.approx(length_at(3.0, h, half_saturation))
    hill = length({"exponent": h}, half_saturation)
    assert float(r[0]) == pytest.approx(float(hill[0]), rel=0.05), "far below the optimum it is Hill's law"


def length_at(stiffness, h, half_saturation, optimum=6.0):
    """The mirror image of 12 kPa about 6 kPa is 3 kPa: E·E' = optimum²."""
    x = stiffness / optimum
    return 8.0 / (1 + (half_saturation / optimum) ** h * (x**h + x**-h))


def test_threshold_stops_growth_on_soft_ground_and_leaves_the_rest():
    r, hill = length({"law": "threshold", "threshold": 2.0}), length({})
    assert r[:3].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(r[3:], hill[3:])


@pytest.mark.parametrize("law", ["hill", "biphasic", "threshold"])
@pytest.mark.parametrize("h", [1e-6, 0.3, 1.7, 4.0, 100.0, 1e30])
def test_a_length_is_a_number_and_does_not_depend_on_its_neighbours(law, h):
    """To the bit: wherever in a tensor it stands."""
    draw = torch.Generator().manual_seed(1)
    half_saturation, stiffness = (torch.rand(2, 1003, generator=draw) * 20 + 0.1).unbind(0)
    max_step = torch.rand(1003, generator=draw) * 9 + 1
    response = EnvConfig(response={"law": law, "exponent": h}).response
    together = step_length(max_step, half_saturation, stiffness, response)
    alone = [
        step_length(max_step[k : k + 1], half_saturation[k : k + 1], stiffness[k : k + 1], response)
        for k in range(1003)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert ((together >= 0) & (together <= max_step)).all()


def test_a_colony_gathers_at_the_optimum_from_both_sides():
    """Undirected growth that keeps what grew farthest: uphill below the optimum, downhill above it."""
    config = EnvConfig(
        substrate={"slope": 0.2, "base": 1.0}, response={"law": "biphasic", "optimum": 20.0, "exponent": 4.0}
    )
    _, substrate = reset(config, torch.tensor([0]))
    for x, towards in ((60.0, 1), (130.0, -1)):  # 13 and 27 kPa
        rear, front = colony_at([(x, 50.0), (x + 5.0, 50.0)], config), []
        for angle in (0.0, math.pi):
            after = step(rear, action_of(rear, {0: Kind.SPAWN}, (10.0, 15.0, 0.0, angle)), substrate, config)
            child = after.colony
            grown = step(
                child, action_of(child, {2: Kind.SPAWN}, (10.0, 15.0, 0.0, angle)), substrate, config
            )
            front.append(abs(float(grown.colony.position[0, 3, 0] - child.position[0, 2, 0])))
        assert (front[0] - front[1]) * towards > 0


def test_a_capped_colony_stops_growing_and_does_not_end():
    cap, end = (world(overcrowding=how, max_nodes=8, critical_nodes=4) for how in ("cap", "terminate"))
    places = [(20.0 + k, 50.0) for k in range(6)]
    spawn_all = dict.fromkeys(range(6), Kind.SPAWN)
    capped, crowded = (run(c := colony_at(places, w), action_of(c, spawn_all), w) for w in (cap, end))
    assert int(capped.colony.num_nodes) == 8
    assert capped.colony.parent[0, 6:8].tolist() == [0, 1], "parents in slot order win"
    assert {name: int(n) for name, n in capped.counts.items()} == {"spawned": 2, "deleted": 0, "dropped": 4}
    assert int(capped.reason) == Reason.RUNNING
    assert int(crowded.colony.num_nodes) == 12
    assert int(crowded.reason) == Reason.OVERCROWDED


def test_an_extinct_colony_starts_anew_as_often_as_allowed():
    config = world(min_nodes=0, max_recoveries=2, num_initial_nodes=3)
    colony = colony_at([(90.0, 50.0), (95.0, 50.0)], config, drift_count=4)
    places = []
    for attempt in (1, 2):
        everyone = dict.fromkeys(range(int(colony.num_nodes)), Kind.DELETE)
        first_id = int(colony.next_id)
        result = run(colony, action_of(colony, everyone), config)
        colony = result.colony
        assert int(result.reason) == Reason.RUNNING
        assert float(result.terms["recovery"]) == config.reward.recovery
        assert int(colony.recoveries) == attempt
        assert colony.node_id[0, :3].tolist() == [first_id, first_id + 1, first_id + 2], (
            "ids are never reused"
        )
        assert colony.parent[0, :4].tolist() == [-1, 0, 1, -1]
        assert (colony.position[0, :3, 0] <= 20.0).all(), "in the start box"
        assert int(colony.drift_count) == 0
        assert float(colony.front) == 95.0, "what was reached stays reached"
        places.append(colony.position[0, :3])
    assert not torch.equal(*places), "another draw each time"
    last = run(colony, action_of(colony, dict.fromkeys(range(3), Kind.DELETE)), config)
    assert int(last.reason) == Reason.EXTINCT
    assert float(last.terms["recovery"]) == 0.0


def test_losing_a_colony_gives_back_the_progress_it_had_earned():
    """Progress stays a difference of potentials through a recovery, so starting anew can't be farmed."""
    config = world(min_nodes=0, max_recoveries=1)
    colony = colony_at([(90.0, 50.0), (110.0, 50.0)], config)
    result = run(colony, action_of(colony, {0: Kind.DELETE, 1: Kind.DELETE}), config)
    fell = float(result.colony.position[0, :5, 0].mean()) - 100.0
    assert float(result.terms["progress_centroid"]) == pytest.approx(2.0 * fell / 200.0, rel=1e-5)


def test_rules_that_are_switched_off_do_nothing():
    config = world(left_moves_limit=None, mark_fraction=0.0, critical_nodes=1, reward={"milestones": []})
    colony = colony_at([(10.0 + 5 * k, 50.0) for k in range(6)], config, ages=[9] * 6, drift_count=500)
    after = run(colony, action_of(colony, {5: Kind.DELETE}), config)
    assert int(after.reason) == Reason.RUNNING
    assert not after.colony.marked.any()
    assert float(after.terms["milestone"]) == 0.0
    raw = observe(after.colony, reset(config, torch.tensor([0]))[1], config, scaled=False)
    assert raw.graph[0, -2:].tolist() == [0.0, 1.0], "no drift, no milestone left"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"capacity": 14}, "capacity (14) must be above max_nodes (14)"),
        ({"min_nodes": 20}, "min_nodes (20) must not be above max_nodes (14)"),
        ({"num_initial_nodes": 15}, "num_initial_nodes (15) must not be above max_nodes (14)"),
        ({"response": {"optimum": 3.0}}, "counts under `law: biphasic` only, not under `hill`"),
        ({"response": {"law": "biphasic", "threshold": 3.0}}, "counts under `law: threshold` only"),
        ({"response": {"law": "biphasic", "optimum": 0.01}}, "greater than or equal to 0.1"),
        ({"response": {"exponent": 0.0}}, "greater than 0"),
        ({"response": {"law": "hil"}}, "'hill', 'biphasic' or 'threshold'"),
        ({"reward": {"milestones": [0.5, 0.5]}}, "milestones must increase"),
        ({"left_moves_limit": 0}, "greater than or equal to 1"),
        ({"mark_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_rules_are_refused(values, message):
    with pytest.raises(ValidationError) as error:
        EnvConfig(**merge({"max_nodes": 14, "capacity": 18}, values))
    assert message in str(error.value)
