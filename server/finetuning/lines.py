"""Parser of training file lines, in the format of each method."""

from dataclasses import dataclass
from typing import Any

from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import InvalidRequest
from server.data.lines import without_metadata
from server.finetuning.faults import InvalidLine
from server.finetuning.prompt_lines import CHAT_FIELDS, PromptLine, message_list, read_prompt
from server.schemas.base import quote, validate
from server.schemas.chat import ChatTemplateFields
from server.schemas.strict_json import parse_json

_CHAT_FIELDS = {*CHAT_FIELDS}
# OpenAI's guides and its schema have different names for the outputs of a preference.
_OUTPUTS = (("preferred_output", "preferred_completion"), ("non_preferred_output", "non_preferred_completion"))


@dataclass(frozen=True, slots=True)
class TrainingChat:
    """One chat. learned: for each message, whether it is trained on; only assistant messages are."""

    fields: ChatTemplateFields
    learned: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """A DPO example: the same chat with the preferred and the rejected answer. Only the answers are trained on."""

    preferred: TrainingChat
    other: TrainingChat


@dataclass(frozen=True, slots=True)
class Completion:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Document:
    text: str


Line = TrainingChat | Preference | Completion | Document | PromptLine


def read_training_line(data: bytes, method: TrainingMethod) -> tuple[Line, dict[str, Any]]:
    """Parse a line in the format of `method`; return its content, and its JSON without `metadata`, which has no
    effect; only the graders of reinforcement may read it. Raises InvalidLine for another format."""
    try:
        value = parse_json(data, "this line")
        if not isinstance(value, dict):
            raise InvalidLine(f"this is {quote(value)}; each line must be a JSON object")
        fields = without_metadata(value)
        is_prompt = method is TrainingMethod.REINFORCEMENT and "messages" in value
        if (other := _method_of(fields)) not in (method, None) and not is_prompt:
            raise InvalidLine(
                f"this is a line for the method {other}, and the method is {method}: give the other method"
            )
        match method:
            case TrainingMethod.SUPERVISED:
                return (_completion(fields) if "prompt" in fields else _chat(fields)), fields
            case TrainingMethod.DPO:
                return _preference(fields), fields
            case TrainingMethod.PRETRAINING:
                _refuse_others(fields, {"text"})
                return Document(_text(fields, "text")), fields
            case TrainingMethod.REINFORCEMENT:
                return read_prompt(value), value
    except InvalidRequest as error:
        raise InvalidLine(str(error)) from None


def _method_of(value: dict[str, Any]) -> TrainingMethod | None:
    """Guess the method from a line's fields; None if unknown. Prompts for reinforcement look like supervised chats."""
    if "input" in value and any(name in value for names in _OUTPUTS for name in names):
        return TrainingMethod.DPO
    if "messages" in value or ("prompt" in value and "completion" in value):
        return TrainingMethod.SUPERVISED
    return TrainingMethod.PRETRAINING if value.keys() == {"text"} else None


def _completion(value: dict[str, Any]) -> Completion:
    _refuse_others(value, {"prompt", "completion"})
    completion = _text(value, "completion")
    if not completion:
        raise InvalidLine('completion is ""; give the text to learn')
    return Completion(_text(value, "prompt"), completion)


def _chat(value: dict[str, Any]) -> TrainingChat:
    _refuse_others(value, _CHAT_FIELDS)
    messages = message_list(value)
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        role = last.get("role") if isinstance(last, dict) else last
        raise InvalidLine(f"the last message is of {quote(role)}; it must be the assistant's answer, to learn from")
    plain, learned = zip(*(_weighed(message, index) for index, message in enumerate(messages)), strict=True)
    if not any(learned):
        raise InvalidLine("every message of the assistant has the weight 0; nothing would be learned")
    return TrainingChat(validate(ChatTemplateFields, {**value, "messages": list(plain)}), learned)


def _weighed(message: Any, index: int) -> tuple[Any, bool]:
    """Return the message without its `weight`, and whether it is trained on."""
    if not isinstance(message, dict):
        return message, False  # the schema says what is wrong
    weight = message.get("weight", 1)
    if message.get("role") != "assistant":
        if "weight" in message:
            raise InvalidLine(
                f"messages[{index}].weight is given, and the message is of {quote(message.get('role'))}; only those of "
                "the assistant have a weight"
            )
        return message, False
    if isinstance(weight, bool) or weight not in (0, 1):
        raise InvalidLine(f"messages[{index}].weight is {quote(weight)}; it must be 0 or 1")
    return {name: value for name, value in message.items() if name != "weight"}, weight == 1


def _preference(value: dict[str, Any]) -> Preference:
    known = {"input", *(name for names in _OUTPUTS for name in names)}
    _refuse_others(value, known)
    given = value.get("input")
    if not isinstance(given, dict):
        raise InvalidLine(f"input is {quote(given)}; it must be an object with messages")
    _refuse_others(given, _CHAT_FIELDS, "input.")
    messages = message_list(given, "input.")
    chats = []
    for names in _OUTPUTS:
        answer = _output(value, names)
        fields = validate(ChatTemplateFields, {**given, "messages": [*messages, answer]})
        chats.append(TrainingChat(fields, (*(False for _ in messages), True)))
    return Preference(*chats)


def _output(value: dict[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    present = [name for name in names if name in value]
    if len(present) != 1:
        what = "are both given; give one" if present else "is missing"
        raise InvalidLine(f"{' and '.join(present) or names[0]} {what}")
    output = value[present[0]]
    if not isinstance(output, list) or len(output) != 1:
        raise InvalidLine(f"{present[0]} is {quote(output)}; it must be a list of one message")
    message = output[0]
    if not isinstance(message, dict) or message.get("role") != "assistant":
        raise InvalidLine(f"{present[0]}[0] is {quote(message)}; it must be a message of the assistant")
    return {name: each for name, each in message.items() if name != "weight"}


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise InvalidLine(f"{name} is {quote(text)}; it must be a string" if name in value else f"{name} is missing")
    return text


def _refuse_others(value: dict[str, Any], known: set[str], path: str = "") -> None:
    if unknown := sorted(value.keys() - known):
        raise InvalidLine(
            f"{path}{unknown[0]} is not known; a line of this method has {', '.join(sorted(known))}: remove it"
        )
