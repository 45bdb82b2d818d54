"""Quantized: that a weight is held as codes, of which kind, and where they come from."""

from dataclasses import dataclass

import torch

from models.checkpoints.base import StoredTensor
from models.errors import CheckpointError
from models.linear.scheme import Rearrange
from models.quant.round_to_nearest import quantize_matrix
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, QuantTensor, rearranged_rows

_NAMES = {Encoding.FP8_E4M3: "fp8", Encoding.E2M1: "mxfp4"}
_GROUPED = (Encoding.INT4, Encoding.INT8, Encoding.NF4, Encoding.FP4)  # the others' groups follow from their names


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How weights are to be held: as they are stored, where something can compute with that, and else in the dtype.

    keeps_quantized: False dequantizes all. quantize_to: what linear layers become instead; embeddings and output layer
    only with `includes_head`. group_size: of what is quantized so, by default that of its encoding.
    """

    keeps_quantized: bool = True
    quantize_to: Encoding | None = None
    includes_head: bool = False
    group_size: int | None = None


@dataclass(frozen=True, slots=True)
class Quantized:
    """kind: of the codes. is_made: they are made when the weight is loaded; else they are the checkpoint's."""

    kind: QuantKind
    columns: int
    is_made: bool = False

    @property
    def name(self) -> str:
        """For the operator: "int4 g32", "fp8 128x128", "int8 w8a8"."""
        kind = self.kind
        name = _NAMES.get(kind.encoding, kind.encoding.name.lower())
        if kind.encoding in _GROUPED and kind.group_size < self.columns:
            name += f" g{kind.group_size}"
        elif kind.encoding is Encoding.FP8_E4M3 and kind.group_size < self.columns:
            name += f" {kind.row_group}x{kind.group_size}"
        return name if kind.activation is ActivationQuantization.NONE else f"{name} w8a8"

    def take(self, tensor: StoredTensor, rearrange: Rearrange) -> QuantTensor:
        """The matrix, its rows as the decoder wants them. Raises UnsupportedModelError if they cannot be moved, and
        CheckpointError for numbers that codes would hide: INT4 turns a group with a NaN into zeros."""
        if not self.is_made:
            assert tensor.quantized is not None
            return rearranged_rows(tensor.quantized.read(), rearrange)
        assert tensor.read is not None
        dense = rearrange(tensor.read(torch.bfloat16 if tensor.format == "BF16" else torch.float32))
        if not bool(torch.stack(dense.aminmax()).isfinite().all()):
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} holds numbers that are not finite, so it cannot be quantized; "
                "fetch the checkpoint again, or serve it with --quantization auto"
            )
        return quantize_matrix(dense, self.kind.encoding, self.kind.group_size)
