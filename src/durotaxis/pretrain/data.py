"""The scenes of one pre-training, and those of a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from durotaxis.core.randomness import Purpose, hash_keys
from durotaxis.env import EnvConfig
from durotaxis.pretrain.config import PretrainConfig
from durotaxis.pretrain.examples import Examples, Joined, examine
from durotaxis.pretrain.networks import Network, read_network
from durotaxis.pretrain.scenes import Scenes, network_scenes, random_scenes, rollout_scenes
from durotaxis.pretrain.worlds import HELD_OUT, PARTED, TRAINING, world

Advance = Callable[[int], None]
"""Told how many further pieces of work are finished."""
_ROLLOUT, _RANDOM, _EXAMINE, _NETWORK = range(4)
_PROBE_SEED = 1 << 40
NETWORK_SHARE = 4
"""One scene in so many comes from the networks that the user brings."""


def joined_by(model: str) -> Joined:
    """What a pair of marked nodes is asked about, given what the model sees."""
    return "graph" if model == "graph_gnn" else "ground"


def training_examples(config: PretrainConfig, advance: Advance) -> Examples:
    """Rollouts and as many random graphs on every world of TRAINING (random graphs alone on PARTED).

    With networks, a quarter of the scenes are excerpts of those.

    Raises:
        UserError: a network that cannot be read.
    """
    networks = [read_network(each, Path(config.data_root).expanduser()) for each in config.data]
    own = config.scenes * (NETWORK_SHARE - 1) // NETWORK_SHARE if networks else config.scenes
    per_world = max(2, own // len(TRAINING))
    per_network = max(1, (config.scenes - own) // (len(TRAINING) * max(1, len(networks))))
    parts = []
    for number, name in enumerate(TRAINING):
        seed = int(hash_keys(config.seed, Purpose.WEIGHTS, number))
        rolled = 0 if name in PARTED else per_world // 2
        counts = rolled, per_world - rolled, per_network
        parts.append(_of_world(world(name), joined_by(config.model), seed, counts, networks))
        advance(1)
    return Examples.cat(parts)


def held_out_examples(name: str, joined: Joined, count: int) -> Examples:
    """About `count` scenes of a world of HELD_OUT, the same at every call."""
    seed = int(hash_keys(_PROBE_SEED, Purpose.WEIGHTS, list(HELD_OUT).index(name)))
    return _of_world(world(name), joined, seed, (count // 2, count - count // 2, 0))


def _of_world(
    config: EnvConfig,
    joined: Joined,
    seed: int,
    counts: tuple[int, int, int],
    networks: Sequence[Network] = (),
) -> Examples:
    """Scenes of one world: so many from rollouts, so many random graphs, so many of each network."""
    rolled, random, per_network = counts

    def drawn() -> Iterable[Scenes]:
        if rolled:
            yield rollout_scenes(config, _seed(seed, _ROLLOUT), rolled)
        yield random_scenes(config, _seed(seed, _RANDOM), random)
        for index, network in enumerate(networks):
            yield network_scenes(config, network, _seed(seed, _NETWORK, index), per_network)

    return Examples.cat(
        [examine(each, joined, _seed(seed, _EXAMINE, index)) for index, each in enumerate(drawn())]
    )


def _seed(seed: int, *keys: int) -> int:
    return int(hash_keys(seed, *keys))
