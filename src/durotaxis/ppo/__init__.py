"""PPO for actions that factor over the nodes of a graph; knows neither colonies nor networks."""

from durotaxis.ppo.advantage import explained_variance, generalized_advantage, normalize
from durotaxis.ppo.checkpoint import Checkpoint, TrainState, library_versions, load, load_policy, misfits
from durotaxis.ppo.checks import FrozenError, InvariantError, NonFiniteError, RatioError
from durotaxis.ppo.config import MonitorConfig, PPOConfig, TrainingConfig
from durotaxis.ppo.evaluate import EvaluationStep, evaluate, report_seeds, summarize, tuning_seeds
from durotaxis.ppo.failure import FAILURE, Failure, load_failure, save_failure, with_failure_saved
from durotaxis.ppo.monitor import Status
from durotaxis.ppo.protocols import Choice, Distribution, Player, Policy, StepResult, World
from durotaxis.ppo.rollout import Rollout, collect, start
from durotaxis.ppo.train import Interrupted, train
from durotaxis.ppo.update import make_optimizer, update

__all__ = [
    "FAILURE",
    "Checkpoint",
    "Choice",
    "Distribution",
    "EvaluationStep",
    "Failure",
    "FrozenError",
    "Interrupted",
    "InvariantError",
    "MonitorConfig",
    "NonFiniteError",
    "PPOConfig",
    "Player",
    "Policy",
    "RatioError",
    "Rollout",
    "Status",
    "StepResult",
    "TrainState",
    "TrainingConfig",
    "World",
    "collect",
    "evaluate",
    "explained_variance",
    "generalized_advantage",
    "library_versions",
    "load",
    "load_failure",
    "load_policy",
    "make_optimizer",
    "misfits",
    "normalize",
    "report_seeds",
    "save_failure",
    "start",
    "summarize",
    "train",
    "tuning_seeds",
    "update",
    "with_failure_saved",
]
