"""KVGroup: layers whose cache keeps the same positions, and so share one block table a sequence.

full attention   keeps everything             [x][x][x][x][x]
window of W      keeps what W still sees      [ ][ ][ ][x][x]     blocks that fell out are given back
chunks of W      keeps the chunk at hand      [ ][ ][ ][ ][x]     given back when the next chunk begins
recurrent state  keeps the last state         [ ][ ][ ][ ][s]     of a pool of its own: see states.py
"""

import itertools
from dataclasses import dataclass

NO_BLOCK = -1  # entry of a table whose block was given back, or never needed


@dataclass(frozen=True, slots=True)
class KVGroup:
    """The cover rule of one group. `block_size`: tokens of one entry of its table."""

    block_size: int
    window: int | None = None  # a token sees itself and the window - 1 before it; None: all before it
    is_chunked: bool = False  # it sees those of its own chunk of `window` tokens, counted from the text's beginning
    is_state: bool = False  # an entry holds the layers' recurrent state after its last computed token

    @property
    def keeps_all(self) -> bool:
        return self.window is None and not self.is_state

    def first_needed(self, num_computed: int) -> int:
        """The first entry that any token from `num_computed` on can see."""
        if self.is_state:
            return max(0, num_computed - 1) // self.block_size
        if self.window is None:
            return 0
        if self.is_chunked:
            return num_computed // self.window * self.window // self.block_size
        return max(0, num_computed - self.window + 1) // self.block_size

    def num_covering(self, num_tokens: int) -> int:
        """Length of a table that has room for the first `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def most_held(self, num_tokens: int, step: int) -> int:
        """The most KV blocks held at once while `num_tokens` tokens are computed, at most `step` at a time."""
        if self.window is None:
            return self.num_covering(num_tokens)
        span = self.window - 1 + step  # positions that one step reads or writes, wherever they begin in a block
        return min(self.num_covering(num_tokens), (span + self.block_size - 2) // self.block_size + 1)


def lone_tables(groups: tuple[KVGroup, ...], num_tokens: int, first_block: int = 0, state: int = 0) -> list[list[int]]:
    """Tables of one sequence that keeps all it computes, in blocks from `first_block` on, but one state."""
    width = -(-num_tokens // groups[0].block_size)
    starts = itertools.count(first_block, width)
    return [
        [state] * width if group.is_state else list(range(start := next(starts), start + width)) for group in groups
    ]


def most_blocks(groups: tuple[KVGroup, ...], num_tokens: int) -> int:
    """KV blocks that suffice to compute `num_tokens` tokens of one sequence, a block's worth at a time."""
    step = min(group.block_size for group in groups)
    return sum(group.most_held(num_tokens, step) for group in groups if not group.is_state)
