"""dots.llm1: Qwen3's attention and DeepSeek V3's experts."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama, qwen3, routed_experts
from models.families.experts import require_sigmoid
from models.families.registry import Family

_DEFAULTS = {
    **routed_experts.UNGROUPED_DEFAULTS,
    "num_experts_per_tok": None,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "n_shared_experts": 0,
}


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    first = config.integer("max_window_layers", 62, minimum=0)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: index >= first, default=4096)
    spec = spec.map_layers(
        lambda index, layer: dataclasses.replace(layer.with_window(windows[index]), qk_norm=QKNormSpec(layer.norm))
    )
    # The checkpoints' own values mean this.
    return routed_experts.with_experts(config.with_fields(routed_experts.SIGMOID), spec, _DEFAULTS)


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    return {**common_fields(file), **routed_experts.gguf_fields(file), "sliding_window": None}


FAMILY = Family(
    describe,
    {**qwen3.NAMES, **routed_experts.NAMES},
    {**qwen3.GGUF_NAMES, **routed_experts.GGUF_NAMES},
    gguf_fields,
)
