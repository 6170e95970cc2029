"""Colonies written down by hand, and random actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from durotaxis.core.struct import Struct
from durotaxis.env.config import EnvConfig
from durotaxis.env.types import Action, Colony, Kind
from reference.ground import Ground


def colony_at(
    points: Sequence[tuple[float, float]],
    config: EnvConfig,
    parents: Sequence[int] | None = None,
    ages: Sequence[int] | None = None,
    marked: Sequence[int] = (),
    seed: int = 0,
    **plain: int,
) -> Colony:
    """One colony, B = 1. `parents` are slots (a chain by default); `plain` sets step, drift_count, milestones."""
    n, slots = len(points), config.num_slots
    assert n <= slots

    width, height = config.substrate.size
    ground = Ground(width, height, config.substrate.direction, "uniform", 0.0, 1.0)

    def padded(values, dtype, empty):
        row = torch.full((1, slots), empty, dtype=dtype)
        row[0, :n] = torch.tensor(values, dtype=dtype)
        return row

    position = torch.zeros(1, slots, 2)
    position[0, :n] = torch.tensor(points, dtype=torch.float32).reshape(n, 2)
    return Colony(
        position=position,
        alive=padded([True] * n, torch.bool, False),
        parent=padded(list(range(-1, n - 1)) if parents is None else parents, torch.int64, -1),
        node_id=padded(range(n), torch.int64, -1),
        age=padded([0] * n if ages is None else ages, torch.int64, 0),
        newborn=torch.zeros(1, slots, dtype=torch.bool),
        marked=padded([k in marked for k in range(n)], torch.bool, False),
        spawn_share=torch.zeros(1, slots),
        step=torch.tensor([plain.get("step", 0)]),
        seed=torch.tensor([seed]),
        next_id=torch.tensor([n]),
        drift_count=torch.tensor([plain.get("drift_count", 0)]),
        milestones=torch.tensor([plain.get("milestones", 0)]),
        front=torch.tensor([max(ground.along(x, y) for x, y in points)], dtype=torch.float32),
        recoveries=torch.tensor([0]),
    )


def tensors_of(value: Struct) -> dict[str, torch.Tensor]:
    """Every tensor of a struct, those of inner structs under dotted names."""
    found = {}
    for name, field in vars(value).items():
        if isinstance(field, Struct):
            found |= {f"{name}.{inner}": tensor for inner, tensor in tensors_of(field).items()}
        elif field is not None:
            found[name] = field
    return found


def action_of(
    colony: Colony,
    kinds: dict[int, int],
    parameters: Sequence[float] = (10.0, 2.0, 0.0, 0.0),
) -> Action:
    """Slot -> kind for every colony of the batch, rest elsewhere; the same parameters for all."""
    kind = torch.zeros_like(colony.node_id)
    for slot, value in kinds.items():
        kind[:, slot] = value
    return Action(kind=kind, parameters=torch.tensor(parameters).expand(*kind.shape, 4).clone())


def random_action(
    colony: Colony, config: EnvConfig, generator: torch.Generator, mix: Sequence[Sequence[float]]
) -> Action:
    """Any allowed action: kinds in the proportions of `mix` [B,3], parameters over the whole box."""
    shape = colony.alive.shape
    proportions = torch.tensor(mix, dtype=torch.float32)
    kind = torch.multinomial(proportions, shape[1], replacement=True, generator=generator)
    may_delete = (colony.num_nodes > config.min_nodes)[:, None]
    kind = torch.where((kind == Kind.DELETE) & ~may_delete, int(Kind.SPAWN), kind)
    low, high = torch.tensor(config.spawn_bounds.low), torch.tensor(config.spawn_bounds.high)
    unit = torch.rand(*shape, 4, generator=generator)
    parameters = torch.minimum(torch.maximum(low + unit * (high - low), low), high)
    return Action(kind=kind, parameters=parameters)
