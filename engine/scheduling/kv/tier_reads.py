"""TierReads: reads blocks of waiting sequences' prefixes from a tier, while steps run."""

import contextlib
import logging
import math
import queue
from collections import ChainMap, abc
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.moves import PendingMoves
from engine.scheduling.kv.prefixes import PrefixIndex, PrefixMatch, group_of_key
from engine.scheduling.kv.tier_options import ReadPace, TierOptions
from engine.scheduling.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class BlockRead:
    """Blocks that are read for one or more sequences. contents: the intact ones by key; None until they are read.

    is_late: the sequence that started it computes the blocks instead.
    """

    keys: list[bytes]
    num_bytes: int
    began_s: float
    future: "Future[list[bytes | None]]"
    sequences: dict[Sequence, None] = field(default_factory=dict)  # in the order in which they came
    contents: dict[bytes, bytes] | None = None
    discarded: set[bytes] = field(default_factory=set)  # keys whose contents may be wrong
    is_late: bool = False


class TierReads:
    """Decides which blocks to read, and holds their contents until their sequences are admitted.

    All methods but `_finish` are called by the engine's thread, and only `wait` waits. Sequences that need the same
    blocks share reads, and a sequence may need several. Invariants: the bytes of all reads that are running or held are
    at most `max_read_bytes`; a sequence has a deadline as long as one of its reads is running.
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
        self._reads: dict[Sequence, list[BlockRead]] = {}
        self._deadlines: dict[Sequence, float] = {}  # when a sequence would have been computed without its reads
        self._by_key: dict[bytes, BlockRead] = {}  # blocks that are being read, or are read and intact
        # Of each sequence at its last lookup: num_admitted, and if memory was short the number of reads released.
        self._looked_up: dict[Sequence, tuple[int, int | None]] = {}
        self._num_bytes = 0  # of all reads
        self._num_released = 0
        self._num_queried = 0  # prefix units that the pool lacked
        self._num_restored = 0  # blocks of the first group
        self._num_running = self._running_bytes = 0  # reads that are not collected, one after the other
        self._num_late = 0  # of the running ones
        self._done: queue.SimpleQueue[tuple[BlockRead, float]] = queue.SimpleQueue()  # with the time of each end
        self._last_done_s = 0.0

    @property
    def has_result(self) -> bool:
        """Whether `collect` has a result: a read is done, or a sequence has waited long enough."""
        return not self._done.empty() or ((next_s := self.next_s) is not None and next_s <= self._clock())

    @property
    def next_s(self) -> float | None:
        """Time at which the first sequence has waited long enough, by the clock; None if none waits."""
        next_s = min(self._deadlines.values(), default=math.inf)
        return None if next_s == math.inf else next_s

    @property
    def is_reading(self) -> bool:
        """Whether a read is running, or is done and not collected."""
        return self._num_running > 0

    def wait(self) -> None:
        """Block until `collect` has a result. Call only while `is_reading`."""
        assert self.is_reading
        next_s = self.next_s
        with contextlib.suppress(queue.Empty):
            self._done.put(self._done.get(timeout=None if next_s is None else max(0.0, next_s - self._clock())))

    def take_tokens(self) -> tuple[int, int]:
        """Return how many tokens that the pool lacked were looked up in the tier since the last call, and how many of
        the first group's tokens came from it."""
        prefixes = self._prefixes
        tokens = self._num_queried * prefixes.unit, self._num_restored * prefixes.unit // prefixes.blocks_per_unit[0]
        self._num_queried = self._num_restored = 0
        return tokens

    def contents(self, sequence: Sequence) -> abc.Mapping[bytes, bytes]:
        """Return the blocks that were read for a waiting sequence, by key."""
        return ChainMap(*(read.contents for read in self._reads.get(sequence, ()) if read.contents is not None))

    # --- lookup -------------------------------------------------------------------------------------------------------

    def start(self, sequence: Sequence, hashes: abc.Sequence[bytes]) -> bool:
        """Start to read the blocks that the tier has and the pool lacks of a waiting sequence's prefix, if that is
        faster than to compute them and memory is free. Blocks that are read for others are shared. Return whether the
        sequence must wait.

        hashes: digests of the prefix's units. A sequence is looked up once between two admissions, and again only when
        memory that was short has been freed. While the tier is late with a read, nothing is looked up.
        """
        num_admitted, num_released = self._looked_up.get(sequence, (None, None))
        if self._num_late or (num_admitted == sequence.num_admitted and num_released in (None, self._num_released)):
            return False
        self.pass_over(sequence)
        keys = self._prefixes.missing_keys(hashes)
        stored = {key for key, has in zip(keys, self._tier.contains(keys), strict=True) if has or key in self._by_key}
        cached, shared = self._prefixes.longest_match(hashes), self._prefixes.longest_match(hashes, self._by_key)
        if num_admitted != sequence.num_admitted:  # it is the first lookup
            self._num_queried += len(hashes) - cached.num_units
        longest = self._prefixes.longest_match(hashes, stored)
        match = self._cut(longest, shared, hashes, stored)
        if match.num_units > shared.num_units and not self._is_worthwhile(match, shared):
            match = shared
        if match.num_units <= cached.num_units:
            if longest.num_units > match.num_units and self._num_free < self._new_bytes(longest):
                self._looked_up[sequence] = (sequence.num_admitted, self._num_released)
            return False
        return self._use(sequence, match, cached)

    def pass_over(self, sequence: Sequence) -> None:
        """Read nothing for a waiting sequence until it has been admitted."""
        self._looked_up[sequence] = (sequence.num_admitted, None)

    @property
    def _num_free(self) -> int:
        return self._options.max_read_bytes - self._num_bytes

    def _new_bytes(self, match: PrefixMatch) -> int:
        """Return the bytes of a match's blocks that would have to be read."""
        sizes = self._options.block_bytes
        return sum([sizes[block.group] for block in match.restored if block.key not in self._by_key])

    def _cut(
        self, match: PrefixMatch, shared: PrefixMatch, hashes: abc.Sequence[bytes], stored: abc.Set[bytes]
    ) -> PrefixMatch:
        """Return the part of a match whose blocks fit in memory, or the part that needs no reading."""
        while match.num_units > shared.num_units and (num_bytes := self._new_bytes(match)) > self._num_free:
            num_units = shared.num_units + (match.num_units - shared.num_units) * self._num_free // num_bytes
            match = self._prefixes.longest_match(hashes[:num_units], stored)
        return match if match.num_units > shared.num_units else shared

    def _is_worthwhile(self, match: PrefixMatch, shared: PrefixMatch) -> bool:
        """Whether a match is likely to be read, beyond its shared part, before it would be computed."""
        num_tokens = match.num_tokens - shared.num_tokens
        read_s = self.pace.seconds(self._running_bytes + self._new_bytes(match))
        if read_s < self._options.prefill_s(shared.num_tokens, num_tokens):
            return True
        self.pace.pass_over()
        return False

    # --- reads --------------------------------------------------------------------------------------------------------

    def _use(self, sequence: Sequence, match: PrefixMatch, cached: PrefixMatch) -> bool:
        """Give a sequence the reads of others and a new one, as a match needs; return whether it must wait."""
        keys = [block.key for block in match.restored]
        reads = list(dict.fromkeys(self._by_key[key] for key in keys if key in self._by_key))
        if missing := [key for key in keys if key not in self._by_key]:
            reads.append(self._begin(missing, self._new_bytes(match)))
        self._reads[sequence] = reads
        for read in reads:
            read.sequences[sequence] = None
        if all(read.contents is not None for read in reads):
            return False
        num_tokens = match.num_tokens - cached.num_tokens
        self._deadlines[sequence] = self._clock() + self._options.prefill_s(cached.num_tokens, num_tokens)
        return True

    def _begin(self, keys: list[bytes], num_bytes: int) -> BlockRead:
        read = BlockRead(keys, num_bytes, self._clock(), self._tier.read(keys))
        self._num_bytes += num_bytes
        self._num_running += 1
        self._running_bytes += num_bytes
        for key in keys:
            self._by_key[key] = read
        read.future.add_done_callback(lambda _: self._finish(read))
        return read

    def _finish(self, read: BlockRead) -> None:
        """Queue a read for `collect`; called by the tier's thread, or by the engine's for a canceled read."""
        self._done.put((read, self._clock()))
        self._options.on_read()

    def collect(self) -> list[Sequence]:
        """Take the results of reads that are done; return the sequences that no longer wait, because all of their reads
        are done, or because they have waited as long as computing the blocks takes."""
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
            self._num_late -= read.is_late
            self._unlist(read, read.keys - read.contents.keys())
            waited += [each for each in read.sequences if self._is_done(each)]
            if not read.sequences:
                self._release(read)
        now_s = self._clock()
        overdue = [sequence for sequence, deadline_s in self._deadlines.items() if deadline_s <= now_s]
        for sequence in overdue:
            self._give_up(sequence)
        for sequence in (*waited, *overdue):
            self._deadlines.pop(sequence, None)
        return [*waited, *(sequence for sequence in overdue if sequence not in waited)]

    def _is_done(self, sequence: Sequence) -> bool:
        return all(read.contents is not None for read in self._reads[sequence])

    def _give_up(self, sequence: Sequence) -> None:
        """Drop the reads of a sequence that are still running. A read is late if this sequence started it: others may
        need fewer of its blocks, and so wait less long."""
        for read in [read for read in self._reads[sequence] if read.contents is None]:
            if next(iter(read.sequences)) is sequence and not read.is_late:
                self._num_late += 1
                read.is_late = True
            self._leave(sequence, read)

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
        """Drop all that was read or is being read for a sequence."""
        for read in list(self._reads.get(sequence, ())):
            self._leave(sequence, read)
        self._deadlines.pop(sequence, None)

    def _leave(self, sequence: Sequence, read: BlockRead) -> None:
        """Drop the contents of a read for a sequence, unless others need them, and cancel a read that none needs."""
        self._reads[sequence].remove(read)
        if not self._reads[sequence]:
            del self._reads[sequence]
        del read.sequences[sequence]
        if read.sequences:
            return
        if read.contents is not None:
            self._release(read)
        elif read.future.cancel():
            self._unlist(read, read.keys)

    def forget(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended."""
        self._looked_up.pop(sequence, None)
        self._drop(sequence)

    def discard(self, keys: abc.Sequence[bytes]) -> None:
        """Remove blocks from the tier, from the moves, and from what was read and is not used yet."""
        self._tier.remove(keys)
        self._moves.discard(set(keys))
        for read in {each for key in keys if (each := self._by_key.get(key)) is not None}:
            read.discarded.update(keys)
            if read.contents is not None:
                read.contents = {key: content for key, content in read.contents.items() if key not in read.discarded}
            self._unlist(read, keys)

    def _unlist(self, read: BlockRead, keys: abc.Iterable[bytes]) -> None:
        """Stop sharing these blocks of a read."""
        for key in keys:
            if self._by_key.get(key) is read:
                del self._by_key[key]

    def _release(self, read: BlockRead) -> None:
        self._num_bytes -= read.num_bytes
        self._num_released += 1
        self._unlist(read, read.keys)

    def check(self, waiting: abc.Collection[Sequence], gated: abc.Set[Sequence]) -> None:
        """Assert the invariants. gated: the waiting sequences that wait for a read."""
        reads = {read for each in self._reads.values() for read in each}
        assert all(sequence in read.sequences for sequence, each in self._reads.items() for read in each)
        assert all(read in self._reads[sequence] for read in reads for sequence in read.sequences)
        assert set(self._reads) <= set(waiting)
        assert set(self._looked_up) <= set(waiting)
        assert gated == set(self._deadlines) == {each for each in self._reads if not self._is_done(each)}
        assert sum(read.num_bytes for read in reads) <= self._num_bytes <= self._options.max_read_bytes
        assert self._running_bytes <= self._num_bytes
        assert self._num_running or self._running_bytes == self._num_late == 0
        assert self._num_running or sum(read.num_bytes for read in reads) == self._num_bytes
