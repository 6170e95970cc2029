"""Every ready study runs, in a tiny form: one seed, one scenario or those it needs, two rollouts."""

from __future__ import annotations

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv
from durotaxis.records import FINISHED
from durotaxis.study import calibrate
from durotaxis.study.config import shipped_studies
from durotaxis.study.drive import run_study
from durotaxis.study.launchers import make_launcher
from durotaxis.study.plan import load_study
from durotaxis.study.study import Selection, open_study, require_arms

pytestmark = pytest.mark.unchecked

SHORT = (
    "seeds=[0]",
    "evaluation.episodes=2",
    "evaluation.probe_episodes=2",
    "overrides.training={total_steps: 32, evaluate_every: 0}",
    "overrides.ppo.num_colonies=4",
    "overrides.ppo.rollout_steps=4",
    "overrides.ppo.num_epochs=1",
    "overrides.ppo.num_minibatches=2",
    "overrides.env.max_steps=4",
    "overrides.env.max_nodes=30",
    "overrides.monitor.tensorboard=false",
    "overrides.encoder={num_layers: 1, hidden_dim: 16}",
)
OWN = {
    "pretrain-then-wsa": [
        f"arms.{arm}.{key}=16"
        for arm in ("baseline-taught", "taught")
        for key in ("start_from.steps", "overrides.training.total_steps")
    ],
    "ptm-curriculum": [
        f"arms.{arm}.overrides.actor_critic.wsa_config.ptms.{i}.{key}={value}"
        for arm in ("cnn-first", "gnn-first")
        for i in (1, 2)
        for key, value in (("enters_at", 16), ("ramp_steps", 0))
    ],
    "unfreeze": [
        f"arms.{arm}.overrides.actor_critic.wsa_config.ptms.0.unfreeze_at={step}"
        for arm, step in (("unfrozen", 16), ("learning", 1))
    ],
    "robustness": ["vary={ppo.learning_rate: [1e-3, 1e-4]}"],
}
SETTINGS = ("robustness",)
"""Studies whose scenarios are what they compare."""


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Statistics of random models from the first pictures of 32 colonies, repeated: good enough to run."""

    def first_observations(env, seed, device):
        world = DurotaxisEnv(env, calibrate.NUM_COLONIES, device)
        return [world.reset(torch.arange(calibrate.NUM_COLONIES))] * 16

    monkeypatch.setattr(calibrate, "random_observations", first_observations)
    monkeypatch.setattr("durotaxis.pretrain.distill.HELD_OUT_STEPS", 8)
    monkeypatch.setattr("durotaxis.study.distill.HELD_OUT_COLONIES", 4)


def run_tiny(name, folder, arms):
    study = load_study(name, [*SHORT, *OWN.get(name, [])])
    scenarios = None if name in SETTINGS else (study.settings[0].name,)
    state = open_study(study, folder, Selection(arms=arms, scenarios=scenarios))
    wanted = {run.key for run in state.left}
    state = run_study(state, make_launcher("inline", 1, 1))
    assert set(state.records) == wanted
    assert {record.status for record in state.records.values()} == {FINISHED}, state.failed
    return state


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_every_arm_of_a_ready_study_can_be_made_in_its_full_size(name):
    study = load_study(name, [])
    assert list(require_arms(study)) == list(study.config.arms)


def test_fusion_rules_have_as_many_parameters_as_wsa():
    """`concat` has wider heads; `projected_concat` has more by itself."""
    sizes = require_arms(load_study("fusion-methods", []))
    budget = 31_617  # of WSA between embeddings and R
    for arm in ("mean", "first", "dot-product", "paper"):
        assert abs(sizes[arm] - sizes["wsa"]) <= 0.01 * budget
    assert sizes["projected-concat"] - sizes["wsa"] == 49_280 - budget


def test_an_arm_that_cannot_be_made_is_named():
    unfit = "arms.projected-concat.overrides.actor_critic.wsa_config.match_parameters=true"
    with pytest.raises(UserError, match=r"^arm projected-concat: match_parameters: .* 49,280 parameters"):
        require_arms(load_study("fusion-methods", [unfit]))


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_ready_study_runs(tmp_path, name):
    """Its last arm, with those that it starts from."""
    *_, last = load_study(name, [*SHORT, *OWN.get(name, [])]).config.arms
    run_tiny(name, tmp_path, (last,))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_ready_study_runs_with_all_its_arms(tmp_path, name):
    run_tiny(name, tmp_path, None)
