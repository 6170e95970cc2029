"""The curriculum: when stages end, what overlaps, and a training that goes through them."""

import dataclasses
import itertools
import math

import pytest
import torch
from toy import ToyPolicy, ToyWorld

from durotaxis import records
from durotaxis.core.config import ConfigError, build_config
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import uniform
from durotaxis.core.schedule import AfterEpisode, AtStage
from durotaxis.ppo import Interrupted, MonitorConfig, PPOConfig, TrainingConfig, train
from durotaxis.ppo.curriculum import (
    StageConfig,
    StageState,
    advance,
    count_episodes,
    earliest_beginnings,
    share_of_new,
    why_it_ends,
)
from durotaxis.records import RunDirectory

FILES = (records.METRICS, records.EPISODES, records.ATTENTION, records.EVALUATIONS, records.EVENTS)


def rows(stage, outcomes):
    return [{"stage": stage, "success": outcome} for outcome in outcomes]


def test_a_success_rate_counts_in_a_full_window_of_its_own_stage():
    first = StageConfig(name="a", success_rate=0.75, window=4, min_episodes=6)
    curriculum = (first, StageConfig(name="b"))
    state = count_episodes(StageState(), curriculum, rows("a", [True] * 5) + rows("b", [True] * 9))
    assert (state.finished, state.recent) == (5, (True,) * 4)
    assert advance(state, curriculum, 100) == (state, None)
    state = count_episodes(state, curriculum, rows("a", [False]))
    assert why_it_ends(state, first, 100) == "success rate 0.75 over 4 episodes"
    assert advance(state, curriculum, 100)[0] == StageState(1, 100)
    state = count_episodes(state, curriculum, rows("a", [False]))
    assert why_it_ends(state, first, 100) is None


def test_forced_ends_by_episodes_and_steps():
    stage = StageConfig(name="a", success_rate=1.0, window=10, max_episodes=20, max_steps=500)
    state = StageState(0, 1000, 19, (False,) * 10)
    assert why_it_ends(state, stage, 1499) is None
    assert why_it_ends(state, stage, 1500) == "500 steps"
    assert why_it_ends(dataclasses.replace(state, finished=20), stage, 1100) == "20 episodes"


def test_the_last_stage_never_ends():
    curriculum = (StageConfig(name="a", max_steps=1), StageConfig(name="b"))
    last = StageState(1, 5, 1000, (True,) * 100)
    assert advance(last, curriculum, 10**9) == (last, None)


def test_overlap_grows_linearly():
    stage = StageConfig(name="b", overlap_steps=100)
    state = StageState(1, 1000)
    shares = [share_of_new(state, stage, step, 20) for step in range(1000, 1140, 20)]
    assert shares == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.0])
    assert share_of_new(state, StageConfig(name="b"), 1000, 20) == 1.0


def test_steps_alone_tell_when_a_stage_can_begin():
    stages = [
        StageConfig(name="a", max_steps=100),
        StageConfig(name="b", max_steps=50, success_rate=0.5),
        StageConfig(name="c", max_steps=10),
        StageConfig(name="d"),
    ]
    assert earliest_beginnings(stages, 1) == [0, 100, 101, 111]
    assert earliest_beginnings(stages, 64) == [0, 128, 192, 256]
    assert earliest_beginnings([], 64) == []


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a"}, {"name": "b"}], "curriculum.0: stage 'a' can never advance; give it success_rate"),
        ([{"name": "a", "max_steps": 5}], "curriculum.0: stage 'a' is the last one"),
        ([{"name": "a", "max_steps": 5}, {"name": "a"}], r"curriculum\.1\.name: two stages are named 'a'"),
        ([{"name": "a", "overlap_steps": 5}], r"curriculum\.0\.overlap_steps: the first stage has none"),
        (
            [{"name": "a", "success_rate": 0.5, "max_episodes": 50}, {"name": "b"}],
            r"curriculum\.0\.window: 100 is above max_episodes \(50\): success_rate would never count",
        ),
        (
            [{"name": "a", "success_rate": 0.5, "window": 9, "min_episodes": 60, "max_episodes": 50}],
            r"min_episodes: 60 is above",
        ),
        ([{"name": "a", "window": 9, "max_steps": 5}, {"name": "b"}], "window: counts with `success_rate`"),
        ([{"name": "a", "success_rate": 1.5}, {"name": "b"}], "less than or equal to 1"),
        ([{"name": "a b", "max_steps": 5}, {"name": "b"}], "should match pattern"),
        ([{"name": "a", "max_step": 5}, {"name": "b"}], "did you mean 'max_steps'"),
    ],
)
def test_stages_that_cannot_be_are_refused(stages, message):
    with pytest.raises(ConfigError, match=message):
        build_config(TrainingConfig, {"curriculum": stages})


class StagedToy(ToyWorld):
    """Stages differ in their limit of steps. Which one an episode is of follows from its seed."""

    limits = (4, 6, 9)

    def __init__(self, num_colonies):
        super().__init__(num_colonies)
        self.stage, self.present = torch.zeros(num_colonies, dtype=torch.int64), (0, 1.0)
        self.told = []

    def begin_stage(self, stage, share=1.0):
        self.present = (stage, share)
        self.told.append(self.present)

    def drawn(self, seeds):
        stage, share = self.present
        return torch.where(uniform(seeds, 77) < share, stage, max(stage - 1, 0))

    def reset(self, seeds):
        self.stage = self.drawn(seeds)
        return super().reset(seeds)

    def reset_where(self, mask, seeds):
        self.stage = torch.where(mask, self.drawn(seeds), self.stage)
        return super().reset_where(mask, seeds)

    def step(self, action):
        self.limit = torch.tensor(self.limits)[self.stage]
        return super().step(action)

    def summary(self):
        return super().summary() | {"stage": self.stage}

    def state_dict(self):
        return super().state_dict() | {"stage": self.stage}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.stage = state["stage"]


class Killed(StagedToy):
    """Stops like Ctrl-C at one of its steps."""

    def __init__(self, num_colonies, at):
        super().__init__(num_colonies)
        self.left = at

    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().step(action)


PPO = PPOConfig(
    num_colonies=4,
    rollout_steps=8,
    num_epochs=1,
    num_minibatches=2,
    learning_rate={
        "start": 1e-3,
        "changes": [{"at": {"stage": "late"}, "value": 5e-4, "ramp_steps": 64}],
    },
    clip_range={"start": 0.2, "changes": [{"at": {"episode": 20}, "value": 0.1}]},
)
TRAINING = TrainingConfig(
    total_steps=14 * 32,
    evaluate_every=128,
    evaluation_episodes=3,
    checkpoint_every=32,
    curriculum=[
        {"name": "early", "max_episodes": 12},
        {"name": "middle", "max_steps": 96, "overlap_steps": 64},
        {"name": "late"},
    ],
)
MOMENTS = (AtStage(stage="late"), AfterEpisode(episode=20))


def run_toy(run, world, *, resume=False, seed=0):
    policy = ToyPolicy(seed)
    state = train(
        world,
        policy,
        run=run,
        seed=11,
        ppo=PPO,
        training=TRAINING,
        monitor=MonitorConfig(tensorboard=False),
        evaluation_world=ToyWorld(3),
        moments=MOMENTS,
        resume=resume,
    )
    return policy, state


def timeless(run):
    return {file: [records.without_wall_clock(file, row) for row in run.read(file)] for file in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = RunDirectory.create(tmp_path_factory.mktemp("whole") / "run", "config\n", {})
    world = StagedToy(4)
    policy, state = run_toy(run, world)
    return run, world, policy, state


def test_stages_follow_each_other_and_are_recorded(whole):
    run, world, _, state = whole
    metrics, episodes = run.read(records.METRICS), run.read(records.EPISODES)
    stages = [row["stage"] for row in metrics]
    assert list(dict.fromkeys(stages)) == ["early", "middle", "late"]
    began = {event["name"]: event for event in run.read(records.EVENTS) if event["event"] == "stage"}
    assert list(began) == ["early", "middle", "late"]
    assert began["early"]["message"] == "begins, the first stage"
    assert "episodes of early" in began["middle"]["message"]
    assert began["late"]["message"] == "begins, after 96 steps of middle"
    assert began["late"]["step"] - began["middle"]["step"] == 96
    finished = sum(row["stage"] == "early" for row in episodes if row["step"] <= began["middle"]["step"])
    assert finished >= 12
    assert state.stage.index == 2
    assert state.reached == {f"stage {name}": began[name]["step"] for name in began} | {
        "episode 20": state.reached["episode 20"]
    }
    assert all(records.unknown_columns(records.EVENTS, row) == [] for row in began.values())
    assert {row["stage"] for row in run.read(records.ATTENTION)} == {"early", "middle", "late"}
    # An episode is as long as the stage it began in allows.
    longest = {"early": 4, "middle": 6, "late": 9}
    assert all(row["length"] <= longest[row["stage"]] for row in episodes)
    assert any(row["length"] == 9 for row in episodes)
    shares = [row["stage_share"] for row in metrics if row["stage"] == "middle"]
    assert shares == pytest.approx([0.25, 0.75, 1.0])
    in_overlap = [row for row in episodes if row["iteration"] == began["middle"]["iteration"]]
    assert {"early", "middle"} >= {row["stage"] for row in in_overlap}
    assert world.told[0] == (0, 1.0)


def test_numbers_follow_stages_and_episodes(whole):
    run, _, _, state = whole
    began, changed = state.reached["stage late"], state.reached["episode 20"]
    counts = [row["episodes"] for row in run.read(records.METRICS)]
    assert changed == 32 * (next(i for i, count in enumerate(counts) if count >= 20) + 1)
    for row in run.read(records.METRICS):
        at = row["step"] - 32  # when its rollout began
        passed = min(max(at - began, 0), 64)
        assert row["learning_rate"] == pytest.approx(1e-3 - 5e-4 * passed / 64)
        assert row["clip_range"] == (0.1 if at >= changed else 0.2)


@pytest.mark.parametrize("at", [3, 30, 50, 61, 90])
def test_interrupted_anywhere_it_resumes_exactly(tmp_path, whole, at):
    expected, _, policy_1, state_1 = whole
    run = RunDirectory.create(tmp_path / "run", "config\n", {})
    with pytest.raises(Interrupted):
        run_toy(run, Killed(4, at))
    policy_2, state_2 = run_toy(run, StagedToy(4), resume=True, seed=5)
    assert timeless(run) == timeless(expected)
    assert all(map(torch.equal, policy_1.state_dict().values(), policy_2.state_dict().values()))
    assert (state_1.stage, dict(state_1.reached)) == (state_2.stage, dict(state_2.reached))


def test_until_a_transition_a_schedule_changes_nothing(tmp_path, whole):
    """Bit for bit the same rows as without the schedule, up to the iteration in which it moves."""
    expected, _, _, state = whole
    plain = PPO.model_copy(update={"learning_rate": 1e-3, "clip_range": 0.2})
    run = RunDirectory.create(tmp_path / "run", "config\n", {})
    train(
        StagedToy(4),
        ToyPolicy(),
        run=run,
        seed=11,
        ppo=plain,
        training=TRAINING,
        monitor=MonitorConfig(tensorboard=False),
        evaluation_world=ToyWorld(3),
    )
    first = min(state.reached["stage late"], state.reached["episode 20"])
    pairs = list(zip(timeless(run)[records.METRICS], timeless(expected)[records.METRICS], strict=True))
    until = [(a, b) for a, b in pairs if a["step"] <= first]
    assert len(until) >= 3
    assert all(a == b for a, b in until)
    assert any(not math.isclose(a["kl"], b["kl"]) for a, b in pairs[len(until) :])


def test_a_world_without_stages_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "config\n", {})
    with pytest.raises(UserError, match=r"curriculum needs a world with stages"):
        run_toy(run, ToyWorld(4))
    assert not run.last_checkpoint.exists()


def test_events_stand_in_order(whole):
    steps = [row["step"] for row in whole[0].read(records.EVENTS)]
    assert all(a <= b for a, b in itertools.pairwise(steps))
