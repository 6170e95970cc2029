"""What one pre-training is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from durotaxis.core.config import Config

Count = Annotated[int, Field(ge=1)]


class PretrainConfig(Config):
    """One pre-training; a pure function of this and of the files it names."""

    model: Literal["graph_cnn", "graph_gnn"] = "graph_cnn"
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = (
        None  # default: all that the model can be asked
    )
    steps: Count = 700  # gradient steps
    batch_size: int = Field(default=128, ge=4)  # scenes per step; a third of them with parts hidden
    scenes: int = Field(default=16_000, ge=56)  # scenes drawn before training, over all worlds
    learning_rate: float = Field(
        default=2e-3, gt=0, le=1
    )  # at its highest; rises for 5 % of the steps, then a cosine
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)  # of AdamW
    data: tuple[str, ...] = ()  # further networks: files, or pyg:<Dataset>; a quarter of the scenes
    data_root: str = str(Path("~/.cache/durotaxis/pyg"))  # where pyg datasets are kept
    seed: int = Field(default=0, ge=0, lt=2**31)
