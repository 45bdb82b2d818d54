"""/v1/cache: operators' named prefixes, which stay in the KV cache or on disk."""

import math
from collections.abc import Iterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.protocol import EngineInfo, NamedPrefix, PrefixReport
from server.chat.content import ChatMessage, TextPart
from server.chat.openai_fields import chat_of
from server.chat.request import Chat
from server.context import ServerContext
from server.endpoints.binding.registry import SUITABLE_PATHS
from server.endpoints.chat import check_results
from server.generation.params.prompts import chat_prompt, room_for_output, text_prompts
from server.http.body import Context, Json, json_response, read_body
from server.http.models import acquire_model
from server.http.operators import OPERATORS_ONLY
from server.http.query import ignored_query
from server.keys.caller import current_caller, split_salt
from server.prefixes.named import PrefixState
from server.schemas.base import quote
from server.schemas.cache import (
    CachedPrefix,
    CachedPrefixes,
    PrefixDeleted,
    PrefixName,
    PrefixOfChat,
    PrefixOfText,
    PrefixRequest,
    Where,
    prefix_request,
)
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.served.model import ServedModel

router = APIRouter(tags=["Operations"], dependencies=[OPERATORS_ONLY])

_OPENINGS = "Hello", "\n1"  # of texts by users that have no token in common, not even with what is before them


@router.get("/v1/cache")
async def list_prefixes(request: Request, context: Context) -> Response:
    """List the named prefixes, of all models or of one, and where their blocks are."""
    states = [
        (model, state) for model in _models(request, context) for state in await model.prefixes.states(model.client)
    ]
    answer = CachedPrefixes("list", [_described(model, state) for model, state in states])
    return json_response(answer, ignored_query(request, "model"))


@router.post("/v1/cache/save")
async def save_prefix(request: Request, context: Context) -> Response:
    """Keep a prefix on disk under a name, after computing it if needed, so that restarts find it."""
    prefix, model, headers = await _requested(request, context)
    if model.client.info.kv_folder is None:
        raise InvalidRequest(
            "this server keeps no blocks on disk; start it with --kv-offload-dir DIR, or pin the prefix"
        )
    return json_response(_described(model, await model.prefixes.save(model.client, prefix, model.name)), headers)


@router.post("/v1/cache/load")
async def load_prefix(request: Request, context: Context, body: Json[PrefixName]) -> Response:
    """Bring a named prefix into the KV cache, from the disk or by computing it."""
    context.drain.check()
    if given := {"prompt", "messages"} & body.extra.keys():
        raise InvalidRequest(
            f"{min(given)} is given, but load is for a known name; save or pin the prefix, or leave it out",
            param=min(given),
        )
    model = context.models.find(body.model)
    headers = _headers(body, model)
    await acquire_model(request, model)
    _check_suitable(model)
    return json_response(_described(model, await model.prefixes.load(model.client, body.name)), headers)


@router.post("/v1/cache/pin")
async def pin_prefix(request: Request, context: Context) -> Response:
    """Keep a prefix in the KV cache under a name, after computing it if needed."""
    prefix, model, headers = await _requested(request, context)
    return json_response(_described(model, await model.prefixes.pin(model.client, prefix, model.name)), headers)


@router.delete("/v1/cache/{name}")
async def delete_prefix(request: Request, name: str, context: Context) -> Response:
    """Forget a named prefix. Its blocks stay until others need their room."""
    having = [model for model in _models(request, context) if await model.prefixes.has(model.client, name)]
    if len(having) > 1:
        names = ", ".join(quote(model.name) for model in having)
        raise InvalidRequest(f"{quote(name)} is a prefix of the models {names}; choose one with ?model=", param="model")
    model = having[0] if having else context.models.find(request.query_params.get("model"))
    await model.prefixes.remove(model.client, name)
    return json_response(PrefixDeleted(name, "cache.prefix", True), ignored_query(request, "model"))


def _models(request: Request, context: ServerContext) -> Iterator[ServedModel]:
    """Yield the model of the query, or without one all that the caller's key may use. Raises ModelNotFound."""
    if (name := request.query_params.get("model")) is None:
        yield from (model for model in context.models if model.visible_names)
    else:
        yield context.models.find(name)


def _headers(body: PrefixRequest | PrefixName, model: ServedModel) -> dict[str, str]:
    """Return the header that lists ignored fields. Raises InvalidRequest if the server is configured to refuse them."""
    is_strict = model.config.strict_parameters
    ignored = ignored_parameters(body.extra, strict=is_strict)
    if is_strict:
        refuse_unknown(body.passed_on)
    return ignored_header(ignored)


async def _requested(request: Request, context: ServerContext) -> tuple[NamedPrefix, ServedModel, dict[str, str]]:
    """Return the prefix that a request's body describes, or names, its model, which is loaded, and the headers of the
    answer. Raises InvalidRequest, PrefixNotFound, and the errors of `acquire_model`."""
    context.drain.check()
    body = await read_body(request, prefix_request)
    model = context.models.find(body.model)
    headers = _headers(body, model)
    await acquire_model(request, model)
    info = _check_suitable(model)
    if isinstance(body, PrefixOfText) and body.prompt is None:
        return (await model.prefixes.get(model.client, body.name)).prefix, model, headers
    ids = await _chat_ids(body, model, info) if isinstance(body, PrefixOfChat) else await _text_ids(body, model, info)
    unit = math.lcm(info.block_size, *info.kv_block_sizes)
    if len(ids) < unit:
        raise InvalidRequest(
            f"the prefix has {len(ids)} tokens, and only whole blocks of {unit} are kept; give a longer one",
            param="messages" if isinstance(body, PrefixOfChat) else "prompt",
        )
    adapter = None if model.adapter is None else context.models.adapters.current(model.name).ref
    salt = _salt(body, context)
    return NamedPrefix(name=body.name, prompt_ids=ids, cache_salt=salt, adapter=adapter), model, headers


def _check_suitable(model: ServedModel) -> EngineInfo:
    """Return the engine's description. Raises InvalidRequest if prefixes of the model cannot be kept, and
    EngineUnavailable."""
    model.check_engine()
    SUITABLE_PATHS.check_generates(model)
    info = model.client.info
    if info.num_states:
        raise InvalidRequest(
            f"the model {model.name!r} has recurrent layers, whose states named prefixes do not keep; its prefixes are "
            "cached as long as there is room",
            param="model",
        )
    if not model.engine.enable_prefix_caching:
        raise InvalidRequest(
            f"the model {model.name!r} caches no prefixes; start the server without --no-enable-prefix-caching",
            param="model",
        )
    return info


def _salt(body: PrefixRequest, context: ServerContext) -> str:
    """Return the salt with which the requests of the body's key, by default the sender's, look up cached prefixes."""
    caller = current_caller() if body.key is None else context.keys.ring.named(body.key)
    if caller is None:
        raise InvalidRequest(f"key is {quote(body.key)}; the keys file has no key of this name", param="key")
    return caller.cache_salt(body.cache_salt or "")


async def _text_ids(body: PrefixOfText, model: ServedModel, info: EngineInfo) -> list[int]:
    assert body.prompt is not None
    if len(body.prompt) > 1:
        raise InvalidRequest(f"prompt has {len(body.prompt)} texts; a name is for one", param="prompt")
    has_special = body.add_special_tokens is not False
    prompts = await text_prompts(
        body.prompt, await model.text_model(), info, add_special_tokens=has_special, echo=False, truncation=None
    )
    room_for_output(prompts, info.max_model_len, requested=1, prompt_param="prompt")
    return prompts[0].ids


async def _chat_ids(body: PrefixOfChat, model: ServedModel, info: EngineInfo) -> list[int]:
    """Return the tokens of a chat up to the answer, if a message waits for one; otherwise those that it shares with all
    chats in which a user's message follows."""
    check_results(body.messages)
    text_model, chat = await model.text_model(), chat_of(body)
    is_whole = body.messages[-1].role in ("user", "tool", "function") or body.continue_final_message
    ends = [[]] if is_whole else [[ChatMessage("user", [TextPart(opening)])] for opening in _OPENINGS]
    prompts = [
        (await chat_prompt(Chat([*chat.messages, *end], chat.tools), body, text_model, info)).prompt for end in ends
    ]
    room_for_output(prompts, info.max_model_len, requested=1, prompt_param="messages")
    first, last = prompts[0].ids, prompts[-1].ids
    pairs = zip(first, last, strict=False)
    return first[: next((index for index, (one, other) in enumerate(pairs) if one != other), len(first))]


def _described(model: ServedModel, state: PrefixState) -> CachedPrefix:
    record, report = state.record, state.report
    scope, own_salt = split_salt(record.prefix.cache_salt)
    answer = CachedPrefix(
        name=record.prefix.name,
        model=record.model,
        cache_scope=scope or None,
        has_cache_salt=bool(own_salt),
        tokens=record.num_tokens,
        blocks=record.num_blocks,
        bytes=0 if model.info is None else record.num_blocks * (model.info.kv_bytes // model.info.num_blocks),
        where=None,
        memory_blocks=None,
        disk_blocks=None,
        created_at=record.created_s,
        last_used_at=record.used_s,
    )
    if report is not None:
        answer.memory_blocks, answer.disk_blocks = report.num_in_cache, report.num_on_disk
        answer.where = _where(report)
    if state.num_cached is not None:
        answer.cached_tokens = state.num_cached
    return answer


def _where(report: PrefixReport) -> Where:
    if report.is_pinned:
        return "pinned"
    if report.num_in_cache == report.num_blocks:
        return "memory"
    if report.num_missing == 0:
        return "disk"
    return "part" if report.num_missing < report.num_blocks else "none"
