"""CompletionFormatter: formats a generation as OpenAI's text completion."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from server.generation.choice import ChoiceDelta, ScoredToken
from server.generation.generation import Generation
from server.protocols.frame import OPENAI_STREAM, TextFrames, frame, openai_error
from server.protocols.logprobs import LogprobsFormat, prompt_logprobs
from server.protocols.reports import Reports
from server.schemas.answers import TextChoice, TextCompletion, TextLogprobs
from server.schemas.completions import CompletionRequest
from server.served.model import ServedModel
from server.text.tokenizer import Tokenizer


class CompletionFormatter:
    """Formats one generation as a text completion, or as its chunks, each a completion with one choice."""

    stream_form = OPENAI_STREAM
    broken = staticmethod(openai_error)

    def __init__(self, body: CompletionRequest, model: ServedModel, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._format = LogprobsFormat(tokenizer, as_token_ids=bool(body.return_tokens_as_token_ids))
        self._has_logprobs = body.logprobs is not None
        self._num_prompt_logprobs = body.prompt_logprobs
        self._has_ids = bool(body.return_token_ids)
        # A beam search has chosen the best itself.
        is_choosing = body.num_candidates > body.num_choices and not body.use_beam_search
        self._num_best = body.num_choices if is_choosing else None
        self._reports = Reports(body, "cmpl", model)

    async def collect(self, generation: Generation) -> TextCompletion:
        choices = [TextChoice(index, "") for index in range(len(generation.choices))]
        texts: list[list[str]] = [[] for _ in choices]
        tokens: list[list[ScoredToken]] = [[] for _ in choices]
        ids: list[list[int]] = [[] for _ in choices]
        async for delta in generation:
            texts[delta.index].append(delta.text)
            tokens[delta.index] += delta.tokens
            ids[delta.index] += delta.token_ids
            self._add_prompt_logprobs(choices, delta, generation)
            if delta.finish is not None:
                choices[delta.index].finish_reason = delta.finish.reason
                choices[delta.index].stop_reason = delta.finish.stop_reason
        for choice in choices:
            choice.text = "".join(texts[choice.index])
            choice.logprobs = self._logprobs(tokens[choice.index])
            if self._has_ids:
                choice.token_ids = ids[choice.index]
                choice.prompt_token_ids = generation.choices[choice.index].prompt.ids
        if self._num_best is not None:
            choices = [choices[index] for index in generation.best(self._num_best)]
            for index, choice in enumerate(choices):
                choice.index = index
        return TextCompletion(choices=choices, **self._reports.of_answer(generation))

    def _add_prompt_logprobs(self, choices: list[TextChoice], delta: ChoiceDelta, generation: Generation) -> None:
        """Add a prompt's logprobs, which come with the prompt's first choice, to all choices of the prompt."""
        if self._num_prompt_logprobs is None or delta.prompt_logprobs is None:
            return
        scores = prompt_logprobs(delta.prompt_logprobs, self._num_prompt_logprobs, self._tokenizer)
        for index in generation.siblings(delta.index):
            choices[index].prompt_logprobs = scores

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        started: set[int] = set()  # choices whose first chunk is sent
        is_plain = not self._has_logprobs and not self._has_ids and self._reports.are_constant
        frames = TextFrames(
            lambda index, text: TextCompletion(choices=[TextChoice(index, text)], **self._reports.of_chunk(generation))
        )
        async for delta in generation:
            if is_plain and delta.text and delta.finish is None and delta.num_prompt_computed is None:
                yield frames.frame(delta.index, delta.text)
                continue
            if delta.num_prompt_computed is not None:
                yield self._chunk([TextChoice(delta.index, "")], self._reports.of_progress(generation, delta))
            has_tokens = delta.token_ids and (delta.finish is None or self._has_ids)  # the last chunk stands for others
            if delta.text or delta.tokens or has_tokens:
                choice = TextChoice(delta.index, delta.text, self._logprobs(delta.tokens))
                if self._has_ids:
                    choice.token_ids = delta.token_ids
                    if delta.index not in started:
                        started.add(delta.index)
                        choice.prompt_token_ids = generation.choices[delta.index].prompt.ids
                yield self._chunk([choice], self._reports.of_chunk(generation))
            if (finish := delta.finish) is not None:
                choice = TextChoice(delta.index, "", None, finish.reason, finish.stop_reason)
                yield self._chunk([choice], self._reports.of_chunk(generation))
        if self._reports.has_usage_chunk:
            yield self._chunk([], self._reports.of_answer(generation))

    def _chunk(self, choices: list[TextChoice], reports: dict[str, Any]) -> bytes:
        return frame(TextCompletion(choices=choices, **reports))

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> TextLogprobs | None:
        return self._format.of_text(tokens) if self._has_logprobs else None
