"""Quantised safetensors checkpoints: quant_method of the configuration -> reader, imported when first asked for."""

import importlib
from typing import Protocol

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantised.parts import Parts
from models.errors import UnsupportedModelError
from models.hf_config import HFConfig

_READERS = {
    "awq": "models.checkpoints.quantised.awq:AWQ",
    "bitsandbytes": "models.checkpoints.quantised.bitsandbytes:BitsAndBytes",
    "compressed-tensors": "models.checkpoints.quantised.compressed_tensors:CompressedTensors",
    "fp8": "models.checkpoints.quantised.fp8:FP8",
    "gptq": "models.checkpoints.quantised.gptq:GPTQ",
    "mxfp4": "models.checkpoints.quantised.mxfp4:MXFP4",
}


class QuantisedReader(Protocol):
    """Knows one method's tensors; made for one checkpoint from its quantization_config, which it holds against what it
    supports."""

    def module_of(self, tensor: StoredTensor) -> str | None:
        """The module whose codes this tensor holds, or None if it holds no codes."""

    def gather(self, parts: Parts) -> StoredTensor:
        """The module's matrix; takes all that belongs to it out of `parts`. Reads nothing large. Raises
        CheckpointError where parts are missing or misshapen, UnsupportedModelError for what headrace cannot read."""


def reader_for(config: HFConfig) -> QuantisedReader:
    """The reader for a quantization_config; raises UnsupportedModelError that names what is supported."""
    method = config.text("quant_method", "bitsandbytes" if config.has("load_in_4bit") else "unknown")
    path = _READERS.get(method)
    if path is None:
        raise UnsupportedModelError(
            f"{config.source}: weights quantised by {method!r} are not supported; use a version quantised by "
            f"{', '.join(sorted(_READERS))}, an unquantised one, or a GGUF file"
        )
    module, _, name = path.partition(":")
    reader: QuantisedReader = getattr(importlib.import_module(module), name)(config)
    return reader
