"""Qwen3.5 and 3.6 (text): Qwen3-Next with separate matrices of the delta rule, dense (FAMILY) or with experts (MOE)."""

from typing import Any

from models.checkpoints.gguf.metadata import GGUFMetadata
from models.families import qwen3_next
from models.families.experts import GGUF_EXPERT_NAMES
from models.families.name_map import To
from models.families.qwen_moe import EXPERT_NAMES
from models.families.registry import Family

NAMES = {
    **qwen3_next.NAMES,
    **{
        f"model.layers.{{i}}.linear_attn.in_proj_{part}.*": To("layers.{i}.attn.in_proj", part)
        for part in ("qkv", "z", "b", "a")
    },
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**qwen3_next.gguf_fields(file), "linear_tiles_key_heads": True}


def gguf_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**qwen3_next.gguf_moe_fields(file), "linear_tiles_key_heads": True}


FAMILY = Family(qwen3_next.describe, NAMES, qwen3_next.GGUF_NAMES, gguf_fields)
MOE = Family(
    qwen3_next.describe_moe,
    {**NAMES, **EXPERT_NAMES},
    {**qwen3_next.GGUF_NAMES, **GGUF_EXPERT_NAMES},
    gguf_moe_fields,
)
