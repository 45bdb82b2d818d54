"""Attention for captures without kernels: the Triton back end's layout, and operators of torch that read no length."""

import torch

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.attention.rotary import RotaryEmbedding
from models.attention.triton import TritonAttention
from models.batch import ForwardBatch, KVGroupBatch
from models.kernels.row_input import Prologue
from models.kv.layer import LayerKV


class TorchAttention(TritonAttention):
    """Attends to the first `width * block_size` positions of every sequence, and masks what a row does not see."""

    def __init__(self) -> None:
        super().__init__(90)

    def rotate_and_write(
        self,
        kv: LayerKV,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor | None,
        rotary: RotaryEmbedding,
        group: KVGroupBatch,
        norms: tuple[Prologue, Prologue] | None = None,
    ) -> torch.Tensor:
        return AttentionBackend.rotate_and_write(self, kv, q, k, v, rotary, group, norms)

    def forward(
        self,
        q: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        **_options: torch.Tensor | None,
    ) -> torch.Tensor:
        rows = torch.arange(len(q))
        sequences = torch.searchsorted(batch.cu_seqlens_q[1:], rows.to(torch.int32), right=True)
        offsets = torch.arange(group.block_size)
        slots = (group.block_tables.unsqueeze(-1) * group.block_size + offsets).flatten(1).long()[sequences]  # [T, N]
        heads, size = spec.num_kv_heads, 16 * spec.num_kv_heads * spec.head_dim
        at = torch.arange(slots.shape[1])
        own = batch.positions.unsqueeze(1)
        sees = (at <= own) & (at < batch.seq_lens[sequences].unsqueeze(1))
        if spec.sliding_window is not None:
            sees &= at > own - spec.sliding_window
        keys, values = (
            part.unflatten(1, (heads, 16, -1))[slots // 16, :, slots % 16].where(sees[:, :, None, None], 0.0)
            for part in (kv.parts["kv"][:, :size], kv.parts["kv"][:, size:])
        )  # [T, N, K, D]
        queries = q.unflatten(1, (heads, -1))  # [T, K, H / K, D]
        scores = torch.einsum("tkgd,tnkd->tkgn", queries, keys) * spec.scale
        weights = scores.masked_fill(~sees[:, None, None], -torch.inf).softmax(-1).nan_to_num(0.0)
        return torch.einsum("tkgn,tnkd->tkgd", weights, values).flatten(1, 2) * spec.value_scale
