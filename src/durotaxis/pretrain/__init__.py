"""Tasks of the domain that make pre-trained models, and probes that say what they have learned."""

from durotaxis.pretrain.config import PretrainConfig
from durotaxis.pretrain.files import describe_trunk, load_trunk, save_trunk
from durotaxis.pretrain.make import command_of, make_trunk
from durotaxis.pretrain.networks import Network, read_network
from durotaxis.pretrain.probe import Finding, probe_trunk
from durotaxis.pretrain.tasks import TASKS, TASKS_OF
from durotaxis.pretrain.worlds import HELD_OUT, TRAINING

__all__ = [
    "HELD_OUT",
    "TASKS",
    "TASKS_OF",
    "TRAINING",
    "Finding",
    "Network",
    "PretrainConfig",
    "command_of",
    "describe_trunk",
    "load_trunk",
    "make_trunk",
    "probe_trunk",
    "read_network",
    "save_trunk",
]
