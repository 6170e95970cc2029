"""The environment ids, made known to Gymnasium without loading the world."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

NODE_ID = "durotaxis/Durotaxis-v0"
"""Every node chooses."""
GLOBAL_ID = "durotaxis/DurotaxisGlobal-v0"
"""Five numbers for the whole colony."""

_HOME = "durotaxis.integrations.gymnasium"


def register_envs() -> None:
    """Register both ids; a second call changes nothing."""
    for name, level in ((NODE_ID, "node"), (GLOBAL_ID, "global")):
        if name not in registry:
            register(
                id=name,
                entry_point=f"{_HOME}:ColonyEnv",
                vector_entry_point=f"{_HOME}:ColonyVectorEnv",
                kwargs={"level": level},
            )
