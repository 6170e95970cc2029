import pytest
import torch
from agent_cases import crop, make_observation, permute

from durotaxis.agent import Encoder, EncoderConfig, SimplicialEmbedding, flatten
from durotaxis.agent.encoder import ForestAttention
from durotaxis.core.errors import UserError

SMALL = EncoderConfig(hidden_dim=32, num_layers=3, num_heads=4, out_dim=32)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(SMALL)


def test_forest_attention_equals_transformer_conv():
    """Outputs and all gradients, on forests with roots, chains, wide families and an empty colony."""
    from torch_geometric.nn import TransformerConv

    torch.manual_seed(0)
    width, heads = 24, 4
    graph = flatten(make_observation([6, 1, 0, 9, 2], 10))
    n, num_tokens = len(graph.batch), 5
    own, reference = (
        ForestAttention(width, heads),
        TransformerConv(width, width // heads, heads=heads, edge_dim=width),
    )
    reference.load_state_dict({f"lin_{name}": value for name, value in own.state_dict().items()})
    rows = torch.randn(n + num_tokens, width, requires_grad=True)
    edges = torch.randn(2 * n + 2, width, requires_grad=True)
    child = (graph.parent >= 0).nonzero()[:, 0]
    parent, node, token = graph.parent[child], torch.arange(n), graph.batch + n
    edge_index = torch.cat(
        [torch.stack(pair) for pair in ((parent, child), (child, parent), (token, node), (node, token))], 1
    )
    down, up, star = edges.split([n, n, 2])
    edge_attr = torch.cat([down[child], up[child], star[:1].expand(n, -1), star[1:].expand(n, -1)])
    ours, theirs = own(rows, edges, graph.parent, graph.batch), reference(rows, edge_index, edge_attr)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, [rows, edges, own.query.weight, own.edge.weight], direction),
        torch.autograd.grad(
            theirs, [rows, edges, reference.lin_query.weight, reference.lin_edge.weight], direction
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_colony_does_not_see_its_companions(encoder):
    observation = make_observation([5, 8, 0, 1], 9)
    nodes, tokens = encoder(flatten(observation))
    start = 0
    for b, count in enumerate([5, 8, 0, 1]):
        alone_nodes, alone_tokens = encoder(flatten(observation[b : b + 1]))
        torch.testing.assert_close(alone_tokens[0], tokens[b], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone_nodes, nodes[start : start + count], rtol=0, atol=1e-5)
        start += count


def test_node_order_does_not_matter(encoder):
    observation = make_observation([9, 9], 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    nodes, tokens = encoder(flatten(observation))
    moved_nodes, moved_tokens = encoder(flatten(permute(observation, order)))
    torch.testing.assert_close(moved_tokens, tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved_nodes.view(2, 9, -1), nodes.view(2, 9, -1)[:, order], rtol=0, atol=1e-5)


def test_number_of_slots_does_not_matter(encoder):
    observation = make_observation([3, 5], 12)
    for whole, cropped in zip(
        encoder(flatten(observation)), encoder(flatten(crop(observation, 5))), strict=True
    ):
        assert torch.equal(whole, cropped)


@torch.no_grad()
def test_every_part_of_the_observation_counts(encoder):
    """Node, edge and graph features, and who is whose parent, each reach every node of the colony."""
    observation = make_observation([6], 6)
    nodes, _ = encoder(flatten(observation))
    graph = flatten(observation)
    child = int((graph.parent >= 0).nonzero()[0, 0])
    changes = {
        "nodes": graph.nodes.index_fill(0, torch.tensor(5), 2.0),
        "edges": graph.edges.index_fill(0, torch.tensor(child), 2.0),
        "graph": graph.graph + 1.0,
        "parent": graph.parent.index_fill(0, torch.tensor(child), -1),
    }
    for name, value in changes.items():
        changed, _ = encoder(type(graph)(**(vars(graph) | {name: value})))
        assert float((changed - nodes).abs().amax(1).min()) > 1e-6, name


@torch.no_grad()
def test_edges_have_a_direction(encoder):
    """A chain of two with all else equal: parent and child are told apart."""
    observation = make_observation([2], 2)
    graph = flatten(observation)
    same = torch.ones_like(graph.nodes)
    chain = type(graph)(
        **(vars(graph) | {"nodes": same, "edges": torch.ones(2, 3), "parent": torch.tensor([-1, 0])})
    )
    nodes, _ = encoder(chain)
    assert float((nodes[0] - nodes[1]).abs().max()) > 1e-3


@torch.no_grad()
def test_layers_are_residual(encoder):
    """With attention silenced, node and graph features still reach their own tokens."""
    graph = flatten(make_observation([4, 3], 4))
    for parameter in encoder.layers.parameters():
        parameter.zero_()
    for tokens in encoder(graph):
        assert float((tokens[1:] - tokens[:1]).abs().amax(1).min()) > 1e-3


def test_empty_batches_pass(encoder):
    nodes, tokens = encoder(flatten(make_observation([0, 0], 4)))
    assert nodes.shape == (0, 32)
    assert torch.isfinite(tokens).all()
    tokens.sum().backward()


def test_simplicial_closed_form():
    tokens = torch.tensor([[0.0, 1.0, 2.0, 2.0]])
    e, root = torch.e, torch.e**0.5
    expected = torch.tensor([[1 / (1 + e), e / (1 + e), 0.5, 0.5]])
    torch.testing.assert_close(SimplicialEmbedding(4, groups=2)(tokens), expected)
    softer = torch.tensor([[1 / (1 + root), root / (1 + root), 0.5, 0.5]])
    torch.testing.assert_close(SimplicialEmbedding(4, groups=2, temperature=2.0)(tokens), softer)


@torch.no_grad()
def test_tokens_are_simplices_unless_switched_off():
    torch.manual_seed(0)
    graph = flatten(make_observation([4, 3], 4))
    for tokens in Encoder(SMALL)(graph):
        torch.testing.assert_close(tokens.unflatten(-1, (16, 2)).sum(-1), torch.ones(len(tokens), 16))
        assert float(tokens.min()) > 0
    off = Encoder(SMALL.model_copy(update={"simplicial": "off"}))
    assert float(off(graph)[0].min()) < 0


@pytest.mark.parametrize("arguments", [(30, 16), (32, 0), (32, 16, 0.0)])
def test_bad_simplices_are_refused(arguments):
    with pytest.raises(UserError, match="simplicial"):
        SimplicialEmbedding(*arguments)
