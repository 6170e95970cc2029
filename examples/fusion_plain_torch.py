"""Fusion in plain PyTorch: attention learns which model to listen to, from the context.

    python examples/fusion_plain_torch.py          # about ten seconds on one core
    python examples/fusion_plain_torch.py --steps 600 --seed 1

Two frozen models look through two cameras at a light whose colour is asked for. One of the cameras shows the
light, the other something of a random colour; the context says which. Prints the error of the answer with
attention and with the plain mean, and the attention that each model gets in either context.

(If a single number were asked for, attention itself could carry it from the scorer to the answer, and some
seeds find that way. What attention weights mean is to be shown, not assumed.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import Fusion, MeanFusion, PTMConfig, WeightSharingAttention, build_ptm

WIDTH = 16  # of embeddings and representation


class Fused(nn.Module):
    """Two frozen models, a fusion rule, and one linear layer for the answer."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        configs = [PTMConfig(model_type="graph_cnn", tap="block1", seed=seed) for seed in (1, 2)]
        self.ptms = nn.ModuleList(build_ptm(config, WIDTH) for config in configs)
        self.fusion = fusion
        self.answer = nn.Linear(WIDTH, 3)

    def forward(self, cameras: Sequence[Tensor], context: Tensor) -> tuple[Tensor, Tensor]:
        """Answer [B,3] and attention [B,2]."""
        pairs = zip(self.ptms, cameras, strict=True)
        embeddings = torch.stack([ptm(image) for ptm, image in pairs], dim=1)
        representation, attention = self.fusion(context, embeddings)
        return self.answer(representation), attention


def look(count: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor]:
    """Two cameras' images [B,3,12,12] in [0,1], the context [B,2], and the colour asked for [B,3]."""
    colour = torch.rand((2, count, 3), generator=generator)
    shows = torch.randint(2, (count,), generator=generator)
    grain = torch.rand((2, count, 3, 12, 12), generator=generator)
    images = 0.8 * colour[..., None, None] * torch.linspace(0, 1, 12) + 0.2 * grain
    return [*images], nn.functional.one_hot(shows, 2).float(), colour[shows, torch.arange(count)]


def train(fusion: Fusion, steps: int, seed: int) -> tuple[float, Tensor]:
    """Root mean square error on new images, and mean attention [context, model]."""
    model, generator = Fused(fusion), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(steps):
        cameras, context, wanted = look(64, generator)
        loss = (model(cameras, context)[0] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        cameras, context, wanted = look(1000, generator)
        answer, attention = model(cameras, context)
    table = torch.stack([attention[context[:, index] == 1].mean(0) for index in range(2)])
    return float((answer - wanted).square().mean().sqrt()), table


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with both rules and compare; returns the exit code."""
    options = parse(arguments)
    try:
        if options.steps < 1:
            raise UserError("--steps must be at least 1")
        torch.manual_seed(options.seed)
        error, table = train(WeightSharingAttention(WIDTH, context_dim=2), options.steps, options.seed)
        of_mean, _ = train(MeanFusion(), options.steps, options.seed)
    except UserError as problem:
        print(f"fusion_plain_torch: {problem}", file=sys.stderr)
        return 2
    print(f"error after {options.steps} steps: attention {error:.3f}, plain mean {of_mean:.3f}")
    print("attention on            model 1  model 2")
    for index in range(2):
        print(f"camera {index + 1} shows the light  {table[index, 0]:7.2f}  {table[index, 1]:7.2f}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of gradient descent (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
