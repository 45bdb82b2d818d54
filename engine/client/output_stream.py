"""OutputStream: one request's outputs on their way to its reader, merged while the reader is slow."""

import asyncio
from collections.abc import AsyncIterator, Callable

from engine.errors import EngineDied
from engine.protocol import AbortReason, RequestOutput


class OutputStream:
    """A RequestStream over a buffer of one output: a slow reader gets longer deltas, never a growing queue.

    The owner calls `put` for each output and `fail` if no more will come. `on_abort` is called once, with the first
    abort's reason; `on_discarded` with the number of tokens that arrived and will not be read.
    """

    __slots__ = ("_error", "_has_ended", "_loop", "_on_abort", "_on_discarded", "_pending", "_reader", "is_aborted")

    def __init__(self, *, on_abort: Callable[[AbortReason], None], on_discarded: Callable[[int], None]) -> None:
        self._on_abort = on_abort
        self._on_discarded = on_discarded
        self._pending: RequestOutput | None = None
        self._error: EngineDied | None = None
        self.is_aborted = False
        self._has_ended = False  # the reader has the terminal output
        self._reader: asyncio.Future[None] | None = None  # of a reader that waits
        self._loop: asyncio.AbstractEventLoop | None = None  # the reader's; looking it up is a system call

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        self._loop = asyncio.get_running_loop()
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            output, self._pending = self._pending, None
            if output is not None:
                self._has_ended = output.finish_reason is not None
                return output
            if self._has_ended:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            if self.is_aborted:
                raise StopAsyncIteration
            self._reader = (self._loop or asyncio.get_running_loop()).create_future()
            await self._reader

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def abort(self, reason: AbortReason) -> None:
        """End the request. Buffered and later outputs are discarded."""
        if self.is_aborted:
            return
        self.is_aborted = True
        if self._pending is not None:
            self._on_discarded(len(self._pending.new_ids))
            self._pending = None
        self._on_abort(reason)
        self._wake()

    def put(self, output: RequestOutput) -> None:
        if self.is_aborted:
            if output.new_ids:
                self._on_discarded(len(output.new_ids))
            return
        self._pending = output if self._pending is None else merge_outputs(self._pending, output)
        self._wake()

    def fail(self, error: EngineDied) -> None:
        """Raise `error` in the reader, after the buffered output, unless the reader has aborted."""
        if not self.is_aborted:
            self._error = error
            self._wake()


def merge_outputs(first: RequestOutput, second: RequestOutput) -> RequestOutput:
    """Join two successive outputs of one request."""
    logprobs = first.logprobs
    if second.logprobs is not None:
        logprobs = [*(logprobs or []), *second.logprobs]
    return RequestOutput(
        id=first.id,
        new_ids=[*first.new_ids, *second.new_ids],
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs if first.prompt_logprobs is not None else second.prompt_logprobs,
        num_prompt_computed=(
            first.num_prompt_computed if second.num_prompt_computed is None else second.num_prompt_computed
        ),
        finish_reason=second.finish_reason,
        stop_token_id=second.stop_token_id,
        num_cached_tokens=second.num_cached_tokens,
        num_written_tokens=max(first.num_written_tokens, second.num_written_tokens),
        queue_s=first.queue_s if first.queue_s is not None else second.queue_s,
        first_token_s=first.first_token_s if first.first_token_s is not None else second.first_token_s,
        ended_s=second.ended_s,
        preempted_s=[*first.preempted_s, *second.preempted_s],
        error=second.error,
        is_refused=second.is_refused,
        refused_param=second.refused_param,
        num_drafted=max(first.num_drafted, second.num_drafted),  # a terminal output from outside has none
        num_draft_accepted=max(first.num_draft_accepted, second.num_draft_accepted),
        num_predicted=_joined_counts(first, second),
        scores=second.scores,
        failed_question=second.failed_question,
    )


def _joined_counts(first: RequestOutput, second: RequestOutput) -> list[int]:
    """Concatenate the running counts `num_predicted` of two outputs. If counting failed in an output, its counts stay
    at the last known value."""
    if not first.num_predicted and not second.num_predicted:
        return []
    before = first.num_predicted or [0] * len(first.new_ids)
    return [*before, *(second.num_predicted or before[-1:] * len(second.new_ids))]
