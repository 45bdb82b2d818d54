"""OpenedTransformersModel: a folder with a model that transformers' code computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import StateSpec
from models.checkpoints.base import Checkpoint
from models.checkpoints.quantized.checkpoint import QuantizedCheckpoint
from models.checkpoints.quantized.registry import QuantizedReader, find_quantization_config, reader_for
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import HFConfig
from models.config.overrides import OverriddenConfig, override
from models.sources.resolve import ModelFiles
from models.transformers_backend.config import ForeignModel, find_foreign_model
from models.transformers_backend.observe import Observed, observe


@dataclass(frozen=True, slots=True)
class OpenedTransformersModel:
    """A model of transformers that is known to run over the KV cache; its weights are not read yet."""

    root: Path
    overridden: OverriddenConfig
    foreign: ForeignModel
    observed: Observed
    reader: QuantizedReader | None  # of quantized weights

    @property
    def config(self) -> HFConfig:
        return self.overridden.config

    @property
    def note(self) -> str:
        return (
            f"Model code: transformers' {self.foreign.model_class.__name__}, slower than a family of headrace's own, "
            "with headrace's attention, cache and linear layers"
        )

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        return [spec for _, spec in self.observed.layers]

    @property
    def mixers(self) -> list[AttentionSpec | StateSpec]:
        return self.observed.mixers

    @property
    def vocab_size(self) -> int:
        return self.observed.vocab_size

    @property
    def max_position(self) -> int:
        return self.foreign.max_position

    @property
    def stored_dtype(self) -> torch.dtype:
        return SafetensorsCheckpoint(self.root).dtype

    @property
    def gguf_metadata(self) -> None:
        """None, since transformers' code does not run GGUF files here."""

    def read_headers(self) -> Checkpoint:
        """Open the weight files, without reading weights. Raises a ModelError if they are damaged or incomplete."""
        files = SafetensorsCheckpoint(self.root)
        return files if self.reader is None else QuantizedCheckpoint(files, self.reader)


def open_through_transformers(files: ModelFiles, overrides: Mapping[str, Any]) -> OpenedTransformersModel:
    """Open the model in a folder by its configuration, without weights. Raises a ModelError."""
    overridden = override(files.config, overrides)
    section = find_quantization_config(overridden.config, files.folder)
    foreign = find_foreign_model(overridden)
    observed = observe(foreign)
    reader = None if section is None else reader_for(section)
    return OpenedTransformersModel(files.folder, overridden, foreign, observed, reader)
