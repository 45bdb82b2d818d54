"""Memory that a model needs, from the headers of its files."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from engine.command_io.weighing import USUAL_CONTEXT, Weighed
from engine.config import DType, EngineConfig, Quantization
from engine.draft_model.load import draft_block_bytes
from engine.runner.kv_budget import STATES_PER_SEQUENCE, CacheDemand
from engine.runner.kv_groups import kv_groups
from engine.speculation.settings import speculation_settings
from engine.startup.adapter_memory import adapter_memory
from engine.startup.device import planned_device
from engine.startup.load import USE_TRANSFORMERS, load_options
from engine.startup.task import opened_capabilities
from models.architecture.kv_layout import KV_DTYPES, KVLayout
from models.attention.reference import ReferenceAttention
from models.checkpoints.base import Checkpoint
from models.compute import ComputeConfig
from models.config.overrides import parse_overrides
from models.decoder import Decoder
from models.kernels.ops import Operations, select_operations
from models.kv.cache import CacheLayout
from models.loading.load import build_skeleton
from models.loading.open import OpenedModel, open_with_either
from models.sources.resolve import ModelFiles
from models.system.memory import free_memory_bytes, is_host
from models.training.trainable_layers import layer_kinds, trainable_layers

if TYPE_CHECKING:
    from models.transformers_backend.open import OpenedTransformersModel

_POOLED_TOKENS = 16384  # a large batch of texts to pool
_LEAST_CONTEXT = 2048  # tokens, without --max-model-len


def weigh_files(files: ModelFiles, draft_files: ModelFiles | None, config: EngineConfig) -> Weighed:
    """Estimate the memory that a model needs. Raises a ModelError if it cannot be served."""
    return weigh_opened(open_as_served(files, config), files, draft_files, config)


def open_as_served(files: ModelFiles, config: EngineConfig) -> "OpenedModel | OpenedTransformersModel":
    """Open a model with the options that it would be served with. Raises a ModelError."""
    overrides = parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    return open_with_either(
        files,
        overrides,
        use_transformers=USE_TRANSFORMERS[config.model_impl],
        dummy_seed=config.dummy_weights_seed,
    )


def weigh_opened(
    opened: "OpenedModel | OpenedTransformersModel",
    files: ModelFiles,
    draft_files: ModelFiles | None,
    config: EngineConfig,
) -> Weighed:
    """Estimate the memory that an opened model needs. Raises a ModelError if it cannot be served."""
    weights = stored_weight_bytes(opened, files, config)
    layout = _cache_layout(opened, config)
    groups = kv_groups(layout, config.block_size)
    block_bytes, per_token = layout.block_bytes(config.block_size), layout.unshared_block_bytes(1)
    if draft_files is not None:  # a draft model computes in the same dtype, and caches the same tokens
        draft = open_with_either(draft_files, {})
        quantization = speculation_settings(config).draft_quantization
        weights += stored_weight_bytes(draft, draft_files, replace(config, quantization=quantization), is_draft=True)
        draft_layout = _cache_layout(draft, config)
        block_bytes += draft_block_bytes(draft_layout, groups)
        per_token += draft_layout.unshared_block_bytes(1)
    demand = CacheDemand(groups, block_bytes, layout.state_bytes)
    longest = min(config.max_model_len or opened.max_position, opened.max_position)
    capabilities = opened_capabilities(opened, files, config.task)
    is_pooling = "completion" not in capabilities
    if is_pooling:
        # Pooling has no cache: a batch of texts needs the keys and values of one layer at a time.
        per_token = max((each.position_bytes for each in layout.layers if isinstance(each, KVLayout)), default=0)
        least_kv = most_kv = per_token * max(longest, _POOLED_TOKENS)
        usual_kv = least_kv
    else:
        least = longest if config.max_model_len is not None else min(longest, _LEAST_CONTEXT)
        least_kv = demand.sequence_bytes(least)
        usual_kv = demand.sequence_bytes(min(USUAL_CONTEXT, longest))
        most_kv = demand.sequence_bytes(longest, STATES_PER_SEQUENCE) * config.max_num_seqs
    device = planned_device(config.device)
    return Weighed(
        device=str(device),
        weight_bytes=weights,
        least_kv_bytes=least_kv,
        most_kv_bytes=most_kv,
        token_kv_bytes=per_token,
        usual_kv_bytes=usual_kv,
        state_bytes=layout.state_bytes,
        longest=longest,
        has_kv_cache=not is_pooling,
        free_bytes=free_memory_bytes(device),
        host_free_bytes=0 if is_host(device) else free_memory_bytes(torch.device("cpu")),
        capabilities=capabilities,
        **_adapter_fields(opened, config, device, is_pooling=is_pooling),
    )


def _adapter_fields(
    opened: "OpenedModel | OpenedTransformersModel", config: EngineConfig, device: torch.device, *, is_pooling: bool
) -> dict[str, Any]:
    """Return Weighed's fields about adapters. Models in transformers' code cannot train them."""
    if not config.enable_lora or is_pooling:
        return {}
    dtype = _dtype(config)
    if not isinstance(opened, OpenedModel):
        from models.loading.foreign import unallocated_layers  # imports transformers' models

        return {"adapter_bytes": adapter_memory(config, unallocated_layers(opened), dtype, device).device_bytes}
    decoder = Decoder(opened.spec, compute_by_torch(config))
    layers = trainable_layers(decoder, opened.family.names)
    return {
        "adapter_bytes": adapter_memory(config, decoder.adapted_layers(), dtype, device).device_bytes,
        "trainable_layers": layer_kinds(layers),
    }


def _cache_layout(opened: "OpenedModel | OpenedTransformersModel", config: EngineConfig) -> CacheLayout:
    """Return the layout of a model's cache, whose bytes are the same for every attention back end."""
    return compute_by_torch(config).cache_layout(opened.mixers)


def compute_by_torch(config: EngineConfig) -> ComputeConfig:
    """Return what a model computes with where no kernels are: sizes and names of its layers are the same."""
    dtype = _dtype(config)
    kv_dtype = KV_DTYPES.get(config.kv_cache_dtype.value, dtype)
    return ComputeConfig(ReferenceAttention(), Operations(), dtype, kv_dtype, torch.device("cpu"))


def _dtype(config: EngineConfig) -> torch.dtype:
    return torch.float32 if config.dtype is DType.FLOAT32 else torch.bfloat16


def planned_compute(config: EngineConfig, device: torch.device) -> ComputeConfig:
    """Return what a model will compute with on `device`, as far as it decides how weights are stored.

    On a CPU, the kernels need not be compiled yet. A CUDA device need not be there.
    """
    compute = compute_by_torch(config)
    if is_host(device):
        is_bf16 = compute.dtype == torch.bfloat16
        operations = Operations(None if is_bf16 else "the native kernels pack all formats in bfloat16 alone")
        operations.packs_fp32 = not is_bf16
    else:
        operations = select_operations(compute.dtype, device)
    return replace(compute, ops=operations, device=device)


def stored_weight_bytes(
    opened: "OpenedModel | OpenedTransformersModel", files: ModelFiles, config: EngineConfig, *, is_draft: bool = False
) -> int:
    """Return the bytes of the loaded weights, from the headers alone: for a family of headrace's own as the loader
    stores them, without the padding of small matrices; an estimate on the high side for transformers' code.

    is_draft: the weights are a draft model's. Raises a ModelError if the model cannot be served.
    """
    if not isinstance(opened, OpenedModel):
        return _stored_bytes(files, opened.read_headers(), config)
    return planned_decoder(opened, config, is_draft=is_draft).weight_bytes()


def planned_decoder(opened: OpenedModel, config: EngineConfig, *, is_draft: bool = False) -> Decoder:
    """Return a decoder on the meta device with weights as the loader would store them, without the padding of small
    matrices. is_draft: as in `stored_weight_bytes`. Raises a ModelError if the model cannot be served."""
    options = load_options(config, config.device).weights
    if is_draft:  # its head and embeddings are quantized too
        options = replace(options, includes_head=True)
    decoder, _, plan = build_skeleton(opened, planned_compute(config, planned_device(config.device)), options)
    for layer, num_bytes in plan.packed.items():
        layer.register_buffer("packed_planned", torch.empty(num_bytes, dtype=torch.uint8, device="meta"))
    return decoder


def _stored_bytes(files: ModelFiles, checkpoint: Checkpoint, config: EngineConfig) -> int:
    """Estimate the bytes of the loaded weights, erring on the high side: weights quantized during loading count at
    their stored size."""
    stored = sum(path.stat().st_size for path in files.weight_files)
    num_elements = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    if config.quantization is Quantization.NONE or config.dtype is DType.FLOAT32:
        return max(stored, num_elements * _dtype(config).itemsize)
    return stored
