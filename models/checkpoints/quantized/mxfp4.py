"""MXFP4 checkpoints with quant_method "mxfp4", the format of gpt-oss's experts (OCP Microscaling Formats 1.0).

<projection>_blocks  uint8 [experts, rows, columns / 32, 16]: E2M1 codes, even columns in low nibbles
<projection>_scales  uint8 [experts, rows, columns / 32]: E8M0
"""

from dataclasses import replace

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import Parts
from models.config.hf_config import HFConfig
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_GROUP = 32


class MXFP4:
    """Reader of the experts of one MXFP4 checkpoint, with all experts of a projection as one tensor."""

    def __init__(self, config: HFConfig) -> None:
        """config: ignored, since the layout does not depend on it."""

    def module_of(self, tensor: StoredTensor) -> str | None:
        return tensor.name.removesuffix("_blocks") if tensor.name.endswith("_blocks") else None

    def gather(self, parts: Parts) -> StoredTensor:
        """Return all experts' matrices as one tensor [experts, rows, columns]; its part(index) is one expert's matrix.

        Its `quantized` reads a matrix [experts * rows, columns].
        """
        codes = parts.take("_blocks", ("U8",))
        if len(codes.shape) != 4 or codes.shape[-1] != _GROUP // 2 or 0 in codes.shape:
            raise parts.broken(f"{codes.name!r} has shape {list(codes.shape)}; it must be [experts, rows, groups, 16]")
        experts, rows, groups, _ = codes.shape
        scales = parts.take("_scales", ("U8",), (experts, rows, groups))
        kind = QuantKind(Encoding.E2M1, _GROUP)

        def read(first: int, count: int) -> QuantTensor:
            """Return the matrices of `count` experts from `first` on as one matrix, [count * rows, columns]."""
            blocks = codes.read()[first : first + count].reshape(count * rows, groups * _GROUP // 2)
            matrix_scales = scales.read_scales(first, count).reshape(count * rows, groups)
            return QuantTensor(kind.encoding, blocks, matrix_scales, None, _GROUP)

        def expert(index: int) -> StoredTensor:
            matrix = parts.stored((rows, groups * _GROUP), kind, lambda: read(index, 1))
            return replace(matrix, name=f"{matrix.name}[{index}]", num_bytes=matrix.num_bytes // experts)

        stack = parts.stored((experts, rows, groups * _GROUP), kind, lambda: read(0, experts))
        return replace(stack, part=expert)
