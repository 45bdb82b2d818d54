"""Decoders without attention, whose layers are recurrences alone: what their configurations and names share."""

from collections.abc import Iterable

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.config.hf_config import HFConfig
from models.families.name_map import To

_MAX_POSITION = 1 << 20  # states do not grow: configurations state no limit, or a length of training


def recurrent_decoder(config: HFConfig, layers: Iterable[LayerSpec], *, has_tied_head: bool) -> DecoderSpec:
    """Return a decoder of these layers. has_tied_head: if the configuration does not say."""
    layers = tuple(layers)
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        max_position=_MAX_POSITION,
        layers=layers,
        final_norm=layers[0].norm,
        has_tied_head=config.boolean("tie_word_embeddings", has_tied_head),
    )


GGUF_RECURRENT_NAMES: dict[str, To | tuple[To, ...] | None] = {
    "token_embd.*": To("embed"),
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm"),
    "output_norm.*": To("norm"),
    "output.*": To("head"),
}
