"""A curriculum of worlds: what a stage may set, and a batch that mixes stages against plain worlds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, model_validator
from test_world_switches import CHANGES, MAPS, SMALL, nested, over

from durotaxis.core.config import Config, ConfigError, load_config, merge
from durotaxis.core.errors import UserError
from durotaxis.core.marks import read_file
from durotaxis.core.struct import Struct
from durotaxis.env import (
    Action,
    Colony,
    DurotaxisEnv,
    EnvConfig,
    Kind,
    Observation,
    Reason,
    StagedEnv,
    StageError,
    Substrate,
    Transition,
    stage_configs,
    stiffness,
)
from durotaxis.env.stages import RUN_WIDE
from durotaxis.ppo.protocols import World
from reference.colonies import random_action

ROOT = Path(__file__).parents[2]
MIX = [[3, 4, 3], [2, 6, 1], [1, 1, 8], [0.3, 8, 2]] * 3
B = len(MIX)
SHORT = {
    "max_nodes": 9,
    "critical_nodes": 5,
    "max_steps": 12,
    "observation": {"field": True},
    "substrate": {"size": (60.0, 60.0), "slope": 0.3},
}
STAGES: list[dict[str, Any]] = [
    {"goal_margin": 0.6, "reward": {"spawn": 0.5, "milestones": [0.2]}},
    {"substrate": {"kind": "moat", "moat": {"width": 10}}, "max_nodes": 14, "min_nodes": 0},
    {"boundary": "terminate", "substrate": {"kind": "random"}, "num_initial_nodes": 3, "max_steps": 20},
]


def leaves(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a struct, under its dotted name."""
    if isinstance(value, Struct):
        value = value.to_dict()
    if isinstance(value, dict):
        return {key: t for k, v in value.items() for key, t in leaves(v, f"{name}.{k}").items()}
    return {} if value is None else {name: value}


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    first, second = leaves(one), leaves(two)
    assert first.keys() == second.keys()
    wrong = [name for name in first if not torch.equal(first[name], second[name])]
    assert not wrong, f"{where}: {wrong}"


def differ(one: Struct, two: Struct) -> bool:
    first, second = leaves(one), leaves(two)
    return any(not torch.equal(first[name], second[name]) for name in first)


def any_action(seen: Observation, config: EnvConfig, generator: torch.Generator) -> Action:
    """Random allowed kinds, in the proportions of MIX."""
    weights = torch.tensor(MIX, dtype=torch.float32)[:, None] * seen.action_mask
    kind = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(seen.node_mask.shape)
    low, high = torch.tensor(config.spawn_bounds.low), torch.tensor(config.spawn_bounds.high)
    unit = torch.rand(*kind.shape, 4, generator=generator)
    return Action(kind, torch.minimum(torch.maximum(low + unit * (high - low), low), high))


def ended(result: Transition) -> torch.Tensor:
    return result.terminated | result.truncated


def test_episodes_equal_those_of_plain_worlds():
    """Over whole episodes, through overlaps and resets: every row is that of a world of its stage, to the bit."""
    base, stages = stage_configs(EnvConfig(**SHORT), STAGES)
    world = StagedEnv(stages, B)
    plain = [DurotaxisEnv(config, B, validate=False) for config in stages]
    seeds = torch.arange(B)
    seen = world.reset(seeds)
    for other in plain:
        other.reset(seeds)
    generator = torch.Generator().manual_seed(0)
    schedule = {3: (1, 0.5), 7: (1, 1.0), 9: (2, 0.4), 12: (2, 1.0)}
    mixtures, finished = set(), set()
    for k in range(26):
        world.begin_stage(*schedule.get(k, world._next))
        stage = world.stage
        action = any_action(seen, base, generator)
        result = world.step(action)
        assert torch.equal(world.stage, stage), "an episode keeps its stage"
        found = world.summary()
        assert found.pop("stage").tolist() == stage.tolist()
        for index in stage.unique().tolist():
            mine, other = stage == index, plain[index]
            assert_equal(result[mine], other.step(action)[mine], f"step {k}, stage {index}")
            summary = other.summary()
            assert_equal({n: v[mine] for n, v in found.items()}, {n: v[mine] for n, v in summary.items()})
        mixtures.add(tuple(stage.unique().tolist()))
        finished |= {(int(s), int(r)) for s, r in zip(stage, result.reason, strict=True) if r}
        mask = ended(result)
        seeds = torch.where(mask, seeds + 100, seeds)
        seen = world.reset_where(mask, seeds)
        for index in world.stage.unique().tolist():
            mine, other = world.stage == index, plain[index]
            assert_equal(seen[mine], other.reset_where(mask, seeds)[mine], f"after step {k}")
        assert torch.equal(world.stage[~mask], stage[~mask])
    assert {(0,), (0, 1), (2,)} <= mixtures
    assert any(2 in mixed and len(mixed) > 1 for mixed in mixtures)
    assert {stage for stage, _ in finished} == {0, 1, 2}


def test_an_empty_mask_changes_nothing():
    world = mixed_world()
    before = {name: tensor.clone() for name, tensor in leaves(world.state_dict()).items()}
    seen = world.reset_where(torch.zeros(B, dtype=torch.bool), torch.arange(B) + 7)
    assert_equal(seen, world.reset_where(torch.zeros(B, dtype=torch.bool), torch.arange(B)))
    assert_equal(before, leaves(world.state_dict()))


def test_it_is_a_world_to_train_in():
    assert isinstance(mixed_world(), World)


def mixed_world(share: float = 0.5) -> StagedEnv:
    world = StagedEnv(stage_configs(EnvConfig(**SHORT), STAGES)[1], B)
    world.begin_stage(1, share)
    world.reset(torch.arange(B))
    return world


def test_a_saved_world_goes_on_as_if_nothing_had_happened():
    world = mixed_world()
    generator = torch.Generator().manual_seed(1)
    seen, seeds = world.reset(torch.arange(B)), torch.arange(B)
    for k in range(10):
        if k == 4:
            file = io.BytesIO()
            torch.save(world.state_dict(), file)
            file.seek(0)
            again = StagedEnv(world.stages, B)
            again.load_state_dict(torch.load(file, weights_only=True))
            again.begin_stage(1, 0.5)
            assert len(world.stage.unique()) == 2
            assert_equal(again.reset_where(torch.zeros(B, dtype=torch.bool), seeds), seen)
        action = any_action(seen, world.stages[0], generator)
        result = world.step(action)
        seeds = seeds + 100
        seen = world.reset_where(ended(result), seeds)
        if k >= 4:
            assert_equal(again.step(action), result)
            assert_equal(again.reset_where(ended(result), seeds), seen)
            assert_equal(again.state_dict(), world.state_dict())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_share_is_the_fraction_of_new_episodes(share):
    small = {"max_nodes": 5, "critical_nodes": 5}
    world = StagedEnv(stage_configs(EnvConfig(**small), [{}, {"max_steps": 9}, {}])[1], 1000)
    world.begin_stage(2, share)
    world.reset(torch.arange(1000))
    fraction = (world.stage == 2).double().mean()
    assert abs(float(fraction) - share) <= 4 * (share * (1 - share) / 1000) ** 0.5
    assert set(world.stage.tolist()) <= {1, 2}


def test_the_stage_of_an_episode_follows_from_its_seed_alone():
    stages = stage_configs(EnvConfig(max_nodes=5, critical_nodes=5), [{}, {"max_steps": 9}])[1]
    seeds = torch.arange(40) * 12345
    world = StagedEnv(stages, 40)
    world.begin_stage(1, 0.5)
    world.reset(seeds)
    want = dict(zip(seeds.tolist(), world.stage.tolist(), strict=True))
    assert set(want.values()) == {0, 1}
    world.reset(seeds.flip(0))
    assert world.stage.tolist() == [want[int(seed)] for seed in seeds.flip(0)]
    few = StagedEnv(stages, 4)
    few.begin_stage(0)
    few.reset([1, 2, 3, 4])
    few.begin_stage(1, 0.5)
    few.reset_where(torch.tensor([True, False, True, False]), seeds[:4])
    assert few.stage.tolist() == [want[int(seeds[0])], 0, want[int(seeds[2])], 0]
    raised = StagedEnv(stages, 40)
    raised.begin_stage(1, 0.7)
    raised.reset(seeds)
    assert (raised.stage >= world.stage.flip(0)).all(), "a larger share takes nothing back"


@pytest.mark.parametrize("key", [key for key in CHANGES if key.partition(".")[0] in RUN_WIDE])
def test_what_the_whole_run_shares_is_refused_in_a_stage(key):
    section = key.partition(".")[0]
    with pytest.raises(StageError) as error:
        stage_configs(EnvConfig(), [{}, nested(key, CHANGES[key][1])])
    assert [path for path, _ in error.value.faults] == [f"1.env.{section}"]
    assert "may not differ between stages" in str(error.value)


@pytest.mark.parametrize("key", [key for key in CHANGES if key.partition(".")[0] not in RUN_WIDE])
def test_every_key_of_a_stage_has_its_effect(key):
    """Equal seeds and actions, half of a batch in a stage without the change and half in one with it."""
    values, change = CHANGES[key]
    values = merge(SMALL, values)
    usual, changed = {}, nested(key, change)
    if key == "scenario":  # a stage with a scenario starts from its values
        usual = {name: value for name, value in values.items() if name not in RUN_WIDE}
        changed = usual | changed
        usual = usual | {"scenario": "quick"}
    base, stages = stage_configs(EnvConfig(**values), [usual, changed])
    assert stages[0].model_dump(exclude={"scenario"}) == base.model_dump(exclude={"scenario"})
    expected = EnvConfig(**merge(values, nested(key, change)))
    run_wide = {name: getattr(base, name) for name in RUN_WIDE}
    assert stages[1] == expected.model_copy(update=run_wide)
    assert halves_differ(stages), f"env.{key} = {change!r} changes nothing in a stage"


def halves_differ(stages: tuple[EnvConfig, ...]) -> bool:
    world = StagedEnv(stages, 2 * B, validate=False)
    seeds, second = torch.arange(B).repeat(2), torch.arange(2 * B) >= B
    world.reset(seeds)
    world.begin_stage(1)
    seen = world.reset_where(second, seeds)
    if not torch.equal(*(ground(world, stage, rows) for stage, rows in ((0, ~second), (1, second)))):
        return True
    colony = Colony.from_dict(world.state_dict()["colony"])
    generator = torch.Generator().manual_seed(5)
    for _ in range(31):
        if differ(seen[~second], seen[second]) or differ(colony[~second], colony[second]):
            return True
        action = random_action(colony[:B], stages[0], generator, MIX)
        result = world.step(Action.cat([action, action]))
        if differ(result[~second], result[second]):
            return True
        colony, seen = result.colony, result.observation
    return False


def ground(world: StagedEnv, stage: int, rows: torch.Tensor) -> torch.Tensor:
    """Stiffness on a lattice over the substrates of a stage."""
    substrate = Substrate.from_dict(world.state_dict()["substrates"][str(stage)])[rows]
    lattice = torch.cartesian_prod(torch.linspace(0, 1, 41), torch.linspace(0, 1, 11))
    return stiffness(lattice * substrate.size[:, None], substrate)


def test_what_a_stage_sets_is_what_happens():
    """Caps, marks, coefficients and slopes of three stages, in one batch of equal seeds and actions."""
    values = {**SMALL, "critical_nodes": 9, "mark_fraction": 1.0, "delta_time": 0}
    changes = [{}, {"max_nodes": 8, "critical_nodes": 6}, {"reward": {"effort": 0.005}}]
    _, stages = stage_configs(EnvConfig(**values), [*changes, {"substrate": {"slope": 0.1}}])
    world = StagedEnv(stages, 4, validate=False)
    same, slot = torch.zeros(4, dtype=torch.int64) + 5, torch.arange(4)
    world.reset(same)
    for index in range(1, 4):
        world.begin_stage(index)
        world.reset_where(slot == index, same)
    assert world.stage.tolist() == [0, 1, 2, 3]
    colony = Colony.from_dict(world.state_dict()["colony"])
    kind = torch.where(torch.arange(colony.capacity) < 4, int(Kind.SPAWN), int(Kind.REST)).expand(4, -1)
    parameters = torch.tensor([8.0, 2.0, 0.0, 0.0]).expand(*kind.shape, 4)
    result = world.step(Action(kind.contiguous(), parameters.contiguous()))
    assert result.colony.num_nodes.tolist() == [9, 9, 9, 9]
    over_8 = [Reason.RUNNING, Reason.OVERCROWDED, Reason.RUNNING, Reason.RUNNING]
    assert result.reason.tolist() == over_8
    assert (result.colony.marked.sum(1) > 0).tolist() == [False, True, False, False]
    effort = result.terms["effort"]
    assert effort.tolist() == [effort[0], effort[0], 2 * effort[0], effort[0]]
    seen = DurotaxisEnv(stages[3], 1)
    seen.reset([5])
    s = seen.observe(scaled=False).position[0, :5, 0]
    begun = world.reset_where(slot >= 0, same)
    assert begun.nodes.shape[0] == 4
    torch.testing.assert_close(seen.observe(scaled=False).nodes[0, :5, 2], 0.1 * s + 1.0)


def test_all_worlds_of_a_run_share_slots_and_the_scale_of_counts():
    stages = [{"max_nodes": 20, "critical_nodes": 10}, {"max_nodes": 90}]
    base, (first, second) = stage_configs(EnvConfig(), stages)
    assert [c.num_slots for c in (base, first, second)] == [180] * 3
    assert [c.count_scale for c in (base, first, second)] == [90.0] * 3
    assert [c.max_nodes for c in (base, first, second)] == [60, 20, 90]
    base, (first,) = stage_configs(
        EnvConfig(capacity=70, observation={"count_scale": 40}), [{"max_nodes": 9}]
    )
    assert [c.num_slots for c in (base, first)] == [70] * 2
    assert [c.count_scale for c in (base, first)] == [40.0] * 2
    assert stage_configs(base, [{"max_nodes": 9}]) == (base, (first,)), "what it returns it leaves alone"
    assert stage_configs(EnvConfig(), []) == (
        EnvConfig(capacity=120, observation={"count_scale": 60}),
        (),
    )


def test_another_kind_of_ground_or_law_starts_anew():
    ground = {"kind": "moat", "ground": "exponential", "slope": 0.006, "moat": {"num_bridges": 3}}
    law = {"law": "biphasic", "optimum": 3.0, "exponent": 4.0}
    base = EnvConfig(substrate={**ground, "size": (150.0, 80.0), "direction": 1.0}, response=law)
    plain, wider = {"kind": "linear"}, {"moat": {"bridge_width": 20.0}}
    _, (first, second) = stage_configs(
        base, [{"substrate": plain, "response": {"law": "hill"}}, {"substrate": wider}]
    )
    where = {"size": (150.0, 80.0), "direction": 1.0}
    assert first.substrate == EnvConfig(substrate={**plain, **where}).substrate
    assert first.response == EnvConfig(response={"exponent": 4.0}).response
    assert second.substrate == EnvConfig(substrate=merge({**ground, **where}, wider)).substrate
    assert second.response == base.response


def test_another_ground_under_the_same_obstacles_starts_anew():
    """A slope in 1/µm must not become one in kPa/µm."""
    where = {"size": (150.0, 80.0), "direction": 1.0}
    old = {"kind": "moat", "ground": "exponential", "slope": 0.006, "base": 2.0, "moat": {"num_bridges": 3}}
    new = [
        {"ground": "linear"},
        {"ground": None},
        {"ground": "linear", "slope": 0.1, "moat": {"width": 12.0}},
    ]
    same = [{"ground": "exponential"}, {"kind": "moat", "ground": "exponential", "slope": 0.007}]
    _, stages = stage_configs(
        EnvConfig(substrate=old | where), [{"substrate": values} for values in [*new, *same]]
    )
    for stage, values in zip(stages[:3], new, strict=True):
        assert stage.substrate == EnvConfig(substrate={"kind": "moat"} | where | values).substrate
    assert stages[0].substrate.slope_of("linear") == 0.05
    for stage, values in zip(stages[3:], same, strict=True):
        assert stage.substrate == EnvConfig(substrate=old | where | values).substrate
    plain = {"kind": "stripes", "slope": 0.3}  # whose ground is linear without a word
    _, (kept,) = stage_configs(EnvConfig(substrate=plain), [{"substrate": {"ground": "linear"}}])
    assert kept.substrate.slope == 0.3


def test_a_scenario_gives_its_world_and_the_run_its_observation():
    base = EnvConfig(scenario="full", observation={"field": True}, reward={"spawn": 0.7}, capacity=300)
    _, (stage,) = stage_configs(base, [{"scenario": "moat", "max_steps": 50}])
    assert stage == EnvConfig(scenario="moat", max_steps=50, capacity=300, observation=stage.observation)
    assert stage.observation.field
    assert stage.count_scale == 250


@pytest.mark.parametrize("again", [False, True])
def test_another_map_brings_its_own_size_and_hash(again):
    """Also when the run's configuration was read from its own record, where both are written out."""
    base = EnvConfig(**over("map", file=str(MAPS / "one.csv")))
    if again:
        base = EnvConfig(**base.model_dump(mode="json"))
    other = {"substrate": {"map": {"file": str(MAPS / "other.csv"), "micrometres_per_pixel": 30.0}}}
    finer = {"substrate": {"map": {"micrometres_per_pixel": 10.0}}}
    away, back = {"substrate": {"kind": "linear"}}, {"reward": {"spawn": 1.0}}
    _, stages = stage_configs(base, [other, finer, away, back])
    assert [stage.substrate.size for stage in stages] == [
        (90.0, 60.0),
        (30.0, 20.0),
        (60.0, 40.0),
        (60.0, 40.0),
    ]
    assert stages[0].substrate.map.sha256 != stages[1].substrate.map.sha256 == base.substrate.map.sha256


WRONG: list[dict[str, Any]] = [
    {"substrate": {"slpoe": 0.1, "size": [200, -1]}, "observation": {"field": True}},
    {},
    {"max_nodes": 70, "min_nodes": 80},
    {"scenario": "moot"},
    {"substrate": {"moat": {"width": 3}}},
    {"substrate": 5},
]
FAULTS = {
    "0.env.observation": "may not differ between stages: one agent sees all stages",
    "0.env.substrate.slpoe": "unknown key (did you mean 'slope'?)  [got 0.1]",
    "0.env.substrate.size.1": "Input should be greater than 0  [got -1]",
    "2.env": "min_nodes (80) must not be above max_nodes (70)",
    "3.env": "unknown scenario 'moot' (did you mean 'moat'?)",
    "4.env.substrate.moat": "counts for kind `moat` only, not for `linear`; remove it",
    "5.env.substrate": "a section (`key: value` lines) is wanted",
}


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(StageError) as error:
        stage_configs(EnvConfig(), WRONG)
    faults = dict(error.value.faults)
    assert faults.keys() == FAULTS.keys()
    for path, message in FAULTS.items():
        assert faults[path].startswith(message), path
    assert error.value.lines == tuple(f"{path}: {message}" for path, message in error.value.faults)


class Stage(Config):
    name: str
    env: dict[str, Any] = Field(default_factory=dict)


class Training(Config):
    curriculum: tuple[Stage, ...] = ()


class Root(Config):
    """The part of a run's configuration that has stages."""

    env: EnvConfig = EnvConfig()
    training: Training = Training()

    @model_validator(mode="after")
    def _stages_are_worlds(self):
        try:
            stage_configs(self.env, [stage.env for stage in self.training.curriculum])
        except StageError as error:
            raise error.below("training", "curriculum") from None
        return self


def test_a_configuration_file_says_where_its_stages_are_wrong(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "training:\n  curriculum:\n    - name: a\n      env: {spawn_bounds: {noise: [0, 1]}}\n"
        "    - name: b\n      env:\n        substrate:\n          kind: lineer\n        max_steps: 0\n"
    )
    with pytest.raises(ConfigError) as error:
        load_config(file, Root)
    first, second, third = error.value.lines
    assert first.startswith(f"{file}:4:13: training.curriculum.0.env.spawn_bounds: may not differ between")
    assert second.startswith(
        f"{file}:8:11: training.curriculum.1.env.substrate.kind: Input should be 'linear'"
    )
    assert "(did you mean 'linear'?)" in second
    assert third.startswith(f"{file}:9:9: training.curriculum.1.env.max_steps: Input should be greater than")


def test_stages_that_cannot_share_a_batch_are_refused():
    for values, message in [
        ({"max_nodes": 30}, "another number of slots"),
        ({"max_nodes": 30, "capacity": 120}, "another scale of counts"),
        ({"observation": {"field": True}}, "another `observation`"),
        ({"spawn_bounds": {"noise": (0.0, 0.1)}}, "another `spawn_bounds`"),
    ]:
        with pytest.raises(UserError, match=f"stage 1 has {message} than stage 0"):
            StagedEnv([EnvConfig(), EnvConfig(**values)], 2)
    with pytest.raises(UserError, match="there is no stage"):
        StagedEnv([], 2)
    with pytest.raises(UserError, match="num_colonies must be at least 1"):
        StagedEnv([EnvConfig()], 0)


@pytest.mark.parametrize(
    ("stage", "share", "message"),
    [
        (2, 1.0, "there is no stage 2; there are 2"),
        (-1, 1.0, "there is no stage -1"),
        (1, 1.5, r"within \[0, 1\], not 1.5"),
        (1, float("nan"), r"within \[0, 1\], not nan"),
        (0, 0.5, "stage 0 has none before it"),
    ],
)
def test_stages_that_cannot_begin_are_refused(stage, share, message):
    world = StagedEnv(stage_configs(EnvConfig(), [{}, {"max_steps": 9}])[1], 2)
    with pytest.raises(UserError, match=message):
        world.begin_stage(stage, share)


def test_seeds_masks_and_actions_are_checked():
    world = mixed_world()
    with pytest.raises(UserError, match="seeds must have shape"):
        world.reset([1])
    with pytest.raises(UserError, match="mask must be bool of shape"):
        world.reset_where(torch.tensor([True]), torch.arange(B))
    with pytest.raises(UserError, match="call reset"):
        StagedEnv(world.stages, B).step(Action(torch.zeros(B, 1), torch.zeros(B, 1, 4)))
    slots = world.stages[0].num_slots
    rest = Action(torch.zeros(B, slots, dtype=torch.int64), torch.zeros(B, slots, 4))
    for slot in (int((world.stage == index).nonzero()[0]) for index in (0, 1)):
        kind = rest.kind.clone()
        kind[slot, 1] = 7
        with pytest.raises(UserError, match=f"colony {slot}, node 1: kind 7"):
            world.step(Action(kind, rest.parameters))
    with pytest.raises(UserError, match=r"action.kind must have shape"):
        world.step(rest[:3])


def test_states_of_other_worlds_are_refused():
    world = mixed_world()
    state = world.state_dict()
    plain = DurotaxisEnv(world.stages[0], B)
    plain.reset(torch.arange(B))
    with pytest.raises(UserError, match="the saved world has no stages"):
        world.load_state_dict(plain.state_dict())
    with pytest.raises(UserError, match="the saved world has stages"):
        plain.load_state_dict(state)
    with pytest.raises(UserError, match="in stage 1, this one has 1"):
        StagedEnv(world.stages[:1], B).load_state_dict(state)
    with pytest.raises(UserError, match=f"stage 0: the saved world has {B} colonies"):
        StagedEnv(world.stages, B + 1).load_state_dict(state)
    with pytest.raises(UserError, match="stage 1: the saved world lies on another kind or size"):
        StagedEnv([world.stages[0], world.stages[0]], B).load_state_dict(state)


def test_milestones_passed_in_one_stage_do_not_bear_on_another():
    base = EnvConfig(**SHORT)
    stages = stage_configs(base, [{}, {"reward": {"milestones": [0.5]}}])[1]
    world = StagedEnv(stages, B)
    world.begin_stage(1, 0.5)
    world.reset(torch.arange(B))
    state = world.state_dict()
    passed = torch.where(world.stage == 0, 3, 1)
    state["colony"]["milestones"] = passed
    again = StagedEnv(stages, B)
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["colony"]["milestones"], passed)
    state["colony"]["milestones"] = passed + (world.stage == 1)
    with pytest.raises(UserError, match="stage 1: colonies of the saved world have passed 2 milestones"):
        again.load_state_dict(state)


def test_the_shipped_curriculum_leads_to_the_world_of_its_run():
    values = read_file(ROOT / "configs" / "curriculum.yaml").values
    stages = values["training"]["curriculum"]
    assert [stage["name"] for stage in stages] == ["navigate", "manage_nodes", "optimise"]
    base, worlds = stage_configs(EnvConfig(**values["env"]), [stage.get("env", {}) for stage in stages])
    navigate, manage, optimise = worlds
    assert optimise == base
    assert base == EnvConfig(**merge(values["env"], {"capacity": 120, "observation": {"count_scale": 60}}))
    assert (navigate.max_nodes, manage.max_nodes, optimise.max_nodes) == (30, 60, 60)
    assert [world.substrate.kind for world in worlds] == ["linear", "linear", "exponential"]
    for name, factor in {"delete_marked": 3.0, "keep_marked": 3.0, "too_many": 3.0}.items():
        assert getattr(manage.reward, name) == pytest.approx(factor * getattr(base.reward, name))
    for name in ("progress_centroid", "progress_front"):
        assert getattr(navigate.reward, name) == pytest.approx(1.5 * getattr(base.reward, name))
    world = StagedEnv(worlds, 3)
    for index in range(3):
        world.begin_stage(index)
        seen = world.reset([1, 2, 3])
        world.step(Action(torch.zeros_like(seen.parent), torch.zeros(*seen.parent.shape, 4)))
        assert world.stage.tolist() == [index] * 3
