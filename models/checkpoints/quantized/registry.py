"""Readers of quantized safetensors checkpoints: quant_method of the configuration -> reader, imported when needed."""

import importlib
from pathlib import Path
from typing import Protocol

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import Parts
from models.config.hf_config import HFConfig, read_json_config
from models.errors import UnsupportedModelError

_READERS = {
    "awq": "models.checkpoints.quantized.awq:AWQ",
    "bitsandbytes": "models.checkpoints.quantized.bitsandbytes:BitsAndBytes",
    "compressed-tensors": "models.checkpoints.quantized.compressed_tensors:CompressedTensors",
    "fp8": "models.checkpoints.quantized.fp8:FP8",
    "gptq": "models.checkpoints.quantized.gptq:GPTQ",
    "mxfp4": "models.checkpoints.quantized.mxfp4:MXFP4",
}


# Files in which tools described their quantization before config.json had a place for it -> quant_method.
LEGACY_CONFIG_FILES = {
    "quantize_config.json": "gptq",  # AutoGPTQ
    "quant_config.json": "awq",  # AutoAWQ
    "hf_quant_config.json": "modelopt",
}


class QuantizedReader(Protocol):
    """Reads one quantization method; made for one checkpoint from its quantization_config. Raises
    UnsupportedModelError if that asks for what it does not support."""

    def module_of(self, tensor: StoredTensor) -> str | None:
        """Return the module whose codes this tensor holds; None if they are no codes."""

    def gather(self, parts: Parts) -> StoredTensor:
        """Return the module's matrix, made of all its parts, which are taken from `parts`. Reads nothing large.

        Raises CheckpointError if parts are missing or misshapen, UnsupportedModelError for what headrace cannot read.
        """


def quantization_config(config: HFConfig, root: Path) -> HFConfig | None:
    """How the weights of a folder are quantized, with a quant_method; None if they are not."""
    for name in ("quantization_config", "compression_config"):  # the second in old compressed-tensors
        if config.has(name):
            return config.section(name)
    for name, method in LEGACY_CONFIG_FILES.items():
        if (root / name).is_file():
            old = read_json_config(root / name)
            return HFConfig({"quant_method": method, **old.fields}, old.source)
    return None


def reader_for(config: HFConfig) -> QuantizedReader:
    """Return the reader for a quantization_config; raises UnsupportedModelError that names what is supported."""
    known = ", ".join(sorted(_READERS))
    if not config.has("quant_method") and not config.has("load_in_4bit"):
        raise UnsupportedModelError(
            f"{config.source}: quantization_config has no quant_method, which says how the weights are quantized; it "
            f"must be one of {known}"
        )
    method = config.text("quant_method", "bitsandbytes")
    path = _READERS.get(method)
    if path is None:
        raise UnsupportedModelError(
            f"{config.source}: weights quantized by {method!r} are not supported; use a version quantized by "
            f"{known}, an unquantized one, or a GGUF file"
        )
    module, _, name = path.partition(":")
    reader: QuantizedReader = getattr(importlib.import_module(module), name)(config)
    return reader
