"""ModelOpt checkpoints with NVFP4 weights, as NVIDIA's TensorRT Model Optimizer exports them.

weight          uint8 [rows, columns / 2]: see nvfp4.py
weight_scale    float8_e4m3fn [rows, columns / 16]
weight_scale_2  fp32, one number, by which scales are multiplied
input_scale     fp32, one number, for rows in 4 bits; not used
"""

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.nvfp4 import gather_nvfp4
from models.checkpoints.quantized.parts import FLOATS, SINGLE_SCALE, Parts
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError

_CODES = ".weight"


class ModelOpt:
    """Reader of the modules of one ModelOpt checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        """config: config.json's section, or the whole of an older hf_quant_config.json, which has a section in it."""
        settings = config.section("quantization") if config.has("quantization") else config
        algorithm = settings.text("quant_algo", "")
        if algorithm != "NVFP4":
            raise UnsupportedModelError(
                f"{config.source}: ModelOpt's quant_algo {algorithm!r} is not supported; use a version in NVFP4, or "
                "one in another format, such as compressed-tensors"
            )

    def module_of(self, tensor: StoredTensor) -> str | None:
        is_codes = tensor.name.endswith(_CODES) and tensor.format == "U8"
        return tensor.name.removesuffix(_CODES) if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        if parts.has(".pre_quant_scale"):
            raise UnsupportedModelError(
                f"{parts.file}: {parts.module!r} has a pre_quant_scale (AWQ in NVFP4), which is not supported; use a "
                "version without it"
            )
        if parts.has(".input_scale"):
            parts.take(".input_scale", FLOATS, *SINGLE_SCALE)
        factor = parts.take(".weight_scale_2", FLOATS, *SINGLE_SCALE)
        return gather_nvfp4(parts, _CODES, factor.read_number)
