"""Fields of OpenAI's responses besides choices: id, usage, service tier, and timings if the request asks for them."""

import time
import uuid
from typing import Any

from msgspec import UNSET

from server.generation.choice import ChoiceDelta
from server.generation.generation import Generation
from server.generation.terms import served_tier
from server.metrics.request_record import note_response_id
from server.schemas.answers import PromptProgress, RequestMetrics, Timings
from server.schemas.sampling import GenerationRequest
from server.served.model import ServedModel


class Reports:
    """Makes the fields of a request's response or chunks besides choices. Omits fields that are not asked for.

    All chunks have the same id and time.
    """

    def __init__(self, body: GenerationRequest, id_prefix: str, model: ServedModel) -> None:
        response_id = f"{id_prefix}-{uuid.uuid4().hex}"
        note_response_id(response_id)
        self._common: dict[str, Any] = {
            "id": response_id,
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.system_fingerprint,
            "service_tier": served_tier(body) or UNSET,
        }
        self.has_usage_chunk = body.include_usage
        self._has_timings = bool(body.timings_per_token)
        self._has_chunk_usage = body.include_usage and body.has_continuous_usage
        self._of_chunk = {**self._common, "usage": None if body.include_usage else UNSET}

    @property
    def are_constant(self) -> bool:
        """Whether `of_chunk` always returns the same fields."""
        return not (self._has_timings or self._has_chunk_usage)

    def of_chunk(self, generation: Generation) -> dict[str, Any]:
        """Return the fields of a chunk with choices."""
        if self.are_constant:  # the common case, once per token
            return self._of_chunk
        fields: dict[str, Any] = dict(self._of_chunk)
        if self._has_chunk_usage:
            fields["usage"] = generation.usage()
        if self._has_timings:
            fields["timings"] = timings_of(generation)
        return fields

    def of_progress(self, generation: Generation, delta: ChoiceDelta) -> dict[str, Any]:
        """Return the fields of a progress chunk, which is sent while the prompt is computed."""
        assert delta.num_prompt_computed is not None
        choice = generation.choices[delta.index]
        progress = PromptProgress(
            total=len(choice.prompt.ids),
            cache=choice.num_cached_tokens,
            processed=delta.num_prompt_computed,
            time_ms=generation.times().prompt_s * 1000,
        )
        return {**self.of_chunk(generation), "prompt_progress": progress}

    def of_answer(self, generation: Generation) -> dict[str, Any]:
        """Return the fields of a whole response, or of the usage chunk that ends a stream."""
        fields: dict[str, Any] = {**self._common, "usage": generation.usage()}
        if self._has_timings:
            fields["timings"] = timings_of(generation)
        if generation.has_metrics and len(generation.choices) == 1:
            fields["metrics"] = metrics_of(generation)
        return fields


def timings_of(generation: Generation) -> Timings:
    """Return the timings of all choices together, so far."""
    usage, times = generation.usage(), generation.times()
    cache_n = usage.prompt_tokens_details.cached_tokens
    prompt_n, predicted_n = generation.num_prompt_computed - cache_n, usage.completion_tokens
    prompt_ms, predicted_ms = times.prompt_s * 1000, times.output_s * 1000
    timings = Timings(
        cache_n=cache_n,
        prompt_n=prompt_n,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=_ratio(prompt_ms, prompt_n),
        prompt_per_second=_ratio(prompt_n, times.prompt_s),
        predicted_n=predicted_n,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=_ratio(predicted_ms, predicted_n),
        predicted_per_second=_ratio(predicted_n, times.output_s),
        queue_ms=times.queue_s * 1000,
    )
    if (num_drafted := sum(choice.num_drafted for choice in generation.choices)) > 0:
        timings.draft_n = num_drafted
        timings.draft_n_accepted = sum(choice.num_draft_accepted for choice in generation.choices)
    return timings


def metrics_of(generation: Generation) -> RequestMetrics:
    """Return the timings of a finished generation with one choice."""
    times, num_tokens = generation.times(), generation.usage().completion_tokens
    output_ms = times.output_s * 1000
    computed_s = times.prompt_s + times.output_s
    return RequestMetrics(
        time_to_first_token_ms=times.prompt_s * 1000,
        generation_time_ms=output_ms,
        queue_time_ms=times.queue_s * 1000,
        mean_itl_ms=output_ms / (num_tokens - 1) if num_tokens > 1 else None,
        tokens_per_second=num_tokens / computed_s if computed_s > 0 else None,
    )


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor > 0 else 0.0
