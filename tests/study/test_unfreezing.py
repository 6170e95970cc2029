"""Unfreezing a model in the middle of a training: by hand, as the integration guide does it, and by schedule."""

import pytest
import torch

from durotaxis import records
from durotaxis.core.errors import UserError
from durotaxis.fusion import PTMConfig
from durotaxis.fusion.config import validated
from durotaxis.ppo import Interrupted, load
from durotaxis.study.run import prepare, prepare_resume

pytestmark = pytest.mark.unchecked

TINY = (
    "ppo.num_colonies=4",
    "ppo.rollout_steps=4",
    "training.total_steps=48",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "actor_critic.wsa_config.ptms=[{model_type: graph_cnn, tap: block1, freeze: true, seed: 1}, "
    "{model_type: graph_cnn, tap: block1, freeze: false}]",
)


@pytest.mark.parametrize(
    "source", [["actor_critic.image.source=field"], ["actor_critic.image.source=tokens"]], ids=str
)
@pytest.mark.parametrize("evaluated", [0, 16])
def test_setting_requires_grad_takes_effect_at_the_next_update(tmp_path, source, evaluated):
    settings = [f"training.evaluate_every={evaluated}", "training.evaluation_episodes=2", "env.max_steps=6"]
    job = prepare("quick", [*TINY, *source, *settings, f"run.directory={tmp_path / 'run'}"])
    backbone = job.policy.actor.feature_extractor.ptms[0].backbone
    start = [parameter.detach().clone() for parameter in backbone.parameters()]
    after_first = []

    def unfreeze(status):
        if status.iteration == 1 and status.evaluation is None:
            after_first.extend(p.detach().clone() for p in backbone.parameters())
            for parameter in backbone.parameters():
                parameter.requires_grad = True

    job.train(unfreeze)
    assert all(torch.equal(a, b) for a, b in zip(start, after_first, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(start, backbone.parameters(), strict=True))
    assert job.run.is_done


def test_a_run_can_be_taken_up_before_its_first_iteration_ends(tmp_path):
    from durotaxis.study.run import prepare_resume

    job = prepare("quick", [*TINY, f"run.directory={tmp_path / 'run'}"])

    def stop(status):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        job.train(stop)
    prepare_resume(tmp_path / "run").train()
    assert job.run.is_done


def scheduled(path, *overrides, second=""):
    """Four iterations of 16 steps; the first model is frozen and random, with BatchNorm."""
    ptms = (
        "[{model_type: resnet18_random, tap: layer1, seed: 1, name: late%s}, "
        "{model_type: graph_cnn, tap: block1, freeze: false, name: early}]"
    )
    return prepare(
        "quick",
        [
            *TINY[:-1],
            "training.total_steps=64",
            "ppo.target_kl=null",
            f"actor_critic.wsa_config.ptms={ptms % second}",
            *overrides,
            f"run.directory={path}",
        ],
    )


def timeless(run):
    files = (records.METRICS, records.EPISODES, records.ATTENTION)
    return {file: [records.without_wall_clock(file, row) for row in run.read(file)] for file in files}


def test_a_model_learns_from_its_moment_on(tmp_path):
    plain = scheduled(tmp_path / "plain")
    plain.train()
    job = scheduled(
        tmp_path / "run", "ppo.learning_rate_factors={'ptm:late': 0.1}", second=", unfreeze_at: 32"
    )
    ptm = job.policy.actor.extractor.ptms["late"]
    weights = [p.detach().clone() for p in ptm.backbone.parameters()]
    buffers = {k: v.clone() for k, v in ptm.backbone.named_buffers()}
    changed, kept = [], []

    def look(status):
        changed.append(
            [not torch.equal(a, b) for a, b in zip(weights, ptm.backbone.parameters(), strict=True)]
        )
        kept.append(job.policy._keepable)

    assert ptm.is_frozen
    assert job.policy.later_parts() == ["ptm:late"]
    job.train(look)
    assert [any(row) for row in changed] == [False, False, True, True]
    assert kept == [("late",), ("late",), (), ()]  # its outputs are kept no longer
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(value, buffers[name]) for name, value in ptm.backbone.named_buffers())
    rows = job.run.read(records.METRICS)
    assert ["gradient_norm/ptm:late" in row for row in rows] == [False, False, True, True]
    (event,) = job.run.read(records.EVENTS)
    assert (event["event"], event["name"], event["step"]) == ("learns", "ptm:late", 32)
    assert "0.1 times the learning rate" in event["message"]
    # Until then it is equal, to the bit, to a run without the schedule.
    mine, other = timeless(job.run), timeless(plain.run)
    for file in mine:
        until = [[row for row in each[file] if row["step"] <= 32] for each in (mine, other)]
        assert until[0] == until[1]
    assert mine[records.METRICS] != other[records.METRICS]
    groups = load(job.run.last_checkpoint).optimizer["param_groups"]
    assert {group["name"]: group["factor"] for group in groups}["ptm:late"] == 0.1
    assert groups[-1]["lr"] == pytest.approx(0.1 * groups[0]["lr"])


def test_the_baseline_unfreezes_its_backbone_too(tmp_path):
    backbone = "{model_type: graph_cnn, tap: block1, seed: 1, unfreeze_at: {episode: 1}}"
    job = prepare(
        "quick",
        [
            *TINY[:-1],
            "training.total_steps=64",
            "env.max_steps=6",
            "actor_critic.use_wsa=false",
            f"actor_critic.backbone={backbone}",
            f"run.directory={tmp_path / 'run'}",
        ],
    )
    job.train()
    (event,) = job.run.read(records.EVENTS)
    rows = job.run.read(records.METRICS)
    first = next(row["step"] for row in rows if row["episodes"] >= 1)
    assert (event["name"], event["step"]) == ("ptm:graph_cnn", first)


def test_unfrozen_by_hand_and_interrupted_it_learns_after_resuming(tmp_path):
    job = scheduled(tmp_path / "run")

    def unfreeze_and_stop(status):
        if status.iteration == 1:
            job.policy.actor.extractor.ptms["late"].backbone.requires_grad_(True)
        if status.iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        job.train(unfreeze_and_stop)
    resumed = prepare_resume(tmp_path / "run")
    resumed.train()
    rows = resumed.run.read(records.METRICS)
    assert ["gradient_norm/ptm:late" in row for row in rows] == [False, True, True, True]


def test_unfreezing_at_step_0_is_refused():
    with pytest.raises(UserError, match="0 lets the model learn from the start; set `freeze: false`"):
        validated(PTMConfig, model_type="resnet18_random", unfreeze_at=0)
