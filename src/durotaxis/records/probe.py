"""The record of a probe: a trained agent evaluated with some of its models closed, and how alike they are.

probe.json    in a run directory: every subset of models, the same episodes each; similarities
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from durotaxis.records.run import RecordError, write_json
from durotaxis.records.study import read_object

PROBE = "probe.json"
PROBE_FORMAT = 1


@dataclass(frozen=True)
class Subset:
    """Episodes with these models open and all others closed; columns have one entry per seed."""

    ptms: Sequence[str]  # none: the representation was set to zero
    returns: Sequence[float]  # undiscounted
    success: Sequence[bool]
    front_progress: Sequence[float]  # 0 to 1


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of the models' embeddings, as they are fused, over the states of some episodes."""

    ptms: Sequence[str]  # [K]
    rows: int  # states: nodes, or colonies, at all steps
    width: int  # of an embedding
    cka: Sequence[Sequence[float]]  # [K][K]
    without: Sequence[Sequence[Sequence[float]]]  # [episodes][K][K], each without one of the episodes


@dataclass(frozen=True)
class Probe:
    """`probe.json`."""

    checkpoint: str  # path within the run directory
    sha256: str  # of the checkpoint's file
    step: int  # environment steps it was trained for
    scenario: str
    world: str  # digest of the world's configuration
    seeds: Sequence[int]  # of the episodes, the same for every subset
    deterministic: bool
    ptms: Sequence[str]  # models that were open in the checkpoint, in the order of attention
    is_complete: bool  # all subsets were played; else none, singles, all but one, all
    subsets: Sequence[Subset]
    similarity: Similarity
    version: str  # of durotaxis
    format: int = PROBE_FORMAT

    def subset(self, ptms: Sequence[str]) -> Subset:
        """The episodes with exactly these models. Raises KeyError where they were not played."""
        wanted = set(ptms)
        for subset in self.subsets:
            if set(subset.ptms) == wanted:
                return subset
        raise KeyError(", ".join(ptms) or "none")


def write_probe(run: Path, probe: Probe) -> Path:
    """Write `probe.json` of a run directory whole or not at all; returns the file.

    Raises:
        RecordError: it cannot be written, or a number is not finite.
    """
    write_json(run / PROBE, asdict(probe), indent=None)
    return run / PROBE


def read_probe(run: Path) -> Probe | None:
    """The probe of a run directory; None where there is none.

    Raises:
        RecordError: it is damaged, or of another format.
    """
    path = run / PROBE
    if not path.exists():
        return None
    again = "remove it; durotaxis analyse makes it again"
    data = read_object(path)
    if data.get("format") != PROBE_FORMAT:
        raise RecordError(
            f"{path}: of format {data.get('format')}, this version reads {PROBE_FORMAT}; {again}"
        )
    _require(path, data, Probe, again)
    _require(path, data["similarity"], Similarity, again)
    for subset in data["subsets"]:
        _require(path, subset, Subset, again)
        lengths = {len(subset[name]) for name in ("returns", "success", "front_progress")}
        if lengths != {len(data["seeds"])}:
            raise RecordError(
                f"{path}: {len(data['seeds'])} seeds, but columns of {sorted(lengths)}; {again}"
            )
    subsets = tuple(Subset(**subset) for subset in data["subsets"])
    return Probe(**{**data, "subsets": subsets, "similarity": Similarity(**data["similarity"])})


def _require(path: Path, data: Mapping[str, Any], kind: type, again: str) -> None:
    odd = {field.name for field in fields(kind)} ^ set(data)
    if odd:
        raise RecordError(f"{path}: missing or unknown: {', '.join(sorted(odd))}; {again}")
