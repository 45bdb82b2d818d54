"""OutputStream: one request's outputs on their way to its reader, merged while the reader is slow."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

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
        self._pending = output if self._pending is None else merge_outputs([self._pending, output])
        self._wake()

    def fail(self, error: EngineDied) -> None:
        """Raise `error` in the reader, after the buffered output, unless the reader has aborted."""
        if not self.is_aborted:
            self._error = error
            self._wake()


def merge_outputs(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """Join one or more successive outputs of one request."""
    first, last = outputs[0], outputs[-1]
    new_ids = first.new_ids.copy()
    logprobs, prompt_logprobs = first.logprobs, first.prompt_logprobs
    num_prompt_computed, num_written_tokens = first.num_prompt_computed, first.num_written_tokens
    queue_s, first_token_s, preempted_s = first.queue_s, first.first_token_s, first.preempted_s
    num_drafted, num_draft_accepted, num_predicted = first.num_drafted, first.num_draft_accepted, first.num_predicted
    for each in outputs[1:]:
        if num_predicted or each.num_predicted:
            num_predicted = _joined_counts(num_predicted or [0] * len(new_ids), each)
        new_ids += each.new_ids
        if each.logprobs is not None:
            logprobs = [*(logprobs or []), *each.logprobs]
        if prompt_logprobs is None:
            prompt_logprobs = each.prompt_logprobs
        if each.num_prompt_computed is not None:
            num_prompt_computed = each.num_prompt_computed
        if each.num_written_tokens > num_written_tokens:
            num_written_tokens = each.num_written_tokens
        if queue_s is None:
            queue_s = each.queue_s
        if first_token_s is None:
            first_token_s = each.first_token_s
        if each.preempted_s:
            preempted_s = [*preempted_s, *each.preempted_s]
        if each.num_drafted > num_drafted:  # a terminal output from outside has none
            num_drafted, num_draft_accepted = each.num_drafted, each.num_draft_accepted
    return msgspec.structs.replace(
        last,
        new_ids=new_ids,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        num_prompt_computed=num_prompt_computed,
        num_written_tokens=num_written_tokens,
        queue_s=queue_s,
        first_token_s=first_token_s,
        preempted_s=preempted_s,
        num_drafted=num_drafted,
        num_draft_accepted=num_draft_accepted,
        num_predicted=num_predicted,
    )


def _joined_counts(before: list[int], output: RequestOutput) -> list[int]:
    """Append the output's running counts `num_predicted`; the last known value for each token if counting failed."""
    return [*before, *(output.num_predicted or before[-1:] * len(output.new_ids))]
