"""Command A+ and North Mini (Cohere 2 with experts): the first layers may be dense, with positions and all keys."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import GateScales, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows, sparse_layers
from models.errors import UnsupportedModelError
from models.families import cohere, llama
from models.families.experts import (
    GGUF_EXPERT_NAMES,
    expert_names,
    gguf_expert_fields,
    gguf_mlp_types,
    gguf_scoring,
    shared_names,
)
from models.families.name_map import IGNORE, To
from models.families.registry import Family

_MIX = "shared_expert_combination_strategy"
_DEFAULTS = llama.Defaults(head_dim=128, rope_theta=10000.0, activation="silu", has_tied_head=True)


def describe(config: HFConfig) -> DecoderSpec:
    spec = cohere.describe_cohere(config, _DEFAULTS)
    is_sparse = sparse_layers(config, len(spec.layers), 0)
    num_dense = config.integer("first_k_dense_replace", 0, minimum=0)
    dense_pattern = config.integer("prefix_dense_sliding_window_pattern", 1)
    pattern = config.integer("sliding_window_pattern", 4)

    def is_windowed(index: int) -> bool:
        place, every = (index, dense_pattern) if index < num_dense else (index - num_dense, pattern)
        return (place + 1) % every != 0

    windows = sliding_windows(config, len(spec.layers), is_windowed=is_windowed, default=4096)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps")) if config.has("rms_norm_eps") else spec.layers[0].norm
    moe = _experts(config) if any(is_sparse) else None

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        is_dense, size = not is_sparse[index], layer.dense_mlp.intermediate_size
        mlp = layer.dense_mlp.with_size(config.integer("prefix_dense_intermediate_size", size))
        has_positions = windows[index] is not None or (is_dense and dense_pattern == 1)
        return dataclasses.replace(
            layer.with_window(windows[index]),
            rope=layer.rope if has_positions else None,
            norm=norm,
            mlp=mlp if is_dense else moe,
        )

    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm)


def _experts(config: HFConfig) -> MoESpec:
    size, activation = config.integer("intermediate_size"), config.activation("hidden_act", "silu")
    num_shared = config.integer("num_shared_experts", 0, minimum=0)
    score, mix = config.text("expert_selection_fn", "softmax"), config.text(_MIX, "average")
    if score not in ("softmax", "sigmoid") or mix not in ("average", "sum"):
        raise UnsupportedModelError(
            f"{config.source}: expert_selection_fn {score!r} with {_MIX} {mix!r} is not supported; supported are "
            "'softmax' and 'sigmoid' with 'average' and 'sum'"
        )
    share = 0.5 if num_shared and mix == "average" else 1.0
    scales = None if share == 1.0 else GateScales(gate=1.0, out=share)
    is_softmax = score == "softmax"
    return MoESpec(
        num_experts=config.integer("num_experts", 8),
        expert=MLPSpec(size, activation, is_gated=True),
        router=RouterSpec(
            score=RouterScore.SOFTMAX if is_softmax else RouterScore.SIGMOID,
            experts_per_token=config.integer("num_experts_per_tok", 2),
            renormalizes=is_softmax or config.boolean("norm_topk_prob", True),
            scale=share,
        ),
        shared=MLPSpec(num_shared * size, activation, is_gated=True, scales=scales) if num_shared else None,
    )


NAMES = {
    "model.layers.{x}.**": IGNORE,  # multi-token prediction
    **cohere.NAMES,
    "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"),
    **expert_names("mlp"),
    **shared_names("mlp", name="shared_experts"),
}

GGUF_NAMES = {"blk.{x}.**": IGNORE, **cohere.GGUF_NAMES, **GGUF_EXPERT_NAMES}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**cohere.gguf_cohere(file), **window_fields(file)}
    has_rms = file.raw("attention.layer_norm_rms_epsilon") is not None
    experts = gguf_expert_fields(file, size="intermediate_size")
    num_shared = file.size("expert_shared_count") or 0
    shared_size = file.size("expert_shared_feed_forward_length")
    return {
        **fields,
        **experts,
        "rms_norm_eps": fields["rms_norm_eps"] if has_rms else None,
        "prefix_dense_intermediate_size": fields["intermediate_size"],
        "first_k_dense_replace": file.integer("leading_dense_block_count", 0, minimum=0),
        "mlp_layer_types": gguf_mlp_types(file),
        "num_shared_experts": shared_size // experts["intermediate_size"] if shared_size else num_shared,
        "expert_selection_fn": gguf_scoring(file, default="sigmoid"),
        "norm_topk_prob": file.boolean("expert_weights_norm", False),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
