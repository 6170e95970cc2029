"""The type checker behind the shape checks: beartype, with `Self` left to mypy and ints taken as floats.

jaxtyping decorates methods one by one, and there beartype does not know which class `Self` is.
"""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any}), is_pep484_tower=True))
