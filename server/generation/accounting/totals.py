"""What is counted of a generation as a whole: its prompts, and its part in the request's record."""

from collections.abc import Sequence

from engine.protocol import FinishReason, SamplingParams
from server.generation.accounting.metering import ChoiceMeter
from server.generation.params.params import GenerationParams
from server.metrics.request_record import RequestedSampling, RequestRecord
from server.metrics.values import Metrics


def count_asked(metrics: Metrics, params: GenerationParams, record: RequestRecord | None) -> None:
    """Count what is asked for, before it is known whether there is room for it."""
    for prompt in params.prompts:
        metrics.observe("request_prompt_tokens", len(prompt.ids))
        metrics.observe("request_params_n", params.n)
        metrics.observe("request_params_max_tokens", params.sampling.max_tokens)
    if record is not None:
        record.num_choices = len(params.prompts) * params.n
        record.prompt_tokens = sum(len(prompt.ids) for prompt in params.prompts)
        if record.trace_id is not None:
            record.note_submitted(_requested(params.sampling))


def _requested(sampling: SamplingParams) -> RequestedSampling:
    return RequestedSampling(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        seed=sampling.seed,
    )


def count_longest(metrics: Metrics, meters: Sequence[ChoiceMeter], n: int) -> None:
    """Count each prompt's longest choice. meters: of all choices, n for each prompt."""
    for first in range(0, len(meters), n):
        longest = max(meter.num_tokens for meter in meters[first : first + n])
        metrics.observe("request_max_num_generation_tokens", longest)


def note_end(record: RequestRecord, meters: Sequence[ChoiceMeter], num_cached_tokens: int) -> None:
    """Tell the record what came of the choices, all of which have ended."""
    record.counted_prompt_tokens = sum(meter.counted_prompt_tokens for meter in meters)
    record.cached_tokens = num_cached_tokens
    record.output_tokens = sum(meter.num_tokens for meter in meters)
    record.queue_s = min((meter.queue_s for meter in meters if meter.queue_s is not None), default=None)
    firsts = [meter.first_token_s for meter in meters if meter.first_token_s is not None]
    record.first_token_s = min(firsts) - record.arrival_s if firsts else None
    if record.trace_id is not None:
        record.choices = [meter.times() for meter in meters]
    record.note_ends([meter.reason or FinishReason.ABORT for meter in meters])
