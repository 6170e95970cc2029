"""A small message-passing network for graphs, meant to be pre-trained on connectivity."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.segments import segment_max, segment_mean
from durotaxis.fusion.backbones import GraphBackbone, seeded_generator
from durotaxis.fusion.config import PTMConfig
from durotaxis.fusion.graph import GraphInput
from durotaxis.fusion.registry import PTMRecord
from durotaxis.fusion.sources import find_weights
from durotaxis.fusion.weights import load_matching, read_state


class Layer(nn.Module):
    """Messages along every edge both ways, mean and maximum over each node's, a residual step, LayerNorm."""

    def __init__(self, width: int, edge_dim: int) -> None:
        super().__init__()
        self.sender = nn.Linear(width, 2 * width)  # what a node says to its targets, and to its sources
        self.edge = nn.Linear(edge_dim, 2 * width)
        self.update = nn.Linear(5 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, edge_index: Tensor, edges: Tensor) -> Tensor:
        """[n, F] to [n, F]."""
        source, target = edge_index
        to_target, to_source = self.sender(nodes).chunk(2, 1)
        down, up = self.edge(edges).chunk(2, 1)
        heard = []
        for message, at in ((to_target[source] + down, target), (to_source[target] + up, source)):
            message = functional.gelu(message)
            heard += [segment_mean(message, at, len(nodes)), segment_max(message, at, len(nodes))]
        step = functional.gelu(self.update(torch.cat([nodes, *heard], 1)))
        return self.norm(nodes + step)


class GraphGNN(GraphBackbone):
    """Up to four layers of width 64. Reads nodes and edges.

    The graph features are left out: with the numbers of nodes and edges among them, the number of trees of a
    forest would be a subtraction, and nothing about connections would have to be learned.
    """

    def __init__(self, record: PTMRecord) -> None:
        super().__init__()
        assert record.node_dim is not None
        assert record.edge_dim is not None
        self.nodes = nn.Linear(record.node_dim, record.width)
        self.layers = nn.ModuleDict()
        for name, width in record.taps.items():
            self.layers[name] = Layer(width, record.edge_dim)
            if name == record.tap:
                break
        self.eval()

    def forward(self, graph: GraphInput) -> Tensor:
        """Features of each node at the tap, [n, 64]."""
        nodes = functional.gelu(self.nodes(graph.nodes))
        for layer in self.layers.values():
            nodes = layer(nodes, graph.edge_index, graph.edges)
        return nodes

    def blocks(self) -> list[nn.Module]:
        """The layers."""
        return list(self.layers.values())


def initialise_linear(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all linear layers anew, in place: uniform within 1/sqrt(inputs), as torch does; norms 1 and 0."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            bound = child.in_features**-0.5
            nn.init.uniform_(child.weight, -bound, bound, generator=generator)
            nn.init.uniform_(child.bias, -bound, bound, generator=generator)
        elif isinstance(child, nn.LayerNorm):
            child.reset_parameters()


def build_graph_gnn(config: PTMConfig, record: PTMRecord) -> tuple[GraphBackbone, PTMRecord]:
    """A freshly initialised `GraphGNN`; without a seed its weights follow torch's global random numbers."""
    backbone = GraphGNN(record)
    initialise_linear(backbone, seeded_generator(config.seed))
    drawn = "the run's random numbers" if config.seed is None else f"seed {config.seed}"
    return backbone, dataclasses.replace(record, source=f"random initialisation from {drawn}")


def build_pretrained_graph_gnn(config: PTMConfig, record: PTMRecord) -> tuple[GraphBackbone, PTMRecord]:
    """A `GraphGNN` with the weights of the package, or of the file that `config.weights` names.

    Raises UserError (MissingWeightsError) if they cannot be had or do not fit.
    """
    file = find_weights(record.model_type, None, config.weights, config.sha256)
    whole = GraphGNN(dataclasses.replace(record, tap=list(record.taps)[-1]))
    backbone = GraphGNN(record)
    load_matching(backbone, read_state(file.path), whole.state_dict(), file.path)
    source = record.source if config.weights is None else str(file.path)
    return backbone, dataclasses.replace(record, sha256=file.sha256, source=source)
