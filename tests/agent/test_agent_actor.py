import pytest
import torch
from agent_cases import SMALL_PTMS

from durotaxis.agent import Actor, ImageConfig, View, WSAEnhancedActor
from durotaxis.agent.image import frame_points
from durotaxis.core.errors import UserError
from durotaxis.fusion import MultiPTMFeatureExtractor

SIZES = {
    "encoder_out_dim": 16,
    "hidden_dim": 32,
    "num_discrete_actions": 3,
    "continuous_dim": 4,
    "dropout_rate": 0.1,
}
BATCH = torch.tensor([0, 0, 0, 2, 2])


def make_view():
    torch.manual_seed(3)
    return View(
        torch.rand(5, 2) * 100, torch.zeros(3, 2), torch.full((3, 2), 100.0), torch.rand(3, 3, 24, 24)
    )


def wsa_actor(**options):
    torch.manual_seed(0)
    options = {"embedding_dim": 32, "context_dim": 16, "ptms": SMALL_PTMS} | options
    return WSAEnhancedActor(**SIZES, **options).eval()


def test_one_colony_as_in_the_guide():
    """`actor(node_tokens [N,d], graph_token [d], return_attention=True)`, then the mean per model."""
    actor = wsa_actor(use_wsa=True)
    node_tokens, graph_token = torch.randn(5, 16), torch.randn(16)
    assert hasattr(actor, "feature_extractor")
    with torch.no_grad():
        parameters, attention_weights = actor(node_tokens, graph_token, return_attention=True)
    assert [tuple(part.shape) for part in parameters] == [(5, 3), (5, 4), (5, 4)]
    assert attention_weights.shape == (5, 2)
    torch.testing.assert_close(attention_weights.sum(1), torch.ones(5))
    assert len(attention_weights.mean(dim=0)) == 2
    for param in actor.feature_extractor.ptms[0].backbone.parameters():
        param.requires_grad = True
    assert actor.feature_extractor.cacheable() == []
    flat = actor(node_tokens, graph_token[None], torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(flat.alpha, parameters.alpha)


def test_extractor_only_as_in_the_guide():
    torch.manual_seed(0)
    extractor = MultiPTMFeatureExtractor(
        embedding_dim=32, context_dim=16, ptms=SMALL_PTMS, context_input_dim=16
    )
    actor = Actor(**SIZES, feature_extractor=extractor).eval()
    parameters, attention = actor(torch.randn(4, 16), torch.randn(16), return_attention=True)
    assert parameters.kind_logits.shape == (4, 3)
    assert attention.shape == (4, 2)
    with pytest.raises(UserError, match="readout is pooled"):
        Actor(**SIZES, feature_extractor=extractor, image=ImageConfig(readout="sampled"))


@pytest.mark.parametrize("build", [Actor, lambda **sizes: wsa_actor(use_wsa=False)])
def test_one_backbone_has_no_attention(build):
    torch.manual_seed(0)
    actor = build(**SIZES).eval()
    assert not hasattr(actor, "feature_extractor")
    assert actor(torch.randn(2, 16), torch.randn(16)).kind_logits.shape == (2, 3)
    with pytest.raises(UserError, match="no attention"):
        actor(torch.randn(2, 16), torch.randn(16), return_attention=True)


def test_the_switch_changes_the_extractor_alone():
    """Same seed: heads and picture start equal in both arms, and `use_wsa=False` is the plain actor."""
    on, off = wsa_actor(use_wsa=True), wsa_actor(use_wsa=False, backbone="graph_cnn")
    torch.manual_seed(0)
    plain = Actor(**SIZES, backbone="graph_cnn", embedding_dim=32).eval()
    for name, value in on.state_dict().items():
        if not name.startswith("feature_extractor."):
            assert torch.equal(value, off.state_dict()[name]), name
    assert plain.state_dict().keys() == off.state_dict().keys()
    assert all(torch.equal(value, off.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize(
    ("image", "rows"),
    [
        ({"source": "field", "readout": "sampled"}, 5),
        ({"source": "field", "readout": "pooled"}, 3),
        ({"source": "tokens", "readout": "sampled"}, 5),
        ({"source": "tokens", "readout": "pooled"}, 3),
        ({"source": "tokens", "scope": "node", "readout": "pooled"}, 5),
    ],
)
def test_rows_of_attention(image, rows):
    actor = wsa_actor(image=ImageConfig(**image))
    parameters, attention = actor(
        torch.randn(5, 16), torch.randn(3, 16), BATCH, make_view(), return_attention=True
    )
    assert attention.shape == (rows, 2)
    assert parameters.kind_logits.shape == (5, 3)


def extractor_with(**options):
    values = {"context_dim": 8, "ptms": SMALL_PTMS, "hidden_dims": (16, 8), "context_input_dim": 16}
    return MultiPTMFeatureExtractor(32, **(values | options))


@torch.no_grad()
def test_a_context_per_node_is_the_nodes_own_token():
    """Against the extractor alone, given each node's token, or its colony's."""
    view, nodes, tokens = make_view(), torch.randn(5, 16), torch.randn(3, 16)
    seen = {}
    for context, given in (("node", nodes), ("graph", tokens)):
        torch.manual_seed(3)
        extractor = extractor_with(readout="sampled", context=context).eval()
        torch.nn.init.normal_(extractor.fusion.output_layer.weight)
        actor = Actor(**SIZES, feature_extractor=extractor, image=ImageConfig()).eval()
        seen[context] = actor(nodes, tokens, BATCH, view, return_attention=True)[1]
        points = frame_points(view.position, view.frame_low, view.frame_high, BATCH)
        alone = extractor(view.field, given, points=points, batch=BATCH, return_attention=True)[1]
        torch.testing.assert_close(seen[context], alone)
    assert float((seen["node"] - seen["graph"]).abs().max()) > 1e-3


def test_an_extractor_for_tokens_of_another_width_is_refused():
    with pytest.raises(UserError, match=r"context_input_dim is 15, but tokens have width 16"):
        Actor(**SIZES, feature_extractor=extractor_with(context_input_dim=15))


@pytest.mark.parametrize("readout", ["sampled", "pooled"])
def test_pictures_of_tokens_carry_gradients_through_the_models(readout):
    """With the heads' direct path cut, tokens still get a gradient: it came through the pictures."""
    actor = wsa_actor(image=ImageConfig(source="tokens", readout=readout))
    width = SIZES["encoder_out_dim"]
    with torch.no_grad():
        actor.heads.action_mlp[0].weight[:, :width] = 0
        actor.feature_extractor.state_encoder.requires_grad_(False)
    nodes, tokens = torch.randn(5, width, requires_grad=True), torch.randn(3, width)
    actor(nodes, tokens, BATCH, make_view()).kind_logits.square().sum().backward()
    assert float(nodes.grad.abs().amax(1).min()) > 0


def test_one_colony_per_picture():
    """A node's parameters depend on its own colony's field and place, not on another's."""
    actor = wsa_actor(image=ImageConfig())
    with torch.no_grad():
        actor.heads.discrete_head.weight.mul_(100)
    view, nodes, tokens = make_view(), torch.randn(5, 16), torch.randn(3, 16)
    before = actor(nodes, tokens, BATCH, view).kind_logits
    field = view.field.clone()
    field[2] = 0
    changed = View(view.position, view.frame_low, view.frame_high, field)
    after = actor(nodes, tokens, BATCH, changed).kind_logits
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=1e-5)
    assert float((after[3:] - before[3:]).detach().abs().amax(1).min()) > 1e-3


def test_dropout_acts_in_training_mode_only():
    actor = wsa_actor(use_wsa=False)
    nodes, token = torch.randn(5, 16), torch.randn(16)
    assert torch.equal(actor(nodes, token).alpha, actor(nodes, token).alpha)
    actor.train()
    assert not torch.equal(actor(nodes, token).alpha, actor(nodes, token).alpha)


def test_a_batch_needs_its_index():
    with pytest.raises(UserError, match="batch"):
        wsa_actor()(torch.randn(5, 16), torch.randn(3, 16))
    with pytest.raises(UserError, match="view="):
        wsa_actor(image=ImageConfig())(torch.randn(5, 16), torch.randn(3, 16), BATCH)
