"""DeepSeek V2 and V3 (also R1, Kimi K2 and Moonlight): latent attention and experts in groups. Also OCR."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from models.architecture.attention import LatentSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.positions import RopeSpec, YarnScaling
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.rope import rope_spec, yarn_mscale
from models.errors import CheckpointError, UnsupportedModelError
from models.families import llama, routed_experts
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import keys_of_heads, rotary_first_q, rotary_first_row, values_of_heads


def describe(config: HFConfig, defaults: Mapping[str, Any], rope_theta: float = 10000.0) -> DecoderSpec:
    latent = _latent(config)
    eps = defaults.get("rms_norm_eps", 1e-6)
    spec = llama.describe(config, llama.Defaults(head_dim=latent.rope_dim, eps=eps))
    rope = rope_spec(config, latent.rope_dim, default_theta=rope_theta)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        attention = latent.attention(layer.attention.num_heads, _scale(config, latent, rope))
        return dataclasses.replace(layer, mixer=attention, latent=latent, rope=rope)

    return routed_experts.with_experts(config, spec.map_layers(adapt), defaults)


def describe_plain(config: HFConfig) -> DecoderSpec:
    """Describe DeepSeek-OCR's language model: Llama's attention with V2's experts."""
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    return routed_experts.with_experts(config, spec, routed_experts.V2_DEFAULTS)


def _latent(config: HFConfig) -> LatentSpec:
    q_rank = config.integer("q_lora_rank") if config.has("q_lora_rank") else None
    if q_rank is None and config.boolean("attention_bias", False):
        raise UnsupportedModelError(f"{config.source}: attention_bias without q_lora_rank is not supported")
    if not config.boolean("rope_interleave", True):
        raise UnsupportedModelError(f"{config.source}: rope_interleave false is not supported")
    if (rope_dim := config.integer("qk_rope_head_dim")) % 2:
        raise CheckpointError(f"{config.source}: qk_rope_head_dim is {rope_dim}; it must be even; {config.remedy}")
    return LatentSpec(
        q_rank=q_rank,
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=rope_dim,
        value_dim=config.integer("v_head_dim"),
        norm=NormSpec(NormKind.RMS, 1e-6),  # regardless of rms_norm_eps
    )


def _scale(config: HFConfig, latent: LatentSpec, rope: RopeSpec) -> float:
    """Return the scale of attention logits. With yarn, `mscale_all_dim` increases it for all dimensions of a head."""
    scale = (latent.nope_dim + latent.rope_dim) ** -0.5
    scaling = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    if not isinstance(rope.scaling, YarnScaling):
        return scale
    return scale * yarn_mscale(rope.scaling.factor, scaling.number("mscale_all_dim", 0.0, minimum=0.0)) ** 2


NAMES = {
    "model.layers.{x}.**": IGNORE,  # V3's multi-token prediction
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", rotary_first_q),
    "model.layers.{i}.self_attn.q_a_proj.*": To("layers.{i}.attn.qkv", "q", when_present="layers.{i}.attn.q_up"),
    "model.layers.{i}.self_attn.q_a_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.q_b_proj.*": To("layers.{i}.attn.q_up", transform=rotary_first_q),
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.*": To("layers.{i}.attn.qkv", "kv", rotary_first_row),
    "model.layers.{i}.self_attn.kv_a_layernorm.*": To("layers.{i}.attn.kv_norm"),
    "model.layers.{i}.self_attn.kv_b_proj.*": (
        To("layers.{i}.attn.k_up", transform=keys_of_heads),
        To("layers.{i}.attn.v_up", transform=values_of_heads),
    ),
    **routed_experts.NAMES,
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **llama.GGUF_NAMES,
    **routed_experts.GGUF_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q", rotary_first_q),
    "blk.{i}.attn_q_a.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_q_a_norm.*": To("layers.{i}.attn.q_norm"),
    "blk.{i}.attn_q_b.*": To("layers.{i}.attn.q_up", transform=rotary_first_q),
    "blk.{i}.attn_kv_a_mqa.*": To("layers.{i}.attn.qkv", "kv", rotary_first_row),
    "blk.{i}.attn_kv_a_norm.*": To("layers.{i}.attn.kv_norm"),
    "blk.{i}.attn_k_b.*": To("layers.{i}.attn.k_up"),
    "blk.{i}.attn_v_b.*": To("layers.{i}.attn.v_up"),
    "blk.{i}.attn_kv_b.*": NAMES["model.layers.{i}.self_attn.kv_b_proj.*"],  # older files
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    rope_dim = file.integer("rope.dimension_count")
    key_dim, value_dim = (_head_length(file, name) for name in ("key", "value"))
    plain_lengths = dict.fromkeys(("attention.key_length", "attention.value_length"), rope_dim)
    fields = common_fields(file.with_fields(plain_lengths))
    weight = 10 * (file.scale("rope.scaling.yarn_log_multiplier") or 0.0)  # the converter divides it by 10
    if weight:
        fields["rope_parameters"] |= {"mscale": weight, "mscale_all_dim": weight}
    return {
        **fields,
        **routed_experts.gguf_fields(file),
        "q_lora_rank": file.size("attention.q_lora_rank"),
        "kv_lora_rank": file.integer("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope_dim,
        "qk_nope_head_dim": key_dim - rope_dim,
        "v_head_dim": value_dim,
    }


def _head_length(file: GGUFMetadata, part: str) -> int:
    """Return the head size of `part`, "key" or "value".

    In newer files this is the field "..._length_mla", and "..._length" is the size of a cached row.
    """
    return file.integer(file.first(f"attention.{part}_length_mla", f"attention.{part}_length"))


OCR = Family(describe_plain, {**llama.NAMES, **routed_experts.NAMES})
V2 = Family(functools.partial(describe, defaults=routed_experts.V2_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
V3 = Family(functools.partial(describe, defaults=routed_experts.V3_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
