"""A trained agent as one file: safetensors, with all that is needed to build the agent in its header.

Neither the run it comes from nor the weights its pre-trained models began with are needed to load it; models
of transformers and timm, and registered ones, are built as in training and must be at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from durotaxis.agent.actor_critic import HybridActorCritic
from durotaxis.agent.config import ActorCriticConfig, EncoderConfig
from durotaxis.agent.encoder import Encoder
from durotaxis.core.errors import UserError
from durotaxis.fusion import PTMRecord
from durotaxis.fusion.config import PTMConfig, validated
from durotaxis.fusion.registry import ptm_type

FORMAT = 1
_HEADER = "durotaxis"


def agent_to_bytes(agent: HybridActorCritic, about: Mapping[str, Any]) -> bytes:
    """The content of a file that `load_agent` reads.

    Args:
        about: what else to keep in its header, ready for JSON: the world it was trained in, versions.

    Raises:
        UserError: `about` holds what JSON does not.
    """
    header = {
        "format": FORMAT,
        "encoder": agent.encoder.config.model_dump(mode="json"),
        "actor_critic": agent.config.model_dump(mode="json"),
        "spawn_bounds": [agent.low.tolist(), agent.high.tolist()],
        "observes_field": agent.observes_field,
        "reward_terms": list(agent.reward_terms),
        "ptms": [record.to_dict() for record in agent.actor.extractor.records],
        "about": dict(about),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"agent_to_bytes: {error}; `about` must be ready for JSON") from error
    state = {name: value.detach().cpu().contiguous().clone() for name, value in agent.state_dict().items()}
    return save(state, metadata={_HEADER: text})


def read_about(path: str | Path) -> dict[str, Any]:
    """What an exported agent's header keeps beside its architecture.

    Raises:
        UserError: the file is no exported agent.
    """
    return _read(Path(path))[0]["about"]


def load_agent(path: str | Path, device: str | torch.device = "cpu") -> HybridActorCritic:
    """An exported agent, in evaluation mode and without gradients.

    `agent(observation)` gives the action distribution and the value; `agent.to_action(sample, observation)`
    the world's action.

    Args:
        path: the file that `durotaxis export RUN policy` wrote.

    Raises:
        UserError: the file is no exported agent, of another version, or a model of transformers, timm or a
            registry entry of its is not at hand.
    """
    header, state = _read(Path(path))
    records = [PTMRecord(**_without_width(record)) for record in header["ptms"]]
    config = validated(ActorCriticConfig, **header["actor_critic"])
    low, high = header["spawn_bounds"]
    agent = HybridActorCritic(
        Encoder(validated(EncoderConfig, **header["encoder"])),
        _without_weights(config, records),
        spawn_bounds=(tuple(low), tuple(high)),
        observes_field=header["observes_field"],
        reward_terms=header["reward_terms"],
    )
    for ptm, record in zip(agent.actor.extractor.ptms, records, strict=True):
        ptm.record = record
        ptm.mean = torch.tensor(record.mean).view(1, -1, 1, 1)
        ptm.std = torch.tensor(record.std).view(1, -1, 1, 1)
    own = agent.state_dict()
    odd = sorted(name for name in own.keys() | state.keys() if not _fits(own.get(name), state.get(name)))
    if odd:
        raise UserError(f"{path}: {', '.join(odd[:3])} do not fit its own header; export the policy again")
    agent.load_state_dict(state)
    return agent.requires_grad_(False).to(device).eval()


def _without_weights(config: ActorCriticConfig, records: list[PTMRecord]) -> ActorCriticConfig:
    """The same architecture, with every model that would ask for weights replaced by its twin."""
    if config.use_wsa:
        ptms = [_twin(ptm, record) for ptm, record in zip(config.wsa_config.ptms, records, strict=True)]
        changes: dict[str, Any] = {"wsa_config": config.wsa_config.model_copy(update={"ptms": tuple(ptms)})}
    else:
        changes = {"backbone": _twin(config.backbone, records[0])}
    return config.model_copy(update={**changes, "compile": False, "gradient_checkpointing": False})


def _twin(ptm: PTMConfig, record: PTMRecord) -> PTMConfig:
    twin = ptm_type(ptm.model_type).twin
    if twin is None:
        return ptm
    return ptm.model_copy(
        update={
            "model_type": twin,
            "name": record.name,
            "tap": record.tap,
            "upsample": record.input_size,
            "freeze": True,
            "weights": None,
            "sha256": None,
            "unfreeze_at": None,
        }
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            state = {} if text is None else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; write it with durotaxis export RUN policy"
        ) from error
    if text is None:
        raise UserError(f"{path} is no exported agent; write one with durotaxis export RUN policy")
    header = json.loads(text)
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is of format {header.get('format')}, this version reads {FORMAT}; "
            "export the policy again, or install the version that wrote it"
        )
    return header, state


def _fits(own: Tensor | None, given: Tensor | None) -> bool:
    return own is not None and given is not None and own.shape == given.shape


def _without_width(record: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in record.items() if key != "width"}
    return {**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}
