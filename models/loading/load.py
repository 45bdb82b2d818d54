"""load_model: loads a LoadedModel from a checkpoint's files, with start-up notes about its weights and attention."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from models.architecture.kv_layout import KV_DTYPES
from models.attention.base import AttentionBackend
from models.attention.select import select_backend
from models.checkpoints.dummy import DummyCheckpoint
from models.compute import ComputeConfig
from models.config.generation import generation_defaults, sampling_note
from models.decoder import Decoder
from models.errors import ModelError, SettingError
from models.kernels.ops import select_operations
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel, LoadedWeights
from models.loading.assign import Assignment, assign, load_weights
from models.loading.dummy import assign_dummies
from models.loading.methods import StoragePlan, choose_methods
from models.loading.open import OpenedModel, open_with_either
from models.loading.weights_note import format_of, weights_note
from models.pooling.traits import PoolingTraits, pooling_traits
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.system.memory import is_host, not_enough_memory, obtainable_memory_bytes, require_memory
from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.bytes import byte_tokenizer
from models.weight_cache.cache import WeightCache
from models.weight_cache.entry import CachedWeights, cached_weights, files_state

if TYPE_CHECKING:
    from models.transformers_backend.decoder import TransformersDecoder
    from models.transformers_backend.open import OpenedTransformersModel

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of loading a model.

    dtype: a dtype's name in torch, or "auto": the checkpoint's 16-bit dtype if the device supports it, else bf16.
    kv_dtype: a key of KV_DTYPES, or "auto": that of the activations.
    generation_config: source of sampling defaults: "auto" (the checkpoint), "vllm" (none) or a folder. overrides:
    values that replace fields of the configuration. use_transformers: whether transformers' code computes the model;
    None: only if headrace has no family for the architecture. weight_cache: the cache of packed weights; None: none.
    """

    dtype: str = "auto"
    kv_dtype: str = "auto"
    device: str = "cpu"
    generation_config: str = "auto"
    weights: WeightOptions = WeightOptions()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    use_transformers: bool | None = None
    weight_cache: WeightCache | None = None
    dummy_seed: int | None = None


def load_model(
    files: ModelFiles,
    options: LoadOptions,
    progress: ProgressReport,
    on_tokenizer: Callable[[TokenizerAssets], None] = lambda _: None,
    check_options: Callable[[PoolingTraits | None, int], object] = lambda _traits, _max_position: None,
) -> LoadedModel:
    """Load the model in `files`. All names and shapes are checked before anything large is allocated.

    progress is called with ("compile kernels", done, all, "files") if kernels are missing, ("read tokenizer", 0, 0,
    ""), then ("load weights", bytes done, bytes in all, "B") and, if they are saved in the cache, "cache packed
    weights"; or with "map weights" if they are cached. Before the weights are read, on_tokenizer gets the tokenizer,
    and check_options how the model pools texts (None if transformers' code runs it) and its longest context.
    Raises a ModelError, which names the file, tensor or field.
    """
    # Taken before anything is read, since weights are cached only if the files are still the same after loading.
    state = None if options.weight_cache is None else files_state(files)
    opened = open_with_either(
        files, options.overrides, use_transformers=options.use_transformers, dummy_seed=options.dummy_seed
    )
    compute, refusals = compute_config(opened, options, progress)
    progress("read tokenizer", 0, 0, "")
    tokenizer, tokenizer_note = _tokenizer(files, opened)
    traits = traits_of(opened, files)
    check_options(traits, opened.max_position)
    opened.overridden.refuse_unread(opened.config.architecture())
    on_tokenizer(tokenizer)
    defaults = generation_defaults(options.generation_config, files.root, opened.gguf_metadata)
    cached = None if options.dummy_seed is not None else cache_entry(files, state, compute, options)
    decoder: Decoder | TransformersDecoder
    if isinstance(opened, OpenedModel):
        decoder, weights = build_decoder(opened, compute, options.weights, progress, cached)
    else:
        from models.loading.foreign import build_foreign_decoder  # imports transformers' models

        decoder, weights = build_foreign_decoder(opened, compute, options.weights, progress)
    own = [attention_note(compute.backend, refusals), compute.ops.note, sampling_note(defaults), tokenizer_note]
    notes = [opened.note, weights.note, *own]
    return LoadedModel(
        decoder=decoder,
        architecture=opened.config.architecture(),
        family=opened.family if isinstance(opened, OpenedModel) else None,
        compute=compute,
        vocab_size=opened.vocab_size,
        max_position=opened.max_position,
        weight_bytes=decoder.weight_bytes(),
        weight_formats=dict(weights.formats.most_common()),
        mapped_bytes=weights.mapped_bytes,
        tokenizer=tokenizer,
        generation_defaults=defaults,
        notes=list(filter(None, notes)),
        pooling=traits,
        adapter_targets=None if isinstance(decoder, Decoder) else decoder.adapter_targets,
    )


def _tokenizer(files: ModelFiles, opened: "OpenedModel | OpenedTransformersModel") -> tuple[TokenizerAssets, str]:
    """Return the model's tokenizer, and a start-up note: with random weights it may be missing."""
    if isinstance(opened, OpenedModel) and opened.is_dummy and not files.tokenizer_files:
        assets = byte_tokenizer(opened.vocab_size, opened.config)
        return assets, f"Tokenizer: none in {files.root}; each byte of a text is a token (--load-format dummy)"
    from models.tokenizer.load import load_tokenizer_assets  # may import transformers, which takes seconds

    return load_tokenizer_assets(files, opened.config, opened.gguf_metadata), ""


def compute_config(
    opened: "OpenedModel | OpenedTransformersModel", options: LoadOptions, progress: ProgressReport
) -> tuple[ComputeConfig, list[str]]:
    """Choose dtype, kernels (compiled if missing) and attention back end.

    Also returns a line "name: reason" for each preferred back end that cannot be used. Raises a ModelError if none can.
    """
    device = torch.device(options.device)
    dtype = resolve_dtype(options.dtype, opened.stored_dtype, device)
    ops = select_operations(dtype, device, progress)
    kv_dtype = KV_DTYPES.get(options.kv_dtype, dtype)
    if options.kv_dtype != "auto" and not opened.attention_specs:
        raise SettingError(
            f"--kv-cache-dtype is {options.kv_dtype}, but {opened.config.architecture()} has no attention, and so no "
            "keys and values; leave it out"
        )
    backend, refusals = select_backend(opened.attention_specs, dtype, kv_dtype, device)
    return ComputeConfig(backend, ops, dtype, kv_dtype, device), refusals


def traits_of(opened: "OpenedModel | OpenedTransformersModel", files: ModelFiles) -> PoolingTraits | None:
    """Return how a model pools texts; None if transformers' code runs it."""
    if not isinstance(opened, OpenedModel):
        return None
    return pooling_traits(opened.spec, opened.config, files.root, opened.gguf_metadata)


def attention_note(backend: AttentionBackend, refusals: list[str]) -> str:
    """Return the start-up note about the attention back end. refusals: why preferred back ends are not used."""
    refused = f" (not {'; '.join(refusals)})" if refusals else ""
    return f"Attention: {backend.name}{refused}"


def resolve_dtype(name: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; for "auto" the checkpoint's 16-bit dtype if the device supports it, else bf16.

    On a CPU, kernels compute in bf16 but not in fp16.
    """
    if name != "auto":
        return _DTYPES[name]
    is_suitable = stored == torch.bfloat16 or (stored == torch.float16 and not is_host(device))
    return stored if is_suitable else torch.bfloat16


def cache_entry(
    files: ModelFiles, state: str | None, compute: ComputeConfig, options: LoadOptions
) -> CachedWeights | None:
    """Return the model's entry in the weight cache, or None if its weights cannot be cached.

    state: the result of `files_state` before the files were opened; None if a file was missing.
    """
    if options.weight_cache is None or state is None or compute.ops.packing_refusal is not None:
        return None
    return cached_weights(options.weight_cache, files, state, options.weights, options.overrides)


def build_decoder(
    opened: OpenedModel,
    compute: ComputeConfig,
    weights: WeightOptions,
    progress: ProgressReport,
    cached: CachedWeights | None = None,
) -> tuple[Decoder, LoadedWeights]:
    """Build a decoder and load its weights, from the weight cache entry `cached` if possible.

    Raises CheckpointError, or ModelError if memory runs out.
    """
    decoder, assignments, storage_plan = build_skeleton(opened, compute, weights)
    needed_bytes = decoder.weight_bytes() + storage_plan.packed_bytes
    require_memory(needed_bytes, compute.device)
    try:
        decoder.allocate(compute.device)
        mapped_bytes = 0 if cached is None else cached.restore(decoder, progress)
        if not mapped_bytes:
            load_weights(decoder, assignments, progress)
    except torch.OutOfMemoryError:
        raise not_enough_memory(needed_bytes, obtainable_memory_bytes(compute.device), compute.device) from None
    except MemoryError as error:
        raise ModelError(
            f"the weights need {needed_bytes / 2**30:.2f} GiB, but {error}; raise the limit of this process "
            "(ulimit -v), or choose a smaller model or fewer bits (--quantization int4)"
        ) from None
    formats = Counter(format_of(decoder, assignment) for assignment in assignments)
    note = weights_note(decoder.weight_bytes(), formats, storage_plan)
    if isinstance(opened.checkpoint, DummyCheckpoint):
        note += f"; {opened.checkpoint.description}"
    if cached is not None and not mapped_bytes:
        cached.save(decoder, progress)
    elif cached is not None:
        note += f"; mapped from {cached.cache.folder}, where an earlier start saved them"
    return decoder.eval(), LoadedWeights(formats, note, mapped_bytes)


def build_skeleton(
    opened: OpenedModel, compute: ComputeConfig, weights: WeightOptions
) -> tuple[Decoder, list[Assignment], StoragePlan]:
    """Build a decoder on the meta device, assign the checkpoint's tensors to it, and plan how they are stored."""
    decoder, assignments = assigned_decoder(opened, compute)
    return decoder, assignments, choose_methods(decoder, assignments, compute, weights)


def assigned_decoder(opened: OpenedModel, compute: ComputeConfig) -> tuple[Decoder, list[Assignment]]:
    """Build a decoder on the meta device and assign the checkpoint's tensors to it.

    Reads no weights. Raises MisfitError if tensors' names or shapes do not fit the configuration.
    """
    decoder = Decoder(opened.spec, compute)
    if isinstance(opened.checkpoint, DummyCheckpoint):
        return decoder, assign_dummies(decoder, opened.checkpoint, compute.device, opened.config.source)
    return decoder, assign(decoder, opened.checkpoint, opened.names)
