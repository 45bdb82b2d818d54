"""TritonOperations: operations of decoder layers on a GPU by Triton kernels."""

from collections.abc import Callable

import torch
import triton

from models.kernels.coded_weight import CodedWeight
from models.kernels.operands import ExpertLayer, LowRankStack
from models.kernels.ops import Experts, GateRows, JoinRows, OnCompiled, Operations, PrepareRows
from models.kernels.row_input import InputKind, Prologue
from models.kernels.torch.linear import LinearOperations
from models.kernels.triton.activation import activate_rows, gate_rows
from models.kernels.triton.codes import dequantize_codes, multiply_codes
from models.kernels.triton.experts import GroupedExperts, takes_grouped
from models.kernels.triton.low_rank import add_low_rank
from models.kernels.triton.norm import MAX_COLUMNS, join_rows, norm_rows

_NORMS = (InputKind.RMS_NORM, InputKind.LAYER_NORM)
_FP8_CAPABILITY = (8, 9)
_HALVES = (torch.bfloat16, torch.float16)

# (rows [T, in], weight [out, in]), in 16 bits -> rows W^T [T, out] in fp32.
WideProduct = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def triton_operations(dtype: torch.dtype, device: torch.device, on_compiled: OnCompiled) -> Operations:  # noqa: ARG001
    """Return the operations of a GPU. Triton compiles each kernel when it is first launched."""
    return TritonOperations(device)


class TritonOperations(Operations):
    """Operations by Triton kernels on activations of any dtype; torch computes those that have no kernel."""

    name = level = "triton"

    def __init__(self, device: torch.device) -> None:
        super().__init__(f"the native kernels run on the CPU, not on {device}", f"Kernels: Triton {triton.__version__}")
        self.version = f"triton {triton.__version__}"
        # Only CUDA's product can return its fp32 sums.
        is_cuda = device.type == "cuda"
        is_new = is_cuda and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY
        self._linear = TritonLinearOperations(
            wide_product if is_cuda else emulated_wide_product,
            multiplies_fp8=not is_cuda or is_new,
        )

    def join_rows(self, columns: int) -> JoinRows:
        return _join_rows if columns <= MAX_COLUMNS else super().join_rows(columns)

    def prepare_rows(self, columns: int) -> PrepareRows:  # noqa: ARG002
        return lambda x, prologue: self._linear.prepare(x, prologue, torch.float32)

    def gate_rows(self, columns: int) -> GateRows:  # noqa: ARG002
        return gate_rows

    def experts(self, layer: ExpertLayer) -> Experts:
        return GroupedExperts(layer, self._linear) if takes_grouped(layer) else super().experts(layer)

    def linear(self) -> LinearOperations:
        return self._linear


class TritonLinearOperations(LinearOperations):
    """Operations of linear layers on a GPU: norms and activations in one kernel each, dense products by torch."""

    has_codes = True
    has_adapter_slots = True

    def __init__(self, wide_product: WideProduct, *, multiplies_fp8: bool) -> None:
        self._wide_product, self.multiplies_fp8 = wide_product, multiplies_fp8

    def prepare(self, x: torch.Tensor, prologue: Prologue, dtype: torch.dtype) -> torch.Tensor:
        row_input = prologue.row_input
        if row_input.kind is InputKind.PLAIN:
            return x.to(dtype)
        if row_input.kind not in _NORMS:
            return activate_rows(x, row_input, dtype)
        if x.shape[1] > MAX_COLUMNS:
            return prologue(x).to(dtype)
        return norm_rows(x, row_input, dtype)

    def multiply(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        if residual is None and out_dtype is torch.float32 and rows.dtype in _HALVES:
            y = self._wide_product(rows, weight)
            return y if bias is None else y.add_(bias)
        if residual is not None and residual.dtype == rows.dtype and bias is None:
            return self.finish(residual.addmm_(rows, weight.t()), None, out_dtype)
        return super().multiply(rows, weight, bias, residual, out_dtype)

    def multiply_codes(
        self,
        rows: torch.Tensor,
        weight: CodedWeight,
        out: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> None:
        multiply_codes(rows, weight, out, bias, residual)

    def dequantize_codes(
        self,
        weight: CodedWeight,
        dtype: torch.dtype,
        *,
        ids: torch.Tensor | None = None,
        first: int = 0,
        count: int = 0,
    ) -> torch.Tensor:
        return dequantize_codes(weight, dtype, ids=ids, first=first, count=count)

    def add_low_rank(
        self,
        rows: torch.Tensor,
        slots: torch.Tensor,
        stack: LowRankStack,
        out: torch.Tensor,
        residual: torch.Tensor | None,
    ) -> None:
        add_low_rank(rows, slots, stack, out, residual)


def wide_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply on a CUDA device without rounding the sums: logits that are rounded to bf16 tie."""
    return torch.mm(rows, weight.t(), out_dtype=torch.float32)


def emulated_wide_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply as `wide_product` does, where torch cannot: the factors are widened."""
    return torch.mm(rows.to(torch.float32), weight.t().to(torch.float32))


def _join_rows(
    x: torch.Tensor,
    y: torch.Tensor,
    norm: Prologue,
    *,
    skip: float = 1.0,
    scale: float = 1.0,
    norms_sum: bool = False,
) -> torch.Tensor:
    return join_rows(x, y, norm.row_input, skip=skip, scale=scale, norms_sum=norms_sum)
