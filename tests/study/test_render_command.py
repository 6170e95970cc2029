"""`durotaxis render` and the records of `durotaxis evaluate` that it draws."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from durotaxis import cli
from durotaxis.env.render import draw
from durotaxis.records import episode_numbers, read_episode
from durotaxis.study.film import frames_of

pytestmark = pytest.mark.unchecked


def test_evaluating_records_the_first_episodes(recorded_run, call):
    assert episode_numbers(recorded_run) == [0, 1, 2]
    rows = json.loads(next(recorded_run.glob("evaluation-*.json")).read_text())["episodes"]
    for number in range(3):
        info = read_episode(recorded_run, number).info
        assert (info.seed, info.length) == (rows[number]["seed"], rows[number]["length"])
        assert info.total_reward == rows[number]["return"]
        assert info.policy.endswith("last.pt")
    code, out, _ = call("evaluate", recorded_run, "--seeds", 2, "--record", 0)
    assert code == 0
    assert "step by step" not in out
    assert episode_numbers(recorded_run) == [0, 1, 2]
    assert call("evaluate", recorded_run, "--seeds", 2)[0] == 0
    assert episode_numbers(recorded_run) == [0, 1]


def test_a_recorded_episode_is_filmed(recorded_run, call):
    code, out, err = call("render", recorded_run, "--episode", 1)
    assert (code, err) == (0, "")
    assert f"written to {recorded_run}/figures/episode-1.gif" in out
    assert "episode 2000001 on quick changed: max steps after 12 steps" in out
    with Image.open(recorded_run / "figures" / "episode-1.gif") as gif:
        assert gif.n_frames == 13
        assert gif.width == 720


def test_one_step_is_the_picture_of_that_step(recorded_run, call):
    assert call("render", recorded_run, "--step", 7, "--width", 480, "--out", "new/step.png")[0] == 0
    frames, scene = frames_of(read_episode(recorded_run), "run on quick changed, seed 2000000")
    from durotaxis.env.render import Style

    with Image.open("new/step.png") as picture:
        expected = draw(frames[7], scene, Style(480), frames[:7])
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_playing_now_equals_what_was_recorded(recorded_run, call):
    """The same seed, played again, is the same film; another seed is not."""
    assert call("render", recorded_run, "--out", "recorded.gif")[0] == 0
    for seed in (2_000_000, 2_000_001):
        assert call("render", recorded_run, "--seed", seed, "--out", f"{seed}.gif")[0] == 0
    assert Path("recorded.gif").read_bytes() == Path("2000000.gif").read_bytes()
    assert Path("recorded.gif").read_bytes() != Path("2000001.gif").read_bytes()


def test_a_run_without_records_plays_and_says_so(recorded_run, call):
    shutil.rmtree(recorded_run / "episodes")
    code, out, _ = call("render", recorded_run, "--max-frames", 3)
    assert code == 0
    assert "no recorded episodes in run: playing the first held-out one" in out
    assert [path.name for path in (recorded_run / "figures").glob("*-last-2000000.gif")]


def test_a_checkpoint_in_another_world(recorded_run, call):
    checkpoint = recorded_run / "checkpoints" / "last.pt"
    code, out, err = call("render", checkpoint, "--scenario", "moat", "--step", 5, "env.max_steps=6")
    assert (code, err) == (0, "")
    assert "episode 2000000 on moat changed: max steps after 6 steps" in out
    assert list((recorded_run / "figures").glob("moat-changed-*-last-2000000-step-5.png"))


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program `ffmpeg` that writes its arguments, and how much it was given, where the film should go."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "if os.environ.get('FAILS'):\n"
        "    sys.exit('Unknown encoder libx264')\n"
        "given = len(sys.stdin.buffer.read())\n"
        "json.dump([sys.argv, given], open(sys.argv[-1], 'w'))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_ffmpeg_gets_every_picture(recorded_run, call, fake_ffmpeg):
    assert call("render", recorded_run, "--out", "film.mp4", "--fps", 10)[0] == 0
    arguments, given = json.loads(Path("film.mp4").read_text())
    width, height = map(int, arguments[arguments.index("-s") + 1].split("x"))
    assert given == width * height * 3 * (13 + 20)  # the last picture stays for two seconds


def test_ffmpeg_that_fails_is_quoted_and_nothing_is_left(recorded_run, call, fake_ffmpeg, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    code, _, err = call("render", recorded_run, "--out", "film.mp4")
    assert code == 2
    assert "ffmpeg could not write it: Unknown encoder libx264; write .gif or .webp instead" in err
    assert not [path for path in Path().iterdir() if "film" in path.name]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not here")
def test_a_real_mp4(recorded_run, call):
    assert call("render", recorded_run, "--out", "film.mp4")[0] == 0
    assert Path("film.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none is not a run directory"),
        (["run", "--episode", "3"], "run has no episode 3; it has 0 to 2"),
        (["run", "--episode", "1", "--seed", "3"], "--episode draws a recorded episode as it was"),
        (["run", "--out", "film.avi"], "film.avi must end in .gif, .webp, .mp4"),
        (["run", "--step", "3", "--out", "film.gif"], "--step draws one picture; --out film.gif must end in .png"),
        (["run", "--step", "99"], "--step 99: the episode has steps 0 to 12"),
        (["run", "--width", "100"], "Invalid value for '--width'"),
        (["run", "--fps", "99"], "99 frames per second; it must be above 0 and at most 50"),
        (["run", "--out", "/proc/film.gif"], "cannot write into /proc"),
        (["run", "--scenario", "maot"], "did you mean 'moat'?"),
        (["run", "--seed", "99999999999999999999"], "Invalid value for '--seed'"),
        (["run", "--step", "3", "--out", "run/figures.png"], "cannot write run/figures.png"),
        (["run/checkpoints/none.pt"], "run/checkpoints/none.pt"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_one_line(recorded_run, call, arguments, message):
    (recorded_run / "figures.png").mkdir()
    code, _, err = call("render", *arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_mp4_without_ffmpeg_is_refused_at_once(recorded_run, call, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = call("render", recorded_run, "--out", "film.mp4")
    assert code == 2
    assert "MP4 needs the program ffmpeg" in err
    assert cli.run(["render", str(recorded_run), "--out", "film.webp", "--max-frames", "3"]) == 0
    with Image.open("film.webp") as film:
        assert film.n_frames == 3


def test_a_measured_substrate(recorded_run, call):
    """The map's own numbers lie under the colony, in the records and in the film's scene."""
    table = np.linspace(1, 9, 60)[None] + np.zeros((30, 1))
    table[15:] += 5.0  # the rows below are stiffer
    np.savetxt("gel.csv", table, delimiter=",", fmt="%.4f")
    code, out, err = call(
        "evaluate", recorded_run, "--map", "gel.csv", "--seeds", 3, "--films", "env.max_steps=8"
    )
    assert (code, err) == (0, "")
    assert len(list(recorded_run.glob("evaluation-map-gel-csv-*.json"))) == 1
    for number in range(3):
        episode = read_episode(recorded_run, number)
        assert episode.info.scenario == "map gel.csv"
        assert episode.info.size == [60.0, 30.0]
        for row in episode.rows:
            for (x, y), kpa in zip(row["nodes"], row["stiffness"], strict=True):
                if abs(y - 15.0) > 0.5 and 0.5 < x < 59.5:
                    assert kpa == pytest.approx(1 + 8 * (x - 0.5) / 59 + 5 * (y < 15), abs=0.01)
    returns = [read_episode(recorded_run, number).info.total_reward for number in range(3)]
    for name, number in zip(("best", "median", "worst"), np.argsort(returns)[::-1], strict=True):
        assert (
            f"{name} of 3: episode {number} (seed {2_000_000 + number}), return {returns[number]:.2f}" in out
        )
        assert len(list((recorded_run / "figures").glob(f"map-gel-csv-*-{name}.gif"))) == 1


def test_films_are_of_all_episodes_recorded_or_not(recorded_run, call):
    code, out, _ = call("evaluate", recorded_run, "--films", "--record", 1, "--seeds", 4, "--out", "all.json")
    assert code == 0
    returns = [row["return"] for row in json.loads(Path("all.json").read_text())["episodes"]]
    order = np.argsort(returns)
    for name, number in (("best", order[-1]), ("median", order[1]), ("worst", order[0])):
        assert (
            f"{name} of 4: episode {number} (seed {2_000_000 + number}), return {returns[number]:.2f}" in out
        )


def test_worlds_that_were_changed_differently_have_files_of_their_own(recorded_run, call):
    for changes in ("env.max_steps=5", "env.max_steps=6"):
        assert call("evaluate", recorded_run, "--seeds", 1, "--record", 0, changes)[0] == 0
    assert len(list(recorded_run.glob("evaluation-quick-changed-*.json"))) == 3


def test_a_map_that_is_not_there(recorded_run, call):
    code, _, err = call("evaluate", recorded_run, "--map", "none.csv")
    assert code == 2
    assert "none.csv" in err
