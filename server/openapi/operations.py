"""OpenAPI descriptions of routes that are not endpoints: responses, examples and errors."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from engine.errors import EngineDied, EngineStopped, EngineUnavailable, QueueFull, QueueTimeout, RequestFailed
from engine.simulation.planning.plan import Plan
from server.errors import (
    AdapterNotFound,
    AlreadyStopping,
    AnswerTimeout,
    EventsDropped,
    InsufficientPermissions,
    ModelFailed,
    ModelNotFound,
    ModelNotLoaded,
    NotServed,
    NotStored,
    PinLimitExceeded,
    PrefixNotFound,
    PullFailed,
    PullNotAllowed,
    RequestNotKnown,
    StorageFailed,
    StreamNotFound,
    TooManyPulls,
    TooManyWatchers,
)
from server.live.feed import Frame
from server.live.log_tail import LogLines
from server.live.reports import ServerReport
from server.live.request_stories import RequestStory
from server.openapi.operation import EVENTS, JSON, LINES, PAGE, RESUMING_ERRORS, STORED_ERRORS, TEXT, Operation, Query
from server.openapi.stored_operations import STORED_OPERATIONS
from server.protocols.responses.events import StreamEvent
from server.protocols.responses.objects import Response as ResponseObject
from server.schemas import plain_answers as plain
from server.schemas.cache import CachedPrefix, CachedPrefixes, PrefixDeleted, PrefixOfChat, PrefixOfText
from server.schemas.dashboard_jobs import JobReport, JobsReport
from server.schemas.dashboard_server import SettingList
from server.schemas.ollama_answers import (
    OllamaModels,
    OllamaPullStatus,
    OllamaRunningModels,
    OllamaShown,
    OllamaVersion,
)
from server.schemas.pulls import PullReport, PullView
from server.schemas.usage import UsageReport

_ITEMS = [{"type": "message", "role": "user", "content": "Hello"}]
_MODEL = (ModelNotFound, ModelNotLoaded, ModelFailed, EngineUnavailable, EngineStopped)
_CHANGING = (InsufficientPermissions, ModelNotFound, EngineUnavailable, EngineStopped)

_COMPUTING = (ModelNotLoaded, ModelFailed, EngineDied, QueueFull, QueueTimeout, RequestFailed, AnswerTimeout)
_CACHING = (*_CHANGING, *_COMPUTING, PrefixNotFound, StorageFailed)
_PREFIX = {"name": "support", "messages": [{"role": "system", "content": "You help customers of a bicycle shop."}]}
_OF_MODEL = (Query("model", {"type": "string"}, "Name of a model (default: all)."),)

_PULLING = (InsufficientPermissions, NotServed, PullNotAllowed, PullFailed, TooManyPulls, EngineUnavailable)

_stored = partial(Operation, errors=STORED_ERRORS)
_for_operators = partial(Operation, errors=(InsufficientPermissions,))

ROUTE_OPERATIONS: Mapping[str, Operation] = {
    "GET /v1/streams/{stream_id}": Operation(
        answers={EVENTS: None},
        errors=RESUMING_ERRORS,
        query=[Query("starting_after", {"type": "integer", "minimum": 0}, "Number of the last event received.")],
    ),
    "DELETE /v1/streams/{stream_id}": Operation(
        answers={JSON: plain.Deleted},
        errors=(StreamNotFound,),
        query=[
            Query(
                "grace",
                {"type": "integer", "minimum": 0},
                "Seconds without a reader after which the stream is deleted, at most --stream-resume-grace; without "
                "this parameter it is deleted immediately. A reader that comes back before ends the wait.",
            )
        ],
    ),
    "GET /tokenizer_info": Operation(
        answers={JSON: plain.TokenizerConfiguration},
        errors=_MODEL,
        query=[Query("model", {"type": "string"}, "Name of the model; the first by default.")],
    ),
    "GET /v1/responses/{response_id}": Operation(
        answers={JSON: ResponseObject, EVENTS: StreamEvent},
        errors=(*STORED_ERRORS, EventsDropped),
        query=[
            Query("stream", {"type": "boolean"}, "Whether to read the events of a background response."),
            Query("starting_after", {"type": "integer", "minimum": 0}, "Number of the last event received."),
        ],
    ),
    "DELETE /v1/responses/{response_id}": _stored(answers={JSON: plain.Deleted}),
    "POST /v1/responses/{response_id}/cancel": _stored(answers={JSON: ResponseObject}),
    "GET /v1/responses/{response_id}/input_items": _stored(answers={JSON: plain.ItemList}, query=PAGE),
    "POST /v1/conversations": _stored(
        answers={JSON: plain.Conversation}, example={"items": _ITEMS, "metadata": {"topic": "greetings"}}
    ),
    "GET /v1/conversations/{conversation_id}": _stored(answers={JSON: plain.Conversation}),
    "POST /v1/conversations/{conversation_id}": _stored(
        answers={JSON: plain.Conversation}, example={"metadata": {"topic": "farewells"}}
    ),
    "DELETE /v1/conversations/{conversation_id}": _stored(answers={JSON: plain.Deleted}),
    "POST /v1/conversations/{conversation_id}/items": _stored(
        answers={JSON: plain.ItemList}, example={"items": _ITEMS}
    ),
    "GET /v1/conversations/{conversation_id}/items": _stored(answers={JSON: plain.ItemList}, query=PAGE),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": _stored(answers={JSON: dict[str, Any]}),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": _stored(answers={JSON: plain.Conversation}),
    **STORED_OPERATIONS,
    "GET /api/tags": Operation(answers={JSON: OllamaModels}),
    "GET /api/ps": Operation(answers={JSON: OllamaRunningModels}),
    "POST /api/show": Operation(answers={JSON: OllamaShown}, example={"model": "MODEL"}, errors=_MODEL),
    "POST /api/pull": Operation(
        answers={LINES: OllamaPullStatus, JSON: OllamaPullStatus},
        example={"model": "owner/repo"},
        errors=_PULLING,
    ),
    "GET /dashboard/pulls": _for_operators(answers={JSON: PullReport}),
    "POST /dashboard/pulls": Operation(answers={JSON: PullView}, example={"model": "owner/repo"}, errors=_PULLING),
    "DELETE /dashboard/pulls/{pull_id}": Operation(
        answers={JSON: PullView}, errors=(InsufficientPermissions, NotStored)
    ),
    "GET /api/version": Operation(answers={JSON: OllamaVersion}),
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
    "GET /v1/cache": Operation(
        answers={JSON: CachedPrefixes},
        errors=(InsufficientPermissions, ModelNotFound, EngineStopped, StorageFailed),
        query=_OF_MODEL,
    ),
    "POST /v1/cache/save": Operation(
        answers={JSON: CachedPrefix}, bodies=(PrefixOfText, PrefixOfChat), example=_PREFIX, errors=_CACHING
    ),
    "POST /v1/cache/load": Operation(answers={JSON: CachedPrefix}, example={"name": "PINNED"}, errors=_CACHING),
    "POST /v1/cache/pin": Operation(
        answers={JSON: CachedPrefix},
        bodies=(PrefixOfText, PrefixOfChat),
        example=_PREFIX,
        errors=(*_CACHING, PinLimitExceeded),
    ),
    "DELETE /v1/cache/{name}": Operation(
        answers={JSON: PrefixDeleted},
        errors=(InsufficientPermissions, ModelNotFound, PrefixNotFound, StorageFailed),
        query=_OF_MODEL,
    ),
    "GET /metrics": _for_operators(answers={TEXT: None}),
    "GET /dashboard/events": Operation(
        answers={EVENTS: Frame},
        errors=(InsufficientPermissions, TooManyWatchers),
        query=(Query("frames", {"type": "integer", "minimum": 1}, "Number of frames (default: no limit)."),),
    ),
    "GET /dashboard/requests/{request_id}": Operation(
        answers={JSON: RequestStory}, errors=(InsufficientPermissions, RequestNotKnown)
    ),
    "GET /dashboard/server": _for_operators(answers={JSON: ServerReport}),
    "GET /dashboard/settings": _for_operators(answers={JSON: SettingList}),
    "GET /dashboard/log": _for_operators(
        answers={JSON: LogLines},
        query=(Query("after", {"type": "integer", "minimum": 0}, "Number of the last known line (default: 0)."),),
    ),
    "GET /dashboard/jobs": Operation(answers={JSON: JobsReport}, errors=(StorageFailed,)),
    "GET /dashboard/jobs/{job_id}": Operation(
        answers={JSON: JobReport},
        errors=(NotStored, StorageFailed),
        query=(Query("after", {"type": "integer", "minimum": 0}, "Number of the last known event (default: 0)."),),
    ),
    "GET /log-level": _for_operators(answers={JSON: plain.LogLevelAnswer}),
    "PUT /log-level": _for_operators(answers={JSON: plain.LogLevelAnswer}, example={"level": "debug"}),
    "GET /v1/usage": Operation(
        answers={JSON: UsageReport},
        errors=(InsufficientPermissions, StorageFailed),
        query=[
            Query("since", {"type": "string"}, "Start, in seconds since 1970 or RFC 3339 (default: start of month)."),
            Query("until", {"type": "string"}, "End, in the same form (default: now). Both become whole hours."),
            Query("bucket", {"enum": ["hour", "day", "month", "all"]}, "Period to add up (default: all)."),
            Query("key", {"type": "string"}, "A key's name; without it, an operator gets all keys."),
        ],
    ),
    "GET /v1/plan": Operation(
        answers={JSON: Plan},
        errors=(InsufficientPermissions, ModelNotFound, EngineUnavailable, RequestFailed),
        query=[
            Query("model", {"type": "string"}, "Name of a model (default: the first)."),
            Query(
                "input", {"type": "string"}, "Prompt tokens, such as 500, 64:512 or lognormal:500:0.5 (default: 500)."
            ),
            Query("output", {"type": "string"}, "Output tokens, in the same forms (default: 200)."),
            Query("concurrency", {"type": "integer", "minimum": 1, "maximum": 1024}, "Users (default: 1)."),
            Query("rate", {"type": "number", "exclusiveMinimum": 0}, "Requests a second, instead of users."),
            Query("slo", {"type": "string"}, "Limits for 95 % of requests (default: ttft=2s,tpot=100ms)."),
            Query("changes", {"type": "boolean"}, "Also compare two servers and longer prompts (default: false)."),
        ],
    ),
    "POST /drain": Operation(
        answers={JSON: plain.DrainState},
        query=[Query("wait", {"type": "integer", "minimum": 0, "maximum": 3600}, "Seconds to wait for open requests.")],
        errors=(InsufficientPermissions,),
    ),
    "DELETE /drain": Operation(answers={JSON: plain.DrainState}, errors=(InsufficientPermissions, AlreadyStopping)),
    "GET /version": Operation(answers={JSON: plain.ServerVersion}),
    "GET /live": Operation(answers={JSON: plain.Health}),
    "GET /ready": Operation(
        answers={JSON: plain.Health},
        query=[Query("model", {"type": "string"}, "Name of a model, to ask about it alone.")],
        errors=(ModelNotFound,),
        unready=plain.Health,
    ),
    "GET /health": Operation(answers={JSON: plain.Health}, unready=plain.Health),
}
