"""A scenario as people look at it: its numbers, a picture, and how the scripted policies fare in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from durotaxis.core.config import Config, load_sections
from durotaxis.core.errors import UserError
from durotaxis.env import SCENARIOS, EnvConfig, reset
from durotaxis.env.scenarios import ABOUT, scenario_values
from durotaxis.study.score import NORMALISERS, load_scores, scenario_scores

if TYPE_CHECKING:
    from PIL.Image import Image

LIST_COLUMNS = (
    "name",
    "substrate",
    "size",
    "critical nodes",
    "max nodes",
    "max steps",
    *(f"success of {policy}" for policy in NORMALISERS),
)
SCORE_COLUMNS = ("policy", "return", "standard error", "success", "front progress", "steps to success")
_SCORE_KEYS = ("return_mean", "return_se", "success_rate", "front_progress", "steps_to_success")


def require_scenario(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        UserError: gives the nearest name.
    """
    try:
        scenario_values(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def scenario_config(name: str, overrides: Sequence[str] = ()) -> EnvConfig:
    """A scenario with `env.key=value` on top of it.

    Raises:
        UserError: an unknown name, or what is wrong with the overrides.
    """
    require_scenario(name)
    return load_sections(None, {"env": EnvConfig}, [f"env.scenario={name}", *overrides])["env"]


def list_rows() -> list[tuple[object, ...]]:
    """One row of LIST_COLUMNS per scenario; success is empty where it was not scored."""
    scores = load_scores()
    return [_list_row(name, scores.get(name, {})) for name in SCENARIOS]


def facts(config: EnvConfig, seed: int) -> Iterator[str]:
    """What is to be known about a world, a line each; stiffness is that of one seed's substrate."""
    substrate, (length, breadth) = config.substrate, config.substrate.extent
    field = _scene(config, seed).stiffness
    differences = ", ".join(_differences(config, EnvConfig(), "env."))
    yield f"{config.scenario}: {ABOUT[config.scenario]}"
    yield f"substrate: {substrate.kind}{_ground(config)}, {_size(config)}"
    yield f"direction: {substrate.direction:.4g} rad; {length:.4g} µm along it, {breadth:.4g} µm across"
    yield f"stiffness: {field.min():.3g} to {field.max():.3g} kPa (seed {seed})"
    yield f"N_c {config.critical_nodes}, max_nodes {config.max_nodes}, max_steps {config.max_steps}"
    yield f"differs from the defaults in: {differences or 'nothing'}"


def score_rows(config: EnvConfig) -> list[tuple[str, ...]]:
    """One row of SCORE_COLUMNS per scripted policy; none where the world was changed, or not scored."""
    return [row_of(policy, row) for policy, row in (scenario_scores(config) or {}).items()]


def row_of(policy: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """A policy's scores in the order of SCORE_COLUMNS."""
    return policy, *("" if row.get(key) is None else f"{row[key]:.3f}" for key in _SCORE_KEYS)


def draw_scenario(config: EnvConfig, seed: int) -> Image:
    """The substrate of one seed with its first colony."""
    from durotaxis.env.render import draw, frame_of

    colony, _ = reset(config, torch.tensor([seed]))
    return draw(frame_of(colony), _scene(config, seed))


def _list_row(name: str, scores: Mapping[str, Any]) -> tuple[object, ...]:
    config = EnvConfig(scenario=name)
    rates = [f"{scores[p]['success_rate']:.3f}" if p in scores else "" for p in NORMALISERS]
    counts = config.critical_nodes, config.max_nodes, config.max_steps
    return name, config.substrate.kind, _size(config), *counts, *rates


def _scene(config: EnvConfig, seed: int) -> Any:
    from durotaxis.env.render import scene_of

    _, substrate = reset(config, torch.tensor([seed]))
    return scene_of(substrate, config, title=config.scenario)


def _ground(config: EnvConfig) -> str:
    return f" over {config.substrate.ground_kind}" if config.substrate.has_overlay else ""


def _size(config: EnvConfig) -> str:
    width, height = config.substrate.size
    return f"{width:g} x {height:g} µm"


def _differences(config: Config, default: Config, prefix: str) -> Iterator[str]:
    """`key = value` for every value that is not the default."""
    for name in type(config).model_fields:
        value, usual = getattr(config, name), getattr(default, name)
        if isinstance(value, Config):
            yield from _differences(value, usual, f"{prefix}{name}.")
        elif value != usual and name != "scenario":
            yield f"{prefix}{name} = {value}"
