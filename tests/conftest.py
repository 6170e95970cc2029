"""One thread, and shape and type checks on every function of the package while the tests run.

The checks nearly double the time of a training, so tests marked `unchecked`, which play the whole program and
look at what it leaves, do without; most of what they run is called with checks in other tests.
`DUROTAXIS_NO_SHAPE_CHECKS=1` switches them off everywhere (`torch.compile(fullgraph=True)` needs that).
"""

import os

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)

if not os.environ.get("DUROTAXIS_NO_SHAPE_CHECKS"):
    from jaxtyping import install_import_hook

    install_import_hook("durotaxis", "shape_checks.check")


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: "test_readme" not in item.nodeid and "test_wsa_guide" not in item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    unchecked = item.get_closest_marker("unchecked") is not None
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
