"""Responses of the generation routes, as msgspec structs, since encoding each streamed delta is the API's hot path."""

import msgspec
from msgspec import UNSET, UnsetType

from engine.protocol import FinishReason


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int  # tokens that later requests find in the prefix cache since this one


class CompletionTokensDetails(msgspec.Struct, kw_only=True):
    accepted_prediction_tokens: int  # tokens of the request's prediction that are in the answer
    rejected_prediction_tokens: int  # its other tokens, which completion_tokens does not count
    drafted_tokens: int  # an extension: tokens that speculation proposed for this answer
    accepted_draft_tokens: int  # an extension: proposed tokens that were accepted
    reasoning_tokens: int = 0  # tokens of the thought, included in completion_tokens


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET  # with a prediction, a draft or a thought


class Timings(msgspec.Struct, kw_only=True):
    """Timings of a request, an extension in llama-server's shape. A rate is 0 if its duration is 0."""

    cache_n: int  # prompt tokens from the prefix cache
    prompt_n: int  # prompt tokens that were computed
    prompt_ms: float  # from the first step to the first token
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float  # from the first token to the last
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int | UnsetType = UNSET  # with a draft
    draft_n_accepted: int | UnsetType = UNSET
    queue_ms: float  # not llama-server's: from the arrival to the first step


class PromptProgress(msgspec.Struct):
    """Progress of prompt processing, an extension in llama-server's shape."""

    total: int  # tokens of the prompt
    cache: int  # tokens from the prefix cache
    processed: int  # tokens that are computed or from the cache
    time_ms: float  # since the first step


class RequestMetrics(msgspec.Struct, kw_only=True):
    """Metrics of a request, an extension in vLLM's shape. Present with --enable-per-request-metrics."""

    time_to_first_token_ms: float  # from the first step, without queue_time_ms
    generation_time_ms: float  # from the first token to the last
    queue_time_ms: float  # from the arrival to the first step
    mean_itl_ms: float | None  # null with less than two tokens
    tokens_per_second: float | None  # since the first step


class PromptLogprob(msgspec.Struct):
    """The logprob of one candidate token at a position of the prompt, an extension in vLLM's shape."""

    logprob: float
    rank: int  # among all tokens, from 1
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]  # by token id; None for the first token, which is not predicted


# --- chat ------------------------------------------------------------------------------------------------------------


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct):
    """The function of a tool call. In a stream, a delta of it: only the first delta has the name."""

    name: str | UnsetType
    arguments: str


class ChatToolCall(msgspec.Struct, omit_defaults=True):
    """A tool call. In a stream, a delta of the call at `index`: only the first delta has id and type."""

    function: CalledFunction
    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class ChatAnswerMessage(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET  # a copy of reasoning_content, vLLM's newer name
    tool_calls: list[ChatToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET  # for requests with functions


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | UnsetType = UNSET  # if return_token_ids is true


class ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = None  # mode/version/weights/kernels/KV dtype, of the model that answers
    service_tier: str | UnsetType = UNSET  # if the request has one
    timings: Timings | UnsetType = UNSET  # if timings_per_token is true
    metrics: RequestMetrics | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatDelta(msgspec.Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET  # None in the first delta of an answer that begins otherwise
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ChatToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET  # with finish_reason
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET  # null in all chunks but the last, if include_usage is true
    system_fingerprint: str | None = None  # mode/version/weights/kernels/KV dtype, of the model that answers
    service_tier: str | UnsetType = UNSET  # if the request has one
    timings: Timings | UnsetType = UNSET  # if timings_per_token is true
    metrics: RequestMetrics | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET  # if return_progress is true
    prompt_token_ids: list[int] | UnsetType = UNSET  # in the first chunk


# --- text completions ------------------------------------------------------------------------------------------------


class TextLogprobs(msgspec.Struct):
    """Log probabilities as parallel lists with one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | UnsetType | None = UNSET  # with finish_reason
    token_ids: list[int] | UnsetType = UNSET  # if return_token_ids is true
    prompt_token_ids: list[int] | UnsetType = UNSET  # in a stream, in the choice's first chunk
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(msgspec.Struct, kw_only=True):
    """A text completion, or a chunk of its stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET  # null in all chunks but the last, if include_usage is true
    system_fingerprint: str | None = None  # mode/version/weights/kernels/KV dtype, of the model that answers
    service_tier: str | UnsetType = UNSET  # if the request has one
    timings: Timings | UnsetType = UNSET  # if timings_per_token is true
    metrics: RequestMetrics | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET  # in streams, if return_progress is true
