"""TorchRL: several pre-trained models as one TensorDict module.

Needs the extra: `pip install "durotaxis[torchrl]"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from durotaxis.core.errors import UserError
from durotaxis.fusion import PTMConfig
from durotaxis.integrations.picture_fusion import PictureFusion

try:
    from tensordict import NestedKey
    from tensordict.nn import TensorDictModule
except ModuleNotFoundError as error:
    raise UserError(
        f'TorchRL is not installed (no module {error.name}): pip install "durotaxis[torchrl]"'
    ) from None


@final
class WSAModule(TensorDictModule):
    """Reads a picture (and a context), writes `representation` [...,W] and `attention` [...,K].

    W is `fusion.extractor.representation_dim`: the width of embeddings, or K times it with fusion `concat`.
    Any batch size of the TensorDict will do, time included. Rollout and update see the same function: the
    models stay in eval mode whatever the rest does. It does not run under torch's vmap: give TorchRL's value
    estimators `deactivate_vmap=True`. Where there are schedules (`enters_at`, `ramp_steps`, `unfreeze_at`, a
    temperature's), call `fusion.follow_schedules(step)` before every rollout. For a model to learn once it
    thaws, the optimiser must hold all parameters from the start: `agent.parameters()`, not only those with
    `requires_grad`.

    Args:
        shape: of one picture, [C,H,W] or [H,W,C].
        image_key: where it is read.
        context_key: of a vector that conditions attention, of width `context_width`; None: a small trained
            network on the picture.
        out_keys: names of representation and attention.
        channels, embedding_dim, context_dim, ptms, options: of `PictureFusion`.

    Raises:
        UserError: a context key without a width or the other way round, and what `PictureFusion` refuses.

    Attributes:
        fusion: the `PictureFusion`; `fusion.extractor` holds the models.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        image_key: NestedKey = "pixels",
        context_key: NestedKey | None = None,
        context_width: int | None = None,
        out_keys: Sequence[NestedKey] = ("representation", "attention"),
        channels: str | None = None,
        embedding_dim: int = 256,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        if (context_key is None) != (context_width is None):
            raise UserError("context_key and context_width belong together: give both or none")
        fusion = PictureFusion(
            shape,
            channels=channels,
            context_width=context_width,
            embedding_dim=embedding_dim,
            context_dim=context_dim,
            ptms=ptms,
            **options,
        )
        in_keys = [image_key] if context_key is None else [image_key, context_key]
        super().__init__(fusion, in_keys=in_keys, out_keys=list(out_keys))

    @property
    def fusion(self) -> PictureFusion:
        """The models and their fusion."""
        module = self.module
        assert isinstance(module, PictureFusion)
        return module
