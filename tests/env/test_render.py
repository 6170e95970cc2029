"""Pictures and films: geometry, colours, files and refusals."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Images
from scipy.spatial import ConvexHull

from durotaxis.agent.scripted import delete_left
from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv, EnvConfig, Kind, Reason
from durotaxis.env.render import Frame, Scene, Style, canvas, draw, film, frame_of, panels, scene_of

SIZE = (200.0, 100.0)


def make_scene(**values) -> Scene:
    x = (np.arange(80) + 0.5) / 80 * SIZE[0]
    return replace(Scene(np.tile(1.0 + 0.05 * x, (40, 1)), SIZE, goal=198.0, title="linear"), **values)


def make_frames(count: int, nodes: int = 30, models: int = 3) -> list[Frame]:
    """A cloud of nodes in a chain, drifting to the right, everything varying."""
    rng = np.random.default_rng(7)
    cloud = rng.normal(0.0, 6.0, (nodes, 2))
    frames = []
    for step in range(count):
        middle = np.array([20.0 + 160.0 * step / max(1, count - 1), 50.0])
        weights = rng.random(models) + 1.0
        frames.append(
            Frame(
                position=cloud + middle + rng.normal(0.0, 0.5, (nodes, 2)),
                parent=np.arange(nodes) - 1,
                alive=np.arange(nodes) < nodes - 3,
                step=step,
                kind=rng.integers(0, 3, nodes),
                marked=rng.random(nodes) < 0.2,
                newborn=rng.random(nodes) < 0.2,
                age=rng.integers(0, 60, nodes),
                attention=weights / weights.sum(),
            )
        )
    return frames


def one_node(x: float, y: float, **values) -> Frame:
    return Frame(np.array([[x, y]]), np.array([-1]), np.array([True]), step=0, **values)


def differing(first: Images.Image, second: Images.Image, rows: int | None = None) -> int:
    """How many pixels differ visibly, more than the palette of a GIF explains."""
    gap = np.asarray(first.convert("RGB")).astype(int) - np.asarray(second.convert("RGB"))
    return int((np.abs(gap[:rows]).max(-1) > 60).sum())


def pixel(picture: Images.Image, scene: Scene, style: Style, x: float, y: float) -> np.ndarray:
    place = np.array(panels.plan(scene, style).to_pixels(np.array([x, y]))) / panels.SUPERSAMPLE
    return np.array(picture.getpixel(tuple(place.astype(int))))


def test_substrate_fills_its_box_and_keeps_proportions():
    for size in (SIZE, (100.0, 200.0), (600.0, 400.0)):
        layout = panels.plan(make_scene(size=size), Style(640))
        left, top, right, bottom = layout.map
        assert np.allclose(layout.to_pixels(np.zeros(2)), (left, bottom), atol=1)
        assert np.allclose(layout.to_pixels(np.array(size)), (right, top), atol=1)
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.01)
        assert left >= 0
        assert right < layout.canvas[0] == 640 * panels.SUPERSAMPLE


def test_first_row_of_the_map_is_on_top():
    stiffness = np.ones((40, 80))
    stiffness[:20] = 9.0
    scene, style = make_scene(stiffness=stiffness, goal=None), Style()
    picture = draw(one_node(100.0, 50.0), scene, style)
    stiff, soft = canvas.ground_colours(np.array([1.0, 0.0]))
    assert np.abs(pixel(picture, scene, style, 50.0, 90.0) - stiff).max() <= 2
    assert np.abs(pixel(picture, scene, style, 50.0, 30.0) - soft).max() <= 2


@pytest.mark.parametrize(
    ("kind", "colour"), [(Kind.REST, canvas.REST), (Kind.SPAWN, canvas.SPAWN), (Kind.DELETE, canvas.PAPER)]
)
def test_a_node_has_the_colour_of_its_kind(kind, colour):
    # The picture's second frame, far from the node, moves the centroid's mark away from it.
    scene, style = make_scene(), Style()
    frame = Frame(
        np.array([[60.0, 70.0], [140.0, 30.0]]), np.array([-1, -1]), np.ones(2, bool), 0, np.array([kind, 0])
    )
    picture = draw(frame, scene, style)
    assert np.abs(pixel(picture, scene, style, 60.0, 70.0) - colour).max() <= 40
    if kind == Kind.DELETE:  # the middle is the white cross; beside it is the fill
        beside = pixel(picture, scene, style, 60.9, 70.0)
        assert np.abs(beside - canvas.DELETE).max() <= 60


def test_age_colours_run_from_light_to_dark():
    scene, style = make_scene(), Style(colour_by="age")
    frame = Frame(
        np.array([[40.0, 70.0], [80.0, 70.0], [160.0, 20.0]]),
        np.full(3, -1),
        np.ones(3, bool),
        0,
        age=np.array([0, 90, 5]),
    )
    picture = draw(frame, scene, style)
    young, old = (pixel(picture, scene, style, x, 70.0) for x in (40.0, 80.0))
    assert np.abs(young - canvas.REST).max() <= 10
    assert np.abs(old - canvas.OLD).max() <= 10


@pytest.mark.parametrize("direction", [0.0, math.pi / 2, math.pi, 2.2])
def test_goal_line_lies_where_the_goal_is(direction):
    scene, style = make_scene(direction=direction, goal=80.0), Style()
    with_line = np.asarray(draw(one_node(5.0, 5.0), scene, style)).astype(int)
    without = np.asarray(draw(one_node(5.0, 5.0), replace(scene, goal=None), style)).astype(int)
    layout = panels.plan(scene, style)
    left, top, right, bottom = (edge // panels.SUPERSAMPLE for edge in layout.map)
    rows, columns = np.nonzero(np.abs(with_line - without).sum(-1)[top:bottom, left:right])
    assert len(rows) > 50
    x = (columns + 0.5) * panels.SUPERSAMPLE / layout.scale
    y = SIZE[1] - (rows + 0.5) * panels.SUPERSAMPLE / layout.scale
    along = x * math.cos(direction) + y * math.sin(direction)
    lowest = min(0, SIZE[0] * math.cos(direction)) + min(0, SIZE[1] * math.sin(direction))
    assert np.abs(along - lowest - 80.0).max() < 2.0


def test_hull_matches_scipy_and_survives_degenerate_points():
    rng = np.random.default_rng(0)
    for count in (3, 4, 10, 100):
        points = rng.normal(size=(count, 2))
        ours = {tuple(p) for p in canvas.hull(points)}
        assert ours == {tuple(points[i]) for i in ConvexHull(points).vertices}
    line = np.stack([np.arange(5.0), 2 * np.arange(5.0)], 1)
    assert {tuple(p) for p in canvas.hull(line)} == {(0.0, 0.0), (4.0, 8.0)}
    frame = Frame(line, np.arange(5) - 1, np.ones(5, bool), 0)
    draw(frame, make_scene(), Style(hull=True))
    draw(replace(frame, position=np.ones((5, 2))), make_scene(), Style(hull=True))


def test_hull_is_drawn_only_when_asked():
    frame, scene = make_frames(1)[0], make_scene()
    plain, hull = (np.asarray(draw(frame, scene, Style(hull=on))) for on in (False, True))
    assert (plain != hull).any()


@pytest.mark.parametrize(
    ("extent", "length"), [(200.0, 50.0), (600.0, 100.0), (100.0, 20.0), (30.0, 5.0), (90.0, 20.0)]
)
def test_scale_bar_lengths_are_round(extent, length):
    assert canvas.nice_length(extent) == length


def test_ticks_lie_within_the_range():
    ticks = canvas.nice_ticks(0.15, 11.0)
    assert 3 <= len(ticks) <= 8
    assert min(ticks) >= 0.15
    assert max(ticks) <= 11.0


def test_an_extinct_colony_and_a_uniform_substrate_can_be_drawn():
    frames = make_frames(3)
    empty = replace(frames[-1], alive=np.zeros(30, bool), step=3, note="extinct")
    picture = draw(empty, make_scene(stiffness=np.full((4, 8), 6.0)), history=frames)
    assert picture.size[0] == 720


def test_a_long_title_is_shortened_and_leaves_the_step_alone():
    frame, style = make_frames(1)[0], Style(480)
    short = np.asarray(draw(frame, make_scene(title=""), style))
    long = np.asarray(draw(frame, make_scene(title="a title " * 30), style))
    changed = np.nonzero((short != long).any((0, 2)))[0]
    assert len(changed) > 0
    assert changed.max() < 300


def test_film_holds_the_frames_that_draw_makes(tmp_path):
    frames, scene, path = make_frames(30), make_scene(ptms=("one", "two", "three")), tmp_path / "a.gif"
    film(frames, scene, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
    with Images.open(path) as gif:
        assert gif.n_frames == 30
        assert gif.info["loop"] == 0
        # `draw` spreads the strip over its own history, the film over the whole episode.
        above_strip = panels.plan(scene, Style()).strip[1] // panels.SUPERSAMPLE
        for index in (0, 11, 29):
            gif.seek(index)
            drawn = draw(frames[index], scene, history=frames[:index])
            assert differing(gif, drawn, above_strip) < 10
        assert differing(gif, drawn) < 10
        assert gif.info["duration"] == 2000


def test_long_episodes_are_thinned_to_the_limit_with_both_ends(tmp_path):
    frames, scene, path = make_frames(45, nodes=4), make_scene(), tmp_path / "a.gif"
    film(frames, scene, path, max_frames=10)
    with Images.open(path) as gif:
        assert gif.n_frames == 10
        for index, original in ((0, 0), (9, 44)):
            gif.seek(index)
            drawn = draw(frames[original], scene, history=frames[:original])
            assert differing(gif, drawn) < 10
    assert differing(drawn, draw(frames[9], scene, history=frames[:9])) > 1000


def test_a_film_of_one_frame(tmp_path):
    film(make_frames(1), make_scene(), tmp_path / "a.gif")
    with Images.open(tmp_path / "a.gif") as gif:
        assert gif.size[0] == 720


def test_a_hundred_frames_are_quick_and_small(tmp_path):
    path = tmp_path / "a.gif"
    start = time.process_time()
    film(make_frames(100, nodes=60), make_scene(ptms=("one", "two", "three")), path)
    assert time.process_time() - start < 10.0
    assert path.stat().st_size < 3_000_000


def test_what_cannot_be_drawn_is_refused(tmp_path):
    frames, scene = make_frames(2), make_scene()
    (tmp_path / "file").touch()
    refusals = [
        (lambda: film([], scene, tmp_path / "a.gif"), "no frames"),
        (lambda: film(frames, scene, tmp_path / "a.avi"), r"a\.avi must end in \.gif"),
        (lambda: film(frames, scene, tmp_path / "file" / "a.gif"), "cannot write"),
        (lambda: film(frames, scene, tmp_path / "a.gif", frames_per_second=0.0), "0 frames per second"),
        (lambda: film(frames, scene, tmp_path / "a.gif", max_frames=1), "max_frames"),
        (lambda: draw(frames[0], scene, Style(100)), "480"),
        (lambda: draw(frames[0], make_scene(stiffness=np.full((2, 2), np.nan))), "finite matrix"),
        (lambda: draw(frames[0], make_scene(stiffness=np.ones(4))), "finite matrix"),
        (lambda: draw(replace(frames[0], kind=np.zeros(3, int)), scene), "kind has 3 rows, alive has 30"),
        (lambda: draw(frames[0], make_scene(ptms=("one",))), "attention over 3 models, the scene names 1"),
    ]
    for attempt, message in refusals:
        with pytest.raises(UserError, match=message):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_film_that_fails_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Images.Image, "save", full_disk)
    with pytest.raises(UserError, match="No space left"):
        film(make_frames(2), make_scene(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_scene_of_a_world_samples_the_closed_form():
    config = EnvConfig(scenario="quick")
    world = DurotaxisEnv(config, 2)
    world.reset([1, 2])
    scene = scene_of(world.substrate, config, index=1, title="quick")
    columns = scene.stiffness.shape[1]
    x = (np.arange(columns) + 0.5) / columns * 200.0
    assert np.allclose(scene.stiffness, np.tile(1.0 + 0.05 * x, (scene.stiffness.shape[0], 1)), rtol=1e-5)
    assert scene.goal == pytest.approx(198.0)
    up = EnvConfig(scenario="quick", substrate={"direction": math.pi / 2, "size": (100.0, 200.0)})
    world = DurotaxisEnv(up, 1)
    world.reset([1])
    scene = scene_of(world.substrate, up)
    assert (np.diff(scene.stiffness[:, 0]) < 0).all()
    assert scene.direction == pytest.approx(math.pi / 2)


def test_frame_of_a_world_takes_one_colony_of_the_batch():
    config = EnvConfig(scenario="quick")
    world = DurotaxisEnv(config, 3)
    world.reset([1, 2, 3])
    action = delete_left(world.colony, world.substrate, config)
    rows = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    frame = frame_of(world.colony, 1, action.kind, rows)
    assert np.array_equal(frame.position, world.colony.position[1].numpy())
    assert np.array_equal(frame.kind, action.kind[1].numpy())
    assert np.allclose(frame.attention, [0.4, 0.6])
    assert frame.note == ""
    assert frame_of(world.colony, 0, reason=Reason.MAX_STEPS).note == "max steps"


def test_an_episode_becomes_a_film(tmp_path):
    config = EnvConfig(scenario="quick")
    world = DurotaxisEnv(config, 1)
    world.reset([3])
    frames, reason = [], 0
    while not reason:
        action = delete_left(world.colony, world.substrate, config)
        frames.append(frame_of(world.colony, kind=action.kind))
        reason = int(world.step(action).reason[0])
    frames.append(frame_of(world.colony, reason=reason))
    path = tmp_path / "figures" / "a.gif"
    film(frames, scene_of(world.substrate, config), path, Style(480))
    assert frames[-1].note == "success"
    with Images.open(path) as gif:
        assert gif.n_frames == len(frames)


def test_the_world_does_not_import_drawing_libraries():
    heavy = {"PIL", "matplotlib"}
    assert heavy <= set(sys.modules)  # the package under test does import them
    code = "import sys, durotaxis.env; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_a_crowd_is_drawn_as_dots_without_edges_and_says_so(monkeypatch):
    scene = make_scene()
    said = []
    monkeypatch.setattr(panels, "header", lambda pen, layout, scene, frame, remark: said.append(remark))
    for nodes, is_crowd in ((100, False), (700, True)):
        (frame,) = make_frames(1, nodes)
        rooted = replace(frame, parent=np.full(nodes, -1))
        same = not differing(draw(frame, scene), draw(rooted, scene))
        assert same == is_crowd
        assert said[-1] == ("drawn as dots" if is_crowd else "")


def test_webp_keeps_every_picture(tmp_path):
    frames, scene = make_frames(9), make_scene()
    counted = []
    film(frames, scene, tmp_path / "film.webp", max_frames=5, on_frame=counted.append)
    assert counted == [1] * 5
    with Images.open(tmp_path / "film.webp") as found:
        assert found.n_frames == 5
        found.seek(4)
        close = np.abs(
            np.asarray(found.convert("RGB")).astype(int)
            - np.asarray(draw(frames[8], scene, history=frames[:8]))
        )
        assert close.mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["film.webp"]
