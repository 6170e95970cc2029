"""What frozen features say by a linear probe, against the same architecture untrained.

A probe is multinomial logistic regression, fitted on scenes of a world that training never showed and judged
on other scenes of the same world. Features are standardised; the penalty is chosen on a part of the fitting
scenes. Every question is asked once per scene. States of one episode look alike, so they are never parted,
and intervals resample them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from durotaxis.fusion import PTM
from durotaxis.pretrain import labels
from durotaxis.pretrain.data import held_out_examples, joined_by
from durotaxis.pretrain.examples import Examples, with_edges
from durotaxis.pretrain.tasks import Seen, link_pairs, look
from durotaxis.pretrain.train import untrained

UNTRAINED_SEEDS = (1, 2, 3)
NUM_SCENES = 3000
"""Scenes of each held-out world."""
_SHARES = (0.45, 0.15, 0.4)
"""Of the scenes of every source: to fit with, to choose the penalty on, to judge on."""
_FIT, _CHOOSE, _JUDGE = range(3)
_PENALTIES = (1e-3, 1e-2, 1e-1)
_RESAMPLES = 1000
_FORWARD = len(labels.REACH) - 1
"""Column of `blocked`: straight ahead, the farther distance."""
_AT_ONCE = 250
_LINK_SHARE = 0.2


@dataclass(frozen=True)
class Question:
    """Rows of features and their answers, at most one row per scene."""

    features: np.ndarray  # [R,F]
    answer: np.ndarray  # [R] int
    scene: np.ndarray  # [R] int, ascending


@dataclass(frozen=True)
class Division:
    """What becomes of S scenes in a probe."""

    part: np.ndarray  # [S] int: 0 is fitted, 1 chooses the penalty, 2 is judged
    source: np.ndarray  # [S] int, Source
    group: np.ndarray  # [S] int, equal in the states of one episode and nowhere else

    def take(self, scenes: np.ndarray) -> Division:
        """The scenes of these rows [R], in this order."""
        return Division(self.part[scenes], self.source[scenes], self.group[scenes])


@dataclass(frozen=True)
class Finding:
    """One row of the table. Accuracies are balanced: the mean over classes of the share found, in points.

    `low` and `high` are the 95 % bootstrap interval of the gain over the mean of the untrained copies. It
    resamples the judged random graphs, and the judged episodes whole.
    """

    world: str
    question: str
    num_judged: int
    num_classes: int
    trained: float
    untrained: tuple[float, ...]
    gain: float
    low: float
    high: float


def probe_trunk(
    ptm: PTM, model: str, advance: Callable[[int], None], num_scenes: int | None = None
) -> list[Finding]:
    """Ask every question of a model, and of its untrained copies."""
    copies = [untrained(model, seed) for seed in UNTRAINED_SEEDS]
    findings = []
    for world, questions in PROBES[model].items():
        examples = held_out_examples(world, joined_by(model), num_scenes or NUM_SCENES)
        advance(1)
        views = [ask(each, examples, questions) for each in (ptm, *copies)]
        advance(1)
        division = divide(examples.source.numpy(), examples.group.numpy(), 0)
        findings += [compare(world, name, [view[name] for view in views], division) for name in questions]
        advance(1)
    return findings


PROBES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "graph_cnn": {
            "patches": ("reachability", "ahead", "components"),
            "islands": ("reachability", "ahead", "components"),
            "other moat": ("bridge", "ahead", "components"),
        },
        "graph_gnn": {
            "patches": ("reachability", "links", "components"),
            "islands": ("reachability", "links", "components"),
            "other moat": ("reachability", "links", "components"),
        },
    }
)
"""Model -> held-out world -> what is asked there."""


Asked = tuple[Tensor, Tensor, Tensor]
"""Features [R,F], answers [R] and scenes [R] of the rows that a question has."""


@torch.no_grad()
def ask(ptm: PTM, examples: Examples, questions: Sequence[str]) -> dict[str, Question]:
    """Features of a frozen model, with the answers, for every question."""
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in questions}
    for rows in torch.arange(len(examples)).split(_AT_ONCE):
        some = examples.take(rows)
        seen = look(ptm, some)
        for name in questions:
            features, answer, scene = _ASKED[name](ptm, some, seen, generator)
            parts[name].append((features, answer, rows[scene]))
    return {
        name: Question(*(torch.cat(column).numpy() for column in zip(*rows, strict=True)))
        for name, rows in parts.items()
    }


def _ask_components(ptm: PTM, examples: Examples, seen: Seen, generator: torch.Generator) -> Asked:
    """How many components the graph has, or groups the picture shows."""
    name = "components" if ptm.record.reads == "graph" else "clusters"
    return seen.pooled, examples.of_scene[name], torch.arange(len(examples))


def _ask_reachability(ptm: PTM, examples: Examples, seen: Seen, generator: torch.Generator) -> Asked:
    """Whether the two marked nodes are joined."""
    scene = (examples.of_scene["joined"] >= 0).nonzero()[:, 0]
    return seen.at_pairs(examples.pair[scene]), examples.of_scene["joined"][scene], scene


def _ask_bridge(ptm: PTM, examples: Examples, seen: Seen, generator: torch.Generator) -> Asked:
    """On which side of one node of each scene the bridge lies."""
    side, batch = examples.of_node["bridge"], examples.graph.batch
    row = one_per_scene(batch, side >= 0, generator)
    return seen.at_nodes(batch)[row], side[row], batch[row]


def _ask_ahead(ptm: PTM, examples: Examples, seen: Seen, generator: torch.Generator) -> Asked:
    """Whether the ground 25 µm straight ahead of one node of each scene is soft, or none."""
    batch = examples.graph.batch
    row = one_per_scene(batch, torch.ones_like(batch, dtype=torch.bool), generator)
    blocked = examples.of_node["blocked"][row, _FORWARD].to(torch.int64)
    return seen.at_nodes(batch)[row], blocked, batch[row]


def _ask_links(ptm: PTM, examples: Examples, seen: Seen, generator: torch.Generator) -> Asked:
    """Which of two near pairs was joined by an edge that was left out; see `tasks.link_pairs`."""
    drawn = torch.rand(len(examples.graph.edges), generator=generator)
    held_out = drawn < _LINK_SHARE
    true, false = link_pairs(examples, held_out, generator)
    pairs = torch.cat([true, false])
    answer = torch.cat([torch.ones(len(true)), torch.zeros(len(false))]).to(torch.int64)
    shown = replace(examples, graph=with_edges(examples.graph, ~held_out))
    scene = examples.graph.batch[pairs[:, 0]]
    row = one_per_scene(scene, torch.ones(len(pairs), dtype=torch.bool), generator)
    return look(ptm, shown).at_pairs(pairs[row]), answer[row], scene[row]


_ASKED: Mapping[str, Callable[[PTM, Examples, Seen, torch.Generator], Asked]] = MappingProxyType(
    {
        "components": _ask_components,
        "reachability": _ask_reachability,
        "bridge": _ask_bridge,
        "ahead": _ask_ahead,
        "links": _ask_links,
    }
)


def one_per_scene(scene: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """One allowed row of each scene that has any, at random; in the order of the scenes."""
    order = torch.rand(len(scene), generator=generator).argsort()
    order = order[allowed[order]]
    order = order[scene[order].argsort(stable=True)]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = scene[order][1:] != scene[order][:-1]
    return order[first]


def divide(source: np.ndarray, group: np.ndarray, seed: int) -> Division:
    """Part scenes at random, every source by the same shares, without parting a group.

    Groups are lined up at random; each goes where the middle of its scenes falls.
    """
    generator = np.random.default_rng(seed)
    part = np.empty(len(group), dtype=np.int64)
    for each in np.unique(source):
        mine = np.flatnonzero(source == each)
        _, number, sizes = np.unique(group[mine], return_inverse=True, return_counts=True)
        order = generator.permutation(len(sizes))
        middle = np.empty(len(sizes))
        middle[order] = (sizes[order].cumsum() - sizes[order] / 2) / len(mine)
        part[mine] = np.searchsorted(np.cumsum(_SHARES)[:-1], middle)[number]
    return Division(part, source, group)


def compare(world: str, name: str, questions: Sequence[Question], division: Division) -> Finding:
    """Fit and judge the same rows of the first model and of its untrained copies."""
    answer = questions[0].answer
    of_row = division.take(questions[0].scene)
    found = np.stack([classify(q.features, answer, of_row.part) for q in questions])
    judged = of_row.part == _JUDGE
    truth = answer[judged]
    right = found == truth
    scores = [balanced_accuracy(each, truth) for each in right]
    gains = []
    for rows in resamples(of_row.take(np.flatnonzero(judged)), _RESAMPLES, 0):
        first, *others = [balanced_accuracy(each[rows], truth[rows]) for each in right]
        gains.append(first - float(np.mean(others)))
    low, high = np.quantile(gains, (0.025, 0.975))
    return Finding(
        world=world,
        question=name,
        num_judged=len(truth),
        num_classes=len(np.unique(truth)),
        trained=scores[0],
        untrained=tuple(scores[1:]),
        gain=scores[0] - float(np.mean(scores[1:])),
        low=float(low),
        high=float(high),
    )


def resamples(division: Division, count: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of `count` bootstrap samples: of every source as many groups as it has, drawn whole."""
    generator = np.random.default_rng(seed)
    sources = []
    for each in np.unique(division.source):
        mine = np.flatnonzero(division.source == each)
        sources.append([mine[division.group[mine] == one] for one in np.unique(division.group[mine])])
    for _ in range(count):
        yield np.concatenate(
            [groups[one] for groups in sources for one in generator.integers(0, len(groups), len(groups))]
        )


def balanced_accuracy(right: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of the share of right answers, in points."""
    return 100.0 * float(np.mean([right[truth == each].mean() for each in np.unique(truth)]))


def classify(features: np.ndarray, answer: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Answers for the judged rows, by logistic regression on the others."""
    fitting, choosing, known = part == _FIT, part == _CHOOSE, part != _JUDGE
    scaled = _standardised(features, known)
    truth = answer[choosing]
    scores = []
    for penalty in _PENALTIES:
        weights = fit_logistic(scaled[fitting], answer[fitting], penalty)
        scores.append(balanced_accuracy(_predict(scaled[choosing], weights) == truth, truth))
    weights = fit_logistic(scaled[known], answer[known], _PENALTIES[int(np.argmax(scores))])
    return _predict(scaled[part == _JUDGE], weights)


def fit_logistic(features: np.ndarray, answer: np.ndarray, penalty: float) -> np.ndarray:
    """Weights [F+1,C] of multinomial logistic regression; classes weigh the same, the last row is the bias.

    Minimises the mean cross-entropy plus penalty/2 times the squared weights (without the bias), by L-BFGS.
    """
    width = features.shape[1]
    number = int(answer.max()) + 1
    count = np.bincount(answer, minlength=number)
    share = 1.0 / (count[answer] * (count > 0).sum())
    known = np.eye(number)[answer]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, number)
        scores = features @ weights[:-1] + weights[-1]
        scores -= scores.max(1, keepdims=True)
        log_sum = np.log(np.exp(scores).sum(1, keepdims=True))
        error = (np.exp(scores - log_sum) - known) * share[:, None]
        value = float((share * (log_sum[:, 0] - (scores * known).sum(1))).sum())
        value += 0.5 * penalty * float((weights[:-1] ** 2).sum())
        gradient = np.concatenate([features.T @ error + penalty * weights[:-1], error.sum(0)[None]])
        return value, gradient.ravel()

    start = np.zeros((width + 1) * number)
    return minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(
        width + 1, number
    )


def _predict(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (features @ weights[:-1] + weights[-1]).argmax(1)


def _standardised(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By the mean and deviation of the rows of `known`; constant columns become 0."""
    values = features.astype(np.float64)
    mean, deviation = values[known].mean(0), values[known].std(0)
    return (values - mean) / np.where(deviation > 1e-8, deviation, np.inf)
