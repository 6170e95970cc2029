"""Unfreezing a model by hand, in the middle of a training, as the integration guide does it."""

import pytest
import torch

from durotaxis.study.run import prepare

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
def test_setting_requires_grad_takes_effect_at_the_next_update(tmp_path, source):
    job = prepare("quick", [*TINY, *source, f"run.directory={tmp_path / 'run'}"])
    backbone = job.policy.actor.feature_extractor.ptms[0].backbone
    start = [parameter.detach().clone() for parameter in backbone.parameters()]
    after_first = []

    def unfreeze(status):
        if status.iteration == 1:
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
