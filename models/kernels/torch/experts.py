"""Mixture of experts in torch: the rows of each chosen expert are computed together."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F

from models.architecture.feed_forward import GroupScore, RouterScore, RouterSpec
from models.kernels.operands import Expert, ExpertLayer, LatentExperts, RouterWeights, SharedExpert
from models.kernels.row_input import IDENTITY, Prologue


def route(spec: RouterSpec, weights: RouterWeights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts for the rows x [T, K]. Returns experts [T, chosen] int64, and their weights [T, chosen] fp32."""
    logits = F.linear(x.to(torch.float32), weights.weight, weights.bias)  # [T, E]
    if spec.score is RouterScore.SPARSEMIXER:
        experts, chosen = _chosen_in_turn(spec, logits)
    else:
        experts, chosen = _chosen_by_score(spec, weights, logits)
    return experts, chosen if weights.expert_scale is None else chosen * weights.expert_scale[experts]


def _chosen_by_score(
    spec: RouterSpec, weights: RouterWeights, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts by softmax or sigmoid. Returns what `route` returns."""
    scores = logits.softmax(dim=-1) if spec.score is RouterScore.SOFTMAX else logits.sigmoid()
    rated = scores if weights.correction is None else scores + weights.correction
    if spec.num_groups > 1:
        rated = rated.masked_fill(~_in_best_groups(rated, spec), float("-inf"))
    experts = rated.topk(spec.experts_per_token, dim=-1).indices
    chosen = scores.gather(-1, experts)
    if spec.renormalizes:
        chosen = chosen / chosen.sum(dim=-1, keepdim=True).clamp_min(spec.sum_floor)
    return experts, chosen * spec.scale


def _chosen_in_turn(spec: RouterSpec, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts like SparseMixer (Liu, Gao and Chen 2024). Returns what `route` returns."""
    left, experts, weights = logits, [], []
    for _ in range(spec.experts_per_token):
        best, expert = left.max(dim=-1, keepdim=True)
        is_far = (best - logits) / logits.abs().clamp(min=best) > 2 * spec.jitter
        experts.append(expert)
        weights.append(left.masked_fill(is_far, float("-inf")).softmax(dim=-1).gather(-1, expert))
        left = left.scatter(-1, expert, float("-inf"))
    return torch.cat(experts, dim=-1), torch.cat(weights, dim=-1)


def _in_best_groups(rated: torch.Tensor, spec: RouterSpec) -> torch.Tensor:
    """Return a mask [T, E] of the experts in each row's best groups of experts. rated: the experts' scores, [T, E]."""
    groups = rated.unflatten(-1, (spec.num_groups, -1))  # [T, G, E / G]
    if spec.group_score is GroupScore.BEST:
        of_group = groups.amax(dim=-1)
    else:
        of_group = groups.topk(2, dim=-1).values.sum(dim=-1)
    best = of_group.topk(spec.groups_per_token, dim=-1).indices
    chosen = torch.zeros_like(of_group, dtype=torch.bool).scatter_(-1, best, True)  # [T, G]
    return chosen.unsqueeze(-1).expand_as(groups).flatten(-2)


class MixedExperts(ABC):
    """A mixture of experts; Experts in ops.py has the details. Norms and experts are left to the implementation."""

    def __init__(self, layer: ExpertLayer) -> None:
        self._layer = layer

    def __call__(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None,
        shared: SharedExpert | None,
        latent: LatentExperts | None = None,
    ) -> torch.Tensor:
        rows, router_norm = self._prepare(x, norm), self._layer.router_norm
        router_rows = rows if router_norm is None else self._prepare(x, router_norm)
        total = self._routed(router_rows, rows if latent is None else latent.enter(rows))
        if latent is not None:
            total = latent.leave(total.to(rows.dtype), None, torch.float32)
        if shared is not None:
            output, gate = shared(rows, None).to(torch.float32), self._layer.router.shared_gate
            total += output if gate is None else output * F.linear(rows.to(torch.float32), gate).sigmoid()
        return total.to(x.dtype) if residual is None else (residual + total).to(residual.dtype)

    @abstractmethod
    def _prepare(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        """Apply a norm to rows."""

    @abstractmethod
    def _routed(self, rows: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the chosen experts' outputs for `inputs`: of their shape, fp32. The rows [T, K]
        choose the experts."""


class RoutedExperts(MixedExperts):
    """A mixture of experts in torch. Computes the experts in turn, each for all rows that are routed to it."""

    def _prepare(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        return norm(x)

    def _routed(self, rows: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        layer = self._layer
        experts, weights = route(layer.spec, layer.router, rows)  # [T, chosen]
        order = experts.flatten().argsort(stable=True)  # pairs of row and expert, expert by expert
        counts = experts.flatten().bincount(minlength=len(layer.experts))
        layer.rows_per_expert.add_(counts)
        row_of_pair = order // experts.shape[1]
        weight_of_pair = weights.flatten()[order].unsqueeze(-1)  # [T * chosen, 1]
        total = torch.zeros(inputs.shape, dtype=torch.float32, device=rows.device)
        start = 0
        for expert, count in zip(layer.experts, counts.tolist(), strict=True):
            if count == 0:
                continue
            chosen, weight = row_of_pair[start : start + count], weight_of_pair[start : start + count]
            total.index_add_(0, chosen, self._weighted(expert, inputs[chosen], weight))
            start += count
        return total

    def _weighted(self, expert: Expert, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return one expert's outputs for `rows` [n, K], scaled by the router's `weight` [n, 1]: fp32."""
        if self._layer.spec.scales_input:
            return expert((rows * weight).to(rows.dtype), IDENTITY).to(torch.float32)
        return expert(rows, IDENTITY).to(torch.float32) * weight
