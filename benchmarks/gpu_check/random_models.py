"""Engines of published models' sizes with random weights: no file of theirs fits on a borrowed machine."""

import dataclasses
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.stages import Context
from engine.config import EngineConfig, LoadFormat
from engine.engine import Engine
from engine.protocol import EngineInfo
from engine.startup.build import build_engine

_QWEN3 = {
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "torch_dtype": "bfloat16",
    "eos_token_id": 151_645,
    "num_key_value_heads": 8,
}
_DENSE = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **_QWEN3}
_EXPERTS = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **_QWEN3}

# The fields of each model's config.json that decide sizes.
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        **_DENSE,
        **{"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
        **{"num_attention_heads": 16, "tie_word_embeddings": True},
    },
    "Qwen3-8B": {
        **_DENSE,
        **{"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36},
        **{"num_attention_heads": 32, "tie_word_embeddings": False},
    },
    "Qwen3-30B-A3B": {
        **_EXPERTS,
        **{"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48},
        **{"num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False},
        **{"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1},
    },
}
_TINY = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "max_position_embeddings": 512},
    **{"eos_token_id": 2, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2},
}


def model_folder(context: Context, name: str, **changes: Any) -> Path:
    """Write a model's config.json into a folder of its own, and return the folder. changes: of the fields."""
    fields = {**MODELS[name], **(_TINY if context.is_tiny else {}), **changes}
    folder = context.folder / f"{name}-{len(list(context.folder.iterdir()))}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def engine_config(context: Context, folder: Path, **options: Any) -> EngineConfig:
    """Return the options of an engine with random weights on the stage's device."""
    config = EngineConfig(str(folder), load_format=LoadFormat.DUMMY, device=str(context.device), **options)
    if not context.is_tiny:
        return config
    return dataclasses.replace(config, kv_cache_memory_bytes=4 << 20, threads=1, max_num_seqs=8)


@contextmanager
def random_engine(context: Context, name: str, **options: Any) -> Iterator[tuple[Engine, EngineInfo]]:
    """Build an engine with random weights, and give its memory back afterwards."""
    engine, info = build_engine(engine_config(context, model_folder(context, name), **options), lambda *_: None)
    try:
        yield engine, info
    finally:
        engine.close()
        del engine
        gc.collect()  # modules refer to one another
        if context.device.type == "cuda":
            torch.cuda.empty_cache()
