"""BeamRequests: runs beam searches as engine requests of one token each. The engine knows nothing of beams.

Each step requests the likeliest next tokens of every beam. The prefix cache has the KV blocks that beams share or that
the previous step computed, so a step computes at most one block per beam, batched with the engine's other work.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator

import msgspec

from engine.client.interface import RequestStream
from engine.errors import QueueFull
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, SamplingParams, TokenLogprobs
from server.generation.beams.search import Beam, BeamOptions, BeamSearch, FinishedBeam
from server.generation.params.generation_params import GenerationParams
from server.served.model import ServedModel

_RETRY_S = 0.02  # between two attempts while the queue is full


class _Ended(Exception):
    """An engine request of the search ended without a token, as by a timeout."""

    def __init__(self, output: RequestOutput) -> None:
        self.output = output


class BeamRequests:
    """The beam searches of one request, one per prompt."""

    def __init__(self, model: ServedModel, params: GenerationParams, options: BeamOptions) -> None:
        self._model = model
        self._params = params
        self._options = options
        self._group = uuid.uuid4().hex
        sampling = params.sampling
        eos_ids = () if sampling.ignore_eos else params.tokenizer.eos_token_ids
        self._end_ids = frozenset(eos_ids).union(sampling.stop_token_ids)

    def check_capacity(self) -> None:
        """Raise QueueFull or EngineUnavailable unless the engine can take one step of all searches now."""
        prompts = self._params.prompts
        num_tokens = sum(len(prompt.ids) for prompt in prompts)
        self._model.client.check_capacity(
            self._options.width * len(prompts), num_tokens, self._params.terms.service_class
        )

    async def outputs(self) -> AsyncGenerator[tuple[int, RequestOutput]]:
        """Yield (choice index, final output) for the best beams of each prompt, best first. Raises EngineDied and
        EngineUnavailable. Closing the generator aborts running requests."""
        tasks = [asyncio.create_task(self._search(index)) for index in range(len(self._params.prompts))]
        try:
            for index, task in enumerate(tasks):
                for number, output in enumerate(await task):
                    yield index * self._params.n + number, output
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, index: int) -> list[RequestOutput]:
        """Search the best beams of prompt number `index`, and return an output for each of its choices."""
        sampling = self._params.sampling
        search = BeamSearch(
            self._options,
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            end_ids=self._end_ids,
        )
        first: RequestOutput | None = None
        num_sampled = 0
        timeout: RequestOutput | None = None
        while not search.is_over:
            requests = [self._request(index, search, beam, is_first=first is None) for beam in search.running]
            try:
                outputs = await self._step(requests, is_first=first is None)
            except _Ended as ended:
                if ended.output.finish_reason is not FinishReason.TIMEOUT or first is None:
                    return [ended.output] * self._params.n
                timeout = ended.output
                search.give_up()
                break
            first = first or outputs[0]
            num_sampled += len(outputs)
            search.advance([_continuations(output) for output in outputs])
        assert first is not None
        chosen = search.finished[: self._params.n]
        num_discarded = max(0, num_sampled - sum(each.beam.length for each in chosen))
        self._model.metrics.add("discarded_tokens_total", num_discarded)
        return [self._output(each, first, is_timeout=timeout is not None) for each in chosen]

    async def _step(self, requests: list[EngineRequest], *, is_first: bool) -> list[RequestOutput]:
        """Run the requests of one step, and return their outputs. Raises _Ended if one ends without a token."""
        async with contextlib.AsyncExitStack() as stack:
            streams = []
            for request in requests:
                stream = await self._submit(request, None if is_first else 1)
                stack.callback(stream.abort, AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
                streams.append(stream)
            return [await _token(stream) for stream in streams]

    async def _submit(self, request: EngineRequest, num_new_tokens: int | None) -> RequestStream:
        """Submit a request. While the queue is full, retry: a full queue must not fail a search that has started."""
        while True:
            try:
                return self._model.submit(request, num_new_tokens=num_new_tokens)
            except QueueFull:
                await asyncio.sleep(_RETRY_S)

    def _request(self, index: int, search: BeamSearch, beam: Beam, *, is_first: bool) -> EngineRequest:
        params = self._params
        return EngineRequest(
            id=f"{self._group}-{index}-{beam.length}-{search.running.index(beam)}",
            prompt_ids=params.prompts[index].ids + [token.token_id for token in beam.tokens],
            sampling=SamplingParams(
                max_tokens=1,
                temperature=0.0,
                ignore_eos=True,
                logprobs=search.num_continuations,
                prompt_logprobs=params.sampling.prompt_logprobs if is_first else None,
            ),
            **params.terms.engine_fields(is_first=is_first and index == 0),
            cache_salt=params.terms.cache_salt,
        )

    def _output(self, finished: FinishedBeam, first: RequestOutput, *, is_timeout: bool) -> RequestOutput:
        """Return an output for the beam as if the engine had generated it as one sequence. first: output of the
        search's first step, which has the prompt's fields."""
        tokens, num_top = finished.beam.tokens, self._params.sampling.logprobs
        reason = FinishReason.LENGTH if finished.end_id is None else FinishReason.STOP
        return msgspec.structs.replace(
            first,
            new_ids=[token.token_id for token in tokens],
            logprobs=None
            if num_top is None
            else [msgspec.structs.replace(token, top=token.top[:num_top]) for token in tokens],
            ended_s=None,  # `first` has the end of the first step
            finish_reason=FinishReason.TIMEOUT if is_timeout and finished.end_id is None else reason,
            stop_token_id=finished.end_id,
        )


async def _token(stream: RequestStream) -> RequestOutput:
    """Return the final output of a one-token request. Raises _Ended if it has no token."""
    async for output in stream:
        if output.finish_reason is not None:
            if output.finish_reason is not FinishReason.LENGTH or not output.logprobs:
                raise _Ended(output)
            return output
    raise AssertionError("a stream ended without a terminal output")


def _continuations(output: RequestOutput) -> list[TokenLogprobs]:
    assert output.logprobs is not None
    top = output.logprobs[0].top
    return [TokenLogprobs(token_id, logprob, top) for token_id, logprob in top]
