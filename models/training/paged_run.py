"""PagedRun: sequences that a decoder in training generates together, with their KV cache."""

from collections.abc import Sequence

import torch

from models.batch import StateGroupBatch, forward_batch
from models.decoder import Decoder

_BLOCK_SIZE = 16
_CPU = torch.device("cpu")
_LOGIT_BYTES = 12  # per logit: the logit and its probability in fp32, and the temporaries of the draw


class PagedRun:
    """Generates several samples of each prompt. Sequences are numbered prompt after prompt.

    All samples of a prompt share its blocks before the block with its last token; from that block on, each sample has
    its own blocks:

        prompt of 37 tokens   | block 0 | block 1 |                     computed once
        sample 0                                  | block 2 | block 3 ...
        sample 1                                  | block 9 | block 10 ...

    In a recurrent layer, each sequence has two states, written in turns; samples begin with the prompt's state.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        max_tokens: int,
        *,
        has_adapter: bool = False,
    ) -> None:
        """max_tokens: the most tokens generated after each prompt. has_adapter: whether all rows use adapter slot 0."""
        self._decoder = decoder
        self._prompts = prompts
        self._num_samples = num_samples
        self._has_adapter = has_adapter
        count = len(prompts) * num_samples
        self._num_shared = [(len(prompt) - 1) // _BLOCK_SIZE if num_samples > 1 else 0 for prompt in prompts]  # blocks
        self._tables, num_blocks = self._lay_out(max_tokens)
        self._computed = [0] * count
        self._states = [-1] * count  # the block of each sequence's last state
        self._caches = decoder.cache_layout.allocate_unshared(num_blocks, _BLOCK_SIZE, _CPU, num_states=2 * count)

    def begin(self) -> torch.Tensor:
        """Compute the prompts. Returns logits after the last token of each sequence: [prompts * num_samples, V]."""
        leaders = [
            (prompt * self._num_samples, blocks * _BLOCK_SIZE)
            for prompt, blocks in enumerate(self._num_shared)
            if blocks
        ]
        if leaders:
            shared = [self._prompts[leader // self._num_samples][:length] for leader, length in leaders]
            self._hidden([leader for leader, _ in leaders], shared)
        for leader, length in leaders:
            for follower in range(leader + 1, leader + self._num_samples):
                self._computed[follower], self._states[follower] = length, self._states[leader]
        sequences = range(len(self._computed))
        rests = [self._prompts[index // self._num_samples][self._computed[index] :] for index in sequences]
        return self.step(sequences, rests)

    def step(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Compute new tokens `rows` of some sequences. Returns logits after the last token of each: [S, V]."""
        return self._decoder.logits(self._hidden(sequences, rows))

    def _hidden(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = [len(ids) for ids in rows]
        starts = [self._computed[index] for index in sequences]
        layout = self._decoder.cache_layout
        states = self._states_of(sequences, lengths) if layout.has_states else None
        table = self._tables[list(sequences)]
        batch = forward_batch(
            [token_id for ids in rows for token_id in ids],
            lengths,
            [table for group in layout.groups if not group.is_state],
            block_size=_BLOCK_SIZE,
            device=_CPU,
            starts=starts,
            states=states,
            adapter_slots=torch.zeros(sum(lengths), dtype=torch.int32) if self._has_adapter else None,
        )
        for index, length in zip(sequences, lengths, strict=True):
            self._computed[index] += length
        hidden: torch.Tensor = self._decoder(batch, self._caches, batch.logit_rows)
        return hidden

    def _states_of(self, sequences: Sequence[int], lengths: list[int]) -> StateGroupBatch:
        sources, targets = [], []
        for index, length in zip(sequences, lengths, strict=True):
            source = self._states[index]
            self._states[index] = 2 * index + (source == 2 * index)
            sources.append(source)
            targets += [-1] * (length - 1) + [self._states[index]]
        return StateGroupBatch.from_blocks(lengths, sources, targets, _CPU)

    def _lay_out(self, max_tokens: int) -> tuple[torch.Tensor, int]:
        """Assign blocks to all sequences. Returns the block table, [sequences, M] int32, and the number of blocks."""
        tables: list[list[int]] = []
        end = 0
        for prompt, num_shared in zip(self._prompts, self._num_shared, strict=True):
            shared = list(range(end, end + num_shared))
            end += num_shared
            num_own = -(-(len(prompt) + max_tokens) // _BLOCK_SIZE) - num_shared
            for _ in range(self._num_samples):
                tables.append([*shared, *range(end, end + num_own)])
                end += num_own
        longest = max(map(len, tables))
        return torch.tensor([table + [0] * (longest - len(table)) for table in tables], dtype=torch.int32), end


def cache_bytes(decoder: Decoder, num_sequences: int, num_tokens: int) -> int:
    """Return the most bytes that a PagedRun of sequences with `num_tokens` tokens uses, with the logits of a step."""
    num_blocks = num_sequences * -(-num_tokens // _BLOCK_SIZE)
    layout = decoder.cache_layout
    num_bytes = num_blocks * layout.unshared_block_bytes(_BLOCK_SIZE) + 2 * num_sequences * layout.state_bytes
    return num_bytes + num_sequences * decoder.spec.vocab_size * _LOGIT_BYTES
