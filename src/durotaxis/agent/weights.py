"""Weights of one policy in another one that has some models more, or some fewer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from durotaxis.agent.actor_critic import HybridActorCritic
from durotaxis.core.errors import UserError
from durotaxis.core.schedule import Clock

_MODEL = re.compile(r"^actor\.(?:feature_extractor|backbone)\.ptms\.([^.]+)\.")
_SCHEDULED = re.compile(r"\.(?:ptms\.[^.]+\.gate|fusion\.log_temperature)$")
_BOUNDS = ("low", "high")


@dataclass(frozen=True)
class Transfer:
    """Names of pre-trained models, each in the order of their policy."""

    kept: tuple[str, ...]  # in both: weights taken over
    new: tuple[str, ...]  # in the policy alone: left as they were built
    dropped: tuple[str, ...]  # in the state alone: not used


def transfer(policy: HybridActorCritic, state: Mapping[str, Tensor]) -> Transfer:
    """Load a state, such as `Checkpoint.model`, into a policy whose models differ by name.

    Everything but the models that only one of the two has is taken over to the bit, except gates and a
    temperature that is not learned: these stay the policy's own and are set to its schedules at step 0, so a
    model with `enters_at` and `ramp_steps` ramps in the further training. The bounds of spawn parameters stay
    the policy's own, too: they are those of its world. New frozen random models still need `calibrate`.

    Raises:
        UserError: the two differ in more than their models; the policy is left as it was.
    """
    own = policy.state_dict()
    only_own = [key for key in own if key not in state]
    only_state = [key for key in state if key not in own]
    names = policy.ptm_names
    new = _models(only_own)
    dropped = _models(only_state)
    mixed = [name for name in (*new, *dropped) if name in _models(own) and name in _models(state)]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    foreign = [key for key in (*only_own, *only_state) if _MODEL.match(key) is None]
    if mixed or reshaped or foreign:
        what = (foreign + reshaped + mixed)[0]
        raise UserError(
            f"the state is of another architecture: it differs in {what}, which is more than a model added "
            "or removed; use the configuration of its own run with another list of ptms"
        )
    learned = {name for name, _ in policy.named_parameters()}
    kept = {key for key in own if key in _BOUNDS or (_SCHEDULED.search(key) and key not in learned)}
    taken = {key: value for key, value in state.items() if key in own and key not in kept}
    policy.load_state_dict({**own, **taken})
    policy.actor.extractor.follow_schedules(Clock())
    return Transfer(tuple(name for name in names if name not in new), new, dropped)


def _models(keys: Mapping[str, Tensor] | list[str]) -> tuple[str, ...]:
    """Names of the models that some keys of a state belong to, in their order."""
    found = (match.group(1).replace(":", ".") for match in map(_MODEL.match, keys) if match)
    return tuple(dict.fromkeys(found))
