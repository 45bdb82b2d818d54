"""AttentionBackend: computes attention layers over the paged KV cache."""

from abc import ABC, abstractmethod

import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.kv_layout import KVLayout
from models.attention.rotary import RotaryEmbedding, rotate, scale_queries
from models.batch import ForwardBatch, KVGroupBatch
from models.kernels.row_input import Prologue
from models.kv.layer import LayerKV

INDEX_PART = "index"  # the part of a layer's KV layout that has an indexer's keys


class AttentionBackend(ABC):
    """An implementation of attention. Stateless, and shared by all layers: each call gets its layer's cache."""

    name: str
    takes_any_rows = True  # whether `forward` takes fewer rows of a sequence than were written in the step
    # Whether a captured step of one row a sequence stays right when its inputs change: no length is read on the host, a
    # row with a slot of -1 is not written, and a context may have a length of 0.
    is_capturable = False

    @abstractmethod
    def unsupported(
        self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
    ) -> str | None:
        """Return why this back end cannot compute attention layers with this spec on `device`, or None if it can.

        dtype: dtype of queries, keys and values. kv_dtype: dtype of the KV cache.
        """

    @abstractmethod
    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:
        """Return this back end's layout of one layer's keys and values.

        dtype: dtype of queries, keys and values. kv_dtype: dtype of the KV cache.
        """

    def norm_heads(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        """Apply a norm to each head of x [T, heads, D]. May change x; a back end with a kernel overrides this.

        norm: a norm over the last dimension, with a weight [D] or [heads, D].
        """
        return norm(x)

    def rotate_heads(
        self, q: torch.Tensor, k: torch.Tensor, rotary: RotaryEmbedding
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate q ([T, H, D]) and k by the rows' angles, possibly in place."""
        return rotate(q, rotary), rotate(k, rotary)

    def rotate_queries(self, q: torch.Tensor, rotary: RotaryEmbedding) -> torch.Tensor:
        """Rotate and scale q [T, H, D] by the rows' angles, possibly in place."""
        return scale_queries(rotate(q, rotary), rotary)

    @abstractmethod
    def write(self, kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        """Store k [T, K, D] and v [T, K, value_dim] at the group's slots. v is None if values are part of the keys.

        `kv.key_center` is subtracted from keys that become codes.
        """

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
        """Rotate q ([T, H, D]) and k by the rows' angles, and store k and v. Returns q, rotated and scaled.

        norms: of the heads of q and k, applied first. `kv.rotated_center` is subtracted from k before rotation. May
        change q and k in place. A back end with a fused kernel overrides this.
        """
        if norms is not None:
            q, k = self.norm_heads(q, norms[0]), self.norm_heads(k, norms[1])
        if kv.rotated_center is not None:
            k = kv.rotated_center.subtracted_from(k, rotary.sin)
        q, k = self.rotate_heads(q, k, rotary)
        self.write(kv, k, v, group)
        return scale_queries(q, rotary)

    def rotate_and_write_index(
        self, kv: LayerKV, q: torch.Tensor | None, k: torch.Tensor, rotary: RotaryEmbedding, group: KVGroupBatch
    ) -> torch.Tensor | None:
        """Rotate an indexer's q ([T, heads, D], or None) and k [T, 1, D], possibly in place, and store k.

        Returns q, rotated. A back end that does not override this and `choose` refuses indexers in `unsupported`.
        """
        raise NotImplementedError(self.name)

    def choose(
        self,
        q: torch.Tensor,
        weights: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        indexer: IndexerSpec,
    ) -> torch.Tensor:
        """Return the positions that an indexer chooses for each row, ascending: [T, topk], int32.

        A row that sees no more than `topk` positions has -1 first, and then anything. q: rotated, [T, heads, D].
        weights: [T, heads], fp32.
        """
        raise NotImplementedError(self.name)

    @abstractmethod
    def forward(
        self,
        q: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        *,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from q ([T, H, D]) to the written context. Returns [T, H, value_dim] in q's dtype.

        chosen: the positions that each row sees, as `choose` returns them; None: all that the spec says. Keys without
        `kv.rotated_center` are attended to as if they had it. The batch's
        `distance_bias` is added to the scores, if there is one.
        """
