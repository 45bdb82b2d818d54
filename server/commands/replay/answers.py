"""Answer: what a stored or a new answer says, in one form for completions, chats and responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import msgspec

from engine.errors import StartupError
from server.schemas.base import quote

# Path by `object` of the answer, and the request's field for its prompt.
PATHS = {
    "chat.completion": ("/v1/chat/completions", "messages"),
    "text_completion": ("/v1/completions", "prompt"),
    "response": ("/v1/responses", "input"),
}
_CHUNK = "chat.completion.chunk"
_DRAWN = {"id", "call_id", "encrypted_content"}  # fields of a response's items that each answer draws anew
# Events with a piece of an item's text, by the item's type.
_DELTAS = {
    "message": ("response.output_text.delta", "response.refusal.delta"),
    "reasoning": ("response.reasoning_text.delta",),
    "function_call": ("response.function_call_arguments.delta",),
    "custom_tool_call": ("response.custom_tool_call_input.delta",),
}
_ENDED = ("completed", "incomplete")  # statuses of responses
_NUM_SHOWN = 20  # characters of texts that contradict each other


class NotReplayable(StartupError):
    """The request or its answer cannot be replayed; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as log probabilities show it: its text, and all that is said of it."""

    text: str
    scores: Any


@dataclass(slots=True)
class AnswerPart:
    """A choice of an answer, or an item of a response: all that must be equal.

    fields: by name, without empty ones. tokens: empty unless the request has logprobs. ids: of the tokens, empty unless
    the request has return_token_ids.
    """

    name: str
    fields: dict[str, Any]
    tokens: list[Token] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """An answer. num_prompt_tokens, num_tokens: None if it has no usage."""

    path: str
    prompt_field: str
    parts: list[AnswerPart]
    fingerprint: str | None
    num_prompt_tokens: int | None
    num_tokens: int | None


def read_answer(data: bytes, source: str) -> Answer:
    """Read an answer from JSON or from the events of its stream. source: names it in errors. Raises NotReplayable."""
    try:
        return _answer(_merged(_events(data)) if _is_stream(data) else msgspec.json.decode(data))
    except msgspec.DecodeError as error:
        raise NotReplayable(
            f"{source} is neither JSON nor a stream of events ({error}); give the whole answer"
        ) from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise NotReplayable(
            f"{source} is not a complete answer ({type(error).__name__}: {error}); give it as the server sent it"
        ) from None
    except NotReplayable as error:
        raise NotReplayable(f"{source} {error}") from None


def _is_stream(data: bytes) -> bool:
    return data.lstrip().startswith((b"data:", b"event:", b"id:", b":"))


def _events(data: bytes) -> list[dict[str, Any]]:
    payloads = [line[5:].strip() for line in data.split(b"\n") if line.startswith(b"data:")]
    return [msgspec.json.decode(payload) for payload in payloads if payload != b"[DONE]"]


def _answer(body: Any) -> Answer:
    if not isinstance(body, dict):
        raise NotReplayable("is not a JSON object; give the answer as the server sent it")
    if body.get("error"):
        error = body["error"]
        raise NotReplayable(f"is an error, not an answer: {error.get('message') if isinstance(error, dict) else error}")
    kind = body.get("object")
    if kind not in PATHS:
        raise NotReplayable(f"has the object {quote(kind)}; those that can be replayed are {', '.join(PATHS)}")
    if kind == "response":
        parts = _response_parts(body)
    else:
        parts = [_choice(each, is_chat=kind == "chat.completion") for each in body["choices"]]
        parts.sort(key=lambda part: part.name)
    usage: Mapping[str, Any] = body.get("usage") or {}
    return Answer(
        *PATHS[kind],
        parts,
        body.get("system_fingerprint"),
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
    )


def _choice(choice: dict[str, Any], *, is_chat: bool) -> AnswerPart:
    logprobs = choice.get("logprobs") or {}
    message = choice["message"] if is_chat else {}
    fields: dict[str, Any] = {
        "reasoning": message.get("reasoning_content"),
        "text": message.get("content") if is_chat else choice["text"],
        "refusal": message.get("refusal"),
        **_calls(message.get("tool_calls") or []),
        **_calls([{"function": message["function_call"]}] if message.get("function_call") else []),
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice.get("stop_reason"),
        "prompt_logprobs": choice.get("prompt_logprobs"),
    }
    if fields["finish_reason"] is None:
        raise NotReplayable("ends in the middle of the answer (a choice has no finish_reason); give the whole answer")
    tokens = _chat_tokens(logprobs.get("content") or []) if is_chat else _text_tokens(logprobs)
    return AnswerPart(f"choice {choice['index']}", _stated(fields), tokens, choice.get("token_ids") or [])


def _calls(calls: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return names and arguments of tool calls as fields of their own. Their ids are drawn anew for each answer."""
    fields = {}
    for number, call in enumerate(calls):
        for name in ("name", "arguments"):
            fields[f"{name} of call {number}"] = call["function"][name]
    return fields


def _stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out empty fields: clients store some as null, and streams leave them out."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _chat_tokens(content: Sequence[dict[str, Any]]) -> list[Token]:
    return [Token(each["token"], [each["logprob"], each.get("top_logprobs") or []]) for each in content]


def _text_tokens(logprobs: Mapping[str, Any]) -> list[Token]:
    names = logprobs.get("tokens") or []
    top = logprobs.get("top_logprobs") or [None] * len(names)
    scores = zip(logprobs.get("token_logprobs") or [None] * len(names), top, strict=True)
    return [Token(name, list(score)) for name, score in zip(names, scores, strict=True)]


def _response_parts(body: Mapping[str, Any]) -> list[AnswerPart]:
    if body["status"] not in _ENDED:
        raise NotReplayable(f"has the status {body['status']!r}; give a response that has ended")
    parts = []
    for number, item in enumerate(body["output"]):
        fields = {name: value for name, value in item.items() if name not in _DRAWN and name not in ("content", "type")}
        content = item.get("content") or []
        fields["text"] = _content_text(item)
        scored = [token for each in content for token in each.get("logprobs") or []]
        parts.append(AnswerPart(f"item {number} ({item['type']})", _stated(fields), _chat_tokens(scored)))
    ends = {"status": body["status"], "incomplete_details": body.get("incomplete_details")}
    return [*parts, AnswerPart("response", _stated(ends))]


def _content_text(item: Mapping[str, Any]) -> str:
    return "".join(each.get("text") or each.get("refusal") or "" for each in item.get("content") or [])


# --- streams ---------------------------------------------------------------------------------------------------------


def _merged(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the events of a stream into the answer that it is without a stream."""
    if not events:
        raise NotReplayable("has no events; give the whole stream")
    if errors := [event for event in events if event.get("error") and "object" not in event]:
        return errors[0]
    if str(events[0].get("type", "")).startswith("response."):
        last = events[-1].get("response")
        if not isinstance(last, dict):
            raise NotReplayable("ends in the middle of the answer; give the whole stream")
        if last.get("status") in _ENDED:
            _check_deltas(events, last["output"])
        return last
    choices: dict[int, dict[str, Any]] = {}
    for chunk in events:
        for choice in chunk["choices"]:
            _extend(choices.setdefault(choice["index"], {"index": choice["index"], "text": "", "message": {}}), choice)
    usages = [usage for chunk in events if (usage := chunk.get("usage"))]
    kind = events[0]["object"]
    return {
        **events[0],
        "object": "chat.completion" if kind == _CHUNK else kind,
        "choices": list(choices.values()),
        "usage": usages[-1] if usages else None,
    }


def _check_deltas(events: Sequence[dict[str, Any]], output: Sequence[dict[str, Any]]) -> None:
    """Raise NotReplayable if the pieces of a response's stream, which its reader saw, are not the items of its end."""
    kinds = {kind for each in _DELTAS.values() for kind in each}
    streamed: dict[int, str] = {}
    for event in events:
        if event["type"] in kinds:
            number = event["output_index"]
            streamed[number] = streamed.get(number, "") + event["delta"]
    is_whole = events[0]["type"] == "response.created"  # not one that continues after an event
    for number in sorted({*streamed, *range(len(output))}):
        item: Mapping[str, Any] = output[number] if number < len(output) else {"type": "message"}
        if item["type"] not in _DELTAS:
            continue
        pieces = streamed.get(number, "")
        text = _content_text(item) + (item.get("arguments") or "") + (item.get("input") or "")
        if not is_whole:
            text = text[max(0, len(text) - len(pieces)) :]
        if pieces != text:
            place = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(pieces, text, strict=False)))
            shown = [quote(each[place : place + _NUM_SHOWN]) for each in (pieces, text)]
            raise NotReplayable(
                f"contradicts itself: in item {number}, its deltas have {shown[0]} where its last event has {shown[1]}"
                "; give the stream as the server sent it"
            )


def _extend(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    """Add a chunk's choice to what the chunks before it gave."""
    whole["text"] += choice.get("text") or ""
    for name in ("finish_reason", "stop_reason"):
        whole[name] = whole.get(name) if choice.get(name) is None else choice[name]
    whole["token_ids"] = [*whole.get("token_ids", []), *(choice.get("token_ids") or [])]
    logprobs = whole.setdefault("logprobs", {})
    for name, values in (choice.get("logprobs") or {}).items():
        logprobs[name] = [*logprobs.get(name, []), *(values or [])]
    delta, message = choice.get("delta") or {}, whole["message"]
    for name in ("content", "reasoning_content", "refusal"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    for call in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            calls.append({"function": {"name": "", "arguments": ""}})
        _extend_call(calls[call["index"]]["function"], call["function"])
    if delta.get("function_call"):
        _extend_call(message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"])


def _extend_call(whole: dict[str, str], delta: Mapping[str, Any]) -> None:
    for name in ("name", "arguments"):
        whole[name] += delta.get(name) or ""
