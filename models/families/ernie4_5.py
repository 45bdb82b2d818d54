"""ERNIE 4.5, its MoE and PaddleOCR-VL: Llama with neighboring rotary pairs; softmax experts with corrected choices."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import cohere, llama
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, shared_names
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import as_vector


def describe(config: HFConfig) -> DecoderSpec:
    return _describe(config, default_head_dim=128)


def _describe(config: HFConfig, default_head_dim: int | None) -> DecoderSpec:
    has_bias = config.boolean("use_bias", False)
    biases = {"attention_bias": has_bias, "mlp_bias": has_bias}
    return llama.describe(
        config.with_fields(biases),
        llama.Defaults(head_dim=default_head_dim, rope_theta=500000.0, eps=1e-5, activation="silu", has_tied_head=True),
    )


def describe_moe(config: HFConfig) -> DecoderSpec:
    spec = _describe(config, default_head_dim=None)
    router = RouterSpec(
        RouterScore.SOFTMAX,
        experts_per_token=config.integer("moe_k", 6),
        renormalizes=True,
        sum_floor=config.number("moe_norm_min", 1e-12),
        has_correction=True,
    )
    num_experts, size = config.integer("moe_num_experts", 64), config.integer("moe_intermediate_size", 1536)
    num_shared = config.integer("moe_num_shared_experts", 2, minimum=0)
    first, last = (
        config.integer("moe_layer_start_index", 1, minimum=0),
        config.integer("moe_layer_end_index", -1, minimum=-1),
    )
    step, last = config.integer("moe_layer_interval", 1), len(spec.layers) - 1 if last == -1 else last

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if (index + 1) % step or not first <= index <= last:
            return layer
        expert = dataclasses.replace(layer.dense_mlp.with_size(size), has_up_bias=False, has_down_bias=False)
        shared = layer.dense_mlp.with_size(num_shared * size) if num_shared else None
        return dataclasses.replace(layer, mlp=MoESpec(num_experts, expert, router, shared))

    return dataclasses.replace(spec.map_layers(adapt), has_head_bias=config.boolean("use_bias", False))


_CORRECTION = "moe_statics.e_score_correction_bias"
MOE_NAMES = {
    "model.mtp_block.**": IGNORE,  # multi-token prediction
    "model.mtp_emb_norm.**": IGNORE,
    "model.mtp_hidden_norm.**": IGNORE,
    "model.mtp_linear_proj.**": IGNORE,
    **cohere.NAMES,
    "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"),
    f"model.layers.{{i}}.mlp.{_CORRECTION}": To("layers.{i}.mlp.router", None, as_vector, "correction"),
    **expert_names("mlp"),
    **shared_names("mlp", name="shared_experts"),
}

GGUF_MOE_NAMES = {
    **llama.GGUF_NAMES,
    **GGUF_EXPERT_NAMES,
    "blk.{i}.exp_probs_b.bias": To("layers.{i}.mlp.router", None, as_vector, "correction"),  # [1, experts]
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    return {**fields, "use_bias": fields["attention_bias"]}


def gguf_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    experts = gguf_expert_fields(file)
    return {
        **gguf_fields(file),
        "moe_intermediate_size": experts["moe_intermediate_size"],
        "moe_num_experts": experts["num_experts"],
        "moe_k": experts["num_experts_per_tok"],
        "moe_num_shared_experts": file.size("expert_shared_count") or 0,
        "moe_layer_start_index": file.integer("leading_dense_block_count", 0, minimum=0),
        "moe_layer_interval": file.integer("interleave_moe_layer_step", 1),
    }


FAMILY = Family(describe, cohere.NAMES, llama.GGUF_NAMES, gguf_fields)
MOE = Family(describe_moe, MOE_NAMES, GGUF_MOE_NAMES, gguf_moe_fields)
PADDLE_OCR = Family(describe, llama.NAMES)  # keeps the halves of rotated heads apart
