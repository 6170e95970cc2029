"""The actors: what each node does, from tokens and from what pre-trained models see.

    tokens or field -> 24x24 picture -> one backbone, or several models fused -> R
    [node token ; R] -> action MLP -> heads

Both actors are the same but for what stands between picture and R.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, final, overload

import torch
from torch import Tensor, nn

from durotaxis.agent.config import ImageConfig
from durotaxis.agent.distributions import ActionParameters
from durotaxis.agent.heads import ActionHeads
from durotaxis.agent.image import ImageMaker, View, require_field
from durotaxis.core.errors import UserError
from durotaxis.fusion import RULES, GraphInput, Intervention, MultiPTMFeatureExtractor, PTMConfig
from durotaxis.fusion.config import GUIDE_TRIO

DIRECT_IMAGE = ImageConfig(source="tokens", scope="node", readout="pooled")
"""The picture of an actor built by hand: one per node, from tokens alone, so that it needs no view."""


_FUSION_OPTIONS = {
    "fusion",
    "temperature",
    "num_heads",
    "learn_temperature",
    "hidden_dims",
    "match_parameters",
}


class ActorOutput(NamedTuple):
    """What an actor says, and the attention behind it."""

    parameters: ActionParameters
    attention: Tensor  # [rows,K,H], per head, with gradient
    gates: Tensor  # [K] or [rows,K], under which it was made
    embeddings: Tensor  # [rows,K,D], with gradient; 0 of closed models


class PictureActor(nn.Module, ABC):
    """Picture, representation and heads; subclasses differ only in what they are built from."""

    image_maker: ImageMaker
    heads: ActionHeads
    feature_extractor: MultiPTMFeatureExtractor  # several models; absent from an actor with one backbone
    backbone: MultiPTMFeatureExtractor  # one model, read in the same way

    @property
    def has_attention(self) -> bool:
        """Whether several models are weighed."""
        return hasattr(self, "feature_extractor")

    @property
    def extractor(self) -> MultiPTMFeatureExtractor:
        """Whatever turns pictures into representations."""
        return self.feature_extractor if self.has_attention else self.backbone

    @overload
    def forward(
        self,
        node_tokens: Tensor,
        graph_token: Tensor,
        batch: Tensor | None = None,
        view: View | None = None,
        return_attention: Literal[False] = False,
    ) -> ActionParameters: ...

    @overload
    def forward(
        self,
        node_tokens: Tensor,
        graph_token: Tensor,
        batch: Tensor | None = None,
        view: View | None = None,
        *,
        return_attention: Literal[True],
    ) -> tuple[ActionParameters, Tensor]: ...

    def forward(
        self,
        node_tokens: Tensor,
        graph_token: Tensor,
        batch: Tensor | None = None,
        view: View | None = None,
        return_attention: bool = False,
    ) -> ActionParameters | tuple[ActionParameters, Tensor]:
        """Parameters of the action distribution of every node.

        Args:
            node_tokens: [n,d].
            graph_token: [B,d] with `batch` [n] int64, or [d] for one colony without it.
            view: places and field; needed by every picture but `scope: node`.
            return_attention: also return the attention [rows,K], averaged over heads, rows summing to 1.
                Rows are nodes where the readout is sampled or the scope is node, else colonies.

        Raises:
            UserError: when attention is asked of an actor with one backbone, or the view is missing.
        """
        if return_attention and not self.has_attention:
            raise UserError(
                "this actor has one backbone and so no attention; use WSAEnhancedActor (use_wsa: true) "
                "or give Actor a feature_extractor"
            )
        graph_token, batch = _as_flat_batch(node_tokens, graph_token, batch)
        output = self.act(node_tokens, graph_token, batch, view)
        return (output.parameters, output.attention.mean(2)) if return_attention else output.parameters

    def act(self, node_tokens: Tensor, graph_token: Tensor, batch: Tensor, view: View | None) -> ActorOutput:
        """As `forward` for a flat batch, with the attention of each head."""
        config = self.image_maker.config
        if config.scope == "node" and self.extractor.intervention is Intervention.SHUFFLED:
            raise UserError("intervention 'shuffled' needs pictures per colony (`scope: graph`)")
        picture = self.image_maker(node_tokens, graph_token, batch, view)
        sampled = config.readout == "sampled"
        gates = None if view is None else view.gates
        per_node = sampled or config.scope == "node"
        fused = self.extractor.fuse(
            picture.image,
            node_tokens if self.extractor.context == "node" else picture.context,
            points=picture.points if sampled else None,
            batch=picture.batch,
            graph=view.graph if view is not None else None,
            cached=view.cached if view is not None else None,
            gates=gates[batch] if gates is not None and per_node else gates,
        )
        representation = fused.representation if sampled else fused.representation[picture.batch]
        parameters = self.heads(node_tokens, representation)
        return ActorOutput(parameters, fused.attention, fused.gates, fused.embeddings)

    def precompute(
        self, field: Tensor | None, graph: GraphInput | None = None, closed: bool = False
    ) -> dict[str, Tensor]:
        """Outputs of frozen models that do not depend on parameters; often empty.

        {PTM name: [B,...]}: pooled readouts give a vector per colony, sampled ones the models' whole maps,
        from which nodes are read later: a map of 3 to 12 pixels a side is smaller than what 120 node slots
        read of it. Models that read graphs, when sampled, give a row per living node, [n,...]. They alone
        are kept where pictures are painted from tokens.

        Args:
            field: [B,3,24,24], or None when it was not observed.
            graph: the graphs of the colonies, for models that read them.
            closed: also of models whose gate is 0.
        """
        extractor = self.extractor
        names = {name for name in extractor.cacheable() if closed or name in extractor.opened}
        if self.image_maker.has_learned_parts:
            names.intersection_update(extractor.graph_readers)
        if not names:
            return {}
        if graph is not None and names.issubset(extractor.graph_readers):
            image = graph.nodes.new_empty(len(graph.graph), 3, 0, 0)  # of it, only the number is read
        else:
            image = require_field(field)
        return extractor.precompute(image, graph=graph, names=names)


@final
class Actor(PictureActor):
    """The plain actor: one backbone, or a feature extractor that is handed in.

    Args:
        encoder_out_dim: width of node and graph tokens.
        hidden_dim: width of the action MLP.
        num_discrete_actions: number of kinds.
        continuous_dim: number of spawn parameters.
        dropout_rate: of the action MLP, in training mode only.
        backbone: any PTM name, or its configuration; not read when `feature_extractor` is given.
        feature_extractor: several models; then the actor has attention. Its context is the graph token, or
            with `context="node"` the node's own.
        image: the picture; by default one per node from tokens alone.
        embedding_dim: width of the backbone's representation.

    Raises:
        UserError: when the feature extractor reads pictures in another way than `image` says, or contexts of
            another width than tokens have.
    """

    def __init__(
        self,
        encoder_out_dim: int,
        hidden_dim: int,
        num_discrete_actions: int,
        continuous_dim: int,
        dropout_rate: float,
        backbone: str | PTMConfig = "resnet18_random",
        feature_extractor: MultiPTMFeatureExtractor | None = None,
        *,
        image: ImageConfig | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        image = image or DIRECT_IMAGE
        if feature_extractor is not None:
            if feature_extractor.readout != image.readout:
                raise UserError(
                    f"the feature_extractor's readout is {feature_extractor.readout}, "
                    f"the image's is {image.readout}; build both with the same"
                )
            if feature_extractor.context_input_dim != encoder_out_dim:
                raise UserError(
                    f"the feature_extractor's context_input_dim is {feature_extractor.context_input_dim}, "
                    f"but tokens have width {encoder_out_dim} (encoder_out_dim); build both with the same"
                )
            embedding_dim = feature_extractor.representation_dim
        self.image_maker = ImageMaker(image, encoder_out_dim)
        self.heads = ActionHeads(
            encoder_out_dim, embedding_dim, hidden_dim, num_discrete_actions, continuous_dim, dropout_rate
        )
        if feature_extractor is None:
            self.backbone = _single(backbone, embedding_dim, encoder_out_dim, image)
        else:
            self.feature_extractor = feature_extractor


@final
class WSAEnhancedActor(PictureActor):
    """The actor with several pre-trained models, weighed per row by Weight Sharing Attention.

    Args:
        encoder_out_dim, hidden_dim, num_discrete_actions, continuous_dim, dropout_rate: as in `Actor`.
        embedding_dim: width of the fused representation.
        use_wsa: False gives the same actor with `backbone` alone.
        context_dim: width of what conditions attention.
        ptms: the models; by default the trio resnet18_imagenet, graph_cnn, resnet18_random.
        backbone: the single model of `use_wsa=False`.
        image: the picture; by default one per node from tokens alone.
        fusion: further options of `MultiPTMFeatureExtractor` (temperature, num_heads, ...).

    Raises:
        UserError: when pre-trained weights are not at hand.
    """

    def __init__(
        self,
        encoder_out_dim: int,
        hidden_dim: int,
        num_discrete_actions: int,
        continuous_dim: int,
        dropout_rate: float,
        embedding_dim: int = 256,
        use_wsa: bool = True,
        context_dim: int = 128,
        ptms: Sequence[PTMConfig | Mapping[str, Any]] | None = None,
        *,
        backbone: str | PTMConfig = "resnet18_random",
        image: ImageConfig | None = None,
        **fusion: Any,
    ) -> None:
        super().__init__()
        unknown = fusion.keys() - _FUSION_OPTIONS
        if unknown:
            raise UserError(
                f"WSAEnhancedActor does not take {', '.join(sorted(unknown))}; besides its own arguments it "
                f"takes {', '.join(sorted(_FUSION_OPTIONS))}"
            )
        image = image or DIRECT_IMAGE
        self.image_maker = ImageMaker(image, encoder_out_dim)
        width = embedding_dim
        if use_wsa and fusion.get("fusion") in RULES:
            num_ptms = len(GUIDE_TRIO if ptms is None else ptms)
            width = RULES[fusion["fusion"]].representation_dim(embedding_dim, num_ptms)
        self.heads = ActionHeads(
            encoder_out_dim, width, hidden_dim, num_discrete_actions, continuous_dim, dropout_rate
        )
        if use_wsa:
            self.feature_extractor = MultiPTMFeatureExtractor(
                embedding_dim,
                context_dim,
                ptms,
                context_input_dim=encoder_out_dim,
                readout=image.readout,
                **fusion,
            )
        else:
            self.backbone = _single(backbone, embedding_dim, encoder_out_dim, image)


def _single(
    backbone: str | PTMConfig, embedding_dim: int, token_dim: int, image: ImageConfig
) -> MultiPTMFeatureExtractor:
    """One model read exactly as several are: with a single embedding, R is that embedding."""
    ptm = PTMConfig(model_type=backbone) if isinstance(backbone, str) else backbone
    return MultiPTMFeatureExtractor(
        embedding_dim, 1, [ptm], context_input_dim=token_dim, readout=image.readout, fusion="mean"
    )


def _as_flat_batch(node_tokens: Tensor, graph_token: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor]:
    if graph_token.dim() == 1:
        graph_token = graph_token.unsqueeze(0)
    if batch is None:
        if len(graph_token) != 1:
            raise UserError(f"{len(graph_token)} graph tokens need `batch`, the colony of each node")
        batch = torch.zeros(len(node_tokens), dtype=torch.int64, device=node_tokens.device)
    return graph_token, batch
