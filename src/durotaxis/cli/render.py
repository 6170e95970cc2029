"""The command `durotaxis render`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from durotaxis.cli.shared import Overrides
from durotaxis.console import counting_view, make_console
from durotaxis.core.errors import UserError
from durotaxis.records import (
    FIGURES,
    RunDirectory,
    cannot_write,
    episode_numbers,
    read_episode,
    require_writable,
    write_atomic,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from durotaxis.records import Episode
    from durotaxis.study.evaluation import Candidate

group = typer.Typer()


@group.command(
    epilog="Examples:\n\n"
    "durotaxis render runs/quick-1\n\n"
    "durotaxis render runs/quick-1 --episode 3 --out film.mp4 --colour-by age --hull\n\n"
    "durotaxis render runs/quick-1 --seed 2000007 --scenario moat --out moat.webp\n\n"
    "durotaxis render runs/quick-1/checkpoints/last.pt --step 40 --out step-40.png env.max_steps=60"
)
def render(
    target: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory or a checkpoint.")],
    overrides: Overrides = None,
    episode: Annotated[
        int | None, typer.Option(min=0, help="Number of a recorded episode; default 0 where there are any.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**62, help="Play this episode now instead of a recorded one.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Play in another world than the one trained in.")
    ] = None,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Play it on a measured substrate: CSV of kPa, or grey PNG.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="This step alone, as a PNG.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file ending in .gif, .webp, .mp4 or, with --step, .png.")
    ] = None,
    colour_by: Annotated[Literal["kind", "age"], typer.Option(help="What fills the nodes.")] = "kind",
    hull: Annotated[bool, typer.Option("--hull", help="Draw the colony's convex hull.")] = False,
    width: Annotated[int, typer.Option(min=480, max=3840, help="Pixels.")] = 720,
    fps: Annotated[float | None, typer.Option(help="Frames per second, at most 50.")] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=2, help="Longer episodes are thinned; default 150, for MP4 1,500.")
    ] = None,
) -> None:
    """Film an episode, or draw one step of it.

    A run's recorded episodes (durotaxis evaluate) are drawn as they were. A checkpoint, another scenario,
    KEY=VALUE or --seed play an episode now; so does a run that has none recorded, on its first held-out seed.
    """
    from durotaxis.env.render import Style, chosen_frames, draw, film, require_format, require_rate
    from durotaxis.ppo import report_seeds
    from durotaxis.study.film import frames_of

    console = make_console()
    plays = (
        target.endswith(".pt")
        or any(each is not None for each in (seed, scenario, map_file))
        or bool(overrides)
    )
    if plays and episode is not None:
        raise UserError("--episode draws a recorded episode as it was; leave it out, or what plays a new one")
    run = RunDirectory.open(Path(target).parent.parent if target.endswith(".pt") else target)
    if not plays and episode is None and not episode_numbers(run.path):
        console.print(f"no recorded episodes in {run.path}: playing the first held-out one", soft_wrap=True)
        plays = True
    seed = report_seeds(1)[0] if seed is None else seed
    job = _open(target, scenario, overrides, map_file) if plays else None
    path = out or run.path / FIGURES / _default_name(episode or 0, seed, job, step)
    if step is None:
        require_format(path)
        require_rate(fps)
    elif path.suffix.lower() != ".png":
        raise UserError(f"--step draws one picture; --out {path} must end in .png")
    require_writable(path.absolute().parent)
    shown = read_episode(run.path, episode or 0) if job is None else _play(job, seed)
    info = shown.info
    name = run.path.resolve().name
    frames, scene = frames_of(shown, f"{name} on {info.scenario}, seed {info.seed}")
    style = Style(width, colour_by, hull)
    if step is not None:
        if step >= len(frames):
            raise UserError(f"--step {step}: the episode has steps 0 to {len(frames) - 1}")
        _save(draw(frames[step], scene, style, frames[:step]), path)
    else:
        with counting_view(console, "pictures", len(chosen_frames(len(frames), path, max_frames))) as advance:
            film(frames, scene, path, style, fps, max_frames, advance)
    ended = info.reason.replace("_", " ")
    console.print(f"episode {info.seed} on {info.scenario}: {ended} after {info.length} steps", markup=False)
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def _open(target: str, scenario: str | None, overrides: list[str] | None, map_file: Path | None) -> Candidate:
    from durotaxis.study.evaluation import open_run

    return open_run(target, scenario, overrides or [], map_file)


def _play(job: Candidate, seed: int) -> Episode:
    from durotaxis.study.episode import record_agent

    return record_agent(job.policy, job.config.env, [seed], str(job.checkpoint_path), job.step)[0]


def _save(picture: Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_atomic(path, content.getvalue())


def _default_name(episode: int, seed: int, job: Candidate | None, step: int | None) -> str:
    """A name that tells what is drawn: a recorded episode, or world, checkpoint and seed."""
    which = f"episode-{episode}"
    if job is not None:
        which = f"{job.file_stem()}-{job.checkpoint_path.stem}-{seed}"
    return f"{which}.gif" if step is None else f"{which}-step-{step}.png"
