"""Linear layers over packed weights (C++): packing, multiplication, row look-up.

Quantized weights come as GGUF blocks and keep their format's scales; activations are then quantized to int8 on the fly,
with a scale per row and 32 columns (layouts in cpu/codecs.h, arithmetic in cpu/quantized_linear.cpp). bf16 weights are
multiplied in bf16 with fp32 sums (cpu/bf16_linear.cpp). Weights of other checkpoints are in scaled_weight.py.
"""

import ctypes
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from models.kernels.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, kernel_library, required_library
from models.kernels.row_input import PLAIN, RowInput
from models.kernels.tape import Kernel

_BLOCK_ROWS = 16  # kBlockRows of segments.h


class WeightFormat(enum.IntEnum):
    """Formats with a native kernel: those of GGUF in the order of Format in codecs.h, and bf16."""

    Q4_0 = 0
    Q4_1 = 1
    Q5_0 = 2
    Q5_1 = 3
    Q8_0 = 4
    Q2_K = 5
    Q3_K = 6
    Q4_K = 7
    Q5_K = 8
    Q6_K = 9
    BF16 = 10


class NotFiniteError(Exception):
    """Weights that are no finite numbers."""


class NativeWeight(Protocol):
    """A packed matrix [rows (outputs), columns (inputs)] of any kind, and the kernel that multiplies with it.

    data: uint8, owned. format, group_size: as the kernel's segments want them.
    """

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def data(self) -> torch.Tensor: ...
    @property
    def format(self) -> int: ...
    @property
    def group_size(self) -> int: ...

    def kernel(self, library: KernelLibrary) -> Kernel:
        """The multiplication: all kernels take the same arguments, and then `call_arguments`."""

    def call_arguments(self) -> tuple[int | float | None, ...]: ...

    def shares_call_with(self, other: "NativeWeight") -> bool:
        """Whether one call may multiply both with an input."""

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """gather_rows."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed matrix of a GGUF format or of bf16."""

    format: WeightFormat
    rows: int
    columns: int
    data: torch.Tensor
    group_size: int = 0  # the format's own

    def kernel(self, library: KernelLibrary) -> Kernel:
        return library.bf16_linear if self.format == WeightFormat.BF16 else library.quantized_linear

    def call_arguments(self) -> tuple[int | float | None, ...]:
        return ()

    def shares_call_with(self, other: NativeWeight) -> bool:
        return isinstance(other, PackedWeight) and (self.format == WeightFormat.BF16) == (
            other.format == WeightFormat.BF16
        )

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return gather_rows(self, ids, dtype)


class _Segment(ctypes.Structure):
    """struct hr_segment of segments.h."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("group_size", ctypes.c_int64),
    )


def pack_weight(
    fmt: WeightFormat,
    raw: torch.Tensor,
    rows: int,
    columns: int,
    *,
    arena: HugePageArena | None = None,
    library: KernelLibrary | None = None,
) -> PackedWeight:
    """The packed form of a matrix of `rows` outputs and `columns` inputs; `raw` is not kept.

    raw, contiguous: GGUF blocks as uint8, row after row; or for BF16 the matrix itself. columns: a multiple of 32, of
    256 for the K formats, of 16 for BF16. arena: where the packed bytes go; memory of their own without one. Raises
    NotFiniteError if a block's scale is no finite number.
    """
    library = library or required_library()
    assert raw.dtype == (torch.bfloat16 if fmt == WeightFormat.BF16 else torch.uint8)
    assert raw.is_contiguous()
    is_bf16 = fmt == WeightFormat.BF16
    size = library.bf16_packed_bytes(rows, columns) if is_bf16 else library.packed_bytes(fmt, rows, columns)
    data = torch.empty(size, dtype=torch.uint8) if arena is None else arena.allocate(size)
    if is_bf16:
        library.bf16_pack_weights(raw.data_ptr(), rows, columns, data.data_ptr())
    elif not library.pack_weights(fmt, raw.data_ptr(), rows, columns, data.data_ptr()):
        raise NotFiniteError
    return PackedWeight(fmt, rows, columns, data)


def gather_rows(
    weight: PackedWeight, ids: torch.Tensor, dtype: torch.dtype, *, library: KernelLibrary | None = None
) -> torch.Tensor:
    """Dequantized rows `ids` ([T] int64, within the matrix): [T, columns] in bf16 or fp32. An embedding look-up."""
    library = library or required_library()
    if weight.format == WeightFormat.BF16:
        out = torch.empty(len(ids), weight.columns, dtype=torch.bfloat16)
        library.bf16_gather_rows(weight.data.data_ptr(), weight.columns, ids.data_ptr(), len(ids), out.data_ptr())
        return out.to(dtype)
    out = torch.empty(len(ids), weight.columns, dtype=dtype)
    library.gather_rows(
        *(weight.format, weight.data.data_ptr(), weight.columns, ids.data_ptr(), len(ids)),
        *(dtype == torch.bfloat16, out.data_ptr()),
    )
    return out


def dequantize_natively(
    fmt: WeightFormat, raw: torch.Tensor, columns: int, dtype: torch.dtype, *, library: KernelLibrary | None = None
) -> torch.Tensor | None:
    """The numbers of GGUF blocks, exactly the format's and then rounded to `dtype`: [rows, columns]; or None where the
    kernel does not make them. raw: as for pack_weight, [rows, bytes a row]. Raises NotFiniteError as it does.
    """
    library = library or kernel_library()
    if library is None or dtype not in (torch.bfloat16, torch.float32) or raw.device.type != "cpu":
        return None
    raw = raw.contiguous()
    out = torch.empty(len(raw), columns, dtype=dtype)
    is_bf16 = dtype == torch.bfloat16
    if not library.dequantize_gguf(fmt, raw.data_ptr(), len(raw), columns, is_bf16, out.data_ptr()):
        raise NotFiniteError
    return out


class Run:
    """Consecutive matrices of a layer that one call multiplies.

    segments: address of their array, and how many. block_bytes: of 16 rows of each.
    """

    def __init__(
        self,
        weights: Sequence[NativeWeight],
        biases: Sequence[torch.Tensor | None],
        first_output: int,
        library: KernelLibrary,
    ) -> None:
        self._kept = (tuple(weights), tuple(biases))
        self.first_output = first_output
        self.kernel = weights[0].kernel(library)
        self.call_arguments = weights[0].call_arguments()
        self._segments = (_Segment * len(weights))(
            *(
                _Segment(
                    *(weight.format, weight.rows, weight.data.data_ptr()),
                    None if bias is None else bias.data_ptr(),
                    weight.group_size,
                )
                for weight, bias in zip(weights, biases, strict=True)
            )
        )
        self.segments = (ctypes.addressof(self._segments), len(weights))
        blocks = [-(-weight.rows // _BLOCK_ROWS) for weight in weights]
        self.block_bytes = (ctypes.c_int64 * len(weights))(
            *(weight.data.nbytes // count for weight, count in zip(weights, blocks, strict=True))
        )


class PackedLinear:
    """Packed matrices side by side over one input: y = [W_1 x + b_1 | W_2 x + b_2 | ...].

    Neighbors of one kernel are multiplied in one call.
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
        self._runs: list[Run] = []
        first = 0
        for end in range(1, len(weights) + 1):
            if end < len(weights) and weights[first].shares_call_with(weights[end]):
                continue
            self._runs.append(Run(weights[first:end], fp32_biases[first:end], self.rows, library))
            self.rows += sum(weight.rows for weight in weights[first:end])
            first = end

    @property
    def single_run(self) -> Run | None:
        """What multiplies all of the layer, or None if it takes several calls."""
        return self._runs[0] if len(self._runs) == 1 else None

    def __call__(
        self,
        x: torch.Tensor,
        *,
        prepare: RowInput = PLAIN,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """[T, rows] for x [T, columns] (twice as wide for a gated `prepare`); bf16 or fp32, rows may be strided.

        The result goes to `out` if given (it may be `residual`), else to a new tensor of `out_dtype` (x's by default).
        residual: [T, rows] in the output's dtype, added.
        """
        if out is None:
            out = torch.empty(x.shape[0], self.rows, dtype=out_dtype or x.dtype)
        assert x.shape[1] == self.columns * (2 if prepare.is_gated else 1)
        assert x.stride(1) == 1
        assert residual is None or residual.dtype == out.dtype
        for run in self._runs:
            offset = run.first_output * out.element_size()
            run.kernel(
                *(x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), x.shape[0], self.columns),
                *(*prepare.arguments(), *run.segments),
                *(out.data_ptr() + offset, out.dtype == torch.bfloat16, out.stride(0)),
                None if residual is None else residual.data_ptr() + offset,
                0 if residual is None else residual.stride(0),
                *run.call_arguments,
            )
        return out
