"""BitNet checkpoints: ternary weights with one scale for a matrix, whose inputs are rounded to int8 token by token.

weight        uint8 [rows / 4, columns]: row i * rows / 4 + r in bits 2i and 2i + 1 of r, each number plus 1
weight_scale  one number; results are multiplied by it, or divided by it without linear_class "autobitlinear"

With quantization_mode "online", weights are those of training, in 16 or 32 bits: they become ternary when they are
read, as transformers computes it in every step.
"""

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import FLOATS, SINGLE_SCALE, Parts
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.quant.nibbles import pack_crumbs
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, QuantTensor

_SMALLEST_MEAN = 1e-5


class BitNet:
    """Reader of the linear layers of one BitNet checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        kind, mode = config.text("linear_class", "bitlinear"), config.text("quantization_mode", "offline")
        has_norms = config.boolean("use_rms_norm", False)
        self._is_online = kind == "autobitlinear" and mode == "online"
        if kind not in ("bitlinear", "autobitlinear") or mode not in ("offline", "online") or has_norms:
            raise UnsupportedModelError(
                f"{config.source}: BitNet with linear_class {kind!r}, quantization_mode {mode!r} and use_rms_norm "
                f"{has_norms} is not supported; supported are 'bitlinear' and 'autobitlinear' without such norms"
            )
        self._divides = kind == "bitlinear"
        names = config.raw("modules_to_not_convert") or []
        self._plain = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def module_of(self, tensor: StoredTensor) -> str | None:
        if not self._is_online:
            is_codes = tensor.name.endswith(".weight") and tensor.format == "U8"
        else:
            is_codes = tensor.name.endswith("_proj.weight") and not any(name in tensor.name for name in self._plain)
        return tensor.name.removesuffix(".weight") if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        return self._rounded(parts) if self._is_online else self._packed(parts)

    def _packed(self, parts: Parts) -> StoredTensor:
        codes = parts.take_matrix(".weight", ("U8",))
        scale = parts.take(".weight_scale", FLOATS, *SINGLE_SCALE)
        shape = (4 * codes.shape[0], codes.shape[1])
        kind = _kind(parts, shape)

        def read() -> QuantTensor:
            packed = codes.read()
            if bool((packed & packed >> 1 & 0x55).any()):
                raise CheckpointError(
                    f"{parts.file}: {codes.name!r} has codes that are not -1, 0 or 1; fetch the checkpoint again"
                )
            rows = torch.cat([packed >> shift & 3 for shift in (0, 2, 4, 6)])
            scale.read_positive()
            factor = scale.read().float().reciprocal() if self._divides else scale.read()
            return _matrix(kind, pack_crumbs(rows), factor)

        return parts.stored(shape, kind, read)

    def _rounded(self, parts: Parts) -> StoredTensor:
        weight = parts.take_matrix(".weight", FLOATS)
        rows, columns = weight.shape
        kind = _kind(parts, (rows, columns))

        def read() -> QuantTensor:
            stored = weight.read_scales()
            inverse = 1.0 / stored.float().abs().mean().clamp(min=_SMALLEST_MEAN)
            numbers = (stored.float() * inverse).round().clamp(-1, 1)
            return _matrix(kind, pack_crumbs((numbers + 1).to(torch.uint8)), (1 / inverse).to(stored.dtype))

        return parts.stored((rows, columns), kind, read)


def _kind(parts: Parts, shape: tuple[int, int]) -> QuantKind:
    rows, columns = shape
    if columns % 4:
        raise parts.broken(f"{parts.module!r} has {columns} columns; they must be a multiple of 4")
    return QuantKind(Encoding.TERNARY, columns, rows, activation=ActivationQuantization.DYNAMIC_PER_TOKEN)


def _matrix(kind: QuantKind, codes: torch.Tensor, scale: torch.Tensor) -> QuantTensor:
    return QuantTensor(
        kind.encoding, codes, scale.view(1, 1), None, kind.group_size, kind.row_group, activation=kind.activation
    )
