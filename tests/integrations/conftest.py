"""Tests of what a caller without a type checker meets."""

import pytest


@pytest.fixture
def unchecked():
    """Switch the shape and type checks off: wrong types reach the package as they do outside the tests."""
    from jaxtyping import config

    was = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", was)
