"""Short trainings with every switch of memory and speed: the same records, and almost the same numbers."""

from shutil import which

import pytest
import torch

from durotaxis import records
from durotaxis.ppo import Interrupted
from durotaxis.study.run import prepare, prepare_resume

pytestmark = pytest.mark.unchecked

TINY = (
    "ppo.num_colonies=4",
    "ppo.rollout_steps=4",
    "ppo.num_epochs=2",
    "ppo.num_minibatches=2",
    "ppo.target_kl=null",
    "env.max_steps=6",
    "training.total_steps=32",
    "training.evaluate_every=32",
    "training.evaluation_episodes=2",
    "monitor.tensorboard=false",
    "encoder.num_layers=2",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.hidden_dims=[16, 8]",
    "actor_critic.wsa_config.ptms=[{model_type: graph_cnn, tap: block1, seed: 1, name: one}, "
    "{model_type: graph_cnn, tap: block1, seed: 2, name: two, freeze: false}, {model_type: graph_gnn, freeze: false}]",
)
SWITCHES = {
    "encoder checkpointing": "encoder.gradient_checkpointing=true",
    "backbone checkpointing": "actor_critic.gradient_checkpointing=true",
    "bfloat16": "actor_critic.precision=bfloat16",
    "microbatches": "ppo.microbatch_size=3",
    "compile": "actor_critic.compile=true",
}
NO_COMPILER = pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler")


def timeless(run, file):
    return [records.without_wall_clock(file, row) for row in run.read(file)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    job = prepare("quick", [*TINY, f"run.directory={tmp_path_factory.mktemp('plain') / 'run'}"])
    job.train()
    return job


@pytest.mark.parametrize(
    "switch",
    [pytest.param(s, marks=[pytest.mark.slow, NO_COMPILER] if s == "compile" else []) for s in SWITCHES],
)
def test_every_switch_trains_and_evaluates(tmp_path, plain, switch):
    """The first iteration learns the same; gradients add up in another order, so later ones drift apart."""
    job = prepare("quick", [*TINY, SWITCHES[switch], f"run.directory={tmp_path / 'run'}"])
    job.train()
    for file in (records.METRICS, records.EVALUATIONS, records.ATTENTION):
        rows, expected = timeless(job.run, file), timeless(plain.run, file)
        assert len(rows) == len(expected) > 0
        assert rows[0].keys() == expected[0].keys()
    assert all(bool(torch.isfinite(p).all()) for p in job.policy.parameters())
    assert job.policy.state_dict().keys() == plain.policy.state_dict().keys()
    first, expected = (timeless(run, records.METRICS)[0] for run in (job.run, plain.run))
    if switch == "bfloat16":
        assert 1e-5 < abs(first["value_loss"] - expected["value_loss"]) < 0.05 * abs(expected["value_loss"])
        return
    for key, value in expected.items():
        if isinstance(value, float):
            assert first[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_bfloat16_resumes_exactly(tmp_path):
    """What is kept of frozen models is computed again, in the same precision."""
    options = [*TINY, SWITCHES["bfloat16"], "training.evaluate_every=0"]
    whole, cut = (prepare("quick", [*options, f"run.directory={tmp_path / n}"]) for n in ("whole", "cut"))
    whole.train()

    def stop(status):
        if status.iteration == 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        cut.train(stop)
    resumed = prepare_resume(tmp_path / "cut")
    resumed.train()
    assert timeless(resumed.run, records.METRICS) == timeless(whole.run, records.METRICS)
