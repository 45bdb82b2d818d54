"""DiskTier: a BlockTier in a folder of files, which outlive the process and are shared with other engines."""

import errno
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import OptionError
from engine.kv_tiers.block_file import HEADER_BYTES, BlockFileError
from engine.kv_tiers.block_folder import BlockFolder, Survey
from engine.kv_tiers.tier import QUEUE_BYTES, TierStats

logger = logging.getLogger(__name__)

# (keys that the index has gained, keys that it has lost)
OnChange = Callable[[Collection[bytes], Collection[bytes]], None]

_EVICTED_SHARE = 20  # a twentieth of the bound is deleted at once, since finding the oldest files lists them all
# After a miss, look for blocks of other engines if the last survey is as old, and as many times older than it took.
_SURVEY_S, _SURVEY_COST = 60.0, 300
_NICENESS = 10  # of the thread that writes, since steps need the processors more


class DiskTier:
    """Blocks of one fingerprint on disk, within a bound that all fingerprints in the folder share.

    `contains` asks an index in memory. One thread writes, in the order of the calls, and one reads. Another process
    may delete files at any time: a block that is gone is a miss, and no failure. Between two surveys of the folder, the
    engines together may exceed the bound by what the others wrote meanwhile.

    Invariants, under the lock: the contents in `_queued` have `_queued_bytes`, at most `queue_bytes`; `_own_bytes` is
    the sum of the index.
    """

    def __init__(
        self,
        folder: BlockFolder,
        max_bytes: int,
        *,
        queue_bytes: int = QUEUE_BYTES,
        clock_ns: Callable[[], int] = time.time_ns,
        on_change: OnChange = lambda _stored, _removed: None,
    ) -> None:
        """max_bytes: bound on all files in the folder. clock_ns: times of use, compared with other engines' times.
        on_change: called under the lock, by any thread, with the keys of blocks that are new in the index (at first
        all of them), and of blocks that are not in it any more.

        Raises OptionError if the bound is too small for a block.
        """
        if max_bytes < (least := HEADER_BYTES + folder.max_block_bytes):
            raise OptionError(
                f"--kv-offload-dir may have {max_bytes:,} bytes (--kv-offload-max-bytes, or by default a part of the "
                f"free disk space), less than one block of the KV cache ({least:,}); raise it, or use another disk"
            )
        self.max_bytes = max_bytes
        self._folder = folder
        self._queue_bytes = queue_bytes
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._on_change = on_change
        self._index = folder.keys()
        on_change(self._index, ())
        self._own_bytes = sum(self._index.values())
        self._total_bytes = 0  # of all fingerprints, by the last survey; only for the thread that writes
        self._surveyed_s = time.monotonic()
        self._survey_s = 0.0  # what the last survey took of the processor
        self._queued: dict[bytes, bytes] = {}
        self._queued_bytes = 0
        self._stats = TierStats()
        self._checking: set[bytes] = set()  # keys of files that may be gone, which a touch will find
        self._removing: set[bytes] = set()  # keys of files that will be deleted, and must not be read
        self._warned: set[str] = set()
        self._is_closed = False
        self._writes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._writes.put(folder.remove_left_over)
        self._writes.put(partial(self._survey, self.max_bytes))
        self._threads = [
            threading.Thread(target=_run, args=(jobs, niceness), name=name, daemon=True)
            for jobs, niceness, name in (
                (self._writes, _NICENESS, "kv-disk-writer"),
                (self._reads, 0, "kv-disk-reader"),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def folder(self) -> Path:
        """The folder with the blocks of this fingerprint."""
        return self._folder.folder

    @property
    def num_blocks(self) -> int:
        """Number of blocks of this fingerprint that are stored."""
        return len(self._index)

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        with self._lock:
            found = [key in self._index or key in self._queued for key in keys]
            age_s = time.monotonic() - self._surveyed_s
            is_due = not all(found) and age_s > max(_SURVEY_S, self._survey_s * _SURVEY_COST)
            if is_due:
                self._surveyed_s = time.monotonic()
        if is_due:
            self._writes.put(partial(self._survey, self.max_bytes))
        return found

    def num_stored(self, keys: Sequence[bytes]) -> int:
        with self._lock:
            return sum(key in self._index and key not in self._checking for key in keys)

    def read(self, keys: Sequence[bytes]) -> "Future[list[bytes | None]]":
        future: Future[list[bytes | None]] = Future()
        self._reads.put(partial(self._read, list(keys), future))
        return future

    @property
    def room_bytes(self) -> int:
        with self._lock:
            return 0 if self._is_closed else self._queue_bytes - self._queued_bytes

    def write(self, blocks: Sequence[tuple[bytes, bytes]]) -> None:
        for key, content in blocks:
            with self._lock:
                if key in self._index or key in self._queued:
                    continue
                if self._is_closed or self._queued_bytes + len(content) > self._queue_bytes:
                    self._count(dropped=1)
                    continue
                self._queued[key] = content
                self._queued_bytes += len(content)
            self._writes.put(partial(self._write, key))

    def count_dropped(self, num_blocks: int) -> None:
        with self._lock:
            self._count(dropped=num_blocks)

    def touch(self, keys: Sequence[bytes], *, is_checked: bool = False) -> None:
        if is_checked:
            with self._lock:
                self._checking.update(keys)
        self._writes.put(partial(self._touch, list(keys)))

    def remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            with self._lock:
                self._forget(key)
                self._take_queued(key)
                self._removing.add(key)
            self._writes.put(partial(self._remove, key))

    def take_stats(self) -> TierStats:
        with self._lock:
            stats, self._stats = self._stats, TierStats()
            return replace(stats, bytes=self._own_bytes)

    def close(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closed = True
        for jobs in (self._writes, self._reads):
            jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._lock:  # a thread that is late finds nothing more to write
            self._queued.clear()
            self._queued_bytes = 0

    # --- the threads --------------------------------------------------------------------------------------------------

    def _read(self, keys: list[bytes], future: "Future[list[bytes | None]]") -> None:
        if not future.set_running_or_notify_cancel():
            return
        began_s, now_ns = time.perf_counter(), self._clock_ns()
        # A prefix's head is needed by more prompts than its tail, so it counts as used later, and is deleted later.
        try:
            contents = [self._read_block(key, now_ns - number) for number, key in enumerate(keys)]
        except Exception:  # a thread's boundary: a caller waits for the future
            logger.exception("%d blocks could not be read", len(keys))
            contents = [None] * len(keys)
        num_hits = sum(content is not None for content in contents)
        with self._lock:
            self._count(hits=num_hits, misses=len(keys) - num_hits, read_s=time.perf_counter() - began_s)
        future.set_result(contents)

    def _read_block(self, key: bytes, used_ns: int) -> bytes | None:
        with self._lock:
            if self._is_closed or key in self._removing or key in self._queued:
                return self._queued.get(key)
        try:
            return self._folder.read(key, used_ns)
        except FileNotFoundError:  # another engine or an operator deleted it
            pass
        except BlockFileError as error:
            self._fail("read", f"{self._folder.path(key)} is not used: {error}")
            self._remove(key)
        except (OSError, MemoryError) as error:
            self._fail(f"read {_number(error)}", f"{self._folder.path(key)} cannot be read ({error})")
        with self._lock:
            self._forget(key)
        return None

    def _write(self, key: bytes) -> None:
        with self._lock:
            content = self._queued.get(key)
        if content is None:
            return
        began_s, num_bytes = time.perf_counter(), 0
        try:
            self._make_room(HEADER_BYTES + len(content))
            num_bytes = self._folder.write(key, content, self._clock_ns())
        except (OSError, MemoryError) as error:
            place = self._folder.root
            self._fail(f"write {_number(error)}", f"blocks of the KV cache cannot be written to {place} ({error})")
        finally:
            with self._lock:
                is_wanted = self._take_queued(key)
                if num_bytes and is_wanted:
                    self._total_bytes += num_bytes
                    self._forget(key)  # if a survey found it, written by another engine
                    self._own_bytes += num_bytes
                    self._index[key] = num_bytes
                    self._on_change((key,), ())
                    self._removing.discard(key)
                self._count(write_s=time.perf_counter() - began_s)
        if num_bytes and not is_wanted:  # removed meanwhile
            self._remove(key)

    def _touch(self, keys: list[bytes]) -> None:
        now_ns = self._clock_ns()
        for number, key in enumerate(keys):
            try:
                self._folder.touch(key, now_ns - number)
            except OSError:  # it is gone
                with self._lock:
                    self._forget(key)
            finally:
                with self._lock:
                    self._checking.discard(key)

    def _remove(self, key: bytes) -> None:
        with self._lock:
            self._forget(key)
        try:
            self._folder.remove(key)
        except OSError as error:
            self._fail("remove", f"{self._folder.path(key)} cannot be deleted ({error})")
            return
        with self._lock:
            self._removing.discard(key)

    def _make_room(self, num_bytes: int) -> None:
        """Delete old blocks if `num_bytes` more would exceed the bound. Raises OSError if that cannot be done."""
        if self._total_bytes + num_bytes > self.max_bytes:
            self._survey(self.max_bytes - num_bytes)
            if self._total_bytes + num_bytes > self.max_bytes:
                raise OSError(errno.EPERM, "old blocks cannot be deleted")

    def _survey(self, max_bytes: int) -> None:
        """List all files, and delete the oldest ones if they have more than `max_bytes`."""
        began_s = time.thread_time()
        try:
            found = self._folder.survey(max_bytes, max_bytes - self.max_bytes // _EVICTED_SHARE)
        except OSError as error:
            self._fail(f"survey {_number(error)}", f"blocks of the KV cache on disk are not used ({error})")
            found = Survey(0, {})
        self._total_bytes = found.num_bytes
        with self._lock:
            before, own = self._index, found.own.items()
            self._index = {key: num_bytes for key, num_bytes in own if key not in self._removing}
            self._on_change(self._index.keys() - before.keys(), before.keys() - self._index.keys())
            self._own_bytes = sum(self._index.values())
            self._surveyed_s, self._survey_s = time.monotonic(), time.thread_time() - began_s

    # --- under the lock -----------------------------------------------------------------------------------------------

    def _forget(self, key: bytes) -> None:
        if key in self._index:
            self._own_bytes -= self._index.pop(key)
            self._on_change((), (key,))

    def _take_queued(self, key: bytes) -> bool:
        """Take a content from the queue; return whether it was there."""
        content = self._queued.pop(key, None)
        self._queued_bytes -= 0 if content is None else len(content)
        return content is not None

    def _count(self, **increments: Any) -> None:
        old = self._stats
        self._stats = replace(old, **{name: getattr(old, name) + value for name, value in increments.items()})

    def _fail(self, kind: str, message: str) -> None:
        """Count a failure, and warn of the first of its kind."""
        with self._lock:
            self._count(failures=1)
            is_first = kind not in self._warned
            self._warned.add(kind)
        if is_first:
            logger.warning("%s; further faults of this kind are only counted", message)


def _number(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _run(jobs: "queue.SimpleQueue[Callable[[], None] | None]", niceness: int) -> None:
    """Run jobs until there is a None."""
    if niceness and sys.platform == "linux":  # where a thread has its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    while (job := jobs.get()) is not None:
        try:
            job()
        except Exception:  # a thread's boundary: the tier continues without what the job held
            logger.exception("a job of the disk tier failed")
