"""PackedForward: computes the last hidden states of whole texts, by a decoder or encoder without recurrent layers."""

from collections.abc import Sequence

import torch

from models.architecture.kv_layout import KVLayout
from models.batch import ForwardBatch, forward_batch
from models.decoder import Decoder
from models.kv.layer import LayerKV, allocate_layer_kv

BLOCK_SIZE = 16  # a text begins a block, so that attention reads whole tiles of its keys, but for the last
_GROWTH_BLOCKS = 64


class PackedForward:
    """Runs a decoder or encoder over whole texts, in one batch without padding.

    Layers with the same KV layout share a cache, which grows to what the largest batch needs; a layer whose keys and
    values later layers read has its own.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        assert not decoder.cache_layout.has_states
        self._decoder = decoder
        self.device = device
        self._num_blocks = 0
        self._kv: list[LayerKV] = []  # one a layer

    def reserve(self, num_blocks: int) -> None:
        """Grow the cache to at least `num_blocks` blocks."""
        if num_blocks <= self._num_blocks:
            return
        self._num_blocks = -(-num_blocks // _GROWTH_BLOCKS) * _GROWTH_BLOCKS
        self._kv = []
        by_layout: dict[KVLayout, LayerKV] = {}
        for mixer, layout in enumerate(self._decoder.cache_layout.layers):
            assert isinstance(layout, KVLayout)
            kv = None if mixer in self._decoder.shared_mixers else by_layout.get(layout)
            if kv is None:
                kv = allocate_layer_kv(layout, self._num_blocks, BLOCK_SIZE, self.device)
            if mixer not in self._decoder.shared_mixers:
                by_layout[layout] = kv
            self._kv.append(kv)

    def states(
        self,
        token_ids: Sequence[int],
        lengths: Sequence[int],
        token_type_ids: Sequence[int] | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return last hidden states, after the final norm, of all tokens or of `rows` ([n] int64): [n, hidden] fp32.

        token_ids, token_type_ids: of all texts, concatenated. lengths: the tokens of each text, at least 1.
        """
        self.reserve(num_blocks_of(lengths))
        all_rows = torch.arange(len(token_ids), device=self.device) if rows is None else rows
        batch = self._batch(token_ids, lengths, token_type_ids, all_rows)
        with torch.inference_mode():
            return self._decoder.final_states(self._decoder(batch, self._kv, rows))

    def _batch(
        self,
        token_ids: Sequence[int],
        lengths: Sequence[int],
        token_type_ids: Sequence[int] | None,
        rows: torch.Tensor,
    ) -> ForwardBatch:
        """Build the batch. The texts use the first blocks of the cache, one text after the other."""
        blocks = torch.tensor([-(-length // BLOCK_SIZE) for length in lengths], dtype=torch.int32)
        ends = blocks.cumsum(0, dtype=torch.int32)
        table = (ends - blocks).unsqueeze(1) + torch.arange(int(blocks.max()), dtype=torch.int32)
        table.clamp_(max=int(ends[-1]) - 1)  # nothing is read behind a text's own blocks
        return forward_batch(
            token_ids,
            lengths,
            (table,) * len(self._decoder.cache_layout.groups),
            block_size=BLOCK_SIZE,
            device=self.device,
            logit_rows=rows,
            token_type_ids=token_type_ids,
        )


def num_blocks_of(lengths: Sequence[int]) -> int:
    """Return the number of cache blocks that texts of these lengths, in tokens, need."""
    return sum(-(-length // BLOCK_SIZE) for length in lengths)
