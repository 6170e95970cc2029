"""What the state of a colony on its substrate implies: computed once a step, read by every rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from durotaxis.core.struct import Struct
from durotaxis.env.substrate import Substrate, coordinates, stiffness
from durotaxis.env.types import Colony


@final
@dataclass(frozen=True)
class Survey(Struct):
    """A batch of colonies on their substrates, measured. Empty slots hold finite, meaningless values."""

    colony: Colony
    substrate: Substrate
    s: Tensor  # [B,N] float32, µm, coordinate along `direction`
    t: Tensor  # [B,N] float32, µm, coordinate across
    stiffness: Tensor  # [B,N] float32, kPa
    num_nodes: Tensor  # [B] int64
    centroid: Tensor  # [B,2] float64, µm; 0 for an empty colony
    centroid_s: Tensor  # [B] float64, µm, its coordinate along `direction`
    front: Tensor  # [B] float32, µm, largest s of a living node; -inf for an empty colony


def survey(colony: Colony, substrate: Substrate) -> Survey:
    """Measure a batch of colonies."""
    s, t = coordinates(colony.position, substrate)
    num_nodes = colony.num_nodes
    # Empty slots lie at 0, so the sum needs no mask.
    centroid = colony.position.sum(1, dtype=torch.float64) / num_nodes.clamp_min(1)[:, None]
    return Survey(
        colony=colony,
        substrate=substrate,
        s=s,
        t=t,
        stiffness=stiffness(colony.position, substrate),
        num_nodes=num_nodes,
        centroid=centroid,
        centroid_s=(centroid * substrate.direction).sum(1) - substrate.origin[:, 0],
        front=torch.where(colony.alive, s, -torch.inf).amax(1),
    )


def node_mean(values: Tensor, alive: Tensor) -> Tensor:
    """Mean of finite values [B,N] over living nodes, [B] float64; 0 where there is none.

    Sums of a colony's float32 values are exact in float64, so that the result does not depend on the batch.
    """
    return (values * alive).sum(1, dtype=torch.float64) / alive.sum(1).clamp_min(1)
