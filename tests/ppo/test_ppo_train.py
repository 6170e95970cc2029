"""Training as a whole: it learns, repeats itself, survives interruption, and records what it did."""

import itertools

import pytest
import torch
from toy import HeadedPolicy, ToyCache, ToyPolicy, ToyWorld

from durotaxis import records
from durotaxis.core.errors import UserError
from durotaxis.ppo import (
    FrozenError,
    Interrupted,
    MonitorConfig,
    NonFiniteError,
    PPOConfig,
    TrainingConfig,
    evaluate,
    load,
    load_policy,
    report_seeds,
    summarize,
    train,
    tuning_seeds,
)
from durotaxis.records import RunDirectory

FILES = (records.METRICS, records.EPISODES, records.ATTENTION, records.EVALUATIONS, records.EVENTS)
SMALL = PPOConfig(
    num_colonies=4,
    rollout_steps=8,
    num_epochs=2,
    num_minibatches=2,
    learning_rate={"start": 3e-3, "end": 0.0},
)
QUIET = MonitorConfig(tensorboard=False)


def small_training(**changes):
    return TrainingConfig(
        **{
            "total_steps": 6 * 32,
            "evaluate_every": 64,
            "evaluation_episodes": 3,
            "checkpoint_every": 64,
            **changes,
        }
    )


def run_small(path, *, world=None, policy=None, run=None, **changes):
    policy = policy or ToyPolicy()
    run = run or RunDirectory.create(path, "config\n", {})
    arguments = {
        "ppo": SMALL,
        "training": small_training(),
        "monitor": QUIET,
        "evaluation_world": ToyWorld(3),
    }
    state = train(world or ToyWorld(4), policy, run=run, **{"seed": 11, **arguments, **changes})
    return run, policy, state


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One small run from start to end, for tests that only look: (run, policy, state)."""
    return run_small(tmp_path_factory.mktemp("small") / "run")


def timeless(run):
    return {file: [records.without_wall_clock(file, row) for row in run.read(file)] for file in FILES}


def same_weights(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Interrupting(ToyWorld):
    """Presses Ctrl-C at one step."""

    def __init__(self, num_colonies, at):
        super().__init__(num_colonies)
        self.countdown = at

    def step(self, action):
        self.countdown -= 1
        if self.countdown == 0:
            raise KeyboardInterrupt
        return super().step(action)


def test_identity_world_is_learned(tmp_path):
    ppo = PPOConfig(
        num_colonies=16,
        rollout_steps=16,
        learning_rate=3e-2,
        discount=0.0,
        gae_lambda=0.0,
        target_kl=None,
        entropy_kind=1e-3,
    )
    policy = ToyPolicy()
    before = summarize(evaluate(ToyWorld(10), policy, report_seeds(10)))
    run_small(
        tmp_path / "run",
        world=ToyWorld(16),
        policy=policy,
        ppo=ppo,
        training=TrainingConfig(total_steps=9 * 256, checkpoint_every=0),
        evaluation_world=None,
    )
    after = summarize(evaluate(ToyWorld(10), policy, report_seeds(10)))
    assert before["success_rate"] < 0.2
    assert after["success_rate"] == 1.0
    assert after["return_mean"] > 3.9  # four steps, all right, parameters near their target


def test_same_seed_same_run_whatever_the_global_generator(tmp_path, small):
    first, policy_1, _ = small
    torch.manual_seed(2)
    second, policy_2, _ = run_small(tmp_path / "b")
    assert timeless(first) == timeless(second)
    assert same_weights(policy_1, policy_2)
    third = run_small(tmp_path / "c", seed=12)[0]
    assert timeless(first) != timeless(third)


def test_records_are_complete_and_name_only_schema_columns(small):
    run, _, state = small
    assert run.is_done
    assert (state.iteration, state.step) == (6, 192)
    metrics = run.read(records.METRICS)
    assert [row["step"] for row in metrics] == [32 * i for i in range(1, 7)]
    for file in FILES:
        assert run.read(file) or file == records.EVENTS, file
        for row in run.read(file):
            assert records.unknown_columns(file, row) == [], file
    written = set().union(*(row.keys() for row in metrics))
    for column in records.SCHEMA[records.METRICS]:
        if column.name in ("stage", "stage_share", "explained_variance/<term>"):  # not in every run
            continue
        assert any(column.matches(key) for key in written), column.name
    episodes = run.read(records.EPISODES)
    assert [row["episode"] for row in episodes] == list(range(1, state.episodes + 1))
    assert sum(row["finished"] for row in metrics) == state.episodes
    mine = [row["return"] for row in episodes if row["iteration"] == 4]
    assert metrics[3]["return_mean"] == pytest.approx(sum(mine) / len(mine))


def test_learning_rate_follows_its_schedule(small):
    run, _, _ = small
    rates = [row["learning_rate"] for row in run.read(records.METRICS)]
    assert rates == pytest.approx([3e-3 * (1 - i / 6) for i in range(6)])


def test_evaluations_use_tuning_seeds_and_choose_the_best(small):
    run, _, state = small
    rows = run.read(records.EVALUATIONS)
    scores = {}
    for iteration, group in itertools.groupby(rows, key=lambda row: row["iteration"]):
        group = list(group)
        assert [row["seed"] for row in group] == tuning_seeds(3)
        scores[iteration] = sum(row["return"] for row in group) / 3
    assert list(scores) == [2, 4, 6]
    best = max(scores, key=scores.get)
    assert state.best_score == pytest.approx(scores[best])
    checkpoint = load(run.best_checkpoint)
    assert checkpoint.counters["iteration"] == best
    policy = ToyPolicy(seed=5)
    load_policy(policy, checkpoint, run.best_checkpoint)
    again = summarize(evaluate(ToyWorld(3), policy, tuning_seeds(3)))
    assert again["return_mean"] == pytest.approx(scores[best])


def test_attention_rows_per_phase(tmp_path):
    run, _, _ = run_small(tmp_path / "run", monitor=MonitorConfig(tensorboard=False, attention_every=2))
    rows = run.read(records.ATTENTION)
    assert sorted({row["iteration"] for row in rows}) == [2, 4, 6]
    for _, group in itertools.groupby(rows, key=lambda row: row["iteration"]):
        everyone, *phases = list(group)
        assert everyone["phase"] == "all"
        assert everyone["colonies"] == 4 == sum(row["colonies"] for row in phases)
        assert everyone["value/attention"] == [0.25, 0.75]


@pytest.mark.parametrize("at", [1, 20, 33])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, small, at):
    whole, policy_1, state_1 = small
    with pytest.raises(Interrupted, match=r"is saved in .*last\.pt") as caught:
        run_small(tmp_path / "cut", world=Interrupting(4, at))
    run = RunDirectory.open(tmp_path / "cut")
    assert caught.value.path == run.last_checkpoint
    assert caught.value.step == (at - 1) // 8 * 32
    assert not run.is_done
    _, policy_2, state_2 = run_small(None, run=run, policy=ToyPolicy(seed=3), resume=True)
    assert run.is_done
    assert timeless(run) == timeless(whole)
    assert same_weights(policy_1, policy_2)
    assert state_1.best_score == state_2.best_score


def test_values_of_terms_in_their_own_scale_train_record_and_resume(tmp_path):
    """Statistics of values are part of the weights, so a resumed run goes on from them."""
    ppo = SMALL.model_copy(update={"normalize_value": True})
    same = {"ppo": ppo, "training": small_training(total_steps=4 * 32, evaluate_every=0)}
    run, policy_1, _ = run_small(tmp_path / "whole", policy=HeadedPolicy(), **same)
    for row in run.read(records.METRICS):
        assert {"explained_variance/off", "explained_variance/right"} < row.keys()
    assert policy_1.critic.updates.tolist() == [4, 4]
    with pytest.raises(Interrupted):
        run_small(tmp_path / "cut", policy=HeadedPolicy(), world=Interrupting(4, 20), **same)
    again = RunDirectory.open(tmp_path / "cut")
    _, policy_2, _ = run_small(None, run=again, policy=HeadedPolicy(seed=3), resume=True, **same)
    assert timeless(run) == timeless(again)
    for key, value in policy_1.state_dict().items():
        assert torch.equal(value, policy_2.state_dict()[key]), key


class Scheduled(ToyPolicy):
    """Multiplies kept features by a gain that follows the step, and by a sign drawn anew at every step."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.register_buffer("gain", torch.ones(()))
        self.kept_gain, self.begun = 0.0, []

    def begin_iteration(self, when):
        self.begun.append((when.step, self.training))
        self.gain.fill_(1.0 + when.step // 64)
        return self.gain.item() != self.kept_gain

    def forward(self, observation, cached=None):
        assert self.kept_gain == self.gain.item()  # what was kept is that of the present schedule
        return super().forward(observation, cached)

    def precompute(self, observation, keys=None):
        self.kept_gain = self.gain.item()
        features = super().precompute(observation).features * self.gain
        signs = 1.0 if keys is None else 1.0 - 0.5 * (keys & 1)[:, None, None]
        return ToyCache(features * signs)


def test_schedules_change_before_rollouts_and_survive_resuming(tmp_path):
    """The first minibatch's ratio is checked in every update, so draws must have been kept with their step."""
    whole, policy_1, _ = run_small(tmp_path / "whole", policy=Scheduled())
    assert [step for step, _ in policy_1.begun] == [0, 0, 32, 64, 96, 128, 160]
    assert not any(training for _, training in policy_1.begun)
    with pytest.raises(Interrupted):
        run_small(tmp_path / "cut", policy=Scheduled(), world=Interrupting(4, 28))
    run = RunDirectory.open(tmp_path / "cut")
    _, policy_2, _ = run_small(None, run=run, policy=Scheduled(seed=3), resume=True)
    assert [step for step, _ in policy_2.begun] == [96, 128, 160]
    assert timeless(run) == timeless(whole)
    assert same_weights(policy_1, policy_2)
    evaluated = Scheduled(seed=4)
    load_policy(evaluated, load(run.last_checkpoint), run.last_checkpoint)
    assert evaluated.gain.item() == 3.0
    assert timeless(whole) != timeless(run_small(tmp_path / "plain")[0])


def test_interruption_within_an_evaluation_repeats_its_iteration(tmp_path, small):
    whole, policy_1, _ = small
    with pytest.raises(Interrupted) as caught:
        run_small(tmp_path / "cut", evaluation_world=Interrupting(3, 12))
    run = RunDirectory.open(tmp_path / "cut")
    assert run.read(records.METRICS)[-1]["step"] == caught.value.step + 32
    _, policy_2, _ = run_small(None, run=run, policy=ToyPolicy(seed=3), resume=True)
    assert timeless(run) == timeless(whole)
    assert same_weights(policy_1, policy_2)


def test_interruption_within_an_update_saves_the_last_whole_iteration(tmp_path, small):
    class Impatient(ToyPolicy):
        def forward(self, observation, cached=None):
            if torch.is_grad_enabled() and self.calls > 35:
                raise KeyboardInterrupt
            return super().forward(observation, cached)

    whole, policy_1, _ = small
    with pytest.raises(Interrupted) as caught:
        run_small(tmp_path / "cut", policy=Impatient())
    assert caught.value.step > 0
    run = RunDirectory.open(tmp_path / "cut")
    _, policy_2, _ = run_small(None, run=run, policy=ToyPolicy(seed=3), resume=True)
    assert same_weights(policy_1, policy_2)
    assert timeless(run) == timeless(whole)


def test_nan_stops_training_and_leaves_it_unfinished(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "config\n", {})
    with pytest.raises(NonFiniteError, match="reward holds nan"):
        run_small(None, run=run, world=ToyWorld(4, poison=3))
    assert not run.is_done
    assert run.read(records.METRICS) == []


def test_changed_frozen_weights_are_noticed(tmp_path):
    class Drifting(ToyPolicy):
        def forward(self, observation, cached=None):
            if torch.is_grad_enabled():
                with torch.no_grad():
                    self.frozen.weight.add_(1e-6)
            return super().forward(observation, cached)

    with pytest.raises(FrozenError, match="changed during training"):
        run_small(tmp_path / "run", policy=Drifting())
    assert not RunDirectory.open(tmp_path / "run").is_done


class Thawing(ToyPolicy):
    """One frozen part more, which may be thawed."""

    def __init__(self):
        super().__init__()
        self.second = torch.nn.Linear(4, 8).requires_grad_(False)

    def frozen_hashes(self):
        second = {} if self.second.weight.requires_grad else {"second": repr(self.second.weight.tolist())}
        return super().frozen_hashes() | second

    def parameter_groups(self):
        return super().parameter_groups() | {
            "second": [p for p in self.second.parameters() if p.requires_grad]
        }


@pytest.mark.parametrize(("changed", "refused"), [("frozen", True), ("second", False)])
def test_a_part_that_stays_frozen_is_checked_when_another_one_thaws(tmp_path, changed, refused):
    policy = Thawing()

    def thaw(status):
        if status.iteration == 1 and status.evaluation is None:
            policy.second.requires_grad_(True)
            with torch.no_grad():
                getattr(policy, changed).weight.add_(0.1)

    arguments = {"policy": policy, "progress": thaw}
    if refused:
        with pytest.raises(FrozenError, match="of frozen changed during training"):
            run_small(tmp_path / "run", **arguments)
    else:
        run, _, _ = run_small(tmp_path / "run", **arguments)
        assert run.is_done


def test_a_policy_that_is_not_ready_is_refused_at_the_start_and_when_its_parts_change(tmp_path):
    policy = Thawing()

    def refuse():
        raise UserError("not ready")

    def thaw(status):
        policy.second.requires_grad_(True)
        policy.require_ready = refuse

    with pytest.raises(UserError, match="not ready"):
        run_small(tmp_path / "later", policy=policy, progress=thaw)
    rows = RunDirectory.open(tmp_path / "later").read(records.METRICS)
    assert [row["iteration"] for row in rows] == [1]
    with pytest.raises(UserError, match="not ready"):
        run_small(tmp_path / "start", policy=policy)
    assert not RunDirectory.open(tmp_path / "start").last_checkpoint.exists()


def test_policy_is_in_evaluation_mode(tmp_path):
    policy = ToyPolicy()
    policy.train()
    run_small(tmp_path / "run", policy=policy, training=small_training(total_steps=32, evaluate_every=0))
    assert not policy.training


def test_total_steps_are_rounded_up_to_whole_rollouts(tmp_path):
    _, _, state = run_small(tmp_path / "run", training=small_training(total_steps=33))
    assert (state.iteration, state.step) == (2, 64)


def test_progress_is_reported(tmp_path):
    seen = []
    run_small(tmp_path / "run", progress=seen.append)
    assert [status.iteration for status in seen if status.evaluation is None] == [1, 2]
    assert len(seen) == 6 + 3
    assert seen[-1].seconds_left == 0.0
    assert seen[-1].step == seen[-1].total_steps == 192
    assert seen[-1].diagnostics["attention"] == [0.25, 0.75]
    assert seen[-1].return_mean is not None
    assert 0.0 <= seen[-1].evaluation["success_rate"] <= 1.0


def test_tensorboard_holds_what_jsonl_holds(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _, _ = run_small(tmp_path / "run", monitor=MonitorConfig())
    board = EventAccumulator(str(run.path / records.TENSORBOARD)).Reload()
    events = board.Scalars("train/policy_loss")
    rows = run.read(records.METRICS)
    assert [event.step for event in events] == [row["step"] for row in rows]
    assert [event.value for event in events] == pytest.approx([row["policy_loss"] for row in rows], rel=1e-5)
    assert len(board.Scalars("attention/all/attention/1")) == 6
    assert len(board.Scalars("evaluation/return_mean")) == 3


def test_settings_that_do_not_fit_are_user_errors(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "config\n", {})
    with pytest.raises(UserError, match=r"world has 5 colonies, ppo\.num_colonies is 4"):
        run_small(None, run=run, world=ToyWorld(5))
    with pytest.raises(UserError, match="no evaluation world"):
        run_small(None, run=run, evaluation_world=None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_follows_the_cpu_and_resumes(tmp_path, small):
    whole, _, _ = small
    worlds = {"world": ToyWorld(4, device="cuda"), "evaluation_world": ToyWorld(3, device="cuda")}
    first = small_training(total_steps=96)
    run, _, _ = run_small(tmp_path / "run", policy=ToyPolicy().cuda(), training=first, **worlds)
    run_small(None, run=run, policy=ToyPolicy(seed=3).cuda(), resume=True, **worlds)
    rows, expected = run.read(records.METRICS), whole.read(records.METRICS)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["reward_mean"] == pytest.approx(expected[0]["reward_mean"], abs=1e-4)
    assert rows[0]["policy_loss"] == pytest.approx(expected[0]["policy_loss"], abs=1e-3)
    assert rows[0]["device_memory_mb"] > 0
