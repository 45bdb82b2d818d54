"""What most GGUF files state alike, in the terms of a config.json."""

from typing import Any

from models.checkpoints.gguf_metadata import GGUFMetadata
from models.errors import UnsupportedModelError


def common_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Sizes, norms, biases and rotary positions under the names that Llama's config.json has.

    Families whose configuration has more, or other names, add theirs to this.
    """
    hidden_size, num_heads = file.integer("embedding_length"), file.integer("attention.head_count")
    head_dim = file.integer("attention.key_length", hidden_size // num_heads)
    if file.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(f"{file.source}: keys and values of different sizes are not supported")
    eps = file.number(file.first("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"))
    return {
        "hidden_size": hidden_size,
        "intermediate_size": file.integer("feed_forward_length"),
        "num_hidden_layers": file.num_layers("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.integer("context_length"),
        "rms_norm_eps": eps,
        "layer_norm_eps": eps,
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "rope_parameters": {
            "rope_theta": file.number("rope.freq_base", 10000.0),
            "partial_rotary_factor": file.integer("rope.dimension_count", head_dim) / head_dim,
            **_rope_scaling(file),
        },
    }


def _rope_scaling(file: GGUFMetadata) -> dict[str, Any]:
    factor = file.scale(file.first("rope.scaling.factor", "rope.scale_linear"))
    kind = file.text("rope.scaling.type", "linear" if factor else "none")
    factors = file.values("rope_freqs.weight")
    if factors is not None and kind in ("none", "linear"):  # Llama 3.1 and later
        return {"rope_type": "factors", "factors": factors}
    if kind == "none" or (kind == "linear" and factor is None):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise UnsupportedModelError(f"{file.source}: rotary scaling {kind!r} is not supported; supported is linear")
