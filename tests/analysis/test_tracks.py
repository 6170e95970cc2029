"""Tracks are what was recorded; births, deaths and descent as written down by hand and as the world has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from analysis.made_episodes import ALONE, BEGINS_ANEW, DIES_OUT, FAMILY, PARAMETERS, STORIES, Node, story
from durotaxis.analysis.tracks import (
    CENTROID_COLUMNS,
    NOBODY,
    TRACK_COLUMNS,
    centroids_of,
    columns_of,
    hull_area,
    joined,
    tracks_of,
)
from durotaxis.env import EnvConfig, reset
from durotaxis.env.hull import convex_hull
from durotaxis.env.substrate import coordinates
from durotaxis.records import RecordError, read_episode, write_episodes
from durotaxis.study.episode import record_scripted


def both(frames, **info):
    episode = story(frames, **info)
    tracks = tracks_of(episode, 3)
    return tracks, centroids_of(episode, tracks)


def test_made_episodes_are_records(tmp_path):
    for frames in STORIES.values():
        write_episodes(tmp_path, [story(frames)])
        assert read_episode(tmp_path).info.length == len(frames) - 1


def test_a_family():
    tracks, colony = both(FAMILY)
    assert tracks.step.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4]
    assert tracks.track_id.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 1, 3, 0, 3]
    assert tracks.parent_id.tolist() == [-1, 0, -1, 0, 1, -1, 0, 1, 2, -1, 0, 1, -1, 0]
    assert tracks.mother_id.tolist() == [-1, -1, -1, -1, 1, -1, -1, 1, 2, -1, -1, 2, -1, 2]
    assert tracks.generation.tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 2, 0, 0, 2, 0, 2]
    assert tracks.founder.tolist() == [node in (0, 1) for node in tracks.track_id]
    assert np.flatnonzero(tracks.birth).tolist() == [4, 8]
    assert np.flatnonzero(tracks.death).tolist() == [7, 10]
    assert tracks.age_steps.tolist() == [0, 0, 1, 1, 0, 2, 2, 1, 0, 3, 3, 1, 4, 2]
    assert tracks.action.tolist() == [
        *("rest", "spawn"),
        *("rest", "rest", "spawn"),
        *("rest", "rest", "delete", "rest"),
        *("rest", "delete", "rest"),
        *("", ""),
    ]
    assert np.flatnonzero(tracks.marked).tolist() == [7]
    assert tracks.minutes.tolist() == [10.0 * step for step in tracks.step]
    assert set(tracks.episode) == {3}
    spawning = np.isin(np.arange(14), [1, 4])
    names = ("max_step_um", "half_saturation_kpa", "noise", "angle_rad")
    for name, value in zip(names, PARAMETERS, strict=True):
        column = getattr(tracks, name)
        assert (column[spawning] == value).all()
        assert np.isnan(column[~spawning]).all()
    assert colony.births.tolist() == [0, 1, 1, 0, 0]
    assert colony.deaths.tolist() == [0, 0, 1, 1, 0]
    assert colony.num_nodes.tolist() == [2, 3, 4, 3, 2]
    assert colony.x_um[1] == 4.0
    assert colony.y_um[1] == 1.0
    assert colony.front_um.tolist() == [4, 8, 8, 6, 6]
    assert colony.generation.tolist() == pytest.approx([0, 1 / 3, 3 / 4, 2 / 3, 1])
    assert colony.generation_max.tolist() == [0, 1, 2, 2, 2]
    assert colony.hull_area_um2.tolist() == pytest.approx([0, 6, 7, 2, 0])
    assert colony.stiffness_kpa[0] == pytest.approx(1.2)


def test_a_colony_that_dies_out_is_nowhere_at_its_end():
    tracks, colony = both(DIES_OUT)
    assert tracks.death.tolist() == [False, False, True, True]
    assert colony.num_nodes.tolist() == [2, 2, 0]
    assert colony.deaths.tolist() == [0, 2, 0]
    for name in ("x_um", "y_um", "s_um", "t_um", "front_um", "stiffness_kpa", "hull_area_um2", "generation"):
        assert np.isnan(getattr(colony, name)).tolist() == [False, False, True], name


def test_who_begins_anew_is_a_founder_and_no_child():
    tracks, colony = both(BEGINS_ANEW)
    assert tracks.founder.tolist() == [True] * 6 + [False]
    assert tracks.birth.tolist() == [False] * 6 + [True]
    assert tracks.mother_id.tolist() == [NOBODY] * 6 + [3]
    assert tracks.death.tolist() == [True, True] + [False] * 5
    assert colony.births.tolist() == [0, 0, 1]


def test_one_node_alone():
    tracks, colony = both(ALONE)
    assert not (tracks.birth | tracks.death).any()
    assert colony.hull_area_um2.tolist() == [0, 0, 0]


def test_a_child_of_nobody_is_refused():
    frames = ((Node(0, 0.0),), (Node(0, 0.0), Node(1, 2.0)))
    with pytest.raises(RecordError, match="episode 3: node 1 has no parent to be born of"):
        tracks_of(story(frames), 3)


def test_episodes_below_each_other():
    parts = [tracks_of(story(frames), number) for number, frames in enumerate((FAMILY, DIES_OUT))]
    whole = columns_of(joined(parts))
    assert list(whole) == [column.name for column in TRACK_COLUMNS]
    assert whole["episode"].tolist() == [0] * 14 + [1] * 4
    assert list(columns_of(both(FAMILY)[1])) == [column.name for column in CENTROID_COLUMNS]


@pytest.mark.parametrize(
    ("places", "area"),
    [
        ([(0, 0), (2, 0), (2, 3), (0, 3), (1, 1)], 6.0),
        ([(0, 0), (1, 1), (2, 2), (5, 5)], 0.0),
        ([(4, 4)] * 5, 0.0),
        ([(0, 0), (3, 0)], 0.0),
        ([(1, 1)], 0.0),
        ([(0, 0), (4, 0), (0, 3), (0, 0), (4, 0)], 6.0),
    ],
)
def test_hull_area(places, area):
    assert hull_area(np.array(places, dtype=float)) == pytest.approx(area)


@pytest.fixture(scope="module")
def played():
    """Episodes of the random policy along a slanted direction, some of which restart, and their world."""
    config = EnvConfig(
        scenario="quick",
        max_steps=20,
        max_recoveries=9,
        min_nodes=0,
        num_initial_nodes=2,
        substrate={"direction": 0.4},
        minutes_per_step=12.0,
    )
    return config, record_scripted("random", config, list(range(2_000_000, 2_000_003)))


def test_a_world_agrees(played):
    config, episodes = played
    restarts = 0
    for number, episode in enumerate(episodes):
        tracks = tracks_of(episode, number)
        colony = centroids_of(episode, tracks)
        first_rows = np.unique(tracks.track_id, return_index=True)[1]
        assert (tracks.age_steps[first_rows] == 0).all()
        assert (tracks.birth == ((tracks.age_steps == 0) & ~tracks.founder)).all()
        deleted = tracks.action == "delete"
        assert (tracks.death == deleted).all()
        # Ids are given in order of birth, so that they count those who were there.
        assert tracks.track_id.max() + 1 == tracks.birth.sum() + len(set(tracks.track_id[tracks.founder]))
        assert colony.num_nodes[-1] == episode.info.final["num_nodes"]
        for row in range(1, len(colony.step)):
            if tracks.founder[tracks.step == row].all() and tracks.death[tracks.step == row - 1].all():
                restarts += 1
                assert colony.num_nodes[row] == config.num_initial_nodes
                assert colony.births[row] == 0
            else:
                gain = colony.births[row] - colony.deaths[row - 1]
                assert colony.num_nodes[row] - colony.num_nodes[row - 1] == gain
        births = np.flatnonzero(tracks.birth)
        spawned = {
            (s, n)
            for s, n, a in zip(tracks.step, tracks.track_id, tracks.action, strict=True)
            if a == "spawn"
        }
        assert {(tracks.step[i] - 1, tracks.mother_id[i]) for i in births} <= spawned
        seed = torch.tensor([episode.info.seed])
        _, substrate = reset(config, seed)
        place = torch.tensor(np.stack([tracks.x_um, tracks.y_um], 1))[None]
        s, t = (x[0].numpy() for x in coordinates(place, substrate))
        np.testing.assert_allclose(tracks.s_um, s, atol=1e-4)
        np.testing.assert_allclose(tracks.t_um, t, atol=1e-4)
        assert math.isclose(tracks.minutes[-1], 12.0 * episode.info.length)
    assert restarts > 0


def test_the_worlds_own_hull_has_the_same_area(played):
    _, episodes = played
    episode = episodes[0]
    tracks = tracks_of(episode)
    colony = centroids_of(episode, tracks)
    for row in range(len(colony.step)):
        here = tracks.step == row
        place = torch.tensor(np.stack([tracks.x_um[here], tracks.y_um[here]], 1), dtype=torch.float32)[None]
        area = convex_hull(place, torch.ones(1, place.shape[1], dtype=torch.bool))[1]
        assert colony.hull_area_um2[row] == pytest.approx(float(area[0]), rel=1e-4, abs=1e-2)
