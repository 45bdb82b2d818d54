"""Readers of quantized safetensors checkpoints by the configuration's quant_method, imported when needed."""

import pkgutil
from pathlib import Path
from typing import Protocol

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import Parts
from models.config.hf_config import HFConfig, read_json_config
from models.errors import UnsupportedModelError

_READERS = {
    "awq": "models.checkpoints.quantized.awq:AWQ",
    "bitnet": "models.checkpoints.quantized.bitnet:BitNet",
    "bitsandbytes": "models.checkpoints.quantized.bitsandbytes:BitsAndBytes",
    "compressed-tensors": "models.checkpoints.quantized.compressed_tensors:CompressedTensors",
    "fp8": "models.checkpoints.quantized.fp8:FP8",
    "gptq": "models.checkpoints.quantized.gptq:GPTQ",
    "modelopt": "models.checkpoints.quantized.modelopt:ModelOpt",
    "mxfp8": "models.checkpoints.quantized.fp8:FP8",
    "mxfp4": "models.checkpoints.quantized.mxfp4:MXFP4",
}
QUANTIZATION_FIELDS = ("quantization_config", "compression_config")  # the second in old compressed-tensors

# quant_method by the files in which tools described their quantization before config.json had a field for it.
LEGACY_CONFIG_FILES = {
    "quantize_config.json": "gptq",  # AutoGPTQ
    "quant_config.json": "awq",  # AutoAWQ
    "hf_quant_config.json": "modelopt",
}


class QuantizedReader(Protocol):
    """Reader of one quantization method, made for one checkpoint from its quantization_config.

    The constructor raises UnsupportedModelError for settings that the reader does not support.
    """

    def module_of(self, tensor: StoredTensor) -> str | None:
        """Return the module whose codes this tensor holds, or None if it does not hold codes."""

    def gather(self, parts: Parts) -> StoredTensor:
        """Take all parts of the module from `parts` and return its matrix. Reads no codes yet.

        Raises CheckpointError if parts are missing or misshapen, UnsupportedModelError for what headrace cannot read.
        """


def find_quantization_config(config: HFConfig, root: Path) -> HFConfig | None:
    """Return a folder's quantization_config, with a quant_method; None if its weights are not quantized."""
    for name in QUANTIZATION_FIELDS:
        if config.has(name):
            return config.section(name)
    for name, method in LEGACY_CONFIG_FILES.items():
        if (root / name).is_file():
            old = read_json_config(root / name)
            return HFConfig({"quant_method": method, **old.fields}, old.source)
    return None


def reader_for(config: HFConfig) -> QuantizedReader:
    """Return the reader for a quantization_config. Raises UnsupportedModelError, which names what is supported."""
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
            f"{config.source}: weights quantized by {method!r} are not supported; use a version quantized by {known}, "
            "an unquantized version, or a GGUF file"
        )
    reader: QuantizedReader = pkgutil.resolve_name(path)(config)
    return reader
