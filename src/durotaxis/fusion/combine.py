"""The interface of every fusion rule, and the arithmetic they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.core.shapes import Float


class Fusion(nn.Module, ABC):
    """A rule that combines the embeddings of K models into one representation per row.

    Gates in [0, 1], [K] or [R, K], open and close models: 1 leaves a model alone, 0 excludes it exactly,
    values between scale its odds.

    `reads_context` says whether the context matters; if not, none needs to be encoded.
    """

    reads_context: ClassVar[bool] = True

    @abstractmethod
    def forward(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
    ) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R K"]]:
        """Representation and attention; attention rows sum to 1."""


class MeanFusion(Fusion):
    """Every model weighs the same: the control for learned attention. No parameters."""

    reads_context = False

    def forward(
        self,
        context: Float[Tensor, "R C"],
        embeddings: Float[Tensor, "R K D"],
        gates: Tensor | None = None,
    ) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R K"]]:
        """Mean of the normalised embeddings (weighted by gates), and uniform attention."""
        scores = embeddings.new_zeros((*embeddings.shape[:2], 1))
        attention = gated_softmax(scores, gates)
        return weighted_sum(attention, normalise(embeddings)), attention.mean(2)


def normalise(embeddings: Float[Tensor, "R K D"]) -> Float[Tensor, "R K D"]:
    """LayerNorm without parameters over D, so that no model wins by its scale."""
    return functional.layer_norm(embeddings, embeddings.shape[-1:])


def gated_softmax(scores: Float[Tensor, "R K H"], gates: Tensor | None) -> Float[Tensor, "R K H"]:
    """softmax over K of score + log(gate); a gate of 0 gives exactly 0.

    Raises UserError if gates have the wrong shape, leave [0, 1], or are all 0 in a row.
    """
    if gates is not None:
        if gates.shape not in (scores.shape[1:2], scores.shape[:2]):
            raise UserError(
                f"gates have shape {list(gates.shape)}, but there are {scores.shape[1]} PTMs and "
                f"{scores.shape[0]} rows; give [K] or [rows, K]"
            )
        if not bool(((gates >= 0) & (gates <= 1)).all()):
            raise UserError("gates must lie in [0, 1]")
        if not bool((gates > 0).any(-1).all()):
            raise UserError("all gates are 0 in a row; at least one PTM must stay open")
        scores = scores + gates.to(scores.dtype).log().unsqueeze(-1)
    return torch.softmax(scores, dim=1)


def weighted_sum(
    attention: Float[Tensor, "R K H"], embeddings: Float[Tensor, "R K D"]
) -> Float[Tensor, "R D"]:
    """Sum over K of attention times embedding; with H heads, each weighs its own D/H entries."""
    rows, num_ptms, width = embeddings.shape
    heads = attention.shape[2]
    parts = embeddings.view(rows, num_ptms, heads, width // heads)
    return torch.einsum("rkh,rkhd->rhd", attention, parts).reshape(rows, width)
