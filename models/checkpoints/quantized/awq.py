"""AWQ checkpoints (Lin et al. 2024), version "gemm", as AutoAWQ writes them.

qweight  int32 [columns, rows / 8]: eight outputs of one input per word, output j in field _FIELD_OF[j]
qzeros   int32 [groups, rows / 8]: zero points, packed like qweight; unlike in GPTQ, not stored less one
scales   fp16 [groups, rows]
"""

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import FLOATS, ModulePart, Parts, check_divides
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.quant.nibbles import pack_nibbles, unpack_nibbles
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_FIELD_OF = (0, 4, 1, 5, 2, 6, 3, 7)


class AWQ:
    """Reader of the modules of one AWQ checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        bits = config.integer("bits", config.integer("w_bit", 4))
        version = config.text("version", "gemm").lower()
        if bits != 4 or version != "gemm":
            raise UnsupportedModelError(
                f"{config.source}: AWQ with {bits} bits in version {version!r} is not supported; "
                "use a version with 4 bits in 'gemm'"
            )
        self._has_zeros = config.boolean("zero_point", True)
        self._group_size = config.integer("group_size", config.integer("q_group_size", 128, minimum=-1), minimum=-1)

    def module_of(self, tensor: StoredTensor) -> str | None:
        return tensor.name.removesuffix(".qweight") if tensor.name.endswith(".qweight") else None

    def gather(self, parts: Parts) -> StoredTensor:
        codes = parts.take_matrix(".qweight", ("I32",))
        columns, rows = codes.shape[0], codes.shape[1] * 8
        group_size = columns if self._group_size < 1 else self._group_size
        check_divides(parts, group_size, columns, "group_size")
        check_divides(parts, 2, columns, "the number of codes in a byte,")
        groups = columns // group_size
        scales = parts.take(".scales", FLOATS, (groups, rows))
        zeros = parts.take(".qzeros", ("I32",), (groups, rows // 8)) if self._has_zeros else None
        kind = QuantKind(Encoding.INT4, group_size, has_zeros=zeros is not None)

        def read() -> QuantTensor:
            return QuantTensor(
                kind.encoding,
                pack_nibbles(_by_output(codes)),
                scales.read_scales().t().contiguous(),
                None if zeros is None else _by_output(zeros).contiguous(),
                group_size,
            )

        return parts.stored((rows, columns), kind, read)


def _by_output(part: ModulePart) -> torch.Tensor:
    """Unpack 4-bit codes or zero points: [rows, columns] or [rows, groups], uint8."""
    fields = unpack_nibbles(part.read().contiguous().view(torch.uint8)).unflatten(1, (-1, 8))
    return fields[:, :, _FIELD_OF].flatten(1).t()
