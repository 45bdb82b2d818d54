"""Fields of a config.json from metadata that most GGUF files have in common."""

from collections.abc import Sequence
from typing import Any

from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters
from models.errors import CheckpointError, UnsupportedModelError


def common_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return sizes, norms, biases and rotary positions under the names of Llama's config.json.

    Families add the other fields of their configuration.
    """
    hidden_size, num_heads = file.integer("embedding_length"), file.integer("attention.head_count")
    head_dim = file.integer("attention.key_length", hidden_size // num_heads)
    if file.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(f"{file.source}: keys and values of different sizes are not supported")
    eps = file.number(file.first("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"))
    return {
        "hidden_size": hidden_size,
        "intermediate_size": file.integer("feed_forward_length"),
        "num_hidden_layers": num_layers(file),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.integer("context_length"),
        "rms_norm_eps": eps,
        "layer_norm_eps": eps,
        "layer_norm_epsilon": eps,
        "norm_epsilon": eps,
        "hidden_act": "silu",
        "attention_bias": any(f"blk.0.{name}.bias" in file.tensors for name in ("attn_q", "attn_qkv")),
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "rope_parameters": rope_parameters(file, head_dim),
    }


def window_fields(file: GGUFMetadata, *, must_list: bool = False) -> dict[str, Any]:
    """Return `sliding_window`, and `layer_types` if the file lists them; without a window, all layers have full
    attention. must_list: raises CheckpointError for a window without a list."""
    window, count = file.size("attention.sliding_window"), num_layers(file)
    name = "attention.sliding_window_pattern"
    pattern = file.raw(name)
    if window is None:
        return {"layer_types": ["full_attention"] * count}
    if pattern is None and not must_list:
        return {"sliding_window": window}
    if isinstance(pattern, int) and not isinstance(pattern, bool) and not must_list:
        return {"sliding_window": window, "sliding_window_pattern": pattern}
    check_layers_listed(file, name, pattern)
    types = ["sliding_attention" if is_windowed else "full_attention" for is_windowed in pattern[:count]]
    return {"sliding_window": window, "layer_types": types}


def layer_counts(file: GGUFMetadata, name: str) -> list[int]:
    """Return a GGUF file's number for each layer, 0 where a layer lacks what is counted; a single number is all
    layers'."""
    counts, count = file.token_ids(name), num_layers(file)
    if len(counts) == 1:
        return counts * count
    check_layers_listed(file, name, counts)
    return counts[:count]


def per_layer_config(file: GGUFMetadata, kinds: Sequence[str], head_dim: int) -> dict[int, dict[str, int]]:
    """Return a config.json's `per_layer_config`: sizes of each layer, if windows have heads of another size.

    kinds: of the layers, "sliding_attention" or others. head_dim: of the others.
    """
    heads, sizes = (layer_counts(file, name) for name in ("attention.head_count_kv", "feed_forward_length"))
    window_dim = file.integer("attention.key_length_swa", head_dim)
    if file.integer("attention.value_length_swa", window_dim) != window_dim:
        raise UnsupportedModelError(f"{file.source}: keys and values of different sizes are not supported")
    return {
        index: {
            "head_dim": window_dim if kind == "sliding_attention" else head_dim,
            "num_key_value_heads": num_heads,
            "intermediate_size": size,
        }
        for index, (kind, num_heads, size) in enumerate(zip(kinds, heads, sizes, strict=True))
    }


def with_largest(file: GGUFMetadata, *names: str) -> GGUFMetadata:
    """Return the metadata with one number for all layers, the largest, under each of `names`; None if all are 0."""
    return file.with_fields({name: max(layer_counts(file, name)) or None for name in names})


def check_layers_listed(file: GGUFMetadata, name: str, listed: Any) -> None:
    """Raise CheckpointError unless metadata list an item for each block, with or without the blocks for multi-token
    prediction."""
    count, blocks = num_layers(file), file.num_layers("block_count")
    if not isinstance(listed, list) or len(listed) not in (count, blocks):
        found = f"lists {len(listed)} layers" if isinstance(listed, list) else "is not a list"
        raise CheckpointError(f"{file.source}: {name} {found}; the model has {count}; fetch or convert the file again")


def num_layers(file: GGUFMetadata) -> int:
    """Return the number of the decoder's layers: all blocks but those for multi-token prediction, which come last."""
    blocks, predicting = file.num_layers("block_count"), file.integer("nextn_predict_layers", 0, minimum=0)
    if predicting >= blocks:
        raise CheckpointError(
            f"{file.source}: nextn_predict_layers {predicting} must be below block_count {blocks}; "
            "a file with only the layers for multi-token prediction is no model"
        )
    return blocks - predicting
