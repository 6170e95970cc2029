"""The commands `durotaxis ptm ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from durotaxis.cli.shared import refuse_error
from durotaxis.console import make_console, table
from durotaxis.core.errors import UserError

if TYPE_CHECKING:
    from durotaxis.fusion import PTMCheck, PTMRecord

group = typer.Typer(no_args_is_help=True, help="The pre-trained models.")


@group.command("list", epilog="Example:\n\ndurotaxis ptm list")
def list_all() -> None:
    """List the model types with what is known about them.

    Input: the side in pixels to which pictures are enlarged, or the features per node + per edge. Taps: where
    a model may stop, with the width there.
    """
    from durotaxis.fusion import list_ptms
    from durotaxis.fusion.registry import family_forms
    from durotaxis.fusion.sources import at_hand, needs_weights

    columns = ("model_type", "reads", "source", "licence", "input", "taps (* default)", "at hand")
    rows = []
    for record in list_ptms():
        size = f"{record.input_size} px" if record.input_size else "as given"
        if record.reads == "graph":
            size = f"{record.node_dim} + {record.edge_dim}"
        taps = " ".join(f"{t}{'*' * (t == record.tap)} {width}" for t, width in record.taps.items())
        state = "needs none"
        if needs_weights(record.model_type):
            state = "no" if at_hand(record.model_type) is None else "yes"
        rows.append((record.model_type, record.reads, record.source, record.licence, size, taps, state))
    console = make_console()
    console.print(table("", columns, rows))
    forms = " and ".join(family_forms())
    console.print(f"also {forms}: known once they are read (durotaxis ptm check NAME)", markup=False)


@group.command(
    "fetch",
    epilog="Examples:\n\ndurotaxis ptm fetch resnet18_imagenet\n\n"
    "durotaxis ptm fetch hf:facebook/dinov2-small hf:facebook/convnext-tiny-224",
)
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Model types.")],
) -> None:
    """Download pre-trained weights, verify them and say where they are."""
    from durotaxis.fusion.sources import at_hand, fetch

    console = make_console()
    for name in names:
        known = at_hand(name)
        path = fetch(name)
        record = _build_ptm(name)
        state = "already here" if known else "fetched"
        console.print(f"{name}: {state}, {path}", markup=False, soft_wrap=True)
        facts = f"  sha256 {record.sha256}, licence {record.licence}"
        facts += f", revision {record.revision}" if record.revision else ""
        console.print(f"{facts}; opened and run once", markup=False, soft_wrap=True)


def _build_ptm(name: str) -> PTMRecord:
    """Build a model from its weights and run it on one picture; returns what is known about it."""
    import torch

    from durotaxis.fusion import PTMConfig, build_ptm
    from durotaxis.fusion.config import validated

    ptm = build_ptm(validated(PTMConfig, model_type=name), embedding_dim=1)
    if ptm.record.reads == "image":
        ptm.pooled(torch.zeros(1, 3, 24, 24))
    return ptm.record


@group.command(
    "check",
    epilog="Examples:\n\ndurotaxis ptm check\n\n"
    "durotaxis ptm check resnet18_random graph_cnn --readout sampled\n\n"
    "durotaxis ptm check resnet18_imagenet --weights resnet18-f37072fd.pth\n\n"
    "durotaxis ptm check hf:models/dinov2-small --tap layer4 --pooling max",
)
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Model types; default those at hand.")] = None,
    weights: Annotated[str | None, typer.Option(help="File or directory of pre-trained weights.")] = None,
    tap: Annotated[str | None, typer.Option(help="Where the models stop.")] = None,
    upsample: Annotated[int | None, typer.Option(help="Side in pixels of what they see.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, max or token.")] = None,
    embedding_dim: Annotated[int, typer.Option(min=1, help="Width behind the projection.")] = 256,
    readout: Annotated[str, typer.Option(help="pooled or sampled; decides the projection.")] = "pooled",
) -> None:
    """Build models and run them: size, speed, and whether their output varies with the input.

    A model that is refused does not keep the others from being shown.
    """
    from durotaxis.fusion import PTMConfig, check_ptm, list_ptms
    from durotaxis.fusion.config import validated
    from durotaxis.fusion.sources import at_hand, needs_weights

    given = {"weights": weights, "tap": tap, "upsample": upsample, "pooling": pooling}
    options = {key: value for key, value in given.items() if value is not None}
    if options and not names:
        raise UserError(f"--{' --'.join(options)} of which model? Name it: durotaxis ptm check NAME ...")
    listed = [record.model_type for record in list_ptms()]
    found: list[PTMCheck] = []
    errors: list[UserError] = []
    for name in names or [t for t in listed if not needs_weights(t) or at_hand(t) is not None]:
        try:
            found.append(check_ptm(validated(PTMConfig, model_type=name, **options), embedding_dim, readout))
        except UserError as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    rows = [
        (
            check.record.model_type,
            check.record.tap,
            check.record.width,
            f"{check.num_parameters:,}",
            f"{check.num_projection:,}",
            f"{check.milliseconds:.2f} ms",
            f"{check.spread:.3f}",
            check.verdict,
        )
        for check in found
    ]
    columns = ("model_type", "tap", "width", "parameters", "projection", "per input", "spread", "output")
    make_console().print(table("", columns, rows))
    useless = [f"{check.record.model_type}: {check.verdict}" for check in found if not check.varies]
    if useless:
        advice = "Such a model tells the agent nothing; take another one"
        errors.append(UserError(f"{'; '.join(useless)}. {advice}"))
    for each in errors[:-1]:
        refuse_error(each)
    if errors:
        raise errors[-1]
