"""The interface of every fusion rule, and the arithmetic they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.segments import at_least_float32
from durotaxis.core.shapes import Float


class Fusion(nn.Module, ABC):
    """A rule that combines the embeddings of K models into one representation per row.

    Gates in [0, 1], [K] or [R, K], open and close models: 1 leaves a model alone, 0 excludes it exactly,
    values between scale its odds.

    Attributes:
        reads_context: whether the context matters; if not, none needs to be encoded.
        weighs: whether R is a sum of embeddings weighted by attention, so that attention may be forced.
        any_number: whether its parameters and the width of R are the same for every number of models.
    """

    reads_context: ClassVar[bool] = True
    weighs: ClassVar[bool] = True
    any_number: ClassVar[bool] = True

    @classmethod
    def representation_dim(cls, embedding_dim: int, num_ptms: int) -> int:
        """Width of R for K = `num_ptms` embeddings of width D = `embedding_dim`."""
        return embedding_dim

    @abstractmethod
    def combine(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
        uniform: bool = False,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K H"]]:
        """Representation, and attention of each of H heads, which sums to 1 over K.

        `uniform` forces the attention that there would be if all scores were equal; rules that do not weigh
        have none to force.
        """

    def forward(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K"]]:
        """Representation, and attention averaged over heads; its rows sum to 1."""
        representation, attention = self.combine(context, embeddings, gates)
        return representation, attention.mean(2)


class AttentionFusion(Fusion):
    """attention = softmax_i(score_i + log gate_i), R = sum_i attention_i E_i; subclasses say what scores."""

    @abstractmethod
    def scores(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """What the softmax is taken of, for embeddings as they are summed."""

    def prepare(self, embeddings: Float[Tensor, "R K D"]) -> Float[Tensor, "R K D"]:
        """Embeddings as they are scored and summed."""
        return normalise(embeddings)

    @final
    def combine(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
        uniform: bool = False,
    ) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R K H"]]:
        """See `Fusion.combine`."""
        embeddings = self.prepare(embeddings)
        scores = no_scores(embeddings) if uniform else self.scores(context, embeddings)
        attention = gated_softmax(scores, gates)
        return weighted_sum(attention, embeddings), attention


@final
class MeanFusion(AttentionFusion):
    """Every model weighs the same: the control for learned attention. No parameters.

    R is the mean of the normalised embeddings, weighted by gates.
    """

    reads_context = False

    def scores(
        self, context: Float[Tensor, "R C"], embeddings: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "R K H"]:
        """Zeros."""
        return no_scores(embeddings)


def no_scores(embeddings: Float[Tensor, "R K D"]) -> Float[Tensor, "R K 1"]:
    """The scores of models among which nothing chooses."""
    return embeddings.new_zeros((*embeddings.shape[:2], 1))


def normalise(embeddings: Float[Tensor, "R K D"]) -> Float[Tensor, "R K D"]:
    """LayerNorm without parameters over D, so that no model wins by its scale."""
    return functional.layer_norm(embeddings, embeddings.shape[-1:])


def gated_softmax(scores: Float[Tensor, "R K H"], gates: Tensor | None) -> Float[Tensor, "R K H"]:
    """softmax over K of score + log(gate); a gate of 0 gives exactly 0.

    Raises UserError if gates have the wrong shape, leave [0, 1], or are all 0 in a row.
    """
    scores = scores.to(at_least_float32(scores))
    if gates is not None:
        require_gates(gates, *scores.shape[:2])
        if not bool((gates > 0).any(-1).all()):
            raise UserError("all gates are 0 in a row; at least one PTM must stay open")
        scores = scores + gates.to(scores.dtype).log().unsqueeze(-1)
    return torch.softmax(scores, dim=1)


def require_gates(gates: Tensor, num_rows: int, num_ptms: int) -> None:
    """Raises UserError if gates have the wrong shape or leave [0, 1]."""
    if gates.shape not in ((num_ptms,), (num_rows, num_ptms)):
        raise UserError(
            f"gates have shape {list(gates.shape)}, but there are {num_ptms} PTMs and {num_rows} rows; "
            "give [K] or [rows, K]"
        )
    if not bool(((gates >= 0) & (gates <= 1)).all()):
        raise UserError("gates must lie in [0, 1]")


def weighted_sum(
    attention: Float[Tensor, "R K H"], embeddings: Float[Tensor, "R K D"]
) -> Float[Tensor, "R D"]:
    """Sum over K of attention times embedding; with H heads, each weighs its own D/H entries."""
    rows, num_ptms, width = embeddings.shape
    heads = attention.shape[2]
    parts = embeddings.view(rows, num_ptms, heads, width // heads)
    # Matrices of K x D/H are too small for batched products: `einsum` takes more than twice as long.
    return (attention.unsqueeze(-1) * parts).sum(1).reshape(rows, width)
