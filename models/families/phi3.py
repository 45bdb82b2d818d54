"""Phi-3, Phi-3.5 mini and Phi-4: Llama with q, k, v in one matrix, gate and up in another, and longrope."""

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.families import llama, mistral, qwen2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    return mistral.with_windows(config, llama.describe(config, llama.Defaults(eps=1e-5)))


NAMES = {
    "model.embed_tokens.*": To("embed"),
    "model.layers.{i}.input_layernorm.*": To("layers.{i}.attn_norm"),
    "model.layers.{i}.self_attn.qkv_proj.*": To("layers.{i}.attn.qkv"),
    "model.layers.{i}.self_attn.o_proj.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.mlp.gate_up_proj.*": To("layers.{i}.mlp.gate_up"),
    "model.layers.{i}.mlp.down_proj.*": To("layers.{i}.mlp.down"),
    "model.norm.*": To("norm"),
    "lm_head.*": To("head"),
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.gate_up"),  # gate and up in one tensor
}


FAMILY = Family(describe, NAMES, GGUF_NAMES, mistral.gguf_fields)
