"""Films: frames painted one after another and written as GIF, WebP or MP4, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from PIL import Image as Images
from PIL.Image import Image

from durotaxis.core.errors import UserError
from durotaxis.env.render import canvas
from durotaxis.env.render.painter import DEFAULT_STYLE, Painter
from durotaxis.env.render.scene import Frame, Scene, Style

LAST_SECONDS = 2.0
"""How long the last picture stays."""
_FASTEST = 50.0  # frames per second that viewers of GIF honour


@dataclass(frozen=True)
class _Reel:
    """Pictures in order, painted as they are taken, and how fast they follow each other."""

    painter: Painter
    chosen: Sequence[int]  # indices of frames
    rate: float  # frames per second
    on_frame: Callable[[int], None]

    def __iter__(self) -> Iterator[Image]:
        for index in self.chosen:
            yield self.painter.paint(index)
            self.on_frame(1)

    @property
    def pauses(self) -> list[int]:
        """Milliseconds per picture; GIF counts in hundredths of a second."""
        pause = max(20, round(100 / self.rate) * 10)
        return [pause] * (len(self.chosen) - 1) + [round(1000 * LAST_SECONDS)]


def film(
    frames: Sequence[Frame],
    scene: Scene,
    path: str | Path,
    style: Style = DEFAULT_STYLE,
    frames_per_second: float | None = None,
    max_frames: int | None = None,
    on_frame: Callable[[int], None] = lambda count: None,
) -> None:
    """Write an episode as a film, whole or not at all.

    Args:
        frames: the steps in order.
        scene: substrate, goal and names.
        path: a file ending in one of `FORMATS`; its folders are made. MP4 needs the program ffmpeg.
        style: width, colours, hull.
        frames_per_second: at most 50, the fastest that viewers of GIF honour; by default such that the film
            lasts 8 seconds, but within 5 and 15.
        max_frames: longer episodes are thinned evenly; the first and last frames stay, and the trail and
            the attention strip still use every step. By default 150, for MP4 1,500.
        on_frame: called with the number of pictures just painted.

    Raises:
        UserError: no frames, another file ending, no ffmpeg for MP4, a place that cannot be written, or what
            `draw` refuses.
    """
    path = Path(path)
    suffix = require_format(path)
    if not frames:
        raise UserError("film: there are no frames to draw")
    require_rate(frames_per_second)
    chosen = chosen_frames(len(frames), path, max_frames)
    rate = min(max(len(chosen) / 8.0, 5.0), 15.0) if frames_per_second is None else frames_per_second
    reel = _Reel(Painter(frames, scene, style), chosen, rate, on_frame)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FORMATS[suffix](reel, partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"film: cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True) if partial.parent.is_dir() else None


def require_format(path: Path) -> str:
    """The ending of a film's name, in small letters.

    Raises:
        UserError: it is none of `FORMATS`, or MP4 where there is no ffmpeg.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"film: {path} must end in {', '.join(FORMATS)}")
    if suffix == ".mp4":
        _ffmpeg()
    return suffix


def require_rate(frames_per_second: float | None) -> None:
    """Raise UserError for frames per second that viewers do not honour; None is a rate of our own."""
    if frames_per_second is not None and not 0 < frames_per_second <= _FASTEST:
        raise UserError(f"film: {frames_per_second:g} frames per second; it must be above 0 and at most 50")


def chosen_frames(length: int, path: Path, max_frames: int | None = None) -> list[int]:
    """Indices of the frames of a film of so many: all, or evenly thinned ones with both ends.

    Raises:
        UserError: `max_frames` is under 2.
    """
    most = (1500 if path.suffix.lower() == ".mp4" else 150) if max_frames is None else max_frames
    if most < 2:
        raise UserError("film: max_frames must be at least 2")
    return spread(length, min(length, most))


def spread(length: int, count: int) -> list[int]:
    """`count` indices evenly over range(length), both ends among them."""
    return [round(i * (length - 1) / max(1, count - 1)) for i in range(count)]


def _write_gif(reel: _Reel, path: Path) -> None:
    samples = [reel.painter.paint(reel.chosen[i]) for i in spread(len(reel.chosen), 6)]
    palette = canvas.shared_palette(samples)
    pictures = [picture.quantize(palette=palette, dither=Images.Dither.NONE) for picture in reel]
    pictures[0].save(
        path, format="GIF", save_all=True, append_images=pictures[1:], duration=reel.pauses, loop=0
    )


def _write_webp(reel: _Reel, path: Path) -> None:
    first, *others = reel
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=reel.pauses,
        loop=0,
        quality=80,
        method=4,
    )


def _write_mp4(reel: _Reel, path: Path) -> None:
    """H.264 with colours and sizes that every player takes."""
    pictures = iter(reel)
    first = next(pictures)
    command = [
        _ffmpeg(), "-y", "-loglevel", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.width}x{first.height}", "-r", f"{reel.rate:g}",
        "-i", "-",
        "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white",
        "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20",
        "-movflags", "+faststart", "-f", "mp4", str(path.absolute()),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        try:
            _pour(process, first, pictures, round(LAST_SECONDS * reel.rate))
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait() != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"exit code {process.returncode}"
            raise UserError(f"film: ffmpeg could not write it: {why}; write .gif or .webp instead")


def _pour(process: subprocess.Popen[bytes], first: Image, others: Iterator[Image], num_last: int) -> None:
    """Give a program the pictures, the last one `num_last` times more; it may end before it has them all."""
    assert process.stdin is not None
    last = first
    try:
        process.stdin.write(first.tobytes())
        for last in others:
            process.stdin.write(last.tobytes())
        for _ in range(num_last):
            process.stdin.write(last.tobytes())
    except BrokenPipeError:
        pass  # its exit code and words say why
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        raise UserError(
            "film: MP4 needs the program ffmpeg, which is not on this machine's PATH; "
            "install it, or write .gif or .webp"
        )
    return found


FORMATS: Mapping[str, Callable[[_Reel, Path], None]] = MappingProxyType(
    {".gif": _write_gif, ".webp": _write_webp, ".mp4": _write_mp4}
)
"""File ending -> what writes it."""
