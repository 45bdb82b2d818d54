"""CpuOperations and CpuLogitOperations: operations of decoder layers and of sampling by C++ kernels."""

import functools
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

import torch

from models.architecture.recurrence import GatedDeltaSpec, GeneralizedDeltaSpec, StateSpaceSpec
from models.kernels.cpu import recurrence, rows
from models.kernels.cpu.build import watching_compilation
from models.kernels.cpu.library import KernelLibrary, describe_kernels, kernel_library
from models.kernels.cpu.linear import PackedLinear, multiply_heads, pack_heads, unpack_heads
from models.kernels.cpu.moe import NativeExperts, supports_experts
from models.kernels.operands import Draw, ExpertLayer
from models.kernels.ops import (
    BoundRows,
    Convolve,
    CopyHeads,
    Experts,
    GateRows,
    HeadProduct,
    JoinRows,
    OnCompiled,
    Operations,
    PrepareRows,
    RunGatedDelta,
    RunGeneralizedDelta,
    RunLinearUnit,
    RunSelectiveScan,
    RunStateSpace,
    ShiftRows,
)
from models.kernels.torch.logits import LogitOperations

_MISSING = "the native kernels are not available (the reason is in the log)"
_DTYPES = (torch.bfloat16, torch.float32)
_LANES = 16  # rows, heads and channels must be multiples of this

T = TypeVar("T")


def cpu_operations(dtype: torch.dtype, device: torch.device, on_compiled: OnCompiled) -> Operations:  # noqa: ARG001
    """Load or compile the kernel library, and return operations that use it; without a library, torch's."""
    with watching_compilation(on_compiled):
        library = kernel_library()
    note = describe_kernels()
    return Operations(_MISSING, note) if library is None else CpuOperations(library, dtype, note)


class CpuOperations(Operations):
    """Operations by C++ kernels in bf16 and fp32, without gradients; torch computes other dtypes and sizes."""

    name = "cpu"

    def __init__(self, library: KernelLibrary, dtype: torch.dtype, note: str = "") -> None:
        """dtype: the dtype of activations."""
        name = str(dtype).removeprefix("torch.")
        is_bf16 = dtype == torch.bfloat16
        super().__init__(None if is_bf16 else f"the native kernels compute in bfloat16, not in {name}", note)
        self.packs_fp32 = dtype == torch.float32
        self.level = library.level
        self.version = library.path.stem  # a hash of source, compiler and level
        self._library = library
        self._dtype = dtype

    def join_rows(self, columns: int) -> JoinRows:
        return self._kernel(rows.join_rows, columns) or super().join_rows(columns)

    def prepare_rows(self, columns: int) -> PrepareRows:
        return self._kernel(rows.apply_prologue, columns) or super().prepare_rows(columns)

    def gate_rows(self, columns: int) -> GateRows:
        return self._kernel(rows.gate_rows, columns) or super().gate_rows(columns)

    def bound_rows(self, columns: int) -> BoundRows:
        return self._kernel(rows.bound_rows, columns) or super().bound_rows(columns)

    def copy_heads(self, columns: int) -> CopyHeads:
        return self._kernel(rows.copy_heads, columns) or super().copy_heads(columns)

    def head_product(self, in_features: int, out_features: int) -> HeadProduct:
        if self._dtype != torch.bfloat16 or not self._supports(in_features, out_features):
            return super().head_product(in_features, out_features)
        functions = (pack_heads, multiply_heads, unpack_heads)
        return HeadProduct(*(functools.partial(function, library=self._library) for function in functions))

    def experts(self, layer: ExpertLayer) -> Experts:
        pairs = [expert.packed for expert in layer.experts]
        packed = [(up, down) for up, down in pairs if isinstance(up, PackedLinear) and isinstance(down, PackedLinear)]
        if len(packed) < len(pairs) or not supports_experts(packed):
            return super().experts(layer)
        if not self._supports(layer.router.weight.shape[1], packed[0][0].columns):
            return super().experts(layer)
        return NativeExperts(layer, packed, library=self._library)

    def convolve(self, kernel_size: int, channels: int) -> Convolve:
        kernel = self._kernel(recurrence.convolve, channels) if kernel_size <= recurrence.MAX_KERNEL_SIZE else None
        return kernel or super().convolve(kernel_size, channels)

    def gated_delta(self, spec: GatedDeltaSpec) -> RunGatedDelta:
        kernel = self._kernel(recurrence.run_gated_delta, spec.key_dim, spec.value_dim)
        return super().gated_delta(spec) if kernel is None else functools.partial(kernel, spec=spec)

    def state_space(self, spec: StateSpaceSpec) -> RunStateSpace:
        norm_size = spec.inner_size // spec.num_norms
        kernel = self._kernel(recurrence.run_state_space, spec.state_size, spec.head_dim, norm_size)
        return super().state_space(spec) if kernel is None else functools.partial(kernel, spec=spec)

    def selective_scan(self, channels: int, state_size: int) -> RunSelectiveScan:
        kernel = self._kernel(recurrence.run_selective_scan, channels, state_size)
        return kernel or super().selective_scan(channels, state_size)

    def linear_unit(self, channels: int) -> RunLinearUnit:
        return self._kernel(recurrence.run_linear_unit, channels) or super().linear_unit(channels)

    def shift_rows(self, channels: int) -> ShiftRows:
        return self._kernel(recurrence.shift_rows, channels) or super().shift_rows(channels)

    def generalized_delta(self, spec: GeneralizedDeltaSpec) -> RunGeneralizedDelta:
        kernel = self._kernel(recurrence.run_generalized_delta, spec.head_dim)
        return super().generalized_delta(spec) if kernel is None else functools.partial(kernel, spec=spec)

    def logits(self) -> LogitOperations:
        return CpuLogitOperations(self._library)

    def _kernel(self, function: Callable[..., T], *sizes: int) -> Callable[..., T] | None:
        """Bind a kernel's Python wrapper to the library; return None if the kernels do not support the sizes."""
        return functools.partial(function, library=self._library) if self._supports(*sizes) else None

    def _supports(self, *sizes: int) -> bool:
        return self._dtype in _DTYPES and all(size % _LANES == 0 for size in sizes)


class CpuLogitOperations(LogitOperations):
    """Sampling from logits, and masking of logits, in CPU memory by C++ kernels (src/rows/sample.cpp)."""

    def __init__(self, library: KernelLibrary) -> None:
        self._library = library

    def best_ids(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.empty(len(logits), dtype=torch.int64)
        values = torch.empty(len(logits), dtype=torch.float32)
        self._library.best_ids(*_rows(logits), ids.data_ptr(), values.data_ptr())
        return values, ids

    def log_sums(self, logits: torch.Tensor) -> torch.Tensor:
        sums = torch.empty(len(logits), dtype=torch.float32)
        self._library.log_sums(*_rows(logits), sums.data_ptr())
        return sums

    def top_ids(self, logits: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = len(logits), min(top, logits.shape[1])
        ids, values = torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.float32)
        self._library.top_ids(*_rows(logits), shape[1], ids.data_ptr(), values.data_ptr())
        return values, ids

    def top1_probs(self, logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        probs = torch.empty(len(logits), dtype=torch.float32)
        self._library.top1_probs(*_rows(logits), values.data_ptr(), probs.data_ptr())
        return probs

    def draw_ids(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        ids = torch.empty(len(logits), dtype=torch.int64)
        limits = torch.frombuffer(array("d", chain.from_iterable(draws)), dtype=torch.float64)
        self._library.draw_ids(*_rows(logits), limits.data_ptr(), ids.data_ptr())
        result: list[int] = ids.tolist()
        return result

    def mask_rows(self, logits: torch.Tensor, rows: Sequence[int], masks: torch.Tensor) -> None:
        indices = array("q", rows)
        address, _ = indices.buffer_info()
        stride, (_, num_columns) = logits.stride(0), logits.shape
        masks_address, num_words = masks.data_ptr(), masks.shape[1]
        self._library.mask_rows(logits.data_ptr(), stride, num_columns, address, len(rows), masks_address, num_words)


def _rows(logits: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the address, stride and shape of the logits."""
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    return logits.data_ptr(), logits.stride(0), *logits.shape
