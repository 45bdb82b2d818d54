"""WeightStorage: the form in which a weight is stored in memory; WeightOptions: the user's choices."""

from dataclasses import dataclass

import torch

from models.checkpoints.base import StoredTensor
from models.errors import CheckpointError
from models.kernels.formats import WeightFormat
from models.linear.method import Rearrange
from models.quant.round_to_nearest import quantize_matrix
from models.quant.tensor import (
    NVFP4_GROUP,
    ActivationQuantization,
    Encoding,
    QuantKind,
    QuantTensor,
    rearrange_rows,
)

_NAMES = {Encoding.FP8_E4M3: "fp8", Encoding.E2M1: "mxfp4"}
_GROUPED = (
    Encoding.INT4,
    Encoding.INT8,
    Encoding.NF4,
    Encoding.FP4,
    Encoding.IQ2,
    Encoding.TERNARY,
)  # the names of the others imply their groups


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How to store weights: by default in the checkpoint's format if that is supported, else dequantized.

    keeps_quantized: False dequantizes all weights. quantize_to: quantize linear layers to this encoding on load,
    and with `includes_head` also embeddings and the output layer. group_size: columns per scale for `quantize_to`;
    None: the encoding's default.
    """

    keeps_quantized: bool = True
    quantize_to: Encoding | None = None
    includes_head: bool = False
    group_size: int | None = None


@dataclass(frozen=True, slots=True)
class QuantizedStorage:
    """Storage as codes with scales. is_made_on_load: whether the weight is quantized on load, not in the checkpoint."""

    kind: QuantKind
    columns: int
    is_made_on_load: bool = False

    @property
    def name(self) -> str:
        """The name of the format in start-up notes: "int4 g32", "fp8 128x128", "int8 w8a8", "ternary a8"."""
        kind = self.kind
        name = _NAMES.get(kind.encoding, kind.encoding.name.lower())
        if kind.encoding is Encoding.E2M1 and kind.group_size == NVFP4_GROUP:
            return "nvfp4"
        if kind.encoding in _GROUPED and kind.group_size < self.columns:
            name += f" g{kind.group_size}"
        elif kind.encoding is Encoding.FP8_E4M3 and kind.group_size < self.columns:
            name += f" {kind.row_group}x{kind.group_size}"
        if kind.activation is ActivationQuantization.NONE:
            return name
        return f"{name} a8" if kind.encoding is Encoding.TERNARY else f"{name} w8a8"

    def read(self, tensor: StoredTensor, rearrange: Rearrange) -> QuantTensor:
        """Read the tensor and quantize it if needed. Returns the matrix with its rows in the decoder's order.

        Raises UnsupportedModelError if `rearrange` does not just move rows of codes, and CheckpointError for numbers
        that are not finite, which codes would hide: INT4 turns a group with a NaN into zeros.
        """
        if not self.is_made_on_load:
            assert tensor.quantized is not None
            return rearrange_rows(tensor.quantized.read(), rearrange)
        assert tensor.read is not None
        dense = rearrange(tensor.read(torch.bfloat16 if tensor.format == "BF16" else torch.float32))
        if not bool(torch.stack(dense.aminmax()).isfinite().all()):
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} has numbers that are not finite, so it cannot be quantized; "
                "fetch the checkpoint again, or serve it with --quantization auto"
            )
        return quantize_matrix(dense, self.kind.encoding, self.kind.group_size)


# Blocks of a GGUF format, bf16 for the native kernels, or codes. None in place of one is dense, in the model's dtype.
WeightStorage = WeightFormat | QuantizedStorage
