"""The tasks: what is asked of a trunk, through linear heads alone.

Linear heads leave the work to the trunk, and what is asked becomes readable by whatever stands on it later.
A task sees its batch either as it is or hidden in part; see `Views`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from durotaxis.core.errors import UserError
from durotaxis.env import FIELD_CHANNELS, NODE_FEATURES
from durotaxis.env.types import FIELD_SIZE
from durotaxis.fusion import PTM, sample_map
from durotaxis.fusion.readout import pool_map, pool_nodes
from durotaxis.pretrain import labels
from durotaxis.pretrain.examples import Examples, with_edges
from durotaxis.pretrain.scenes import NEXT

Model = Literal["graph_cnn", "graph_gnn"]
_HIDDEN_PATCHES = 0.25
_PATCH = 4
_HIDDEN_NODES = 0.2
_HELD_OUT_LINKS = 0.15
_CANDIDATES = 4
_BLANK = 0.5  # what hidden pixels are painted with; 0 after normalisation


@dataclass(frozen=True)
class Seen:
    """What a trunk makes of S scenes with n nodes."""

    nodes: Tensor  # [n,F], at each node: the map sampled there, or the node's own features
    pooled: Tensor  # [S,F]
    maps: Tensor | None  # [S,F,h,w], of image models

    def at_nodes(self, batch: Tensor) -> Tensor:
        """[n,2F], the readout `sampled`."""
        return torch.cat([self.nodes, self.pooled[batch]], 1)

    def at_pairs(self, pair: Tensor) -> Tensor:
        """Of two rows of nodes each [P,2], whichever comes first: sum, difference, product, [P,3F]."""
        first, second = self.nodes[pair].unbind(1)
        return torch.cat([first + second, (first - second).abs(), first * second], 1)


def look(ptm: PTM, examples: Examples) -> Seen:
    """Run a model on scenes."""
    batch = examples.graph.batch
    if ptm.record.reads == "graph":
        nodes = ptm.nodes(examples.graph)
        return Seen(nodes, pool_nodes(nodes, batch, len(examples), "mean"), None)
    maps = ptm.maps(examples.field)
    return Seen(sample_map(maps, examples.points, batch), pool_map(maps, "mean"), maps)


@dataclass(frozen=True)
class Views:
    """One batch, looked at twice: two thirds of its scenes as they are, the others with parts hidden."""

    plain: Examples
    seen: Seen
    whole: Examples  # the other scenes before hiding
    hidden: Hidden
    seen_hidden: Seen


@dataclass(frozen=True)
class Hidden:
    """Scenes with parts hidden, and which."""

    examples: Examples
    pixels: Tensor  # [S,24,24] bool
    nodes: Tensor  # [n] bool
    links: Tensor  # [E] bool, of the whole scenes


def hide(whole: Examples, generator: torch.Generator) -> Hidden:
    """Paint over a quarter of the picture's patches, blank a fifth of the nodes, leave out some edges."""

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    cells = FIELD_SIZE // _PATCH
    patches = drawn(len(whole), cells, cells) < _HIDDEN_PATCHES
    pixels = patches.repeat_interleave(_PATCH, 1).repeat_interleave(_PATCH, 2)
    nodes = drawn(len(whole.graph.nodes)) < _HIDDEN_NODES
    links = drawn(len(whole.graph.edges)) < _HELD_OUT_LINKS
    graph = with_edges(whole.graph, ~links)
    graph = replace(graph, nodes=torch.where(nodes[:, None], 0.0, graph.nodes))
    field = torch.where(pixels[:, None], _BLANK, whole.field)
    return Hidden(replace(whole, graph=graph, field=field), pixels, nodes, links)


class Task(nn.Module, ABC):
    """Abstract: a head and a loss. Losses are means, 0 where a batch asks nothing."""

    @abstractmethod
    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """The loss of one batch."""


@final
class Components(Task):
    """How many pieces: connected components of the graph; for pictures, groups of touching node pixels."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.label = "components" if model == "graph_gnn" else "clusters"
        self.head = nn.Linear(width, labels.MAX_COUNT)

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Cross-entropy over the classes 1, 2, 3, 4, and 5 or more."""
        return _cross_entropy(self.head(views.seen.pooled), views.plain.of_scene[self.label])


@final
class Reachability(Task):
    """Are the two marked nodes joined: by edges; for pictures, by firm ground inside the picture."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * width, 2)

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Cross-entropy over no and yes."""
        asked = views.plain.of_scene["joined"] >= 0
        pairs = views.seen.at_pairs(views.plain.pair[asked])
        return _cross_entropy(self.head(pairs), views.plain.of_scene["joined"][asked])


@final
class Links(Task):
    """Which of two pairs of near nodes was joined by an edge that was left out."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * width, 2)

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Cross-entropy over no and yes, as many of either as can be."""
        true, false = link_pairs(views.whole, views.hidden.links, generator)
        pairs = torch.cat([true, false])
        answer = torch.cat([torch.ones(len(true)), torch.zeros(len(false))]).to(torch.int64)
        rows = views.seen_hidden.at_pairs(pairs)
        return _cross_entropy(self.head(rows), answer)


@final
class Masked(Task):
    """What was hidden: features of nodes; for pictures, patches."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.is_image = model == "graph_cnn"
        outputs = len(FIELD_CHANNELS) * (FIELD_SIZE // 3) ** 2 if self.is_image else len(NODE_FEATURES)
        self.head = nn.Linear(width, outputs)

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Mean squared error where it was hidden."""
        hidden, maps = views.hidden, views.seen_hidden.maps
        if maps is None:
            return _squared(self.head(views.seen_hidden.nodes), views.whole.graph.nodes, hidden.nodes)
        painted = functional.pixel_shuffle(self.head(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 8)
        return _squared(
            painted.permute(0, 2, 3, 1), views.whole.field.permute(0, 2, 3, 1), hidden.pixels, scale=4.0
        )


@final
class Next(Task):
    """What the next step changes, on average over the policies: centroid, front and number of nodes."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, len(NEXT))

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Mean squared error in the units of `scenes.NEXT`."""
        change = views.plain.of_scene["next"]
        return _squared(self.head(views.seen.pooled), change.nan_to_num(), change.isfinite().all(1))


@final
class Ahead(Task):
    """From each node: on which side and how far the bridge is, and where the ground around is soft."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.bridge = nn.Linear(2 * width, 3)
        self.offset = nn.Linear(2 * width, 2)
        self.blocked = nn.Linear(2 * width, labels.NUM_DIRECTIONS * len(labels.REACH))

    def loss(self, views: Views, generator: torch.Generator) -> Tensor:
        """Cross-entropies of the side and of each place around, squared error of the offset."""
        rows, asked = views.seen.at_nodes(views.plain.graph.batch), views.plain.of_node
        known = asked["bridge"] >= 0
        blocked = functional.binary_cross_entropy_with_logits(
            self.blocked(rows), asked["blocked"].to(rows.dtype)
        )
        return (
            _cross_entropy(self.bridge(rows), asked["bridge"])
            + _squared(self.offset(rows), asked["bridge_offset"], known)
            + blocked
        )


TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {
        "components": Components,
        "reachability": Reachability,
        "links": Links,
        "masked": Masked,
        "next": Next,
        "ahead": Ahead,
    }
)
"""Name -> task."""
TASKS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "graph_cnn": ("components", "reachability", "masked", "next", "ahead"),
        "graph_gnn": ("components", "reachability", "links", "masked", "next"),
    }
)
"""Model -> what can be asked given what it sees: pictures show no edges, graphs no ground ahead."""


def link_pairs(whole: Examples, held_out: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ends of the held-out edges [P,2], and pairs of the same first ends with a near stranger [Q,2].

    The stranger is the nearest (in the picture) of 4 nodes of the scene drawn at random that is neither the
    node itself nor joined to it; without one there is no pair.
    """
    graph = whole.graph
    true = graph.edge_index[:, held_out].T
    count = torch.bincount(graph.batch, minlength=len(whole))
    first = count.cumsum(0) - count
    scene = graph.batch[true[:, 0]]
    drawn = torch.rand((len(true), _CANDIDATES), generator=generator, dtype=torch.float64)
    other = first[scene, None] + (drawn * count[scene, None]).to(torch.int64)
    start = true[:, :1].expand_as(other)
    number = len(graph.nodes)
    source, target = graph.edge_index
    joined = torch.cat([source * number + target, target * number + source])
    stranger = (other != start) & ~torch.isin(start * number + other, joined)
    distance = (whole.points[other] - whole.points[start]).square().sum(-1)
    distance = torch.where(stranger, distance, torch.inf)
    nearest = distance.argmin(1)
    false = torch.stack([true[:, 0], other.gather(1, nearest[:, None])[:, 0]], 1)
    return true, false[stranger.any(1)]


def make_tasks(model: Model, names: tuple[str, ...], width: int) -> nn.ModuleDict:
    """Fresh heads of these tasks, drawn from torch's global random numbers.

    Raises:
        UserError: a task that the model cannot be asked.
    """
    for name in names:
        if name not in TASKS_OF[model]:
            raise UserError(f"{model} cannot be asked '{name}'; its tasks are {', '.join(TASKS_OF[model])}")
    return nn.ModuleDict({name: TASKS[name](model, width) for name in names})


def _cross_entropy(scores: Tensor, answer: Tensor) -> Tensor:
    """Over known answers: the mean over the classes that occur of the mean loss of each."""
    known = answer >= 0
    if not bool(known.any()):
        return scores.sum() * 0.0
    count = torch.bincount(answer[known], minlength=scores.shape[1]).to(scores.dtype)
    weight = torch.where(count > 0, 1.0 / count.clamp_min(1.0), 0.0)
    return functional.cross_entropy(scores, answer, weight, ignore_index=labels.UNKNOWN)


def _squared(found: Tensor, wanted: Tensor, where: Tensor, scale: float = 1.0) -> Tensor:
    """Mean squared error over the rows of `where`."""
    error = (found - wanted).square().mean(-1) * where
    return scale * error.sum() / where.sum().clamp_min(1)
