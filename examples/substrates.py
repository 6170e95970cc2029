"""A contact sheet of every kind of substrate.

    python examples/substrates.py
    python examples/substrates.py --seed 3 --out docs/images/substrates.png

Each panel is one episode's substrate with its first colony and the direction that points uphill. All share
one logarithmic scale of stiffness.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke

from durotaxis.core.errors import UserError
from durotaxis.env import EnvConfig, reset
from durotaxis.env.render import scene_of

LOW, HIGH = 0.12, 12.0
"""Ends of the colour scale, kPa."""
PANELS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "exponential": {"kind": "exponential"},
    "uniform": {"kind": "uniform"},
    "step": {"kind": "step"},
    "stripes": {"kind": "stripes"},
    "patches": {"kind": "patches"},
    "moat": {"kind": "moat"},
    "noise": {"kind": "noise"},
    "map (a CSV file)": {"kind": "map"},
    "random": {"kind": "random"},
    "step with a ramp of 60 µm": {"kind": "step", "step": {"ramp": 60.0}},
    "patches, direction: [2, 1]": {"kind": "patches", "direction": [2, 1]},
}
"""Title -> values of `env.substrate`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the sheet; returns the exit code."""
    parser = argparse.ArgumentParser(description="A contact sheet of every kind of substrate.")
    parser.add_argument("--out", type=Path, default=Path("substrates.png"), help="PNG file")
    parser.add_argument("--seed", type=int, default=2, help="of the episodes")
    options = parser.parse_args(arguments)
    try:
        draw_sheet(options.out, options.seed)
    except (UserError, OSError) as error:
        print(f"substrates: {error}", file=sys.stderr)
        return 2
    print(f"written to {options.out}")
    return 0


def draw_sheet(out: Path, seed: int) -> None:
    """Write the sheet to `out`."""
    figure, axes = plt.subplots(4, 3, figsize=(11, 8.8), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        measured = {"file": write_map(Path(folder) / "map.csv"), "micrometres_per_pixel": 10.0}
        for axis, (title, values) in zip(axes.flat, PANELS.items(), strict=True):
            extra = {"map": measured} if values["kind"] == "map" else {}
            image = draw_panel(axis, EnvConfig(substrate={**values, **extra}), seed)
            axis.set_title(title, loc="left", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=40, extend="both", label="stiffness (kPa)")
    bar.set_ticks([0.15, 0.3, 0.6, 1, 2, 3, 6, 11], labels=["0.15", "0.3", "0.6", "1", "2", "3", "6", "11"])
    bar.minorticks_off()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_panel(axis: plt.Axes, config: EnvConfig, seed: int) -> Any:
    """One substrate with its colony, and an arrow along `direction`; returns the image."""
    colony, substrate = reset(config, torch.tensor([seed]))
    scene = scene_of(substrate, config)
    width, height = scene.size
    image = axis.imshow(
        scene.stiffness, extent=(0, width, 0, height), norm=LogNorm(LOW, HIGH), cmap="viridis"
    )
    nodes = colony.position[0, : config.num_initial_nodes]
    axis.scatter(*nodes.T, s=16, c="white", edgecolors="black", linewidths=0.8, zorder=3, clip_on=False)
    reach = 22.0
    tail = (width - 26.0, 10.0)
    tip = (tail[0] + reach * math.cos(scene.direction), tail[1] + reach * math.sin(scene.direction))
    style = {"arrowstyle": "-|>", "color": "black", "lw": 1.8, "mutation_scale": 12, "shrinkA": 0}
    outline = [withStroke(linewidth=4.5, foreground="white")]
    axis.annotate("", xy=tip, xytext=tail, arrowprops={**style, "path_effects": outline})
    axis.set(xticks=[0, width], yticks=[0, height])
    axis.tick_params(labelsize=8)
    axis.set_xlabel("µm", fontsize=8, labelpad=-8)
    return image


def write_map(file: Path, rows: int = 10, columns: int = 20) -> str:
    """A made-up measurement in kPa: stiffness that rises to the right over two soft hollows."""
    hollows = ((6.0, 3.0), (13.0, 7.0))
    lines = []
    for row in range(rows):
        cells = []
        for column in range(columns):
            depth = sum(math.exp(-((column - c) ** 2 + (row - r) ** 2) / 6.0) for c, r in hollows)
            cells.append(f"{(1.0 + 0.5 * column) * (1.0 - 0.85 * min(depth, 1.0)):.3f}")
        lines.append(",".join(cells))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


if __name__ == "__main__":
    sys.exit(main())
