"""Several pre-trained models (PTMs) into one representation, conditioned on context.

A library in its own right: it knows images, points and contexts as tensors, no colonies and no learning
algorithm. Names are imported on first use, so that reading a config does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durotaxis.fusion.backbones import Backbone as Backbone
    from durotaxis.fusion.backbones import GraphBackbone as GraphBackbone
    from durotaxis.fusion.calibration import MIN_CALIBRATION_IMAGES as MIN_CALIBRATION_IMAGES
    from durotaxis.fusion.calibration import calibrate as calibrate
    from durotaxis.fusion.check import PTMCheck as PTMCheck
    from durotaxis.fusion.check import check_ptm as check_ptm
    from durotaxis.fusion.combine import Fusion as Fusion
    from durotaxis.fusion.combine import MeanFusion as MeanFusion
    from durotaxis.fusion.config import PTMConfig as PTMConfig
    from durotaxis.fusion.config import WSAConfig as WSAConfig
    from durotaxis.fusion.extractor import Intervention as Intervention
    from durotaxis.fusion.extractor import MultiPTMFeatureExtractor as MultiPTMFeatureExtractor
    from durotaxis.fusion.graph import GraphInput as GraphInput
    from durotaxis.fusion.ptm import PTM as PTM
    from durotaxis.fusion.ptm import build_ptm as build_ptm
    from durotaxis.fusion.readout import sample_map as sample_map
    from durotaxis.fusion.registry import PTMRecord as PTMRecord
    from durotaxis.fusion.registry import PTMType as PTMType
    from durotaxis.fusion.registry import list_ptms as list_ptms
    from durotaxis.fusion.registry import register_ptm as register_ptm
    from durotaxis.fusion.sources import MissingWeightsError as MissingWeightsError
    from durotaxis.fusion.sources import weights_at_hand as weights_at_hand
    from durotaxis.fusion.state_encoder import StateEncoder as StateEncoder
    from durotaxis.fusion.wsa import WeightSharingAttention as WeightSharingAttention
    from durotaxis.fusion.wsa import attention_balance_penalty as attention_balance_penalty
    from durotaxis.fusion.wsa import attention_entropy_penalty as attention_entropy_penalty

_HOME = {
    "Backbone": "backbones",
    "GraphBackbone": "backbones",
    "MIN_CALIBRATION_IMAGES": "calibration",
    "calibrate": "calibration",
    "PTMCheck": "check",
    "check_ptm": "check",
    "Fusion": "combine",
    "MeanFusion": "combine",
    "PTMConfig": "config",
    "WSAConfig": "config",
    "Intervention": "extractor",
    "MultiPTMFeatureExtractor": "extractor",
    "GraphInput": "graph",
    "PTM": "ptm",
    "build_ptm": "ptm",
    "sample_map": "readout",
    "PTMRecord": "registry",
    "PTMType": "registry",
    "list_ptms": "registry",
    "register_ptm": "registry",
    "StateEncoder": "state_encoder",
    "MissingWeightsError": "sources",
    "weights_at_hand": "sources",
    "WeightSharingAttention": "wsa",
    "attention_balance_penalty": "wsa",
    "attention_entropy_penalty": "wsa",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'durotaxis.fusion' has no attribute '{name}'")
    return getattr(importlib.import_module(f"durotaxis.fusion.{_HOME[name]}"), name)
