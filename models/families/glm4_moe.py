"""GLM-4.5 to 4.7 and 4.5V: DeepSeek V3's experts and partly rotated heads; 4.7-Flash (LITE): latent attention."""

import dataclasses
import functools
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import deepseek, llama, qwen3, routed_experts
from models.families.name_map import IGNORE, To
from models.families.registry import Family

_LITE_DEFAULTS = {
    **routed_experts.UNGROUPED_DEFAULTS,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 1.8,
    "rms_norm_eps": 1e-5,
}
_DEFAULTS = {**_LITE_DEFAULTS, "num_experts_per_tok": 8, "routed_scaling_factor": 1.0}


def describe(config: HFConfig) -> DecoderSpec:
    has_qk_norm = config.boolean("use_qk_norm", False)
    spec = llama.describe(config, llama.Defaults(rotary_share=0.5, eps=1e-5, activation="silu"))
    spec = spec.map_layers(
        lambda _, layer: dataclasses.replace(
            layer, has_out_bias=False, qk_norm=QKNormSpec(layer.norm) if has_qk_norm else None
        )
    )
    return routed_experts.with_experts(config, spec, _DEFAULTS)


# {x}: multi-token prediction
NAMES = {"model.layers.{x}.**": IGNORE, **qwen3.NAMES, **routed_experts.NAMES}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **qwen3.GGUF_NAMES,
    **routed_experts.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.mlp_norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    has_norms = "blk.0.attn_q_norm.weight" in file.tensors
    return {**common_fields(file), **routed_experts.gguf_fields(file, scoring="sigmoid"), "use_qk_norm": has_norms}


def describe_vision(config: HFConfig) -> DecoderSpec:
    return describe(config.with_defaults({"attention_bias": True}))


GLM4_MOE = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
GLM4V_MOE = Family(describe_vision, NAMES, GGUF_NAMES, gguf_fields)
LITE = Family(functools.partial(deepseek.describe, defaults=_LITE_DEFAULTS), deepseek.NAMES)
