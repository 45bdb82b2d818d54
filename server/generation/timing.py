"""RequestTimes: where a request's time went, from the same moments as the metrics of requests."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.generation.accounting.metering import ChoiceMeter
from server.live.requests import GenerationProgress


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Three stretches that follow one another; together they are the time from arrival to the last token."""

    queue_s: float  # until the first step with a part of its prompt
    prompt_s: float  # until the first token
    output_s: float  # until the last one; 0 with a single token


def request_times(arrival_s: float, meters: Sequence[ChoiceMeter]) -> RequestTimes:
    """meters: of all choices. Several of them are in one stretch as soon as the first is."""
    firsts = [meter.first_token_s for meter in meters if meter.first_token_s is not None]
    lasts = [meter.last_token_s for meter in meters if meter.last_token_s is not None]
    first_s = min(firsts) if firsts else time.monotonic()
    queue_s = min((meter.queue_s for meter in meters if meter.queue_s is not None), default=0.0)
    return RequestTimes(queue_s, max(0.0, first_s - arrival_s - queue_s), max(lasts, default=first_s) - first_s)


def progress(
    arrival_s: float, prompt_tokens: int, cached_tokens: int, meters: Sequence[ChoiceMeter]
) -> GenerationProgress:
    """meters: of all choices."""
    firsts = [meter.first_token_s for meter in meters if meter.first_token_s is not None]
    return GenerationProgress(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        output_tokens=sum(meter.num_tokens for meter in meters),
        queue_s=min((meter.queue_s for meter in meters if meter.queue_s is not None), default=None),
        first_token_s=min(firsts) - arrival_s if firsts else None,
    )
