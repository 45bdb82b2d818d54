"""Opening of a model's files: reads the configuration and the list of tensors, but no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.recurrence import StateSpec
from models.checkpoints.base import Checkpoint
from models.checkpoints.dummy import DummyCheckpoint, dummy_checkpoint
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.checkpoints.quantized.checkpoint import QuantizedCheckpoint
from models.checkpoints.quantized.registry import QuantizedReader, find_quantization_config, reader_for
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import HFConfig
from models.config.overrides import OverriddenConfig, override
from models.errors import CheckpointError, ModelError, SettingError, UnsupportedModelError
from models.families.gguf_config import gguf_config
from models.families.multimodal import find_family, language_model_of
from models.families.name_map import Rules
from models.families.refusal import refused
from models.families.registry import ARCHITECTURES, Family
from models.sources.resolve import ModelFiles

if TYPE_CHECKING:
    from models.transformers_backend.open import OpenedTransformersModel

# Names of the numbers of experts and of their groups, in the configurations of all families
_EXPERT_COUNTS = r"^(?!index|.*(shared|size)).*(experts|expert_group|n_group$|topk|top_k|moe_k$)"


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model that is described by its family: specification and checkpoint. No weights are read."""

    overridden: OverriddenConfig
    checkpoint: Checkpoint
    spec: DecoderSpec
    family: Family

    @property
    def config(self) -> HFConfig:
        return self.overridden.config

    @property
    def names(self) -> Rules:
        """The rules for the names of the checkpoint's tensors."""
        names = self.family.gguf_names if isinstance(self.checkpoint, GGUFCheckpoint) else self.family.names
        assert names is not None, "gguf_config() lets only architectures pass that have GGUF names"
        return names

    @property
    def note(self) -> str:
        """The family's start-up note; may be empty."""
        return self.family.note

    @property
    def is_dummy(self) -> bool:
        """Whether the weights are random numbers."""
        return isinstance(self.checkpoint, DummyCheckpoint)

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        return self.spec.attention_specs

    @property
    def mixers(self) -> Sequence[AttentionSpec | StateSpec]:
        return self.spec.mixers

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


def open_model(
    files: ModelFiles, overrides: Mapping[str, Any] | None = None, *, dummy_seed: int | None = None
) -> OpenedModel:
    """Open the model in `files` by its family. overrides: replace fields of the configuration. dummy_seed: seed of
    random weights; None: the weights are in the files.

    Raises a ModelError if files are missing or malformed, or the model is not supported.
    """
    family, overridden, checkpoint = _open_checkpoint(files, overrides or {}, dummy_seed)
    return OpenedModel(overridden, checkpoint, _describe(family, overridden.config), family)


def open_with_either(
    files: ModelFiles,
    overrides: Mapping[str, Any],
    *,
    use_transformers: bool | None = None,
    dummy_seed: int | None = None,
) -> "OpenedModel | OpenedTransformersModel":
    """Open the model in `files` by its family or by transformers' code.

    use_transformers: whether transformers' code computes the model; None: only if there is no family. dummy_seed: as in
    `open_model`. Raises a ModelError if files are missing or malformed, or the model is not supported.
    """
    if not files.gguf:
        foreign = _open_with_transformers(files, overrides, use_transformers)
        if foreign is not None and dummy_seed is not None:
            raise UnsupportedModelError(
                f"{files.config.architecture()} runs in transformers' code, and --load-format dummy draws weights for "
                "headrace's own families only; leave --load-format out"
            )
        return foreign or open_model(files, overrides, dummy_seed=dummy_seed)
    if use_transformers:
        raise ModelError(
            f"{files.origin} is a GGUF file, which only headrace's own families read; leave --model-impl at auto, or "
            "serve the model's safetensors"
        )
    return open_model(files, overrides, dummy_seed=dummy_seed)


def check_config(files: ModelFiles, overrides: Mapping[str, Any], *, use_transformers: bool | None = None) -> None:
    """Raise a ModelError if a folder's configuration needs an unsupported architecture, feature or quantization.

    The folder needs no weights.
    """
    if _open_with_transformers(files, overrides, use_transformers) is None:
        family, overridden, _ = _overridden_config(files, overrides)
        _describe(family, overridden.config)


def has_recurrence(files: ModelFiles) -> bool:
    """Whether the model has recurrent layers. Raises a ModelError if the model cannot be opened."""
    opened = open_with_either(files, {})
    if isinstance(opened, OpenedModel):
        return any(layer.recurrence is not None for layer in opened.spec.layers)
    return bool(opened.observed.states)


def _open_with_transformers(
    files: ModelFiles, overrides: Mapping[str, Any], use_transformers: bool | None
) -> "OpenedTransformersModel | None":
    """Open the model of a folder by transformers' code, or return None if a family computes it.

    Raises a ModelError if neither supports the model.
    """
    has_family = files.config.architecture() in ARCHITECTURES
    if has_family and not use_transformers:
        return None
    from models.transformers_backend.open import open_through_transformers  # imports transformers' models

    try:
        opened = open_through_transformers(files, overrides)
    except UnsupportedModelError as error:
        if has_family:
            raise UnsupportedModelError(f"{error}; leave --model-impl at auto: headrace has a family for it") from error
        if use_transformers:
            raise
        raise _refused(files, f" by a family of headrace's own, and {error}") from error
    if use_transformers is False:
        raise _refused(files, ", but transformers' code would run it: leave --model-impl at auto")
    return opened


def _refused(files: ModelFiles, reason: str) -> UnsupportedModelError:
    """Return the error for a folder that no family computes, by its configuration and the tensors that are here."""
    try:
        tensors = list(SafetensorsCheckpoint(files.folder).tensors)
    except (ModelError, OSError):
        tensors = []
    return refused(files.config, reason, tensors)


def _open_checkpoint(
    files: ModelFiles, overrides: Mapping[str, Any], dummy_seed: int | None
) -> tuple[Family, OverriddenConfig, Checkpoint]:
    if files.gguf and dummy_seed is not None:
        raise SettingError(
            f"--load-format is dummy, but {files.origin} is a GGUF file, which contains its weights; give a folder "
            "with a config.json, or leave --load-format out"
        )
    if files.gguf:
        gguf = GGUFCheckpoint(files.gguf)
        config = gguf_config(gguf)
        return find_family(config)[0], override(config, overrides), gguf
    if dummy_seed is not None:
        family, overridden, section = _described_config(files, overrides)
        return family, overridden, dummy_checkpoint(overridden.config, section, dummy_seed)
    family, overridden, reader = _overridden_config(files, overrides)
    checkpoint = SafetensorsCheckpoint(files.folder)
    if not family.is_wrapped and any(name.startswith("model.language_model.") for name in checkpoint.tensors):
        family = language_model_of(family)  # saved from the multimodal class
    return family, overridden, checkpoint if reader is None else QuantizedCheckpoint(checkpoint, reader)


def _describe(family: Family, config: HFConfig) -> DecoderSpec:
    spec = family.describe(config)
    for moe in {layer.experts for layer in spec.layers if layer.experts is not None}:
        if reason := moe.contradiction():
            fields = config.list_integers(_EXPERT_COUNTS)
            raise CheckpointError(f"{config.source}: {reason}{fields}; {config.remedy}")
    return spec


def _overridden_config(
    files: ModelFiles, overrides: Mapping[str, Any]
) -> tuple[Family, OverriddenConfig, QuantizedReader | None]:
    """Return a folder's family and configuration, and a reader of its weights if they are quantized."""
    family, overridden, section = _described_config(files, overrides)
    return family, overridden, None if section is None else reader_for(section)


def _described_config(
    files: ModelFiles, overrides: Mapping[str, Any]
) -> tuple[Family, OverriddenConfig, HFConfig | None]:
    """Return a folder's family and configuration, and its quantization_config if the weights are quantized."""
    family, config = find_family(files.config)  # an unknown architecture is the first error
    overridden = override(config, overrides)
    return family, overridden, find_quantization_config(overridden.config, files.folder)
