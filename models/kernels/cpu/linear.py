"""Matrix products with packed weights (C++): PackedLinear for a linear layer, and products with a matrix per head."""

import ctypes
from collections.abc import Sequence

import torch

from models.kernels.cpu.adapters import AdaptedRows
from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, address, required_library
from models.kernels.cpu.packed_weight import NativeWeight, PackedWeight, gather_rows, pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.row_input import PLAIN, RowInput

_BLOCK_ROWS = 16  # kBlockRows of segments.h


class _Segment(ctypes.Structure):
    """struct hr_segment of segments.h."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("group_size", ctypes.c_int64),
    )


class FusedCall:
    """Consecutive matrices of a layer that one native call multiplies by.

    row_block_bytes_address: address of an int64 array with the size in bytes of 16 packed rows, for each matrix.
    """

    def __init__(
        self,
        weights: Sequence[NativeWeight],
        biases: Sequence[torch.Tensor | None],
        first_output: int,
        library: KernelLibrary,
    ) -> None:
        """biases: fp32, contiguous. first_output: the layer's output column at which the outputs of this call start."""
        self.first_output = first_output
        self.kernel = weights[0].kernel(library)
        self.adapted_kernel = weights[0].adapted_kernel(library)
        self.extra_arguments = weights[0].extra_arguments()
        self.num_segments = len(weights)
        segments = (_Segment * len(weights))(
            *(
                _Segment(weight.format, weight.rows, weight.data.data_ptr(), address(bias), weight.group_size)
                for weight, bias in zip(weights, biases, strict=True)
            )
        )
        row_block_bytes = (ctypes.c_int64 * len(weights))(
            *(weight.data.nbytes // -(-weight.rows // _BLOCK_ROWS) for weight in weights)
        )
        self.segments_address = ctypes.addressof(segments)
        self.row_block_bytes_address = ctypes.addressof(row_block_bytes)
        self._keep_alive = (tuple(weights), tuple(biases), segments, row_block_bytes)


class PackedLinear:
    """A linear layer of one or more packed matrices with the same input: y = [W_1 x + b_1 | W_2 x + b_2 | ...].

    Consecutive matrices that one kernel can multiply by share a native call.
    """

    def __init__(
        self,
        weights: Sequence[NativeWeight],
        biases: Sequence[torch.Tensor | None] | None = None,
        *,
        library: KernelLibrary | None = None,
    ) -> None:
        """biases: one per matrix, [rows] of any float type, or None."""
        library = library or required_library()
        self.columns = weights[0].columns
        assert all(weight.columns == self.columns for weight in weights)
        given = biases or [None] * len(weights)
        fp32_biases = [None if bias is None else bias.to(torch.float32).contiguous() for bias in given]
        self.rows = 0
        self._calls: list[FusedCall] = []
        first = 0
        for end in range(1, len(weights) + 1):
            if end < len(weights) and weights[first].can_fuse_with(weights[end]):
                continue
            self._calls.append(FusedCall(weights[first:end], fp32_biases[first:end], self.rows, library))
            self.rows += sum(weight.rows for weight in weights[first:end])
            first = end

    @property
    def single_call(self) -> FusedCall | None:
        """The native call that computes the whole layer, or None if the layer takes several."""
        return self._calls[0] if len(self._calls) == 1 else None

    @property
    def takes_adapters(self) -> bool:
        """Whether a single native call computes the layer and can apply the rows' adapters too."""
        return len(self._calls) == 1 and self._calls[0].adapted_kernel is not None

    def __call__(
        self,
        x: torch.Tensor,
        *,
        prepare: RowInput = PLAIN,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        adapted: AdaptedRows | None = None,
    ) -> torch.Tensor:
        """Return the layer's output [T, rows] for x [T, columns] (twice as wide for a gated `prepare`).

        x and the output are bf16 or fp32; the rows of x may be strided. prepare: the prologue, applied to x. residual:
        [T, rows] in the output's dtype, added. out: takes the output, and may be `residual`; by default a new tensor of
        `out_dtype`, which defaults to x's dtype. adapted: the rows' adapters, only if `takes_adapters`.
        """
        if out is None:
            out = torch.empty(x.shape[0], self.rows, dtype=out_dtype or x.dtype)
        assert x.shape[1] == self.columns * (2 if prepare.is_gated else 1)
        assert x.stride(1) == 1
        assert residual is None or residual.dtype == out.dtype
        for call in self._calls:
            offset = call.first_output * out.element_size()
            kernel = call.kernel
            if adapted is not None:
                assert call.adapted_kernel is not None
                kernel = call.adapted_kernel
            kernel(
                *(x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), x.shape[0], self.columns),
                *(*prepare.arguments(), call.segments_address, call.num_segments),
                *(out.data_ptr() + offset, out.dtype == torch.bfloat16, out.stride(0)),
                None if residual is None else residual.data_ptr() + offset,
                0 if residual is None else residual.stride(0),
                *call.extra_arguments,
                *(() if adapted is None else adapted.arguments()),
            )
        return out


def pack_heads(weight: torch.Tensor, arena: HugePageArena | None = None, *, library: KernelLibrary) -> torch.Tensor:
    """Pack the matrices `weight` [H, out, in], bf16, for `multiply_heads`, into a tensor of the same shape.

    in, out: multiples of 16. arena: allocates the result; None for torch's allocator.
    """
    num_heads, out_features, in_features = weight.shape
    packed = pack_weight(
        WeightFormat.BF16, weight.flatten(0, 1), num_heads * out_features, in_features, arena=arena, library=library
    )
    return packed.data.view(torch.bfloat16).view(weight.shape)


def unpack_heads(packed: torch.Tensor, *, library: KernelLibrary) -> torch.Tensor:
    """Return the matrices that `pack_heads` packed: [H, out, in]."""
    num_heads, out_features, in_features = packed.shape
    num_rows = num_heads * out_features
    weight = PackedWeight(WeightFormat.BF16, num_rows, in_features, packed.view(torch.uint8))
    return gather_rows(weight, torch.arange(num_rows), packed.dtype, library=library).view(packed.shape)


def multiply_heads(packed: torch.Tensor, x: torch.Tensor, out: torch.Tensor, *, library: KernelLibrary) -> None:
    """Write W[h] x[t, h] to out [T, H, out], for x [T, H, in]. packed: pack_heads(W).

    Rows and heads of x and out may be strided; all are bf16.
    """
    num_heads, out_features, in_features = packed.shape
    assert x.dtype == out.dtype == packed.dtype == torch.bfloat16
    assert x.shape == (len(x), num_heads, in_features)
    assert out.shape == (len(x), num_heads, out_features)
    assert x.stride(2) == out.stride(2) == 1
    library.head_linear(
        *(x.data_ptr(), x.stride(0), x.stride(1), out.data_ptr(), out.stride(0), out.stride(1)),
        *(packed.data_ptr(), len(x), num_heads, in_features, out_features),
    )
