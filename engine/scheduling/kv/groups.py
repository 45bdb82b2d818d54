"""KVGroup: layers whose cache needs the same positions, and so share one block table a sequence.

full attention   needs all positions          [x][x][x][x][x]
window of W      needs positions W still sees [ ][ ][ ][x][x]     blocks that fell out of the window are freed
chunks of W      needs the current chunk      [ ][ ][ ][ ][x]     freed when the next chunk begins
recurrent state  needs the last state         [ ][ ][ ][ ][s]     from a pool of its own: see states.py
"""

import itertools
from dataclasses import dataclass

NO_BLOCK = -1  # a table entry whose block was freed, or never allocated


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Rules of one group: which entries of a sequence's table it needs. `block_size`: tokens of one entry."""

    block_size: int
    window: int | None = None  # a token sees itself and the window - 1 tokens before it; None: all before it
    is_chunked: bool = False  # a token sees its own chunk of `window` tokens, counted from the sequence's beginning
    is_state: bool = False  # an entry holds the recurrent state after the last computed token of its block

    @property
    def is_full_attention(self) -> bool:
        return self.window is None and not self.is_state

    def first_needed_entry(self, num_computed: int) -> int:
        """Return the first entry that any token from `num_computed` on can see."""
        if self.is_state:
            return max(0, num_computed - 1) // self.block_size
        if self.window is None:
            return 0
        if self.is_chunked:
            return num_computed // self.window * self.window // self.block_size
        return max(0, num_computed - self.window + 1) // self.block_size

    def num_entries(self, num_tokens: int) -> int:
        """Return the length of a table that covers the first `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def peak_blocks(self, num_tokens: int, step: int) -> int:
        """Return the most KV blocks in use while `num_tokens` tokens are computed, at most `step` in one step."""
        if self.window is None:
            return self.num_entries(num_tokens)
        span = self.window - 1 + step  # positions that one step reads or writes, wherever they begin in a block
        return min(self.num_entries(num_tokens), (span + self.block_size - 2) // self.block_size + 1)


def peak_blocks(groups: tuple[KVGroup, ...], num_tokens: int) -> int:
    """Return how many KV blocks suffice to compute `num_tokens` tokens of a sequence, one block of tokens at a time."""
    step = min(group.block_size for group in groups)
    return sum(group.peak_blocks(num_tokens, step) for group in groups if not group.is_state)


def standalone_tables(
    groups: tuple[KVGroup, ...], num_tokens: int, first_block: int = 0, state: int = 0
) -> list[list[int]]:
    """Return tables outside the scheduler: blocks from `first_block` on for all tokens, and one state."""
    width = -(-num_tokens // groups[0].block_size)
    starts = itertools.count(first_block, width)
    return [
        [state] * width if group.is_state else list(range(start := next(starts), start + width)) for group in groups
    ]
