"""The critic: the value of a colony's state, the same in every arm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.env.types import FIELD_CHANNELS

_FIELD_DIM = 64


class Critic(nn.Module):
    """[graph token ; small CNN of the field, when it is observed] -> Linear, GELU, LayerNorm -> value.

    Args:
        encoder_out_dim: width of the graph token.
        hidden_dim: width of the hidden layer.
        dropout_rate: after the hidden layer, in training mode only.
        observes_field: whether the field is given.
    """

    def __init__(
        self, encoder_out_dim: int, hidden_dim: int, dropout_rate: float = 0.0, observes_field: bool = False
    ) -> None:
        super().__init__()
        self.field_cnn = _field_cnn() if observes_field else None
        self.value_mlp = nn.Sequential(
            nn.Linear(encoder_out_dim + (_FIELD_DIM if observes_field else 0), hidden_dim),
            nn.GELU(),
            nn.LayerNorm(hidden_dim),
            nn.Dropout(dropout_rate),
        )
        self.value_head = nn.Linear(hidden_dim, 1)
        nn.init.orthogonal_(self.value_head.weight, gain=0.1)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, graph_token: Tensor, field: Tensor | None = None) -> Tensor:
        """Values [B] float32 from graph tokens [B,d] and, if built for it, fields [B,3,24,24].

        Raises:
            UserError: when the field it was built for is missing.
        """
        inputs = [functional.layer_norm(graph_token, graph_token.shape[-1:])]
        if self.field_cnn is not None:
            if field is None:
                raise UserError("the critic needs the field: set env.observation.field=true")
            inputs.append(self.field_cnn(field))
        return self.value_head(self.value_mlp(torch.cat(inputs, -1))).squeeze(-1).float()


def _field_cnn() -> nn.Sequential:
    """Three strided convolutions, 24 to 3 pixels, then a Linear to 64."""
    return nn.Sequential(
        nn.Conv2d(len(FIELD_CHANNELS), 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 3 * 3, _FIELD_DIM),
        nn.LayerNorm(_FIELD_DIM),
        nn.GELU(),
    )
