"""NamedPrefixes: prefixes of prompts that operators keep in a model's KV cache, by name."""

import asyncio
import contextlib
import contextvars
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from engine.client.interface import EngineClient
from engine.errors import EngineUnavailable, HeadraceError, InvalidRequest, QueueFull, RequestFailed
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    NamedPrefix,
    PrefixAction,
    PrefixReport,
    SamplingParams,
)
from server.errors import PinLimitExceeded, PrefixNotFound, StorageFailed
from server.keys.caller import current_caller
from server.prefixes.files import PrefixFiles, PrefixRecord
from server.schemas.base import quote

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SAVE_PATIENCE_S = 10.0  # for another block to be on disk
_POLL_S = 0.05
_WRITE_AGAIN_S = 1.0  # without another block on disk
_RESTORE_AGAIN_S = 1.0  # while the engine has too much to do
_MAX_TRIES = 3  # other requests may evict blocks between the end of their computation and the action


class _TookItsPlace(EngineUnavailable):
    """Other requests evict the prefix as soon as it is computed."""


class PrefixState(NamedTuple):
    """A named prefix and where its blocks are; no report while no engine is ready. num_cached: how many tokens did not
    have to be computed; None if nothing was to be computed."""

    record: PrefixRecord
    report: PrefixReport | None
    num_cached: int | None = None


class NamedPrefixes:
    """The named prefixes of one model, in files if its engine keeps blocks on disk. Those that are pinned are pinned
    again when another engine process of the model is ready.

    Changes are made one after another, and go on when their client leaves: otherwise the engine might keep a pin that
    is not recorded.
    """

    def __init__(self) -> None:
        self._records: dict[str, PrefixRecord] = {}
        self._used_s: dict[str, int] = {}  # when requests last used each prefix, as far as known; since 1970
        self._files: PrefixFiles | None = None
        self._change = asyncio.Lock()
        self._changing: str | None = None  # a name that is being changed: files do not tell yet what it stands for
        self._num_changes = 0  # that have ended; files that were read before do not tell of them
        self._restoration: asyncio.Task[None] | None = None

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
            report, num_cached = await _carry_out(client, PrefixAction.PIN, prefix)
            if client.info.kv_folder is not None:
                await asyncio.sleep(_POLL_S)  # until the files of blocks that were on disk have been looked for
                report = await client.handle_prefix(PrefixAction.REPORT, prefix)
            return await self._record(prefix, model, report, num_cached, is_pinned=True)

    async def save(self, client: EngineClient, prefix: NamedPrefix, model: str) -> PrefixState:
        """Compute a prefix if needed, and write its blocks to disk. A prefix with the same name is replaced.

        Raises InvalidRequest if it is larger than all blocks on disk may be, RequestFailed, QueueFull,
        EngineUnavailable, and StorageFailed if the disk does not take all of it.
        """
        async with self._changed(client, prefix.name):
            _check_size(client, await client.handle_prefix(PrefixAction.REPORT, prefix))
            report, num_cached = await _carry_out(client, PrefixAction.SAVE, prefix)
            report = await _written(client, prefix, report)
            old = self._records.get(prefix.name)
            is_pinned = old is not None and old.is_pinned and old.prefix == prefix
            if old is not None and old.is_pinned and not is_pinned:
                await client.handle_prefix(PrefixAction.UNPIN, old.prefix)
            return await self._record(prefix, model, report, num_cached, is_pinned=is_pinned)

    async def load(self, client: EngineClient, name: str) -> PrefixState:
        """Bring a known prefix into the KV cache, from the disk or by computing it.

        Raises PrefixNotFound, RequestFailed, QueueFull, EngineUnavailable and StorageFailed.
        """
        async with self._changed(client, name):
            record = self._known(name)
            report, num_cached = await _carry_out(client, PrefixAction.REPORT, record.prefix)
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
        self._records[prefix.name] = record
        await self._change_files(lambda files: files.write(record))
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
                await _carry_out(client, PrefixAction.PIN, record.prefix)
            except (QueueFull, _TookItsPlace):
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


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StorageFailed(f"the folder of named prefixes (--kv-offload-dir) cannot be used: {error}") from error


async def _carry_out(client: EngineClient, action: PrefixAction, prefix: NamedPrefix) -> tuple[PrefixReport, int]:
    """Carry out an action that needs the prefix, which is computed if it is missing. Return the report, and the number
    of tokens that did not have to be computed."""
    num_cached: int | None = None
    for _ in range(_MAX_TRIES):
        report = await client.handle_prefix(action, prefix)
        if report.is_refused:
            raise _beyond_limit(prefix, report)
        if _is_done(action, report):
            return report, report.num_tokens if num_cached is None else min(num_cached, report.num_tokens)
        num_cached = await _compute(client, prefix)
    raise _TookItsPlace(
        f"the prefix {quote(prefix.name)} was computed, but other requests took its place in the KV cache each time; "
        "try again when the server has less to do"
    )


def _is_done(action: PrefixAction, report: PrefixReport) -> bool:
    match action:
        case PrefixAction.PIN:
            return report.is_pinned
        case PrefixAction.SAVE:
            return report.num_missing == 0
        case _:
            return report.num_in_cache == report.num_blocks


def _check_size(client: EngineClient, report: PrefixReport) -> None:
    """Raise InvalidRequest if a prefix is larger than the bound of all blocks on disk: others would be deleted for
    nothing."""
    info = client.info
    num_bytes = report.num_blocks * (info.kv_bytes // info.num_blocks)
    if info.kv_folder_bytes is not None and num_bytes > info.kv_folder_bytes:
        raise InvalidRequest(
            f"the blocks of the prefix's {report.num_tokens:,} tokens have {num_bytes:,} bytes; all blocks on disk may "
            f"have {info.kv_folder_bytes:,} (--kv-offload-max-bytes)"
        )


async def _written(client: EngineClient, prefix: NamedPrefix, report: PrefixReport) -> PrefixReport:
    """Wait until all blocks of a prefix are on disk. Raises StorageFailed if no more of them get there."""
    most, since_s = report.num_on_disk, time.monotonic()
    requested_s = since_s
    while report.num_on_disk < report.num_blocks:
        now_s = time.monotonic()
        if now_s - since_s > _SAVE_PATIENCE_S:
            raise StorageFailed(
                f"{report.num_on_disk:,} of the {report.num_blocks:,} blocks of the prefix {quote(prefix.name)} are on "
                "disk, and no more get there; the server's log has faults of the disk, and --kv-offload-max-bytes must "
                "have room for them"
            )
        await asyncio.sleep(_POLL_S)
        # The queue of writes has a bound, and writes may fail.
        is_late = now_s - max(requested_s, since_s) > _WRITE_AGAIN_S
        report = await client.handle_prefix(PrefixAction.SAVE if is_late else PrefixAction.REPORT, prefix)
        if is_late:
            requested_s = now_s
        if report.num_on_disk > most:
            most, since_s = report.num_on_disk, now_s
    return report


def _beyond_limit(prefix: NamedPrefix, report: PrefixReport) -> PinLimitExceeded:
    limit, pinned = report.max_pinned, report.num_pinned
    return PinLimitExceeded(
        f"the prefix {quote(prefix.name)} has {report.num_blocks:,} blocks; {limit:,} of the KV cache may be pinned "
        f"(--kv-pin-fraction, and no more than leave room for a request of --max-model-len), and {pinned:,} are; "
        "delete another prefix, or make the KV cache or the share larger"
    )


async def _compute(client: EngineClient, prefix: NamedPrefix) -> int:
    """Compute a prefix as a request for one token would; return how many of its tokens were cached."""
    caller, num_cached = current_caller(), 0
    request = EngineRequest(
        id=f"prefix-{uuid.uuid4().hex}",
        prompt_ids=prefix.prompt_ids,
        arrival_s=time.monotonic(),
        sampling=SamplingParams(max_tokens=1, temperature=0.0),
        cache_salt=prefix.cache_salt,
        adapter=prefix.adapter,
        tenant=caller.tenant,
        tenant_weight=caller.weight,
    )
    client.check_capacity(1, len(request.prompt_ids))
    stream = client.submit(request)
    try:
        async for output in stream:
            num_cached = output.num_cached_tokens
            if output.finish_reason is FinishReason.ERROR:
                raise RequestFailed(f"the prefix could not be computed: {output.error}")
            if output.finish_reason is FinishReason.ABORT:
                raise EngineUnavailable("the prefix was not computed, because the server is shutting down")
    finally:
        stream.abort(AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
    return num_cached
