"""ModelOpt checkpoints with NVFP4 or MXFP8 weights, as NVIDIA's TensorRT Model Optimizer exports them.

NVFP4  weight uint8 [rows, columns / 2] and weight_scale float8_e4m3fn [rows, columns / 16]: see nvfp4.py;
       weight_scale_2 fp32, one number, by which scales are multiplied;
       input_scale fp32, one number, for rows in 4 bits; not used
MXFP8  weight float8_e4m3fn [rows, columns]; weight_scale uint8 [rows, columns / 32]: E8M0
"""

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.nvfp4 import gather_nvfp4
from models.checkpoints.quantized.parts import E8M0, FLOATS, SINGLE_SCALE, Parts, check_divides, read_matrix
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.quant.tensor import Encoding, QuantKind

_CODES = ".weight"
_CODE_FORMATS = {"NVFP4": "U8", "MXFP8": "F8_E4M3"}
_MX_GROUP = 32  # columns


class ModelOpt:
    """Reader of the modules of one ModelOpt checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        """config: config.json's section, or the whole of an older hf_quant_config.json, which has a section in it."""
        settings = config.section("quantization") if config.has("quantization") else config
        algorithm = settings.text("quant_algo", "")
        if algorithm not in _CODE_FORMATS:
            raise UnsupportedModelError(
                f"{config.source}: ModelOpt's quant_algo {algorithm!r} is not supported; use a version in "
                f"{' or '.join(_CODE_FORMATS)}, or one in another format, such as compressed-tensors"
            )
        self._code_format = _CODE_FORMATS[algorithm]

    def module_of(self, tensor: StoredTensor) -> str | None:
        is_codes = tensor.name.endswith(_CODES) and tensor.format == self._code_format
        return tensor.name.removesuffix(_CODES) if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        return _gather_nvfp4(parts) if self._code_format == "U8" else _gather_mxfp8(parts)


def _gather_nvfp4(parts: Parts) -> StoredTensor:
    if parts.has(".pre_quant_scale"):
        raise UnsupportedModelError(
            f"{parts.file}: {parts.module!r} has a pre_quant_scale (AWQ in NVFP4), which is not supported; use a "
            "version without it"
        )
    if parts.has(".input_scale"):
        parts.take(".input_scale", FLOATS, *SINGLE_SCALE)
    factor = parts.take(".weight_scale_2", FLOATS, *SINGLE_SCALE)
    return gather_nvfp4(parts, _CODES, factor.read_number)


def _gather_mxfp8(parts: Parts) -> StoredTensor:
    codes = parts.take_matrix(_CODES, ("F8_E4M3",))
    rows, columns = codes.shape
    check_divides(parts, _MX_GROUP, columns, "MXFP8's group size")
    grid = (rows, columns // _MX_GROUP)
    scales = parts.take(".weight_scale", E8M0, grid)
    kind = QuantKind(Encoding.FP8_E4M3, _MX_GROUP)
    return parts.stored(codes.shape, kind, lambda: read_matrix(kind, codes.read(), scales, grid))
