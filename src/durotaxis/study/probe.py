"""What each model is worth to a trained agent: it is evaluated with some of its models closed.

A model whose gate is 0 is excluded exactly: attention is that of the others alone. The agent was not trained
without it, so this is what the model is worth to this agent, not what an agent trained without it would lack.
Nothing is chosen by it, so the episodes are those of reports.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.env import DurotaxisEnv
from durotaxis.env.types import Observation
from durotaxis.fusion import MultiPTMFeatureExtractor
from durotaxis.fusion.combine import normalise
from durotaxis.ppo import EvaluationStep, evaluate, report_seeds
from durotaxis.records import Probe, Similarity, Subset, read_probe, write_probe
from durotaxis.study.evaluation import BATCH, Candidate
from durotaxis.study.plan import world_digest
from durotaxis.study.provenance import own_version

MAX_COMPLETE = 6
"""Models up to which all subsets are played."""
SIMILAR = 10
"""Episodes, at most, whose states similarities are measured on."""


def subsets_of(ptms: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of models that are played: all up to six models; else none, singles, all but one, and all."""
    sizes = range(len(ptms) + 1) if len(ptms) <= MAX_COMPLETE else (0, 1, len(ptms) - 1, len(ptms))
    return [subset for size in sizes for subset in itertools.combinations(ptms, size)]


def default_episodes(num_ptms: int) -> int:
    """Episodes per subset: 20 up to three models, 10 for more, of which there are more subsets."""
    return 20 if num_ptms <= 3 else 10


def known_probe(candidate: Candidate, num_seeds: int | None = None) -> Probe | None:
    """What an earlier `probe_run` left in the run directory, where it fits.

    It fits if it is of the same checkpoint (by its hash), world and models, and of at least as many episodes.

    Args:
        num_seeds: episodes per subset; None: as many as `default_episodes` says.

    Raises:
        RecordError: it is damaged, or of another format.
    """
    found = read_probe(candidate.run.path)
    names = candidate.policy.actor.extractor.opened
    seeds = report_seeds(num_seeds or default_episodes(len(names)))
    fits = (
        found is not None
        and found.sha256 == _sha256(candidate.checkpoint_path)
        and found.world == world_digest(candidate.config.env)
        and tuple(found.ptms) == names
        and list(found.seeds[: len(seeds)]) == seeds
    )
    return found if fits else None


def probe_run(
    candidate: Candidate, num_seeds: int | None = None, advance: Callable[[int], None] = lambda count: None
) -> Probe:
    """Play every subset of a run's models on held-out episodes; write what is found to the run directory.

    What `known_probe` finds is returned as it is; anything else is replaced.

    Args:
        num_seeds: episodes per subset; None: as many as `default_episodes` says.
        advance: called with the number of episodes that just finished.

    Raises:
        UserError: the agent has no attention. RecordError: the record cannot be read or written.
    """
    extractor = candidate.policy.actor.extractor
    if not candidate.policy.actor.has_attention:
        raise UserError(
            f"{candidate.run.path} has no attention: its agent has one model; analyse a run with "
            "actor_critic.use_wsa=true"
        )
    known = known_probe(candidate, num_seeds)
    if known is not None:
        return known
    names = extractor.opened
    seeds = report_seeds(num_seeds or default_episodes(len(names)))
    per_node = candidate.policy.attention_rows == "node"
    embeddings = _Embeddings(extractor, min(SIMILAR, len(seeds)), per_node)
    played = [_play(candidate, subset, seeds, embeddings, advance) for subset in subsets_of(names)]
    path = candidate.checkpoint_path
    found = Probe(
        checkpoint=str(path.relative_to(candidate.run.path)),
        sha256=_sha256(path),
        step=candidate.step,
        scenario=candidate.config.env.scenario,
        world=world_digest(candidate.config.env),
        seeds=seeds,
        deterministic=False,
        ptms=names,
        is_complete=len(names) <= MAX_COMPLETE,
        subsets=played,
        similarity=embeddings.similarity(),
        version=own_version(),
    )
    write_probe(candidate.run.path, found)
    return found


@contextmanager
def only(extractor: MultiPTMFeatureExtractor, names: Sequence[str]) -> Iterator[None]:
    """Close all other models within the `with` block; without any name, set the representation to zero.

    Models keep the gate that they have; one that is closed stays closed.
    """
    closed = [name for name in extractor.opened if name not in names] if names else []
    before = dict(zip(extractor.names, extractor.gates.tolist(), strict=True))
    try:
        for name in closed:
            extractor.set_gate(name, 0.0)
        with extractor.intervene(None if names else "zero"):
            yield
    finally:
        for name in closed:
            extractor.set_gate(name, before[name])


def linear_cka(covariance: Tensor) -> Tensor:
    """Similarity of K sets of D features by their covariance: [K,D,K,D] -> [K,K], 0 to 1, symmetric.

        |C_ij|² / (|C_ii| |C_jj|),  C_ij = cov(features of i, features of j), Frobenius norms

    This is the linear centred kernel alignment of Kornblith et al., "Similarity of neural network
    representations revisited" (2019), equation 3 with the kernels x·x'. It is 1 for features that are equal
    up to a rotation and a scale, and 0 where they are uncorrelated; of n unrelated states of D features it is
    about D/(n + D). Features that do not vary are like nothing: 0.
    """
    norms = covariance.double().square().sum((1, 3)).sqrt()  # [K,K]
    own = norms.diagonal()
    scale = own[:, None] * own[None, :]
    return torch.where(scale > 0, norms.square() / scale.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _play(
    candidate: Candidate,
    subset: Sequence[str],
    seeds: Sequence[int],
    embeddings: _Embeddings,
    advance: Callable[[int], None],
) -> Subset:
    extractor = candidate.policy.actor.extractor
    device = next(candidate.policy.parameters()).device
    world = DurotaxisEnv(candidate.config.env, min(len(seeds), BATCH), device, validate=False)
    is_whole = tuple(subset) == extractor.opened

    def on_step(step: EvaluationStep) -> None:
        if is_whole:
            embeddings.on_step(step)
        ended = step.result.terminated | step.result.truncated
        advance(int(ended[step.slots].sum()))

    with only(extractor, subset), embeddings.watched() if is_whole else ExitStack():
        rows = evaluate(world, candidate.policy, seeds, on_step=on_step)
    return Subset(
        ptms=list(subset),
        returns=[row["return"] for row in rows],
        success=[row["success"] for row in rows],
        front_progress=[row["final/front_progress"] for row in rows],
    )


@final
class _Embeddings:
    """Collects first and second moments of the open models' embeddings, by episode.

    Args:
        count: episodes, the first ones, that are collected.
        per_node: whether embeddings have a row per living node; else one per colony.
    """

    def __init__(self, extractor: MultiPTMFeatureExtractor, count: int, per_node: bool) -> None:
        self._per_node = per_node
        self._ptms = [extractor.ptms[name] for name in extractor.opened]
        self._shape = (len(self._ptms), extractor.embedding_dim)
        self._seen: dict[int, Tensor] = {}
        width = self._shape[0] * self._shape[1]
        self._rows = torch.zeros(count, dtype=torch.float64)
        self._sums = torch.zeros(count, width, dtype=torch.float64)
        self._products = torch.zeros(count, width, width, dtype=torch.float64)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the `with` block, what models say is kept until `on_step` takes it."""

        def keep(index: int) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, given, embedding: self._seen.__setitem__(index, embedding.detach())

        with ExitStack() as hooks:
            for index, ptm in enumerate(self._ptms):
                hooks.callback(ptm.register_forward_hook(keep(index)).remove)
            yield

    def on_step(self, step: EvaluationStep) -> None:
        """Take in what was said at a step; a row is a living node, or a colony with any."""
        mask = cast(Observation, step.observation).node_mask
        embeddings = torch.stack([self._seen[index] for index in range(len(self._ptms))], 1).float()
        owners = mask.nonzero()[:, 0] if self._per_node else torch.arange(len(mask), device=mask.device)
        kept = mask.any(1)[owners] & (step.episodes[owners] < len(self._rows))
        episodes = step.episodes[owners[kept]]
        features = normalise(embeddings[kept]).double().flatten(1)
        for episode in episodes.unique().tolist():
            rows = features[episodes == episode].cpu()
            self._rows[episode] += len(rows)
            self._sums[episode] += rows.sum(0)
            self._products[episode] += rows.T @ rows

    def similarity(self) -> Similarity:
        """Of all episodes together, and without each of them."""
        total = self._cka(self._rows.sum(), self._sums.sum(0), self._products.sum(0))
        without = [
            self._cka(
                self._rows.sum() - self._rows[out],
                self._sums.sum(0) - self._sums[out],
                self._products.sum(0) - self._products[out],
            )
            for out in range(len(self._rows))
            if len(self._rows) > 1
        ]
        names = [ptm.name for ptm in self._ptms]
        return Similarity(names, int(self._rows.sum()), self._shape[1], total, without)

    def _cka(self, rows: Tensor, sums: Tensor, products: Tensor) -> list[list[float]]:
        covariance = products / rows - torch.outer(sums, sums) / rows**2
        return linear_cka(covariance.view(*self._shape, *self._shape)).tolist()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
