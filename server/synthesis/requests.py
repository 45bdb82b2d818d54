"""StepRequest: one request of a step, with an id that says what it is; and the answer to it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from server.jobs.answers import BodyAnswer
from server.synthesis.recipe import Step
from server.synthesis.tool_calls import ToolCall, calls_fault
from server.synthesis.variables import Values, filled

CHAT_PATH = "/v1/chat/completions"
REFUSED = "refused by the server"


@dataclass(frozen=True, slots=True)
class StepRequest:
    """A request. custom_id: names item, step and branch, and ends with a digest of the body and of whether a teacher
    answers: an answer that is stored under it is an answer to the same request."""

    custom_id: str
    body: dict[str, Any]
    step: str  # its name


def step_request(
    step: Step, values: Values, place: str, model: str, seed: int, *, is_taught: bool = False
) -> StepRequest:
    """Return a request of a step. place: unique within the run; with `seed` it decides the request's own seed.
    is_taught: a teacher answers, whose model of the same name is another one, so that the custom_id differs."""
    messages = [] if step.system is None else [{"role": "system", "content": filled(step.system, values)}]
    body: dict[str, Any] = {
        "model": model,
        "messages": [*messages, {"role": "user", "content": filled(step.prompt, values)}],  # "" if it is the answer
        "temperature": step.temperature,
        "top_p": step.top_p,
        "max_completion_tokens": step.max_tokens,
        "seed": int.from_bytes(hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=4).digest()) >> 1,
    }
    if step.role == "user":
        body["continue_final_message"] = True
    if step.calls:
        body |= {"tools": values["tools"], "tool_choice": "required", "parallel_tool_calls": False}
    if step.fields:
        schema = {"name": step.name, "strict": True, "schema": step.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    person = b"teacher" if is_taught else b""
    encoded = msgspec.json.encode(body, order="deterministic")
    digest = hashlib.blake2b(encoded, digest_size=8, person=person).hexdigest()
    return StepRequest(f"{place}-{digest}", body, step.name)


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    system_fingerprint: str | None = None


class Unusable(Exception):
    """An answer from which no values can be read. The message is the reason that is counted."""


def read_step_answer(step: Step, request: StepRequest, answer: BodyAnswer) -> tuple[dict[str, Any], str]:
    """Return the values of a step's variables, and the fingerprint of the model that answered. Raises Unusable."""
    if not answer.is_completed:
        raise Unusable(REFUSED)
    try:
        completion = msgspec.json.decode(answer.body, type=_Completion)
    except msgspec.DecodeError:
        raise Unusable("not a chat completion") from None
    if not completion.choices:
        raise Unusable("not a chat completion")
    choice = completion.choices[0]
    if choice.finish_reason == "length":
        raise Unusable("cut off")
    fingerprint = completion.system_fingerprint or ""
    if step.calls:
        calls = choice.message.tool_calls or []
        if (fault := calls_fault(calls, request.body["tools"])) is not None:
            raise Unusable(fault)
        return {step.name: msgspec.to_builtins(calls)}, fingerprint
    content = (choice.message.content or "").strip()
    if not content:
        raise Unusable("empty")
    if not step.fields:
        return {step.name: content}, fingerprint
    try:
        values = msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise Unusable("not valid JSON") from None
    if not isinstance(values, dict) or not values.keys() >= step.fields.keys():
        raise Unusable("lacks a field")
    for name in step.numbers:
        if not isinstance(values[name], int | float) or isinstance(values[name], bool):
            raise Unusable(f"{name} is not a number")
    return {name: _stripped(values[name]) for name in step.fields}, fingerprint


def error_message(answer: BodyAnswer) -> str:
    """Return the message of a refusal."""
    try:
        return str(msgspec.json.decode(answer.body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value
