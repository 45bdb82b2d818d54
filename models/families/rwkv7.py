"""RWKV-7: the generalized delta rule in every layer, and a token shift before each MLP; no attention."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GeneralizedDeltaSpec, TokenShiftSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quote_value
from models.errors import UnsupportedModelError
from models.families.name_map import IGNORE, To
from models.families.recurrent import GGUF_RECURRENT_NAMES, recurrent_decoder
from models.families.registry import Family
from models.families.transforms import as_rows, flat


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, eps = config.integer("hidden_size"), config.number("norm_eps", 1e-5)
    _refuse_variants(config, hidden_size)
    # Of the number of heads and their size, a configuration states one.
    config = config.with_defaults({"head_dim": 64})
    stated = config.first("head_dim", "num_heads")
    given, quotient = config.integer(stated), config.quotient("hidden_size", stated)
    num_heads, head_dim = (given, quotient) if stated == "num_heads" else (quotient, given)
    norm = NormSpec(NormKind.LAYER, eps, has_bias=config.boolean("norm_bias", True))
    size = 32 * -(-config.integer("hidden_ratio", 4) * hidden_size // 32)
    activation = config.activation("hidden_act", "sqrelu")
    mlp = MLPSpec(config.integer("intermediate_size", size), activation, is_gated=False)
    delta = GeneralizedDeltaSpec(
        num_heads=num_heads,
        head_dim=head_dim,
        decay_rank=config.integer("decay_low_rank_dim"),
        rate_rank=config.integer("a_low_rank_dim"),
        gate_rank=config.integer("gate_low_rank_dim"),
        value_rank=config.integer("v_low_rank_dim"),
        norm=NormSpec(NormKind.LAYER, config.number("heads_norm_eps", head_dim * eps), has_bias=True),
    )
    layer = LayerSpec(delta, mlp, norm, mlp_shift=TokenShiftSpec(hidden_size))
    first = dataclasses.replace(layer, mixer=dataclasses.replace(delta, value_rank=None))
    layers = (first, *(layer,) * (config.num_layers("num_hidden_layers") - 1))
    spec = recurrent_decoder(config, layers, has_tied_head=False)
    return dataclasses.replace(spec, embedding_norm=norm if config.boolean("norm_first", True) else None)


def _refuse_variants(config: HFConfig, hidden_size: int) -> None:
    if config.has("attn"):
        raise UnsupportedModelError(f"{config.source}: attn (attention in some layers) is not supported")
    value_dim = config.raw("value_dim")
    if any(size not in (None, hidden_size) for size in (value_dim if isinstance(value_dim, list) else [value_dim])):
        raise UnsupportedModelError(
            f"{config.source}: value_dim is {quote_value(value_dim)}; supported is hidden_size, {hidden_size}"
        )


_LAYER, _BLOCK, _ATTN = "model.layers.{i}", "blk.{i}.time_mix", "layers.{i}.attn"
_SHIFT = To("layers.{i}.mlp_shift.mix", None, as_rows, "weight")
_MATRICES = {"receptance": "q", "key": "k", "value": "v", "output": "out"}
_PAIRS = {"w": "w", "a": "a", "v": "f", "g": "g"}  # of matrices with a small size between them
_OWN = {name: To(_ATTN, None, flat, name) for name in ("k_k", "k_a", "r_k")}
NAMES: dict[str, To | tuple[To, ...] | None] = {
    "model.embeddings.*": To("embed"),
    "model.layers.0.pre_norm.*": To("embed_norm"),
    "model.layers.0.attn.v_lora.**": IGNORE,  # some checkpoints have it, and nothing reads it
    "model.norm.*": To("norm"),
    "lm_head.*": To("head"),
    f"{_LAYER}.attn_norm.*": To("layers.{i}.attn_norm"),
    f"{_LAYER}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    f"{_LAYER}.attn.x_x": To(f"{_ATTN}.shift", None, as_rows, "weight"),  # of the first checkpoints
    **{f"{_LAYER}.attn.x_{name}": To(f"{_ATTN}.shift", name, as_rows, "weight") for name in "wkvag"},
    f"{_LAYER}.attn.x_r": To(f"{_ATTN}.shift", "q", as_rows, "weight"),
    **{f"{_LAYER}.attn.{name[0]}_proj.*": To(f"{_ATTN}.{to}") for name, to in _MATRICES.items()},
    **{f"{_LAYER}.attn.{name}_lora.lora.0.*": To(f"{_ATTN}.{to}_down") for name, to in _PAIRS.items()},
    **{f"{_LAYER}.attn.{name}_lora.lora.2.*": To(f"{_ATTN}.{to}_up") for name, to in _PAIRS.items()},
    **{f"{_LAYER}.attn.{name}": to for name, to in _OWN.items()},
    f"{_LAYER}.attn.g_norm.*": To(f"{_ATTN}.norm"),
    f"{_LAYER}.ffn.x_k": _SHIFT,
    f"{_LAYER}.ffn.key.*": To("layers.{i}.mlp.up"),
    f"{_LAYER}.ffn.value.*": To("layers.{i}.mlp.down"),
}
GGUF_NAMES = {
    **GGUF_RECURRENT_NAMES,
    "token_embd_norm.*": To("embed_norm"),
    "blk.{i}.attn_norm_2.*": To("layers.{i}.mlp_norm"),
    # The converter writes other numbers there, since readers require the tensors.
    **{f"blk.0.time_mix_v{number}.*": IGNORE for number in range(3)},
    f"{_BLOCK}_lerp_fused.weight": To(f"{_ATTN}.shift", None, as_rows),
    **{f"{_BLOCK}_{name}.*": To(f"{_ATTN}.{to}") for name, to in _MATRICES.items()},
    **{f"{_BLOCK}_{name}0.weight": To(f"{_ATTN}.{to}_up", parameter="bias") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}1.*": To(f"{_ATTN}.{to}_down") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}2.*": To(f"{_ATTN}.{to}_up") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}.weight": to for name, to in _OWN.items()},
    f"{_BLOCK}_ln.*": To(f"{_ATTN}.norm"),
    "blk.{i}.channel_mix_lerp_k.weight": _SHIFT,
    "blk.{i}.channel_mix_key.*": To("layers.{i}.mlp.up"),
    "blk.{i}.channel_mix_value.*": To("layers.{i}.mlp.down"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        "hidden_size": file.integer("embedding_length"),
        "num_hidden_layers": file.num_layers("block_count"),
        "intermediate_size": file.integer("feed_forward_length"),
        "norm_eps": file.number("attention.layer_norm_epsilon"),
        "heads_norm_eps": 64e-5,  # of all files, in llama.cpp
        "norm_first": "token_embd_norm.weight" in file.tensors,
        "norm_bias": "output_norm.bias" in file.tensors,
        "head_dim": file.integer("wkv.head_size"),
        "decay_low_rank_dim": file.integer("attention.decay_lora_rank"),
        "a_low_rank_dim": file.integer("attention.iclr_lora_rank"),
        "v_low_rank_dim": file.integer("attention.value_residual_mix_lora_rank"),
        "gate_low_rank_dim": file.integer("attention.gate_lora_rank"),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
