"""Whether `torch.compile` can work here."""

from __future__ import annotations

import os
import shutil
import sys

from durotaxis.core.errors import UserError


def require_compiler() -> None:
    """Raise UserError where there is no C++ compiler, which torch.compile calls on every device."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"actor_critic.compile: there is no C++ compiler {compiler} here; install it, name another "
            "one in the environment variable CXX, or set actor_critic.compile=false"
        )
