"""Is it a fusion rule? A check for people who write their own, and one for whole extractors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion.backbones.probe import first_graph, random_graphs
from durotaxis.fusion.extractor import MultiPTMFeatureExtractor
from durotaxis.fusion.graph import GraphInput

Rule = Callable[..., tuple[Tensor, Tensor]]
"""`(context [R,C], embeddings [R,K,D], gates=None) -> (representation [R,D'], attention [R,K])`."""

TOLERANCE = 1e-5
_ROWS = 6
_POINTS = 2  # in each image, where an extractor is checked; and nodes of each graph
_RAMP = 1e-6  # a gate so low that its model must be as good as absent


class FusionConformanceError(UserError):
    """What a fusion rule does that it must not do; one line that names every failed property."""


def check_fusion(
    module: Rule,
    *,
    context_dim: int,
    embedding_dim: int,
    num_ptms: int = 3,
    without: Collection[str] = (),
    also: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Hold a fusion rule to what every part of durotaxis relies on; the module itself is left as it is.

    Args:
        module: a function or nn.Module with the call of `durotaxis.fusion.Fusion`. A module whose
            `reads_context` is false need not pass a gradient to the context.
        context_dim, embedding_dim: C and D of what it takes.
        num_ptms: K, at least 2.
        without: names of `PROPERTIES` that it does not claim, such as `order` for concatenation.
        also: names of `OPTIONAL` that it does claim.
        seed: of the inputs.

    Returns:
        Names of the properties that hold: all that were looked at, in the order of `PROPERTIES`.

    Raises:
        FusionConformanceError: every failed property, in words.
        UserError: unknown names, fewer than 2 PTMs.
    """
    _require_known(without, PROPERTIES, "without")
    _require_known(also, OPTIONAL, "also")
    if num_ptms < 2:
        raise UserError(f"check_fusion needs num_ptms of at least 2, not {num_ptms}")
    case = _Case(copy.deepcopy(module), context_dim, embedding_dim, num_ptms, seed)
    chosen = {name: check for name, check in PROPERTIES.items() if name not in without}
    chosen |= {name: OPTIONAL[name] for name in also}
    found = {}
    for name, check in chosen.items():
        found[name] = _first(check, case)
        if name == "shapes" and found[name]:
            break  # nothing else can be said about it
    return _report(type(module).__name__, found)


@dataclass(frozen=True)
class _Case:
    """A rule under test, and seeded inputs for it."""

    module: Rule
    context_dim: int
    embedding_dim: int
    num_ptms: int
    seed: int

    def inputs(self, rows: int = _ROWS, num_ptms: int | None = None) -> tuple[Tensor, Tensor]:
        """Context [rows,C] and embeddings [rows,K,D], of different scales per model."""
        generator = torch.Generator().manual_seed(self.seed)
        count = self.num_ptms if num_ptms is None else num_ptms
        embeddings = torch.randn((_ROWS, max(count, self.num_ptms), self.embedding_dim), generator=generator)
        context = torch.randn((_ROWS, self.context_dim), generator=generator)
        scale = 1 + torch.arange(embeddings.shape[1]).view(1, -1, 1)
        return context[:rows], (scale * embeddings)[:rows, :count]

    def gates(self, value: float) -> Tensor:
        """[K], all 1 but the last."""
        gates = torch.ones(self.num_ptms)
        gates[-1] = value
        return gates

    def again(self) -> _Case:
        """The same with a module of its own, to train or to spoil."""
        return _Case(
            copy.deepcopy(self.module), self.context_dim, self.embedding_dim, self.num_ptms, self.seed
        )

    @torch.no_grad()
    def run(self, context: Tensor, embeddings: Tensor, gates: Tensor | None = None) -> Any:
        """What the rule returns in eval mode, without gradient."""
        if isinstance(self.module, nn.Module):
            self.module.eval()
        return self.module(context, embeddings, gates)


Findings = Iterator[str]
"""What is wrong, in words; a check stops at its first."""


def _shapes(case: _Case) -> Findings:
    """Shapes, for no row, one row and many; float32 stays float32."""
    for rows in (_ROWS, 1, 0):
        out = case.run(*case.inputs(rows))
        if not (isinstance(out, tuple) and len(out) == 2 and all(isinstance(part, Tensor) for part in out)):
            yield "it must return a pair of tensors, (representation, attention)"
            return
        representation, attention = out
        if representation.dim() != 2 or len(representation) != rows:
            yield f"representation of {rows} rows has shape {list(representation.shape)}, not [{rows}, D']"
        if attention.shape != (rows, case.num_ptms):
            yield f"attention has shape {list(attention.shape)}, not [{rows}, {case.num_ptms}]"
        if (representation.dtype, attention.dtype) != (torch.float32, torch.float32):
            yield f"float32 inputs give {representation.dtype} and {attention.dtype}"


def _finite(case: _Case) -> Findings:
    """Finite for ordinary, all-zero, constant and large embeddings."""
    context, embeddings = case.inputs()
    for name, values in (
        ("ordinary", embeddings),
        ("all-zero", torch.zeros_like(embeddings)),
        ("constant", torch.ones_like(embeddings)),
        ("large (1e4)", 1e4 * embeddings),
    ):
        if not all(bool(part.isfinite().all()) for part in case.run(context, values)):
            yield f"{name} embeddings give numbers that are not finite"


def _attention(case: _Case) -> Findings:
    """Attention is at least 0 and sums to 1 in each row."""
    gated = case.gates(0.3)
    for name, gates in (("", None), (" with gates", gated)):
        attention = case.run(*case.inputs(), gates)[1]
        if bool((attention < 0).any()):
            yield f"attention{name} falls below 0"
        total = attention.sum(1)
        if not _close(total, torch.ones_like(total)):
            yield f"a row of attention{name} sums to {float(total[(total - 1).abs().argmax()]):.4g}, not 1"


def _rows(case: _Case) -> Findings:
    """A row depends neither on its companions nor on its place in the batch."""
    context, embeddings = case.inputs()
    together = case.run(context, embeddings)
    alone = case.run(context[:1], embeddings[:1])
    if not _all_close(alone, [part[:1] for part in together]):
        yield "a row alone gives another result than among companions"
    turned = case.run(context.flip(0), embeddings.flip(0))
    if not _all_close(turned, [part.flip(0) for part in together]):
        yield "a row's result depends on its place in the batch"


def _order(case: _Case) -> Findings:
    """The order of PTMs changes nothing but the order of attention's columns."""
    context, embeddings = case.inputs()
    order = torch.arange(case.num_ptms).roll(1)
    representation, attention = case.run(context, embeddings)
    turned, columns = case.run(context, embeddings[:, order])
    if not _close(turned, representation):
        yield "the representation changes with the order of the PTMs"
    if not _close(columns, attention[:, order]):
        yield "attention does not follow the order of the PTMs"
    gates = case.gates(0.2)
    gated = case.run(context, embeddings, gates)[0]
    if not _close(case.run(context, embeddings[:, order], gates[order])[0], gated):
        yield "gates do not follow the order of the PTMs"


def _any_number(case: _Case) -> Findings:
    """The same rule takes any number of PTMs, one included."""
    for count in dict.fromkeys((1, 2, case.num_ptms, case.num_ptms + 2)):
        context, embeddings = case.inputs(num_ptms=count)
        try:
            attention = case.run(context, embeddings)[1]
        except (RuntimeError, ValueError, IndexError) as error:
            yield f"{count} PTMs fail: {_short(error)}"
            return
        if attention.shape != (_ROWS, count):
            yield f"{count} PTMs give attention of shape {list(attention.shape)}"
        elif count == 1 and not _close(attention, torch.ones_like(attention)):
            yield "a single PTM does not get all of the attention"


def _gates(case: _Case) -> Findings:
    """Gates of 1 change nothing, [K] and [R,K] mean the same, and each row may have its own."""
    context, embeddings = case.inputs()
    plain, shut = case.run(context, embeddings), case.gates(0.2)
    if not _all_close(case.run(context, embeddings, torch.ones(case.num_ptms)), plain):
        yield "gates that are all 1 change the result"
    gated = case.run(context, embeddings, shut)
    if not _all_close(case.run(context, embeddings, shut.expand(_ROWS, -1)), gated):
        yield "gates [K] and the same gates for every row [R,K] differ"
    if not bool((gated[1][:, -1] < plain[1][:, -1]).all()):
        yield "a gate of 0.2 does not lower its PTM's attention"
    mixed = torch.ones(_ROWS, case.num_ptms)
    mixed[0] = shut
    result = case.run(context, embeddings, mixed)
    if not _all_close([part[:1] for part in result], [part[:1] for part in gated]) or not _all_close(
        [part[1:] for part in result], [part[1:] for part in plain]
    ):
        yield "gates [R,K] of one row act on another"


def _exclusion(case: _Case) -> Findings:
    """A gate of 0 excludes exactly, and small gates approach that."""
    context, embeddings = case.inputs()
    closed = case.gates(0.0)
    representation, attention = case.run(context, embeddings, closed)
    if bool((attention[:, -1] != 0).any()):
        yield f"a gate of 0 leaves attention {float(attention[:, -1].abs().max()):.2g}, not exactly 0"
    changed = embeddings.clone()
    changed[:, -1] = 1e3 * changed[:, -1].flip(-1) + 7
    if not torch.equal(case.run(context, changed, closed)[0], representation):
        yield "the embedding of a PTM whose gate is 0 still changes the representation"
    ramp = case.run(context, embeddings, case.gates(_RAMP))
    if not _all_close(ramp, (representation, attention), 1e-3):
        yield f"a gate of {_RAMP:g} is far from a gate of 0: a newcomer would make the policy jump"


def _refusal(case: _Case) -> Findings:
    """All gates 0 in a row, and gates of a wrong length, are refused with a ValueError such as UserError."""
    context, embeddings = case.inputs()
    shut = torch.ones(_ROWS, case.num_ptms)
    shut[1] = 0
    for name, gates in (
        ("all gates 0", torch.zeros(case.num_ptms)),
        ("all gates 0 in one row", shut),
        ("one gate too many", torch.ones(case.num_ptms + 1)),
    ):
        try:
            case.run(context, embeddings, gates)
        except ValueError:
            continue
        except RuntimeError as error:
            yield f"{name}: fails with {type(error).__name__} instead of a UserError"
        else:
            yield f"{name}: not refused"


def _gradient(case: _Case) -> Findings:
    """The representation's gradient reaches every embedding, every parameter and, where read, the context."""
    fresh = case.again()
    context, embeddings = (part.requires_grad_() for part in fresh.inputs())
    representation, attention = fresh.module(context, embeddings, None)
    weights = torch.randn(representation.shape, generator=torch.Generator().manual_seed(case.seed + 1))
    parameters = dict(_parameters(fresh.module))
    reads_context = bool(getattr(case.module, "reads_context", True))
    if not representation.requires_grad:
        yield "the representation has no gradient"
        return
    (representation * weights).sum().backward()
    if embeddings.grad is None or bool((embeddings.grad.abs().sum((0, 2)) == 0).any()):
        yield "no gradient reaches the embedding of some PTM"
    if reads_context and (context.grad is None or not bool(context.grad.any())):
        yield "no gradient reaches the context (is attention detached?)"
    lost = [name for name, parameter in parameters.items() if parameter.grad is None]
    if lost:
        yield f"no gradient reaches the parameter {', '.join(lost[:3])}"
    if reads_context and not attention.requires_grad:
        yield "attention has no gradient, so that regularisers of it do nothing"


def _every_row(case: _Case) -> Findings:
    """No row is without gradient to its context (a ReLU on the score kills whole rows)."""
    if not getattr(case.module, "reads_context", True):
        return
    fresh = case.again()
    dead = 0
    for sign in (1.0, -1.0):
        context, embeddings = fresh.inputs()
        context = (sign * context).requires_grad_()
        representation, _ = fresh.module(context, sign * embeddings, None)
        weights = torch.randn(representation.shape, generator=torch.Generator().manual_seed(case.seed + 1))
        (gradient,) = torch.autograd.grad((representation * weights).sum(), context, allow_unused=True)
        dead += _ROWS if gradient is None else int((gradient.abs().sum(1) == 0).sum())
    if dead:
        yield f"{dead} of {2 * _ROWS} rows pass no gradient to their context (a ReLU on the score?)"


def _repeatable(case: _Case) -> Findings:
    """In eval mode, equal inputs give equal results, to the bit."""
    first, second = case.run(*case.inputs()), case.run(*case.inputs())
    if not all(torch.equal(one, two) for one, two in zip(first, second, strict=True)):
        yield "two calls with the same inputs differ in eval mode"


def _mode(case: _Case) -> Findings:
    """train() changes nothing: PPO compares probabilities of the rollout with those of the update."""
    fresh = case.again()
    if not isinstance(fresh.module, nn.Module):
        return
    before = case.run(*case.inputs())
    state = {name: value.clone() for name, value in fresh.module.state_dict().items()}
    fresh.module.train()
    with torch.no_grad():
        during = fresh.module(*fresh.inputs(), None)
    if not _all_close(during, before):
        yield "train() changes the result (dropout or batch statistics)"
    changed = [
        name for name, value in fresh.module.state_dict().items() if not torch.equal(value, state[name])
    ]
    if changed:
        yield f"a call in train mode changes {', '.join(changed[:3])}"


def _state(case: _Case) -> Findings:
    """All that the result depends on is in the state dict."""
    fresh = case.again()
    if not isinstance(fresh.module, nn.Module):
        return
    for path, part in fresh.module.named_modules():
        hidden = [name for name, value in vars(part).items() if isinstance(value, Tensor)]
        if hidden:
            yield f"'{'.'.join(filter(None, [path, hidden[0]]))}' is a tensor outside the state dict"
    state = copy.deepcopy(fresh.module.state_dict())
    with torch.no_grad():
        for value in (*fresh.module.parameters(), *fresh.module.state_dict().values()):
            if value.is_floating_point():
                value.add_(0.5)
    fresh.run(*fresh.inputs())
    fresh.module.load_state_dict(state)
    if not _all_close(fresh.run(*fresh.inputs()), case.run(*case.inputs())):
        yield "after load_state_dict of its own state it gives another result"


def _scale(case: _Case) -> Findings:
    """A PTM's scale is no vote: multiplying one embedding by 10 changes nothing."""
    context, embeddings = case.inputs()
    louder = embeddings.clone()
    louder[:, 0] *= 10
    if not _all_close(case.run(context, louder), case.run(context, embeddings), 1e-3):
        yield "multiplying one PTM's embedding by 10 changes the result"


Check = Callable[[_Case], Findings]

PROPERTIES: dict[str, Check] = {
    "shapes": _shapes,
    "finite": _finite,
    "attention": _attention,
    "rows": _rows,
    "order": _order,
    "any number": _any_number,
    "gates": _gates,
    "exclusion": _exclusion,
    "refusal": _refusal,
    "gradient": _gradient,
    "gradient in every row": _every_row,
    "repeatable": _repeatable,
    "mode": _mode,
    "state": _state,
}
"""What is looked at, by name; each check's docstring says what holds."""

OPTIONAL: dict[str, Check] = {"scale": _scale}
"""What a rule may claim besides."""


def check_extractor(extractor: MultiPTMFeatureExtractor, *, image_size: int = 24, seed: int = 0) -> list[str]:
    """Hold a whole extractor to the same: rows, mode, cache, and frozen weights through a training step.

    Args:
        extractor: one of context `graph`; a copy of it is trained for one step.
        image_size: side of the random images, pixels.
        seed: of images, points and contexts (graphs, for models that read them, are the same for every seed).

    Returns:
        Names of the properties that hold: rows, mode, cache, frozen.

    Raises:
        FusionConformanceError: every failed property, in words.
    """
    case = _extractor_inputs(extractor, image_size, seed)
    copied = copy.deepcopy(extractor).eval()
    checks = {
        "rows": _extractor_rows,
        "mode": _extractor_mode,
        "cache": _extractor_cache,
        "frozen": _extractor_frozen,
    }
    found = {name: next(check(copied, case), None) for name, check in checks.items()}
    return _report(type(extractor).__name__, found)


@dataclass(frozen=True)
class _Inputs:
    """Of a whole extractor: images with a context each, points (`sampled`), graphs where they are read."""

    image: Tensor  # [B,3,H,W]
    context: Tensor  # [B, context_input_dim]
    points: Tensor | None  # [B * _POINTS, 2], image by image
    graph: GraphInput | None  # B graphs of _POINTS nodes

    def call(self, extractor: Any, **more: Any) -> Any:
        """Representation and attention."""
        batch = None if self.points is None else torch.arange(len(self.points)) // _POINTS
        return extractor(
            self.image,
            self.context,
            points=self.points,
            batch=batch,
            graph=self.graph,
            return_attention=True,
            **more,
        )

    def first(self) -> _Inputs:
        """The first image alone."""
        return replace(
            self,
            image=self.image[:1],
            context=self.context[:1],
            points=None if self.points is None else self.points[:_POINTS],
            graph=None if self.graph is None else first_graph(self.graph),
        )


def _extractor_inputs(extractor: MultiPTMFeatureExtractor, image_size: int, seed: int) -> _Inputs:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((3, 3, image_size, image_size), generator=generator)
    context = torch.randn((3, extractor.context_input_dim), generator=generator)
    sampled = extractor.readout == "sampled"
    points = torch.rand((3 * _POINTS, 2), generator=generator) * 2 - 1 if sampled else None
    reader = next((ptm.record for ptm in extractor.ptms if ptm.record.reads == "graph"), None)
    graph = None
    if reader is not None:
        graph = random_graphs(3, reader.node_dim or 1, reader.edge_dim or 1, _POINTS)
    return _Inputs(image, context, points, graph)


@torch.no_grad()
def _extractor_rows(extractor: Any, case: _Inputs) -> Findings:
    together, alone = case.call(extractor), case.first().call(extractor)
    rows = 1 if case.points is None else _POINTS
    if not _all_close(alone, [part[:rows] for part in together], 1e-4):
        yield "an image alone gives another result than among companions"
    if not _close(together[1].sum(1), torch.ones(len(together[1]))):
        yield "rows of attention do not sum to 1"


@torch.no_grad()
def _extractor_mode(extractor: Any, case: _Inputs) -> Findings:
    before, frozen = case.call(extractor), extractor.frozen_hash()
    during = case.call(extractor.train())
    extractor.eval()
    if not _all_close(during, before):
        yield "train() changes the result (dropout or batch statistics)"
    if extractor.frozen_hash() != frozen:
        yield "a call in train mode changes frozen weights or buffers"


@torch.no_grad()
def _extractor_cache(extractor: Any, case: _Inputs) -> Findings:
    cached = extractor.precompute(case.image, graph=case.graph)
    if not _all_close(case.call(extractor, cached=cached), case.call(extractor), 1e-4):
        yield "cached outputs of frozen models give another result than computed ones"


def _extractor_frozen(extractor: Any, case: _Inputs) -> Findings:
    frozen = extractor.frozen_hash()
    extractor.train()
    optimizer = torch.optim.AdamW(extractor.parameters(), lr=0.1, weight_decay=0.1)
    representation, attention = case.call(extractor)
    (representation.square().sum() + attention.square().sum()).backward()
    optimizer.step()
    extractor.eval()
    if extractor.frozen_hash() != frozen:
        yield "frozen weights or buffers changed in a training step"


def _first(check: Check, case: _Case) -> str | None:
    """The first finding of a check; a rule that fails within it has one too."""
    try:
        return next(check(case), None)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"it fails with {type(error).__name__}: {_short(error)}"


def _report(name: str, found: dict[str, str | None]) -> list[str]:
    failed = [f"{prop}: {problem}" for prop, problem in found.items() if problem is not None]
    if failed:
        raise FusionConformanceError(f"{name} is no fusion rule as durotaxis needs it; " + "; ".join(failed))
    return list(found)


def _require_known(names: Collection[str], known: Iterable[str], argument: str) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(f"{argument}: no property '{unknown[0]}'; known are {', '.join(known)}")


def _parameters(module: Rule) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(module, nn.Module):
        yield from ((name, value) for name, value in module.named_parameters() if value.requires_grad)


def _close(one: Tensor, two: Tensor, tolerance: float = TOLERANCE) -> bool:
    return one.shape == two.shape and torch.allclose(one, two, atol=tolerance, rtol=tolerance)


def _all_close(one: Iterable[Tensor], two: Iterable[Tensor], tolerance: float = TOLERANCE) -> bool:
    return all(_close(a, b, tolerance) for a, b in zip(one, two, strict=True))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
