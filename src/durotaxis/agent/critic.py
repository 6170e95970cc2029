"""The critic: the value of a colony's state, the same in every arm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float, Int
from durotaxis.env.types import FIELD_CHANNELS

TOTAL = ("total",)
_FIELD_DIM = 64


class ValueHead(nn.Linear):
    """The last layer of a critic: value = mean + std · (weight x + bias), one row per value.

    What is learned is of order 1 whatever the scale of the rewards, once `rescale` follows the scale of what
    the values should be (PopArt: van Hasselt et al. 2016). With mean 0 and std 1, as it starts, it is a plain
    Linear to the bit.

    Args:
        in_features: width of x.
        num_values: V.

    Attributes:
        mean, std: [V] float32, in the units of the reward.
        updates: [V] int64, how often each was set by `rescale`.
    """

    mean: Tensor
    std: Tensor
    updates: Tensor

    def __init__(self, in_features: int, num_values: int) -> None:
        super().__init__(in_features, num_values)
        self.register_buffer("mean", torch.zeros(num_values))
        self.register_buffer("std", torch.ones(num_values))
        self.register_buffer("updates", torch.zeros(num_values, dtype=torch.int64))
        nn.init.orthogonal_(self.weight, gain=0.1)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Values [B,V] float32, in the units of the reward, from [B,in_features]."""
        return self.mean + self.std * super().forward(x).float()

    @torch.no_grad()
    def rescale(
        self, mean: Float[Tensor, " V"], std: Float[Tensor, " V"], updates: Int[Tensor, " V"]
    ) -> None:
        """Set the statistics, and correct weight and bias so that all values stay what they are.

        weight' = std/std' · weight,  bias' = (std · bias + mean - mean') / std'  (the paper's Proposition 1)
        """
        ratio = self.std.double() / std.double()
        shift = (self.mean.double() - mean.double()) / std.double()
        self.weight.copy_(ratio[:, None] * self.weight.double())
        self.bias.copy_(ratio * self.bias.double() + shift)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.updates.copy_(updates)


class Critic(nn.Module):
    """[graph token ; small CNN of the field, when it is observed] -> Linear, GELU, LayerNorm -> values.

    Args:
        encoder_out_dim: width of the graph token.
        hidden_dim: width of the hidden layer.
        dropout_rate: after the hidden layer, in training mode only.
        observes_field: whether the field is given.
        value_names: what the values are of: the total, or one reward term each.
    """

    def __init__(
        self,
        encoder_out_dim: int,
        hidden_dim: int,
        dropout_rate: float = 0.0,
        observes_field: bool = False,
        value_names: Sequence[str] = TOTAL,
    ) -> None:
        super().__init__()
        self.value_names = tuple(value_names)
        self.field_cnn = _field_cnn() if observes_field else None
        self.value_mlp = nn.Sequential(
            nn.Linear(encoder_out_dim + (_FIELD_DIM if observes_field else 0), hidden_dim),
            nn.GELU(),
            nn.LayerNorm(hidden_dim),
            nn.Dropout(dropout_rate),
        )
        self.value_head = ValueHead(hidden_dim, len(self.value_names))

    def forward(self, graph_token: Tensor, field: Tensor | None = None) -> Tensor:
        """Values from graph tokens [B,d] and, if built for it, fields [B,3,24,24].

        Returns:
            [B] float32 for the total; [B,V] for reward terms, in the order of `value_names`: their sum is the
            value of the state.

        Raises:
            UserError: when the field it was built for is missing.
        """
        inputs = [functional.layer_norm(graph_token, graph_token.shape[-1:])]
        if self.field_cnn is not None:
            if field is None:
                raise UserError("the critic needs the field: set env.observation.field=true")
            inputs.append(self.field_cnn(field))
        values = self.value_head(self.value_mlp(torch.cat(inputs, -1)))
        return values.squeeze(-1) if self.value_names == TOTAL else values


def state_value(values: Tensor) -> Float[Tensor, " B"]:
    """The value of a state, [B]: what a critic returns for the total, or the sum of its terms [B,V]."""
    return values if values.dim() == 1 else values.sum(-1)


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
