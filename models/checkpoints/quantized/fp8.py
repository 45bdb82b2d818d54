"""FP8 checkpoints with quant_method "fp8": a scale per block (DeepSeek), or per tensor and for activations (Mistral).

"mxfp8" has the same tensors: blocks of one row and 32 columns, whose scales are E8M0, also stored as uint8.

weight            float8_e4m3fn [rows, columns]
weight_scale_inv  fp32 or E8M0 [blocks of rows, blocks of columns] (weight_block_size), or one for the matrix; despite
                  the name, codes are multiplied by it. AutoFP8 calls it weight_scale
activation_scale  fp32, one number, with activation_scheme "static"; AutoFP8: input_scale
"""

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import E8M0, FLOATS, SINGLE_SCALE, Parts, read_matrix
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind

_MAX_BLOCK = 2**20
_MX_BLOCK = (1, 32)


class FP8:
    """Reader of the modules of one FP8 checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        scheme = config.text("activation_scheme", "dynamic")
        expert_dtype = config.text("expert_dtype", "fp8")
        if scheme not in ("dynamic", "static") or expert_dtype != "fp8" or config.text("fmt", "e4m3") != "e4m3":
            raise UnsupportedModelError(
                f"{config.source}: FP8 with activation_scheme {scheme!r} and experts in {expert_dtype!r} is not "
                "supported; supported are e4m3 weights with activation_scheme 'dynamic' or 'static'"
            )
        self._block = block_of(config, "weight_block_size")
        self._scale_formats: tuple[str, ...] = (*FLOATS, "F8_E8M0")
        if config.text("quant_method", "fp8") == "mxfp8":
            if self._block not in (None, _MX_BLOCK) or scheme != "dynamic":
                raise UnsupportedModelError(
                    f"{config.source}: MXFP8 with blocks of {self._block} and activation_scheme {scheme!r} is not "
                    f"supported; supported are blocks of {_MX_BLOCK} with 'dynamic'"
                )
            self._block, self._scale_formats = _MX_BLOCK, E8M0
            self._activation = ActivationQuantization.NONE  # rows that are not rounded are nearer to the model
            return
        if scheme == "static":
            self._activation = ActivationQuantization.STATIC
        elif self._block is None:
            self._activation = ActivationQuantization.DYNAMIC_PER_TOKEN
        else:
            self._activation = ActivationQuantization.DYNAMIC_PER_GROUP

    def module_of(self, tensor: StoredTensor) -> str | None:
        is_codes = tensor.name.endswith(".weight") and tensor.format == "F8_E4M3"
        return tensor.name.removesuffix(".weight") if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        codes = parts.take_matrix(".weight", ("F8_E4M3",))
        rows, columns = codes.shape
        suffix = ".weight_scale" if parts.has(".weight_scale") else ".weight_scale_inv"
        row_group, group_size = self._block or (rows, columns)
        grid = (-(-rows // row_group), -(-columns // group_size))
        shapes = SINGLE_SCALE if self._block is None else (grid,)
        scales = parts.take(suffix, self._scale_formats, *shapes)
        input_scale = None
        if self._activation is ActivationQuantization.STATIC:
            suffix = ".input_scale" if parts.has(".input_scale") else ".activation_scale"
            input_scale = parts.take(suffix, FLOATS, *SINGLE_SCALE)
        kind = QuantKind(Encoding.FP8_E4M3, min(group_size, columns), min(row_group, rows), activation=self._activation)

        return parts.stored(
            (rows, columns), kind, lambda: read_matrix(kind, codes.read(), scales, grid, input_scale=input_scale)
        )


def block_of(config: HFConfig, name: str) -> tuple[int, int] | None:
    """Return (rows, columns) of a block from a list of two numbers; None if the field is absent."""
    if not config.has(name):
        return None
    value = config.fields[name]
    is_pair = isinstance(value, list) and len(value) == 2
    if not is_pair or any(type(size) is not int or not 1 <= size <= _MAX_BLOCK for size in value):
        raise CheckpointError(
            f"{config.source}: {name} is {value!r}; it must be two integers from 1 to {_MAX_BLOCK}; "
            "fetch the checkpoint's own configuration again"
        )
    return value[0], value[1]
