"""Mixture of experts: a router sends each row to a few of many MLPs.

Rows are grouped by expert, so that each chosen expert's weights are read once a step. An expert is a pair of ordinary
Linear layers, so every quantization and kernel works for it. Where these are native, one call does the routing, the
grouping and the sums too, so that a step can be recorded although the choice depends on the data.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.feed_forward import GroupScore, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.moe import NativeExperts, RouterWeights, supports_experts
from models.kernels.cpu.rows import prepare_rows, supports_rows
from models.kernels.row_input import RowInput
from models.layers.mlp import MLP, make_mlp
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod
from models.linear.native import NativeLinearMethod
from models.linear.prologue import IDENTITY, Prologue


class Router(nn.Module):
    """Chooses experts. Stored and computed in fp32: a choice between two near experts must not depend on rounding."""

    correction: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, spec: RouterSpec, num_experts: int, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = empty_parameter((num_experts, hidden_size), torch.float32)
        self.register_parameter("bias", empty_parameter((num_experts,), torch.float32) if spec.has_bias else None)
        correction = empty_parameter((num_experts,), torch.float32) if spec.has_correction else None
        self.register_parameter("correction", correction)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [T, hidden] -> experts [T, k] int64 and their weights [T, k] fp32."""
        spec = self.spec
        logits = F.linear(x.to(torch.float32), self.weight, self.bias)  # [T, E]
        scores = logits.softmax(dim=-1) if spec.score is RouterScore.SOFTMAX else logits.sigmoid()
        rated = scores if self.correction is None else scores + self.correction
        if spec.num_groups > 1:
            rated = rated.masked_fill(~_in_best_groups(rated, spec), float("-inf"))
        experts = rated.topk(spec.experts_per_token, dim=-1).indices
        weights = scores.gather(-1, experts)
        if spec.renormalizes:
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-20)
        return experts, weights * spec.scale


def _in_best_groups(rated: torch.Tensor, spec: RouterSpec) -> torch.Tensor:
    """[T, E]: whether an expert's group is among the row's best."""
    groups = rated.unflatten(-1, (spec.num_groups, -1))  # [T, G, E / G]
    if spec.group_score is GroupScore.BEST:
        of_group = groups.amax(dim=-1)
    else:
        of_group = groups.topk(2, dim=-1).values.sum(dim=-1)
    best = of_group.topk(spec.groups_per_token, dim=-1).indices
    chosen = torch.zeros_like(of_group, dtype=torch.bool).scatter_(-1, best, True)  # [T, G]
    return chosen.unsqueeze(-1).expand_as(groups).flatten(-2)


class MoE(nn.Module):
    """`rows_per_expert` [E] int64, on the CPU, counts the rows that each expert computed; its owner resets it."""

    def __init__(self, spec: MoESpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype) -> None:
        super().__init__()
        self.router = Router(spec.router, spec.num_experts, hidden_size)
        self.experts = nn.ModuleList(
            make_mlp(spec.expert, hidden_size, method=method, dtype=dtype) for _ in range(spec.num_experts)
        )
        self.shared = None if spec.shared is None else make_mlp(spec.shared, hidden_size, method=method, dtype=dtype)
        self.shared_gate = empty_parameter((1, hidden_size), torch.float32) if spec.has_shared_gate else None
        self.scales_input = spec.router.scales_input
        self.rows_per_expert = torch.zeros(spec.num_experts, dtype=torch.int64, device="cpu")

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """MoE(norm(x)) (+ residual, used up; it may be x): [T, hidden].

        adapter_slots: as Linear.forward takes them; of adapters of the shared expert, since others are refused.
        """
        if self._native is not None and supports_rows(x):
            return self._compute_natively(self._native, x, norm.row_input, residual, adapter_slots)
        rows = norm(x)
        total = self._routed(rows)
        if self.shared is not None:
            shared = self.shared(rows, IDENTITY, adapter_slots=adapter_slots).to(torch.float32)
            total += shared if self.shared_gate is None else shared * self._gate(rows)
        return total.to(x.dtype) if residual is None else (residual + total).to(residual.dtype)

    def _compute_natively(
        self,
        experts: NativeExperts,
        x: torch.Tensor,
        norm: RowInput,
        residual: torch.Tensor | None,
        adapter_slots: torch.Tensor | None,
    ) -> torch.Tensor:
        rows, shared = prepare_rows(x, norm), None
        if self.shared is not None and self.shared_gate is None and residual is not None:
            residual = self.shared(rows, IDENTITY, residual, adapter_slots)
        elif self.shared is not None:
            shared = self.shared(rows, IDENTITY, adapter_slots=adapter_slots)
        out = torch.empty(x.shape, dtype=x.dtype) if residual is None else residual
        experts(rows, shared, out, adds=residual is not None)
        return out

    @cached_property
    def _native(self) -> NativeExperts | None:
        """Bound to the weights' addresses, so only after loading. None if an expert is computed in torch."""
        first: MLP = self.experts[0]
        pairs = [tuple(map(_packed, expert.linears)) for expert in self.experts]
        packed = [(up, down) for up, down in pairs if up is not None and down is not None]
        if len(packed) < len(pairs) or not supports_experts(packed):
            return None
        router = self.router
        weights = RouterWeights(router.weight, router.bias, router.correction, self.shared_gate)
        return NativeExperts(router.spec, weights, packed, first.activation.row_input, self.rows_per_expert)

    def _gate(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, 1]: the shared expert's gate, which its output is multiplied by."""
        assert self.shared_gate is not None
        return F.linear(rows.to(torch.float32), self.shared_gate).sigmoid()

    def _routed(self, rows: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the chosen experts' outputs: [T, hidden], fp32."""
        experts, weights = self.router(rows)  # [T, k]
        order = experts.flatten().argsort(stable=True)  # pairs of row and expert, expert by expert
        counts = experts.flatten().bincount(minlength=len(self.experts)).cpu()
        self.rows_per_expert += counts
        row_of_pair = order // experts.shape[1]
        weight_of_pair = weights.flatten()[order].unsqueeze(-1)  # [T * k, 1]
        total = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        start = 0
        for index, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            chosen, weight = row_of_pair[start : start + count], weight_of_pair[start : start + count]
            total.index_add_(0, chosen, self._weighted(self.experts[index], rows[chosen], weight))
            start += count
        return total

    def _weighted(self, expert: nn.Module, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """One expert's outputs for `rows` [n, hidden], by `weight` [n, 1]: fp32."""
        if self.scales_input:
            return expert((rows * weight).to(rows.dtype), IDENTITY).to(torch.float32)
        outputs: torch.Tensor = expert(rows, IDENTITY).to(torch.float32)
        return outputs * weight


def _packed(linear: Linear) -> PackedLinear | None:
    """What multiplies by the layer's packed weights, or None where they are not packed."""
    return linear.method.multiply if isinstance(linear.method, NativeLinearMethod) else None


def make_feed_forward(
    spec: MLPSpec | MoESpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype
) -> MLP | MoE:
    if isinstance(spec, MoESpec):
        return MoE(spec, hidden_size, method=method, dtype=dtype)
    return make_mlp(spec, hidden_size, method=method, dtype=dtype)
