"""NamedPrefixes: prefixes of prompts that operators keep in a model's KV cache, by name."""

import asyncio
import contextlib
import logging
import time
import uuid
from typing import NamedTuple

import msgspec

from engine.client.interface import EngineClient
from engine.errors import EngineUnavailable, HeadraceError, RequestFailed
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    NamedPrefix,
    PrefixAction,
    PrefixReport,
    SamplingParams,
)
from server.errors import PinLimitExceeded, PrefixNotFound
from server.keys.caller import current_caller
from server.schemas.base import quote

logger = logging.getLogger(__name__)

_MAX_TRIES = 3  # other requests may evict blocks between the end of their computation and the pin


class PrefixRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A named prefix, and its sizes by the engine. model: the name of the model or adapter in requests."""

    prefix: NamedPrefix
    model: str
    num_tokens: int
    num_blocks: int
    created_s: int  # since 1970
    used_s: int  # when a request or an operator last used it, as far as known


class PrefixState(NamedTuple):
    """A named prefix and where its blocks are; no report while no engine is ready. num_cached: how many tokens did not
    have to be computed; None if nothing was to be computed."""

    record: PrefixRecord
    report: PrefixReport | None
    num_cached: int | None = None


class NamedPrefixes:
    """The pinned prefixes of one model. They are pinned again when another engine process of the model is ready.

    Changes are made one after another, and go on when their client leaves: otherwise the engine might keep a pin that
    is not recorded.
    """

    def __init__(self) -> None:
        self._records: dict[str, PrefixRecord] = {}
        self._change = asyncio.Lock()
        self._restoration: asyncio.Task[None] | None = None

    def find(self, name: str) -> PrefixRecord | None:
        return self._records.get(name)

    def get(self, name: str) -> PrefixRecord:
        """Return the record. Raises PrefixNotFound."""
        if (record := self._records.get(name)) is None:
            raise PrefixNotFound(f"no prefix is named {quote(name)}; GET /v1/cache lists those that are known")
        return record

    async def states(self, client: EngineClient) -> list[PrefixState]:
        """Return the state of each prefix, ordered by name."""
        states = []
        for name in sorted(self._records):
            if (record := self._records.get(name)) is None:  # removed meanwhile
                continue
            report = None
            with contextlib.suppress(EngineUnavailable):
                report = await client.handle_prefix(PrefixAction.REPORT, record.prefix)
            states.append(PrefixState(self._seen(record, report), report))
        return states

    async def pin(self, client: EngineClient, prefix: NamedPrefix, model: str) -> PrefixState:
        """Compute a prefix if needed, and keep its blocks in the KV cache. A pin with the same name is replaced.

        Raises PinLimitExceeded, RequestFailed, QueueFull and EngineUnavailable.
        """
        async with self._change:
            report, num_cached = await _pin(client, prefix)
            now_s = int(time.time())
            record = PrefixRecord(
                prefix=prefix,
                model=model,
                num_tokens=report.num_tokens,
                num_blocks=report.num_blocks,
                created_s=now_s,
                used_s=now_s,
            )
            self._records[prefix.name] = record
            return PrefixState(record, report, num_cached)

    async def remove(self, client: EngineClient, name: str) -> None:
        """Forget a prefix, whose blocks may be evicted then. Raises PrefixNotFound."""
        async with self._change:
            record = self.get(name)
            with contextlib.suppress(EngineUnavailable):  # pins end with their engine
                await client.handle_prefix(PrefixAction.UNPIN, record.prefix)
            del self._records[name]

    def engine_is_ready(self, client: EngineClient) -> None:
        """Start to pin the prefixes in a new engine process."""
        if self._restoration is not None:
            self._restoration.cancel()
        if self._records:
            self._restoration = asyncio.create_task(self._restore(client), name="pin-prefixes")

    async def _restore(self, client: EngineClient) -> None:
        async with self._change:
            for record in list(self._records.values()):
                try:
                    await _pin(client, record.prefix)
                except HeadraceError as error:
                    logger.warning("the prefix %s is not pinned any more: %s", record.prefix.name, error)

    def _seen(self, record: PrefixRecord, report: PrefixReport | None) -> PrefixRecord:
        """Return the record with the time at which a request last used the prefix, and keep it if it is current."""
        if report is None or report.idle_s is None:
            return record
        used_s = max(record.used_s, int(time.time() - report.idle_s))
        seen = msgspec.structs.replace(record, used_s=used_s)
        if self._records.get(record.prefix.name) is record:
            self._records[record.prefix.name] = seen
        return seen


async def _pin(client: EngineClient, prefix: NamedPrefix) -> tuple[PrefixReport, int]:
    """Pin a prefix, which is computed if the KV cache lacks any of it. Return the report, and the number of tokens that
    were cached before."""
    num_cached: int | None = None
    for _ in range(_MAX_TRIES):
        report = await client.handle_prefix(PrefixAction.PIN, prefix)
        if report.is_refused:
            raise _beyond_limit(prefix, report)
        if report.is_pinned:
            return report, report.num_tokens if num_cached is None else min(num_cached, report.num_tokens)
        num_cached = await _compute(client, prefix)
    raise EngineUnavailable(
        f"the prefix {quote(prefix.name)} was computed, but other requests took its place in the KV cache each time; "
        "try again when the server has less to do"
    )


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
    finally:
        stream.abort(AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
    return num_cached
