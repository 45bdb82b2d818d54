"""request_attributes: attributes of a request's span, by OpenTelemetry's conventions for HTTP and generative AI.

They never contain a prompt, an answer, a path as it was sent, or other text of a client except its request id: the
model's name is the server's. Latencies have vLLM's names, gen_ai.latency.*, since the conventions define none for a
server's spans.
"""

import time
from collections.abc import Mapping

from engine.protocol import SamplingParams
from server.metrics.request_record import RequestRecord

Attributes = Mapping[str, str | bool | int | float | list[str]]
_Values = dict[str, str | bool | int | float | list[str]]

_PROVIDER = "headrace"


def request_attributes(record: RequestRecord) -> Attributes:
    attributes: _Values = {
        "http.response.status_code": record.status,
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
        "headrace.request.id": record.request_id,
        "headrace.outcome": record.outcome.value,
    }
    if record.route != "unmatched":
        attributes["http.route"] = record.route
    if record.key_name is not None:
        attributes["headrace.key"] = record.key_name
    if record.error_code is not None:
        attributes["error.type"] = record.error_code
    elif record.status >= 500:
        attributes["error.type"] = str(record.status)
    if record.sampling is not None:
        attributes |= _generation(record, record.sampling)
        attributes |= _latencies(record)
    return attributes


def _generation(record: RequestRecord, sampling: SamplingParams) -> _Values:
    assert record.model_name is not None, "a generation without a model"
    attributes: _Values = {
        "gen_ai.operation.name": record.span_operation,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": record.model_name,
        "gen_ai.response.model": record.model_name,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.stream": record.is_stream,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
    }
    if sampling.top_k:
        attributes["gen_ai.request.top_k"] = sampling.top_k
    if sampling.seed is not None:
        attributes["gen_ai.request.seed"] = sampling.seed
    if record.num_choices > 1:
        attributes["gen_ai.request.choice.count"] = record.num_choices
    if record.response_id is not None:
        attributes["gen_ai.response.id"] = record.response_id
    if record.has_started:
        attributes["gen_ai.usage.output_tokens"] = record.output_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = record.cached_tokens
        attributes["gen_ai.response.finish_reasons"] = record.choice_ends
    return attributes


def _latencies(record: RequestRecord) -> _Values:
    """Return the latency attributes, in seconds. With several choices, the first choice's latencies are used."""
    latencies = {"e2e": time.monotonic() - record.arrival_s}
    if record.first_token_s is not None:
        latencies["time_to_first_token"] = record.first_token_s
    if record.choices:
        first = record.choices[0]
        ended_s = first.ended_s
        if first.scheduled_s is not None:
            latencies["time_in_queue"] = first.scheduled_s - record.arrival_s
            if ended_s is not None:
                latencies["time_in_model_inference"] = ended_s - first.scheduled_s
            if first.first_token_s is not None:
                latencies["time_in_model_prefill"] = first.first_token_s - first.scheduled_s
        if first.first_token_s is not None and ended_s is not None:
            latencies["time_in_model_decode"] = ended_s - first.first_token_s
    return {f"gen_ai.latency.{name}": value for name, value in latencies.items()}
