"""EngineScorer: reads log probabilities through engine requests of one token each. The engine knows of no decisions.

All lookups of a round run together, as many at once as the engine computes. The first question computes the state; the
others wait for it and find it in the prefix cache, as do longer paths of a label.
"""

import asyncio
import uuid
from collections.abc import Sequence

from engine.client.interface import RequestStream
from engine.errors import QueueFull
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, SamplingParams
from server.decisions.labels import Path
from server.decisions.prompt import DecisionPrompt
from server.decisions.walk import Lookup
from server.generation.outcomes import failure_of
from server.generation.terms import RequestTerms
from server.served.model import ServedModel

_RETRY_S = 0.02  # between two attempts while the queue is full


class EngineScorer:
    """Scorer over one model, for one decision.

    firsts: the output of each question's first lookup. num_lookups: how many have been read.
    """

    def __init__(self, model: ServedModel, prompt: DecisionPrompt, paths: Sequence[str], terms: RequestTerms) -> None:
        """paths: the questions' places in the request, for errors."""
        self._model = model
        self._prompt = prompt
        self._paths = paths
        self._terms = terms
        self._group = uuid.uuid4().hex
        self._room = asyncio.Semaphore(self.max_at_once(model, prompt))
        self.firsts: dict[int, RequestOutput] = {}
        self.num_lookups = 0

    @staticmethod
    def max_at_once(model: ServedModel, prompt: DecisionPrompt) -> int:
        """Return the most engine requests that the scorer has open at the same time."""
        num_labels = sum(question.trie.num_labels for question in prompt.questions)
        return min(model.client.info.max_num_seqs, num_labels)

    @property
    def first_id(self) -> str:
        """Id of the first engine request."""
        return self._id(0, ())

    async def score(self, lookups: Sequence[Lookup]) -> list[list[float]]:
        """Return the log probability of each lookup's next_ids, in order. Cancellation aborts running requests.

        Raises AnswerTimeout, QueueTimeout, InvalidRequest, RequestFailed, EngineUnavailable and EngineDied.
        """
        tasks = [asyncio.create_task(self._one(lookup)) for lookup in lookups]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, lookup: Lookup) -> list[float]:
        async with self._room:
            stream = await self._submit(self._request(lookup), self._num_new_tokens(lookup))
            try:
                output = await self._output(stream, lookup)
            finally:
                stream.abort(AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
        self.num_lookups += 1
        if not lookup.path:
            self.firsts[lookup.question] = output
        assert output.logprobs is not None
        return [logprob for _, logprob in output.logprobs[0].top]

    def _id(self, question: int, path: Path) -> str:
        return f"{self._group}-{question}-{'.'.join(map(str, path))}"

    def _request(self, lookup: Lookup) -> EngineRequest:
        is_first = lookup.question == 0 and not lookup.path
        return EngineRequest(
            id=self._id(lookup.question, lookup.path),
            prompt_ids=[*self._prompt.state_ids, *self._prompt.questions[lookup.question].ids, *lookup.path],
            sampling=SamplingParams(
                max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=0, logprob_token_ids=lookup.next_ids
            ),
            **self._terms.engine_fields(is_first=is_first),
            cache_salt=self._terms.cache_salt,
        )

    def _num_new_tokens(self, lookup: Lookup) -> int:
        """Return the tokens that no other request of the decision computes."""
        if lookup.path:
            return 1
        shared = 0 if lookup.question else len(self._prompt.state_ids)
        return shared + len(self._prompt.questions[lookup.question].ids)

    async def _submit(self, request: EngineRequest, num_new_tokens: int) -> RequestStream:
        """Submit a request. While the queue is full, retry: a full queue must not fail a decision that has started."""
        while True:
            try:
                return self._model.submit(request, num_new_tokens=num_new_tokens)
            except QueueFull:
                await asyncio.sleep(_RETRY_S)

    async def _output(self, stream: RequestStream, lookup: Lookup) -> RequestOutput:
        """Return the final output of a request, which has one token."""
        async for output in stream:
            if output.finish_reason is FinishReason.LENGTH and output.logprobs:
                return output
            if output.finish_reason is not None:
                raise failure_of(output, self._paths[lookup.question], self._terms, self._model)
        raise AssertionError("a stream ended without a terminal output")
