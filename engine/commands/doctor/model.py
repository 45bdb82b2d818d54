"""What a model needs, beside what the machine has: its files, its weights and its KV cache."""

from collections.abc import Iterator

import torch

from engine.config import Device, EngineConfig
from engine.errors import HeadraceError
from engine.jobs.findings import Finding, ok, problem, warning
from engine.runner.kv_budget import format_bytes
from engine.startup.load import USE_TRANSFORMERS
from models.config.overrides import parse_overrides
from models.errors import ModelError
from models.loading.open import open_with_either
from models.sources.resolve import ModelFiles, find_local
from models.system.memory import free_memory_bytes, obtainable_memory_bytes

_CONTEXT = 4096  # tokens of a usual conversation
_ELEMENT_BYTES = 2  # of a key or value, in 16 bits


def model_findings(config: EngineConfig) -> Iterator[Finding]:
    device = torch.device("cuda" if config.device is not Device.CPU and torch.cuda.is_available() else "cpu")
    free, most = free_memory_bytes(device), obtainable_memory_bytes(device)
    yield ok("memory", f"{format_bytes(free)} free on {device}")
    try:
        files = find_local(config.model)
    except ModelError as error:
        yield problem("model", str(error))
        return
    if files is None:
        yield warning("model", f"{config.model} is not on this machine; the first start fetches it")
        return
    try:
        yield from file_findings(files, config, free, most)
    except (ModelError, HeadraceError) as error:
        yield problem("model", str(error))


def file_findings(files: ModelFiles, config: EngineConfig, free: int, most: int) -> Iterator[Finding]:
    """Raises a ModelError if the files are no model that can be served."""
    overrides = parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    opened = open_with_either(files, overrides, use_transformers=USE_TRANSFORMERS[config.model_impl])
    weights = sum(path.stat().st_size for path in files.weight_files)
    per_token = _ELEMENT_BYTES * sum(
        spec.num_kv_heads * (spec.head_dim + (spec.value_dim if spec.values_from is None else 0))
        for spec in opened.attention_specs
    )
    context = min(_CONTEXT, config.max_model_len or opened.max_position)
    kv = config.kv_cache_memory_bytes or per_token * context
    needs = (
        f"{format_bytes(weights)} of weights as stored, and {format_bytes(per_token)} of KV cache a token, "
        f"{format_bytes(per_token * context)} for {context:,}"
    )
    if weights + kv > most:
        yield problem(
            "model",
            f"{needs}; {format_bytes(most)} of memory can be had: choose a smaller model or fewer bits (--quantization "
            "int4), or free memory",
        )
    elif weights + kv > free:
        yield warning("model", f"{needs}; {format_bytes(free)} of memory are free without swapping")
    else:
        yield ok("model", needs)
