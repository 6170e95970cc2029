"""Small worlds and comparisons for the tests of the adapters."""

from __future__ import annotations

from typing import Any

import numpy as np

TINY = {
    "substrate": {"size": (60.0, 40.0)},
    "critical_nodes": 6,
    "max_nodes": 12,
    "max_steps": 12,
}
"""A world whose episodes end soon, and in several ways."""

GOOD = (-0.5, 1.0, -1.0, -1.0, 0.0)
"""Global action: delete a quarter, step forward as far as possible."""


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    """The same values of the same types, all the way down."""
    assert type(one) is type(two), f"{where}: {type(one)} and {type(two)}"
    if isinstance(one, dict):
        assert set(one) == set(two), f"{where}: {sorted(set(one) ^ set(two))}"
        for name in one:
            assert_equal(one[name], two[name], f"{where}.{name}")
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert one.shape == two.shape, where
        for index, (a, b) in enumerate(zip(one.tolist(), two.tolist(), strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype, f"{where}: {one.dtype} and {two.dtype}"
        np.testing.assert_array_equal(one, two, err_msg=where)
    elif isinstance(one, tuple | list):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    else:
        assert one == two, f"{where}: {one} and {two}"
