"""Arguments of the operations in `ops.py` that consist of several tensors or modules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from models.architecture.feed_forward import RouterSpec
from models.kernels.coded_weight import CodedWeight
from models.kernels.row_input import Prologue


class DeltaGates(NamedTuple):
    """Gates of the gated delta rule: z of the output, b of the update, a of the decay. Rows may be strided."""

    z: torch.Tensor  # [T, H * V]
    b: torch.Tensor  # [T, H]
    a: torch.Tensor  # [T, H], or [T, H * K] for a decay per key channel


class DeltaWeights(NamedTuple):
    """Parameters of the gated delta rule, in fp32."""

    A_log: torch.Tensor  # [H]
    dt_bias: torch.Tensor  # [H] or [H * K], as a
    norm_weight: torch.Tensor  # [V], of an RMS norm
    norm_eps: float


class StateSpaceWeights(NamedTuple):
    """Parameters of a state space with one decay per head, in fp32. dt_bias, D: None with fixed decays."""

    A_log: torch.Tensor  # [H]
    dt_bias: torch.Tensor | None  # [H]
    D: torch.Tensor | None  # [H]
    norm_weight: torch.Tensor | None  # [H * P], of an RMS norm of each group


class ScanInputs(NamedTuple):
    """Rows of the selective scan: x and the steps before softplus in fp32; B and C in fp32, views of one tensor."""

    x: torch.Tensor  # [T, channels]
    steps: torch.Tensor  # [T, channels]
    b: torch.Tensor  # [T, N]
    c: torch.Tensor  # [T, N]
    z: torch.Tensor  # [T, channels], of the gate; in the dtype of activations


class ScanWeights(NamedTuple):
    """Parameters of the selective scan, in fp32."""

    A: torch.Tensor  # [N, channels], -exp(A_log)
    D: torch.Tensor  # [channels]
    b_norm: torch.Tensor | None  # [N], weights of RMS norms
    c_norm: torch.Tensor | None
    norm_eps: float = 0.0


class UnitInputs(NamedTuple):
    """Rows of a gated linear recurrent unit: x, its products with the gates' matrices, and z of the output's gate."""

    x: torch.Tensor  # [T, channels]
    input_gate: torch.Tensor  # [T, channels], before bias and sigmoid
    decay_gate: torch.Tensor  # [T, channels]
    z: torch.Tensor  # [T, channels]; rows may be strided


class UnitWeights(NamedTuple):
    """Parameters of a gated linear recurrent unit, [channels] each, in fp32."""

    input_bias: torch.Tensor
    decay_bias: torch.Tensor
    rate: torch.Tensor  # before softplus


class GeneralizedDeltaRows(NamedTuple):
    """Rows of the generalized delta rule: [T, H * K] each, contiguous and of one dtype. `decay`, `rate` and
    `first_rate` are before their sigmoid; the last two are None in the first layer."""

    q: torch.Tensor
    decay: torch.Tensor  # in_w
    k: torch.Tensor
    v: torch.Tensor
    rate: torch.Tensor  # in_a
    gate: torch.Tensor
    first_rate: torch.Tensor | None = None  # in_f
    first_values: torch.Tensor | None = None


class GeneralizedDeltaWeights(NamedTuple):
    """Parameters of the generalized delta rule, [H * K] each, in fp32."""

    k_k: torch.Tensor
    k_a: torch.Tensor
    r_k: torch.Tensor
    norm_weight: torch.Tensor  # of a layer norm over a head
    norm_bias: torch.Tensor
    norm_eps: float


class RouterWeights(NamedTuple):
    """Parameters of an MoE router: fp32, contiguous."""

    weight: torch.Tensor  # [E, K]
    bias: torch.Tensor | None = None  # [E]
    correction: torch.Tensor | None = None  # [E]
    shared_gate: torch.Tensor | None = None  # [1, K], of the shared expert
    expert_scale: torch.Tensor | None = None  # [E]


class DenseMatrix(NamedTuple):
    """A linear layer's weight [out, in] in the dtype of activations, and its bias [out]."""

    weight: torch.Tensor
    bias: torch.Tensor | None


class CodedMatrix(NamedTuple):
    """A linear layer's quantized weight as a GPU multiplies it, and its bias [out].

    dtype: of activations. replace: gives the layer another memory of the same weight.
    """

    weight: CodedWeight
    bias: torch.Tensor | None
    dtype: torch.dtype
    replace: Callable[[CodedWeight], None]


class Expert(Protocol):
    """An expert of an MoE layer: an MLP."""

    activation: Prologue

    @property
    def packed(self) -> tuple[object | None, object | None]:
        """The packed weights of the layers before and after the activation; None for a layer that torch multiplies."""

    @property
    def dense(self) -> tuple[DenseMatrix, DenseMatrix] | None:
        """The layers before and after the activation, if their weights are neither packed nor quantized."""

    @property
    def coded(self) -> tuple[CodedMatrix, CodedMatrix] | None:
        """The layers before and after the activation, if each has one quantized matrix that takes rows as they are."""

    def __call__(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLayer:
    """An MoE layer's router and experts, with weights that are loaded and do not move.

    rows_per_expert: [E] int64; each call adds the number of rows that each expert computed. router_norm: of
    the router's input, if it differs from the experts'.
    """

    spec: RouterSpec
    router: RouterWeights
    experts: Sequence[Expert]
    rows_per_expert: torch.Tensor
    router_norm: Prologue | None = None


# (rows, residual or None) -> the output of the shared expert (+ the residual, overwritten): [T, K].
SharedExpert = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


class LatentExperts(NamedTuple):
    """Projections around experts that compute in another size than the layer's.

    enter: rows [T, K] -> the experts' input [T, latent], in the rows' dtype. leave: (their sum [T, latent], residual or
    None, dtype) -> [T, K] in that dtype, plus the residual, which may be overwritten.
    """

    enter: Callable[[torch.Tensor], torch.Tensor]
    leave: Callable[[torch.Tensor, torch.Tensor | None, torch.dtype], torch.Tensor]


class Draw(NamedTuple):
    """Sampling parameters of a row (top_k 0, top_p 1 and min_p 0 are off), and its random number in [0, 1)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


@dataclass(frozen=True, slots=True, eq=False)
class LowRankChange:
    """A LoRA pair as applied: outputs first .. first + len(b) - 1 of a layer become gain * y + b (a x) + shift."""

    first: int
    a: torch.Tensor  # [r, in], of any float type; several changes of a layer may share it
    b: torch.Tensor  # [rows, r]
    gain: torch.Tensor | None = None  # [rows]
    shift: torch.Tensor | None = None  # [rows]


class LowRankStack(NamedTuple):
    """The LoRA pairs of a layer in all adapter slots, whose addresses do not change with their contents.

    A part is a range of outputs with a pair of its own. Its outputs become gain * y + b (a x) + shift, without scaling
    a residual. Ranks from `ranks` on are not read. largest_part: the most outputs of a part.
    """

    a: torch.Tensor  # [slots, parts, most ranks, in]
    b: torch.Tensor  # [slots, out, most ranks]
    ranks: torch.Tensor  # [slots, parts] int32, 0 for parts without a pair
    parts: torch.Tensor  # [parts, 2] int32, first output and number of outputs
    largest_part: int
    vectors: torch.Tensor | None = None  # [slots, 2, out] fp32, gains and shifts; None: no adapter has any
