"""RecurrentGemma (Griffin): gated linear recurrent units in most layers, attention with a window in others."""

import dataclasses

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import LinearUnitSpec
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError
from models.families import llama
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import conv_weight, flat, plus_one

_KINDS = ("recurrent", "attention")


def describe(config: HFConfig) -> DecoderSpec:
    activation = config.activation("hidden_activation", "gelu_pytorch_tanh")
    named = {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": config.number("rms_norm_eps", 1e-6)}
    # No field states how long the texts were that the models learned from.
    renamed = config.with_defaults({"max_position_embeddings": 8192}).with_fields(named)
    spec = llama.describe(renamed, llama.Defaults(rotary_share=0.5, has_tied_head=True))
    unit = _unit(config, spec, activation)
    window = config.integer("attention_window_size", 2048)
    size = config.integer("intermediate_size") // 2
    mlp = MLPSpec(size, activation, is_gated=True, has_up_bias=True, has_down_bias=True)
    kinds = _kinds(config, len(spec.layers))

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        layer = dataclasses.replace(layer, mlp=mlp, has_out_bias=True)
        if kinds[index] == "recurrent":
            return dataclasses.replace(layer, mixer=unit, rope=None)
        return layer.with_window(window)

    # Rounded to bf16, as in the original.
    scale = float(torch.tensor(spec.hidden_size**0.5, dtype=torch.bfloat16))
    cap = config.number("logits_soft_cap", 30.0)
    return dataclasses.replace(spec.map_layers(adapt), embedding_scale=scale, logit_softcap=cap)


def _unit(config: HFConfig, spec: DecoderSpec, activation: Activation) -> LinearUnitSpec:
    channels = config.integer("lru_width", spec.hidden_size)
    num_heads = config.integer("num_attention_heads")
    if channels % num_heads:
        raise CheckpointError(
            f"{config.source}: num_attention_heads {num_heads} does not divide lru_width {channels}; {config.remedy}"
        )
    if activation is not Activation.GELU_TANH:
        raise UnsupportedModelError(
            f"{config.source}: hidden_activation {quote_value(config.raw('hidden_activation'))} is not supported with "
            "recurrent units; supported is 'gelu_pytorch_tanh'"
        )
    return LinearUnitSpec(channels, num_heads, config.integer("conv1d_width", 4, minimum=2, maximum=8))


def _kinds(config: HFConfig, num_layers: int) -> list[str]:
    """Return each layer's kind, by `block_types`, which are repeated."""
    kinds = config.raw("block_types")
    if kinds is None:
        kinds = ["recurrent", "recurrent", "attention"]
    if not isinstance(kinds, list | tuple) or not kinds or not all(kind in _KINDS for kind in kinds):
        raise CheckpointError(
            f"{config.source}: block_types is {quote_value(kinds)}; it must list {' and '.join(map(repr, _KINDS))}; "
            f"{config.remedy}"
        )
    return [kinds[index % len(kinds)] for index in range(num_layers)]


def transposed_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Transpose each head's matrix, stored as [heads, in, out]."""
    return tensor.transpose(1, 2)


_BLOCK = "model.layers.{i}.temporal_block"
_ATTN = "layers.{i}.attn"
NAMES = {
    "model.embed_tokens.*": To("embed"),
    "lm_head.*": To("head"),
    "model.final_norm.*": To("norm", transform=plus_one),
    "model.layers.{i}.temporal_pre_norm.*": To("layers.{i}.attn_norm", transform=plus_one),
    "model.layers.{i}.channel_pre_norm.*": To("layers.{i}.mlp_norm", transform=plus_one),
    **{f"{_BLOCK}.{part}_proj.*": To(f"{_ATTN}.qkv", part) for part in ("q", "k", "v")},
    f"{_BLOCK}.o_proj.*": To(f"{_ATTN}.out"),
    f"{_BLOCK}.linear_x.*": To(f"{_ATTN}.in_proj", "x"),
    f"{_BLOCK}.linear_y.*": To(f"{_ATTN}.in_proj", "z"),
    f"{_BLOCK}.linear_out.*": To(f"{_ATTN}.out", when_present=f"{_ATTN}.in_proj"),
    f"{_BLOCK}.conv_1d.weight": To(_ATTN, None, conv_weight, "conv_weight"),
    f"{_BLOCK}.conv_1d.bias": To(_ATTN, parameter="conv_bias"),
    f"{_BLOCK}.rg_lru.recurrent_param": To(_ATTN, parameter="rate"),
    f"{_BLOCK}.rg_lru.input_gate_weight": To(f"{_ATTN}.input_gate", None, transposed_heads, "weight"),
    f"{_BLOCK}.rg_lru.input_gate_bias": To(_ATTN, None, flat, "input_bias"),
    f"{_BLOCK}.rg_lru.recurrent_gate_weight": To(f"{_ATTN}.decay_gate", None, transposed_heads, "weight"),
    f"{_BLOCK}.rg_lru.recurrent_gate_bias": To(_ATTN, None, flat, "decay_bias"),
    "model.layers.{i}.mlp_block.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    "model.layers.{i}.mlp_block.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    "model.layers.{i}.mlp_block.down_proj.*": To("layers.{i}.mlp.down"),
}

FAMILY = Family(describe, NAMES)
