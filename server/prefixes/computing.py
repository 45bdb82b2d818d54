"""carry_out: computes an operator's prefix where an action needs it; written: waits until it is on disk."""

import asyncio
import time
import uuid

from engine.client.interface import EngineClient
from engine.errors import EngineUnavailable, InvalidRequest, RequestFailed
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    NamedPrefix,
    PrefixAction,
    PrefixReport,
    SamplingParams,
)
from server.errors import PinLimitExceeded, StorageFailed
from server.keys.caller import current_caller
from server.schemas.base import quote

POLL_S = 0.05
_SAVE_PATIENCE_S = 10.0  # for another block to be on disk
_WRITE_AGAIN_S = 1.0  # without another block on disk
_MAX_TRIES = 3  # other requests may evict blocks between the end of their computation and the action


class TookItsPlace(EngineUnavailable):
    """Other requests evict the prefix as soon as it is computed."""


async def carry_out(client: EngineClient, action: PrefixAction, prefix: NamedPrefix) -> tuple[PrefixReport, int]:
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
    raise TookItsPlace(
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


def check_size(client: EngineClient, report: PrefixReport) -> None:
    """Raise InvalidRequest if a prefix is larger than the bound of all blocks on disk: others would be deleted for
    nothing."""
    info = client.info
    num_bytes = report.num_blocks * (info.kv_bytes // info.num_blocks)
    if info.kv_folder_bytes is not None and num_bytes > info.kv_folder_bytes:
        raise InvalidRequest(
            f"the blocks of the prefix's {report.num_tokens:,} tokens have {num_bytes:,} bytes; all blocks on disk may "
            f"have {info.kv_folder_bytes:,} (--kv-offload-max-bytes)"
        )


async def written(client: EngineClient, prefix: NamedPrefix, report: PrefixReport) -> PrefixReport:
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
        await asyncio.sleep(POLL_S)
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
