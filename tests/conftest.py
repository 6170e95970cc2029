"""One thread, and shape and type checks on every function of the package while the tests run.

`DUROTAXIS_NO_SHAPE_CHECKS=1` switches the checks off (`torch.compile(fullgraph=True)` needs that).
"""

import os

import torch

torch.set_num_threads(1)

if not os.environ.get("DUROTAXIS_NO_SHAPE_CHECKS"):
    from jaxtyping import install_import_hook

    install_import_hook("durotaxis", "shape_checks.check")


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: "test_readme" not in item.nodeid and "test_wsa_guide" not in item.nodeid)
