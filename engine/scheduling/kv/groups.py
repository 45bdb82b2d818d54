"""KVGroup: layers that need the same cached positions, and so share one block table per sequence.

full attention   needs all positions          [x][x][x][x][x]
window of W      needs positions W still sees [ ][ ][ ][x][x]     blocks that fell out of the window are freed
chunks of W      needs the current chunk      [ ][ ][ ][ ][x]     freed when the next chunk begins
recurrent state  needs the last state         [ ][ ][ ][ ][s]     from a pool of its own: see states.py

Groups whose layers store smaller positions have more tokens in a block. Prefixes are cached in units that are whole
blocks of every group:

    one group      [    |    |    |    ]
    another        [ | | | | | | | | | ]
    prefix units   [    |    |    |    ]
"""

import itertools
import math
from dataclasses import dataclass

NO_BLOCK = -1  # a table entry whose block was freed, or never allocated


@dataclass(frozen=True, slots=True)
class KVGroup:
    """The entries of a sequence's block table that a group of layers needs. block_size: tokens per entry; for states
    the prefix unit."""

    block_size: int
    window: int | None = None  # a token sees itself and the window - 1 tokens before it; None: all before it
    is_chunked: bool = False  # a token sees its own chunk of `window` tokens, counted from the sequence's beginning
    is_state: bool = False  # an entry holds the recurrent state after the last computed token of its block

    @property
    def is_full_attention(self) -> bool:
        return self.window is None and not self.is_state

    def first_needed_entry(self, num_computed: int) -> int:
        """Return the first table entry that tokens from `num_computed` on attend to."""
        if self.is_state:
            return max(0, num_computed - 1) // self.block_size
        if self.window is None:
            return 0
        if self.is_chunked:
            return num_computed // self.window * self.window // self.block_size
        return max(0, num_computed - self.window + 1) // self.block_size

    def num_entries(self, num_tokens: int) -> int:
        """Return the number of table entries for the first `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def peak_blocks(self, num_tokens: int, step: int) -> int:
        """Return the most KV blocks in use at any time while computing `num_tokens` tokens, up to `step` per step."""
        if self.window is None:
            return self.num_entries(num_tokens)
        span = self.window - 1 + step  # positions that one step reads or writes, wherever they begin in a block
        return min(self.num_entries(num_tokens), (span + self.block_size - 2) // self.block_size + 1)


def peak_blocks(groups: tuple[KVGroup, ...], num_tokens: int) -> int:
    """Return how many KV blocks suffice, over all groups, to compute a sequence in the smallest steps."""
    step = smallest_step(groups)
    return sum(group.peak_blocks(num_tokens, step) for group in groups if not group.is_state)


def smallest_step(groups: tuple[KVGroup, ...]) -> int:
    """Return the most tokens of a step that a sequence computes when blocks are short: steps end at multiples of it,
    where blocks of some group end."""
    return math.gcd(*(group.block_size for group in groups))


def prefix_unit(groups: tuple[KVGroup, ...]) -> int:
    """Return the tokens of the shortest prefix that is whole blocks of every group."""
    return math.lcm(*(group.block_size for group in groups))


def standalone_tables(
    groups: tuple[KVGroup, ...], num_tokens: int, first_block: int = 0, state: int = 0
) -> list[list[int]]:
    """Return tables for use without a scheduler: blocks from `first_block` on, and the state block `state`."""
    blocks = itertools.count(first_block)
    widths = [group.num_entries(num_tokens) for group in groups]
    return [
        [state] * width if group.is_state else list(itertools.islice(blocks, width))
        for group, width in zip(groups, widths, strict=True)
    ]
