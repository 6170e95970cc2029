"""A batch of colonies as a TorchRL environment: its specs, and a rollout of tensors.

    python examples/torchrl_rollout.py
    python examples/torchrl_rollout.py --scenario moat --colonies 32 --steps 100 --device cuda

Needs the extra: pip install "durotaxis[torchrl]". Actions are random, each node with a choice of its own;
nothing leaves the device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from durotaxis.core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Roll out and print; returns the exit code."""
    options = parse(arguments)
    try:
        roll_out(options.scenario, options.colonies, options.steps, options.seed, options.device)
    except UserError as error:
        print(f"torchrl_rollout: {error}", file=sys.stderr)
        return 2
    return 0


def roll_out(scenario: str, num_colonies: int, num_steps: int, seed: int, device: str) -> None:
    """Print what a rollout holds, and what happened in it."""
    from durotaxis.integrations import ColonyTensorEnv

    env = ColonyTensorEnv(num_colonies, scenario, device=device)
    torch.manual_seed(seed)
    env.set_seed(seed)
    rollout = env.rollout(num_steps, break_when_any_done=False)
    print(f"rollout of {num_colonies} colonies and {num_steps} steps on {device}; shapes [B,T,...]:")
    for key in (
        "nodes",
        "edge_index",
        "graph",
        "action_mask",
        ("action", "kind"),
        ("action", "parameters"),
        ("next", "reward"),
    ):
        name, value = ".".join(key) if isinstance(key, tuple) else key, rollout[key]
        print(f"  {name:<18} {str(value.dtype).removeprefix('torch.'):<8} {list(value.shape)}")
    after = rollout["next"]
    print(f"mean reward {float(after['reward'].mean()):.4f}")
    ends = [int(after[name].sum()) for name in ("terminated", "truncated")]
    print(f"episodes ended: {ends[0]} terminated, {ends[1]} truncated")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="quick", help="world (default: quick)")
    parser.add_argument("--colonies", type=int, default=8, help="default: 8")
    parser.add_argument("--steps", type=int, default=50, help="default: 50")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
