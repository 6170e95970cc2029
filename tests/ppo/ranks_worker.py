"""What each process of a job does in test_ppo_ranks: `python ranks_worker.py JOB FOLDER`."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from toy import ToyPolicy, ToyWorld

from durotaxis.core.errors import UserError
from durotaxis.ppo import Interrupted, MonitorConfig, PPOConfig, TrainingConfig, collect, start, train
from durotaxis.ppo.ranks import ALONE, Ranks, launched
from durotaxis.ppo.update import make_optimizer, minibatch_loss, prepare
from durotaxis.records import RunDirectory

WHOLE = PPOConfig(  # one minibatch: the same steps in one process and in two
    num_colonies=4, rollout_steps=20, num_epochs=3, num_minibatches=1, learning_rate=1e-2, target_kl=None
)
PARTS = PPOConfig(num_colonies=4, rollout_steps=8, num_epochs=2, num_minibatches=2, learning_rate=3e-2)
ITERATIONS = 5


def run_toy(path, ppo, ranks=ALONE, world=None, resume=False):
    """A run of ITERATIONS iterations."""
    if resume:
        run = RunDirectory.open(path)
    else:
        run = ranks.first(lambda: RunDirectory.create(path, "config\n", {}))
    policy = ToyPolicy()
    state = train(
        world or ToyWorld(ppo.num_colonies // ranks.size, limit=6),
        policy,
        run=run,
        seed=11,
        ppo=ppo,
        training=TrainingConfig(
            total_steps=ITERATIONS * ppo.steps_per_rollout,
            evaluate_every=2 * ppo.steps_per_rollout,
            evaluation_episodes=2,
            checkpoint_every=0,
        ),
        monitor=MonitorConfig(tensorboard=False),
        evaluation_world=ToyWorld(2, limit=6) if ranks.leads else None,
        resume=resume,
        ranks=ranks,
    )
    return policy, state


def double(tree):
    return tree.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def gradients(world, policy, ppo, ranks=ALONE):
    """In float64, of the loss on this rank's share of one rollout; means over ranks. And the statistics."""
    whole, *_ = collect(world, policy, start(world, policy, 3), ppo.rollout_steps, 3)
    share = whole.map(lambda tensor: ranks.own(tensor, 1).clone())
    batch, statistics = prepare(share, ppo, ranks=ranks)
    policy.double()
    optimizer = make_optimizer(policy, ppo)
    minibatch_loss(policy, double(batch), ppo).total.backward()
    ranks.average_gradients(optimizer)
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}, statistics


def uneven(ranks):
    """Gradients of three parts: one that all ranks have, one that only the first has, one that none has."""
    parts = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3)]
    parts[0].grad = torch.full_like(parts[0], 1.0 + ranks.rank)
    if ranks.leads:
        parts[1].grad = torch.full_like(parts[1], 8.0)
    ranks.average_gradients(torch.optim.SGD(parts, lr=1.0))
    return [part.grad for part in parts]


def exchanges(ranks):
    """What every exchange returns here."""
    mine = torch.arange(4).view(2, 2) + 10 * ranks.rank
    module = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(module.weight, float(ranks.rank + 5))
    module.running_mean.fill_(ranks.rank + 7)
    ranks.share_weights(module)
    differing = ""
    try:
        ranks.require_same(alike=1, episodes=ranks.rank)
    except RuntimeError as error:
        differing = str(error)
    return {
        "cat": ranks.cat(mine, 1),
        "own": ranks.own(ranks.cat(mine, 1), 1),
        "mine": mine,
        "gather": ranks.gather({"rank": ranks.rank}),
        "gather_first": ranks.gather_first(ranks.rank),
        "first": ranks.first(lambda: f"said by {ranks.rank}"),
        "weights": dict(module.state_dict()),
        "mean_numbers": ranks.mean_numbers({"a": float(ranks.rank), "b": None, "n": 3}),
        "of_minibatch": ranks.of_minibatch(
            {"kl": 1.0 + ranks.rank, "clip_fraction": 0.5 * ranks.rank, "ratio_error": 0.1 * ranks.rank},
            num_ratios=10 + 20 * ranks.rank,
        ),
        "differing": differing,
        "uneven": uneven(ranks),
    }


def several(ranks, folder):
    """All that goes well."""
    found = {"exchanges": exchanges(ranks), "gradients": gradients(ToyWorld(4), ToyPolicy(), WHOLE, ranks)}
    found["whole"] = run_toy(folder / "whole", WHOLE, ranks)[0].state_dict()
    found["parts"] = run_toy(folder / "parts", PARTS, ranks)[0].state_dict()
    torch.save(found, folder / f"found-{ranks.rank}.pt")


class Failing(ToyWorld):
    """Fails in the middle of the third rollout, in a way of its own."""

    def __init__(self, num_colonies, fail):
        super().__init__(num_colonies, limit=6)
        self.fail, self.countdown = fail, 2 * PARTS.rollout_steps + 4

    def step(self, action):
        self.countdown -= 1
        result = super().step(action)
        if self.countdown == 0:
            self.fail(result)
        return result


def fail_with(name, folder):
    """Ways to fail."""

    def spoil(result):
        result.reward[0] = torch.nan

    def die(result):
        os._exit(9)

    def wait_for_signal(result):
        (folder / "ready").touch()
        for _ in range(600):
            time.sleep(0.1)

    return {"die": die, "spoil": spoil, "wait": wait_for_signal}[name]


def failing(ranks, folder, name, where):
    fails = ranks.rank in where
    world = Failing(2, fail_with(name, folder)) if fails else ToyWorld(2, limit=6)
    run_toy(folder / name, PARTS, ranks, world=world)


def resume_then_fail(ranks, folder):
    found = {"parts": run_toy(folder / "die", PARTS, ranks, resume=True)[0].state_dict()}
    torch.save(found, folder / f"resumed-{ranks.rank}.pt")
    failing(ranks, folder, "spoil", {1})


def real_gradients(ranks, folder):
    from durotaxis.core.config import load_config
    from durotaxis.env import DurotaxisEnv
    from durotaxis.study.config import RootConfig, find_config
    from durotaxis.study.run import build_policy

    config = load_config(find_config("quick"), RootConfig, REAL).settled()
    policy = build_policy(config, torch.device("cpu"))
    world = DurotaxisEnv(config.env, config.ppo.num_colonies)
    torch.save(gradients(world, policy, config.ppo, ranks), folder / f"real-{ranks.rank}.pt")


REAL = [
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=32",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    "actor_critic.wsa_config.ptms=[{model_type: graph_cnn, freeze: false, tap: block1}, "
    "{model_type: graph_gnn, freeze: false}]",
    "ppo.num_colonies=4",
    "ppo.rollout_steps=8",
    "ppo.num_minibatches=1",
    "env.max_steps=20",
]

JOBS = {
    "several": several,
    "die-1": lambda ranks, folder: failing(ranks, folder, "die", {1}),
    "die-0": lambda ranks, folder: failing(ranks, folder, "die", {0}),
    "wait": lambda ranks, folder: failing(ranks, folder, "wait", {0, 1}),
    "resume-then-fail": resume_then_fail,
    "real": real_gradients,
}


def main() -> int:
    torch.set_num_threads(1)
    job, folder = sys.argv[1:]
    ranks: Ranks
    with launched() as ranks:
        try:
            JOBS[job](ranks, Path(folder))
        except Interrupted as stop:
            if ranks.leads:
                sys.stderr.write(f"interrupted at {stop.step}\n")
            return 130
    return 0


if __name__ == "__main__":

    def interrupt(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        code = main()
    except UserError as error:
        sys.stderr.write(f"told: {error}\n")
        code = 2
    sys.exit(code)
