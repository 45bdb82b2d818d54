"""MemoryTier: a BlockTier in memory, which loses blocks and answers late as a test wants."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from engine.kv_tiers.tier import TierStats


class MemoryTier:
    """Blocks by key. A read ends when `finish` is called, or at once unless `is_late`.

    is_lost: whether a block is listed but cannot be read. takes: whether a block is stored when it is written.
    room_bytes: see BlockTier; `write` does not enforce it.
    """

    def __init__(
        self,
        *,
        is_late: bool = False,
        is_lost: Callable[[bytes], bool] = lambda _: False,
        takes: Callable[[bytes], bool] = lambda _: True,
        room_bytes: int = sys.maxsize,
    ) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.reads: list[tuple[list[bytes], Future[list[bytes | None]]]] = []  # those that have not ended
        self.num_read = 0
        self._is_late = is_late
        self._is_lost = is_lost
        self._takes = takes
        self.room_bytes = room_bytes
        self.num_dropped = 0

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        return [key in self.blocks for key in keys]

    def num_stored(self, keys: Sequence[bytes]) -> int:
        return sum(self.contains(keys))

    def read(self, keys: Sequence[bytes]) -> Future[list[bytes | None]]:
        future: Future[list[bytes | None]] = Future()
        self.reads.append((list(keys), future))
        if not self._is_late:
            self.finish()
        return future

    def finish(self, *, error: Exception | None = None) -> None:
        """End all reads, with their blocks or an error."""
        reads, self.reads = self.reads, []
        for keys, future in reads:
            if not (future.running() or future.set_running_or_notify_cancel()):
                continue
            if error is not None:
                future.set_exception(error)
                continue
            contents = [None if self._is_lost(key) else self.blocks.get(key) for key in keys]
            self.num_read += sum(content is not None for content in contents)
            future.set_result(contents)

    def write(self, blocks: Sequence[tuple[bytes, bytes]]) -> None:
        for key, content in blocks:
            assert key not in self.blocks, "a block that the tier has is saved again"
            if self._takes(key):
                self.blocks[key] = content

    def count_dropped(self, num_blocks: int) -> None:
        self.num_dropped += num_blocks

    def touch(self, keys: Sequence[bytes], *, is_checked: bool = False) -> None:  # noqa: ARG002
        for key in keys:
            self.blocks[key] = self.blocks.pop(key)

    def remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.blocks.pop(key, None)

    def take_stats(self) -> TierStats:
        return TierStats(bytes=sum(map(len, self.blocks.values())), hits=self.num_read)

    def close(self, timeout_s: float) -> None:  # noqa: ARG002
        self.finish()
