"""`check_env` passes on the real world, and names what is wrong with ten broken ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.env import SCENARIOS, Action, ConformanceError, DurotaxisEnv, EnvConfig, Kind, check_env

TINY = {"max_nodes": 12, "critical_nodes": 6, "max_steps": 7, "substrate": {"size": (80.0, 50.0)}}
SMALL = {"max_nodes": 12, "critical_nodes": 6, "max_steps": 7}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_world_conforms(scenario):
    check_env(DurotaxisEnv(EnvConfig(scenario=scenario, **SMALL), 4), num_steps=10)


def test_it_conforms_with_other_rules():
    config = EnvConfig(**TINY, boundary="terminate", min_nodes=5, observation={"field": True})
    check_env(DurotaxisEnv(config, 5), num_steps=10)


class Variant:
    """The real world with one thing changed; a test overrides what it breaks."""

    def __init__(self, config=None):
        self.inner = DurotaxisEnv(config or EnvConfig(**TINY), 4)
        self.config, self.num_colonies = self.inner.config, 4

    @property
    def colony(self):
        return self.inner.colony

    def reset(self, seeds):
        return self.inner.reset(seeds)

    def observe(self):
        return self.inner.observe()

    def step(self, action):
        return self.inner.step(action)

    def reset_where(self, mask, seeds):
        return self.inner.reset_where(mask, seeds)


def test_the_wrapped_world_still_conforms():
    check_env(Variant(), num_steps=10)


class OwnGenerator(Variant):
    """Noise from a generator that goes on, not from the seed."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def step(self, action):
        noise = torch.rand(action.parameters.shape[:2], generator=self.generator)
        parameters = action.parameters.clone()
        parameters[..., 3] *= noise
        return self.inner.step(Action(action.kind, parameters))


class SharedNoise(Variant):
    """The whole batch bends its angles by what all have in common."""

    def step(self, action):
        parameters = action.parameters.clone()
        bend = (self.colony.seed.sum() % 7).float() / 7
        parameters[..., 3] *= bend
        return self.inner.step(Action(action.kind, parameters))


class EagerReset(Variant):
    """Resets inside the step: the last observation is never seen."""

    def step(self, action):
        transition = self.inner.step(action)
        ended = transition.terminated | transition.truncated
        if bool(ended.any()):
            observation = self.inner.reset_where(ended, transition.colony.seed + 50)
            return dataclasses.replace(transition, observation=observation)
        return transition


class EagerColony(EagerReset):
    """The same, and the returned colony is already the next one."""

    def step(self, action):
        return dataclasses.replace(super().step(action), colony=self.colony)


class MoreReward(Variant):
    """Pays for something that no term names."""

    def step(self, action):
        transition = self.inner.step(action)
        return dataclasses.replace(transition, reward=transition.reward + 0.01)


class BothEnds(Variant):
    """A timeout that is also called a termination."""

    def step(self, action):
        transition = self.inner.step(action)
        both = transition.terminated | transition.truncated
        return dataclasses.replace(transition, terminated=both)


class CarelessReset(Variant):
    """Resets everybody, whatever the mask."""

    def reset_where(self, mask, seeds):
        return self.inner.reset_where(torch.ones_like(mask), torch.where(mask, seeds, self.colony.seed))


class SameStart(Variant):
    """A masked reset forgets the seed."""

    def reset_where(self, mask, seeds):
        return self.inner.reset_where(mask, torch.full_like(seeds, 3))


class Trusting(Variant):
    """Never looks at an action."""

    def __init__(self):
        super().__init__()
        self.inner.validate = False


class NotANumber(Variant):
    """A division that nobody guarded."""

    def observe(self):
        seen = self.inner.observe()
        return dataclasses.replace(seen, graph=seen.graph / 0.0 * 0.0)

    def reset(self, seeds):
        self.inner.reset(seeds)
        return self.observe()


class OpenMask(Variant):
    """The observation allows what the rules forbid."""

    def reset(self, seeds):
        seen = self.inner.reset(seeds)
        return dataclasses.replace(seen, action_mask=torch.ones_like(seen.action_mask))


class Edited(Variant):
    """Changes the colony after every step, in the returned transition and in the state."""

    def edit(self, colony):
        raise NotImplementedError

    def step(self, action):
        transition = self.inner.step(action)
        colony = self.edit(transition.colony)
        self.inner._state = colony, self.inner.substrate
        return dataclasses.replace(transition, colony=colony, observation=self.inner.observe())


class Holes(Edited):
    """Takes the first node away and leaves a hole."""

    def edit(self, colony):
        alive = colony.alive.clone()
        alive[1, 0] = False
        return dataclasses.replace(colony, alive=alive)


class Circle(Edited):
    """Two nodes, each the other's parent."""

    def edit(self, colony):
        parent = colony.parent.clone()
        many = colony.num_nodes >= 2
        parent[many, 0] = 1
        return dataclasses.replace(colony, parent=parent)


class Recycled(Edited):
    """Hands the id of the dead to the newborn."""

    def edit(self, colony):
        slot = torch.arange(colony.capacity).expand_as(colony.node_id)
        return dataclasses.replace(colony, node_id=torch.where(colony.alive, slot, -1))


class Twins(Edited):
    """Gives one id to two nodes."""

    def edit(self, colony):
        node_id = colony.node_id.clone()
        many = colony.num_nodes >= 2
        node_id[many, 1] = node_id[many, 0]
        return dataclasses.replace(colony, node_id=node_id)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (OwnGenerator, r"the same seeds and actions give another life: determinism \(colony.position\)"),
        (SharedNoise, "beside other colonies give another life: companions matter"),
        (EagerReset, r"step \d+.*(node_mask is not who lives|last observation is lost)"),
        (EagerColony, "the seed changed within an episode"),
        (MoreReward, "step 0, colony 0: the reward is not the sum of its terms"),
        (BothEnds, "terminated and truncated together"),
        (CarelessReset, r"reset_where touched colonies outside the mask"),
        (SameStart, "reset_where does not start the masked colonies as reset does"),
        (Trusting, "an invalid action was not refused: a kind that does not exist"),
        (NotANumber, "after reset, colony 0: observation.graph is not finite"),
        (OpenMask, "observation.action_mask is not what the rules allow"),
        (Holes, "step 0, colony 1: living nodes do not fill the first slots: packing"),
        (Circle, "a node's parent does not come before it: forest"),
        (Recycled, "a node_id was reused"),
        (Twins, "two living nodes share a node_id"),
    ],
)
def test_a_broken_world_is_caught_by_name(broken, message):
    with pytest.raises(ConformanceError, match=message) as caught:
        check_env(broken(), num_steps=10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kind", "a kind that does not exist"),
        ("bound", "a max_step above its bound"),
        ("mask", "a delete that is masked"),
    ],
)
def test_each_refusal_is_asked_for(what, message):
    class Lenient(Variant):
        """Mends one kind of invalid action in silence."""

        def step(self, action):
            kind, parameters = action.kind, action.parameters
            if what == "kind" or what == "mask":
                wrong = kind > 2 if what == "kind" else kind == Kind.DELETE
                kind = torch.where(wrong & (self.colony.step[:, None] == 0), 0, kind)
            else:
                parameters = parameters.clamp(max=10.0)
            return self.inner.step(Action(kind, parameters))

    config = EnvConfig(**{**TINY, "min_nodes": 6})
    with pytest.raises(ConformanceError, match=f"not refused: {message}"):
        check_env(Lenient(config), num_steps=4)


def test_companions_are_needed():
    with pytest.raises(UserError, match="at least 4 colonies, not 1"):
        check_env(DurotaxisEnv(EnvConfig(), 1))
