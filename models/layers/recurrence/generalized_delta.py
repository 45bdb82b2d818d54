"""Linear attention by the generalized delta rule (GeneralizedDeltaSpec): RWKV-7."""

import torch

from models.architecture.recurrence import GeneralizedDeltaSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import GeneralizedDeltaRows, GeneralizedDeltaWeights
from models.kernels.row_input import IDENTITY, Prologue
from models.kv.layer import LayerState
from models.layers.activation import SIGMOID, TANH
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.layers.recurrence.token_shift import TokenShift
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class GeneralizedDelta(Recurrence):
    """Linear attention by the generalized delta rule, as GeneralizedDeltaSpec describes it.

    Parameters: `shift` with the shards q, w, k, v, a and g; the matrices `q`, `k` and `v`; `w_down` and `w_up`, with a
    bias, and so for a and, in all layers but the first, f; `g_down`, `g_up`; `k_k`, `k_a` and `r_k` [channels]; `norm`;
    `out`.
    """

    def __init__(
        self, spec: GeneralizedDeltaSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
    ) -> None:
        super().__init__(compute)
        channels = spec.num_channels

        def down(rank: int) -> Linear:
            return Linear(hidden_size, rank, has_bias=False, method=method)

        def up(rank: int, *, has_bias: bool) -> Linear:
            return Linear(rank, channels, has_bias=has_bias, method=method)

        self.shift = TokenShift(("q", "w", "k", "v", "a", "g"), hidden_size, compute)
        self.q, self.k, self.v = (Linear(hidden_size, channels, has_bias=False, method=method) for _ in range(3))
        self.w_down, self.w_up = down(spec.decay_rank), up(spec.decay_rank, has_bias=True)
        self.a_down, self.a_up = down(spec.rate_rank), up(spec.rate_rank, has_bias=True)
        self.g_down, self.g_up = down(spec.gate_rank), up(spec.gate_rank, has_bias=False)
        self.f_down: Linear | None = None
        self.f_up: Linear | None = None
        if (rank := spec.value_rank) is not None:
            self.f_down, self.f_up = down(rank), up(rank, has_bias=True)
        self.k_k, self.k_a, self.r_k = (empty_parameter((channels,), torch.float32) for _ in range(3))
        self.norm = Norm(spec.norm, channels)  # of each head by itself, as `generalized_delta` computes it
        self.out = Linear(channels, hidden_size, has_bias=False, method=method)
        self._prepare_rows = compute.ops.prepare_rows(hidden_size)
        self._run_generalized_delta = compute.ops.generalized_delta(spec)

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        rotary: RotaryEmbedding | None,  # noqa: ARG002
        batch: ForwardBatch,
        group: StateGroupBatch,
        state: LayerState,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        slots = batch.adapter_slots
        x = self._prepare_rows(x, norm).to(torch.float32)
        rows = self._project(self.shift(x, group, state.parts[0]), batch)
        if (speculative := group.speculative_rows) is not None:
            parts = (x, *(part for part in rows if part is not None))
            state.pending_rows = torch.cat([part[speculative].to(torch.float32) for part in parts], dim=1)
        y = self._run_generalized_delta(rows, self._weights(), state.parts[1], group)
        hidden: torch.Tensor = self.out(y, residual=residual, adapter_slots=slots)
        return hidden

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Run the recurrence over rows that `forward` has kept: its normed input, then GeneralizedDeltaRows."""
        hidden_size, channels = self.q.in_features, self.q.out_features
        x, projected = rows[:, :hidden_size], rows[:, hidden_size:]
        self.shift(x.contiguous(), group, state.parts[0])
        parts = (part.contiguous() for part in projected.split(channels, dim=1))
        return self._run_generalized_delta(GeneralizedDeltaRows(*parts), self._weights(), state.parts[1], group)

    def _project(self, mixed: torch.Tensor, batch: ForwardBatch) -> GeneralizedDeltaRows:
        """Return all products of the mixtures [6, T, hidden]."""
        slots, (q, w, k, v, a, g) = batch.adapter_slots, mixed.unbind(0)

        def product(linear: Linear, rows: torch.Tensor, prologue: Prologue = IDENTITY) -> torch.Tensor:
            out: torch.Tensor = linear(rows, prologue, out_dtype=self._dtype, adapter_slots=slots)
            return out

        values = product(self.v, v)
        first_rate = None
        if self.f_down is None or self.f_up is None:
            batch.first_values.rows = values
        else:
            first_rate = product(self.f_up, product(self.f_down, v))
        return GeneralizedDeltaRows(
            product(self.q, q),
            product(self.w_up, product(self.w_down, w), TANH),
            product(self.k, k),
            values,
            product(self.a_up, product(self.a_down, a)),
            product(self.g_up, product(self.g_down, g), SIGMOID),
            first_rate,
            None if first_rate is None else batch.first_values.rows,
        )

    def _weights(self) -> GeneralizedDeltaWeights:
        norm = self.norm
        assert norm.weight is not None
        assert norm.bias is not None
        return GeneralizedDeltaWeights(self.k_k, self.k_a, self.r_k, norm.weight, norm.bias, norm.eps)
