"""CpuOperations: the column of the table of operations that the C++ kernels fill."""

import functools

import torch

from models.kernels.cpu import head_linear, recurrence, rows
from models.kernels.cpu.library import KernelLibrary, describe_kernels, kernel_library, load_kernels
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.moe import NativeExperts, supports_experts
from models.kernels.cpu.sampling import CpuLogitOperations
from models.kernels.operands import ExpertLayer
from models.kernels.ops import (
    Convolve,
    CopyHeads,
    Experts,
    GateRows,
    HeadProduct,
    JoinRows,
    OnCompiled,
    Operations,
    RunGatedDelta,
)

_MISSING = "the native kernels are not available (the reason is in the log)"
_DTYPES = (torch.bfloat16, torch.float32)
_LANES = 16  # rows, heads and channels must be multiples of this


def cpu_operations(dtype: torch.dtype, device: torch.device, on_compiled: OnCompiled) -> Operations:  # noqa: ARG001
    """Return the column of the CPU; without a kernel library, which is loaded or compiled here, the torch column."""
    load_kernels(on_compiled)
    library, note = kernel_library(), describe_kernels()
    return Operations(_MISSING, note) if library is None else CpuOperations(library, dtype, note)


class CpuOperations(Operations):
    """The kernels compute in bf16 and fp32, and without gradients; torch has the other dtypes and sizes."""

    name = "cpu"

    def __init__(self, library: KernelLibrary, dtype: torch.dtype, note: str = "") -> None:
        """dtype: of activations."""
        name = str(dtype).removeprefix("torch.")
        is_bf16 = dtype == torch.bfloat16
        super().__init__(None if is_bf16 else f"the native kernels compute in bfloat16, not in {name}", note)
        self.packs_fp32 = dtype == torch.float32
        self.version = library.path.stem  # a hash of source, compiler and level
        self._library = library
        self._dtype = dtype

    def join_rows(self, columns: int) -> JoinRows:
        if not self._supports(columns):
            return super().join_rows(columns)
        return functools.partial(rows.join_rows, library=self._library)

    def gate_rows(self, columns: int) -> GateRows:
        if not self._supports(columns):
            return super().gate_rows(columns)
        return functools.partial(rows.gate_rows, library=self._library)

    def copy_heads(self, columns: int) -> CopyHeads:
        if not self._supports(columns):
            return super().copy_heads(columns)
        return functools.partial(rows.copy_heads, library=self._library)

    def head_product(self, in_features: int, out_features: int) -> HeadProduct:
        if self._dtype != torch.bfloat16 or not self._supports(in_features, out_features):
            return super().head_product(in_features, out_features)
        return HeadProduct(
            functools.partial(head_linear.pack_heads, library=self._library),
            functools.partial(head_linear.multiply_heads, library=self._library),
            functools.partial(head_linear.unpack_heads, library=self._library),
        )

    def experts(self, layer: ExpertLayer) -> Experts:
        pairs = [tuple(linear.packed for linear in expert.linears) for expert in layer.experts]
        packed = [(up, down) for up, down in pairs if isinstance(up, PackedLinear) and isinstance(down, PackedLinear)]
        columns = layer.router.weight.shape[1]
        if len(packed) < len(pairs) or not supports_experts(packed) or not self._supports(columns):
            return super().experts(layer)
        return NativeExperts(layer, packed, library=self._library)

    def convolve(self, kernel_size: int, channels: int) -> Convolve:
        if kernel_size > recurrence.MAX_KERNEL_SIZE or not self._supports(channels):
            return super().convolve(kernel_size, channels)
        return functools.partial(recurrence.convolve, library=self._library)

    def gated_delta(self, key_dim: int, value_dim: int) -> RunGatedDelta:
        if not self._supports(key_dim, value_dim):
            return super().gated_delta(key_dim, value_dim)
        return functools.partial(recurrence.run_gated_delta, library=self._library)

    def logits(self) -> CpuLogitOperations:
        return CpuLogitOperations(self._library)

    def _supports(self, *sizes: int) -> bool:
        return self._dtype in _DTYPES and all(size % _LANES == 0 for size in sizes)
