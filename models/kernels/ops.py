"""Operations: the arithmetic of decoder layers besides attention and linear layers, by device.

The class Operations computes in torch, by functions in `models/kernels/torch/`, and runs anywhere. Subclasses override
the methods that they have kernels for: CpuOperations in `models/kernels/cpu/operations.py`, and TritonOperations, for
GPUs, in `models/kernels/triton/operations.py`. `select_operations` chooses a class once for a model. Layers bind their
operations when they are built, with the sizes that decide whether a kernel supports them, so that a call decides
nothing.
"""

import functools
import pkgutil
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch

from models.architecture.recurrence import GatedDeltaSpec, GeneralizedDeltaSpec, StateSpaceSpec
from models.batch import StateGroupBatch
from models.kernels.cpu.arena import HugePageArena
from models.kernels.operands import (
    DeltaGates,
    DeltaWeights,
    ExpertLayer,
    GeneralizedDeltaRows,
    GeneralizedDeltaWeights,
    LatentExperts,
    ScanInputs,
    ScanWeights,
    SharedExpert,
    StateSpaceWeights,
    UnitInputs,
    UnitWeights,
)
from models.kernels.row_input import Prologue
from models.kernels.torch import (
    causal_conv,
    experts,
    gated_delta,
    generalized_delta,
    linear_unit,
    rows,
    selective_scan,
    state_space,
    token_shift,
)
from models.kernels.torch.linear import LinearOperations
from models.kernels.torch.logits import LogitOperations
from models.progress import ProgressReport, ignore_report

OnCompiled = Callable[[int, int], None]  # (compiled files, all files)

# Device type -> the function that makes its operations, (dtype, device, on_compiled) -> Operations. Imported only when
# needed, since it may compile or load a library. Other devices use torch's.
COLUMNS: Mapping[str, str] = {
    "cpu": "models.kernels.cpu.operations:cpu_operations",
    "cuda": "models.kernels.triton.operations:triton_operations",
}

# (x, prologue) -> what the prologue makes of x: [T, K] fp32.
PrepareRows = Callable[[torch.Tensor, Prologue], torch.Tensor]
# (x [T, K], gate [T, G]) -> x times sigmoid(gate), each gate for K / G neighboring columns. x is contiguous, and may be
# overwritten.
GateRows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# (x [T, K], limit) -> x bounded to +-limit. x is contiguous, and may be overwritten.
BoundRows = Callable[[torch.Tensor, float], torch.Tensor]
# (rows [T, 2 K] of a gate and up, deviations) -> rows with the gates above mean + deviations, less that, or 0.
SparseGates = Callable[[torch.Tensor, float], torch.Tensor]
# (x, out), [T, H, K] each: out becomes x. Rows and heads of both may be strided.
CopyHeads = Callable[[torch.Tensor, torch.Tensor], None]


class JoinRows(Protocol):
    def __call__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        norm: Prologue,
        *,
        skip: float = 1.0,
        scale: float = 1.0,
        norms_sum: bool = False,
    ) -> torch.Tensor:
        """Return skip * x + scale * norm(y), or norm(skip * x + scale * y) with `norms_sum`: [T, K].

        x, y: contiguous; x may be overwritten.
        """


class HeadProduct(NamedTuple):
    """Functions for products with a matrix W[h] per head.

    pack: (W [H, out, in], arena or None) -> the weight that `multiply` takes, of the same shape. multiply: (weight, x
    [T, H, in], out [T, H, out]) writes W[h] x[t, h] to out. Rows and heads of x and out may be strided.
    unpack: weight -> W.
    """

    pack: Callable[[torch.Tensor, HugePageArena | None], torch.Tensor]
    multiply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
    unpack: Callable[[torch.Tensor], torch.Tensor]


class Experts(Protocol):
    def __call__(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None,
        shared: SharedExpert | None,
        latent: LatentExperts | None = None,
    ) -> torch.Tensor:
        """Return the chosen experts' outputs for norm(x) and the shared expert's, added to the residual: [T, K].

        x: [T, K]. residual: may be overwritten, and may be x. The result has the residual's dtype, or x's without one.
        """


class Convolve(Protocol):
    def __call__(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        state: torch.Tensor,
        group: StateGroupBatch,
        *,
        bias: torch.Tensor | None = None,
        gates: tuple[torch.Tensor, torch.Tensor] | None = None,
        has_silu: bool = False,
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        """Return y[t] = sum over j of weight[j] * rows[t - (K - 1) + j], plus bias: [T, C].

        rows: [T, C]. weight: [K, C] fp32. state: [blocks, K - 1, C], the last inputs, read at the group's sources and
        written at its targets. gates: the first multiplies the rows, the second y; both are views of the same tensor as
        rows. out_dtype: fp32 or that of rows.
        """


class RunGatedDelta(Protocol):
    def __call__(
        self,
        qkv: torch.Tensor,
        gates: DeltaGates,
        weights: DeltaWeights,
        state: torch.Tensor,
        group: StateGroupBatch,
    ) -> torch.Tensor:
        """Return norm(y) * silu(z), or sigmoid(z), with y by the gated delta rule: [T, H * V] in z's dtype.

        qkv: [T, channels of queries, keys and values] fp32, after the convolution. state: [blocks, H, K, V] fp32, read
        at the group's sources and written at its targets.
        """


class RunStateSpace(Protocol):
    def __call__(
        self,
        xbc: torch.Tensor,
        z: torch.Tensor,
        steps: torch.Tensor | None,
        weights: StateSpaceWeights,
        state: torch.Tensor,
        group: StateGroupBatch,
    ) -> torch.Tensor:
        """Return the input of `out` by a state space (StateSpaceSpec): [T, H * P] in z's dtype.

        xbc: [T, channels of x, B and C] fp32, after the convolution. z: [T, H * P] and steps: [T, H], views of the same
        tensor; steps are None with fixed decays. state: [blocks, H, N, P] fp32, read at the group's sources and
        written at its targets.
        """


class RunSelectiveScan(Protocol):
    def __call__(
        self, inputs: ScanInputs, weights: ScanWeights, state: torch.Tensor, group: StateGroupBatch
    ) -> torch.Tensor:
        """Return y * silu(z) with y by the selective scan (SelectiveScanSpec): [T, channels] in z's dtype.

        state: [blocks, N, channels] fp32, read at the group's sources and written at its targets.
        """


class RunLinearUnit(Protocol):
    def __call__(
        self, inputs: UnitInputs, weights: UnitWeights, state: torch.Tensor, group: StateGroupBatch
    ) -> torch.Tensor:
        """Return h * gelu(z) with h by the gated linear recurrent unit (LinearUnitSpec): [T, channels] in z's dtype.

        state: [blocks, channels] fp32, read at the group's sources and written at its targets.
        """


class ShiftRows(Protocol):
    def __call__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        state: torch.Tensor,
        group: StateGroupBatch,
        *,
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        """Return x[t] + weight[n] * (x[t - 1] - x[t]) for each n: [n, T, C].

        x: [T, C] fp32. weight: [n, C] fp32. state: [blocks, 1, C] fp32, the last x, read at the group's sources (0 for
        a new sequence) and written at its targets.
        """


class RunGeneralizedDelta(Protocol):
    def __call__(
        self, rows: GeneralizedDeltaRows, weights: GeneralizedDeltaWeights, state: torch.Tensor, group: StateGroupBatch
    ) -> torch.Tensor:
        """Return the input of `out` by the generalized delta rule: [T, H * K] in the rows' dtype.

        state: [blocks, H, K, K] fp32, read at the group's sources and written at its targets.
        """


class Operations:
    """The operations of decoder layers, computed by torch; the base class of implementations by kernels.

    A layer calls each method once, when it is built, with its sizes, and gets the function to call in every step.
    """

    name = "torch"
    level = "torch"  # instruction set of the kernels, or the library that computes instead

    def __init__(self, packing_refusal: str | None = "torch computes all layers", note: str = "") -> None:
        """packing_refusal: the reason why linear layers cannot use packed weights of every format; None if they can.

        note: a start-up note about the kernels.
        """
        self.packing_refusal = packing_refusal
        self.note = note
        self.version = f"torch {torch.__version__}"  # changes if results may change
        self.packs_fp32 = False  # whether linear layers can have packed fp32 weights

    def join_rows(self, columns: int) -> JoinRows:  # noqa: ARG002
        return rows.join_rows

    def prepare_rows(self, columns: int) -> PrepareRows:  # noqa: ARG002
        return rows.prepare_rows

    def gate_rows(self, columns: int) -> GateRows:  # noqa: ARG002
        """columns: how many neighbors there are for each gate, or all, if there is a gate for each."""
        return rows.gate_rows

    def bound_rows(self, columns: int) -> BoundRows:  # noqa: ARG002
        return rows.bound_rows

    def sparse_gates(self) -> SparseGates:
        return rows.sparse_gates

    def copy_heads(self, columns: int) -> CopyHeads:  # noqa: ARG002
        return rows.copy_heads

    def head_product(self, in_features: int, out_features: int) -> HeadProduct:  # noqa: ARG002
        return HeadProduct(lambda weight, _: weight, rows.multiply_heads, lambda weight: weight)

    def experts(self, layer: ExpertLayer) -> Experts:
        """Return the function that computes the MoE layer. Must be called after its weights are loaded."""
        return experts.RoutedExperts(layer)

    def convolve(self, kernel_size: int, channels: int) -> Convolve:  # noqa: ARG002
        return causal_conv.convolve

    def gated_delta(self, spec: GatedDeltaSpec) -> RunGatedDelta:
        return functools.partial(gated_delta.run_gated_delta, spec=spec)

    def state_space(self, spec: StateSpaceSpec) -> RunStateSpace:
        return functools.partial(state_space.run_state_space, spec=spec)

    def selective_scan(self, channels: int, state_size: int) -> RunSelectiveScan:  # noqa: ARG002
        return selective_scan.run_selective_scan

    def linear_unit(self, channels: int) -> RunLinearUnit:  # noqa: ARG002
        return linear_unit.run_linear_unit

    def shift_rows(self, channels: int) -> ShiftRows:  # noqa: ARG002
        return token_shift.shift_rows

    def generalized_delta(self, spec: GeneralizedDeltaSpec) -> RunGeneralizedDelta:
        return functools.partial(generalized_delta.run_generalized_delta, spec=spec)

    def linear(self) -> LinearOperations:
        """Return the operations of linear layers whose weights are not packed."""
        return LinearOperations()

    def logits(self) -> LogitOperations:
        """Return the operations on logits, for the sampler."""
        return LogitOperations()


def select_operations(dtype: torch.dtype, device: torch.device, progress: ProgressReport = ignore_report) -> Operations:
    """Return the operations for computing in `dtype` on `device`.

    progress: called with ("compile kernels", done, all, "files") while missing kernels are compiled.
    """
    if (path := COLUMNS.get(device.type)) is None:
        return Operations(f"the native kernels run on the CPU, not on {device}")
    make = pkgutil.resolve_name(path)
    operations: Operations = make(dtype, device, lambda done, total: progress("compile kernels", done, total, "files"))
    return operations
