"""What weight sharing attention is compared with: simpler rules behind the same interface.

All of them see embeddings that passed the LayerNorm without parameters, as attention does; only `paper` sees
them as they are, which is part of what it is.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float
from durotaxis.fusion.combine import (
    AttentionFusion,
    Fusion,
    MeanFusion,
    gated_softmax,
    no_scores,
    normalise,
)
from durotaxis.fusion.config import WSAConfig
from durotaxis.fusion.state_encoder import StateEncoder
from durotaxis.fusion.wsa import WeightSharingAttention

_RESIDUAL_STD = 1e-3
_TOLERANCE = 0.01


@final
class FirstFusion(Fusion):
    """The first open model alone, whatever the value of its gate. No parameters.

    There is no attention; in its place stands the one-hot choice.
    """

    reads_context = False
    weighs = False

    def combine(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
        uniform: bool = False,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K H"]]:
        """Normalised embedding of the first model with a gate above 0."""
        is_open = gated_softmax(no_scores(embeddings), gates).squeeze(2) > 0
        first = is_open.int().argmax(1)
        chosen = functional.one_hot(first, embeddings.shape[1]).to(embeddings.dtype)
        own = embeddings[torch.arange(len(first), device=first.device), first]
        return functional.layer_norm(own, own.shape[-1:]), chosen.unsqueeze(2)


@final
class ConcatFusion(Fusion):
    """All K embeddings side by side: R has width K·D. No parameters of its own, but wider heads.

    Each embedding is multiplied by its gate. There is no attention; in its place stand the gates' shares,
    which are uniform over open models while gates are 0 or 1.
    """

    reads_context = False
    weighs = False
    any_number = False

    @classmethod
    def representation_dim(cls, embedding_dim: int, num_ptms: int) -> int:
        """K·D."""
        return embedding_dim * num_ptms

    def combine(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
        uniform: bool = False,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K H"]]:
        """[g_1 E_1 ; ... ; g_K E_K]."""
        return concatenate(embeddings, gates)


@final
class ProjectedConcatFusion(Fusion):
    """Linear, from all K embeddings side by side (each multiplied by its gate) to D.

    There is no attention; see `ConcatFusion`.
    """

    reads_context = False
    weighs = False
    any_number = False

    def __init__(self, embedding_dim: int, num_ptms: int) -> None:
        super().__init__()
        self.projection = nn.Linear(embedding_dim * num_ptms, embedding_dim)

    def combine(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
        uniform: bool = False,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K H"]]:
        """Linear([g_1 E_1 ; ... ; g_K E_K])."""
        joined, shares = concatenate(embeddings, gates)
        return self.projection(joined), shares


@final
class DotProductFusion(AttentionFusion):
    """Scaled dot-product attention with one query per row: softmax_i(Linear(C) · E_i / √D).

    Keys and values are the normalised embeddings (Vaswani et al. 2017, "Attention is all you need", eq. 1).
    """

    def __init__(self, embedding_dim: int, context_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(context_dim, embedding_dim)

    def scores(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """Query times key over √D."""
        scale = 1.0 / math.sqrt(embeddings.shape[-1])
        return torch.einsum("rd,rkd->rk", self.query(context), embeddings).unsqueeze(2) * scale


@final
class PaperFusion(AttentionFusion):
    """Weight sharing attention as published: softmax_i(ReLU(Linear([C ; E_i]))), embeddings as they are.

    Piccoli et al. 2025, arXiv 2507.07197. In a row whose scores are all at most 0 the ReLU leaves attention
    uniform and the scorer without gradient. In a row whose scores are all above 0 the context has no
    effect, because one linear layer adds it to every score alike.
    """

    def __init__(self, embedding_dim: int, context_dim: int) -> None:
        super().__init__()
        self.scorer = nn.Linear(context_dim + embedding_dim, 1)

    def prepare(self, embeddings: Float[Tensor, "R K D"]) -> Float[Tensor, "R K D"]:
        """Unchanged."""
        return embeddings

    def scores(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """ReLU(Linear([C ; E_i]))."""
        repeated = context.unsqueeze(1).expand(-1, embeddings.shape[1], -1)
        return functional.relu(self.scorer(torch.cat([repeated, embeddings], 2)))


@final
class ResidualMLP(nn.Module):
    """R + MLP(R), which gives a rule as many parameters as another one has.

    The MLP is Linear to `hidden`, GELU, Linear back, its last layer near zero at the start.
    """

    def __init__(self, width: int, hidden: int, output_bias: bool) -> None:
        super().__init__()
        self.input_layer = nn.Linear(width, hidden)
        self.output_layer = nn.Linear(hidden, width, bias=output_bias)
        nn.init.normal_(self.output_layer.weight, std=_RESIDUAL_STD)
        if output_bias:
            nn.init.zeros_(self.output_layer.bias)

    def forward(self, representation: Float[Tensor, "R W"]) -> Float[Tensor, "R W"]:
        """The representation and what the MLP makes of it."""
        return representation + self.output_layer(functional.gelu(self.input_layer(representation)))


RULES: dict[str, type[Fusion]] = {
    "wsa": WeightSharingAttention,
    "mean": MeanFusion,
    "first": FirstFusion,
    "concat": ConcatFusion,
    "projected_concat": ProjectedConcatFusion,
    "dot_product": DotProductFusion,
    "paper": PaperFusion,
}


def concatenate(
    embeddings: Float[Tensor, "R K D"], gates: Tensor | None
) -> tuple[Float[Tensor, "R KD"], Float[Tensor, "R K 1"]]:
    """Normalised embeddings, each times its gate, side by side; and the shares of the gates."""
    shares = gated_softmax(no_scores(embeddings), gates)
    parts = normalise(embeddings)
    if gates is not None:
        parts = parts * gates.to(parts.dtype).unsqueeze(-1)
    return parts.flatten(1), shares


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters of some modules, trainable or not."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def build_fusion(config: WSAConfig) -> Fusion:
    """The rule that `config.fusion` names."""
    width, context = config.embedding_dim, config.context_dim
    match config.fusion:
        case "wsa":
            return WeightSharingAttention(
                width,
                context,
                config.initial_temperature,
                config.num_heads,
                learn_temperature=config.learn_temperature,
                hidden_dims=config.hidden_dims,
            )
        case "mean":
            return MeanFusion()
        case "first":
            return FirstFusion()
        case "concat":
            return ConcatFusion()
        case "projected_concat":
            return ProjectedConcatFusion(width, len(config.ptms))
        case "dot_product":
            return DotProductFusion(width, context)
        case "paper":
            return PaperFusion(width, context)


def build_widening(config: WSAConfig, rule: Fusion, context_input_dim: int) -> nn.Module:
    """What follows the rule: nothing, or with `match_parameters` the residual MLP of the right size.

    The size is the one that brings rule, state encoder and MLP closest to the rule and state encoder of
    weight sharing attention with the same widths. With W entries in R and h hidden units the MLP has
    h (2 W + 1) parameters, and W more with a bias at its end.

    Raises UserError where no such MLP comes within 1 %, as for a rule that has more parameters already.
    """
    if not config.match_parameters or config.fusion == "wsa":
        return nn.Identity()
    with torch.device("meta"):
        attention = WeightSharingAttention(
            config.embedding_dim,
            config.context_dim,
            num_heads=config.num_heads,
            hidden_dims=config.hidden_dims,
        )
        encoder = StateEncoder(context_input_dim, config.context_dim)
    target = count_parameters(attention, encoder)
    own = count_parameters(rule, *([encoder] if rule.reads_context else []))
    width = rule.representation_dim(config.embedding_dim, len(config.ptms))

    def excess(hidden: int, output_bias: bool) -> int:
        return own + hidden * (2 * width + 1) + output_bias * width - target

    sizes = [(round(-excess(0, bias) / (2 * width + 1)), bias) for bias in (False, True)]
    hidden, output_bias = min(sizes, key=lambda size: abs(excess(*size)))
    if hidden < 1 or abs(excess(hidden, output_bias)) > _TOLERANCE * target:
        raise UserError(
            f"match_parameters: fusion '{config.fusion}' has {own:,} parameters, weight sharing attention "
            f"{target:,}; no residual MLP on {width:,} entries brings it within 1 %; "
            "raise hidden_dims or context_dim, lower embedding_dim, or do without match_parameters"
        )
    return ResidualMLP(width, hidden, output_bias)
