"""Weight Sharing Attention (WSA).

After "Combining Pre-Trained Models for Enhanced Feature Representation in Reinforcement Learning"
(Piccoli et al., arXiv 2507.07197): one small network, shared by all models, scores how useful each model's
embedding is in the present context, and the representation is their weighted sum.

    embedding E_1 ──LayerNorm──┬──[C ; E_1]──┐
    embedding E_2 ──LayerNorm──┼──[C ; E_2]──┤ shared MLP ── score_i ── softmax_i ── attention w_i
       ...                     │     ...     │
    embedding E_K ──LayerNorm──┼──[C ; E_K]──┘
                               │
                               └──────────── representation R = sum_i w_i E_i

Because the scorer is shared, it serves any number of models without new parameters, and their order does
not matter. Three things differ from the published code: scores pass no ReLU before the softmax (it leaves
whole states without gradient), embeddings are normalised so that scale is no vote, and the last layer
starts near zero so that training begins with every model heard alike.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float
from durotaxis.fusion.combine import AttentionFusion

_LAST_LAYER_STD = 1e-3


@final
class WeightSharingAttention(AttentionFusion):
    """attention = softmax_i(MLP([C ; E_i]) / temperature + log gate_i), R = sum_i attention_i E_i.

    Args:
        embedding_dim: D, divisible by `num_heads`.
        context_dim: C.
        temperature: positive; fixed unless `learn_temperature`, then learned through its logarithm.
        num_heads: the D entries are split into so many parts; the shared MLP gives one score for each.
        hidden_dims: widths of the scorer's two hidden layers.

    Raises UserError for a width that is not positive or not divisible, and a temperature not positive.
    """

    log_temperature: Tensor

    def __init__(
        self,
        embedding_dim: int,
        context_dim: int,
        temperature: float = 1.0,
        num_heads: int = 1,
        *,
        learn_temperature: bool = False,
        hidden_dims: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        if embedding_dim < 1 or context_dim < 1:
            raise UserError(f"embedding_dim {embedding_dim} and context_dim {context_dim} must be at least 1")
        if num_heads < 1 or embedding_dim % num_heads:
            raise UserError(f"embedding_dim {embedding_dim} is not divisible by num_heads {num_heads}")
        start = torch.tensor(math.log(_positive(temperature)))
        if learn_temperature:
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start)
        first, second = hidden_dims
        self.context_dim = context_dim
        self.input_layer = nn.Linear(context_dim + embedding_dim, first)
        self.input_norm = nn.LayerNorm(first)
        self.hidden_layer = nn.Linear(first, second)
        self.hidden_norm = nn.LayerNorm(second)
        self.output_layer = nn.Linear(second, num_heads)
        nn.init.normal_(self.output_layer.weight, std=_LAST_LAYER_STD)
        nn.init.zeros_(self.output_layer.bias)

    @property
    def temperature(self) -> float:
        """Present temperature; set it to follow a schedule (between an update and the next rollout)."""
        return math.exp(self.log_temperature.item())

    @temperature.setter
    def temperature(self, value: float) -> None:
        with torch.no_grad():
            self.log_temperature.fill_(math.log(_positive(value)))

    def score(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """Shared MLP on [C ; E_i], for embeddings as they are summed (normalised).

        The first layer's context half is computed once per row, not once per model.
        """
        weight = self.input_layer.weight
        from_context = functional.linear(context, weight[:, : self.context_dim], self.input_layer.bias)
        from_embedding = functional.linear(embeddings, weight[:, self.context_dim :])
        hidden = functional.gelu(self.input_norm(from_context.unsqueeze(1) + from_embedding))
        hidden = functional.gelu(self.hidden_norm(self.hidden_layer(hidden)))
        return self.output_layer(hidden)

    def scores(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """Output of the shared MLP over the temperature."""
        return self.score(context, embeddings) * torch.exp(-self.log_temperature)


def attention_entropy_penalty(
    attention: Float[Tensor, "R K *H"], gates: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean over rows of log K - H(attention): 0 when each row is uniform, log K when it is one model.

    Add it to the loss with a positive coefficient to keep attention spread in every state. With gates ([K] or
    [R, K]), it is computed on the attention there would be if every gate above 0 were 1, over these models
    alone. With heads ([R, K, H]), it is the mean over heads of each head's own penalty. Gradient flows
    through `attention`. 0 without rows.
    """
    share, uniform = _ungated(attention, gates)
    return _divergence(share, uniform).sum() / max(share[..., 0].numel(), 1)


def attention_balance_penalty(
    attention: Float[Tensor, "R K *H"], gates: Tensor | None = None
) -> Float[Tensor, ""]:
    """log K - H(mean attention over the batch): 0 when all models are used alike on average.

    Rows may be sharp, as long as different rows prefer different models. Gates, heads and empty batches as
    in `attention_entropy_penalty`.
    """
    share, uniform = _ungated(attention, gates)
    rows = max(len(share), 1)
    return _divergence(share.sum(0) / rows, uniform.sum(0) / rows).mean()


def _ungated(attention: Tensor, gates: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(score/temperature) over the open models, recovered as attention/gate, and uniform over them.

    [R, K] or [R, H, K]: models last.
    """
    attention = attention.movedim(1, -1)
    opened = torch.ones_like(attention)
    if gates is not None:
        per_head = gates.unsqueeze(1) if gates.dim() == 2 and attention.dim() == 3 else gates
        opened = per_head.to(attention.dtype).expand_as(attention)
    mask = (opened > 0).to(attention.dtype)
    share = attention / torch.where(opened > 0, opened, torch.ones_like(opened))
    return share / share.sum(-1, keepdim=True), mask / mask.sum(-1, keepdim=True)


def _divergence(share: Tensor, reference: Tensor) -> Tensor:
    """Kullback-Leibler divergence over the last axis, with 0 log 0 = 0."""
    tiny = torch.finfo(share.dtype).tiny
    return (share * (share.clamp_min(tiny).log() - reference.clamp_min(tiny).log())).sum(-1)


def _positive(temperature: float) -> float:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(f"temperature {temperature} must be positive and finite")
    return temperature
