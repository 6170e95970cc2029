"""The compiled observation equals the eager one, and a life does not depend on which of them looks."""

from __future__ import annotations

import os
import subprocess
import sys
from shutil import which

import pytest

PROGRAM = """
import torch
from durotaxis.agent.scripted import SCRIPTED
from durotaxis.env import DurotaxisEnv, EnvConfig

torch.set_num_threads(1)
for scenario in ("random", "moat", "stripes", "patches"):
    config = EnvConfig(scenario=scenario, max_nodes=40, observation={"field": True}, max_steps=10**6)
    worlds = [DurotaxisEnv(config, 6, compile=compiled) for compiled in (False, True)]
    for world in worlds:
        world.reset(torch.arange(6))
    widths = set()
    for _ in range(25):
        action = SCRIPTED["random"](worlds[0].colony, worlds[0].substrate, config)
        eager, compiled = (world.step(action) for world in worlds)
        widths.add(int(eager.colony.num_nodes.max()))
        for name, value in vars(eager.colony).items():
            assert torch.equal(value, getattr(compiled.colony, name)), name
        for name, value in vars(eager.observation).items():
            other = getattr(compiled.observation, name)
            assert value.dtype == other.dtype and value.shape == other.shape, name
            torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-5)
        assert torch.equal(eager.reward, compiled.reward)
    assert len(widths) > 3
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_observation_equals_the_eager_one():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600, env={**os.environ}
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
