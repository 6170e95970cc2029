"""A colony's life depends on its seed and its actions alone: not on companions, batch size or resets."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from durotaxis.core.randomness import uniform
from durotaxis.env import Action, DurotaxisEnv, EnvConfig, Kind, Substrate, observe, reset, reset_where, step
from durotaxis.env.types import Colony
from reference.colonies import random_action, tensors_of

SMALL = {"max_nodes": 16, "capacity": 20, "critical_nodes": 7, "max_steps": 10_000}


def own_action(colony, config):
    """Random, but a function of each colony's own seed, step and node ids."""
    seed, time = colony.seed[:, None], colony.step[:, None]
    pick = uniform(seed, 77, time, colony.node_id, 0)
    kind = torch.where(
        pick < 0.35, int(Kind.SPAWN), torch.where(pick < 0.62, int(Kind.DELETE), int(Kind.REST))
    )
    may_delete = (colony.num_nodes > config.min_nodes)[:, None]
    kind = torch.where((kind == Kind.DELETE) & ~may_delete, int(Kind.SPAWN), kind)
    unit = torch.stack([uniform(seed, 78, time, colony.node_id, k) for k in range(4)], -1)
    low, high = torch.tensor(config.spawn_bounds.low), torch.tensor(config.spawn_bounds.high)
    return Action(kind=kind, parameters=torch.minimum(low + unit * (high - low), high))


def tensors(transition):
    parts = {"reward": transition.reward, "reason": transition.reason, "terminated": transition.terminated}
    parts |= transition.terms | transition.counts
    for struct in (transition.colony, transition.observation):
        parts |= {f"{type(struct).__name__}.{k}": v for k, v in vars(struct).items() if v is not None}
    return parts


@pytest.mark.parametrize(("scenario", "num_steps"), [("random", 150), ("moat", 60), ("patches", 60)])
def test_one_colony_alone_equals_itself_in_any_batch(scenario, num_steps):
    """Bit for bit over many steps, companions ending and being reset around it."""
    config = EnvConfig(scenario=scenario, observation={"field": scenario != "random"}, **SMALL)
    alone = reset(config, torch.tensor([5]))
    crowd = reset(config, torch.tensor([90, 3, 5, 41, 7, 1000, 12]))
    row, life = 2, 0
    for t in range(num_steps):
        solo = step(alone[0], own_action(alone[0], config), alone[1], config)
        together = step(crowd[0], own_action(crowd[0], config), crowd[1], config)
        company = tensors(together)
        for name, value in tensors(solo).items():
            assert torch.equal(value[0], company[name][row]), f"step {t}: {name}"
        ended = together.terminated | together.truncated
        seeds = torch.arange(7) + 100 * t
        life += bool(ended[row])
        alone = reset_where(solo.colony, alone[1], ended[row : row + 1], seeds[row : row + 1], config)
        crowd = reset_where(together.colony, crowd[1], ended, seeds, config)
    assert life >= 1


def test_permuting_the_batch_permutes_everything():
    config = EnvConfig(scenario="random", **SMALL)
    order = torch.tensor([3, 0, 4, 1, 2])
    seeds = torch.arange(5) * 17
    first, second = reset(config, seeds), reset(config, seeds[order])
    for _ in range(60):
        one, two = (step(c, own_action(c, config), s, config) for c, s in (first, second))
        there = tensors(two)
        for name, value in tensors(one).items():
            assert torch.equal(value[order], there[name]), name
        first, second = (one.colony, first[1]), (two.colony, second[1])


def test_colonies_on_different_fields_share_a_batch():
    """Rows of different substrates joined by hand live as they do alone."""
    configs = [EnvConfig(substrate={"kind": kind}, **SMALL) for kind in ("linear", "exponential", "uniform")]
    alone = [reset(config, torch.tensor([seed])) for seed, config in enumerate(configs)]
    joined = Colony.cat([c for c, _ in alone]), Substrate.cat([s for _, s in alone])
    for _ in range(40):
        together = step(joined[0], own_action(joined[0], configs[0]), joined[1], configs[0])
        for row, config in enumerate(configs):
            solo = step(alone[row][0], own_action(alone[row][0], config), alone[row][1], config)
            company = tensors(together)
            for name, value in tensors(solo).items():
                assert torch.equal(value[0], company[name][row]), name
            alone[row] = solo.colony, alone[row][1]
        joined = together.colony, joined[1]


@pytest.mark.parametrize("scenario", ["quick", "random", "stripes", "patches", "moat"])
def test_reset_is_a_function_of_the_seed(scenario):
    config = EnvConfig(scenario=scenario)
    seeds = torch.tensor([4, 9, 4, 2**40 + 1, 0])
    (one, field_one), (two, field_two) = reset(config, seeds), reset(config, seeds)
    for a, b in ((one, two), (field_one, field_two)):
        for name, value in tensors_of(a).items():
            assert torch.equal(value, tensors_of(b)[name]), name
            assert torch.equal(value[0], value[2]), f"{name}: equal seeds, equal colonies"
    places = one.position[[0, 1, 3, 4], :5].flatten(1)
    assert len({tuple(row) for row in places.tolist()}) == 4, "different seeds, different colonies"
    assert torch.equal(one.seed, seeds)


def test_whole_episodes_repeat():
    config = EnvConfig(scenario="quick", **SMALL)

    def live(seed):
        colony, substrate = reset(config, torch.tensor([seed]))
        for _ in range(50):
            colony = step(colony, own_action(colony, config), substrate, config).colony
        return colony

    first, again, other = live(8), live(8), live(9)
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(first.position, other.position)


def test_reset_where_touches_the_masked_alone():
    config = EnvConfig(scenario="moat", **SMALL)
    colony, substrate = reset(config, torch.arange(6))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        colony = step(
            colony, random_action(colony, config, generator, [[1, 2, 1]] * 6), substrate, config
        ).colony
    mask = torch.tensor([True, False, False, True, False, True])
    seeds = torch.tensor([50, -1, -1, 51, -1, 52])
    before = {name: value.clone() for name, value in (tensors_of(colony) | tensors_of(substrate)).items()}
    new_colony, new_substrate = reset_where(colony, substrate, mask, seeds, config)
    fresh_colony, fresh_substrate = reset(config, seeds)
    for name, value in (tensors_of(new_colony) | tensors_of(new_substrate)).items():
        old = (tensors_of(colony) | tensors_of(substrate))[name]
        fresh = (tensors_of(fresh_colony) | tensors_of(fresh_substrate))[name]
        assert torch.equal(old, before[name]), f"{name}: the input is left alone"
        assert torch.equal(value[~mask], old[~mask]), name
        assert torch.equal(value[mask], fresh[mask]), name
    none, same = reset_where(colony, substrate, torch.zeros(6, dtype=torch.bool), seeds, config)
    for name, value in (tensors_of(none) | tensors_of(same)).items():
        assert torch.equal(value, before[name]), name


def test_the_class_is_the_functions():
    config = EnvConfig(scenario="moat", **SMALL)
    world, seeds = DurotaxisEnv(config, 4), torch.arange(4)
    assert (world.num_colonies, world.config) == (4, config)
    first = world.reset(seeds)
    colony, substrate = reset(config, seeds)
    assert torch.equal(first.nodes, observe(colony, substrate, config).nodes)
    for t in range(30):
        action = own_action(colony, config)
        ours, theirs = world.step(action), step(colony, action, substrate, config)
        for name, value in tensors(ours).items():
            assert torch.equal(value, tensors(theirs)[name]), name
        assert torch.equal(world.colony.node_id, theirs.colony.node_id), "step never resets by itself"
        mask = torch.tensor([t % 7 == 6, False, t % 5 == 4, False])
        seeds = torch.arange(4) + 10 * t
        seen = world.reset_where(mask, seeds)
        colony, substrate = reset_where(theirs.colony, substrate, mask, seeds, config)
        assert torch.equal(seen.nodes, observe(colony, substrate, config).nodes)
        assert torch.equal(world.substrate.moat.bridges, substrate.moat.bridges)


@pytest.mark.parametrize("scenario", ["random", "patches"])
def test_the_saved_world_goes_on_as_the_first(scenario):
    config = EnvConfig(scenario=scenario, **SMALL)
    first = DurotaxisEnv(config, 3)
    first.reset(torch.arange(3))
    for _ in range(10):
        first.step(own_action(first.colony, config))
    saved = first.state_dict()
    second = DurotaxisEnv(config, 3)
    second.load_state_dict(saved)
    for _ in range(20):
        one, two = (world.step(own_action(world.colony, config)) for world in (first, second))
        for name, value in tensors(one).items():
            assert torch.equal(value, tensors(two)[name]), name


def test_a_colony_keeps_its_seed_whatever_happens_to_the_callers():
    config, seeds = EnvConfig(), torch.arange(3)
    world = DurotaxisEnv(config, 3)
    world.reset(seeds)
    colony, _ = reset(config, seeds)
    seeds += 100
    assert colony.seed.tolist() == world.colony.seed.tolist() == [0, 1, 2]


def test_all_values_are_frozen():
    config = EnvConfig()
    colony, substrate = reset(config, torch.arange(2))
    for value in (colony, substrate):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.position = None


def test_dtypes_and_shapes_are_as_stated():
    config = EnvConfig(observation={"field": True})
    colony, substrate = reset(config, torch.arange(2))
    n = config.num_slots
    transition = step(colony, own_action(colony, config), substrate, config)
    for value in (colony, transition.colony):
        floats, ints = (
            ("position", "spawn_share", "front"),
            ("parent", "node_id", "age", "step", "seed", "next_id"),
        )
        assert all(getattr(value, name).dtype == torch.float32 for name in floats)
        assert all(getattr(value, name).dtype == torch.int64 for name in (*ints, "drift_count", "milestones"))
        assert all(getattr(value, name).dtype == torch.bool for name in ("alive", "newborn", "marked"))
        assert value.position.shape == (2, n, 2)
    seen = transition.observation
    shapes = {"nodes": (2, n, 13), "edges": (2, n, 3), "graph": (2, 16), "field": (2, 3, 24, 24)}
    for name, shape in shapes.items():
        assert getattr(seen, name).shape == shape
        assert getattr(seen, name).dtype == torch.float32
    assert transition.reward.dtype == torch.float32
    assert transition.reason.dtype == torch.int64
    assert (transition.terminated.dtype, transition.truncated.dtype) == (torch.bool, torch.bool)
