"""How llama.cpp's converter stores RWKV-7: tensors and metadata."""

from collections.abc import Iterator

import gguf
import torch
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import State

_RENAMED = {
    "_lora.lora.0.weight": "1.weight",
    "_lora.lora.2.weight": "2.weight",
    "_lora.lora.2.bias": "0.weight",
    "ffn_norm": "ln2",
    "ffn.": "feed_forward.",
    "attn": "attention",
    "g_norm": "ln_x",
}


def mixed_rows(config: PretrainedConfig, state: State) -> State:
    """The six mixtures of a layer in one tensor, and in the first layer the rates' matrices as those of values, too."""

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for layer in range(config.num_hidden_layers):
            mixtures = [state[f"model.layers.{layer}.attn.x_{part}"] for part in "rwkvag"]
            yield f"blk.{layer}.time_mix_lerp_fused.weight", torch.stack(mixtures)
        for name, tensor in state.items():
            if ".attn.x_" in name:
                continue
            for old, new in _RENAMED.items():
                name = name.replace(old, new)
            if not name.endswith((".weight", ".bias")):
                name += ".weight"
            if name.endswith(".r_k.weight"):
                tensor = tensor.flatten()
            if ".layers.0.attention.a" in name and not name.startswith("model.layers.0.attention_norm"):
                yield name.replace("attention.a", "attention.v"), tensor
            yield name, tensor

    return dict(stored())


def rwkv7(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_context_length(1048576)
    writer.add_embedding_length(config.hidden_size)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_wkv_head_size(config.head_dim or config.hidden_size // config.num_heads)
    writer.add_decay_lora_rank(config.decay_low_rank_dim)
    writer.add_iclr_lora_rank(config.a_low_rank_dim)
    writer.add_value_residual_mix_lora_rank(config.v_low_rank_dim)
    writer.add_gate_lora_rank(config.gate_low_rank_dim)
    writer.add_feed_forward_length(config.intermediate_size or config.hidden_ratio * config.hidden_size)
    writer.add_head_count(0)
