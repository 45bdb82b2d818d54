"""PagedRun: drives a decoder over hand-made ForwardBatches, with block tables that a test chooses or gets shuffled."""

import random
from dataclasses import dataclass, field

import torch

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.decoder import Decoder


@dataclass
class PagedSequence:
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0


class PagedRun:
    """KV tensors of all layers and the tables of any number of sequences.

    Blocks are handed out in a shuffled order, and fresh KV memory holds NaN: a read of a wrong or unwritten slot
    cannot go unnoticed.
    """

    def __init__(
        self, decoder: Decoder, backend: AttentionBackend, *, num_blocks: int = 64, block_size: int = 4
    ) -> None:
        self.decoder = decoder
        self.block_size = block_size
        self.device = next(decoder.parameters()).device
        self.kv = [
            torch.full(
                backend.kv_shape(layer.attention, num_blocks, block_size),
                float("nan"),
                dtype=decoder.dtype,
                device=self.device,
            )
            for layer in decoder.spec.layers
        ]
        self.free_blocks = list(range(num_blocks))
        random.Random(7).shuffle(self.free_blocks)

    def step(self, items: list[tuple[PagedSequence, list[int]]]) -> list[torch.Tensor]:
        """Feed each sequence its next tokens; returns their logits, [tokens, V] a sequence."""
        batch = self.batch(items)
        with torch.inference_mode():
            logits = self.decoder.logits(self.decoder(batch, self.kv)[batch.logit_rows])
        for sequence, tokens in items:
            sequence.num_computed += len(tokens)
        return list(logits.split([len(tokens) for _, tokens in items]))

    def batch(self, items: list[tuple[PagedSequence, list[int]]]) -> ForwardBatch:
        """The batch of one step that wants the logits of every row."""
        positions: list[int] = []
        slots: list[int] = []
        for sequence, tokens in items:
            end = sequence.num_computed + len(tokens)
            while len(sequence.blocks) * self.block_size < end:
                sequence.blocks.append(self.free_blocks.pop())
            for position in range(sequence.num_computed, end):
                positions.append(position)
                slots.append(
                    sequence.blocks[position // self.block_size] * self.block_size + position % self.block_size
                )
        query_lens = [len(tokens) for _, tokens in items]
        context_lens = [sequence.num_computed + len(tokens) for sequence, tokens in items]
        widest = max(len(sequence.blocks) for sequence, _ in items)
        tables = [sequence.blocks + [0] * (widest - len(sequence.blocks)) for sequence, _ in items]
        offsets = torch.tensor([0, *query_lens]).cumsum(0)
        group = KVGroupBatch(self._tensor(slots), self._tensor(tables, torch.int32))
        return ForwardBatch(
            token_ids=self._tensor([token for _, tokens in items for token in tokens]),
            positions=self._tensor(positions),
            cu_seqlens_q=offsets.to(self.device, torch.int32),
            seq_lens=self._tensor(context_lens, torch.int32),
            groups=(group,),
            logit_rows=torch.arange(len(positions), device=self.device),
            query_lens=tuple(query_lens),
            context_lens=tuple(context_lens),
            block_size=self.block_size,
        )

    def _tensor(self, values: list, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
