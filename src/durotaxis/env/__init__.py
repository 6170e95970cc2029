"""The world: colonies that grow and shrink on elastic substrates, batched, in pure functions."""

from durotaxis.env.check import ActionError, check_action
from durotaxis.env.config import (
    EnvConfig,
    MoatConfig,
    ObservationConfig,
    RewardConfig,
    SpawnBounds,
    SubstrateConfig,
)
from durotaxis.env.conformance import ConformanceError, check_env
from durotaxis.env.env import (
    PHASES,
    DurotaxisEnv,
    front_progress,
    outcome,
    reset,
    reset_where,
    step,
    total_reward,
)
from durotaxis.env.observation import action_mask, observe
from durotaxis.env.scenarios import SCENARIOS
from durotaxis.env.stages import StagedEnv, StageError, stage_configs
from durotaxis.env.substrate import Substrate, log_gradient, stiffness
from durotaxis.env.types import (
    EDGE_FEATURES,
    FIELD_CHANNELS,
    GRAPH_FEATURES,
    NODE_FEATURES,
    PARAMETERS,
    Action,
    Colony,
    Kind,
    Observation,
    Reason,
    Transition,
)

__all__ = [
    "EDGE_FEATURES",
    "FIELD_CHANNELS",
    "GRAPH_FEATURES",
    "NODE_FEATURES",
    "PARAMETERS",
    "PHASES",
    "SCENARIOS",
    "Action",
    "ActionError",
    "Colony",
    "ConformanceError",
    "DurotaxisEnv",
    "EnvConfig",
    "Kind",
    "MoatConfig",
    "Observation",
    "ObservationConfig",
    "Reason",
    "RewardConfig",
    "SpawnBounds",
    "StageError",
    "StagedEnv",
    "Substrate",
    "SubstrateConfig",
    "Transition",
    "action_mask",
    "check_action",
    "check_env",
    "front_progress",
    "log_gradient",
    "observe",
    "outcome",
    "reset",
    "reset_where",
    "stage_configs",
    "step",
    "stiffness",
    "total_reward",
]
