"""`WSAModule` as a TensorDict module: keys, batch shapes, gradients, and PPO's loss over it."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.modules import ActorValueOperator, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss

from durotaxis.core.errors import UserError
from durotaxis.core.schedule import AtStage, Clock, moment_key
from durotaxis.integrations import WSAModule

PTMS = [
    {"model_type": "graph_cnn", "tap": "block1"},
    {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
]


def module(ptms=PTMS, **options):
    torch.manual_seed(0)
    return WSAModule((3, 12, 12), embedding_dim=8, context_dim=4, ptms=ptms, **options)


def test_it_reads_and_writes_its_keys_for_any_batch_shape():
    wsa = module(
        image_key=("agent", "eye"), context_key="state", context_width=5, out_keys=["R", ("info", "w")]
    )
    assert wsa.in_keys == [("agent", "eye"), "state"]
    data = TensorDict({("agent", "eye"): torch.rand(2, 4, 3, 12, 12), "state": torch.rand(2, 4, 5)}, [2, 4])
    out = wsa(data.clone())
    assert out["R"].shape == (2, 4, 8)
    assert out["info", "w"].shape == (2, 4, 2)
    flat = wsa(data.reshape(8))
    torch.testing.assert_close(flat["R"].view(2, 4, 8), out["R"])
    torch.testing.assert_close(wsa(data[1, 2])["R"], out["R"][1, 2])
    expected = wsa.fusion.extractor(data["agent", "eye"].flatten(0, 1), data["state"].flatten(0, 1))
    torch.testing.assert_close(flat["R"], expected)


def test_bytes_are_scaled():
    wsa = module()
    pixels = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    one, two = (wsa(TensorDict({"pixels": value}, [2])) for value in (pixels, pixels / 255))
    torch.testing.assert_close(one["representation"], two["representation"])


def test_a_context_key_and_its_width_belong_together():
    for options in ({"context_key": "state"}, {"context_width": 3}):
        with pytest.raises(UserError, match="give both or none"):
            module(**options)


def agent_on(wsa):
    """Actor and critic, and observations in which the actor has acted."""
    head = nn.Sequential(nn.Linear(8, 4), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(head, ["representation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    agent = ActorValueOperator(wsa, actor, ValueOperator(nn.Linear(8, 1), in_keys=["representation"]))
    data = TensorDict({"pixels": torch.rand(6, 3, 12, 12)}, [6])
    with torch.no_grad():
        agent.get_policy_operator()(data)
    data["advantage"], data["value_target"] = torch.randn(6, 1), torch.randn(6, 1)
    return agent, data


def backward(loss, data):
    losses = loss(data.clone())
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    return losses


def test_ppo_repeats_its_probabilities_in_train_mode_and_leaves_frozen_models_alone():
    wsa = module()
    agent, data = agent_on(wsa)
    loss = ClipPPOLoss(agent.get_policy_operator(), agent.get_value_operator())
    loss.train()
    frozen = wsa.fusion.extractor.frozen_hash()
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.01)
    losses = backward(loss, data)
    torch.testing.assert_close(losses["kl_approx"], torch.zeros_like(losses["kl_approx"]), atol=1e-6, rtol=0)
    extractor = wsa.fusion.extractor
    trained = [*extractor.parameters(), *wsa.fusion.picture_context.parameters()]
    assert all(p.grad is not None for p in trained if p.requires_grad)
    assert not any(p.grad is not None for p in extractor.ptms[0].backbone.parameters())
    optimizer.step()
    assert extractor.frozen_hash() == frozen
    assert float(loss(data.clone())["kl_approx"].abs()) > 1e-6


@pytest.mark.parametrize("moment", [16, AtStage(stage="second")])
def test_a_model_that_thaws_learns_from_then_on(moment):
    wsa = module([PTMS[1], {**PTMS[0], "unfreeze_at": moment}])
    agent, data = agent_on(wsa)
    loss = ClipPPOLoss(agent.get_policy_operator(), agent.get_value_operator())
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.01)
    backbone = wsa.fusion.extractor.ptms[1].backbone
    before = [p.clone() for p in backbone.parameters()]
    reached = {} if isinstance(moment, int) else {moment_key(moment): 16}
    moved = []
    for step in (0, 8, 16):
        wsa.fusion.follow_schedules(Clock(step, reached=reached))
        optimizer.zero_grad()
        backward(loss, data)
        optimizer.step()
        moved.append(
            any(not torch.equal(p, old) for p, old in zip(backbone.parameters(), before, strict=True))
        )
    assert moved == [False, False, True]
