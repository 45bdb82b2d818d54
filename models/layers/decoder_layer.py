"""DecoderLayer and ParallelLayer: a layer's attention or recurrence, feed-forward and norms, by its LayerSpec."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.recurrence import GatedDeltaSpec, ShortConvSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, GroupBatch
from models.compute import ComputeConfig
from models.kv.layer import LayerCache
from models.layers.attention import Attention
from models.layers.latent_attention import LatentAttention
from models.layers.mlp import MLP
from models.layers.moe import make_feed_forward
from models.layers.norm import Norm
from models.layers.recurrence.gated_delta import GatedDelta
from models.layers.recurrence.short_conv import ShortConv
from models.layers.residual import NORMS_OF_SUBLAYER, make_residual, skip_sublayer
from models.linear.method import LinearMethod


class DecoderLayer(nn.Module):
    """Attention or a recurrence, then feed-forward, each with a residual. NormPlacement decides which norms exist."""

    attn_norm: nn.Module | None
    attn_post_norm: nn.Module | None
    mlp_norm: nn.Module | None
    mlp_post_norm: nn.Module | None

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        before, after = NORMS_OF_SUBLAYER[spec.placement]
        attn_norm, attn_post_norm, mlp_norm, mlp_post_norm = (
            Norm(spec.norm, hidden_size) if exists else None
            for exists in (before and spec.has_attn_norm, after, before, after)
        )
        self.attn_norm, self.attn_post_norm = attn_norm, attn_post_norm
        self.attn = make_mixer(spec, hidden_size, compute=compute, method=method)
        self.mlp_norm, self.mlp_post_norm = mlp_norm, mlp_post_norm
        self.mlp = make_feed_forward(spec.mlp, hidden_size, compute=compute, method=method)
        self._attn_residual = make_residual(spec, attn_norm, attn_post_norm, hidden_size, compute.ops)
        self._mlp_residual = make_residual(spec, mlp_norm, mlp_post_norm, hidden_size, compute.ops)

    def forward(
        self,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        group: GroupBatch,
        kv: LayerCache,
        output_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the layer's output for x [T, hidden], which may be overwritten.

        output_rows: [L] rows to return, by default all; for the others, the feed-forward sublayer is skipped.
        """
        x = self._attn_residual(
            x, lambda rows, norm, residual: self.attn(rows, norm, rotary, batch, group, kv, residual)
        )
        slots = batch.adapter_slots
        if output_rows is not None:
            x, slots = x[output_rows], None if slots is None else slots[output_rows]
        return self._mlp_residual(x, lambda rows, norm, residual: self.mlp(rows, norm, residual, slots))

    @contextlib.contextmanager
    def without_mlp(self) -> Iterator[None]:
        """Skip the feed-forward sublayer inside the context, so that `forward` returns the result of attention."""
        residual, self._mlp_residual = self._mlp_residual, skip_sublayer
        try:
            yield
        finally:
            self._mlp_residual = residual

    def drop_attention(self) -> None:
        """Skip attention from now on, for callers whose x already includes the result of attention."""
        self._attn_residual = skip_sublayer


class ParallelLayer(nn.Module):
    """x + attention(attn_norm(x)) + mlp(mlp_norm(x)); mlp_norm is attn_norm if the family has a single norm."""

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        assert isinstance(spec.mlp, MLPSpec)
        assert spec.sublayer_scale == spec.skip_scale == 1.0
        self.attn_norm = Norm(spec.norm, hidden_size)
        self.attn = make_mixer(spec, hidden_size, compute=compute, method=method)
        has_one_norm = spec.placement is NormPlacement.PARALLEL_ONE_NORM
        self.mlp_norm = self.attn_norm if has_one_norm else Norm(spec.norm, hidden_size)
        self.mlp = MLP(spec.mlp, hidden_size, method=method, dtype=compute.dtype)

    def forward(
        self,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        group: GroupBatch,
        kv: LayerCache,
        output_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the output for x [T, hidden], or for some rows. The MLP reads x before attention overwrites it."""
        slots = batch.adapter_slots
        if output_rows is not None and slots is not None:
            slots = slots[output_rows]
        inner = self.mlp.expand(x if output_rows is None else x[output_rows], self.mlp_norm, slots)
        x = self.attn(x, self.attn_norm, rotary, batch, group, kv, residual=x)
        return self.mlp.contract(inner, residual=x if output_rows is None else x[output_rows], adapter_slots=slots)


def make_layer(spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> nn.Module:
    is_parallel = spec.placement in (NormPlacement.PARALLEL, NormPlacement.PARALLEL_ONE_NORM)
    kind = ParallelLayer if is_parallel else DecoderLayer
    return kind(spec, hidden_size, compute=compute, method=method)


def make_mixer(spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> nn.Module:
    """Make the layer's attention, or the recurrence that replaces it."""
    match spec.recurrence:
        case ShortConvSpec():
            return ShortConv(spec.recurrence, hidden_size, compute=compute, method=method)
        case GatedDeltaSpec():
            return GatedDelta(spec.recurrence, hidden_size, compute=compute, method=method)
    if spec.latent is not None:
        return LatentAttention(spec, hidden_size, compute=compute, method=method)
    return Attention(spec, hidden_size, compute=compute, method=method)
