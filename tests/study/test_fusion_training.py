"""Fusion rules, schedules and model dropout in real trainings of a small agent."""

import pytest
import torch

from durotaxis import records
from durotaxis.agent import ActionSample, PTMFeatures
from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, Observation
from durotaxis.env.reward import TERMS
from durotaxis.fusion import RULES
from durotaxis.ppo import Interrupted, NonFiniteError, collect, load, load_failure, save_failure, start
from durotaxis.records import RunDirectory
from durotaxis.study.evaluation import open_run
from durotaxis.study.run import prepare, prepare_resume

pytestmark = pytest.mark.unchecked

PTMS = (
    "{model_type: graph_cnn, tap: block1, seed: 1, name: one}, "
    "{model_type: graph_cnn, tap: block1, seed: 2, name: two, freeze: false}, "
    "{model_type: graph_cnn, tap: block1, seed: 3, name: late%s}"
)
TINY = (
    "ppo.num_colonies=4",
    "ppo.rollout_steps=4",
    "ppo.num_epochs=2",
    "ppo.num_minibatches=2",
    "ppo.target_kl=null",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=16",
    "encoder.simplicial.groups=4",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.hidden_dims=[16, 8]",
)


def job(path, *overrides, late="", iterations=2):
    ptms = f"actor_critic.wsa_config.ptms=[{PTMS % late}]"
    total = f"training.total_steps={16 * iterations}"
    return prepare("quick", [*TINY, ptms, total, *overrides, f"run.directory={path}"])


def wsa(**options):
    return [f"actor_critic.wsa_config.{key}={value}" for key, value in options.items()]


@pytest.mark.parametrize("fusion", sorted(RULES))
def test_every_rule_trains(tmp_path, fusion):
    training = job(tmp_path / "run", *wsa(fusion=fusion), "actor_critic.image.readout=pooled")
    extractor = training.policy.actor.extractor
    if (
        fusion == "paper"
    ):  # scores of both signs: if all are below 0 it has no gradient, if all above no context
        torch.manual_seed(0)
        torch.nn.init.normal_(extractor.fusion.scorer.weight)
    before = {name: p.detach().clone() for name, p in extractor.named_parameters() if p.requires_grad}
    training.train()
    rows = training.run.read(records.METRICS)
    assert len(rows) == 2
    assert all(row["ratio_error"] < 1e-4 for row in rows)
    assert all(row["minibatches"] == 4 for row in rows)
    assert all(bool(torch.isfinite(p).all()) for p in training.policy.parameters())
    still = [
        name for name, p in extractor.named_parameters() if name in before and torch.equal(p, before[name])
    ]
    # Not read by `first`; and a bias that all scores share changes no softmax.
    unread = ("ptms.two.", "ptms.late.") if fusion == "first" else ("fusion.output_layer.bias",)
    assert [name for name in still if not name.startswith(unread)] == []


def test_a_useless_model_trains_beside_a_useful_one(tmp_path):
    """Its features are the same in rollout and update: ratios are 1 at first, and a resumed run goes on."""
    ptms = "actor_critic.wsa_config.ptms=[{model_type: noise}, {model_type: graph_cnn, tap: block1, freeze: false}]"
    options = [*TINY, ptms, "training.total_steps=32"]
    whole, cut = (prepare("quick", [*options, f"run.directory={tmp_path / n}"]) for n in ("whole", "cut"))
    whole.train()
    rows = whole.run.read(records.METRICS)
    assert all(row["ratio_error"] < 1e-4 for row in rows)
    assert whole.run.read(records.ATTENTION)[-1]["value/ptm_names"] == ["noise", "graph_cnn"]

    def stop(status):
        if status.iteration == 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        cut.train(stop)
    prepare_resume(tmp_path / "cut").train()
    resumed = RunDirectory(tmp_path / "cut").read(records.METRICS)
    assert [row["policy_loss"] for row in resumed] == [row["policy_loss"] for row in rows]


def test_values_of_terms_in_their_own_scale_train(tmp_path):
    overrides = ["actor_critic.value_heads=terms", "ppo.normalize_value=true", *wsa(fusion="mean")]
    training = job(tmp_path / "run", *overrides, "actor_critic.image.readout=pooled")
    assert training.policy.value_names == tuple(TERMS)
    training.train()
    for row in training.run.read(records.METRICS):
        assert {f"explained_variance/{name}" for name in TERMS} < row.keys()
        assert row["explained_variance/recovery"] is None or row["explained_variance/recovery"] <= 1.0
    head = open_run(tmp_path / "run").policy.value_head
    effort, survival = list(TERMS).index("effort"), list(TERMS).index("survival")
    assert int(head.updates[effort]) == 2
    assert float(head.std[effort]) > float(head.std[survival])
    assert bool(torch.isfinite(head.weight).all())


def test_a_poisoned_actor_is_named_and_seen_again_in_its_file(tmp_path):
    """Not in the observation that its NaN would have led to."""
    training = job(tmp_path / "run", *wsa(fusion="mean"), "actor_critic.image.readout=pooled")
    policy, config = training.policy, training.config
    with torch.no_grad():
        policy.actor.heads.discrete_head.weight[0, 0] = torch.nan
    world = DurotaxisEnv(config.env, 4, validate=False)
    with pytest.raises(NonFiniteError, match="log_prob holds nan") as caught:
        collect(world, policy, start(world, policy, 1), 2, 1)
    failure = load_failure(save_failure(tmp_path / "failure.pt", caught.value, policy, 1, 1))
    fresh = job(tmp_path / "other", *wsa(fusion="mean"), "actor_critic.image.readout=pooled").policy
    fresh.load_state_dict(failure.model)
    seen = failure.evidence
    distribution, _ = fresh(Observation.from_dict(seen["before"]), PTMFeatures.from_dict(seen["cached"]))
    again = distribution.log_prob(ActionSample.from_dict(seen["sample"]))
    assert torch.equal(again.isnan(), seen["log_prob"].isnan())
    assert again.isnan().any()


SCHEDULED = wsa(
    model_dropout=0.4,
    attention_entropy_coefficient=0.1,
    attention_balance_coefficient=0.1,
    attention_temperature="{start: 2.0, end: 0.5, steps: 64}",
    num_heads=2,
)
LATE = ", enters_at: 20, ramp_steps: 40"  # in the third of five iterations


def timeless(run):
    files = (records.METRICS, records.EPISODES, records.ATTENTION)
    return {file: [records.without_wall_clock(file, row) for row in run.read(file)] for file in files}


def test_schedules_and_model_dropout_resume_exactly(tmp_path):
    whole = job(tmp_path / "whole", *SCHEDULED, "training.checkpoint_every=1", late=LATE, iterations=5)
    gates, temperatures, kept = [], [], {}

    def look(status):
        extractor = whole.policy.actor.extractor
        gates.append(extractor.gates.tolist())
        temperatures.append(extractor.fusion.temperature)
        kept[status.iteration] = {k: v.clone() for k, v in whole.policy.state_dict().items()}

    whole.train(look)
    late = [0.0, 0.0, 1e-3 ** (1 - 12 / 40), 1e-3 ** (1 - 28 / 40), 1e-3 ** (1 - 44 / 40)]
    late[4] = 1.0
    assert [row[2] for row in gates] == pytest.approx(late)
    assert all(row[:2] == [1.0, 1.0] for row in gates)
    recorded = [row for row in whole.run.read(records.ATTENTION) if row["phase"] == "all"]
    assert [row["value/gates"] for row in recorded] == gates
    assert temperatures == pytest.approx([2.0 * 0.25 ** (16 * i / 64) for i in range(5)])
    rows = whole.run.read(records.METRICS)
    assert all(row["ratio_error"] < 1e-4 for row in rows)
    assert all(row["penalty"] > 0 for row in rows)

    for cut_at in (2, 3):
        cut = job(tmp_path / f"cut{cut_at}", *SCHEDULED, late=LATE, iterations=5)

        def stop(status, cut_at=cut_at):
            if status.iteration == cut_at:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted):
            cut.train(stop)
        resumed = prepare_resume(tmp_path / f"cut{cut_at}")
        resumed.train()
        assert timeless(resumed.run) == timeless(whole.run)
        mine, theirs = resumed.policy.state_dict(), whole.policy.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    # A checkpoint is evaluated with its own gates and temperature, whatever the last ones of the run were.
    candidate = open_run(tmp_path / "cut2" / "checkpoints" / "last.pt")
    assert candidate.policy.actor.extractor.gates.tolist() == pytest.approx([1.0, 1.0, 1.0])
    checkpoint = load(RunDirectory.open(tmp_path / "whole").last_checkpoint)
    earlier = {**checkpoint.model, **kept[3]}
    candidate.policy.load_state_dict(earlier)
    assert candidate.policy.actor.extractor.gates.tolist() == pytest.approx(gates[2])
    assert candidate.policy.actor.extractor.fusion.temperature == pytest.approx(temperatures[2])


def test_model_dropout_changes_a_training_and_repeats_itself(tmp_path):
    dropped = job(tmp_path / "a", *wsa(model_dropout=0.4))
    dropped.train()
    again = job(tmp_path / "b", *wsa(model_dropout=0.4))
    again.train()
    without = job(tmp_path / "c")
    without.train()
    assert timeless(dropped.run) == timeless(again.run)
    assert timeless(dropped.run) != timeless(without.run)
    assert all(row["ratio_error"] < 1e-4 for row in dropped.run.read(records.METRICS))


def test_a_coefficient_spreads_attention_in_training(tmp_path):
    """From the same sharp start: with the penalty attention spreads, and more than without."""

    def entropy(path, coefficient):
        training = job(
            tmp_path / path,
            *wsa(attention_entropy_coefficient=coefficient),
            "ppo.learning_rate=3e-3",
            iterations=3,
        )
        generator = torch.Generator().manual_seed(0)
        last = training.policy.actor.extractor.fusion.output_layer.weight
        with torch.no_grad():
            last.copy_(torch.randn(last.shape, generator=generator) * 3)
        training.train()
        return [
            row["value/attention_entropy"]
            for row in training.run.read(records.ATTENTION)
            if row["phase"] == "all"
        ]

    with_penalty, without = entropy("a", 1.0), entropy("b", 0.0)
    assert with_penalty[-1] > with_penalty[0]
    assert with_penalty[-1] > without[-1] + 0.02


def test_a_gate_closed_by_hand_takes_effect_at_the_next_rollout(tmp_path):
    training = job(tmp_path / "run", iterations=3)
    seen = []

    def close(status):
        seen.append(status.diagnostics["attention"][0])
        training.policy.actor.extractor.set_gate("one", 0.0)

    training.train(close)
    assert seen[0] > 0.2
    assert seen[1:] == [0.0, 0.0]
    assert training.run.is_done


def test_a_model_added_by_hand_learns_from_the_next_iteration(tmp_path):
    training = job(tmp_path / "run", iterations=3)
    added = []

    def add(status):
        if status.iteration == 1:
            ptm = training.policy.actor.extractor.add_ptm(
                {"model_type": "graph_cnn", "tap": "block1", "name": "new"}
            )
            added.append((ptm, ptm.projection.weight.detach().clone()))

    training.train(add)
    ptm, start = added[0]
    assert not torch.equal(ptm.projection.weight, start)
    assert [
        len(row["value/attention"]) for row in training.run.read(records.ATTENTION) if row["phase"] == "all"
    ] == [
        3,
        4,
        4,
    ]


def test_a_cache_over_its_budget_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(
        UserError, match=r"cache_budget_mb is 0.1, but .* 16 observations keeps 1.18 MB .*\(one"
    ):
        job(tmp_path / "run", "actor_critic.cache_budget_mb=0.1")
    assert not (tmp_path / "run").exists()
