"""Lines of training files: what each must be for its method."""

from dataclasses import dataclass
from typing import Any

from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import InvalidRequest
from server.finetuning.faults import FaultyLine
from server.finetuning.prompt_lines import CHAT_FIELDS, PromptLine, read_prompt
from server.schemas.base import quote, validate
from server.schemas.chat import ChatTemplateFields
from server.schemas.strict_json import parse_json

_CHAT_FIELDS = {*CHAT_FIELDS}
# OpenAI's guides and its schema call a preference's outputs differently.
_OUTPUTS = (("preferred_output", "preferred_completion"), ("non_preferred_output", "non_preferred_completion"))


@dataclass(frozen=True, slots=True)
class Chat:
    """learned: whether each message is; only the assistant's are."""

    fields: ChatTemplateFields
    learned: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """The same chat with an answer that is preferred, and with one that is not. Only the answers are learned."""

    preferred: Chat
    other: Chat


@dataclass(frozen=True, slots=True)
class Completion:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Document:
    text: str


Line = Chat | Preference | Completion | Document | PromptLine


def read_line(data: bytes, method: TrainingMethod) -> tuple[Line, dict[str, Any]]:
    """What a line of a file for `method` spells, and its JSON. Raises FaultyLine."""
    try:
        value = parse_json(data, "this line")
        if not isinstance(value, dict):
            raise FaultyLine(f"this is {quote(value)}; each line must be a JSON object")
        is_prompt = method is TrainingMethod.REINFORCEMENT and "messages" in value
        if (other := _method_of(value)) not in (method, None) and not is_prompt:
            raise FaultyLine(
                f"this is a line for the method {other}, and the method is {method}: give the other method"
            )
        match method:
            case TrainingMethod.SUPERVISED:
                return (_completion(value) if "prompt" in value else _chat(value)), value
            case TrainingMethod.DPO:
                return _preference(value), value
            case TrainingMethod.PRETRAINING:
                _refuse_others(value, {"text"})
                return Document(_text(value, "text")), value
            case TrainingMethod.REINFORCEMENT:
                return read_prompt(value), value
    except InvalidRequest as error:
        raise FaultyLine(str(error)) from None


def _method_of(value: dict[str, Any]) -> TrainingMethod | None:
    """The one that has lines with these fields; None if there is none. Prompts look like the beginning of chats."""
    if "input" in value and any(name in value for names in _OUTPUTS for name in names):
        return TrainingMethod.DPO
    if "messages" in value or ("prompt" in value and "completion" in value):
        return TrainingMethod.SUPERVISED
    return TrainingMethod.PRETRAINING if value.keys() == {"text"} else None


def _completion(value: dict[str, Any]) -> Completion:
    _refuse_others(value, {"prompt", "completion"})
    completion = _text(value, "completion")
    if not completion:
        raise FaultyLine('completion is ""; give the text to learn')
    return Completion(_text(value, "prompt"), completion)


def _chat(value: dict[str, Any]) -> Chat:
    _refuse_others(value, _CHAT_FIELDS)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FaultyLine(f"messages is {quote(messages)}; it must be a list of at least one message")
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        role = last.get("role") if isinstance(last, dict) else last
        raise FaultyLine(f"the last message is of {quote(role)}; it must be the assistant's answer, to learn from")
    plain, learned = zip(*(_weighed(message, index) for index, message in enumerate(messages)), strict=True)
    if not any(learned):
        raise FaultyLine("every message of the assistant has the weight 0; nothing would be learned")
    return Chat(validate(ChatTemplateFields, {**value, "messages": list(plain)}), learned)


def _weighed(message: Any, index: int) -> tuple[Any, bool]:
    """The message without its weight, and whether it is learned."""
    if not isinstance(message, dict):
        return message, False  # the schema says what is wrong
    weight = message.get("weight", 1)
    if message.get("role") != "assistant":
        if "weight" in message:
            raise FaultyLine(
                f"messages[{index}].weight is given, and the message is of {quote(message.get('role'))}; only those of "
                "the assistant have a weight"
            )
        return message, False
    if isinstance(weight, bool) or weight not in (0, 1):
        raise FaultyLine(f"messages[{index}].weight is {quote(weight)}; it must be 0 or 1")
    return {name: value for name, value in message.items() if name != "weight"}, weight == 1


def _preference(value: dict[str, Any]) -> Preference:
    known = {"input", *(name for names in _OUTPUTS for name in names)}
    _refuse_others(value, known)
    given = value.get("input")
    if not isinstance(given, dict):
        raise FaultyLine(f"input is {quote(given)}; it must be an object with messages")
    _refuse_others(given, _CHAT_FIELDS, "input.")
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FaultyLine(f"input.messages is {quote(messages)}; it must be a list of at least one message")
    chats = []
    for names in _OUTPUTS:
        answer = _output(value, names)
        fields = validate(ChatTemplateFields, {**given, "messages": [*messages, answer]})
        chats.append(Chat(fields, (*(False for _ in messages), True)))
    return Preference(*chats)


def _output(value: dict[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    present = [name for name in names if name in value]
    if len(present) != 1:
        what = "are both given; give one" if present else "is missing"
        raise FaultyLine(f"{' and '.join(present) or names[0]} {what}")
    output = value[present[0]]
    if not isinstance(output, list) or len(output) != 1:
        raise FaultyLine(f"{present[0]} is {quote(output)}; it must be a list of one message")
    message = output[0]
    if not isinstance(message, dict) or message.get("role") != "assistant":
        raise FaultyLine(f"{present[0]}[0] is {quote(message)}; it must be a message of the assistant")
    return {name: each for name, each in message.items() if name != "weight"}


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise FaultyLine(f"{name} is {quote(text)}; it must be a string" if name in value else f"{name} is missing")
    return text


def _refuse_others(value: dict[str, Any], known: set[str], path: str = "") -> None:
    if unknown := sorted(value.keys() - known):
        raise FaultyLine(
            f"{path}{unknown[0]} is not known; a line of this method has {', '.join(sorted(known))}: remove it"
        )
