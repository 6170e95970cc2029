"""Evaluation: one episode per seed, whatever the batch."""

import pytest
import torch
from toy import ToyPolicy, ToyWorld

from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.ppo import evaluate, report_seeds, summarize, tuning_seeds


def one_by_one(policy, seeds, deterministic=False):
    """The obvious way: a world of one colony, one seed after the other."""
    rows = []
    for seed in seeds:
        world = ToyWorld(1)
        seen, total, step, ended = world.reset(torch.tensor([seed])), 0.0, 0, False
        while not ended:
            with torch.no_grad():
                distribution, _ = policy(seen)
            key = hash_keys(torch.tensor([seed]), Purpose.POLICY, step)
            result = world.step(distribution.mode() if deterministic else distribution.sample(key))
            seen, total, step = result.observation, total + float(result.reward), step + 1
            ended = bool(result.terminated | result.truncated)
        rows.append((seed, total, step, ToyWorld.reason_names[int(result.reason)]))
    return rows


@pytest.mark.parametrize("num_colonies", [1, 3, 7, 12])
@pytest.mark.parametrize("deterministic", [False, True])
def test_any_batch_equals_one_by_one(num_colonies, deterministic):
    policy, seeds = ToyPolicy(), report_seeds(7)
    rows = evaluate(ToyWorld(num_colonies), policy, seeds, deterministic=deterministic)
    expected = one_by_one(policy, seeds, deterministic)
    assert [(r["seed"], r["length"], r["reason"]) for r in rows] == [(s, n, why) for s, _, n, why in expected]
    assert [r["return"] for r in rows] == pytest.approx([total for _, total, _, _ in expected], abs=1e-5)
    assert all(r["deterministic"] is deterministic for r in rows)


def test_finished_colonies_are_not_computed():
    rows_seen = []
    policy = ToyPolicy()
    with torch.no_grad():
        policy.head.weight.mul_(100.0)  # a decided policy: episodes end at different times
    rows = evaluate(
        ToyWorld(5, limit=30), policy, report_seeds(9), on_step=lambda step: rows_seen.append(len(step.slots))
    )
    assert len({row["length"] for row in rows}) > 1
    assert sum(rows_seen) == sum(row["length"] for row in rows)
    assert min(rows_seen) < 5


def test_a_whole_batch_stays_together_to_the_end():
    sizes = []
    policy = ToyPolicy()
    with torch.no_grad():
        policy.head.weight.mul_(100.0)
    seeds = report_seeds(9)
    rows = evaluate(
        ToyWorld(5, limit=30),
        policy,
        seeds,
        whole_batch=True,
        on_step=lambda step: sizes.append(len(step.slots)),
    )
    assert rows == evaluate(ToyWorld(5, limit=30), policy, seeds)
    assert set(sizes) == {5}


def test_on_step_sees_every_episode_in_order():
    steps = {}

    def note(step):
        for episode, length in zip(step.episodes.tolist(), step.lengths.tolist(), strict=True):
            steps.setdefault(episode, []).append(length)

    rows = evaluate(ToyWorld(3), ToyPolicy(), report_seeds(5), on_step=note)
    assert steps == {i: list(range(row["length"])) for i, row in enumerate(rows)}


def test_evaluation_needs_no_generator_and_no_gradient():
    policy = ToyPolicy()
    torch.manual_seed(0)
    first = evaluate(ToyWorld(4), policy, report_seeds(6))
    torch.manual_seed(1)
    assert evaluate(ToyWorld(4), policy, report_seeds(6)) == first
    assert all(p.grad is None for p in policy.parameters())
    assert evaluate(ToyWorld(4), policy, []) == []


def test_seeds_for_tuning_and_for_reports_never_meet():
    assert tuning_seeds(3) == [1_000_000, 1_000_001, 1_000_002]
    assert report_seeds(2) == [2_000_000, 2_000_001]


def test_summary_is_the_mean():
    rows = [
        {"return": 1.0, "success": True, "length": 4, "final/hits": 2},
        {"return": 2.0, "success": False, "length": 8, "final/hits": 1},
    ]
    expected = {"return_mean": 1.5, "success_rate": 0.5, "length_mean": 6.0, "final/hits": 1.5}
    assert summarize(rows) == expected
