"""A tiny study, and runs that cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import durotaxis
from durotaxis.core.config import merge
from durotaxis.core.marks import dump
from durotaxis.records import FINISHED, RunDirectory, RunRecord, Score
from durotaxis.study.execute import DIGEST, Assignment
from durotaxis.study.launchers import Launcher, Outcome

TINY_AGENT = (
    "env.max_steps=12",
    "encoder.num_layers=1",
    "encoder.hidden_dim=16",
    "encoder.out_dim=32",
    "actor_critic.hidden_dim=16",
    "actor_critic.wsa_config.embedding_dim=16",
    "actor_critic.wsa_config.context_dim=8",
    'actor_critic.wsa_config.ptms=[{"model_type": "graph_cnn"}, {"model_type": "graph_gnn"}]',
    "actor_critic.backbone=graph_cnn",
)
TINY_TRAINING = (
    "ppo.num_colonies=4",
    "ppo.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "training.total_steps=64",
    "training.evaluate_every=0",
    "monitor.tensorboard=false",
)
"""Overrides of `quick`: an agent and a training that cost nothing."""

TINY: Mapping[str, Any] = {
    "question": "Does it run?",
    "base": "quick",
    "overrides": {
        "encoder": {"num_layers": 1, "hidden_dim": 16, "out_dim": 32},
        "actor_critic": {
            "hidden_dim": 16,
            "backbone": {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
            "wsa_config": {
                "embedding_dim": 16,
                "context_dim": 8,
                "hidden_dims": [8, 4],
                "ptms": [
                    {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
                    {"model_type": "graph_gnn_connectivity"},
                ],
            },
        },
        "ppo": {"num_colonies": 4, "rollout_steps": 8, "num_epochs": 1, "num_minibatches": 2},
        "training": {"total_steps": 128, "evaluate_every": 0, "checkpoint_every": 32},
        "env": {"max_steps": 10},
        "monitor": {"tensorboard": False},
    },
    "arms": {
        "baseline": {"overrides": {"actor_critic": {"use_wsa": False}}},
        "wsa": {"description": "two models", "overrides": {"actor_critic": {"use_wsa": True}}},
    },
    "scenarios": ["linear", "moat"],
    "control": ["linear"],
    "seeds": [0, 1],
    "evaluation": {"episodes": 4, "probe_episodes": 2, "interventions": ["zero", "uniform"]},
}


def write_study(folder: Path, changes: Mapping[str, Any] | None = None, name: str = "tiny") -> Path:
    """TINY with some values replaced, as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(dump(merge(TINY, changes or {})), "utf-8")
    return path


def fake_record(assignment: Assignment, attempts: int = 1, success: float = 0.5) -> RunRecord:
    """A record as a run would leave it, with everything scored that the assignment asks for."""
    scores = tuple(
        Score(
            probe["scenario"],
            probe["condition"],
            probe["intervention"],
            probe["world"],
            False,
            probe["episodes"],
            1.0,
            0.1,
            round(success * probe["episodes"]),
            0.5,
            9.0,
            None,
        )
        for probe in assignment.probes
    )
    return RunRecord(
        study=assignment.study,
        arm=assignment.arm,
        scenario=assignment.scenario,
        seed=assignment.seed,
        config=assignment.digest,
        status=FINISHED,
        attempts=attempts,
        error=None,
        steps=128,
        episodes=12,
        curve={
            "step": [128],
            "return": [1.0],
            "success_rate": [0.5],
            "front_progress": [0.5],
            "episodes": [12],
        },
        scores=scores,
        attention=None,
        warnings={},
        cost={"elapsed_s": 1.0, "steps_per_s": 128.0},
        provenance={},
        version=durotaxis.__version__,
    )


class FakeLauncher(Launcher):
    """Makes runs of nothing: `act` says how an attempt ends; by default with a record."""

    def __init__(self, act: Callable[[Assignment, int], Outcome] | None = None, room: int = 1) -> None:
        self.started: list[tuple[str, int]] = []
        self.stopped = 0
        self._act = act or (
            lambda assignment, attempts: Outcome(assignment, fake_record(assignment, attempts))
        )
        self._room, self._waiting = room, []

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < self._room

    def start(self, assignment: Assignment, attempts: int) -> None:
        self.started.append((assignment.name, attempts))
        self._waiting.append((assignment, attempts))

    def wait(self, seconds: float) -> list[Outcome]:
        waiting, self._waiting = self._waiting, []
        outcomes = []
        for assignment, attempts in waiting:
            outcome = self._act(assignment, attempts)
            if outcome.record is not None:
                directory = Path(assignment.directory)
                if not directory.exists():
                    RunDirectory.create(directory, "", {}).mark_done({})
                (directory / DIGEST).write_text(assignment.digest, "utf-8")
            outcomes.append(outcome)
        return outcomes

    def stop(self) -> None:
        self.stopped += 1
