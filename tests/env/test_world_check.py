"""Actions that are refused, by name of colony and node; and those that are not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.env import Action, ActionError, EnvConfig, Kind, reset, step
from reference.colonies import action_of, colony_at


@pytest.fixture
def world():
    config = EnvConfig()
    colony, substrate = reset(config, torch.arange(3))
    return config, colony, substrate


def broken(action, field, where, value):
    tensor = getattr(action, field).clone()
    tensor[where] = value
    return dataclasses.replace(action, **{field: tensor})


def refused(world, action):
    config, colony, substrate = world
    with pytest.raises(UserError) as caught:
        step(colony, action, substrate, config)
    message = str(caught.value)
    assert isinstance(caught.value, ActionError)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "change",
    [
        {"kind": lambda k: k[:2]},
        {"kind": lambda k: k[:, :-1]},
        {"kind": lambda k: k[0]},
        {"kind": lambda k: k.unsqueeze(-1)},
        {"kind": lambda k: k.to(torch.int32)},
        {"kind": lambda k: k.float()},
        {"parameters": lambda p: p[..., :3]},
        {"parameters": lambda p: p[:, :-1]},
        {"parameters": lambda p: p[:1]},
        {"parameters": lambda p: p.double()},
        {"parameters": lambda p: p.long()},
    ],
)
def test_wrong_shapes_and_types_are_refused(world, change):
    action = action_of(world[1], {})
    ((field, function),) = change.items()
    message = refused(world, dataclasses.replace(action, **{field: function(getattr(action, field))}))
    assert field in message


@pytest.mark.parametrize("kind", [-1, 3, 1_000_000])
def test_a_kind_out_of_range_names_colony_and_node(world, kind):
    message = refused(world, broken(action_of(world[1], {}), "kind", (2, 4), kind))
    assert "colony 2" in message
    assert "node 4" in message
    assert str(kind) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", range(4))
def test_a_parameter_that_is_no_number_names_colony_and_node(world, which, value):
    action = broken(action_of(world[1], {3: Kind.SPAWN}), "parameters", (1, 3, which), value)
    message = refused(world, action)
    assert "colony 1" in message
    assert "node 3" in message
    assert ("max_step", "half_saturation", "noise", "angle")[which] in message


@pytest.mark.parametrize(
    ("which", "value"),
    [(0, 0.99), (0, 10.01), (1, 1.99), (1, 20.1), (2, -0.01), (2, 0.51), (3, -3.15), (3, 3.15)],
)
def test_a_parameter_out_of_bounds_names_colony_and_node(world, which, value):
    action = broken(action_of(world[1], {2: Kind.SPAWN}), "parameters", (0, 2, which), value)
    message = refused(world, action)
    assert "colony 0" in message
    assert "node 2" in message
    assert ("max_step", "half_saturation", "noise", "angle")[which] in message


def test_the_bounds_themselves_are_allowed(world):
    config, colony, substrate = world
    for bound in (config.spawn_bounds.low, config.spawn_bounds.high):
        action = action_of(colony, dict.fromkeys(range(5), Kind.SPAWN), bound)
        assert step(colony, action, substrate, config).colony.num_nodes.tolist() == [10] * 3


def test_what_does_not_count_is_not_checked(world):
    """Parameters of nodes that do not spawn, and whatever stands in empty slots."""
    config, colony, substrate = world
    action = action_of(colony, {0: Kind.DELETE, 4: Kind.SPAWN})
    wild = broken(action, "parameters", (slice(None), slice(0, 4)), float("nan"))
    wild = broken(wild, "parameters", (slice(None), slice(60, 90)), float("inf"))
    wild = broken(wild, "kind", (slice(None), slice(60, 90)), int(Kind.SPAWN))
    wild = broken(wild, "kind", (slice(None), slice(5, 9)), int(Kind.DELETE))  # where the child will stand
    plain, after = (step(colony, a, substrate, config) for a in (action, wild))
    assert torch.equal(plain.reward, after.reward)
    for name, value in vars(plain.colony).items():
        assert torch.equal(value, getattr(after.colony, name)), name
    for part in (after.observation.nodes, after.observation.graph, after.reward):
        assert torch.isfinite(part).all()


def test_a_masked_delete_is_refused_by_name():
    config = EnvConfig(min_nodes=2)
    colony = type(colony_at([(1.0, 1.0)], config)).cat(
        [colony_at([(10.0 + k, 50.0) for k in range(n)], config) for n in (5, 2)]
    )
    _, substrate = reset(config, torch.arange(2))
    message = refused((config, colony, substrate), broken(action_of(colony, {}), "kind", (1, 1), Kind.DELETE))
    assert "colony 1" in message
    assert "node 1" in message
    fine = broken(action_of(colony, {}), "kind", (0, slice(0, 5)), Kind.DELETE)
    assert step(colony, fine, substrate, config).colony.num_nodes.tolist() == [0, 2]


def test_the_check_can_be_switched_off(world):
    config, colony, substrate = world
    action = broken(action_of(colony, {0: Kind.SPAWN}), "parameters", (0, 0, 0), 11.0)
    after = step(colony, action, substrate, config, validate=False)
    assert after.colony.num_nodes.tolist() == [6] * 3


def test_a_refused_action_changes_nothing(world):
    colony = world[1]
    copy = {name: value.clone() for name, value in vars(colony).items()}
    refused(world, broken(action_of(colony, {}), "kind", (0, 0), 9))
    for name, value in vars(colony).items():
        assert torch.equal(value, copy[name]), name
    assert isinstance(action_of(colony, {}), Action)
