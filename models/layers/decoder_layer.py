"""DecoderLayer and ParallelLayer: a layer's attention or recurrence, feed-forward and norms, by its LayerSpec."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from models.architecture.layer import LayerSpec, NormPlacement
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, GroupBatch, StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY, Prologue
from models.kv.layer import LayerCache, LayerState
from models.layers.laurel import Laurel
from models.layers.layer_input import LayerInput
from models.layers.mixers import make_mixer
from models.layers.mlp import MLP
from models.layers.moe import MoE, make_feed_forward
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.layers.recurrence.state_space import StateSpace
from models.layers.recurrence.token_shift import InputShift
from models.layers.residual import NORMS_OF_SUBLAYER, OutputScale, make_residual, skip_sublayer
from models.layers.streams import LayerStreams
from models.linear.method import LinearMethod


class DecoderLayer(nn.Module):
    """Attention or a recurrence, then feed-forward, each with a residual. NormPlacement decides which norms exist.

    A layer may have only one of the two, and a recurrence beside attention.
    """

    attn_norm: nn.Module | None
    attn_post_norm: nn.Module | None
    mlp_norm: nn.Module | None
    mlp_post_norm: nn.Module | None

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        before, after = NORMS_OF_SUBLAYER[spec.placement]
        has_mixer, has_mlp = spec.mixer is not None, spec.mlp is not None
        attn_norm, attn_post_norm, mlp_norm, mlp_post_norm = (
            Norm(spec.norm, hidden_size) if exists else None
            for exists in (
                has_mixer and before and spec.has_attn_norm,
                has_mixer and after,
                has_mlp and before,
                has_mlp and after,
            )
        )
        assert spec.kv_layer is None or spec.beside is None
        self.attn_norm, self.attn_post_norm = attn_norm, attn_post_norm
        self.attn = make_mixer(spec, hidden_size, compute=compute, method=method) if has_mixer else None
        self.mlp_norm, self.mlp_post_norm = mlp_norm, mlp_post_norm
        self.mlp = (
            None if spec.mlp is None else make_feed_forward(spec.mlp, hidden_size, compute=compute, method=method)
        )
        self.moe: MoE | None = None
        if spec.moe is not None:
            assert isinstance(self.mlp, MLP)
            assert spec.placement is NormPlacement.SANDWICH
            self.moe = MoE(spec.moe, hidden_size, compute=compute, method=method)
            self.moe_norm, self.mlp_own_norm, self.moe_own_norm = (Norm(spec.norm, hidden_size) for _ in range(3))
        self._prepare_rows, self._join_rows = compute.ops.prepare_rows(hidden_size), compute.ops.join_rows(hidden_size)
        self.laurel: Laurel | None = None
        if spec.laurel_rank is not None:
            assert has_mixer
            self.laurel = Laurel(spec.laurel_rank, spec.norm, hidden_size, compute=compute, method=method)
        self.streams = None if spec.streams is None else LayerStreams(spec.streams, hidden_size, method=method)
        self.output_scale = OutputScale() if spec.has_output_scale else None
        assert has_mlp or not spec.has_output_scale, "the factor is applied after feed-forward"
        self.layer_input: LayerInput | None = None
        if spec.layer_input is not None:
            assert has_mlp
            self.layer_input = LayerInput(spec.layer_input, hidden_size, compute=compute, method=method)
            self._input_residual = make_residual(
                spec, None, self.layer_input.norm, hidden_size, compute.ops, self.output_scale
            )
        self.mlp_shift: InputShift | None = None
        if spec.mlp_shift is not None:
            assert spec.placement is NormPlacement.PRE
            assert has_mlp
            self.mlp_shift = InputShift(spec.mlp_shift, compute)
        self._attn_residual = make_residual(spec, attn_norm, attn_post_norm, hidden_size, compute.ops)
        last_scale = self.output_scale if spec.layer_input is None else None
        self._mlp_residual = make_residual(spec.of_mlp, mlp_norm, mlp_post_norm, hidden_size, compute.ops, last_scale)
        self.beside: StateSpace | None = None
        if spec.beside is not None:
            assert spec.placement is NormPlacement.PRE
            assert spec.sublayer_scale == spec.skip_scale == 1.0
            self.beside = StateSpace(spec.beside, hidden_size, compute=compute, method=method)
            self._mixer_scale = spec.mixer_scale

    def forward(
        self,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        groups: Sequence[GroupBatch],
        kv: Sequence[LayerCache],
        output_rows: torch.Tensor | None = None,
        layer_input: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the layer's output for x [T, hidden], or [T, streams, hidden], which may be overwritten.

        groups, kv: of attention, a recurrence, or both, and of the shift before the MLP. output_rows: [L] rows to
        return, by default all; for the others, the feed-forward sublayer is skipped. layer_input: [T, size], with
        LayerSpec.layer_input.
        """
        if self.streams is not None:
            return self._run_streams(self.streams, x, rotary, batch, groups, kv, output_rows, layer_input)
        x = self._attend(x, rotary, batch, groups, kv)
        slots, mixed = batch.adapter_slots, None
        if self.mlp_shift is not None:
            mixed = self._shifted(self.mlp_shift, x, groups, kv)
        if output_rows is not None:
            x, slots = x[output_rows], None if slots is None else slots[output_rows]
            layer_input = None if layer_input is None else layer_input[output_rows]
            mixed = None if mixed is None else mixed[output_rows]
        if self.mlp is None:
            return x
        x = self._mlp_residual(
            x,
            lambda rows, norm, residual: (
                self._feed_forward(rows, norm, residual, slots)
                if mixed is None
                else self._feed_forward(mixed, IDENTITY, residual, slots)
            ),
        )
        add_input = self.layer_input
        if add_input is None:
            return x
        assert layer_input is not None
        return self._input_residual(x, lambda rows, _, residual: add_input(rows, layer_input, residual, slots))

    def _run_streams(
        self,
        streams: LayerStreams,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        groups: Sequence[GroupBatch],
        kv: Sequence[LayerCache],
        output_rows: torch.Tensor | None,
        layer_input: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the streams after the layer for streams x, [T, count, hidden] each."""
        assert self.layer_input is not None
        assert layer_input is not None
        slots = batch.adapter_slots
        predicted = streams.predict(x, slots)
        # A copy, also of a single row, since attention overwrites it.
        active = predicted[:, streams.active].clone(memory_format=torch.contiguous_format)
        active = self._attend(active, rotary, batch, groups, kv)
        if output_rows is not None:
            predicted, active, layer_input = predicted[output_rows], active[output_rows], layer_input[output_rows]
            slots = None if slots is None else slots[output_rows]
        active = self._mlp_residual(
            active, lambda rows, norm, residual: self._feed_forward(rows, norm, residual, slots)
        )
        corrected = streams.correct(predicted, active, slots)
        added = self.layer_input.norm(self.layer_input(streams.read(corrected), layer_input, None, slots))
        return torch.cat((corrected[:, :1], corrected[:, 1:] + added.unsqueeze(1)), dim=1)

    def _attend(
        self,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        groups: Sequence[GroupBatch],
        kv: Sequence[LayerCache],
    ) -> torch.Tensor:
        """Return the residual stream after the attention sublayer, for x [T, hidden], which may be overwritten."""
        attn = self.attn
        if attn is None:
            return x
        beside = None
        if self.laurel is not None:
            beside = self.laurel(x, self.attn_norm or IDENTITY, batch.adapter_slots)
        x = self._attn_residual(
            x, lambda rows, norm, residual: self._mix(attn, rows, norm, rotary, batch, groups, kv, residual)
        )
        return x if beside is None else self._join_rows(x, beside, IDENTITY, skip=2**-0.5, scale=2**-0.5).to(x.dtype)

    def _mix(
        self,
        attn: nn.Module,
        x: torch.Tensor,
        norm: Prologue,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        groups: Sequence[GroupBatch],
        kv: Sequence[LayerCache],
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return attention(norm(x)), or a recurrence, or scale * attention(norm(x)) + recurrence(norm(x)) (+ residual,
        overwritten; may be x): [T, hidden]."""
        if self.beside is None:
            mixed: torch.Tensor = attn(x, norm, rotary, batch, groups[0], kv[0], residual)
            return mixed
        attended = attn(x, norm, rotary, batch, groups[0], kv[0])
        x = self.beside(x, norm, rotary, batch, groups[1], kv[1], residual)
        return self._join_rows(x, attended, IDENTITY, scale=self._mixer_scale)

    def _feed_forward(
        self, x: torch.Tensor, norm: Prologue, residual: torch.Tensor | None, slots: torch.Tensor | None
    ) -> torch.Tensor:
        """Return MLP(norm(x)), or experts in its place (+ residual, overwritten; may be x), or norms of both, added."""
        assert self.mlp is not None
        fed: torch.Tensor = self.mlp(x, norm, residual, slots)
        if self.moe is None:
            return fed
        assert residual is None
        dense = self._prepare_rows(fed, self.mlp_own_norm)
        chosen = self.moe(x, self.moe_norm, None, slots)
        return self._join_rows(dense, chosen, self.moe_own_norm).to(x.dtype)

    def _shifted(
        self, shift: InputShift, x: torch.Tensor, groups: Sequence[GroupBatch], kv: Sequence[LayerCache]
    ) -> torch.Tensor:
        """Return the MLP's input by the shift before it, of all rows x, as states are written after any of them."""
        assert self.mlp_norm is not None
        group, state = groups[-1], kv[-1]
        assert isinstance(group, StateGroupBatch)
        assert isinstance(state, LayerState)
        mixed: torch.Tensor = shift(self._prepare_rows(x, self.mlp_norm).to(torch.float32), group, state)
        return mixed

    def commit_states(self, accepted_rows: torch.Tensor, group: StateGroupBatch, kv: Sequence[LayerCache]) -> None:
        """Advance the states of the layer by accepted speculative rows. kv: of attention, a recurrence, or both, and of
        the shift before the MLP."""
        states = [cache for cache in kv if isinstance(cache, LayerState)]
        recurrence = self.attn if self.beside is None else self.beside
        if isinstance(recurrence, Recurrence):
            recurrence.commit_states(accepted_rows, group, states[0])
        if self.mlp_shift is not None:
            self.mlp_shift.commit_states(accepted_rows, group, states[-1])

    @contextlib.contextmanager
    def without_mlp(self) -> Iterator[None]:
        """Skip what follows attention inside the context, so that `forward` returns the result of attention."""
        residual, self._mlp_residual = self._mlp_residual, skip_sublayer
        layer_input, self.layer_input = self.layer_input, None
        try:
            yield
        finally:
            self._mlp_residual, self.layer_input = residual, layer_input

    @property
    def is_divisible(self) -> bool:
        """Whether the layer's state between attention and feed-forward is all that feed-forward needs, so that
        `without_mlp` and `drop_attention` divide it."""
        return self.streams is None and self.laurel is None and self.mlp_shift is None

    def drop_attention(self) -> None:
        """Skip attention from now on, for callers whose x already includes the result of attention."""
        self._attn_residual = skip_sublayer


class ParallelLayer(nn.Module):
    """x + attention(attn_norm(x)) + mlp(mlp_norm(x)); mlp_norm is attn_norm if the family has a single norm."""

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        assert spec.mlp is not None
        assert spec.beside is spec.mlp_shift is None
        assert spec.sublayer_scale == spec.skip_scale == 1.0
        assert not spec.has_output_scale
        assert spec.layer_input is None
        assert spec.moe is spec.streams is spec.laurel_rank is None
        self.attn_norm = Norm(spec.norm, hidden_size)
        self.attn = make_mixer(spec, hidden_size, compute=compute, method=method)
        has_one_norm = spec.placement is NormPlacement.PARALLEL_ONE_NORM
        self.mlp_norm = self.attn_norm if has_one_norm else Norm(spec.norm, hidden_size)
        self.mlp = make_feed_forward(spec.mlp, hidden_size, compute=compute, method=method)
        self._join_rows = compute.ops.join_rows(hidden_size)

    def forward(
        self,
        x: torch.Tensor,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        groups: Sequence[GroupBatch],
        kv: Sequence[LayerCache],
        output_rows: torch.Tensor | None = None,
        layer_input: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the output for x [T, hidden], or for some rows. The MLP reads x before attention overwrites it."""
        assert layer_input is None
        slots = batch.adapter_slots
        if output_rows is not None and slots is not None:
            slots = slots[output_rows]
        if isinstance(self.mlp, MoE):
            attended = self.attn(x, self.attn_norm, rotary, batch, groups[0], kv[0])
            if output_rows is not None:
                x, attended = x[output_rows], attended[output_rows]
            return self._join_rows(self.mlp(x, self.mlp_norm, x, slots), attended, IDENTITY)
        inner = self.mlp.expand(x if output_rows is None else x[output_rows], self.mlp_norm, slots)
        x = self.attn(x, self.attn_norm, rotary, batch, groups[0], kv[0], residual=x)
        return self.mlp.contract(inner, residual=x if output_rows is None else x[output_rows], adapter_slots=slots)


def make_layer(spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> nn.Module:
    is_parallel = spec.placement in (NormPlacement.PARALLEL, NormPlacement.PARALLEL_ONE_NORM)
    kind = ParallelLayer if is_parallel else DecoderLayer
    return kind(spec, hidden_size, compute=compute, method=method)
