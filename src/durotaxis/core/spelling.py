"""The nearest known word, for messages about a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known word, or the empty string when none is near."""
    near = get_close_matches(word, list(known), 1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
