"""The dimension legend, and shape annotations that are executed in tests only.

B colonies, N node slots, n living nodes of a flat batch, E edges, K PTMs, D embedding, C context,
T rollout steps, R rows (colonies or nodes). `Float[Tensor, "R K D"]` states dtype and shape. jaxtyping is a
development dependency; without it the annotations stay readable and cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Plain:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = _Plain

__all__ = ["Bool", "Float", "Int"]
