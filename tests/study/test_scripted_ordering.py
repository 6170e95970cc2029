"""The default reward ranks honest migration above every way of cheating, and every scenario can be solved."""

from __future__ import annotations

import math

import pytest
import torch

from durotaxis.agent.scripted import SCRIPTED
from durotaxis.core.randomness import uniform
from durotaxis.env import (
    SCENARIOS,
    Action,
    Colony,
    EnvConfig,
    Reason,
    Substrate,
    outcome,
    reset,
    total_reward,
)
from durotaxis.env.substrate import coordinates
from durotaxis.study.score import NORMALISERS, play, scenario_scores, score_scenario

pytestmark = pytest.mark.unchecked

GROUNDS = ("linear", "exponential", "random")
NUM_SEEDS = 16


def _returns(policy, grounds=GROUNDS) -> torch.Tensor:
    """Undiscounted returns [len(grounds), NUM_SEEDS]; all substrates share one batch."""
    config = EnvConfig(scenario="linear")
    seeds = torch.arange(NUM_SEEDS) + 300
    starts = [reset(EnvConfig(scenario=name), seeds) for name in grounds]
    colony = Colony.cat([start[0] for start in starts])
    substrate = Substrate.cat([start[1] for start in starts])
    total = torch.zeros(len(colony.seed), dtype=torch.float64)
    running = torch.ones(len(colony.seed), dtype=torch.bool)
    for _ in range(config.max_steps):
        colony, terms, reason = outcome(colony, policy(colony, substrate, config), substrate, config)
        total += torch.where(running, total_reward(terms).double(), 0.0)
        running &= reason == Reason.RUNNING
        if not running.any():
            break
    return total.view(len(grounds), NUM_SEEDS)


@pytest.fixture(scope="module")
def scripted_returns() -> dict[str, torch.Tensor]:
    return {name: _returns(policy) for name, policy in SCRIPTED.items()}


def _lead(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How many standard errors the mean of `first` lies above that of `second`, per ground."""
    error = ((first.var(1) + second.var(1)) / NUM_SEEDS).sqrt().clamp_min(1e-9)
    return (first.mean(1) - second.mean(1)) / error


@pytest.mark.parametrize("name", [name for name in SCRIPTED if name != "delete-left"])
def test_delete_left_beats_every_other_policy_by_five_standard_errors(scripted_returns, name):
    assert (_lead(scripted_returns["delete-left"], scripted_returns[name]) > 5).all()


@pytest.mark.parametrize("name", ["churn", "churn-young"])
def test_churning_earns_nothing_over_idling(scripted_returns, name):
    assert (scripted_returns[name] <= scripted_returns["idle"]).all()


def test_idling_earns_exactly_nothing(scripted_returns):
    assert (scripted_returns["idle"] == 0).all()


def steer_over_the_bridge(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    """delete-left with sight: the nodes best placed towards the bridge go on, aiming at it, then ahead."""
    s, t = coordinates(colony.position, substrate)
    near, far = substrate.moat.first[:, None], substrate.moat.last[:, None]
    bridge = substrate.moat.bridges[:, :1] if substrate.moat.bridges.shape[1] else t.mean(1, keepdim=True)
    waypoint = torch.where(s < near - 3, near - 3, far)
    angle = torch.atan2(torch.where(s < far, bridge - t, 0.0), (waypoint - s).clamp_min(2.0))
    distance = torch.where(
        s < near - 3, (near - 3 - s).hypot(bridge - t) + 1e4, torch.where(s < far, far - s, s - 1e4)
    )
    distance = torch.where(s >= far, -s, distance)
    rank = torch.where(colony.alive, distance, torch.inf).argsort(1).argsort(1)
    spawning = colony.alive & (rank < 3)
    deleting = colony.alive & (rank >= 10)
    parameters = torch.tensor([10.0, 2.0, 0.0, 0.0]).repeat(*s.shape, 1)
    parameters[..., 3] = angle
    return Action(torch.where(spawning, 1, torch.where(deleting, 2, 0)), parameters)


OBSTACLES = ("stripes", "patches", "moat")


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("full", *OBSTACLES)])
def test_the_goal_is_reached_on_every_open_scenario(name):
    episodes = play(SCRIPTED["delete-left"], EnvConfig(scenario=name), torch.arange(8))
    assert episodes.success.all()


def test_the_goal_of_the_full_scenario_is_reached():
    config = EnvConfig(scenario="full", critical_nodes=20, max_nodes=60)
    assert play(SCRIPTED["delete-left"], config, torch.arange(2)).success.all()


def test_the_goal_behind_the_moat_is_reached_over_the_bridge():
    assert play(steer_over_the_bridge, EnvConfig(scenario="moat"), torch.arange(16)).success.all()


def test_quick_takes_at_least_22_noiseless_spawns():
    x, spawns = 20.0, 0
    while x < 198.0:
        x += 10.0 / (1.0 + (2.0 / (1.0 + 0.05 * x)) ** 2)
        spawns += 1
    assert spawns >= 22
    shortest = play(SCRIPTED["delete-left"], EnvConfig(scenario="quick"), torch.arange(8)).length.min()
    assert shortest >= spawns


def test_delete_left_which_is_blind_is_stopped_by_obstacles():
    """Always by stripes, mostly by patches and the moat; and not because it dies or drifts."""
    for name, most in (("stripes", 0.0), ("patches", 0.3), ("moat", 0.5)):
        episodes = play(SCRIPTED["delete-left"], EnvConfig(scenario=name), torch.arange(60))
        assert episodes.success.double().mean() <= most, name
        assert (episodes.reason[~episodes.success] == Reason.MAX_STEPS).all()
        assert episodes.front_progress.max() > 0.4


def _blind_forward_with_full_noise(colony: Colony, substrate: Substrate, config: EnvConfig) -> Action:
    action = SCRIPTED["delete-left"](colony, substrate, config)
    eager = uniform(colony.seed[:, None], 99, colony.step[:, None], colony.node_id) < 0.2
    kind = torch.where(colony.alive & eager & (action.kind == 0), 1, action.kind)
    parameters = action.parameters.clone()
    parameters[..., 2] = config.spawn_bounds.noise[1]
    return Action(kind, parameters)


def test_noise_does_not_carry_a_blind_colony_through_the_moat():
    config = EnvConfig(scenario="moat", substrate={"moat": {"num_bridges": 0}})
    episodes = play(_blind_forward_with_full_noise, config, torch.arange(40))
    assert episodes.success.double().mean() < 0.05
    assert (episodes.reason == Reason.MAX_STEPS).any()


def test_scores_are_remade_from_the_same_seeds():
    first = score_scenario("linear", num_seeds=4, policies=["delete-left"])
    second = score_scenario("linear", num_seeds=4, policies=["delete-left"])
    assert first == second
    assert math.isclose(first["delete-left"]["success_rate"], 1.0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_package_holds_constants_of_every_scenario(name):
    scores = scenario_scores(EnvConfig(scenario=name))
    random, reference = (scores[policy] for policy in NORMALISERS)
    assert set(scores) == set(SCRIPTED)
    assert {row["episodes"] for row in scores.values()} == {1000}
    assert random["return_mean"] < reference["return_mean"]


def test_the_constants_are_those_of_the_present_world():
    """A fresh hundred episodes agree with the constants within 5 standard errors."""
    fresh = score_scenario("quick", num_seeds=100, policies=NORMALISERS)
    for policy in NORMALISERS:
        kept = scenario_scores(EnvConfig(scenario="quick"))[policy]
        error = math.hypot(kept["return_se"], fresh[policy]["return_se"])
        assert abs(kept["return_mean"] - fresh[policy]["return_mean"]) < 5 * error


def test_a_changed_world_has_no_constants():
    assert scenario_scores(EnvConfig(scenario="quick", max_steps=199)) is None
    assert scenario_scores(EnvConfig(scenario="quick", observation={"field": True})) is not None
