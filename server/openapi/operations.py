"""What each route's signature does not say: its answers, an example, and where errors may come from."""

from collections.abc import Mapping
from typing import Any

from engine.errors import (
    EngineDied,
    EngineStopped,
    EngineUnavailable,
    QueueFull,
    QueueTimeout,
    RequestFailed,
    WaitTooLong,
)
from server.errors import (
    AdapterNotFound,
    AlreadyStopping,
    AnswerTimeout,
    BudgetSpent,
    EventsDropped,
    InsufficientPermissions,
    ModelNotFound,
    ModelNotLoaded,
    RequestNotKnown,
    StorageFailed,
    StreamNotFound,
    StreamStopped,
    TokensLimited,
    TooManyWatchers,
)
from server.live.feed import Frame
from server.live.request_stories import RequestStory
from server.openapi.operation import EVENTS, JSON, LINES, PAGE, STORED_ERRORS, TEXT, Operation, Query
from server.openapi.stored_operations import STORED_OPERATIONS
from server.protocols.responses.events import ArgumentsDone, InputDone, ItemEvent, PartEvent, ResponseEvent, TextDone
from server.protocols.responses.events import Delta as ResponseDelta
from server.protocols.responses.objects import Response as ResponseObject
from server.schemas import plain_answers as plain
from server.schemas import pooling_answers as pooled
from server.schemas.answers import ChatChunk, ChatCompletion, TextCompletion
from server.schemas.messages_answers import Event as MessageEvent
from server.schemas.messages_answers import MessageAnswer
from server.schemas.ollama_answers import (
    OllamaChatAnswer,
    OllamaEmbedded,
    OllamaEmbedding,
    OllamaGenerateAnswer,
    OllamaModels,
    OllamaRunningModels,
    OllamaShown,
    OllamaVersion,
)
from server.schemas.tokens import TokenizeChatRequest, TokenizeTextRequest
from server.schemas.usage import UsageReport

_ResponseEvents = ResponseEvent | ItemEvent | PartEvent | ResponseDelta | TextDone | ArgumentsDone | InputDone
_MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
_ITEMS = [{"type": "message", "role": "user", "content": "Hello"}]
_ENGINE = (EngineUnavailable, ModelNotLoaded, EngineDied, EngineStopped)
_LIMITED = (TokensLimited, BudgetSpent)
_SHED = (QueueFull, WaitTooLong, QueueTimeout)
_GENERATING = (ModelNotFound, *_SHED, *_LIMITED, RequestFailed, *_ENGINE, AnswerTimeout)
_COMPUTING = (ModelNotFound, QueueFull, QueueTimeout, *_LIMITED, RequestFailed, *_ENGINE, AnswerTimeout)
_MODEL = (ModelNotFound, ModelNotLoaded, EngineUnavailable, EngineStopped)  # its tokenizer is asked, and not the engine
_CHANGING = (InsufficientPermissions, ModelNotFound, EngineUnavailable, EngineStopped)
_RESUMING = (StreamNotFound, EventsDropped, StreamStopped)
_RERANK = Operation(
    answers={JSON: pooled.Ranking},
    example={"model": "MODEL", "query": "What floats?", "documents": ["A stone sinks.", "A boat floats."]},
    errors=_COMPUTING,
)
_SCORE = Operation(
    answers={JSON: pooled.ScoreList},
    example={"model": "MODEL", "text_1": "What floats?", "text_2": ["A stone sinks.", "A boat floats."]},
    errors=_COMPUTING,
)

OPERATIONS: Mapping[str, Operation] = {
    "POST /v1/chat/completions": Operation(
        answers={JSON: ChatCompletion, EVENTS: ChatChunk},
        example={"messages": _MESSAGES, "max_completion_tokens": 64, "temperature": 0.7},
        errors=(*_GENERATING, *_RESUMING),
        has_end_mark=True,
        has_constraints=True,
    ),
    "POST /v1/completions": Operation(
        answers={JSON: TextCompletion, EVENTS: TextCompletion},
        example={"prompt": "Once upon a time", "max_tokens": 32},
        errors=(*_GENERATING, *_RESUMING),
        has_end_mark=True,
        has_constraints=True,
    ),
    "POST /v1/messages": Operation(
        answers={JSON: MessageAnswer, EVENTS: MessageEvent},
        example={"model": "MODEL", "max_tokens": 64, "messages": _MESSAGES},
        errors=_GENERATING,
    ),
    "POST /v1/messages/count_tokens": Operation(
        answers={JSON: plain.InputTokens},
        example={"model": "MODEL", "messages": _MESSAGES},
        errors=_MODEL,
    ),
    "GET /v1/streams/{stream_id}": Operation(
        answers={EVENTS: None},
        errors=_RESUMING,
        query=[Query("starting_after", {"type": "integer", "minimum": 0}, "Number of the last event received.")],
    ),
    "DELETE /v1/streams/{stream_id}": Operation(answers={JSON: plain.Deleted}, errors=(StreamNotFound,)),
    "POST /v1/responses": Operation(
        answers={JSON: ResponseObject, EVENTS: _ResponseEvents},
        example={"input": "Why is the sky blue?", "max_output_tokens": 64, "store": False},
        errors=(*_GENERATING, *_RESUMING, *STORED_ERRORS),
    ),
    "GET /v1/responses/{response_id}": Operation(
        answers={JSON: ResponseObject, EVENTS: _ResponseEvents},
        errors=(*STORED_ERRORS, EventsDropped),
        query=[
            Query("stream", {"type": "boolean"}, "Whether to read the events of a background response."),
            Query("starting_after", {"type": "integer", "minimum": 0}, "Number of the last event received."),
        ],
    ),
    "DELETE /v1/responses/{response_id}": Operation(answers={JSON: plain.Deleted}, errors=STORED_ERRORS),
    "POST /v1/responses/{response_id}/cancel": Operation(answers={JSON: ResponseObject}, errors=STORED_ERRORS),
    "GET /v1/responses/{response_id}/input_items": Operation(
        answers={JSON: plain.ItemList}, errors=STORED_ERRORS, query=PAGE
    ),
    "POST /v1/conversations": Operation(
        answers={JSON: plain.Conversation},
        example={"items": _ITEMS, "metadata": {"topic": "greetings"}},
        errors=STORED_ERRORS,
    ),
    "GET /v1/conversations/{conversation_id}": Operation(answers={JSON: plain.Conversation}, errors=STORED_ERRORS),
    "POST /v1/conversations/{conversation_id}": Operation(
        answers={JSON: plain.Conversation}, example={"metadata": {"topic": "farewells"}}, errors=STORED_ERRORS
    ),
    "DELETE /v1/conversations/{conversation_id}": Operation(answers={JSON: plain.Deleted}, errors=STORED_ERRORS),
    "POST /v1/conversations/{conversation_id}/items": Operation(
        answers={JSON: plain.ItemList}, example={"items": _ITEMS}, errors=STORED_ERRORS
    ),
    "GET /v1/conversations/{conversation_id}/items": Operation(
        answers={JSON: plain.ItemList}, errors=STORED_ERRORS, query=PAGE
    ),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": Operation(
        answers={JSON: dict[str, Any]}, errors=STORED_ERRORS
    ),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": Operation(
        answers={JSON: plain.Conversation}, errors=STORED_ERRORS
    ),
    "POST /v1/responses/input_tokens": Operation(
        answers={JSON: plain.ResponseInputTokens},
        example={"input": "Why is the sky blue?"},
        errors=(*_MODEL, *STORED_ERRORS),
    ),
    **STORED_OPERATIONS,
    "POST /infill": Operation(
        answers={JSON: plain.InfillAnswer, EVENTS: plain.InfillPiece | plain.InfillAnswer},
        example={"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 16},
        errors=_GENERATING,
    ),
    "POST /v1/embeddings": Operation(
        answers={JSON: pooled.EmbeddingList},
        example={"model": "MODEL", "input": ["What floats?", "A boat floats."]},
        errors=_COMPUTING,
    ),
    "POST /v1/rerank": _RERANK,
    "POST /v2/rerank": _RERANK,
    "POST /rerank": _RERANK,
    "POST /v1/score": _SCORE,
    "POST /score": _SCORE,
    "POST /classify": Operation(
        answers={JSON: pooled.ClassifiedList},
        example={"model": "MODEL", "input": "I have never had a better meal."},
        errors=_COMPUTING,
    ),
    "POST /pooling": Operation(
        answers={JSON: pooled.PooledList},
        example={"model": "MODEL", "input": "What floats?", "task": "embed"},
        errors=_COMPUTING,
    ),
    "POST /embedding": Operation(
        answers={JSON: list[pooled.LlamaEmbedding]}, example={"content": "What floats?"}, errors=_COMPUTING
    ),
    "POST /api/chat": Operation(
        answers={LINES: OllamaChatAnswer, JSON: OllamaChatAnswer},
        example={"model": "MODEL", "messages": _MESSAGES, "stream": False, "options": {"num_predict": 64}},
        errors=_GENERATING,
    ),
    "POST /api/generate": Operation(
        answers={LINES: OllamaGenerateAnswer, JSON: OllamaGenerateAnswer},
        example={"model": "MODEL", "prompt": "Why is the sky blue?", "stream": False, "options": {"num_predict": 64}},
        errors=_GENERATING,
    ),
    "POST /api/embed": Operation(
        answers={JSON: OllamaEmbedded},
        example={"model": "MODEL", "input": ["What floats?", "A boat floats."]},
        errors=_COMPUTING,
    ),
    "POST /api/embeddings": Operation(
        answers={JSON: OllamaEmbedding}, example={"model": "MODEL", "prompt": "What floats?"}, errors=_COMPUTING
    ),
    "GET /api/tags": Operation(answers={JSON: OllamaModels}),
    "GET /api/ps": Operation(answers={JSON: OllamaRunningModels}),
    "POST /api/show": Operation(answers={JSON: OllamaShown}, example={"model": "MODEL"}, errors=_MODEL),
    "GET /api/version": Operation(answers={JSON: OllamaVersion}),
    "POST /tokenize": Operation(
        answers={JSON: plain.Tokenized},
        example={"prompt": "Hello, world"},
        bodies=(TokenizeTextRequest, TokenizeChatRequest),
        errors=_MODEL,
    ),
    "POST /detokenize": Operation(answers={JSON: plain.Detokenized}, example={"tokens": [72, 105]}, errors=_MODEL),
    "GET /v1/models": Operation(answers={JSON: plain.ModelList}),
    "GET /v1/models/{name}": Operation(answers={JSON: plain.ModelCard}, errors=(ModelNotFound,)),
    "POST /v1/models/{name}/load": Operation(answers={JSON: plain.ModelCard}, errors=(*_CHANGING, ModelNotLoaded)),
    "POST /v1/models/{name}/unload": Operation(answers={JSON: plain.ModelCard}, errors=_CHANGING),
    "DELETE /v1/models/{name}": Operation(
        answers={JSON: plain.AdapterDeleted}, errors=(InsufficientPermissions, ModelNotFound)
    ),
    "POST /v1/load_lora_adapter": Operation(
        answers={TEXT: None},
        example={"lora_name": "ADAPTER", "lora_path": "FOLDER"},
        errors=(*_CHANGING, EngineDied, ModelNotLoaded),
    ),
    "POST /v1/unload_lora_adapter": Operation(
        answers={TEXT: None}, example={"lora_name": "LOADED"}, errors=(InsufficientPermissions, AdapterNotFound)
    ),
    "GET /metrics": Operation(answers={TEXT: None}, errors=(InsufficientPermissions,)),
    "GET /dashboard/events": Operation(
        answers={EVENTS: Frame},
        errors=(InsufficientPermissions, TooManyWatchers),
        query=(Query("frames", {"type": "integer", "minimum": 1}, "Number of frames (default: no limit)."),),
    ),
    "GET /dashboard/requests/{request_id}": Operation(
        answers={JSON: RequestStory}, errors=(InsufficientPermissions, RequestNotKnown)
    ),
    "GET /log-level": Operation(answers={JSON: plain.LogLevelAnswer}, errors=(InsufficientPermissions,)),
    "PUT /log-level": Operation(
        answers={JSON: plain.LogLevelAnswer}, example={"level": "debug"}, errors=(InsufficientPermissions,)
    ),
    "GET /v1/usage": Operation(
        answers={JSON: UsageReport},
        errors=(InsufficientPermissions, StorageFailed),
        query=[
            Query(
                "since",
                {"type": "string"},
                "Start, in seconds since 1970 or RFC 3339 (default: the beginning of this month).",
            ),
            Query(
                "until", {"type": "string"}, "End, in the same form (default: now). Both are extended to whole hours."
            ),
            Query("bucket", {"enum": ["hour", "day", "month", "all"]}, "Period to add up (default: all)."),
            Query("key", {"type": "string"}, "A key's name; without it, an operator gets all keys."),
        ],
    ),
    "POST /drain": Operation(
        answers={JSON: plain.DrainState},
        query=(
            Query("wait", {"type": "integer", "minimum": 0, "maximum": 3600}, "Seconds to wait for running requests."),
        ),
        errors=(InsufficientPermissions,),
    ),
    "DELETE /drain": Operation(answers={JSON: plain.DrainState}, errors=(InsufficientPermissions, AlreadyStopping)),
    "GET /version": Operation(answers={JSON: plain.ServerVersion}),
    "GET /live": Operation(answers={JSON: plain.Health}),
    "GET /ready": Operation(answers={JSON: plain.Health}, unready=plain.Health),
    "GET /health": Operation(answers={JSON: plain.Health}, unready=plain.Health),
}
