"""DataLine: a line of a training file, of any kind that jobs take, with the texts in it."""

import enum
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.errors import InvalidRequest
from server.data.personal_data import mask_text
from server.data.words import words_of
from server.schemas.strict_json import parse_json

_CHAT_FIELDS = {"messages", "tools", "functions", "parallel_tool_calls"}
_METADATA = "metadata"  # of a line's origin
_OUTPUTS = (("preferred_output", "preferred_completion"), ("non_preferred_output", "non_preferred_completion"))
_MAX_NAME, _MAX_NAMES = 60, 10  # characters of a field's name, and names, in messages and reports
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


class LineKind(enum.StrEnum):
    CHAT = "chat"  # the last message is the assistant's
    PROMPT = "prompt"  # a chat for the model to answer: reinforcement
    PREFERENCE = "preference"
    COMPLETION = "completion"
    TEXT = "text"


_FIELDS: dict[LineKind, set[str]] = {
    LineKind.CHAT: _CHAT_FIELDS,
    LineKind.PREFERENCE: {"input", *(name for names in _OUTPUTS for name in names)},
    LineKind.COMPLETION: {"prompt", "completion"},
    LineKind.TEXT: {"text"},
}
_FORMS = "{messages}, {input, preferred_output, non_preferred_output}, {prompt, completion} or {text}"


class FaultyData(InvalidRequest):
    """A line that is of no kind that jobs take. Messages have names of fields, shortened, and never their content."""


@dataclass(frozen=True, slots=True)
class TurnText:
    role: str
    text: str


@dataclass
class DataLine:
    """A parsed line. number: counted from 1. file: its index among the files that are prepared."""

    number: int
    value: dict[str, Any]
    kind: LineKind
    file: int = 0

    @cached_property
    def turns(self) -> list[TurnText]:
        """Messages before the answers, or all messages of a chat; prompt, completion and text have roles too."""
        value = self.value
        match self.kind:
            case LineKind.TEXT:
                return [TurnText("text", value["text"])]
            case LineKind.COMPLETION:
                return [TurnText("user", value["prompt"]), TurnText("assistant", value["completion"])]
            case LineKind.PREFERENCE:
                return [_turn(each) for each in value["input"]["messages"]]
        return [_turn(each) for each in value["messages"]]

    @cached_property
    def answers(self) -> list[str]:
        """Texts that would be learned: answers of the assistant; both of a preference; none of texts and prompts."""
        if self.kind is LineKind.PREFERENCE:
            return [_turn(message).text for message in self.outputs]
        if self.kind is LineKind.PROMPT:
            return []
        return [turn.text for turn in self.turns if turn.role == "assistant"]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Both answers of a preference."""
        return [self.value[name][0] for names in _OUTPUTS for name in names if name in self.value]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages of a chat or prompt; of a preference, those before the answers."""
        found = self.value["input"] if self.kind is LineKind.PREFERENCE else self.value
        messages: list[dict[str, Any]] = found.get("messages", [])
        return messages

    @cached_property
    def question(self) -> str:
        """The first message of the user, or the prompt; "" for plain text."""
        return next((turn.text for turn in self.turns if turn.role == "user"), "")

    @cached_property
    def segments(self) -> list[str]:
        """Texts of the line, without instructions of the system, which many lines share."""
        turns = [turn.text for turn in self.turns if turn.role not in ("system", "developer")]
        return turns + self.answers if self.kind is LineKind.PREFERENCE else turns

    @cached_property
    def segment_words(self) -> list[list[str]]:
        return [words_of(segment) for segment in self.segments]

    @cached_property
    def words(self) -> list[str]:
        return [word for words in self.segment_words for word in words]

    @cached_property
    def answer_words(self) -> list[list[str]]:
        known = dict(zip(self.segments, self.segment_words, strict=True))
        return [known[answer] for answer in self.answers]

    @cached_property
    def prose(self) -> str:
        """Texts of the line without code between fences."""
        return _CODE.sub("\n", "\n".join(self.segments))

    def excerpt(self, length: int = 200) -> str:
        """Return the start and the end of the line's texts, since a rule may have judged either."""
        text = " ".join("\n".join(self.segments).split())
        return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


def parse_line(
    data: bytes, number: int, file: int = 0, *, drops_fields: bool = False, masks_names: bool = False
) -> tuple[DataLine, list[str]]:
    """Parse a line; return it with the names of dropped fields, shortened. drops_fields: drop fields that jobs would
    refuse, instead of raising FaultyData for them. masks_names: mask personal data in names of fields."""
    try:
        value = parse_json(data, "this line")
    except InvalidRequest as error:
        # Its names are cut already, and a part of an address would not be masked.
        where = f" (in {_shown_name(error.param, False)})" if error.param and not masks_names else ""
        raise FaultyData(f"this line is not valid JSON{where}; each line must be a JSON object") from None
    if not isinstance(value, dict):
        raise FaultyData("this line is not a JSON object; each line must be one")
    kind = _kind_of(value, masks_names)
    unknown = [] if kind is LineKind.PROMPT else sorted(value.keys() - _FIELDS[kind] - {_METADATA})
    if unknown and not drops_fields:
        raise FaultyData(
            f"{_shown_name(unknown[0], masks_names)} is not known; a line of this kind ({kind}) has "
            f"{', '.join(sorted(_FIELDS[kind]))}: remove it"
        )
    for name in unknown:
        del value[name]
    for name in ("tools", "functions"):
        _check_list(value.get(name), name)
    return DataLine(number, value, kind, file), [_shown_name(name, masks_names) for name in unknown]


def without_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Return a line without its `metadata`, which has no effect, except for graders of prompts."""
    return {name: each for name, each in value.items() if name != _METADATA}


def _shown_name(name: str, is_masked: bool) -> str:
    name = mask_text(name, Counter()) if is_masked else name
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "..."


def _shown_names(names: Iterable[str], is_masked: bool) -> str:
    shown = [_shown_name(name, is_masked) for name in sorted(names)]
    return ", ".join(shown[:_MAX_NAMES] + ["..."] * (len(shown) > _MAX_NAMES)) or "(none)"


def _kind_of(value: dict[str, Any], masks_names: bool) -> LineKind:
    if "messages" in value:
        last = _checked_messages(value["messages"], "messages")[-1]
        return LineKind.CHAT if last["role"] == "assistant" else LineKind.PROMPT
    if any(name in value for names in _OUTPUTS for name in names):
        given = value.get("input")
        _checked_messages(given.get("messages") if isinstance(given, dict) else None, "input.messages")
        for names in _OUTPUTS:
            present = [name for name in names if name in value]
            if len(present) != 1 or len(_checked_messages(value[present[0]], present[0])) != 1:
                raise FaultyData(f"{names[0]} must be given once, as a list of one message")
        return LineKind.PREFERENCE
    for kind in (LineKind.COMPLETION, LineKind.TEXT):
        if all(isinstance(value.get(name), str) for name in _FIELDS[kind]):
            return kind
    raise FaultyData(f"the line has the fields {_shown_names(value, masks_names)}; give one of the forms {_FORMS}")


def _checked_messages(messages: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise FaultyData(f"{path} must be a list of at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FaultyData(f"{path}[{index}] must be an object with a role")
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
            raise FaultyData(f"{path}[{index}].content must be a string, or a list of parts")
        _check_list(message.get("tool_calls"), f"{path}[{index}].tool_calls")
    return messages


def _check_list(value: Any, path: str) -> None:
    if not isinstance(value, list | None):
        raise FaultyData(f"{path} must be a list")


def _turn(message: dict[str, Any]) -> TurnText:
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part.get("text") for part in content or []]
    for function in called_functions(message):
        texts += [function.get("name"), function.get("arguments")]
    return TurnText(message["role"], "\n".join(text for text in texts if isinstance(text, str)))


def called_functions(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the functions that a message calls; an empty one for each call without a function."""
    calls = message.get("tool_calls")
    found = [each.get("function") if isinstance(each, dict) else None for each in calls or []]
    if message.get("function_call") is not None:
        found.append(message["function_call"])
    return [each if isinstance(each, dict) else {} for each in found]
