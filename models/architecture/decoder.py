"""DecoderSpec: the layers of a decoder or an encoder, its embeddings and its heads."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from models.architecture.attention import AttentionSpec
from models.architecture.layer import LayerInputSpec, LayerSpec, Mixer, StreamsSpec
from models.architecture.norm import NormSpec
from models.architecture.pooling import ScoreHeadSpec
from models.architecture.positions import RelativeBiasSpec
from models.architecture.recurrence import TokenShiftSpec


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder or an encoder: its layers, embeddings, final norm and heads."""

    vocab_size: int
    hidden_size: int
    max_position: int  # longest context the checkpoint claims
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec | None  # None where the last layer ends with a norm of its own (AFTER_SUM)
    has_tied_head: bool  # the output layer is the token embedding
    embedding_size: int | None = None  # of the token embedding, if it is projected to hidden_size and back: OPT
    has_learned_positions: bool = False  # a table of max_position embeddings
    has_head_bias: bool = False
    embedding_norm: NormSpec | None = None  # BLOOM
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None  # cap * tanh(logits / cap)
    num_token_types: int = 0  # rows of a table that is added to the token embedding: BERT
    relative_bias: RelativeBiasSpec | None = None
    has_head: bool = True  # an output layer
    score_head: ScoreHeadSpec | None = None

    @property
    def is_encoder(self) -> bool:
        """Whether attention is bidirectional: a token's hidden state depends on later tokens."""
        return not all(spec.is_causal for spec in self.attention_specs)

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        """The AttentionSpec of each layer that has attention."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, AttentionSpec)]

    @property
    def layer_input(self) -> LayerInputSpec | None:
        """The inputs of layers besides the residual stream, or None."""
        return self.layers[0].layer_input

    @property
    def streams(self) -> StreamsSpec | None:
        """The residual streams, if there are several."""
        return self.layers[0].streams

    @property
    def mixers(self) -> list[Mixer | TokenShiftSpec]:
        """The attention, recurrences and shifts that have a cache of their own, of all layers, in order."""
        return [mixer for layer in self.layers for mixer in layer.mixers]

    @property
    def index_topk(self) -> int | None:
        """Most positions that attention with an indexer reads for a query; None without indexers."""
        sizes = {spec.indexer.topk for spec in self.attention_specs if spec.indexer is not None}
        assert len(sizes) <= 1
        return next(iter(sizes), None)

    def map_layers(self, change: Callable[[int, LayerSpec], LayerSpec]) -> "DecoderSpec":
        """Return a copy in which change(index, layer) replaces each layer."""
        return dataclasses.replace(self, layers=tuple(change(index, layer) for index, layer in enumerate(self.layers)))
