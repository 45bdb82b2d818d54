"""What the users of a soak do: every route, in the ways that clients use and misuse it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.soak.tally import Outcome
from tests.soak.user import Stream, User

PROMPTS = ("Tell me a story about a river.", "Name five cities.", "Why is the sky blue?", "Count from one to twenty.")
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
_TOOL = {"name": "look", "description": "Look something up.", "parameters": _SCHEMA}
_POLL_S = 0.2
_MOST_BACKGROUND_S = 900.0  # as other requests have, on a machine that others use


def _messages(user: User) -> list[dict[str, str]]:
    """A conversation of one to three turns; few different ones, so that some are in the prefix cache."""
    prompt = user.random.choice(PROMPTS)
    turns = [{"role": "user", "content": prompt}]
    for _ in range(user.random.randrange(3)):
        turns += [{"role": "assistant", "content": "I see."}, {"role": "user", "content": f"Go on: {prompt}"}]
    return turns


def _sampling(user: User) -> dict[str, Any]:
    """Greedy or seeded: one text each. The limits keep rounding out of the draw."""
    if user.random.random() < 0.5:
        return {"temperature": 0}
    return {"temperature": 0.8, "min_p": 0.05, "seed": user.random.randrange(3)}


def _texts(events: list[dict[str, Any]]) -> str:
    choices = [choice for event in events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices)


def _note_usage(user: User, usage: dict[str, Any] | None) -> None:
    if usage is not None:
        user.tally.completion_tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))


async def chat(user: User) -> None:
    body = {"messages": _messages(user), "max_tokens": user.random.choice((8, 32, 64)), **_sampling(user)}
    if user.random.random() < 0.5:
        answer = await user.ask("/v1/chat/completions", body)
        if answer is not None:
            _note_usage(user, answer["usage"])
            user.tally.check_text(body, answer["choices"][0]["message"]["content"])
        return
    async with user.stream("/v1/chat/completions", {**body, "stream": True}) as stream:
        await stream.read()
    if stream.status == 200 and stream.error is None:
        user.tally.check_text(body, _texts(stream.events))


async def document(user: User) -> None:
    """A question about one of a few long texts, which are more than the KV cache holds, and more than the disk may."""
    number = user.random.randrange(8)
    text = " ".join(f"Item {number}-{line} of the list is {line * number % 7} meters long." for line in range(40))
    body = {"prompt": f"{text} {user.random.choice(PROMPTS)}", "max_tokens": 8, "temperature": 0}
    answer = await user.ask("/v1/completions", body)
    if answer is not None:
        _note_usage(user, answer["usage"])
        user.tally.check_text(body, answer["choices"][0]["text"])


async def completion(user: User) -> None:
    body = {"prompt": user.random.choice(PROMPTS), "max_tokens": 24, "n": 2, "logprobs": 2, **_sampling(user)}
    answer = await user.ask("/v1/completions", body)
    if answer is not None:
        _note_usage(user, answer["usage"])
        user.tally.check_text(body, json.dumps([choice["text"] for choice in answer["choices"]]))


async def beams(user: User) -> None:
    body = {"prompt": user.random.choice(PROMPTS), "max_tokens": 8, "use_beam_search": True, "n": 3}
    answer = await user.ask("/v1/completions", body)
    if answer is not None:
        user.tally.check_text(body, json.dumps([choice["text"] for choice in answer["choices"]]))


async def structured(user: User) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": _SCHEMA}}
    body = {"messages": _messages(user), "max_tokens": 64, "response_format": form, **_sampling(user)}
    answer = await user.ask("/v1/chat/completions", body)
    if answer is not None and answer["choices"][0]["finish_reason"] == "stop":
        city = json.loads(answer["choices"][0]["message"]["content"])
        if set(city) != {"city", "size"}:
            user.tally.wrong.append(f"structured: {city}")


async def tools(user: User) -> None:
    body = {
        "messages": _messages(user),
        "max_tokens": 64,
        "tools": [{"type": "function", "function": _TOOL}],
        "tool_choice": "required",
        **_sampling(user),
    }
    async with user.stream("/v1/chat/completions", {**body, "stream": True}) as stream:
        await stream.read()


async def messages(user: User) -> None:
    body = {"model": "demo", "messages": _messages(user), "max_tokens": 24, "stream": True, "temperature": 0}
    async with user.stream("/v1/messages", body) as stream:
        await stream.read()
    deltas = [event["delta"].get("text", "") for event in stream.events if event.get("type") == "content_block_delta"]
    if stream.status == 200 and stream.error is None:
        user.tally.check_text(body, "".join(deltas))


async def ollama(user: User) -> None:
    body = {"model": "demo", "messages": _messages(user), "options": {"num_predict": 24, "temperature": 0}}
    async with user.stream("/api/chat", body) as stream:
        await stream.read()
    if stream.status == 200 and stream.error is None:
        user.tally.check_text(body, "".join(event["message"]["content"] for event in stream.events))


async def response(user: User) -> None:
    """Stored, perhaps continued, and deleted."""
    body: dict[str, Any] = {"input": user.random.choice(PROMPTS), "max_output_tokens": 24, "temperature": 0}
    answer = await user.ask("/v1/responses", body)
    if answer is None:
        return
    _note_usage(user, answer["usage"])
    if not answer["store"]:  # the disk was full
        return
    more = await user.ask("/v1/responses", {**body, "previous_response_id": answer["id"], "input": "Go on."})
    for each in (answer, more):
        if each is not None and each["store"]:
            await user.call("GET", f"/v1/responses/{each['id']}", route="/v1/responses/{response_id}")
            await user.call("DELETE", f"/v1/responses/{each['id']}", route="/v1/responses/{response_id}")


async def background(user: User) -> None:
    """Polled to its end, or canceled."""
    body = {"input": user.random.choice(PROMPTS), "max_output_tokens": 48, "background": True, "temperature": 0}
    answer = await user.ask("/v1/responses", body)
    if answer is None:
        return
    path, route = f"/v1/responses/{answer['id']}", "/v1/responses/{response_id}"
    if user.random.random() < 0.3:
        await user.call("POST", f"{path}/cancel", route=f"{route}/cancel")
        return
    until_s = time.monotonic() + _MOST_BACKGROUND_S
    while time.monotonic() < until_s:
        found = await user.call("GET", path, route=route)
        if found.status_code == 404 or found.json().get("status") not in ("queued", "in_progress"):
            return
        await asyncio.sleep(_POLL_S)
    user.tally.wrong.append(f"background: {path} does not end")


async def cut(user: User) -> None:
    """A client that goes away in the middle."""
    body = {"messages": _messages(user), "max_tokens": 400, "ignore_eos": True, "stream": True}
    async with user.stream("/v1/chat/completions", body) as stream:
        await stream.read(user.random.randrange(1, 30))


async def resumed(user: User) -> None:
    """A stream that is cut off and taken up again has the text of one that was not."""
    body = {"messages": _messages(user), "max_tokens": 48, **_sampling(user), "ignore_eos": True}
    async with user.stream("/v1/chat/completions", {**body, "stream": True, "resumable": True}) as first:
        await first.read(user.random.randrange(2, 30))
    events = list(first.events)
    if first.is_cut:
        rest = await _rest(user, first)
        if rest is None:
            return
        events += rest.events
    if all("error" not in event for event in events):
        user.tally.check_text(body, _texts(events))


async def _rest(user: User, first: Stream) -> Stream | None:
    stream_id = first.headers["x-stream-id"]
    async with user.stream(
        f"/v1/streams/{stream_id}",
        None,
        method="GET",
        route="/v1/streams/{stream_id}",
        **{"last-event-id": first.last_id},
    ) as stream:
        await stream.read()
    return stream if stream.status == 200 else None


async def tokens(user: User) -> None:
    prompt = user.random.choice(PROMPTS) * user.random.randrange(1, 40)
    counted = await user.ask("/tokenize", {"prompt": prompt, "add_special_tokens": False})
    if counted is None:
        return
    back = await user.ask("/detokenize", {"tokens": counted["tokens"]})
    if back is not None and back["prompt"] != prompt:
        user.tally.wrong.append(f"tokens: {prompt!r} came back as {back['prompt']!r}")


_BAD: tuple[tuple[str, Any], ...] = (
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10**9}),
    ("/v1/completions", {"prompt": "a" * 200_000, "max_tokens": 1}),
    ("/v1/completions", {"prompt": [10**7], "max_tokens": 1}),
    ("/v1/completions", b'{"prompt": "a", "temperature": NaN}'),
    ("/v1/completions", b'{"prompt": "a"'),
    ("/v1/responses", {"input": "hi", "previous_response_id": "resp_none"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/api/chat", {"model": "another", "messages": []}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "regex"}}),
)


async def bad(user: User) -> None:
    path, body = user.random.choice(_BAD)
    answer = await user.call("POST", path, body)
    user.tally.note(user.scenario, Outcome.REFUSED)
    if not 400 <= answer.status_code < 500 and answer.status_code != 503:
        user.tally.wrong.append(f"bad: {path} {body!r:.100} got {answer.status_code}")


async def looks(user: User) -> None:
    """What dashboards and probes ask for."""
    for path in ("/live", "/v1/models", "/version"):
        answer = await user.call("GET", path)
        if answer.status_code not in (200, 503):
            user.tally.wrong.append(f"looks: {path} got {answer.status_code}")


SCENARIOS: dict[Callable[[User], Awaitable[None]], int] = {  # with how often each is done
    chat: 20,
    document: 6,
    completion: 10,
    beams: 2,
    structured: 8,
    tools: 6,
    messages: 8,
    ollama: 6,
    response: 6,
    background: 4,
    cut: 10,
    resumed: 10,
    tokens: 6,
    bad: 8,
    looks: 4,
}
