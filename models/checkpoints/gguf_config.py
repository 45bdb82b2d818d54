"""A GGUF file's metadata in the terms of a Hugging Face config.json, so that families describe themselves once."""

from collections.abc import Mapping
from typing import Any

import torch

from models.checkpoints.gguf import GGUFCheckpoint
from models.errors import CheckpointError, UnsupportedModelError
from models.hf_config import HFConfig
from models.registry import architecture_of_gguf


def gguf_config(checkpoint: GGUFCheckpoint) -> HFConfig:
    """The config; raises UnsupportedModelError for other architectures, CheckpointError for missing metadata."""
    source = str(checkpoint.path)
    name = HFConfig(checkpoint.metadata, source).text("general.architecture")
    architecture = architecture_of_gguf(name)
    prefix = name + "."
    own = {key.removeprefix(prefix): value for key, value in checkpoint.metadata.items() if key.startswith(prefix)}
    metadata = HFConfig(own, f"{source}, {name}.*")
    if own.get("expert_count"):
        raise UnsupportedModelError(f"{source} has {own['expert_count']} experts; experts are not supported yet")
    describe = _gpt2 if name == "gpt2" else _llama
    fields = {
        "architectures": [architecture],
        "vocab_size": _vocab_size(checkpoint),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "bos_token_id": checkpoint.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": checkpoint.metadata.get("tokenizer.ggml.eos_token_id"),
        **describe(metadata, checkpoint),
    }
    return HFConfig(fields, source)


def _vocab_size(checkpoint: GGUFCheckpoint) -> int:
    """Rows of the embedding: the metadata's own count is often absent, and its token list may be padded."""
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{checkpoint.path} lacks tensor 'token_embd.weight'; fetch it again")
    return embedding.shape[0]


def _llama(metadata: HFConfig, checkpoint: GGUFCheckpoint) -> Mapping[str, Any]:
    hidden_size = metadata.integer("embedding_length")
    num_heads = metadata.integer("attention.head_count")
    head_dim = metadata.integer("attention.key_length", hidden_size // num_heads)
    if metadata.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(f"{metadata.source}: keys and values of different sizes are not supported")
    return {
        "hidden_size": hidden_size,
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_hidden_layers": metadata.integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.integer("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in checkpoint.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in checkpoint.tensors,
        "rope_parameters": {
            "rope_theta": metadata.number("rope.freq_base", 10000.0),
            "partial_rotary_factor": metadata.integer("rope.dimension_count", head_dim) / head_dim,
            **_rope_scaling(metadata, checkpoint),
        },
    }


def _rope_scaling(metadata: HFConfig, checkpoint: GGUFCheckpoint) -> Mapping[str, Any]:
    kind = metadata.text("rope.scaling.type", "linear" if metadata.has("rope.scale_linear") else "none")
    factors = checkpoint.tensors.get("rope_freqs.weight")
    if factors is not None and factors.read is not None and kind in ("none", "linear"):  # Llama 3.1 and later
        return {"rope_type": "factors", "factors": factors.read(torch.float32).tolist()}
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": metadata.number("rope.scaling.factor", _old_factor(metadata))}
    raise UnsupportedModelError(f"{metadata.source}: rotary scaling {kind!r} is not supported; supported is linear")


def _old_factor(metadata: HFConfig) -> float | None:
    return metadata.number("rope.scale_linear") if metadata.has("rope.scale_linear") else None


def _gpt2(metadata: HFConfig, checkpoint: GGUFCheckpoint) -> Mapping[str, Any]:  # noqa: ARG001
    return {
        "n_embd": metadata.integer("embedding_length"),
        "n_head": metadata.integer("attention.head_count"),
        "n_layer": metadata.integer("block_count"),
        "n_inner": metadata.integer("feed_forward_length"),
        "n_positions": metadata.integer("context_length"),
        "layer_norm_epsilon": metadata.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }
