"""Stiffness maps written to files."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image


def write_csv(path: Path, rows: int = 12, columns: int = 18, seed: int = 0) -> str:
    """A table of 0.5 to 12 kPa that rises along x and varies everywhere."""
    draw = random.Random(seed)
    lines = [
        ",".join(f"{0.5 + 10 * column / columns + 1.5 * draw.random():.4f}" for column in range(columns))
        for _ in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_png(path: Path, rows: int = 12, columns: int = 18, bits: int = 8, seed: int = 0) -> str:
    """A grey image of independent pixels."""
    draw = random.Random(seed)
    image = Image.new("L" if bits == 8 else "I;16", (columns, rows))
    for column in range(columns):
        for row in range(rows):
            image.putpixel((column, row), draw.randrange(2**bits))
    image.save(path)
    return str(path)
