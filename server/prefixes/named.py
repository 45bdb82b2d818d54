"""NamedPrefixes: prefixes of prompts that operators keep in a model's KV cache, by name."""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from engine.client.interface import EngineClient
from engine.errors import EngineUnavailable, HeadraceError, QueueFull
from engine.protocol import NamedPrefix, PrefixAction, PrefixReport
from server.errors import PrefixNotFound, StorageFailed
from server.prefixes.computing import POLL_S, TookItsPlace, carry_out, check_size, written
from server.prefixes.files import PrefixFiles, PrefixRecord
from server.schemas.base import quote

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RESTORE_AGAIN_S = 1.0  # while the engine has too much to do


class PrefixState(NamedTuple):
    """A named prefix and where its blocks are; no report while no engine is ready. num_cached: how many tokens did not
    have to be computed; None if nothing was to be computed."""

    record: PrefixRecord
    report: PrefixReport | None
    num_cached: int | None = None


class NamedPrefixes:
    """The named prefixes of one model, in files if its engine keeps blocks on disk. Those that are pinned are pinned
    again when another engine process of the model is ready.

    Changes are made one after another, even if their client leaves: otherwise the engine might keep a pin that is not
    recorded.
    """

    def __init__(self) -> None:
        self._records: dict[str, PrefixRecord] = {}
        self._used_s: dict[str, int] = {}  # when requests last used each prefix, as far as known; since 1970
        self._files: PrefixFiles | None = None
        self._change = asyncio.Lock()
        self._changing: str | None = None  # a name that is being changed: files do not tell yet what it stands for
        self._num_changes = 0  # that have ended; files that were read before do not tell of them
        self._restoration: asyncio.Task[None] | None = None
        self._has_warned = False  # of files that cannot be written again

    async def has(self, client: EngineClient, name: str) -> bool:
        """Return whether there is a prefix of this name. Raises StorageFailed."""
        await self._read(client)
        return name in self._records

    async def get(self, client: EngineClient, name: str) -> PrefixRecord:
        """Return the record. Raises PrefixNotFound and StorageFailed."""
        await self._read(client)
        return self._known(name)

    def _known(self, name: str) -> PrefixRecord:
        if (record := self._records.get(name)) is None:
            raise PrefixNotFound(f"no prefix is named {quote(name)}; GET /v1/cache lists those that are known")
        return record

    async def states(self, client: EngineClient) -> list[PrefixState]:
        """Return the state of each prefix, ordered by name. Raises StorageFailed."""
        await self._read(client)
        states = []
        for _, record in sorted(self._records.items()):
            report = None
            with contextlib.suppress(EngineUnavailable):
                report = await client.handle_prefix(PrefixAction.REPORT, record.prefix)
            states.append(self._state(record, report))
        return states

    # --- changes ------------------------------------------------------------------------------------------------------

    async def pin(self, client: EngineClient, prefix: NamedPrefix, model: str) -> PrefixState:
        """Compute a prefix if needed, and keep its blocks in the KV cache. A pin with the same name is replaced.

        Raises PinLimitExceeded, RequestFailed, QueueFull, EngineUnavailable and StorageFailed.
        """
        async with self._changed(client, prefix.name):
            report, num_cached = await carry_out(client, PrefixAction.PIN, prefix)
            if client.info.kv_folder is not None:
                await asyncio.sleep(POLL_S)  # until the files of blocks that were on disk have been looked for
                report = await client.handle_prefix(PrefixAction.REPORT, prefix)
            old = self._records.get(prefix.name)
            try:
                return await self._record(prefix, model, report, num_cached, is_pinned=True)
            except StorageFailed:
                await _take_back_pin(client, prefix, old)
                raise

    async def save(self, client: EngineClient, prefix: NamedPrefix, model: str) -> PrefixState:
        """Compute a prefix if needed, and write its blocks to disk. A prefix with the same name is replaced.

        Raises InvalidRequest if it is larger than all blocks on disk may be, RequestFailed, QueueFull,
        EngineUnavailable, and StorageFailed if the disk does not take all of it.
        """
        async with self._changed(client, prefix.name):
            check_size(client, await client.handle_prefix(PrefixAction.REPORT, prefix))
            report, num_cached = await carry_out(client, PrefixAction.SAVE, prefix)
            report = await written(client, prefix, report)
            old = self._records.get(prefix.name)
            is_pinned = old is not None and old.is_pinned and old.prefix == prefix
            state = await self._record(prefix, model, report, num_cached, is_pinned=is_pinned)
            if old is not None and old.is_pinned and not is_pinned:
                await client.handle_prefix(PrefixAction.UNPIN, old.prefix)
            return state

    async def load(self, client: EngineClient, name: str) -> PrefixState:
        """Bring a known prefix into the KV cache, from the disk or by computing it.

        Raises PrefixNotFound, RequestFailed, QueueFull, EngineUnavailable and StorageFailed.
        """
        async with self._changed(client, name):
            record = self._known(name)
            report, num_cached = await carry_out(client, PrefixAction.REPORT, record.prefix)
            return await self._record(record.prefix, record.model, report, num_cached, is_pinned=record.is_pinned)

    async def remove(self, client: EngineClient, name: str) -> None:
        """Forget a prefix, whose blocks may be evicted then. Raises PrefixNotFound and StorageFailed."""
        async with self._changed(client, name):
            record = self._records.get(name)
            prefix = NamedPrefix(name=name, prompt_ids=[]) if record is None else record.prefix
            was_pinned = False
            with contextlib.suppress(EngineUnavailable):  # pins end with their engine
                # Also of a name that another server, which shares the folder, has deleted.
                was_pinned = (await client.handle_prefix(PrefixAction.UNPIN, prefix)).was_pinned
            if record is None and not was_pinned:
                self._known(name)
            await self._change_files(lambda files: files.delete(name))
            self._records.pop(name, None)
            self._used_s.pop(name, None)

    @contextlib.asynccontextmanager
    async def _changed(self, client: EngineClient, name: str) -> AsyncIterator[None]:
        """Hold the right to make a change, of one name, after reading what others have changed."""
        async with self._change:
            await self._read(client)
            self._changing = name
            try:
                yield
            finally:
                self._changing = None
                self._num_changes += 1

    async def _record(
        self, prefix: NamedPrefix, model: str, report: PrefixReport, num_cached: int, *, is_pinned: bool
    ) -> PrefixState:
        """Record a prefix. Raises StorageFailed if its file cannot be written, and more than the time of the last use
        would be lost."""
        now_s, old = int(time.time()), self._records.get(prefix.name)
        known = old if old is not None and old.prefix == prefix else None
        record = PrefixRecord(
            prefix=prefix,
            model=model if known is None else known.model,
            num_tokens=report.num_tokens,
            num_blocks=report.num_blocks,
            created_s=now_s if known is None else known.created_s,
            used_s=now_s,
            is_pinned=is_pinned,
        )
        try:
            await self._change_files(lambda files: files.write(record))
        except StorageFailed as error:
            if known is None or known.is_pinned != is_pinned:
                raise
            if not self._has_warned:
                logger.warning("when named prefixes were last used is not recorded: %s", error)
            self._has_warned = True
        self._records[prefix.name] = record
        return self._state(record, report, num_cached)

    def _state(self, record: PrefixRecord, report: PrefixReport | None, num_cached: int | None = None) -> PrefixState:
        """Return the state, with the time at which a request last used the prefix."""
        name = record.prefix.name
        idle_s = None if report is None else report.idle_s
        seen_s = 0 if idle_s is None else int(time.time() - idle_s)
        used_s = self._used_s[name] = max(record.used_s, self._used_s.get(name, 0), seen_s)
        return PrefixState(msgspec.structs.replace(record, used_s=used_s), report, num_cached)

    # --- the engine's life --------------------------------------------------------------------------------------------

    def engine_is_ready(self, client: EngineClient) -> None:
        """Start to pin the prefixes in a new engine process."""
        if self._restoration is not None:
            self._restoration.cancel()
        if self._records or client.info.kv_folder is not None:
            # In a context of its own, since a client's request may have started the engine.
            self._restoration = asyncio.create_task(
                self._restore(client), name="pin-prefixes", context=contextvars.Context()
            )

    async def _restore(self, client: EngineClient) -> None:
        try:
            await self._read(client)
            for name in [name for name, record in self._records.items() if record.is_pinned]:
                while not await self._pin_again(client, name):
                    await asyncio.sleep(_RESTORE_AGAIN_S)
        except StorageFailed as error:
            logger.warning("named prefixes are not pinned: %s", error)

    async def _pin_again(self, client: EngineClient, name: str) -> bool:
        """Pin a prefix in a new engine process, if its name still stands for one that is pinned. Returns False if the
        engine has too much to do now. Raises StorageFailed."""
        async with self._changed(client, name):
            record = self._records.get(name)
            if record is None or not record.is_pinned:
                return True
            try:
                await carry_out(client, PrefixAction.PIN, record.prefix)
            except (QueueFull, TookItsPlace):
                return False
            except StorageFailed:
                raise
            except HeadraceError as error:
                logger.warning("the prefix %s is not pinned any more: %s", name, error)
            return True

    async def _read(self, client: EngineClient) -> None:
        """Read the prefixes from the engine's folder, which other servers share, and release pins of those that are
        gone; keep those known if it has none, or has not been ready. Raises StorageFailed."""
        try:
            info = client.info
        except EngineUnavailable:
            return
        if info.kv_folder is None:
            return
        if self._files is None or self._files.folder != Path(info.kv_folder):
            self._files = PrefixFiles(Path(info.kv_folder), info.vocab_size)
        num_changes = -1
        while num_changes != self._num_changes:
            num_changes = self._num_changes
            found = await _in_thread(self._files.read)
        old = self._records
        if (name := self._changing) is not None:
            found.pop(name, None)
            found.update({name: old[name]} if name in old else {})
        self._records = found
        gone = [each.prefix for each in old.values() if each.is_pinned and not _is_kept(each, found)]
        with contextlib.suppress(EngineUnavailable):  # pins end with their engine
            await asyncio.gather(*(client.handle_prefix(PrefixAction.UNPIN, prefix) for prefix in gone))

    async def _change_files(self, change: Callable[[PrefixFiles], None]) -> None:
        if self._files is not None:
            files = self._files
            await _in_thread(lambda: change(files))


def _is_kept(record: PrefixRecord, found: Mapping[str, PrefixRecord]) -> bool:
    """Return whether a pinned prefix is still pinned under its name."""
    new = found.get(record.prefix.name)
    return new is not None and new.is_pinned and new.prefix == record.prefix


async def _take_back_pin(client: EngineClient, prefix: NamedPrefix, old: PrefixRecord | None) -> None:
    """Pin what a name stood for before, since the pin of `prefix` cannot be recorded."""
    try:
        if old is None or not old.is_pinned:
            await client.handle_prefix(PrefixAction.UNPIN, prefix)
        else:
            await carry_out(client, PrefixAction.PIN, old.prefix)
    except HeadraceError as error:
        logger.warning("the prefix %s is not pinned as before: %s", prefix.name, error)


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StorageFailed(f"the folder of named prefixes (--kv-offload-dir) cannot be used: {error}") from error
