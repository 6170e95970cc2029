"""Models that read graphs: rows, pooling, refusals; and pooling of maps."""

import dataclasses

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    PTM,
    Backbone,
    GraphBackbone,
    GraphInput,
    MultiPTMFeatureExtractor,
    PTMConfig,
    PTMRecord,
    PTMType,
    register_ptm,
    registry,
)

RECORD = PTMRecord(
    name="sums",
    model_type="sums",
    source="a test",
    revision=None,
    sha256=None,
    licence="MIT",
    input_size=None,
    mean=(),
    std=(),
    tap="end",
    taps={"end": 2},
    reads="graph",
    node_dim=4,
    edge_dim=3,
)


class Sums(GraphBackbone):
    """Per node: the sum of its features times a weight, and the sum of its incoming edges' features."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, graph):
        own = graph.nodes.sum(1) * self.weight
        into = own.new_zeros(len(own)).index_add(0, graph.edge_index[1], graph.edges.sum(1))
        return torch.stack([own, into], dim=1)


def graph(node_dim=4, edge_dim=3):
    """Three graphs of 2, 0 and 3 nodes."""
    generator = torch.Generator().manual_seed(0)
    return GraphInput(
        nodes=torch.randn(5, node_dim, generator=generator),
        edge_index=torch.tensor([[0, 2, 3], [1, 3, 4]]),
        edges=torch.randn(3, edge_dim, generator=generator),
        batch=torch.tensor([0, 0, 2, 2, 2]),
        graph=torch.randn(3, 6, generator=generator),
    )


IMAGE, POINTS = torch.rand(3, 3, 24, 24), torch.zeros(5, 2)


def expected(pooling):
    """Pooled [3, 2] and sampled [5, 4] by a loop over nodes."""
    g = graph()
    rows = []
    for node in range(5):
        into = sum(g.edges[e].sum() for e in range(3) if g.edge_index[1, e] == node)
        rows.append(torch.stack([2 * g.nodes[node].sum(), torch.as_tensor(into, dtype=torch.float32)]))
    nodes = torch.stack(rows)
    reduce = (lambda part: part.mean(0)) if pooling == "mean" else (lambda part: part.max(0).values)
    pooled = torch.stack([reduce(nodes[:2]), torch.zeros(2), reduce(nodes[2:])])
    return pooled, torch.stack([torch.cat([nodes[i], pooled[int(g.batch[i])]]) for i in range(5)])


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_readouts_are_nodes_and_their_mean_or_maximum(readout, pooling):
    ptm = PTM(Sums(), RECORD, 7, readout, pooling)
    wanted = expected(pooling)[readout == "sampled"]
    points = POINTS if readout == "sampled" else None
    features = ptm.features(IMAGE, points, graph().batch, graph())
    torch.testing.assert_close(features, wanted)
    called = ptm(IMAGE, points, graph().batch, None, graph())
    torch.testing.assert_close(called, ptm.projection(wanted))
    assert torch.equal(ptm(IMAGE, points, graph().batch, features), ptm.projection(features))


def test_a_frozen_graph_model_gives_no_gradient_and_a_learning_one_does():
    ptm = PTM(Sums(), RECORD, 7)
    ptm(IMAGE, graph=graph()).sum().backward()
    assert ptm.backbone.weight.grad is not None
    ptm.backbone.requires_grad_(False)
    assert not ptm.features(IMAGE, graph=graph()).requires_grad
    learned = dataclasses.replace(graph(), nodes=graph().nodes.requires_grad_())
    assert ptm.features(IMAGE, graph=learned).requires_grad


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "sums reads graphs, but was given none"),
        (graph(node_dim=5), "sums was made for graphs with 4 node features, but this graph has 5"),
        (graph(edge_dim=2), "sums was made for graphs with 3 edge features, but this graph has 2"),
        (dataclasses.replace(graph(), graph=torch.zeros(4, 6)), "there are 4 graphs, but 3 images"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        PTM(Sums(), RECORD, 7)(IMAGE, graph=given)


def test_points_are_as_many_as_nodes():
    with pytest.raises(UserError, match="there are 5 nodes, but 4 points"):
        PTM(Sums(), RECORD, 7, "sampled")(IMAGE, POINTS[:4], graph().batch[:4], None, graph())


@pytest.fixture
def table(monkeypatch):
    """The registry, with one graph model; as it was afterwards."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register_ptm(PTMType(RECORD, lambda config, record: (Sums(), record)))


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_graph_and_image_models_fuse_cached_or_not(table, readout):
    ptms = [{"model_type": "sums"}, {"model_type": "graph_cnn", "freeze": True, "pooling": "max"}]
    extractor = MultiPTMFeatureExtractor(8, 4, ptms, context_input_dim=5, readout=readout)
    g, context = graph(), torch.randn(3, 5)
    where = {"points": POINTS, "batch": g.batch} if readout == "sampled" else {}
    fused = extractor(IMAGE, context, graph=g, **where)
    assert fused.shape == (5 if where else 3, 8)
    cached = extractor.precompute(IMAGE, graph=g)
    assert set(cached) == {"sums", "graph_cnn"}
    torch.testing.assert_close(extractor(IMAGE, context, graph=g, cached=cached, **where), fused)
    assert set(extractor.precompute(IMAGE)) == {"graph_cnn"}


def test_a_graph_model_has_no_image_to_enlarge(table):
    with pytest.raises(ValueError, match="reads graphs and has no image to enlarge"):
        PTMConfig(model_type="sums", upsample=48)


class Steps(Backbone):
    """A map of two channels, and twice the image's first pixel as its own summary."""

    def forward(self, image):
        return image[:, :2, ::12, ::12]

    def with_token(self, image):
        return self(image), 2 * image[:, :2, 0, 0]


MAPS = dataclasses.replace(
    RECORD, reads="image", mean=(0.0,) * 3, std=(1.0,) * 3, node_dim=None, edge_dim=None, token_tap="end"
)


@pytest.mark.parametrize("pooling", ["mean", "max", "token"])
@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_pooling_of_maps_cached_in_every_form(readout, pooling):
    ptm = PTM(Steps(), MAPS, 7, readout, pooling)
    maps = IMAGE[:, :2, ::12, ::12]
    pooled = {
        "mean": maps.mean((2, 3)),
        "max": maps.flatten(2).max(2).values,
        "token": 2 * IMAGE[:, :2, 0, 0],
    }
    batch = torch.tensor([0, 0, 1, 2, 2])
    corner = torch.full((5, 2), -1.0)
    rows = (
        pooled[pooling]
        if readout == "pooled"
        else torch.cat([maps[batch, :, 0, 0], pooled[pooling][batch]], 1)
    )
    points = () if readout == "pooled" else (corner, batch)
    torch.testing.assert_close(ptm.features(IMAGE, *points), rows)
    torch.testing.assert_close(ptm(IMAGE, *points), ptm.projection(rows))
    for cached in (ptm.features(IMAGE), ptm.features(IMAGE, *points)):
        torch.testing.assert_close(ptm(IMAGE, corner, batch, cached), ptm.projection(rows))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (dataclasses.replace(MAPS, token_tap=None), "sums has no summary of its own"),
        (dataclasses.replace(MAPS, token_tap="last"), "at tap 'last' alone, not at 'end'"),
    ],
)
def test_a_summary_is_refused_where_there_is_none(record, message):
    with pytest.raises(UserError, match=message):
        PTM(Steps(), record, 7, "pooled", "token")
    with pytest.raises(ValueError, match="graph_cnn has no summary of its own"):
        PTMConfig(model_type="graph_cnn", pooling="token")
