"""Stiffness maps from files: CSV tables of kPa and grey PNG images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from durotaxis.core.errors import UserError
from durotaxis.env.substrate.limits import STIFFNESS_MAX, STIFFNESS_MIN

_GREY_MODES = {"L": 255.0, "I;16": 65535.0, "I;16B": 65535.0, "I": 65535.0}
"""Pillow's names of grey images of 8 and 16 bits -> the value of white."""


class MapFile(NamedTuple):
    """What a map is read from."""

    file: str
    stiffness: tuple[float, float] | None  # kPa of black and of white; images only
    sha256: str


def file_hash(file: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    return hashlib.sha256(_read(file)).hexdigest()


@lru_cache(maxsize=16)
def read_map(source: MapFile, device: torch.device | str = "cpu") -> Tensor:
    """Stiffness [rows, columns] in kPa, float32; row 0 = largest y. Kept in memory, one copy per device.

    Raises:
        UserError: the file is gone, changed or unreadable, or a value is none or lies outside the limits.
    """
    if torch.device(device) != torch.device("cpu"):
        return read_map(source).to(device)
    file = source.file
    if file_hash(file) != source.sha256:
        raise UserError(f"{file} was changed since it was first read; start again with the changed file")
    suffix = Path(file).suffix.lower()
    if suffix == ".csv":
        if source.stiffness is not None:
            raise UserError(f"{file} holds kPa itself; remove `stiffness`, which is for images")
        return _read_csv(file)
    if suffix == ".png":
        if source.stiffness is None:
            raise UserError(f"{file} is an image; give `stiffness: [low, high]`, the kPa of black and white")
        return _read_png(file, *source.stiffness)
    raise UserError(f"{file} must end in .csv or .png")


def _read(file: str) -> bytes:
    path = Path(file)
    if not path.exists():
        raise UserError(f"{file} does not exist (looked for {path.absolute()})")
    if path.is_dir():
        raise UserError(f"{file} is a directory; name a CSV or PNG file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None


def _read_csv(file: str) -> Tensor:
    try:
        text = _read(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is no text; a CSV file of numbers is wanted") from None
    rows = [list(_numbers(file, number, line)) for number, line in enumerate(text.rstrip().splitlines(), 1)]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{file}: row {number} has {len(row)} columns, row 1 has {len(rows[0])}")
    return _table(file, torch.tensor(rows, dtype=torch.float32))


def _numbers(file: str, row: int, line: str) -> Iterator[float]:
    for column, cell in enumerate(line.split(","), 1):
        place = f"{file}: row {row}, column {column}"
        try:
            value = float(cell.replace("_", "?"))  # 1_0 is a number to Python alone
        except ValueError:
            found = f"'{cell.strip()}' is no number" if cell.strip() else "the cell is empty"
            raise UserError(f"{place}: {found}; kPa separated by commas are wanted") from None
        if math.isnan(value) or not STIFFNESS_MIN <= value <= STIFFNESS_MAX:
            raise UserError(f"{place}: {value:g} kPa is outside {STIFFNESS_MIN:g} to {STIFFNESS_MAX:g} kPa")
        yield value


def _read_png(file: str, low: float, high: float) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as image:
            mode, pixels = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a PNG image: {error}") from None
    if mode not in _GREY_MODES:
        raise UserError(
            f"{file} is not grey (mode {mode}); convert it to one grey channel of 8 or 16 bits, "
            f"as with `magick {file} -alpha off -colorspace gray grey.png`"
        )
    grey = torch.from_numpy(pixels.astype(np.float64)) / _GREY_MODES[mode]
    return _table(file, (low + grey * (high - low)).to(torch.float32))


def _table(file: str, table: Tensor) -> Tensor:
    if table.dim() != 2 or min(table.shape) < 2:
        raise UserError(f"{file} is too small: a map needs at least 2 rows and 2 columns")
    return table.contiguous()
