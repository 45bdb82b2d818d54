"""Loading of a checkpoint for training: as in the server, but with attention and operations that have gradients."""

import dataclasses
from dataclasses import dataclass

import torch

from models.compute import ComputeConfig
from models.decoder import Decoder
from models.errors import UnsupportedModelError
from models.families.name_map import Rules
from models.loaded_model import LoadedWeights
from models.loading.load import LoadOptions, build_decoder, build_skeleton, cache_entry, compute_config
from models.loading.open import OpenedModel, open_model
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.system.memory import is_host
from models.training.attention import TrainAttention
from models.training.operations import TrainOperations
from models.weight_cache.entry import files_state

# Names by torch. Without AVX-512, its products in bf16 took 36 times as long as in fp32 (2.4 and 87 GFLOP/s on Zen 3).
_FAST_BF16 = ("AVX512",)


@dataclass(frozen=True, slots=True)
class TrainingModel:
    """A decoder with frozen weights, ready for `Lora`, and its family's rules for tensor names in safetensors."""

    decoder: Decoder
    names: Rules
    architecture: str
    weights: LoadedWeights


def load_for_training(files: ModelFiles, options: LoadOptions, progress: ProgressReport) -> TrainingModel:
    """Load a model with the server's options.

    In the server's dtype it has the same weight formats and the same weight cache entry; in fp32 it is not cached. Keys
    and values have the dtype of the activations, whatever the server's KV cache has. The
    dtype "auto" is fp32 on CPUs on which torch multiplies bf16 slowly. Raises a ModelError; UnsupportedModelError
    for a model that transformers' code computes.
    """
    options = _with_fast_dtype(options)
    state = None if options.weight_cache is None else files_state(files)
    opened = open_model(files, options.overrides)
    compute = _compute(opened, options, progress)
    cached = cache_entry(files, state, compute, options)
    decoder, weights = build_decoder(opened, compute, options.weights, progress, cached)
    opened.overridden.refuse_unread(opened.config.architecture())
    architecture = opened.config.architecture()
    return TrainingModel(decoder.requires_grad_(False), opened.family.names, architecture, weights)


@dataclass(frozen=True, slots=True)
class TrainingSkeleton:
    """A decoder on the meta device, its family's rules for tensor names, and the bytes that its weights will take."""

    decoder: Decoder
    names: Rules
    weight_bytes: int


def training_skeleton(files: ModelFiles, options: LoadOptions, progress: ProgressReport) -> TrainingSkeleton:
    """Return the decoder that `load_for_training` loads, without its weights, which are not read. Raises the same
    errors."""
    options = _with_fast_dtype(options)
    opened = open_model(files, options.overrides)
    decoder, _, storage = build_skeleton(opened, _compute(opened, options, progress), options.weights)
    return TrainingSkeleton(decoder, opened.family.names, decoder.weight_bytes() + storage.packed_bytes)


def _with_fast_dtype(options: LoadOptions) -> LoadOptions:
    is_slow = options.dtype == "auto" and torch.backends.cpu.get_cpu_capability() not in _FAST_BF16
    return dataclasses.replace(options, dtype="float32") if is_slow else options


def _compute(opened: OpenedModel, options: LoadOptions, progress: ProgressReport) -> ComputeConfig:
    """Return what training computes with: operations that have gradients. Raises UnsupportedModelError."""
    device = torch.device(options.device)
    if not is_host(device):
        raise UnsupportedModelError(f"training runs on the CPU, not on {device}; choose --device cpu")
    serving, _ = compute_config(opened, dataclasses.replace(options, kv_dtype="auto"), progress)
    backend = TrainAttention(serving.backend)
    compute = dataclasses.replace(serving, backend=backend, ops=TrainOperations(serving.ops))
    for spec in dict.fromkeys(opened.spec.attention_specs):
        if reason := backend.unsupported(spec, compute.dtype, compute.kv_dtype, device):
            architecture = opened.config.architecture()
            raise UnsupportedModelError(f"{architecture} cannot be trained: training {reason}; train another model")
    return compute
