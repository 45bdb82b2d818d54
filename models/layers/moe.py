"""Mixture of experts: a router sends each row to a few of many MLPs, the experts.

An expert is a pair of ordinary Linear layers, so every quantization and kernel works for it. The operation that
computes the experts groups rows, so that each chosen expert's weights are read once a step.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec, MoESpec, RouterSpec
from models.compute import ComputeConfig
from models.kernels.operands import ExpertLayer, LatentExperts, RouterWeights, SharedExpert
from models.kernels.ops import Experts
from models.kernels.row_input import IDENTITY, Prologue
from models.kernels.torch.experts import RoutedExperts
from models.layers.mlp import MLP
from models.layers.norm import Norm
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class Router(nn.Module):
    """Parameters of the MoE router, in fp32 so that rounding does not decide between experts with close scores."""

    correction: torch.Tensor | None
    bias: torch.Tensor | None
    expert_scale: torch.Tensor | None

    def __init__(self, spec: RouterSpec, num_experts: int, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = empty_parameter((num_experts, hidden_size), torch.float32)
        self.register_parameter("bias", empty_parameter((num_experts,), torch.float32) if spec.has_bias else None)
        correction = empty_parameter((num_experts,), torch.float32) if spec.has_correction else None
        self.register_parameter("correction", correction)
        scale = empty_parameter((num_experts,), torch.float32) if spec.has_expert_scale else None
        self.register_parameter("expert_scale", scale)
        self.norm = None if spec.norm is None else Norm(spec.norm, hidden_size)


class MoE(nn.Module):
    """A router, its experts, and possibly a shared expert, which computes every row.

    rows_per_expert: counts of the rows that each expert computed, [E] int64; reset by ExpertCounts.
    """

    def __init__(self, spec: MoESpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        assert spec.expert.inner_norm is None, "kernels of experts have no norm there"
        assert spec.router.norm is None or spec.shared is spec.latent_size is None
        assert spec.expert.gate_sparsity == 0.0
        self._ops = compute.ops
        self.router = Router(spec.router, spec.num_experts, hidden_size)
        self.experts = nn.ModuleList(
            MLP(spec.expert, spec.latent_size or hidden_size, compute=compute, method=method)
            for _ in range(spec.num_experts)
        )
        self.latent_down: Linear | None = None
        self.latent_up: Linear | None = None
        if (size := spec.latent_size) is not None:
            assert not spec.has_shared_gate, "it multiplies the shared output where the experts' outputs are added"
            self.latent_down = Linear(hidden_size, size, has_bias=spec.has_latent_bias, method=method)
            self.latent_up = Linear(size, hidden_size, has_bias=spec.has_latent_bias, method=method)
        self.shared: MLP | None = None
        if spec.shared is not None:
            self.shared = MLP(spec.shared, hidden_size, compute=compute, method=method)
        self.shared_gate = empty_parameter((1, hidden_size), torch.float32) if spec.has_shared_gate else None
        self.rows_per_expert = torch.zeros(spec.num_experts, dtype=torch.int64, device="cpu")

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return MoE(norm(x)) (+ residual): [T, hidden]. residual: may be overwritten, and may be x.

        adapter_slots: each row's adapter slot, [T] int32, or None; the experts have no adapters.
        """
        return self._experts(x, norm, residual, self._shared_expert(adapter_slots), self._latent(adapter_slots))

    @property
    def is_in_torch(self) -> bool:
        """Whether torch computes router and experts, since no kernel takes them. Known after loading."""
        return isinstance(self._experts, RoutedExperts)

    def _shared_expert(self, adapter_slots: torch.Tensor | None) -> SharedExpert | None:
        if (shared := self.shared) is None:
            return None
        return lambda rows, added: shared(rows, IDENTITY, added, adapter_slots)

    def _latent(self, adapter_slots: torch.Tensor | None) -> LatentExperts | None:
        if (down := self.latent_down) is None or (up := self.latent_up) is None:
            return None
        return LatentExperts(
            lambda rows: down(rows, adapter_slots=adapter_slots),
            lambda mixed, added, dtype: up(mixed, residual=added, out_dtype=dtype, adapter_slots=adapter_slots),
        )

    @cached_property
    def _experts(self) -> Experts:
        """The function that computes the experts. Made after loading, since it may keep the weights' addresses."""
        router = self.router
        weights = RouterWeights(router.weight, router.bias, router.correction, self.shared_gate, router.expert_scale)
        layer = ExpertLayer(router.spec, weights, list(self.experts), self.rows_per_expert, router.norm)
        return self._ops.experts(layer)


class ExpertCounts:
    """Counts of the rows that each expert computed, in one tensor; the layers' `rows_per_expert` are views of it."""

    def __init__(self, layers: Sequence[MoE], device: torch.device) -> None:
        """layers: before their first forward; they are not kept. device: where they compute."""
        self.num_experts = [len(moe.rows_per_expert) for moe in layers]  # of each layer with experts
        shape = len(layers), max(self.num_experts, default=0)
        self._rows = torch.zeros(shape, dtype=torch.int64, device=device)
        for moe, rows, num_experts in zip(layers, self._rows, self.num_experts, strict=True):
            moe.rows_per_expert = rows[:num_experts]

    def take(self) -> torch.Tensor:
        """Return the counts since the last call, [MoE layers, largest number of experts] int64 on the CPU, and reset
        them. Waits for the device."""
        taken = self._rows.to("cpu", copy=True)
        self._rows.zero_()
        return taken


def make_feed_forward(
    spec: MLPSpec | MoESpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
) -> MLP | MoE:
    if isinstance(spec, MoESpec):
        return MoE(spec, hidden_size, compute=compute, method=method)
    return MLP(spec, hidden_size, compute=compute, method=method)
