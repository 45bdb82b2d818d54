"""InfillFormatter: formats a generation as llama-server's response to /infill."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from engine.protocol import FinishReason, SamplingParams
from server.generation.choice import Finish
from server.generation.generation import Generation
from server.protocols.frame import StreamForm, frame, openai_error
from server.protocols.reports import timings_of
from server.schemas.infill import InfillRequest

_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"")  # the event with stop: true is the end


class InfillFormatter:
    """Formats one infill. The last event of a stream is the whole response without its content."""

    stream_form = _STREAM
    broken = staticmethod(openai_error)

    def __init__(self, body: InfillRequest, model: str) -> None:
        self._model = model
        self._fields = body.response_fields
        self._returns_tokens = bool(body.return_tokens)

    async def collect(self, generation: Generation) -> dict[str, Any]:
        text: list[str] = []
        ids: list[int] = []
        async for delta in generation:
            text.append(delta.text)
            ids += delta.token_ids
            finish = delta.finish
        assert finish is not None
        content = "".join(text)
        tokens = ids if self._returns_tokens else []
        return self._chosen(self._end(generation, finish, content, tokens, has_new_line="\n" in content))

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        has_new_line = False
        prompt_tokens = len(generation.params.prompts[0].ids)
        async for delta in generation:
            has_new_line = has_new_line or "\n" in delta.text
            if delta.text:
                piece = {"index": 0, "content": delta.text, "tokens": delta.token_ids, "stop": False, "id_slot": -1}
                counts = {"tokens_predicted": generation.usage().completion_tokens, "tokens_evaluated": prompt_tokens}
                yield frame({**piece, **counts})
            if delta.finish is not None:
                yield frame(self._chosen(self._end(generation, delta.finish, "", [], has_new_line=has_new_line)))

    def _end(
        self, generation: Generation, finish: Finish, content: str, tokens: list[int], *, has_new_line: bool
    ) -> dict[str, Any]:
        params, usage = generation.params, generation.usage()
        cached = generation.num_cached_tokens
        is_word = isinstance(finish.stop_reason, str)
        stop_type = "limit" if finish.reason is FinishReason.LENGTH else "word" if is_word else "eos"
        return {
            "index": 0,
            "content": content,
            "tokens": tokens,
            "id_slot": -1,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": cached,
            "generation_settings": _settings(params.sampling, params.options.stop),
            "has_new_line": has_new_line,
            "truncated": params.is_prompt_cut,
            "stop_type": stop_type,
            "stopping_word": finish.stop_reason if is_word else "",
            "timings": msgspec.to_builtins(timings_of(generation)),
        }

    def _chosen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return only the fields named by response_fields. A nested field moves to the top level, under its path."""
        if not self._fields:
            return answer
        chosen = {}
        for path in self._fields:
            value: Any = answer
            for name in path.split("/"):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                chosen[path] = value
        return chosen


def _settings(sampling: SamplingParams, stop: tuple[str, ...]) -> dict[str, Any]:
    """Return the sampling parameters in effect, including defaults."""
    return {
        "n_predict": sampling.max_tokens,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "ignore_eos": sampling.ignore_eos,
        "stop": list(stop),
    }
