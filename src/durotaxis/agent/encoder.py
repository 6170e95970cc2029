"""The graph encoder: a graph transformer over the forest, with one token that sees the whole colony.

    node, edge and graph features -> MLPs
    -> num_layers x [attention over neighbours, residual, LayerNorm, GELU]
    -> Linear, LayerNorm, SimplicialEmbedding -> node tokens, graph token

The attention is that of TransformerConv (Shi et al. 2021, "Masked label prediction: unified message passing
model for semi-supervised classification", equations 3 and 4, without the gated residual). A virtual graph
token is joined to every node in both directions (Gilmer et al. 2017, "Neural message passing for quantum
chemistry"), so two layers carry a message across any colony.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from durotaxis.agent.config import EncoderConfig
from durotaxis.agent.graph import FlatGraph
from durotaxis.agent.simplicial import SimplicialEmbedding
from durotaxis.core.recompute import recomputed
from durotaxis.core.segments import at_least_float32, segment_softmax, segment_sum
from durotaxis.env.types import EDGE_FEATURES, GRAPH_FEATURES, NODE_FEATURES


class ForestAttention(nn.Module):
    """TransformerConv on forests whose nodes are all joined to the token of their colony.

    For a target i with neighbours j and edge features e_ij, per head of width d, heads concatenated,

        a_ij = softmax_j(q_i · (k_j + W e_ij) / sqrt(d)),    out_i = W_s x_i + Σ_j a_ij (v_j + W e_ij).

    The neighbours of a node are its parent, its children and its colony's token; those of a token are all
    nodes of its colony. Every node has one parent and one token, so all edges are rows aligned with the
    nodes: nothing is kept per edge, and the token's edges share two feature vectors.

    Args:
        width: size of tokens, edge features and output; divisible by `num_heads`.
        num_heads: attention heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.skip = nn.Linear(width, width)
        self.edge = nn.Linear(width, width, bias=False)

    def forward(self, rows: Tensor, edges: Tensor, parent: Tensor, batch: Tensor) -> Tensor:
        """One round of attention over n nodes and B tokens.

        Args:
            rows: [n+B,width], nodes then tokens.
            edges: [2n+2,width] features of: parent -> node (n rows, ignored at roots), node -> parent (n),
                token -> node (1), node -> token (1).
            parent: [n] int64, -1 at roots.
            batch: [n] int64, the token of each node.

        Returns:
            [n+B,width], nodes then tokens.
        """
        n, num_tokens, heads = len(batch), len(rows) - len(batch), self.num_heads
        above, root = parent.clamp_min(0), (parent < 0).unsqueeze(-1)
        down, up, star = self.edge(edges).unflatten(-1, (heads, -1)).split([n, n, 2])

        def of_node_parent_token(projection: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
            nodes, tokens = projection(rows).unflatten(-1, (heads, -1)).split([n, num_tokens])
            return nodes, nodes.index_select(0, above), tokens.index_select(0, batch)

        query, query_above, query_token = of_node_parent_token(self.query)
        key, key_above, key_token = of_node_parent_token(self.key)
        value, value_above, value_token = of_node_parent_token(self.value)

        from_parent = _score(query, key_above + down).masked_fill(root, -torch.inf)
        to_parent = _score(query_above, key + up).masked_fill(root, -torch.inf)
        from_token = _score(query, key_token + star[0])
        to_token = _score(query_token, key + star[1])
        from_parent, to_parent, from_token = _softmax_of_nodes(from_parent, to_parent, from_token, above)
        to_token = segment_softmax(to_token, batch, num_tokens)

        nodes = from_parent.unsqueeze(-1) * (value_above + down)
        nodes = nodes + from_token.unsqueeze(-1) * (value_token + star[0])
        nodes = nodes.index_add(0, above, to_parent.unsqueeze(-1) * (value + up))
        tokens = segment_sum(to_token.unsqueeze(-1) * (value + star[1]), batch, num_tokens)
        return torch.cat([nodes, tokens]).flatten(1) + self.skip(rows)


class Encoder(nn.Module):
    """Node, edge and graph features to node tokens and one graph token per colony.

    A colony's tokens depend neither on its companions in the batch nor on the order of its nodes.

    Args:
        config: widths, depth, heads, simplicial embedding.
        node_dim, edge_dim, graph_dim: numbers of features; an edge is a length and a unit vector.

    Attributes:
        out_dim: width of node and graph tokens.
    """

    def __init__(
        self,
        config: EncoderConfig | None = None,
        *,
        node_dim: int = len(NODE_FEATURES),
        edge_dim: int = len(EDGE_FEATURES),
        graph_dim: int = len(GRAPH_FEATURES),
    ) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        width, depth, simplicial = config.hidden_dim, config.num_layers, config.simplicial
        self.out_dim = config.out_dim
        self.node_mlp = _mlp(node_dim, width)
        self.edge_mlp = _mlp(edge_dim + 1, width)  # the extra input tells the two directions apart
        self.graph_mlp = _mlp(graph_dim, width)
        self.star = nn.Parameter(nn.init.normal_(torch.empty(2, width), std=0.02))
        self.layers = nn.ModuleList(ForestAttention(width, config.num_heads) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.out = nn.Sequential(nn.Linear(width, config.out_dim), nn.LayerNorm(config.out_dim))
        self.simplicial = (
            nn.Identity()
            if simplicial == "off"
            else SimplicialEmbedding(config.out_dim, simplicial.groups, simplicial.temperature)
        )

    def forward(self, graph: FlatGraph) -> tuple[Tensor, Tensor]:
        """Encode a flat batch: node tokens [n,out_dim] and graph tokens [B,out_dim]."""
        rows = torch.cat([self.node_mlp(graph.nodes), self.graph_mlp(graph.graph)])
        edges = torch.cat([self.edge_mlp(_both_directions(graph.edges)), self.star])
        for attention, norm in zip(self.layers, self.norms, strict=True):
            inputs = (attention, norm, rows, edges, graph.parent, graph.batch)
            rows = recomputed(_layer, *inputs) if self.config.gradient_checkpointing else _layer(*inputs)
        rows = self.simplicial(self.out(rows))
        return rows[: len(graph.nodes)], rows[len(graph.nodes) :]


def _layer(
    attention: nn.Module, norm: nn.Module, rows: Tensor, edges: Tensor, parent: Tensor, batch: Tensor
) -> Tensor:
    return nn.functional.gelu(norm(rows + attention(rows, edges, parent, batch)))


def _both_directions(edges: Tensor) -> Tensor:
    """Features of parent -> node, then node -> parent: the same length, the opposite direction and flag."""
    length, unit = edges[:, :1], edges[:, 1:]
    flag = torch.ones_like(length)
    return torch.cat([torch.cat([length, unit, flag], -1), torch.cat([length, -unit, -flag], -1)])


def _score(query: Tensor, key: Tensor) -> Tensor:
    product = (query * key).sum(-1)
    return product.to(at_least_float32(product)) / math.sqrt(key.shape[-1])


def _softmax_of_nodes(
    from_parent: Tensor, to_parent: Tensor, from_token: Tensor, above: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over each node's incoming edges, scores [n,H]; `to_parent` belongs to the parent's softmax."""
    index = above.unsqueeze(-1).expand_as(to_parent)
    peak = torch.maximum(from_parent, from_token).detach()
    peak = peak.scatter_reduce(0, index, to_parent.detach(), "amax")
    from_parent, from_token = (from_parent - peak).exp(), (from_token - peak).exp()
    to_parent = (to_parent - peak[above]).exp()
    total = (from_parent + from_token).index_add(0, above, to_parent)
    return from_parent / total, to_parent / total[above], from_token / total


def _mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.GELU())
