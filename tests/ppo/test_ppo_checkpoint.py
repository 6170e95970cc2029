"""Checkpoints: exact round trips, and one clear line for whatever cannot be used."""

import pickle

import pytest
import torch
from toy import ToyPolicy, ToyWorld

from durotaxis.core.errors import UserError
from durotaxis.ppo import PPOConfig, TrainState, collect, load, load_policy, make_optimizer, start, update
from durotaxis.ppo.checkpoint import restore, save, snapshot

CONFIG = PPOConfig(num_colonies=4, rollout_steps=8)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint in the middle of episodes, with what it was made from."""
    policy, world = ToyPolicy(), ToyWorld(4)
    optimizer = make_optimizer(policy, CONFIG)
    rollout, slots, _ = collect(world, policy, start(world, policy, 1), 5, 1)
    update(policy, optimizer, rollout, CONFIG.model_copy(update={"num_minibatches": 1}), 1, 1)
    state = TrainState(slots, iteration=1, step=20, episodes=0, best_score=0.5, elapsed_s=1.5)
    path = tmp_path / "last.pt"
    save(snapshot(policy, optimizer, world, state, "ppo: {}\n", policy.frozen_hash()), path)
    return path, policy, optimizer, world, state


def test_round_trip_is_exact(saved):
    path, policy, optimizer, world, state = saved
    other, other_world = ToyPolicy(seed=9), ToyWorld(4)
    checkpoint = load(path)
    back, other_optimizer = restore(checkpoint, path, other, CONFIG, other_world, 1)
    assert (back.iteration, back.step, back.best_score, back.elapsed_s) == (1, 20, 0.5, 1.5)
    assert checkpoint.config == "ppo: {}\n"
    assert len(checkpoint.config_hash) == 64
    assert checkpoint.frozen_hash == other.frozen_hash()
    assert checkpoint.versions["torch"] == torch.__version__
    for key, tensor in policy.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    for first, second in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)
    runs = [collect(w, p, s.slots, 8, 1) for w, p, s in ((world, policy, state), (other_world, other, back))]
    assert torch.equal(runs[0][0].log_prob, runs[1][0].log_prob)
    assert runs[0][2] == runs[1][2]


def test_snapshot_does_not_change_with_the_training_after_it(saved):
    path, policy, optimizer, world, state = saved
    kept = snapshot(policy, optimizer, world, state, "", "")
    weight = kept.model["body.weight"].clone()
    rollout, _, _ = collect(world, policy, state.slots, 8, 1)
    update(policy, optimizer, rollout, CONFIG, 1, 2)
    assert torch.equal(kept.model["body.weight"], weight)
    assert not torch.equal(policy.body.weight, weight)
    save(kept, path)
    assert torch.equal(load(path).model["body.weight"], weight)


def test_other_architecture_is_one_clear_error(saved):
    path, *_ = saved
    other = ToyPolicy(width=16)
    before = other.body.weight.clone()
    message = r"another architecture: it differs in the shape of .*\(32,\) there, \(16,\) here"
    with pytest.raises(UserError, match=message) as caught:
        load_policy(other, load(path), path)
    assert "\n" not in str(caught.value)
    assert torch.equal(other.body.weight, before)


def test_missing_and_unexpected_weights_are_named(saved):
    path, *_ = saved
    other = ToyPolicy()
    other.extra, other.critic = torch.nn.Linear(2, 2), torch.nn.Identity()
    message = (
        r"lacks extra\.bias, extra\.weight; it has critic\.bias, critic\.weight that this policy has not"
    )
    with pytest.raises(UserError, match=message):
        load_policy(other, load(path), path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_file_is_one_clear_error(saved, keep):
    path, *_ = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"last\.pt is damaged or not a checkpoint"):
        load(path)


def test_a_flipped_bit_is_noticed(saved):
    path, policy, *_ = saved
    content = bytearray(path.read_bytes())
    content[content.index(policy.frozen.weight.detach().numpy().tobytes()) + 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt is damaged"):
        load(path)


def test_text_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load(tmp_path / "no.pt")
    (tmp_path / "x.pt").write_text("hello")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load(tmp_path / "x.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "y.pt")
    with pytest.raises(UserError, match="not a checkpoint of durotaxis"):
        load(tmp_path / "y.pt")


def test_code_in_a_file_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of a checkpoint was executed",))

    torch.save({"model": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load(tmp_path / "y.pt")


def test_other_number_of_colonies_is_refused(saved):
    path, *_ = saved
    policy = ToyPolicy()
    with pytest.raises(UserError, match=r"has 4 colonies, ppo\.num_colonies is 6"):
        restore(load(path), path, policy, CONFIG, ToyWorld(6), 1)


def test_other_format_is_refused(saved):
    path, *_ = saved
    fields = torch.load(path, weights_only=True)
    torch.save({**fields, "format": 99}, path)
    with pytest.raises(UserError, match="format 99, this version reads 4; a newer version"):
        load(path)
