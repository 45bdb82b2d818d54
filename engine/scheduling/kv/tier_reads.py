"""TierReads: reads blocks of waiting sequences' prefixes from a tier, while steps run."""

import logging
import queue
from collections import abc
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from engine.kv_tiers.tier import BlockTier
from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.moves import AttachedTier, PendingMoves
from engine.scheduling.kv.prefixes import PrefixIndex, PrefixMatch, group_of_key
from engine.scheduling.sequence import Sequence

logger = logging.getLogger(__name__)

_FIRST_RATE = 500e6  # bytes per second, before anything was read
_RATE_WEIGHT = 0.5  # of the latest read
_PATIENCE = 1.1  # growth of a low rate for each read that it prevents, so that a slow moment has no lasting effect
_LATENCY_S = 0.005  # added to a read: a thread, and a step that begins only then
# Bound on blocks that are read and not yet in the pool: a part of the pool, and bytes.
_READ_SHARE, _MAX_READ_BYTES = 4, 2 << 30
_NOTHING: abc.Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class TierOptions:
    """A tier, and the sizes that its use needs.

    block_bytes: bytes of a block of each KV group. max_read_bytes: bound on the blocks that are being read, or are read
    and wait for their sequence's admission. prefill_s: returns the seconds to compute tokens of a prompt, by the first
    position and their number. on_read: called by another thread when `TierReads.collect` has a result.
    writes_through: see AttachedTier.
    """

    tier: BlockTier
    block_bytes: tuple[int, ...]
    max_read_bytes: int
    prefill_s: abc.Callable[[int, int], float]
    on_read: abc.Callable[[], None] = lambda: None
    writes_through: bool = False

    @classmethod
    def of_pool(
        cls, attached: AttachedTier, num_blocks: int, prefill_s: abc.Callable[[int, int], float]
    ) -> "TierOptions":
        """Return the options for a pool of `num_blocks` blocks, a part of whose size may be read ahead."""
        block_bytes = attached.mover.block_bytes
        max_read_bytes = min(max(block_bytes) * num_blocks // _READ_SHARE, _MAX_READ_BYTES)
        return cls(attached.tier, block_bytes, max_read_bytes, prefill_s, attached.on_read, attached.writes_through)


@dataclass(slots=True, eq=False)
class BlockRead:
    """Blocks that are read for one or more sequences. contents: the intact ones by key; None until they are read."""

    keys: list[bytes]
    num_bytes: int
    began_s: float
    future: "Future[list[bytes | None]]"
    sequences: dict[Sequence, None]  # in the order in which they came
    contents: abc.Mapping[bytes, bytes] | None = None
    discarded: set[bytes] = field(default_factory=set)  # keys whose contents may be wrong


@dataclass(slots=True)
class ReadPace:
    """Estimate of how long a read takes, from past reads."""

    rate: float = field(default=_FIRST_RATE)  # bytes per second

    def seconds(self, num_bytes: int) -> float:
        return _LATENCY_S + num_bytes / self.rate

    def observe(self, num_bytes: int, seconds: float) -> None:
        self.rate += (num_bytes / max(seconds, 1e-6) - self.rate) * _RATE_WEIGHT

    def pass_over(self) -> None:
        """Record that a read seemed too slow and was not made."""
        self.rate = max(self.rate, min(self.rate * _PATIENCE, _FIRST_RATE))


class TierReads:
    """Decides which blocks to read, and holds their contents until their sequences are admitted.

    All methods but `_finish` are called by the engine's thread, and only `wait` waits. Sequences that need the same
    blocks share a read. Invariant: the bytes of all reads that are running or held are at most `max_read_bytes`.
    """

    def __init__(
        self, options: TierOptions, prefixes: PrefixIndex, moves: PendingMoves, clock: abc.Callable[[], float]
    ) -> None:
        self._options = options
        self._tier = options.tier
        self._prefixes = prefixes
        self._moves = moves
        self._clock = clock
        self.pace = ReadPace()
        self._reads: dict[Sequence, BlockRead] = {}
        self._by_key: dict[bytes, BlockRead] = {}
        # Of each sequence at its last lookup: num_admitted, and if memory was short the number of reads released.
        self._looked_up: dict[Sequence, tuple[int, int | None]] = {}
        self._num_bytes = 0  # of all reads
        self._num_released = 0
        self._num_queried = 0  # prefix units that the pool lacked
        self._num_restored = 0  # blocks of the first group
        self._num_running = self._running_bytes = 0  # reads that are not collected, one after the other
        self._done: queue.SimpleQueue[tuple[BlockRead, float]] = queue.SimpleQueue()  # with the time of each end
        self._last_done_s = 0.0

    @property
    def has_done(self) -> bool:
        """Whether `collect` has a result."""
        return not self._done.empty()

    @property
    def is_reading(self) -> bool:
        """Whether a read is running, or is done and not collected."""
        return self._num_running > 0

    def wait(self) -> None:
        """Block until `collect` has a result. Call only while `is_reading`."""
        assert self.is_reading
        self._done.put(self._done.get())

    def take_tokens(self) -> tuple[int, int]:
        """Return how many tokens that the pool lacked were looked up in the tier since the last call, and how many of
        the first group's tokens came from it."""
        prefixes = self._prefixes
        tokens = self._num_queried * prefixes.unit, self._num_restored * prefixes.unit // prefixes.blocks_per_unit[0]
        self._num_queried = self._num_restored = 0
        return tokens

    def contents(self, sequence: Sequence) -> abc.Mapping[bytes, bytes]:
        """Return the blocks that were read for a waiting sequence, by key."""
        read = self._reads.get(sequence)
        return _NOTHING if read is None or read.contents is None else read.contents

    def start(self, sequence: Sequence, hashes: abc.Sequence[bytes]) -> bool:
        """Start to read the blocks that the tier has and the pool lacks of a waiting sequence's prefix, if that is
        faster than to compute them and memory is free. Return whether the sequence must wait for a read.

        hashes: digests of the prefix's units. A sequence is looked up once between two admissions, and again only when
        memory that was short has been freed.
        """
        num_admitted, num_released = self._looked_up.get(sequence, (None, None))
        if num_admitted == sequence.num_admitted and num_released in (None, self._num_released):
            return False
        is_first_lookup = num_admitted != sequence.num_admitted
        self._looked_up[sequence] = (sequence.num_admitted, None)
        keys = self._prefixes.missing_keys(hashes)
        stored = {key for key, has in zip(keys, self._tier.contains(keys), strict=True) if has}
        cached, match = self._prefixes.longest_match(hashes), self._prefixes.longest_match(hashes, stored)
        if is_first_lookup:
            self._num_queried += len(hashes) - cached.num_units
        if match.num_units > cached.num_units and (read := self._by_key.get(match.restored[0].key)) is not None:
            return self._join(sequence, read)
        fitting = self._cut(match, cached, hashes, stored)
        if fitting.num_units <= cached.num_units:
            if fitting is not match:
                self._looked_up[sequence] = (sequence.num_admitted, self._num_released)
            return False
        num_bytes, num_tokens = self._bytes_of(fitting), fitting.num_tokens - cached.num_tokens
        if self.pace.seconds(self._running_bytes + num_bytes) >= self._options.prefill_s(cached.num_tokens, num_tokens):
            self.pace.pass_over()
            return False
        self._begin(sequence, [block.key for block in fitting.restored], num_bytes)
        return True

    @property
    def _num_free(self) -> int:
        return self._options.max_read_bytes - self._num_bytes

    def _bytes_of(self, match: PrefixMatch) -> int:
        return sum(self._options.block_bytes[block.group] for block in match.restored)

    def _cut(
        self, match: PrefixMatch, cached: PrefixMatch, hashes: abc.Sequence[bytes], stored: abc.Set[bytes]
    ) -> PrefixMatch:
        """Return the part of a match whose missing blocks fit in memory, or a part that needs no reading."""
        while match.num_units > cached.num_units and (num_bytes := self._bytes_of(match)) > self._num_free:
            num_units = cached.num_units + (match.num_units - cached.num_units) * self._num_free // num_bytes
            match = self._prefixes.longest_match(hashes[:num_units], stored)
        return match

    def _begin(self, sequence: Sequence, keys: list[bytes], num_bytes: int) -> None:
        read = BlockRead(keys, num_bytes, self._clock(), self._tier.read(keys), {sequence: None})
        self._reads[sequence] = read
        self._num_bytes += num_bytes
        self._num_running += 1
        self._running_bytes += num_bytes
        for key in keys:
            self._by_key.setdefault(key, read)
        read.future.add_done_callback(lambda _: self._finish(read))

    def _join(self, sequence: Sequence, read: BlockRead) -> bool:
        """Give a sequence another's read; return whether it must wait for the read."""
        self._reads[sequence] = read
        read.sequences[sequence] = None
        return read.contents is None

    def _finish(self, read: BlockRead) -> None:
        """Queue a read for `collect`; called by the tier's thread."""
        self._done.put((read, self._clock()))
        self._options.on_read()

    def collect(self) -> list[Sequence]:
        """Take the results of reads that are done; return the sequences that waited for them."""
        waited: list[Sequence] = []
        while not self._done.empty():
            read, done_s = self._done.get()
            read.contents = self._intact(read)
            num_bytes = sum(map(len, read.contents.values()))
            if num_bytes:
                self.pace.observe(num_bytes, done_s - max(read.began_s, self._last_done_s))
            self._last_done_s = done_s
            self._num_running -= 1
            self._running_bytes -= read.num_bytes
            waited += read.sequences
            if not read.sequences:
                self._release(read)
        return waited

    def _intact(self, read: BlockRead) -> dict[bytes, bytes]:
        try:
            contents = read.future.result()
        except CancelledError:
            return {}
        except Exception:  # the boundary to a tier: its faults are misses
            logger.exception("a tier of the KV cache failed to read %d blocks", len(read.keys))
            return {}
        sizes = self._options.block_bytes
        return {
            key: content
            for key, content in zip(read.keys, contents, strict=True)
            if content is not None and len(content) == sizes[group_of_key(key)] and key not in read.discarded
        }

    def restore(self, sequence: Sequence, match: PrefixMatch, pool: BlockPool) -> None:
        """Allocate and register the blocks of a match that were read for a sequence, which is admitted, and plan to
        load them."""
        self._num_restored += sum(group == 0 for group, _, _ in match.restored)
        contents = self.contents(sequence)
        blocks = pool.allocate(len(match.restored), is_evicted_first=sequence.service.is_evicted_first)
        for block, (group, entry, key) in zip(blocks, match.restored, strict=True):
            sequence.tables[group][entry] = block
            pool.register(block, key)
            self._moves.load(block, key, contents[key])
        self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        """Drop the contents that were read for a sequence, unless others need them, and cancel a read that none
        needs."""
        if (read := self._reads.pop(sequence, None)) is None:
            return
        del read.sequences[sequence]
        if read.sequences:
            return
        if read.contents is None:
            read.future.cancel()
        else:
            self._release(read)

    def forget(self, sequence: Sequence, *, is_failed: bool) -> None:
        """Forget a sequence that has ended. is_failed: remove from the tier all blocks that it may have computed."""
        self._looked_up.pop(sequence, None)
        self._drop(sequence)
        if is_failed and sequence.num_admitted:
            self._discard(self._prefixes.keys(sequence.unit_hashes))

    def _discard(self, keys: abc.Sequence[bytes]) -> None:
        """Remove blocks from the tier, from the moves, and from what was read and is not used yet."""
        self._tier.remove(keys)
        self._moves.discard(set(keys))
        for read in {each for key in keys if (each := self._by_key.get(key)) is not None}:
            read.discarded.update(keys)
            if read.contents is not None:
                read.contents = {key: content for key, content in read.contents.items() if key not in read.discarded}

    def _release(self, read: BlockRead) -> None:
        self._num_bytes -= read.num_bytes
        self._num_released += 1
        for key in read.keys:
            if self._by_key.get(key) is read:
                del self._by_key[key]

    def check(self, waiting: abc.Collection[Sequence], gated: abc.Set[Sequence]) -> None:
        """Assert the invariants. gated: the waiting sequences that wait for a read."""
        reads = set(self._reads.values())
        assert all(sequence in read.sequences for sequence, read in self._reads.items())
        assert all(self._reads[sequence] is read for read in reads for sequence in read.sequences)
        assert set(self._reads) <= set(waiting)
        assert set(self._looked_up) <= set(waiting)
        assert gated == {sequence for sequence, read in self._reads.items() if read.contents is None}
        assert sum(read.num_bytes for read in reads) <= self._num_bytes <= self._options.max_read_bytes
        assert self._running_bytes <= self._num_bytes
        assert self._num_running or self._running_bytes == 0
        assert self._num_running or sum(read.num_bytes for read in reads) == self._num_bytes
