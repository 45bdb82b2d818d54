"""Layers with an indexer, and layers that see what an earlier one chose, by configuration and GGUF metadata."""

from pathlib import Path

import pytest
from transformers import GlmMoeDsaConfig

from models.architecture.decoder import DecoderSpec
from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families.deepseek_v32 import GLM, gguf_fields
from tests.models.families.deepseek_v32_variants import INDEXED

KINDS = ["full", "shared", "shared", "full", "shared", "full"]


def kinds_of(spec: DecoderSpec) -> list[str]:
    """The kind of each layer, by what it has."""
    return ["shared" if layer.attention.reuses_choice else "full" for layer in spec.layers]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"index_topk_freq": 3},
        {"index_topk_freq": 4, "index_skip_topk_offset": 0},
        {"index_topk_pattern": "FSSFSF"},
        {"index_topk_pattern": KINDS, "index_topk_freq": 2},
        {"indexer_types": KINDS, "index_topk_pattern": "FFFFFF"},
    ],
)
def test_kinds_of_layers_are_those_of_transformers(settings: dict[str, object]) -> None:
    fields = {**INDEXED, "num_hidden_layers": 6, "hidden_act": "silu", **settings}

    spec = GLM.describe(HFConfig(fields, "config.json"))

    assert kinds_of(spec) == GlmMoeDsaConfig(**fields).indexer_types
    assert all((layer.attention.indexer is None) == layer.attention.reuses_choice for layer in spec.layers)


def test_a_former_name_of_indexed_layers_is_read() -> None:
    fields = {**INDEXED, "hidden_act": "silu", "layer_types": ["deepseek_sparse_attention"] * 3, "num_hidden_layers": 3}

    assert kinds_of(GLM.describe(HFConfig(fields, "config.json"))) == ["full"] * 3


@pytest.mark.parametrize("num_predicting", [0, 1])
@pytest.mark.parametrize("has_types", [True, False])
def test_kinds_of_layers_in_gguf_are_metadata_or_the_layers_with_tensors(has_types: bool, num_predicting: int) -> None:
    flags = [kind == "full" for kind in KINDS] + [True] * num_predicting
    numbers = {
        "block_count": 6 + num_predicting,
        "nextn_predict_layers": num_predicting,
        "context_length": 64,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": 64,
        "attention.value_length": 32,
        "attention.q_lora_rank": 32,
        "attention.kv_lora_rank": 32,
        "attention.indexer.head_count": 2,
        "attention.indexer.key_length": 32,
        "attention.indexer.top_k": 8,
        "rope.dimension_count": 16,
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_feed_forward_length": 48,
    }
    stored = StoredTensor("", (), "F32", 0, Path("model.gguf"), None)
    tensors = (
        {}
        if has_types
        else {f"blk.{layer}.indexer.attn_k.weight": stored for layer in range(len(flags)) if flags[layer]}
    )
    metadata = {**numbers, "attention.indexer.types": flags} if has_types else numbers

    fields = gguf_fields(GGUFMetadata(metadata, "model.gguf", tensors=tensors))

    assert fields["indexer_types"] == KINDS
