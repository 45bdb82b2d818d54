"""load_model: from a checkpoint's files to a LoadedModel."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.attention.base import AttentionBackend, AttentionSpec
from models.attention.select import select_backend
from models.checkpoints.base import Checkpoint
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.checkpoints.quantized.checkpoint import QuantisedCheckpoint
from models.checkpoints.quantized.registry import QuantisedReader, quantisation_config, reader_for
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.generation import generation_defaults
from models.config.hf_config import HFConfig, read_json_config
from models.config.overrides import Overridden, override
from models.decoder import Decoder
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from models.families.gguf_config import gguf_config
from models.families.name_map import Rules
from models.families.registry import FAMILIES, Family, family_of, unsupported
from models.kernels.cpu.library import describe_kernels, load_kernels
from models.linear.dense import DTYPE_NAMES, Unquantized
from models.linear.linear import Linear
from models.loaded_model import HeldWeights, LoadedModel, ProgressReport, TokenizerAssets
from models.loading.assign import Assignment, assign, fill
from models.loading.implementation import ModelImpl
from models.loading.schemes import Choices, WeightOptions, choose_schemes, native_linears_refusal
from models.spec import DecoderSpec, MoESpec
from models.system.memory import obtainable_memory_bytes, require_memory, too_large
from models.weight_cache.entry import KeptModel, files_state, kept_model
from models.weight_cache.store import WeightStore

if TYPE_CHECKING:
    from models.sources.resolve import ModelFiles
    from models.transformers_backend.decoder import TransformersDecoder
    from models.transformers_backend.open import OpenedTransformersModel

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model's files, described by its family; no weights have been read."""

    overridden: Overridden
    checkpoint: Checkpoint
    spec: DecoderSpec
    names: Rules
    note: str  # of the family, for the operator; may be empty

    @property
    def config(self) -> HFConfig:
        return self.overridden.config

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        return self.spec.attention_specs

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size

    @property
    def max_position(self) -> int:
        return self.spec.max_position

    @property
    def stored_dtype(self) -> torch.dtype:
        return self.checkpoint.dtype

    @property
    def gguf_metadata(self) -> Mapping[str, Any] | None:
        return self.checkpoint.metadata if isinstance(self.checkpoint, GGUFCheckpoint) else None

    def build(
        self,
        backend: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
        progress: ProgressReport,
        weights: WeightOptions,
        kept: KeptModel | None = None,
    ) -> tuple[Decoder, HeldWeights]:
        return build_decoder(self.spec, self.checkpoint, self.names, backend, dtype, device, progress, weights, kept)


def load_model(
    files: "ModelFiles",
    *,
    dtype: str,
    device: str,
    generation_config: str,
    weights: WeightOptions | None = None,
    overrides: Mapping[str, Any] | None = None,
    model_impl: ModelImpl = ModelImpl.AUTO,
    weight_store: WeightStore | None = None,
    progress: ProgressReport,
    on_tokenizer: Callable[[TokenizerAssets], None] = lambda _: None,
) -> LoadedModel:
    """Load `files` for `device` ("cpu", "cuda").

    dtype: "auto" or one of torch's names, as in `resolve_dtype`. generation_config: as in `generation_defaults`.
    weights: how they are held, by default as stored. overrides: what `parse_overrides` gives. model_impl: whose code
    computes; AUTO takes transformers' for architectures without a family of headrace's. weight_store: where packed ones
    are looked for, and kept. progress is called with ("compile kernels", 0, 0, "") where that is to be done, ("read
    tokenizer", 0, 0, ""), then ("load weights", bytes done, bytes in all, "B"), and "keep packed weights" where these
    are to be; or "map weights", where they were.
    on_tokenizer gets the tokenizer before the weights are read. Raises a ModelError that names the file, tensor or
    field; nothing large is allocated before all names and shapes are known to fit.
    """
    from models.tokenizer.load import load_tokenizer_assets  # may import transformers, which takes seconds

    state = None if weight_store is None else files_state(files)
    opened = _open_as(files, overrides or {}, model_impl)
    torch_device = torch.device(device)
    torch_dtype = resolve_dtype(dtype, opened.stored_dtype, torch_device)
    if torch_device.type == "cpu":
        load_kernels(on_compile=lambda: progress("compile kernels", 0, 0, ""))
    backend, refusals = select_backend(opened.attention_specs, torch_dtype, torch_device)
    progress("read tokenizer", 0, 0, "")
    tokenizer = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
    opened.overridden.refuse_unread(opened.config.architecture())
    on_tokenizer(tokenizer)
    defaults = generation_defaults(generation_config, files.root)
    options = weights or WeightOptions()
    kept = None
    if weight_store and state and native_linears_refusal(torch_dtype, torch_device) is None:
        kept = kept_model(weight_store, files, state, options, overrides or {})
    decoder, held = _build(opened, backend, torch_dtype, torch_device, progress, options, kept)
    return LoadedModel(
        decoder=decoder,
        architecture=opened.config.architecture(),
        dtype=torch_dtype,
        device=torch_device,
        vocab_size=opened.vocab_size,
        max_position=opened.max_position,
        mixers=decoder.mixers,
        layer_groups=decoder.layer_groups,
        attention_backend=backend,
        weight_bytes=decoder.weight_bytes(),
        weight_formats=dict(held.formats.most_common()),
        mapped_bytes=held.mapped_bytes,
        tokenizer=tokenizer,
        generation_defaults=defaults,
        notes=list(filter(None, [opened.note, held.note, _attention_note(backend, refusals), _kernels(torch_device)])),
    )


def _build(
    opened: "OpenedModel | OpenedTransformersModel",
    backend: AttentionBackend,
    dtype: torch.dtype,
    device: torch.device,
    progress: ProgressReport,
    options: WeightOptions,
    kept: KeptModel | None,
) -> "tuple[Decoder | TransformersDecoder, HeldWeights]":
    if isinstance(opened, OpenedModel):
        return opened.build(backend, dtype, device, progress, options, kept)
    return opened.build(backend, dtype, device, progress, options)  # its weights are torch's: nothing is packed


def resolve_dtype(name: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype called `name`, or for "auto" the checkpoint's own where it has 16 bits and the device is fit for it.

    fp32 becomes bf16 ("at most 16 bits"), and so does fp16 on a CPU, which computes in bf16 but not in fp16.
    """
    if name != "auto":
        return _DTYPES[name]
    is_kept = stored == torch.bfloat16 or (stored == torch.float16 and device.type != "cpu")
    return stored if is_kept else torch.bfloat16


def build_decoder(
    spec: DecoderSpec,
    checkpoint: Checkpoint,
    names: Rules,
    backend: AttentionBackend,
    dtype: torch.dtype,
    device: torch.device,
    progress: ProgressReport,
    weights: WeightOptions | None = None,
    kept: KeptModel | None = None,
) -> tuple[Decoder, HeldWeights]:
    """A decoder on `device` with the checkpoint's weights, and how they are held. kept: where they may be packed.

    Raises CheckpointError, or ModelError if memory runs out.
    """
    decoder, plan, choices = lay_out(spec, checkpoint, names, backend, dtype, device, weights)
    needed = decoder.weight_bytes() + choices.packed_bytes
    require_memory(needed, device)
    try:
        decoder.allocate(device)
        mapped_bytes = 0 if kept is None else kept.restore(decoder, progress)
        if not mapped_bytes:
            fill(decoder, plan, progress)
    except torch.OutOfMemoryError:
        raise too_large(needed, obtainable_memory_bytes(device), device) from None
    except MemoryError as error:
        raise ModelError(
            f"the weights need {needed / 2**30:.2f} GiB, but {error}; raise the limit of this process (ulimit -v), or "
            "choose a smaller model or fewer bits (--quantization int4)"
        ) from None
    formats = Counter(_held_as(decoder, assignment) for assignment in plan)
    note = _weights_note(decoder, formats, choices)
    if kept is not None and not mapped_bytes:
        kept.keep(decoder, progress)
    elif kept is not None:
        note += f"; mapped from {kept.store.folder}, as an earlier start packed them"
    return decoder.eval(), HeldWeights(formats, note, mapped_bytes)


def lay_out(
    spec: DecoderSpec,
    checkpoint: Checkpoint,
    names: Rules,
    backend: AttentionBackend,
    dtype: torch.dtype,
    device: torch.device,
    weights: WeightOptions | None = None,
) -> tuple[Decoder, list[Assignment], Choices]:
    """A decoder without memory, where each of the checkpoint's tensors goes in it, and how they will be held."""
    decoder = Decoder(spec, backend=backend, scheme=Unquantized(dtype), dtype=dtype)
    plan = assign(decoder, checkpoint, names)
    choices = choose_schemes(decoder, plan, dtype, device, weights or WeightOptions())
    return decoder, plan, choices


def open_model(files: "ModelFiles", overrides: Mapping[str, Any] | None = None) -> OpenedModel:
    """Describe the model that `files` hold by its family; overrides: as load_model takes them. Raises a ModelError."""
    overridden, checkpoint = _open(files, overrides or {})
    family = family_of(overridden.config.architecture())
    names = family.gguf_names if files.gguf else family.names
    assert names is not None, "gguf_config() lets only architectures pass that have GGUF names"
    return OpenedModel(overridden, checkpoint, _described(family, overridden.config), names, family.note)


def has_recurrence(files: "ModelFiles") -> bool:
    """Whether some layers keep a recurrent state. Raises a ModelError."""
    opened = _open_as(files, {}, ModelImpl.AUTO)
    return isinstance(opened, OpenedModel) and any(layer.recurrence is not None for layer in opened.spec.layers)


def _open_as(
    files: "ModelFiles", overrides: Mapping[str, Any], model_impl: ModelImpl
) -> "OpenedModel | OpenedTransformersModel":
    if not files.gguf:
        assert files.root is not None
        return _through_transformers(files.root, overrides, model_impl) or open_model(files, overrides)
    if model_impl is ModelImpl.TRANSFORMERS:
        raise ModelError(
            f"{files.origin} is a GGUF file, which only headrace's own families read; leave --model-impl at auto, or "
            "serve the model's safetensors"
        )
    return open_model(files, overrides)


def _through_transformers(
    root: Path, overrides: Mapping[str, Any], model_impl: ModelImpl
) -> "OpenedTransformersModel | None":
    """The model of a folder where transformers' code is to compute it, else None. Raises a ModelError."""
    architecture = read_json_config(root / "config.json").architecture()
    is_asked_for = model_impl is ModelImpl.TRANSFORMERS
    if not is_asked_for and (model_impl is ModelImpl.HEADRACE or architecture in FAMILIES):
        return None
    from models.transformers_backend.open import open_through_transformers  # imports transformers' models

    try:
        return open_through_transformers(root, overrides)
    except UnsupportedModelError as error:
        if is_asked_for:
            raise
        raise unsupported(architecture, f" by a family of headrace's own, and {error}") from error


def _open(files: "ModelFiles", overrides: Mapping[str, Any]) -> tuple[Overridden, Checkpoint]:
    if files.gguf:
        gguf = GGUFCheckpoint(files.gguf)
        return override(gguf_config(gguf), overrides), gguf
    assert files.root is not None
    overridden, reader = _read_folder_config(files.root, overrides)
    checkpoint = SafetensorsCheckpoint(files.root)
    return overridden, checkpoint if reader is None else QuantisedCheckpoint(checkpoint, reader)


def check_folder(root: Path, overrides: Mapping[str, Any], model_impl: ModelImpl = ModelImpl.AUTO) -> None:
    """Raise the ModelError that loading the folder would end with for what its configuration asks for: an unknown
    architecture, a feature or quantisation that is not supported. Needs no weights."""
    if _through_transformers(root, overrides, model_impl) is None:
        config = _read_folder_config(root, overrides)[0].config
        _described(family_of(config.architecture()), config)


def _described(family: Family, config: HFConfig) -> DecoderSpec:
    spec = family.describe(config)
    if not spec.attention_specs:
        raise UnsupportedModelError(
            f"{config.source}: no layer has attention; models of recurrent layers alone are not supported"
        )
    for mlp in {layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoESpec)}:
        if reason := mlp.contradiction():
            raise CheckpointError(f"{config.source}: {reason}; fetch the checkpoint's own configuration again")
    return spec


def _read_folder_config(root: Path, overrides: Mapping[str, Any]) -> tuple[Overridden, QuantisedReader | None]:
    stored = read_json_config(root / "config.json")
    family = family_of(stored.architecture())  # an unknown one is said first
    overridden = override(family.unwrap(stored), overrides)
    section = quantisation_config(overridden.config, root)
    return overridden, None if section is None else reader_for(section)


def _weights_note(decoder: Decoder, formats: Counter[str], choices: Choices) -> str:
    """Such as "Weights: 0.10 GiB: q4_1 210 tensors, q8_0 1, f32 61", with why quantised ones were not kept so."""
    (first, count), *others = formats.most_common()
    counts = ", ".join([f"{first} {count} tensors", *(f"{name} {number}" for name, number in others)])
    note = f"Weights: {decoder.weight_bytes() / 2**30:.2f} GiB: {counts}"
    if choices.made.total():
        note += f"; quantised on load from {_listed(choices.made)}"
    if choices.dequantised:
        note += f"; dequantised from {_listed(choices.dequantised)}: {choices.no_keeping}"
    if choices.widened:
        note += f"; held wider than stored: {_listed(choices.widened)}"
    for reason, number in choices.in_torch.items():
        note += f"; {number} dequantised in every step by torch: {reason}"
    return note


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counter.most_common() if number)


def _held_as(decoder: Decoder, assignment: Assignment) -> str:
    destination = assignment.destination
    module = decoder.get_submodule(destination.module)
    if isinstance(module, Linear) and destination.parameter == "weight":
        return module.scheme.format_of(destination.shard)
    return DTYPE_NAMES[decoder.get_parameter(assignment.parameter).dtype]


def _kernels(device: torch.device) -> str:
    return describe_kernels() if device.type == "cpu" else ""


def _attention_note(backend: AttentionBackend, refusals: list[str]) -> str:
    passed_over = f" (not {'; '.join(refusals)})" if refusals else ""
    return f"Attention: {backend.name}{passed_over}"
