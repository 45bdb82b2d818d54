"""A tiny random checkpoint as a LoadedModel, without a tokenizer."""

from pathlib import Path

import torch

from models.attention.base import AttentionBackend
from models.attention.select import select_backend
from models.decoder import Decoder
from models.families.multimodal import language_model_of
from models.families.registry import ARCHITECTURES, Family, family_of
from models.loaded_model import LoadedModel
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import cpu_compute, load_folder


def load_random(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    *,
    tokenizer_json: bytes = b"{}",
    kv_dtype: torch.dtype | None = None,
) -> LoadedModel:
    """What `random_model(...).save_pretrained(folder)` has written. backend: else the one that this machine prefers.
    kv_dtype: `dtype` by default."""
    specs = load_folder(folder).spec.attention_specs
    backend = backend or select_backend(specs, dtype, kv_dtype or dtype, torch.device("cpu"))[0]
    decoder = load_folder(folder, dtype, backend, kv_dtype=kv_dtype)
    return as_loaded(decoder, tokenizer_json=tokenizer_json, backend=backend, kv_dtype=kv_dtype)


def as_loaded(
    decoder: Decoder,
    architecture: str = "LlamaForCausalLM",
    *,
    tokenizer_json: bytes = b"{}",
    backend: AttentionBackend | None = None,
    kv_dtype: torch.dtype | None = None,
) -> LoadedModel:
    """The decoder as loading gives it."""
    return LoadedModel(
        decoder=decoder,
        architecture=architecture,
        compute=cpu_compute(decoder.compute_dtype, backend, kv_dtype=kv_dtype),
        vocab_size=decoder.spec.vocab_size,
        max_position=256,
        weight_bytes=0,
        tokenizer=TokenizerAssets(tokenizer_json, None, {}, None, [2], False),
        generation_defaults={},
        family=_family(architecture),
    )


def _family(architecture: str) -> Family:
    """The family of an architecture; of a multimodal class, that of its usual language model."""
    entry, family = ARCHITECTURES[architecture], family_of(architecture)
    return family if entry.wraps is None else language_model_of(family, entry.body)
