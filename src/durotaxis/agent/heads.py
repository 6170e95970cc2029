"""From a node's token and its representation to what the node may do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.agent.distributions import ActionParameters

_HEAD_GAIN = 0.01
"""Heads start so small that kinds are equally likely and the parameters' densities symmetric and flat."""


class ActionHeads(nn.Module):
    """[node token ; R] -> Linear, GELU, LayerNorm -> logits of the kinds, alpha and beta of the parameters.

    Node tokens pass a LayerNorm without parameters first, as embeddings do before they are summed to R:
    neither half drowns the other.

    Args:
        token_dim: width of node tokens.
        representation_dim: width of R.
        hidden_dim: width of the hidden layer.
        num_discrete_actions: number of kinds.
        continuous_dim: number of parameters.
        dropout_rate: after the hidden layer, in training mode only.
    """

    def __init__(
        self,
        token_dim: int,
        representation_dim: int,
        hidden_dim: int,
        num_discrete_actions: int,
        continuous_dim: int,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self.action_mlp = nn.Sequential(
            nn.Linear(token_dim + representation_dim, hidden_dim),
            nn.GELU(),
            nn.LayerNorm(hidden_dim),
            nn.Dropout(dropout_rate),
        )
        self.discrete_head = _small_linear(hidden_dim, num_discrete_actions)
        self.continuous_head = _small_linear(hidden_dim, 2 * continuous_dim)

    def forward(self, node_tokens: Tensor, representation: Tensor) -> ActionParameters:
        """Parameters of the action distribution of n nodes, from [n,token_dim] and [n,representation_dim]."""
        tokens = functional.layer_norm(node_tokens, node_tokens.shape[-1:])
        hidden = self.action_mlp(torch.cat([tokens, representation], -1))
        alpha, beta = (1.0 + functional.softplus(self.continuous_head(hidden).float())).chunk(2, -1)
        return ActionParameters(self.discrete_head(hidden).float(), alpha, beta)


def _small_linear(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim)
    nn.init.orthogonal_(layer.weight, gain=_HEAD_GAIN)
    nn.init.zeros_(layer.bias)
    return layer
