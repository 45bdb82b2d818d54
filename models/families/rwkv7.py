"""RWKV-7: the generalized delta rule in every layer, and a token shift before each MLP; no attention."""

from typing import Any

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GeneralizedDeltaSpec, TokenShiftSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import as_row, flat

_MAX_POSITION = 1 << 20  # states do not grow, and configurations state a length of training


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, eps = config.integer("hidden_size"), config.number("norm_eps", 1e-5)
    norm = NormSpec(NormKind.LAYER, eps, has_bias=config.boolean("norm_bias", True))
    _refuse_variants(config, hidden_size)
    num_heads, head_dim = _head_sizes(config, hidden_size)
    size = 32 * -(-config.integer("hidden_ratio", 4) * hidden_size // 32)
    mlp = MLPSpec(config.integer("intermediate_size", size), Activation.RELU_SQUARED, is_gated=False)
    heads_eps = config.number("heads_norm_eps", head_dim * eps)

    def layer(index: int) -> LayerSpec:
        delta = GeneralizedDeltaSpec(
            num_heads=num_heads,
            head_dim=head_dim,
            decay_rank=config.integer("decay_low_rank_dim"),
            rate_rank=config.integer("a_low_rank_dim"),
            gate_rank=config.integer("gate_low_rank_dim"),
            value_rank=config.integer("v_low_rank_dim") if index else None,
            norm=NormSpec(NormKind.LAYER, heads_eps, has_bias=True),
        )
        return LayerSpec(delta, mlp, norm, mlp_shift=TokenShiftSpec(hidden_size))

    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=_MAX_POSITION,
        layers=tuple(map(layer, range(config.num_layers("num_hidden_layers")))),
        final_norm=norm,
        has_tied_head=config.boolean("tie_word_embeddings", False),
        embedding_norm=norm if config.boolean("norm_first", True) else None,
    )


def _refuse_variants(config: HFConfig, hidden_size: int) -> None:
    if config.has("attn"):
        raise UnsupportedModelError(f"{config.source}: attn (attention in some layers) is not supported")
    if (activation := config.text("hidden_act", "sqrelu")) not in ("sqrelu", "relu2"):
        raise UnsupportedModelError(
            f"{config.source}: hidden_act is {activation!r}; supported are 'sqrelu' and 'relu2', which are the same"
        )
    value_dim = config.raw("value_dim")
    if any(size not in (None, hidden_size) for size in (value_dim if isinstance(value_dim, list) else [value_dim])):
        raise UnsupportedModelError(
            f"{config.source}: value_dim is {quote_value(value_dim)}; supported is hidden_size, {hidden_size}"
        )


def _head_sizes(config: HFConfig, hidden_size: int) -> tuple[int, int]:
    """Return the number of heads and their size, of which the configuration states one."""
    by_heads = config.is_null("head_dim") and config.has("num_heads")
    name, default = ("num_heads", None) if by_heads else ("head_dim", 64)
    given = config.integer(name, default)
    if hidden_size % given:
        raise CheckpointError(
            f"{config.source}: {name} {given} does not divide hidden_size {hidden_size}; {config.remedy}"
        )
    return (given, hidden_size // given) if by_heads else (hidden_size // given, given)


def mixtures(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return the numbers of all mixtures as rows. GGUF files have dimensions of size 1 between."""
    return tensor.reshape(-1, tensor.shape[-1])


_LAYER, _ATTN = "model.layers.{i}", "layers.{i}.attn"
_SHIFT = To("layers.{i}.mlp_shift.mix", None, as_row, "weight")
_PAIRS = {"w": "w", "a": "a", "v": "f", "g": "g"}  # of matrices with a small size between them
_OWN = ("k_k", "k_a", "r_k")
NAMES: dict[str, To | tuple[To, ...] | None] = {
    "model.embeddings.*": To("embed"),
    "model.layers.0.pre_norm.*": To("embed_norm"),
    "model.layers.0.attn.v_lora.**": IGNORE,  # some checkpoints have it, and nothing reads it
    "model.norm.*": To("norm"),
    "lm_head.*": To("head"),
    f"{_LAYER}.attn_norm.*": To("layers.{i}.attn_norm"),
    f"{_LAYER}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    f"{_LAYER}.attn.x_x": To(f"{_ATTN}.shift", None, mixtures, "weight"),  # of the first checkpoints
    **{f"{_LAYER}.attn.x_{name}": To(f"{_ATTN}.shift", name, as_row, "weight") for name in "wkvag"},
    f"{_LAYER}.attn.x_r": To(f"{_ATTN}.shift", "q", as_row, "weight"),
    f"{_LAYER}.attn.r_proj.*": To(f"{_ATTN}.q"),
    f"{_LAYER}.attn.k_proj.*": To(f"{_ATTN}.k"),
    f"{_LAYER}.attn.v_proj.*": To(f"{_ATTN}.v"),
    f"{_LAYER}.attn.o_proj.*": To(f"{_ATTN}.out"),
    **{f"{_LAYER}.attn.{name}_lora.lora.0.*": To(f"{_ATTN}.{to}_down") for name, to in _PAIRS.items()},
    **{f"{_LAYER}.attn.{name}_lora.lora.2.*": To(f"{_ATTN}.{to}_up") for name, to in _PAIRS.items()},
    **{f"{_LAYER}.attn.{name}": To(_ATTN, None, flat, name) for name in _OWN},
    f"{_LAYER}.attn.g_norm.*": To(f"{_ATTN}.norm"),
    f"{_LAYER}.ffn.x_k": _SHIFT,
    f"{_LAYER}.ffn.key.*": To("layers.{i}.mlp.up"),
    f"{_LAYER}.ffn.value.*": To("layers.{i}.mlp.down"),
}

_BLOCK = "blk.{i}.time_mix"
GGUF_NAMES: dict[str, To | tuple[To, ...] | None] = {
    "token_embd.*": To("embed"),
    "token_embd_norm.*": To("embed_norm"),
    "output_norm.*": To("norm"),
    "output.*": To("head"),
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm"),
    "blk.{i}.attn_norm_2.*": To("layers.{i}.mlp_norm"),
    # The converter writes other numbers there, since readers require the tensors.
    **{f"blk.0.time_mix_v{number}.*": IGNORE for number in range(3)},
    f"{_BLOCK}_lerp_fused.weight": To(f"{_ATTN}.shift", None, mixtures),
    f"{_BLOCK}_receptance.*": To(f"{_ATTN}.q"),
    f"{_BLOCK}_key.*": To(f"{_ATTN}.k"),
    f"{_BLOCK}_value.*": To(f"{_ATTN}.v"),
    f"{_BLOCK}_output.*": To(f"{_ATTN}.out"),
    **{f"{_BLOCK}_{name}0.weight": To(f"{_ATTN}.{to}_up", parameter="bias") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}1.*": To(f"{_ATTN}.{to}_down") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}2.*": To(f"{_ATTN}.{to}_up") for name, to in _PAIRS.items()},
    **{f"{_BLOCK}_{name}.weight": To(_ATTN, None, flat, name) for name in _OWN},
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
