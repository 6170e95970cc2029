"""Collecting: what is stored, what is bootstrapped, when slots are reset, and where seeds come from."""

import dataclasses

import pytest
import torch
from toy import NUM_SLOTS, ToyObservation, ToyPolicy, ToyWorld

from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.ppo import NonFiniteError, collect, start
from durotaxis.ppo.rollout import narrow_nodes, num_used_slots

SEED = 5


class EagerPolicy(ToyPolicy):
    """Plays every node's best kind, so that episodes terminate."""

    def to_action(self, sample, observation):
        return dataclasses.replace(sample, kind=observation.nodes[..., :3].argmax(-1))


def rollout_of(policy, num_steps=20, limit=6, num_colonies=4):
    world = ToyWorld(num_colonies, limit)
    return collect(world, policy, start(world, policy, SEED), num_steps, SEED)


def test_shapes_and_contents():
    rollout, slots, _ = rollout_of(ToyPolicy())
    assert rollout.log_prob.shape == (20, 4, NUM_SLOTS)
    assert rollout.observation.nodes.shape == (20, 4, NUM_SLOTS, 4)
    assert rollout.cached.features.shape == (20, 4, NUM_SLOTS, 8)
    for name in ("reward", "terminated", "truncated"):
        assert getattr(rollout, name).shape == (20, 4), name
    assert rollout.value.shape == rollout.next_value.shape == (20, 4, 1)
    torch.testing.assert_close(rollout.reward, sum(rollout.terms.values()))
    assert slots.vector_step == 20
    assert torch.equal(rollout.log_prob[~rollout.node_mask], torch.zeros(int((~rollout.node_mask).sum())))


def test_truncated_steps_are_worth_their_own_last_observation():
    """Replay the same actions in a world that is never reset, and value what it shows."""
    policy = ToyPolicy()
    rollout, _, _ = rollout_of(policy, num_steps=6, limit=6)
    assert rollout.truncated[5].all()
    assert not rollout.ended[:5].any()
    world = ToyWorld(4, limit=6)
    world.reset(hash_keys(SEED, Purpose.EPISODE, torch.arange(4), 0))
    for t in range(6):
        last = world.step(rollout.sample[t]).observation
    _, expected = policy(last)
    _, of_next_episode = policy(world.reset(hash_keys(SEED, Purpose.EPISODE, torch.arange(4), 1)))
    torch.testing.assert_close(rollout.next_value[5, :, 0], expected)
    assert not torch.allclose(rollout.next_value[5, :, 0], of_next_episode)


def test_terminated_steps_are_worth_nothing():
    rollout, _, rows = rollout_of(EagerPolicy())
    assert rollout.terminated.any()
    assert not rollout.truncated.any()
    assert torch.equal(rollout.next_value[rollout.terminated], torch.zeros(int(rollout.terminated.sum()), 1))
    assert all(row["success"] and row["reason"] == "success" and row["length"] == 4 for row in rows)


def test_running_steps_are_worth_the_next_value():
    rollout, slots, _ = rollout_of(ToyPolicy())
    running = ~rollout.ended
    assert torch.equal(rollout.next_value[:-1][running[:-1]], rollout.value[1:][running[:-1]])
    policy = ToyPolicy()
    last = policy(slots.observation)[1][running[-1]]
    assert torch.equal(rollout.next_value[-1, :, 0][running[-1]], last)


def test_stored_observation_is_before_the_step_and_reset_after_the_end():
    rollout, _, _ = rollout_of(ToyPolicy(), num_steps=14, limit=6)
    world = ToyWorld(4, limit=6)
    for t in range(14):
        if t % 6 == 0:
            seen = world.reset(hash_keys(SEED, Purpose.EPISODE, torch.arange(4), t // 6))
        assert torch.equal(rollout.observation.nodes[t], seen.nodes), t
        seen = world.step(rollout.sample[t]).observation


def test_finished_rows_add_up():
    rollout, slots, rows = rollout_of(ToyPolicy(), num_steps=20, limit=6)
    assert len(rows) == 4 * 3
    assert slots.slot_episode.tolist() == [3] * 4
    assert slots.tally.length.tolist() == [2] * 4
    for row in rows:
        first = row["slot_episode"] * 6
        own = slice(first, first + 6), row["slot"]
        assert row["return"] == pytest.approx(float(rollout.reward[own].sum()), abs=1e-5)
        assert row["term/off"] == pytest.approx(float(rollout.terms["off"][own].sum()), abs=1e-5)
        assert row["seed"] == int(hash_keys(SEED, Purpose.EPISODE, row["slot"], row["slot_episode"]))
        assert row["length"] == 6
        assert row["reason"] == "max_steps"


def test_slots_that_end_at_different_times_count_their_own_episodes():
    class Uneven(EagerPolicy):
        """Slots 0 and 2 succeed after 4 steps; in 1 and 3 no node is ever right, for 6 steps."""

        def to_action(self, sample, observation):
            action = super().to_action(sample, observation)
            wrong = torch.arange(len(action.kind))[:, None] % 2
            return dataclasses.replace(action, kind=(action.kind + wrong) % 3)

    rollout, slots, rows = rollout_of(Uneven(), num_steps=12, limit=6)
    assert slots.slot_episode.tolist() == [3, 2, 3, 2]
    for slot, length, count in ((0, 4, 3), (1, 6, 2), (2, 4, 3), (3, 6, 2)):
        mine = [row for row in rows if row["slot"] == slot]
        assert [row["slot_episode"] for row in mine] == list(range(count))
        assert [row["length"] for row in mine] == [length] * count
        seeds = [int(hash_keys(SEED, Purpose.EPISODE, slot, k)) for k in range(count)]
        assert [row["seed"] for row in mine] == seeds
    assert torch.equal(rollout.ended.nonzero()[:2, 1], torch.tensor([0, 2]))


def test_two_short_rollouts_equal_one_long():
    policy, world = ToyPolicy(), ToyWorld(4, 6)
    first, slots, rows_1 = collect(world, policy, start(world, policy, SEED), 7, SEED)
    second, _, rows_2 = collect(world, policy, slots, 13, SEED)
    whole, _, rows = rollout_of(policy)
    joined = type(first).cat([first, second])
    for name in ("reward", "value", "next_value", "log_prob"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert rows_1 + rows_2 == rows


def test_draws_ignore_the_global_generator():
    torch.manual_seed(1)
    first, _, _ = rollout_of(ToyPolicy())
    torch.manual_seed(2)
    second, _, _ = rollout_of(ToyPolicy())
    assert torch.equal(first.sample.unit, second.sample.unit)
    assert len(first.sample.unit[first.node_mask].unique()) == int(first.node_mask.sum())


def test_frozen_parts_run_once_per_observation():
    class Counting(ToyPolicy):
        computed = 0

        def precompute(self, observation, keys=None):
            self.computed += 1
            return super().precompute(observation, keys)

    policy = Counting()
    rollout_of(policy, num_steps=5, limit=99)
    assert policy.computed == 5 + 1
    assert policy.calls == 5 + 1


def test_draws_of_the_policy_have_a_key_for_every_step_and_slot():
    class Keyed(ToyPolicy):
        def __init__(self):
            super().__init__()
            self.keys = []

        def precompute(self, observation, keys=None):
            self.keys.append(keys)
            return super().precompute(observation)

    policy, slots = Keyed(), torch.arange(4)
    rollout_of(policy, num_steps=5, limit=99)
    for step, keys in enumerate(policy.keys):
        assert torch.equal(keys, hash_keys(SEED, Purpose.MODEL_DROPOUT, step, slots))
    assert len(torch.cat(policy.keys).unique()) == 4 * 6


def test_nan_reward_stops_with_its_name():
    world, policy = ToyWorld(4, 6, poison=3), ToyPolicy()
    with pytest.raises(NonFiniteError, match=r"reward holds nan at index \[0\] \(4 of 4"):
        collect(world, policy, start(world, policy, SEED), 5, SEED)


def test_nan_observation_stops_with_its_name():
    class Broken(ToyWorld):
        def observe(self):
            observation = super().observe()
            nodes = observation.nodes.clone()
            nodes[2, 0, 1] = torch.where(self.time[2] == 2, torch.inf, nodes[2, 0, 1])
            return dataclasses.replace(observation, nodes=nodes)

    world, policy = Broken(4), ToyPolicy()
    with pytest.raises(NonFiniteError, match=r"observation\.nodes holds inf at index \[2, 0, 1\] \(1 of 80"):
        collect(world, policy, start(world, policy, SEED), 5, SEED)


def test_nan_value_stops_with_its_name():
    policy = ToyPolicy()
    with torch.no_grad():
        policy.critic.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="value holds nan"):
        rollout_of(policy)


def test_narrowing_cuts_node_fields_only():
    observation = ToyObservation(torch.randn(4, NUM_SLOTS, 4), torch.ones(4, NUM_SLOTS, dtype=torch.bool))
    narrow = narrow_nodes(observation, 2)
    assert torch.equal(narrow.nodes, observation.nodes[:, :2])
    assert narrow.node_mask.shape == (4, 2)

    @dataclasses.dataclass(frozen=True)
    class Outer(type(observation).__mro__[1]):
        inner: ToyObservation
        other: torch.Tensor
        missing: None = None

    outer = narrow_nodes(Outer(observation, torch.zeros(4, NUM_SLOTS)), 3)
    assert outer.inner.nodes.shape == (4, 3, 4)
    assert outer.other.shape == (4, NUM_SLOTS)
    assert narrow_nodes(None, 3) is None


def test_used_slots_are_counted_to_the_last_living_one():
    assert num_used_slots(torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]]).bool()) == 3
    assert num_used_slots(torch.zeros(2, 4, dtype=torch.bool)) == 1
