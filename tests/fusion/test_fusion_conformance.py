"""`check_fusion` passes on the rules of the package, and names what is wrong with broken ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    FusionConformanceError,
    MeanFusion,
    MultiPTMFeatureExtractor,
    WeightSharingAttention,
    check_extractor,
    check_fusion,
)
from durotaxis.fusion.backbones import Backbone
from durotaxis.fusion.conformance import OPTIONAL, PROPERTIES

C, D = 5, 8
SIZES = {"context_dim": C, "embedding_dim": D}


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightSharingAttention(D, C),
        lambda: WeightSharingAttention(D, C, 0.3, num_heads=4, learn_temperature=True),
        MeanFusion,
    ],
)
def test_the_rules_of_the_package_conform(make):
    torch.manual_seed(0)
    module = make()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert check_fusion(module, **SIZES, also=["scale"]) == [*PROPERTIES, *OPTIONAL]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


class Plain(nn.Module):
    """A correct rule in a few lines, its scores far from 0; a test breaks one thing of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.scorer = nn.Sequential(nn.Linear(C + D, 16), nn.Tanh(), nn.Linear(16, 1))

    def score(self, context, embeddings):
        rows = context[:, None].expand(-1, embeddings.shape[1], -1)
        return self.scorer(torch.cat([rows, embeddings], -1))[..., 0]

    def weigh(self, scores, gates):
        if gates is not None:
            if gates.shape[-1] != scores.shape[1] or not bool((gates > 0).any(-1).all()):
                raise UserError("gates")
            scores = scores + gates.log()
        return scores.softmax(1)

    def forward(self, context, embeddings, gates=None):
        attention = self.weigh(self.score(context, embeddings), gates)
        return torch.einsum("rk,rkd->rd", attention, embeddings), attention


def test_a_strangers_rule_conforms():
    assert check_fusion(Plain(), **SIZES) == list(PROPERTIES)


def test_a_plain_function_conforms():
    """Its softmax has no context, so no gradient reaches one."""

    def rule(context, embeddings, gates=None):
        return Plain.forward(fixed, context, embeddings, gates)

    fixed = Plain()
    assert check_fusion(rule, **SIZES) == list(PROPERTIES)


class SingleTensor(Plain):
    def forward(self, context, embeddings, gates=None):
        return super().forward(context, embeddings, gates)[0]


class Doubles(Plain):
    def forward(self, context, embeddings, gates=None):
        return tuple(part.double() for part in super().forward(context, embeddings, gates))


class ExplodingScores(Plain):
    """A softmax without subtraction of the maximum: overflows."""

    def weigh(self, scores, gates):
        super().weigh(scores, gates)
        odds = scores.exp() * (1 if gates is None else gates)
        return odds / odds.sum(1, keepdim=True)

    def score(self, context, embeddings):
        return 0.01 * embeddings.abs().mean(-1) + super().score(context, embeddings)


class UnsummedGates(Plain):
    def weigh(self, scores, gates):
        super().weigh(scores, gates)
        return scores.softmax(1) * (1 if gates is None else gates)


class SoftmaxOverRows(Plain):
    def weigh(self, scores, gates):
        odds = super().weigh(scores, gates) * scores.softmax(0)
        return odds / odds.sum(1, keepdim=True)


class Ranked(Plain):
    def score(self, context, embeddings):
        return super().score(context, embeddings) + torch.arange(embeddings.shape[1])


class ThreeOnly(Plain):
    def __init__(self):
        super().__init__()
        self.bias = nn.Linear(C, 3)

    def score(self, context, embeddings):
        return super().score(context, embeddings) + self.bias(context).mean(1, True) + torch.zeros(3)


class Deaf(Plain):
    def weigh(self, scores, gates):
        super().weigh(scores, gates)
        return scores.softmax(1)


class OneRowForAll(Plain):
    def weigh(self, scores, gates):
        return super().weigh(scores, gates if gates is None or gates.dim() == 1 else gates[0])


class AlmostClosed(Plain):
    def weigh(self, scores, gates):
        super().weigh(scores, gates)
        return (scores if gates is None else scores + gates.clamp_min(1e-4).log()).softmax(1)


class Jumping(Plain):
    def weigh(self, scores, gates):
        super().weigh(scores, gates)
        return super().weigh(
            scores, None if gates is None else torch.where(gates > 0, gates.sqrt().sqrt(), 0)
        )


class Permissive(Plain):
    def weigh(self, scores, gates):
        scores = scores if gates is None else scores + gates.log()
        return scores.softmax(1).nan_to_num(1 / scores.shape[1])


class Detached(Plain):
    def weigh(self, scores, gates):
        return super().weigh(scores, gates).detach()


class DetachedModel(Plain):
    def forward(self, context, embeddings, gates=None):
        first = embeddings[:, :1].detach()
        return super().forward(context, torch.cat([first, embeddings[:, 1:]], 1), gates)


class Unused(Plain):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(2, 2)


class Rectified(Plain):
    """The published code's ReLU before the softmax."""

    def score(self, context, embeddings):
        return super().score(context, embeddings).sub(0.3).relu()


class Noisy(Plain):
    def score(self, context, embeddings):
        return super().score(context, embeddings) + 0.1 * torch.rand(embeddings.shape[:2])


class Dropping(Plain):
    def __init__(self):
        super().__init__()
        self.scorer.insert(2, nn.Dropout(0.5))


class Counting(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, context, embeddings, gates=None):
        self.calls += self.training
        return super().forward(context, embeddings, gates)


class Hidden(Plain):
    def __init__(self):
        super().__init__()
        self.shift = torch.ones(C)

    def score(self, context, embeddings):
        return super().score(context + self.shift, embeddings)


class Forgetful(Plain):
    """Leaves a part of itself out of the state dict."""

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {"kept": state["scorer.2.weight"], "lost": state.pop("scorer.0.weight")[:0]}

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict({"scorer.2.weight": state["kept"]}, strict=False)


BROKEN = [
    (SingleTensor, "shapes", "pair of tensors"),
    (Doubles, "shapes", "float32 inputs give torch.float64"),
    (ExplodingScores, "finite", "large"),
    (UnsummedGates, "attention", "attention with gates sums to"),
    (SoftmaxOverRows, "rows", "a row alone gives another result"),
    (Ranked, "order", "the representation changes with the order"),
    (ThreeOnly, "any number", "1 PTMs give attention of shape [6, 3]"),
    (Deaf, "gates", "does not lower"),
    (OneRowForAll, "gates", "act on another"),
    (AlmostClosed, "exclusion", "not exactly 0"),
    (Jumping, "exclusion", "policy jump"),
    (Permissive, "refusal", "all gates 0: not refused"),
    (Detached, "gradient", "no gradient reaches the context"),
    (DetachedModel, "gradient", "embedding of some PTM"),
    (Unused, "gradient", "parameter forgotten.weight"),
    (Rectified, "gradient in every row", "ReLU"),
    (Noisy, "repeatable", "two calls"),
    (Dropping, "mode", "dropout"),
    (Counting, "mode", "changes calls"),
    (Hidden, "state", "'shift' is a tensor outside"),
    (Forgetful, "state", "after load_state_dict"),
]


@pytest.mark.parametrize(("broken", "name", "words"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_rule_is_caught_by_the_right_check(broken, name, words):
    with pytest.raises(FusionConformanceError) as caught:
        check_fusion(broken(), **SIZES)
    message = str(caught.value)
    failed = {part.split(": ")[0]: part for part in message.split("; ")[1:]}
    assert (list(failed) == ["shapes"]) == (name == "shapes"), message
    assert name in failed, message
    assert words in failed[name], message
    assert message.startswith(f"{broken.__name__} is no fusion rule")
    if name == "shapes":
        return
    held = [other for other in PROPERTIES if other not in failed]
    assert check_fusion(broken(), **SIZES, without=list(failed)) == held


def test_every_failed_property_is_named_at_once():
    class Worse(Deaf, Ranked):
        pass

    with pytest.raises(FusionConformanceError, match=r"order: .*; gates: .*; exclusion: "):
        check_fusion(Worse(), **SIZES)


def test_scale_is_a_claim_of_its_own():
    with pytest.raises(FusionConformanceError, match="multiplying one PTM's embedding by 10"):
        check_fusion(Plain(), **SIZES, also=["scale"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ["ordr"]}, "without: no property 'ordr'; known are shapes, "),
        ({"also": ["order"]}, "also: no property 'order'; known are scale"),
        ({"num_ptms": 1}, "at least 2, not 1"),
    ],
)
def test_wrong_questions_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        check_fusion(MeanFusion(), **SIZES, **options)


def extractor(readout="pooled", more=()):
    torch.manual_seed(0)
    ptms = [{"model_type": "resnet18_random", "tap": "layer1"}, {"model_type": "graph_cnn", "freeze": False}]
    return MultiPTMFeatureExtractor(16, 8, [*ptms, *more], context_input_dim=4, readout=readout)


GRAPH = {"model_type": "graph_gnn"}


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
@pytest.mark.parametrize("more", [[], [GRAPH], [{**GRAPH, "freeze": False}]])
def test_the_extractor_conforms(more, readout):
    module = extractor(readout, more)
    before = module.frozen_hash()
    assert check_extractor(module) == ["rows", "mode", "cache", "frozen"]
    assert module.frozen_hash() == before


def test_a_graph_model_that_mixes_its_graphs_is_caught(monkeypatch):
    module = extractor(more=[GRAPH])
    backbone = module.ptms["graph_gnn"].backbone
    plain = backbone.forward

    def mixed(self, graph):
        nodes = plain(graph)
        return nodes + nn.functional.one_hot(torch.tensor(len(graph.graph)), nodes.shape[1])

    monkeypatch.setattr(type(backbone), "forward", mixed)
    with pytest.raises(FusionConformanceError, match="rows: an image alone gives another result"):
        check_extractor(module)


def test_a_broken_extractor_is_caught(monkeypatch):
    module = extractor()
    monkeypatch.setattr(Backbone, "train", nn.Module.train)
    with pytest.raises(
        FusionConformanceError, match=r"mode: train\(\) changes the result.*; frozen: frozen weights"
    ):
        check_extractor(module)
