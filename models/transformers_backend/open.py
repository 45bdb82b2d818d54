"""OpenedTransformersModel: a folder with a model that transformers' code computes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from models.architecture.attention import AttentionSpec
from models.checkpoints.quantized.registry import find_quantization_config
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.compute import ComputeConfig
from models.config.hf_config import HFConfig
from models.config.overrides import OverriddenConfig, override
from models.errors import CheckpointError, ModelError, UnsupportedModelError, shorten_error
from models.linear.dense import DTYPE_NAMES
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedWeights
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.system.memory import not_enough_memory, obtainable_memory_bytes, require_memory
from models.transformers_backend.config import FOREIGN_ERRORS, ForeignModel, find_foreign_model
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.independence import check_independence
from models.transformers_backend.interface import PAGED
from models.transformers_backend.observe import Observed, observe


@dataclass(frozen=True, slots=True)
class OpenedTransformersModel:
    """A model of transformers that is known to run over the KV cache; its weights are not read yet."""

    root: Path
    overridden: OverriddenConfig
    foreign: ForeignModel
    observed: Observed

    @property
    def config(self) -> HFConfig:
        return self.overridden.config

    @property
    def note(self) -> str:
        return (
            f"Model code: transformers' {self.foreign.model_class.__name__}, slower than a family of headrace's own, "
            "with headrace's attention and cache"
        )

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        return [spec for _, spec in self.observed.layers]

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

    def build(
        self,
        compute: ComputeConfig,
        weights: WeightOptions,
        progress: ProgressReport,
    ) -> tuple[TransformersDecoder, LoadedWeights]:
        """Load the model with all weights in one dtype.

        Raises a ModelError if `weights` asks for quantization on load, memory is short, weights do not fit the
        configuration, or sequences of a batch affect each other.
        """
        if weights.quantize_to is not None:
            raise ModelError(
                "--quantization of weights on load is only for headrace's own families, and this model runs through "
                "transformers; leave it at auto"
            )
        needed_bytes = self.observed.num_parameters * compute.dtype.itemsize
        require_memory(needed_bytes, compute.device)
        progress("load weights", 0, 0, "B")
        try:
            model = self._read(compute.dtype).to(compute.device).eval()
        except (torch.OutOfMemoryError, MemoryError):
            raise not_enough_memory(needed_bytes, obtainable_memory_bytes(compute.device), compute.device) from None
        decoder = TransformersDecoder(model, self.observed.layers, compute)
        check_independence(decoder, self.vocab_size, self.foreign.model_class.__name__)
        kind = DTYPE_NAMES[compute.dtype]
        formats = Counter({kind: len(list(decoder.parameters()))})
        note = f"Weights: {decoder.weight_bytes() / 2**30:.2f} GiB: {kind} {formats[kind]} tensors"
        return decoder, LoadedWeights(formats, note)

    def _read(self, dtype: torch.dtype) -> transformers.PreTrainedModel:
        transformers.utils.logging.disable_progress_bar()
        try:
            model, found = self.foreign.model_class.from_pretrained(
                self.root,
                config=self.foreign.config,
                dtype=dtype,
                attn_implementation=PAGED,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise  # not a fault of the checkpoint
        except FOREIGN_ERRORS as error:
            raise CheckpointError(f"{self.root}: transformers cannot load it: {shorten_error(error)}") from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if found[what]:
                some = ", ".join(sorted(map(str, found[what]))[:5])
                raise CheckpointError(
                    f"{self.root}: {what.replace('_', ' ')} ({len(found[what])}): {some}; the weights do not fit the "
                    "configuration; fetch the checkpoint again"
                )
        return model


def open_through_transformers(files: ModelFiles, overrides: Mapping[str, Any]) -> OpenedTransformersModel:
    """Open the model in a folder by its configuration, without weights. Raises a ModelError."""
    root = files.folder
    overridden = override(files.config, overrides)
    if find_quantization_config(overridden.config, root) is not None:
        observe(find_foreign_model(overridden))  # raises if it would not run unquantized either
        raise UnsupportedModelError(
            f"{root} has quantized weights, which headrace reads only for its own families; transformers' code would "
            "run an unquantized version, with 16 or 32 bits"
        )
    foreign = find_foreign_model(overridden)
    return OpenedTransformersModel(root, overridden, foreign, observe(foreign))
