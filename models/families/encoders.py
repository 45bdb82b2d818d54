"""Specs that encoders like BERT have in common."""

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec


def encoder(
    layer: LayerSpec, num_layers: int, *, vocab_size: int, hidden_size: int, max_position: int, num_token_types: int
) -> DecoderSpec:
    """Return the spec of an encoder with equal post-norm layers, a norm of the embeddings and no output layer."""
    return DecoderSpec(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_position=max_position,
        layers=(layer,) * num_layers,
        final_norm=None,
        has_tied_head=False,
        has_head=False,
        embedding_norm=layer.norm,
        num_token_types=num_token_types,
    )


def attention_both_ways(num_heads: int, head_dim: int, window: int | None = None) -> AttentionSpec:
    """Return the spec of bidirectional attention. window: positions seen to each side, the token itself included."""
    return AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5, sliding_window=window, is_causal=False)


def layer_norm(eps: float, *, has_bias: bool = True) -> NormSpec:
    return NormSpec(NormKind.LAYER, eps, has_bias=has_bias)
