"""InfillFormatter: a generation as llama-server answers /infill."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from engine.protocol import FinishReason, SamplingParams
from server.errors import ErrorReply
from server.generation.choice import Delta, Finish
from server.generation.generation import Generation
from server.protocols.frame import StreamForm, frame, openai_error
from server.schemas.infill import InfillRequest

_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"")  # it ends with the event that has stop: true


class InfillFormatter:
    """Writes one infill, whose last event is, in a stream, what the whole answer is without its content."""

    stream_form = _STREAM

    def __init__(self, body: InfillRequest, model: str, arrival_s: float) -> None:
        self._model = model
        self._fields = body.response_fields
        self._returns_tokens = bool(body.return_tokens)
        self._arrival_s = arrival_s
        self._first_s: float | None = None  # when the first token came

    async def collect(self, generation: Generation) -> dict[str, Any]:
        text: list[str] = []
        ids: list[int] = []
        async for delta in generation:
            self._observe(delta)
            text.append(delta.text)
            ids += delta.token_ids
            finish = delta.finish
        assert finish is not None
        content = "".join(text)
        tokens = ids if self._returns_tokens else []
        return self._chosen(self._end(generation, finish, content, tokens, has_new_line="\n" in content))

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        has_new_line = False
        prompt_tokens = len(generation.prompt_ids(0))
        async for delta in generation:
            self._observe(delta)
            has_new_line = has_new_line or "\n" in delta.text
            if delta.text:
                piece = {"index": 0, "content": delta.text, "tokens": delta.token_ids, "stop": False, "id_slot": -1}
                counts = {"tokens_predicted": generation.usage().completion_tokens, "tokens_evaluated": prompt_tokens}
                yield frame({**piece, **counts})
            if delta.finish is not None:
                yield frame(self._chosen(self._end(generation, delta.finish, "", [], has_new_line=has_new_line)))

    def broken(self, reply: ErrorReply) -> bytes:
        return openai_error(reply)

    def _observe(self, delta: Delta) -> None:
        if self._first_s is None and delta.token_ids:
            self._first_s = time.monotonic()

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
            "timings": self._timings(usage.prompt_tokens - cached, cached, usage.completion_tokens),
        }

    def _timings(self, prompt_n: int, cache_n: int, predicted_n: int) -> dict[str, float]:
        """Of prompt and answer; the prompt's is the time until the first token, in the queue too."""
        now = time.monotonic()
        first_s = now if self._first_s is None else self._first_s
        prompt_ms, predicted_ms = (first_s - self._arrival_s) * 1000, (now - first_s) * 1000
        return {
            "cache_n": cache_n,
            "prompt_n": prompt_n,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / max(1, prompt_n),
            "prompt_per_second": _per_second(prompt_n, prompt_ms),
            "predicted_n": predicted_n,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": predicted_ms / max(1, predicted_n),
            "predicted_per_second": _per_second(predicted_n, predicted_ms),
        }

    def _chosen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The fields that response_fields name; one inside an object stands outside, under its path."""
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


def _per_second(count: int, ms: float) -> float:
    return 1000 * count / ms if ms > 0 else 0.0


def _settings(sampling: SamplingParams, stop: tuple[str, ...]) -> dict[str, Any]:
    """What was asked for, with the defaults that stood in."""
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
