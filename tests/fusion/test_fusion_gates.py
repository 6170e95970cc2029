"""Models that enter, leave and are dropped: gates, schedules, names, and representations of others."""

import itertools
import math

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.core.randomness import hash_keys
from durotaxis.core.schedule import Clock
from durotaxis.fusion import (
    MultiPTMFeatureExtractor,
    PTMConfig,
    TemperatureSchedule,
    attention_balance_penalty,
    attention_entropy_penalty,
)
from durotaxis.fusion.gates import draw_open, gate_at

D, CONTEXT = 16, 6
A = {"model_type": "graph_cnn", "tap": "block1", "name": "a", "freeze": False}
B = {"model_type": "graph_cnn", "tap": "block2", "name": "b.v2"}
C = {"model_type": "graph_cnn", "tap": "block1", "name": "training"}
IMAGE = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(5))
CONTEXTS = torch.randn(4, CONTEXT, generator=torch.Generator().manual_seed(6))


def make(ptms=(A, B, C), seed=0, **options):
    torch.manual_seed(seed)
    values = {"embedding_dim": D, "context_dim": 8, "context_input_dim": CONTEXT, "hidden_dims": (16, 8)}
    module = MultiPTMFeatureExtractor(ptms=ptms, **(values | options))
    if hasattr(module.fusion, "output_layer"):
        torch.nn.init.normal_(module.fusion.output_layer.weight)
    return module


def copies(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(state, module, leave_out="-"):
    mine = {k: v for k, v in state.items() if leave_out not in k}
    assert mine
    return all(torch.equal(value, module.state_dict()[name]) for name, value in mine.items())


@torch.no_grad()
def test_order_does_not_matter():
    straight, turned = make(), make((C, A, B), seed=1)
    assert not same(straight.state_dict(), turned)
    turned.load_state_dict(straight.state_dict())
    assert turned.names == ("training", "a", "b.v2")
    first, second = (m(IMAGE, CONTEXTS, return_attention=True) for m in (straight, turned))
    torch.testing.assert_close(second[0], first[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(second[1], first[1][:, [2, 0, 1]], atol=1e-6, rtol=1e-5)
    assert (first[1] - 1 / 3).abs().max() > 0.05


def test_models_are_found_by_position_and_by_name():
    module = make()
    assert len(module.ptms) == 3
    assert [ptm.name for ptm in module.ptms] == ["a", "b.v2", "training"]
    assert module.ptms["b.v2"] is module.ptms[1] is module.ptms[-2]
    with pytest.raises(IndexError):
        module.ptms[3]
    assert {key.split(".")[1] for key in module.state_dict() if key.startswith("ptms")} == {
        "a",
        "b:v2",
        "training",
    }


def test_adding_a_model_keeps_all_else():
    module, generator_state = make((A, B)), torch.get_rng_state()
    before = copies(module)
    representation = module(IMAGE, CONTEXTS).detach()
    assert torch.equal(torch.get_rng_state(), generator_state)
    added = module.add_ptm(C)
    assert added is module.ptms["training"]
    assert module.names == ("a", "b.v2", "training")
    assert same(before, module)
    assert set(copies(module)) - set(before) == {k for k in copies(module) if k.startswith("ptms.training.")}
    module.set_gate("training", 0.0)
    assert torch.equal(module(IMAGE, CONTEXTS), representation)
    module.set_gate("training", 1.0)
    assert module(IMAGE, CONTEXTS, return_attention=True)[1].shape == (4, 3)
    module.remove_ptm("training")
    assert module.names == ("a", "b.v2")
    assert same(before, module)
    assert torch.equal(module(IMAGE, CONTEXTS), representation)
    assert module.add_ptm(PTMConfig(model_type="graph_cnn")).name == "graph_cnn"


def test_a_state_of_two_models_touches_two_of_three():
    two, three = make((B, A), seed=1), make()
    before = copies(three)
    missing, unexpected = three.load_state_dict(two.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.startswith("ptms.training.") for key in missing)
    assert same(two.state_dict(), three)
    assert all(torch.equal(three.state_dict()[key], before[key]) for key in missing)


def test_wrong_additions_and_removals_are_refused():
    module = make((A, B))
    before = copies(module)
    cases = [
        (lambda: module.add_ptm(A), "two PTMs are named 'a'"),
        (lambda: module.add_ptm({"model_type": "graph_cn"}), "did you mean 'graph_cnn'"),
        (lambda: module.remove_ptm("c"), "no PTM 'c'; there are a, b.v2"),
        (lambda: make((A,)).remove_ptm("a"), "a is the only PTM"),
        (lambda: make((A, B), fusion="concat").add_ptm(C), "'concat' is made for 2 PTMs"),
        (lambda: make((A, B), fusion="projected_concat").remove_ptm("a"), "made for 2 PTMs"),
        (lambda: module.set_gate("c", 1.0), "no PTM 'c'"),
        (lambda: module.set_gate("a", 1.5), "must lie in"),
        (lambda: make(()), "there is no PTM"),
    ]
    for function, message in cases:
        with pytest.raises(UserError, match=message):
            function()
    assert same(before, module)
    assert module.names == ("a", "b.v2")
    module.set_gate("a", 0.0)
    with pytest.raises(UserError, match=r"b\.v2 is the only open PTM"):
        module.set_gate("b.v2", 0.0)


def test_gates_are_state_and_multiply_what_is_given():
    module = make()
    module.set_gate("b.v2", 0.25)
    assert module.gates.tolist() == [1.0, 0.25, 1.0]
    other = make(seed=3)
    other.load_state_dict(module.state_dict())
    assert other.gates.tolist() == [1.0, 0.25, 1.0]
    given = torch.tensor([[1.0, 0.5, 0.0]]).expand(4, 3)
    attention = module(IMAGE, CONTEXTS, gates=given, return_attention=True)[1]
    module.set_gate("b.v2", 1.0)
    wanted = module(IMAGE, CONTEXTS, gates=torch.tensor([1.0, 0.125, 0.0]), return_attention=True)[1]
    torch.testing.assert_close(attention, wanted)


def test_a_closed_model_is_not_computed():
    module = make()
    module.set_gate("b.v2", 0.0)
    assert module.opened == ("a", "training")
    calls = []
    for ptm in module.ptms:
        ptm.backbone.register_forward_hook(lambda *_, name=ptm.name: calls.append(name))
    representation, attention = module(IMAGE, CONTEXTS, return_attention=True)
    assert calls == ["a", "training"]
    assert list(module.precompute(IMAGE)) == ["training"]
    two = make((A, C), seed=1)
    two.load_state_dict({k: v for k, v in module.state_dict().items() if "b:v2" not in k})
    expected, weights = two(IMAGE, CONTEXTS, return_attention=True)
    torch.testing.assert_close(representation, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(attention[:, 1], torch.zeros(4))
    torch.testing.assert_close(attention[:, [0, 2]], weights)
    representation.square().sum().backward()
    assert module.ptms["b.v2"].projection.weight.grad is None
    assert module.ptms["a"].projection.weight.grad is not None


def test_a_gate_follows_the_step():
    ptm = PTMConfig(model_type="graph_cnn", enters_at=100, ramp_steps=200)
    steps = [0, 99, 100, 200, 299, 300, 10**9]
    wanted = [0.0, 0.0, 1e-3, 1e-3**0.5, 1e-3 ** (1 / 200), 1.0, 1.0]
    assert [gate_at(ptm, step) for step in steps] == pytest.approx(wanted, abs=1e-15)
    logs = [math.log(gate_at(ptm, step)) for step in range(100, 301)]
    rises = [b - a for a, b in itertools.pairwise(logs)]
    assert rises == pytest.approx([math.log(1000) / 200] * 200)
    assert gate_at(PTMConfig(model_type="graph_cnn", enters_at=7), 6) == 0.0
    assert gate_at(PTMConfig(model_type="graph_cnn", enters_at=7), 7) == 1.0
    assert gate_at(PTMConfig(model_type="graph_cnn"), 0) == 1.0


@torch.no_grad()
@pytest.mark.parametrize("preference", [-8.0, 0.0, 8.0])
def test_attention_to_a_newcomer_rises_evenly_whatever_its_score(preference):
    """|Δw| <= Δ log gate / 4, also where a linear ramp would jump."""
    late = {**C, "enters_at": 100, "ramp_steps": 1000}
    module = make((A, B, late))
    real = module.fusion.score
    favour = torch.tensor([0.0, 0.0, preference]).view(1, 3, 1)
    module.fusion.score = lambda *data: real(*data) + favour
    seen = []
    for step in range(90, 1121, 10):
        module.follow_schedules(step)
        seen.append(module(IMAGE, CONTEXTS, return_attention=True)[1][:, 2])
    changes = torch.stack(seen).diff(dim=0)
    assert bool((seen[0] == 0).all())
    assert float(seen[1].max()) < 1e-3 * math.exp(preference + 3)
    assert float(changes[1:].abs().max()) < math.log(1000) / 100 / 4 + 1e-6
    assert bool((changes[1:] >= -1e-6).all())
    assert float(seen[-1].min()) > (0.99 if preference > 0 else 0.0)


def test_temperature_follows_the_step():
    schedule = TemperatureSchedule(start=2.0, end=0.5, steps=100)
    assert [schedule.at(Clock(s)) for s in (0, 50, 100, 500)] == pytest.approx([2.0, 1.0, 0.5, 0.5])
    module = make(temperature={"start": 2.0, "end": 0.5, "steps": 100})
    assert module.fusion.temperature == pytest.approx(2.0)
    module.follow_schedules(50)
    assert module.fusion.temperature == pytest.approx(1.0)
    other = make(temperature={"start": 2.0, "end": 0.5, "steps": 100})
    other.load_state_dict(module.state_dict())
    assert other.fusion.temperature == pytest.approx(1.0)


def test_what_was_set_by_hand_stays_unless_it_has_a_schedule():
    module = make((A, B, {**C, "enters_at": 10}))
    module.set_gate("a", 0.5)
    module.set_gate("training", 0.5)
    module.follow_schedules(5)
    assert module.gates.tolist() == [0.5, 1.0, 0.0]


def test_a_model_added_later_ramps_from_then_on():
    """At step 1000: as one that was there from the start with `enters_at: 1000`."""
    module = make((A, B))
    module.follow_schedules(1000)
    module.add_ptm({**C, "ramp_steps": 64})
    module.add_ptm({**C, "name": "later", "enters_at": 1032, "ramp_steps": 64})
    module.add_ptm({**C, "name": "past", "enters_at": 10, "ramp_steps": 64})
    module.add_ptm({**C, "name": "unramped", "enters_at": 10})
    assert module.gates.tolist() == pytest.approx([1.0, 1.0, 1e-3, 0.0, 1e-3, 1.0])
    for step, wanted in ((1032, [1e-3**0.5, 1e-3]), (1000, [1e-3, 0.0]), (1064, [1.0, 1e-3**0.5])):
        module.follow_schedules(step)
        assert module.gates.tolist() == pytest.approx([1.0, 1.0, *wanted, wanted[0], 1.0])


def test_model_dropout_is_drawn_from_keys():
    keys = hash_keys(3, torch.arange(20_000))
    gates = torch.tensor([1.0, 0.0, 1e-3, 1.0])
    mask = draw_open(keys, gates, 0.4)
    assert torch.equal(mask, draw_open(keys, gates, 0.4))
    assert torch.equal(mask[7:9], draw_open(keys[7:9], gates, 0.4))
    assert not torch.equal(mask, draw_open(keys + 1, gates, 0.4))
    assert bool((~mask[:, 1]).all())
    assert bool(mask.any(1).all())
    # Dropped with 0.4, except that a third of the rows in which all three would be are kept for it.
    kept = 0.6 + 0.4**3 / 3
    for k in (0, 2, 3):
        assert float(mask[:, k].float().mean()) == pytest.approx(kept, abs=0.015)
    both = float((mask[:, 0] & mask[:, 2]).float().mean())
    assert both == pytest.approx(0.36, abs=0.015)
    assert bool(draw_open(keys, torch.tensor([0.0, 1.0]), 0.999)[:, 1].all())
    assert bool(draw_open(keys, torch.ones(3), 0.0).all())


@torch.no_grad()
def test_uniform_attention_is_uniform_over_open_models_during_a_ramp():
    module = make()
    module.set_gate("a", 0.0)
    module.set_gate("b.v2", 0.01)
    given = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.3, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    with module.intervene("uniform"):
        attention = module(IMAGE, CONTEXTS, return_attention=True)[1]
        with_given = module(IMAGE, CONTEXTS, gates=given, return_attention=True)[1]
    assert attention.tolist() == [[0.0, 0.5, 0.5]] * 4
    assert with_given.tolist() == [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


@torch.no_grad()
def test_shuffled_representations_come_from_another_colony():
    pooled = make()
    before = pooled(IMAGE, CONTEXTS)
    with pooled.intervene("shuffled"):
        assert torch.equal(pooled(IMAGE, CONTEXTS), before[[3, 0, 1, 2]])
        with pytest.raises(UserError, match="'shuffled' needs at least two colonies"):
            pooled(IMAGE[:1], CONTEXTS[:1])
        after = pooled(IMAGE, CONTEXTS, batch=torch.tensor([0, 0, 2, 3, 3]))
        assert torch.equal(after[[0, 2, 3]], before[[3, 0, 2]])
        with pytest.raises(UserError, match="'shuffled' needs at least two colonies"):
            pooled(IMAGE, CONTEXTS, batch=torch.tensor([2, 2]))
    sampled = make(readout="sampled")
    points = torch.rand(7, 2) * 2 - 1
    for batch in ([0, 0, 0, 2, 3, 3, 3], [3, 0, 2, 3, 0, 0, 3]):
        data = {"points": points, "batch": torch.tensor(batch)}
        before = sampled(IMAGE, CONTEXTS, **data)
        with sampled.intervene("shuffled"):
            after = sampled(IMAGE, CONTEXTS, **data)
        nodes = {b: [i for i in range(7) if batch[i] == b] for b in (0, 2, 3)}
        following = {0: 2, 2: 3, 3: 0}
        for b, own in nodes.items():
            others = nodes[following[b]]
            for j, row in enumerate(own):
                assert torch.equal(after[row], before[others[j % len(others)]])
    with sampled.intervene("shuffled"), pytest.raises(UserError, match="at least two colonies"):
        sampled(IMAGE, CONTEXTS, points=points, batch=torch.full((7,), 2))


def test_penalties_are_per_head():
    """Two heads that prefer opposite models: their average is uniform, each of them is sharp."""
    first = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    attention = torch.stack([first, 1 - first], 2)
    for penalty in (attention_entropy_penalty, attention_balance_penalty):
        assert float(penalty(attention.mean(2))) == pytest.approx(0.0, abs=1e-6)
        entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
        assert float(penalty(attention)) == pytest.approx(math.log(2) - entropy, abs=1e-6)
        assert float(penalty(attention)) == pytest.approx(float(penalty(first)), abs=1e-6)
        gates = torch.tensor([[1.0, 0.5], [0.2, 1.0]])
        gated = attention * gates.unsqueeze(2)
        gated = gated / gated.sum(1, keepdim=True)
        assert float(penalty(gated, gates)) == pytest.approx(float(penalty(attention)), abs=1e-5)
        assert float(penalty(attention[:0])) == 0.0
