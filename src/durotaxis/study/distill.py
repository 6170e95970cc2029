"""`durotaxis distill`: a trained run teaches a new one, which PPO then goes on with.

The new run directory is that of a run which was interrupted before its first iteration, with the taught
weights: `durotaxis train --resume` takes it up, `durotaxis evaluate` judges it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durotaxis.core.config import load_config, load_sections
from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.ppo import summarize
from durotaxis.ppo.checks import require_frozen
from durotaxis.pretrain.distill import HELD_OUT_COLONIES, DistillConfig, distill, held_out, measure
from durotaxis.records import CONFIG, DISTILLATION, DISTILLATION_SUMMARY, write_json
from durotaxis.study.config import RootConfig, find_config
from durotaxis.study.evaluation import Candidate, evaluate_run, open_run
from durotaxis.study.run import Job, free_directory, prepare, save_start

Advance = Callable[[int, str], None]
"""Called with environment steps done so far, and what to show of them."""
_PREFIX = "distill."


@dataclass(frozen=True)
class DistillJob:
    """A distillation that is ready to start; the student's run directory is claimed."""

    teacher: Candidate
    student: Job
    config: DistillConfig

    @property
    def directory(self) -> Path:
        """The student's run directory."""
        return self.student.directory

    @property
    def total_steps(self) -> int:
        """Environment steps, in whole rollouts."""
        return self.config.num_iterations * self.config.num_colonies * self.config.rollout_steps

    def describe(self) -> str:
        """What is about to happen, in one line."""
        share = self.config.student_share
        return (
            f"distilling {self.teacher.checkpoint_path} ({self.teacher.step:,} steps) into {self.directory}: "
            f"models {', '.join(self.student.policy.ptm_names)}; {self.total_steps:,} steps, "
            f"{share:.0%} of the colonies driven by the student"
        )

    def run(self, num_episodes: int, advance: Advance = lambda step, text: None) -> dict[str, Any]:
        """Teach, save, measure and evaluate; returns what `distillation.json` holds.

        The directory holds a checkpoint from the beginning: of the untaught student, until it is taught.
        Ctrl-C while teaching leaves one of the student as it is then, and is raised again. Where teaching
        fails the untaught student stays.

        Args:
            num_episodes: held-out episodes that both play afterwards.
        """
        save_start(self.student)
        job, seed = self.student, self.student.config.run.seed
        env, device, student = job.config.env, job.device, job.policy
        world = DurotaxisEnv(env, self.config.num_colonies, device, validate=False)
        tests = DurotaxisEnv(env, HELD_OUT_COLONIES, device, validate=False)
        frozen = student.frozen_hashes()
        teacher_states = held_out(tests, self.teacher.policy, student, seed, by_student=False)

        def distances() -> dict[str, dict[str, float]]:
            own = held_out(tests, self.teacher.policy, student, seed, by_student=True)
            return {
                "teacher_states": measure(student, teacher_states),
                "student_states": measure(student, own),
            }

        before = distances()
        try:
            with job.run.appender(DISTILLATION) as rows:
                for row in distill(world, self.teacher.policy, student, self.config, seed):
                    rows.append(row)
                    advance(
                        row["step"], f"KL per node {row['kl_per_node']:.3f}  value {row['value_loss']:.3f}"
                    )
        except KeyboardInterrupt:
            student.eval()
            save_start(self.student)
            raise
        student.eval()
        save_start(self.student)
        require_frozen(frozen, student.frozen_hashes())
        result = {
            "teacher": str(self.teacher.checkpoint_path),
            "teacher_step": self.teacher.step,
            "distill": self.config.model_dump(mode="json"),
            "steps": self.total_steps,
            "before": before,
            "after": distances(),
            "evaluation": {name: self._evaluate(name, num_episodes) for name in ("teacher", "student")},
        }
        write_json(job.run.path / DISTILLATION_SUMMARY, result)
        return result

    def _evaluate(self, name: str, num_episodes: int) -> dict[str, Any]:
        """Means over held-out episodes of the student's world."""
        student = Candidate(
            self.student.config, self.student.policy, self.student.run, self.student.run.last_checkpoint, 0
        )
        chosen = {
            "student": student,
            "teacher": dataclasses.replace(self.teacher, config=self.student.config),
        }[name]
        rows = evaluate_run(chosen, num_episodes).rows
        return {"episodes": num_episodes, **summarize(rows)}


def prepare_distillation(
    teacher: str | Path,
    config_name: str | Path | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
) -> DistillJob:
    """Load the teacher, build the student, claim its run directory.

    Args:
        teacher: a run directory or a checkpoint, as for `durotaxis evaluate`.
        config_name: the student's configuration; None: the teacher's own, with `actor_critic.use_wsa=true`.
        overrides: `key=value` of the student, and `distill.<key>=value`.
        steps: `distill.total_steps`.

    Raises:
        UserError, RecordError: the teacher is no run or was never trained, it and the student see or act
            differently, and whatever is wrong with configuration, weights, device or directory.
    """
    own = [override for override in overrides if override.startswith(_PREFIX)]
    given = [override for override in overrides if not override.startswith(_PREFIX)]
    if steps is not None:
        own = [f"{_PREFIX}total_steps={steps}", *own]
    config = load_sections(None, {"distill": DistillConfig}, own)["distill"]
    candidate = open_run(teacher)
    if candidate.step == 0:
        raise UserError(
            f"{candidate.checkpoint_path} was never trained, so it has nothing to teach; "
            f"train it first: durotaxis train --resume {candidate.run.path}"
        )
    directory = free_directory(f"distilled-{candidate.run.path.resolve().name}")
    if config_name is None:
        path = candidate.run.path / CONFIG
        given = ["actor_critic.use_wsa=true", f"run.directory={directory}", *given]
    else:
        path = find_config(config_name)
        if load_config(path, RootConfig, given).run.directory is None:
            given = [f"run.directory={directory}", *given]
    require_alike(candidate.config.env, load_config(path, RootConfig, given).env)
    return DistillJob(candidate, prepare(path, given), config)


def require_alike(
    first: EnvConfig, second: EnvConfig, words: tuple[str, str] = ("teacher", "student")
) -> None:
    """Raise UserError unless actions mean the same to two agents, and what the world shows is read alike.

    Args:
        first: the world of the one that teaches, or hands on its weights.
        second: that of the one that learns from it, or goes on with them.
        words: what the message calls them.
    """
    one, other = words
    if first.spawn_bounds != second.spawn_bounds:
        raise _differ("spawn_bounds", first.spawn_bounds, second.spawn_bounds, words)
    if first.observation.field and not second.observation.field:
        raise UserError(f"the {one} looks at the field; set env.observation.field=true for the {other}")
    seen = {"field": True, "count_scale": None}
    if first.observation.model_copy(update=seen) != second.observation.model_copy(update=seen):
        raise _differ("observation", first.observation, second.observation, words)
    if first.count_scale != second.count_scale:
        raise UserError(
            f"counts are divided by {first.count_scale:g} for the {one}, {second.count_scale:g} for the "
            f"{other}; set env.observation.count_scale={first.count_scale:g}"
        )


def _differ(name: str, first: Any, second: Any, words: tuple[str, str]) -> UserError:
    return UserError(
        f"env.{name} is {second} for the {words[1]} and {first} for the {words[0]}; "
        f"set env.{name}='{first.model_dump_json()}'"
    )
