"""A tiny random checkpoint as a LoadedModel, without a tokenizer."""

from pathlib import Path

import torch

from models.attention.base import AttentionBackend
from models.attention.select import select_backend
from models.loaded_model import LoadedModel
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import load_folder


def load_random(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    *,
    tokenizer_json: bytes = b"{}",
) -> LoadedModel:
    """What `random_model(...).save_pretrained(folder)` has written. backend: else the one that this machine prefers."""
    device = torch.device("cpu")
    backend = backend or select_backend(load_folder(folder).spec.attention_specs, dtype, device)[0]
    decoder = load_folder(folder, dtype, backend)
    return LoadedModel(
        decoder=decoder,
        architecture="LlamaForCausalLM",
        dtype=dtype,
        device=device,
        vocab_size=decoder.spec.vocab_size,
        max_position=256,
        mixers=decoder.mixers,
        layer_groups=decoder.layer_groups,
        attention_backend=backend,
        weight_bytes=0,
        tokenizer=TokenizerAssets(tokenizer_json, None, {}, None, [2], False),
        generation_defaults={},
    )
