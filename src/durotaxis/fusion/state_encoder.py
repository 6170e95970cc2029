"""What conditions attention: the context C, encoded from the state."""

from __future__ import annotations

from torch import Tensor, nn

from durotaxis.core.shapes import Float


class StateEncoder(nn.Module):
    """Two layers: Linear to 2C, LayerNorm, GELU, Linear to C, LayerNorm, GELU."""

    def __init__(self, input_dim: int, context_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_dim, 2 * context_dim),
            nn.LayerNorm(2 * context_dim),
            nn.GELU(),
            nn.Linear(2 * context_dim, context_dim),
            nn.LayerNorm(context_dim),
            nn.GELU(),
        )

    def forward(self, state: Float[Tensor, "R input_dim"]) -> Float[Tensor, "R C"]:
        """Context of each row."""
        return self.layers(state)
