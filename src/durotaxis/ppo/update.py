"""One update: several epochs of minibatches over a rollout, with the KL stop and its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from durotaxis.core.errors import UserError
from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.core.schedule import Clock, fixed
from durotaxis.core.spelling import did_you_mean
from durotaxis.core.struct import Struct
from durotaxis.ppo.advantage import explained_variance, generalized_advantage, normalize
from durotaxis.ppo.checks import InvariantError, require_finite, require_ratio_one
from durotaxis.ppo.config import PPOConfig
from durotaxis.ppo.loss import LossParts, ppo_loss
from durotaxis.ppo.protocols import Policy
from durotaxis.ppo.ranks import ALONE, Ranks
from durotaxis.ppo.rollout import Rollout, narrow_nodes, num_used_slots

ADAM_EPSILON = 1e-5


@dataclass(frozen=True)
class Batch(Struct):
    """Colony-steps to learn from, all fields leading with [M]."""

    observation: Struct
    cached: Struct | None
    sample: Struct
    node_mask: Tensor  # [M,N] bool
    log_prob: Tensor  # [M,N] float32, under the policy of the rollout
    value: Tensor  # [M] float32, likewise
    advantage: Tensor  # [M] float32
    target: Tensor  # [M] float32, what the value should be

    node_fields: ClassVar[tuple[str, ...]] = ("node_mask", "log_prob")


def make_optimizer(policy: Policy, config: PPOConfig) -> Optimizer:
    """Adam with one group per part of the policy.

    Raises:
        UserError: `learning_rate_factors` names a part that the policy does not have, or one that is frozen.
        InvariantError: the parts overlap or leave out a trainable parameter.
    """
    parts = {name: parameters for name, parameters in policy.parameter_groups().items() if parameters}
    unknown = sorted(config.learning_rate_factors.keys() - parts.keys() - set(policy.later_parts()))
    frozen = [name for name in unknown if name in policy.frozen_hashes()]
    if frozen:
        raise UserError(
            f"ppo.learning_rate_factors: {', '.join(frozen)} is frozen and does not learn; "
            "remove the factor, or let the model learn (freeze: false, or unfreeze_at)"
        )
    if unknown:
        known = [*parts, *policy.later_parts()]
        hint = did_you_mean(unknown[0], known)
        raise UserError(
            f"ppo.learning_rate_factors: no part {', '.join(unknown)}{hint}; "
            f"this policy has {', '.join(known)}"
        )
    listed = [id(parameter) for parameters in parts.values() for parameter in parameters]
    if len(set(listed)) != len(listed) or set(listed) != trainable_parameters(policy):
        raise InvariantError("Policy.parameter_groups must list every trainable parameter exactly once")
    groups = [_group(name, parameters, policy, config) for name, parameters in parts.items()]
    return Adam(groups, lr=fixed(config.at(Clock(total_steps=1)).learning_rate), eps=ADAM_EPSILON)


def remake_optimizer(policy: Policy, config: PPOConfig, state: Mapping[str, Any]) -> Optimizer:
    """The optimiser whose `state_dict` this is: the same groups of parameters in the same order.

    Factors of the learning rate are those of `config`.

    Raises:
        KeyError: the policy lacks a parameter of it.
    """
    parameters = dict(policy.named_parameters())
    groups = [
        _group(group["name"], [parameters[name] for name in group["param_names"]], policy, config)
        for group in state["param_groups"]
    ]
    optimizer = Adam(groups, eps=ADAM_EPSILON)
    optimizer.load_state_dict(dict(state))
    for group in optimizer.param_groups:
        group["factor"] = config.learning_rate_factors.get(group["name"], 1.0)
    return optimizer


def _group(
    name: str, parameters: Iterable[nn.Parameter], policy: Policy, config: PPOConfig
) -> dict[str, Any]:
    """A part of the policy as a group of the optimiser, its parameters with their names."""
    names = {id(parameter): key for key, parameter in policy.named_parameters()}
    return {
        "params": [(names[id(parameter)], parameter) for parameter in parameters],
        "name": name,
        "factor": config.learning_rate_factors.get(name, 1.0),
    }


def set_learning_rate(optimizer: Optimizer, base: float) -> None:
    """Give every parameter group `base` times its own factor. Moments stay as they are."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]


def trainable_parameters(policy: Policy) -> set[int]:
    """Identities of the parameters that ask for a gradient."""
    return {id(parameter) for _, parameter in policy.named_parameters() if parameter.requires_grad}


def add_parameters(optimizer: Optimizer, policy: Policy, config: PPOConfig) -> list[str]:
    """Give the optimiser the trainable parameters it does not have yet, one group per part.

    The moments of all others stay as they are. Returns the names of these parts.
    """
    added = []
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameters in policy.parameter_groups().items():
        new = [parameter for parameter in parameters if id(parameter) not in known]
        if new:
            optimizer.add_param_group(_group(name, new, policy, config))
            added.append(name)
    return added


def prepare(
    rollout: Rollout, config: PPOConfig, ranks: Ranks = ALONE
) -> tuple[Batch, dict[str, int | float | None]]:
    """Advantages and value targets of a rollout, flattened to colony-steps [T·B].

    Statistics, those of the normalisation too, are of the rollouts of all ranks.
    """
    advantage = generalized_advantage(
        rollout.reward, rollout.value, rollout.next_value, rollout.ended, config.discount, config.gae_lambda
    )
    target = advantage + rollout.value
    explained = explained_variance(ranks.cat(rollout.value, 1), ranks.cat(target, 1))
    if config.normalize_advantage:
        advantage = ranks.own(normalize(ranks.cat(advantage, 1)), 1)
    flat = rollout.flatten()
    batch = Batch(
        observation=flat.observation,
        cached=flat.cached,
        sample=flat.sample,
        node_mask=flat.node_mask,
        log_prob=flat.log_prob,
        value=flat.value,
        advantage=advantage.flatten(),
        target=target.flatten(),
    )
    return batch, {"explained_variance": explained}


def minibatch_indices(
    size: int, num_minibatches: int, run_seed: int, iteration: int, epoch: int
) -> list[Tensor]:
    """A random partition of range(size) into equal parts, a pure function of the arguments."""
    keys = hash_keys(run_seed, Purpose.MINIBATCH, iteration, epoch, torch.arange(size))
    order = keys.argsort(stable=True)
    return list(order.view(num_minibatches, -1))


def minibatch_loss(policy: Policy, batch: Batch, config: PPOConfig) -> LossParts:
    """The loss of `policy` on a minibatch, narrowed to its largest colony."""
    distribution, value = policy(batch.observation, batch.cached)
    penalty = getattr(distribution, "penalty", None)
    return ppo_loss(
        log_prob=distribution.log_prob(batch.sample),
        old_log_prob=batch.log_prob,
        node_mask=batch.node_mask,
        advantage=batch.advantage,
        entropy=distribution.entropy(),
        value=value.float(),
        target=batch.target,
        old_value=batch.value,
        penalty=value.new_zeros(()) if penalty is None else penalty,
        clip_range=fixed(config.clip_range),
        ratio=config.ratio,
        reduction=config.node_reduction,
        value_kind=config.value_loss,
        value_clip=config.value_clip,
        value_coefficient=config.value_coefficient,
        entropy_coefficients=(fixed(config.entropy_kind), fixed(config.entropy_parameters)),
    )


def update(
    policy: Policy,
    optimizer: Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    run_seed: int,
    iteration: int,
    ranks: Ranks = ALONE,
) -> dict[str, int | float | None]:
    """Improve the policy on one rollout.

    Args:
        config: with plain numbers in the place of schedules (`PPOConfig.at`).
        ranks: each with its own rollout, of the same size; all take the same steps.

    Returns:
        Statistics named as in records.SCHEMA; means over the minibatches that were used.

    Raises:
        RatioError: the first minibatch, before any step, does not give the rollout's probabilities.
        NonFiniteError: the loss or a gradient is not finite.
    """
    batch, statistics = prepare(rollout, config, ranks)
    used: list[dict[str, float]] = []
    ratio_error: float | None = None
    kl_max = 0.0
    for epoch in range(config.num_epochs):
        for index in minibatch_indices(len(batch.value), config.num_minibatches, run_seed, iteration, epoch):
            index = index.to(batch.value.device)
            width = num_used_slots(batch.node_mask[index])
            parts = minibatch_loss(policy, narrow_nodes(batch, width)[index], config)
            require_finite(parts.total.detach(), "loss")
            numbers = ranks.of_minibatch(_numbers(parts), int(parts.num_ratios))
            first_error = numbers.pop("ratio_error")
            if ratio_error is None:
                ratio_error = first_error
                require_ratio_one(ratio_error, config.ratio)
            kl_max = max(kl_max, numbers["kl"])
            if config.target_kl is not None and numbers["kl"] > config.target_kl:
                return {**statistics, **_summary(used, ratio_error, kl_max)}
            norms = _step(policy, optimizer, parts.total, config.max_grad_norm, ranks)
            used.append({**numbers, **norms})
    return {**statistics, **_summary(used, ratio_error, kl_max)}


def _step(
    policy: Policy, optimizer: Optimizer, loss: Tensor, max_norm: float, ranks: Ranks = ALONE
) -> dict[str, float]:
    """One optimiser step, gradient clipped. Returns its norms before clipping, in all and per part."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    ranks.average_gradients(optimizer)
    norms, gradients = {}, []
    for group in optimizer.param_groups:
        part = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        norms[f"gradient_norm/{group['name']}"] = (
            nn.utils.get_total_norm(part) if part else loss.new_zeros(())
        )
        gradients += part
    total = torch.stack([norm.detach() for norm in norms.values()]).norm()
    if not bool(torch.isfinite(total)):
        for name, parameter in policy.named_parameters():
            if parameter.grad is not None:
                require_finite(parameter.grad, f"gradient of {name}")
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)
    optimizer.step()
    return {"gradient_norm": float(total), **{name: float(norm) for name, norm in norms.items()}}


def _numbers(parts: LossParts) -> dict[str, float]:
    return {
        "policy_loss": float(parts.policy),
        "value_loss": float(parts.value),
        "penalty": float(parts.penalty),
        "entropy_kind": float(parts.entropy_kind),
        "entropy_parameters": float(parts.entropy_parameters),
        "kl": float(parts.kl),
        "clip_fraction": float(parts.clip_fraction),
        "ratio_error": float(parts.ratio_error),
    }


def _summary(
    used: list[dict[str, float]], ratio_error: float | None, kl_max: float
) -> dict[str, int | float | None]:
    means = {key: sum(row[key] for row in used) / len(used) for key in used[0]} if used else {}
    return {**means, "kl_max": kl_max, "ratio_error": ratio_error, "minibatches": len(used)}
