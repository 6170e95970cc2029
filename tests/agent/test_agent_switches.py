"""Switches of memory and speed: less is kept, or it is faster, and the results are the same."""

import copy
import os
import subprocess
import sys
from shutil import which

import pytest
import torch
from agent_cases import IMAGES, SMALL_PTMS, make_observation, make_policy

from durotaxis.agent import Encoder, EncoderConfig, flatten
from durotaxis.agent.actor_critic import BFLOAT16_RATIO_TOLERANCE
from durotaxis.core.errors import UserError
from durotaxis.core.recompute import recompute
from durotaxis.core.segments import segment_mean, segment_sum
from durotaxis.fusion import PTMConfig
from durotaxis.fusion.backbones.probe import random_graphs
from durotaxis.fusion.ptm import build_ptm
from durotaxis.ppo import PPOConfig
from durotaxis.ppo.update import Batch, _accumulate

COUNTS = [5, 0, 8, 1, 20, 17]
OBSERVATION = make_observation(COUNTS, 24)
LEARNING = [{**ptm, "freeze": False} for ptm in SMALL_PTMS]


def kept_bytes(function):
    """Bytes that autograd keeps for the backward pass while `function` runs, and what it returns."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return sum(kept.values()), result


def gradients(result, module):
    """Of a scalar that weighs all entries differently."""
    total = sum((part * torch.linspace(-1, 1, part.numel()).view_as(part)).sum() for part in result)
    module.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same_with_less(plain, lean, call, share):
    """Outputs to the bit, gradients to 1e-6 of the largest, and at most `share` of the bytes."""
    (much, expected), (little, found) = (kept_bytes(lambda m=m: call(m)) for m in (plain, lean))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert little < share * much, (little, much)
    wanted, given = gradients(expected, plain), gradients(found, lean)
    assert wanted.keys() == given.keys() != set()
    for name, value in wanted.items():
        torch.testing.assert_close(given[name], value, rtol=0, atol=1e-6 * float(value.abs().max()))


def encoder(**options):
    torch.manual_seed(0)
    return Encoder(EncoderConfig(hidden_dim=32, num_layers=6, out_dim=32, **options)).eval()


def test_the_encoder_keeps_less_in_eval_mode():
    graph = flatten(OBSERVATION)
    assert_same_with_less(encoder(), encoder(gradient_checkpointing=True), lambda e: e(graph), 0.35)


@pytest.mark.parametrize(
    ("model", "share"),
    [
        ({"model_type": "resnet18_random", "tap": "layer4"}, 0.85),  # the stem's maps are kept
        ({"model_type": "graph_cnn"}, 0.75),
        ({"model_type": "graph_gnn"}, 0.35),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_models_keep_less_in_eval_mode(model, share):
    plain, lean = (build_ptm(PTMConfig(**model, seed=1, freeze=False), 8).backbone for _ in range(2))
    recompute(lean.blocks())
    if model["model_type"] == "graph_gnn":
        graph = random_graphs(4, 13, 3)
        given = graph
    else:
        given = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert not lean.training
    assert_same_with_less(plain, lean, lambda backbone: [backbone(given)], share)


def loss_of(policy, observation=OBSERVATION):
    distribution, value = policy(observation, policy.precompute(observation))
    sample = distribution.mode()
    return [distribution.log_prob(sample), *distribution.entropy(), value]


@pytest.mark.parametrize("image", ["field sampled", "tokens pooled"])
def test_the_whole_agent_keeps_less(image):
    options = {
        "image": IMAGES[image],
        "wsa_config": {"embedding_dim": 32, "context_dim": 16, "ptms": LEARNING},
    }
    plain, lean = make_policy(**options), make_policy(**options, gradient_checkpointing=True)
    assert plain.state_dict().keys() == lean.state_dict().keys()
    assert_same_with_less(plain, lean, loss_of, 0.8)


def test_nothing_is_computed_again_without_gradient():
    calls = []
    policy = make_policy(gradient_checkpointing=True)
    block = policy.actor.extractor.ptms[1].backbone.blocks()[0]
    block.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        loss_of(policy)
    assert calls == [False]
    gradients(loss_of(policy), policy)
    assert len(calls) >= 2


def test_a_copy_computes_with_its_own_weights():
    """What a checkpointed block calls must not be the block that it was copied from."""
    policy = make_policy(gradient_checkpointing=True)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in other.actor.extractor.ptms[1].backbone.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(loss_of(policy)[0], loss_of(other)[0])


@pytest.mark.parametrize("image", IMAGES)
def test_bfloat16_is_near_float32_and_learns_in_it(image):
    """Log-probabilities within the tolerance that the ratio check is given; nothing but products is rounded."""
    coarse, fine = (make_policy(image=IMAGES[image], precision=p) for p in ("bfloat16", "float32"))
    found, expected = loss_of(coarse), loss_of(fine)
    assert all(part.dtype == torch.float32 for part in found)
    log_prob, exact = found[0].detach(), expected[0].detach()
    difference = float((log_prob - exact).abs().max())
    assert 1e-5 < difference < BFLOAT16_RATIO_TOLERANCE
    attention = coarse(OBSERVATION)[0].attention
    torch.testing.assert_close(attention.sum(1), torch.ones(len(attention)), rtol=0, atol=1e-6)
    of_coarse, of_fine = gradients(found, coarse), gradients(expected, fine)
    assert all(value.dtype == torch.float32 for value in of_coarse.values())
    ours, theirs = (torch.cat([g.flatten() for g in d.values()]) for d in (of_coarse, of_fine))
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_bfloat16_states_its_tolerance_and_halves_what_a_rollout_keeps():
    coarse, fine = make_policy(precision="bfloat16"), make_policy()
    assert coarse.ratio_tolerance == BFLOAT16_RATIO_TOLERANCE
    assert fine.ratio_tolerance is None
    sizes = [
        sum(t.numel() * t.element_size() for t in policy.precompute(OBSERVATION).features.values())
        for policy in (coarse, fine)
    ]
    assert sizes[1] == 2 * sizes[0] > 0


def test_sums_of_bfloat16_are_made_in_float32():
    """256 + 1 is 256 in bfloat16: of a large colony some nodes would not count."""
    ones, index = torch.ones(1000, 2, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.int64)
    for total, expected in ((segment_sum(ones, index, 1), 1000.0), (segment_mean(ones, index, 1), 1.0)):
        assert total.dtype == torch.float32
        assert total.tolist() == [[expected, expected]]


def test_parts_of_a_minibatch_add_up_to_its_gradient():
    """In float32, with colonies of 0 to 20 nodes, to 1e-5 of each parameter's largest entry.

    A bias that all scores share changes no softmax: its gradient is rounding alone.
    """
    policy = make_policy(wsa_config={"embedding_dim": 32, "context_dim": 16, "ptms": LEARNING})
    with torch.no_grad():
        distribution, value = policy(OBSERVATION)
        sample = distribution.sample(torch.arange(len(COUNTS)))
        log_prob = distribution.log_prob(sample) + 0.1 * distribution.node_mask
    advantage = torch.linspace(-1, 2, len(COUNTS))
    mask = distribution.node_mask
    value = value[:, None]  # one head
    batch = Batch(OBSERVATION, None, sample, mask, log_prob, value, advantage, value + advantage[:, None])
    found = []
    for size in (None, 4, 1):
        policy.zero_grad()
        config = PPOConfig(num_colonies=6, rollout_steps=1, num_minibatches=1, microbatch_size=size)
        _, _, rest = _accumulate(policy, batch, torch.arange(len(COUNTS)), config, {})
        rest.backward()
        found.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in found[0].values())
    for parts in found[1:]:
        assert parts.keys() == found[0].keys()
        for name, whole in found[0].items():
            limit = 1e-5 * float(whole.abs().max()) + 1e-7 * largest
            torch.testing.assert_close(parts[name], whole, rtol=0, atol=limit, msg=name)


COMPILED = """
import sys, torch
sys.path.insert(0, "tests/agent")
import torch._dynamo as dynamo
from agent_cases import IMAGES, make_observation, make_policy
from test_agent_switches import LEARNING, gradients, loss_of

torch.set_num_threads(1)
options = {"wsa_config": {"embedding_dim": 32, "context_dim": 16, "ptms": LEARNING[1:]}}
plain, fast = make_policy(**options), make_policy(**options, compile=True, gradient_checkpointing=CHECKPOINT)
assert list(plain.state_dict()) == list(fast.state_dict())
assert plain.parameter_groups().keys() == fast.parameter_groups().keys()
graphs = []
for size in range(2, 9):
    observation = make_observation([size, 2 * size, 3, 0, 9 - size], 2 * size, seed=size)
    found, expected = loss_of(fast, observation), loss_of(plain, observation)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(found, fast), gradients(expected, plain)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4 * float(value.abs().max()) + 1e-7)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(fast, observation)[0], expected[0], rtol=1e-5, atol=1e-5)
    graphs.append(dynamo.utils.counters["stats"]["unique_graphs"])
assert graphs[0] > 0 and graphs[-1] == graphs[1], graphs
print("equal", graphs)
"""


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_compiled_agent_equals_the_eager_one_and_is_compiled_once(checkpoint):
    environment = {**os.environ, "DUROTAXIS_NO_SHAPE_CHECKS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED.replace("CHECKPOINT", str(checkpoint))],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert done.stdout.startswith("equal"), done.stderr[-3000:]


def test_a_missing_compiler_is_a_user_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"actor_critic\.compile: .* set actor_critic\.compile=false"):
        make_policy(compile=True)
