"""Whatever is done to it, a world stays a world: random mixes of actions on random small worlds."""

from __future__ import annotations

import itertools

import gymnasium as gym
import networkx as nx
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from durotaxis.core.randomness import uniform
from durotaxis.env import SCENARIOS, Action, DurotaxisEnv, EnvConfig, Kind
from durotaxis.integrations.spaces import observation_arrays, observation_space

NUM_COLONIES, NUM_STEPS, NUM_WORLDS = 24, 14, 16
"""Together 5,376 colony-steps."""

WORLDS = st.fixed_dictionaries(
    {
        "scenario": st.sampled_from(sorted(SCENARIOS)),
        "max_nodes": st.integers(3, 14),
        "num_initial_nodes": st.integers(1, 3),
        "min_nodes": st.integers(0, 3),
        "critical_nodes": st.integers(1, 10),
        "delta_time": st.integers(0, 3),
        "max_steps": st.integers(3, 20),
        "left_moves_limit": st.integers(1, 6),
        "boundary": st.sampled_from(["clamp", "terminate"]),
        "spawn_bounds": st.sampled_from([{}, {"max_step": (5.0, 60.0), "half_saturation": (0.2, 3.0)}]),
        "observation": st.sampled_from([{}, {"field": True}, {"field": True, "frame": "substrate"}]),
    }
)
MIXES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3)
LENGTHS = st.sampled_from([0, 1, 9])


def random_action(colony, config, mix, key):
    """Kinds in the proportions of `mix`; parameters anywhere in the box, its corners often."""

    def draw(index):
        return uniform(colony.seed[:, None], key, colony.step[:, None], colony.node_id, index)

    shares = torch.tensor(mix) + 1e-3
    edges = (shares / shares.sum()).cumsum(0)
    kind = (draw(0)[..., None] > edges[:2]).sum(-1)
    may_delete = (colony.num_nodes > config.min_nodes)[:, None]
    kind = torch.where((kind == Kind.DELETE) & ~may_delete, int(Kind.SPAWN), kind)
    unit = torch.stack([draw(1 + k) for k in range(4)], -1)
    unit = torch.where(unit < 0.15, 0.0, torch.where(unit > 0.85, 1.0, unit))
    low, high = (torch.tensor(bound) for bound in (config.spawn_bounds.low, config.spawn_bounds.high))
    return Action(kind, (low + unit * (high - low)).clamp(low, high))


def assert_forest(colony):
    """Packed slots, and by an independent library: a forest of out-trees over the living."""
    for b in range(colony.batch_size):
        n = int(colony.num_nodes[b])
        assert colony.alive[b, :n].all()
        parents = colony.parent[b].tolist()
        assert all(parent == -1 for parent in parents[n:])
        graph = nx.DiGraph()
        graph.add_nodes_from(range(n))
        graph.add_edges_from((parent, child) for child, parent in enumerate(parents[:n]) if parent >= 0)
        assert set(graph.nodes) == set(range(n))
        assert n == 0 or nx.is_forest(graph.to_undirected())
        assert all(degree <= 1 for _, degree in graph.in_degree)
        assert graph.number_of_edges() == sum(parent >= 0 for parent in parents[:n])


def assert_no_nan(*structs):
    for struct, (name, value) in ((s, item) for s in structs for item in vars(s).items()):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert torch.isfinite(value).all(), f"{type(struct).__name__}.{name}"


class Ids:
    """Every id ever seen in each colony's episode; an id that went may not come back."""

    def __init__(self, colony):
        self.seen = [set() for _ in range(colony.batch_size)]
        self.living = [set() for _ in range(colony.batch_size)]
        self.follow(colony)

    def follow(self, colony):
        for b in range(colony.batch_size):
            now = colony.node_id[b][colony.alive[b]].tolist()
            assert len(now) == len(set(now)), "unique"
            assert not (set(now) - self.living[b]) & self.seen[b], "an id came back"
            self.living[b] = set(now)
            self.seen[b] |= set(now)

    def forget(self, mask):
        for b in mask.nonzero()[:, 0].tolist():
            self.seen[b], self.living[b] = set(), set()


@settings(
    max_examples=NUM_WORLDS,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # looking for a smaller failure takes minutes; the first one says enough
    suppress_health_check=list(HealthCheck),
)
@given(values=WORLDS, mixes=st.lists(MIXES, min_size=2, max_size=4), spare=LENGTHS, key=st.integers(0, 2**31))
def test_a_world_stays_a_world(values, mixes, spare, key):
    config = EnvConfig(**values, capacity=values["max_nodes"] + 1 + spare)
    spaces = {form: observation_space(config, form) for form in ("scaled", "raw")}
    world = DurotaxisEnv(config, NUM_COLONIES)
    world.reset(torch.arange(NUM_COLONIES) + key)
    assert_forest(world.colony)
    ids = Ids(world.colony)
    for step, mix in zip(range(NUM_STEPS), itertools.cycle(mixes), strict=False):
        before = world.colony
        transition = world.step(random_action(before, config, mix, key))
        after = transition.colony
        assert after.capacity == config.num_slots
        assert (after.num_nodes <= config.num_slots).all()
        assert_forest(after)
        ids.follow(after)
        assert_no_nan(after, transition.observation)
        assert not (transition.terminated & transition.truncated).any()
        assert ((transition.reason > 0) == (transition.terminated | transition.truncated)).all()
        terms = torch.stack(list(transition.terms.values()))
        assert torch.isfinite(transition.reward).all()
        torch.testing.assert_close(transition.reward, terms.sum(0), rtol=1e-5, atol=1e-5)
        gained = transition.counts["spawned"] - transition.counts["deleted"]
        assert torch.equal(after.num_nodes, before.num_nodes + gained)
        for form, space in spaces.items():
            seen = transition.observation if form == "scaled" else world.observe(scaled=False)
            assert_contained(space, observation_arrays(seen), f"{form}, step {step}")
        ended = transition.terminated | transition.truncated
        if bool(ended.any()):
            ids.forget(ended)
            world.reset_where(ended, before.seed + 1_000 + step)
            ids.follow(world.colony)
            assert_forest(world.colony)


def assert_contained(space, arrays, where):
    """Every row of the batch lies in the space; said by entry where one does not."""
    for name, part in space.items():
        values = arrays[name]
        assert values.shape[1:] == part.shape, f"{where}: {name}"
        if isinstance(part, gym.spaces.Box):
            assert values.dtype == part.dtype
            outside = (values < part.low) | (values > part.high)
            assert not outside.any(), f"{where}: {name} {np.argwhere(outside)[:3]} {values[outside][:3]}"
        else:
            assert np.isin(values, (0, 1)).all(), f"{where}: {name}"
