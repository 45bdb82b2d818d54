"""Totals over all choices of a generation: metrics, usage and times."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from engine.protocol import FinishReason
from server.generation.accounting.metering import ChoiceMeter
from server.generation.choice import Choice
from server.generation.params.generation_params import GenerationParams
from server.live.requests import GenerationProgress
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.schemas.answers import CompletionTokensDetails, PromptTokensDetails, Usage


def count_request(metrics: Metrics, params: GenerationParams, record: RequestRecord | None) -> None:
    """Record a request's prompt lengths, `n` and max_tokens in metrics and its record, even if the engine then refuses
    the request."""
    for prompt in params.prompts:
        metrics.observe("request_prompt_tokens", len(prompt.ids))
        metrics.observe("request_params_n", params.n)
        metrics.observe("request_params_max_tokens", params.sampling.max_tokens)
    if record is not None:
        record.num_choices = len(params.prompts) * params.n
        record.prompt_tokens = sum(len(prompt.ids) for prompt in params.prompts)
        if record.trace_id is not None:
            record.note_submitted(params.sampling)


def count_longest(metrics: Metrics, meters: Sequence[ChoiceMeter], n: int) -> None:
    """Observe the length of each prompt's longest choice. meters: one for each choice, `n` per prompt."""
    for first in range(0, len(meters), n):
        longest = max(meter.num_tokens for meter in meters[first : first + n])
        metrics.observe("request_max_num_generation_tokens", longest)


def note_end(record: RequestRecord, meters: Sequence[ChoiceMeter], num_cached_tokens: int) -> None:
    """Store the totals of all choices, which must have ended, in the request's record."""
    record.counted_prompt_tokens = sum(meter.counted_prompt_tokens for meter in meters)
    record.cached_tokens = num_cached_tokens
    record.output_tokens = sum(meter.num_tokens for meter in meters)
    first_s = _first_token_s(meters)
    record.queue_s = _queue_s(meters)
    record.first_token_s = None if first_s is None else first_s - record.arrival_s
    if record.trace_id is not None:
        record.choices = [meter.times() for meter in meters]
    record.note_ends([meter.reason or FinishReason.ABORT for meter in meters])


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Durations of the three phases of a request, which add up to the time from arrival to the last token."""

    queue_s: float  # from the arrival to the first step that computes a part of the prompt
    prompt_s: float  # from that step to the first token
    output_s: float  # from the first to the last token; 0 with a single token


def request_times(arrival_s: float, meters: Sequence[ChoiceMeter]) -> RequestTimes:
    """Return a request's phases, each of which starts when the first choice reaches it. meters: one for each choice."""
    first_s = _first_token_s(meters)
    first_s = time.monotonic() if first_s is None else first_s
    queue_s = _queue_s(meters) or 0.0
    lasts = [meter.last_token_s for meter in meters if meter.last_token_s is not None]
    return RequestTimes(queue_s, max(0.0, first_s - arrival_s - queue_s), max(lasts, default=first_s) - first_s)


def generation_progress(
    arrival_s: float, prompt_tokens: int, cached_tokens: int, meters: Sequence[ChoiceMeter]
) -> GenerationProgress:
    """Return the progress that the dashboard shows. meters: one for each choice."""
    first_s = _first_token_s(meters)
    return GenerationProgress(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        output_tokens=sum(meter.num_tokens for meter in meters),
        queue_s=_queue_s(meters),
        first_token_s=None if first_s is None else first_s - arrival_s,
    )


def _queue_s(meters: Sequence[ChoiceMeter]) -> float | None:
    return min((meter.queue_s for meter in meters if meter.queue_s is not None), default=None)


def _first_token_s(meters: Sequence[ChoiceMeter]) -> float | None:
    return min((meter.first_token_s for meter in meters if meter.first_token_s is not None), default=None)


def usage_of(params: GenerationParams, choices: Sequence[Choice], num_cached: int) -> Usage:
    """Return the usage so far. A prompt counts once for all its choices, and output counts up to the end of the text.

    num_cached: prompt tokens found in the prefix cache.
    """
    prompt_tokens = sum(len(prompt.ids) for prompt in params.prompts)
    completion_tokens = sum(choice.num_tokens for choice in choices)
    return Usage(
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        PromptTokensDetails(num_cached, sum(choice.num_written_tokens for choice in choices)),
        _completion_details(params, choices),
    )


def _completion_details(params: GenerationParams, choices: Sequence[Choice]) -> CompletionTokensDetails | UnsetType:
    """Return the counts of predicted, drafted and reasoning tokens, each summed over all choices."""
    num_drafted = sum(choice.num_drafted for choice in choices)
    if not (params.plan.thought is not None or params.prediction_ids or num_drafted):
        return UNSET
    predicted = sum(choice.num_predicted for choice in choices)
    return CompletionTokensDetails(
        accepted_prediction_tokens=predicted,
        rejected_prediction_tokens=len(params.prediction_ids) * len(choices) - predicted,
        drafted_tokens=num_drafted,
        accepted_draft_tokens=sum(choice.num_draft_accepted for choice in choices),
        reasoning_tokens=sum(choice.num_reasoning for choice in choices),
    )
