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
from durotaxis.ppo.checks import (
    InvariantError,
    evidence,
    require_finite,
    require_finite_parameters,
    require_ratio_one,
)
from durotaxis.ppo.config import PPOConfig
from durotaxis.ppo.loss import LossParts, ppo_loss
from durotaxis.ppo.protocols import Policy
from durotaxis.ppo.ranks import ALONE, Ranks
from durotaxis.ppo.rollout import Rollout, narrow_nodes, num_used_slots
from durotaxis.ppo.value import TOTAL, as_heads, follow_targets, split_reward, value_names, value_scale

ADAM_EPSILON = 1e-5


@dataclass(frozen=True)
class Batch(Struct):
    """Colony-steps to learn from, all fields leading with [M]."""

    observation: Struct
    cached: Struct | None
    sample: Struct
    node_mask: Tensor  # [M,N] bool
    log_prob: Tensor  # [M,N] float32, under the policy of the rollout
    value: Tensor  # [M,V] float32, likewise
    advantage: Tensor  # [M] float32
    target: Tensor  # [M,V] float32, what the values should be

    node_fields: ClassVar[tuple[str, ...]] = ("node_mask", "log_prob")


def make_optimizer(policy: Policy, config: PPOConfig) -> Optimizer:
    """Adam with one group per part of the policy.

    Raises:
        UserError: `learning_rate_factors` names a part that the policy does not have, or one that is frozen;
            or the policy lacks what `normalize_value` needs.
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
        known = [*parts, *policy.frozen_hashes()]
        hint = did_you_mean(unknown[0], known)
        raise UserError(
            f"ppo.learning_rate_factors: no part {', '.join(unknown)}{hint}; "
            f"this policy has {', '.join(known)}"
        )
    if config.normalize_value:
        value_scale(policy)
    listed = [id(parameter) for parameters in parts.values() for parameter in parameters]
    if len(set(listed)) != len(listed) or set(listed) != trainable_parameters(policy):
        raise InvariantError("Policy.parameter_groups must list every trainable parameter exactly once")
    groups = [_group(name, parameters, policy, config) for name, parameters in parts.items()]
    return Adam(
        groups, lr=fixed(config.at(Clock(total_steps=1)).learning_rate), eps=ADAM_EPSILON, foreach=True
    )


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
    optimizer = Adam(groups, eps=ADAM_EPSILON, foreach=True)
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
    rollout: Rollout, config: PPOConfig, names: tuple[str, ...] = TOTAL, ranks: Ranks = ALONE
) -> tuple[Batch, dict[str, int | float | None]]:
    """Advantages and value targets of a rollout, flattened to colony-steps [T·B].

    Statistics, those of the normalisation too, are of the rollouts of all ranks.

    Args:
        names: what its values are of; see `ppo.value.value_names`.
    """
    reward = split_reward(names, rollout.reward, rollout.terms)
    of_values = generalized_advantage(
        reward, rollout.value, rollout.next_value, rollout.ended, config.discount, config.gae_lambda
    )
    target, advantage = of_values + rollout.value, of_values.sum(-1)
    require_finite(target, "target")
    values, targets = ranks.cat(rollout.value, 1), ranks.cat(target, 1)
    statistics = {"explained_variance": explained_variance(values.sum(-1), targets.sum(-1))}
    if names != TOTAL:
        for i, name in enumerate(names):
            explained = explained_variance(values[..., i], targets[..., i])
            statistics[f"explained_variance/{name}"] = explained
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
        target=target.flatten(0, 1),
    )
    return batch, statistics


def minibatch_indices(
    size: int, num_minibatches: int, run_seed: int, iteration: int, epoch: int
) -> list[Tensor]:
    """A random partition of range(size) into equal parts, a pure function of the arguments."""
    keys = hash_keys(run_seed, Purpose.MINIBATCH, iteration, epoch, torch.arange(size))
    order = keys.argsort(stable=True)
    return list(order.view(num_minibatches, -1))


def minibatch_loss(policy: Policy, batch: Batch, config: PPOConfig) -> LossParts:
    """The loss of `policy` on a minibatch, narrowed to its largest colony.

    With `normalize_value`, the value loss is in units of the standard deviation of each value's targets, and
    so are `value_clip` and the threshold of the Huber loss.
    """
    distribution, value = policy(batch.observation, batch.cached)
    penalty = getattr(distribution, "penalty", None)
    unit = value_scale(policy).std if config.normalize_value else 1.0
    return ppo_loss(
        log_prob=distribution.log_prob(batch.sample),
        old_log_prob=batch.log_prob,
        node_mask=batch.node_mask,
        advantage=batch.advantage,
        entropy=distribution.entropy(),
        value=as_heads(value).float() / unit,
        target=batch.target / unit,
        old_value=batch.value / unit,
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
        NonFiniteError: a target, the loss, a gradient or a parameter is not finite; its evidence is the
            minibatch and its place in the update.
    """
    at_hand: dict[str, Any] = {"iteration": iteration}
    with evidence(at_hand):
        statistics = _learn(policy, optimizer, rollout, config, run_seed, iteration, at_hand, ranks)
        require_finite_parameters(policy.named_parameters())
    return statistics


def _learn(
    policy: Policy,
    optimizer: Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    run_seed: int,
    iteration: int,
    at_hand: dict[str, Any],
    ranks: Ranks,
) -> dict[str, int | float | None]:
    """What `update` does; keeps in `at_hand` what it is working on."""
    batch, statistics = prepare(rollout, config, value_names(policy), ranks)
    if config.normalize_value:
        follow_targets(policy, batch.target, ranks)
    used: list[dict[str, float]] = []
    ratio_error: float | None = None
    kl_max = 0.0
    for epoch in range(config.num_epochs):
        for index in minibatch_indices(len(batch.value), config.num_minibatches, run_seed, iteration, epoch):
            optimizer.zero_grad(set_to_none=True)
            at_hand |= {"epoch": epoch, "index": index}
            here, num_ratios, rest = _accumulate(policy, batch, index.to(batch.value.device), config, at_hand)
            numbers = ranks.of_minibatch(here, num_ratios)
            first_error = numbers.pop("ratio_error")
            if ratio_error is None:
                ratio_error = first_error
                require_ratio_one(ratio_error, config.ratio, getattr(policy, "ratio_tolerance", None))
            kl_max = max(kl_max, numbers["kl"])
            if config.target_kl is not None and numbers["kl"] > config.target_kl:
                optimizer.zero_grad(set_to_none=True)
                return {**statistics, **_summary(used, ratio_error, kl_max)}
            rest.backward()
            ranks.average_gradients(optimizer)
            norms = _step(policy, optimizer, config.max_grad_norm)
            used.append({**numbers, **norms})
    return {**statistics, **_summary(used, ratio_error, kl_max)}


def _accumulate(
    policy: Policy, batch: Batch, index: Tensor, config: PPOConfig, at_hand: dict[str, Any]
) -> tuple[dict[str, float], int, Tensor]:
    """Forward and backward over one minibatch, `microbatch_size` colony-steps at a time.

    Every term of the loss is a mean over colonies, so each part counts by its share of them.

    Args:
        at_hand: gets the part that is being worked on, as evidence of a failure.

    Returns:
        The numbers of the whole minibatch, how many ratios it has, and the last part's loss, whose backward
        pass is still to come: it is saved when the numbers end the update.
    """
    pieces = index.split(config.microbatch_size or len(index))
    rows: list[dict[str, float]] = []
    colonies: list[int] = []
    ratios: list[int] = []
    rest: Tensor | None = None
    for piece in pieces:
        if rest is not None:
            rest.backward()
        width = num_used_slots(batch.node_mask[piece])
        part = at_hand["minibatch"] = narrow_nodes(batch, width)[piece]
        losses = minibatch_loss(policy, part, config)
        require_finite(losses.total.detach(), "loss")
        rows.append(_numbers(losses))
        if len(pieces) > 1 and rows[-1]["penalty"] != 0:
            raise UserError(
                "ppo.microbatch_size: the policy's penalty is no mean over colonies, so a minibatch cannot "
                "be split; set attention_entropy_coefficient and attention_balance_coefficient to 0, or "
                "ppo.microbatch_size to null"
            )
        colonies.append(len(piece))
        ratios.append(int(losses.num_ratios))
        rest = losses.total * (len(piece) / len(index))
    assert rest is not None
    return _of_whole(rows, colonies, ratios), sum(ratios), rest


def _of_whole(rows: list[dict[str, float]], colonies: list[int], ratios: list[int]) -> dict[str, float]:
    """Numbers of a minibatch from those of its parts, which hold so many colonies and ratios."""

    def mean(key: str, weights: list[int]) -> float:
        total = sum(row[key] * weight for row, weight in zip(rows, weights, strict=True))
        return total / max(sum(weights), 1)

    if len(rows) == 1:
        return rows[0]
    whole = {key: mean(key, colonies) for key in rows[0]}
    return {
        **whole,
        "clip_fraction": mean("clip_fraction", ratios),
        "ratio_error": max(row["ratio_error"] for row in rows),
    }


def _step(policy: Policy, optimizer: Optimizer, max_norm: float) -> dict[str, float]:
    """Clip the accumulated gradient and take a step. Returns its norms before that, in all and per part."""
    parts: dict[str, list[Tensor]] = {}  # one that was unfrozen piece by piece has several groups
    for group in optimizer.param_groups:
        found = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        parts.setdefault(f"gradient_norm/{group['name']}", []).extend(found)
    none = optimizer.param_groups[0]["params"][0].new_zeros(())
    norms = {name: nn.utils.get_total_norm(part) if part else none for name, part in parts.items()}
    total = torch.stack([norm.detach() for norm in norms.values()]).norm()
    gradients = [gradient for part in parts.values() for gradient in part]
    if not bool(torch.isfinite(total)):
        for name, parameter in policy.named_parameters():
            if parameter.grad is not None:
                require_finite(parameter.grad, f"gradient of {name}")
        require_finite(total, "gradient norm")  # every entry is finite, their squares overflow
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
