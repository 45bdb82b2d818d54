"""Lines of files for reinforcement: a prompt for the model, and fields with which a grader scores the answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.command_io.finetuning.graders.definitions import Grader, TextSimilarity, item_fields, references, singles
from engine.command_io.finetuning.graders.faults import Ungradable
from engine.command_io.finetuning.graders.sample import Sample
from engine.command_io.finetuning.graders.similarity import MAX_CHARACTERS
from engine.command_io.finetuning.graders.templates import ITEM, Template
from server.finetuning.faults import InvalidLine
from server.schemas.base import quote, validate
from server.schemas.chat import ChatTemplateFields

CHAT_FIELDS = ("messages", "tools", "functions", "parallel_tool_calls")

_PROMPT_ROLES = ("user", "developer", "tool")  # of the message that an answer follows


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One prompt. item: the whole line, which grader templates read as `item`."""

    fields: ChatTemplateFields
    item: dict[str, Any]


def check_item(grader: Grader, item: Mapping[str, Any]) -> None:
    """Raise InvalidLine if a line lacks a field that the grader reads."""
    for place, reference in references(grader):
        if reference.namespace != ITEM:
            continue
        try:
            reference.value(item, Sample(""))
        except Ungradable:
            raise InvalidLine(
                f"the grader's {place} reads {{{{{reference.text}}}}}, which this line does not have; add it"
            ) from None


@dataclass(frozen=True, slots=True)
class PromptRules:
    """Checks of a job's prompts. max_model_len: limit of prompt and answer together; None if unknown."""

    grader: Grader
    max_completion_tokens: int
    max_model_len: int | None

    def checked_item(self, line: PromptLine) -> dict[str, Any]:
        """Return the fields of the line that the grader reads. Raises InvalidLine if one is missing, or is too long for
        the grader's text similarity."""
        check_item(self.grader, line.item)
        for place, each in singles(self.grader).items():
            if isinstance(each, TextSimilarity):
                start = f"{place}." if place else ""
                _check_length_of(each.input, f"{start}input", line.item)
                _check_length_of(each.reference, f"{start}reference", line.item)
        return {name: line.item[name] for name in sorted(item_fields(self.grader))}

    def check_length(self, num_tokens: int) -> None:
        """Raise InvalidLine if prompt and answer together may exceed max_model_len."""
        if self.max_model_len is None or num_tokens + self.max_completion_tokens <= self.max_model_len:
            return
        raise InvalidLine(
            f"its prompt has {num_tokens:,} tokens, and answers have up to {self.max_completion_tokens:,} "
            f"(max_completion_tokens); together the model takes {self.max_model_len:,}: shorten it, or lower that"
        )


def _check_length_of(template: Template, place: str, item: dict[str, Any]) -> None:
    """Raise InvalidLine if a text is too long for text similarity."""
    if (length := template.least_length(item)) <= MAX_CHARACTERS:
        return
    read = {f"{{{{{each.text}}}}}": None for each in template.references if each.namespace == ITEM}
    given = f" with {', '.join(read)} of this line" if read else ""
    raise InvalidLine(
        f"the grader's {place} has {length:,} characters{given}; up to {MAX_CHARACTERS:,} are compared for similarity: "
        "shorten it"
    )


def message_list(value: dict[str, Any], path: str = "") -> list[Any]:
    """Return a line's `messages`. Raises InvalidLine unless it is a list that is not empty."""
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidLine(f"{path}messages is {quote(messages)}; it must be a list of at least one message")
    return messages


def read_prompt(value: dict[str, Any]) -> PromptLine:
    """Parse the prompt in a line. Raises InvalidLine, and InvalidRequest for messages that the chat schema refuses."""
    messages = message_list(value)
    last = messages[-1]
    role = last.get("role") if isinstance(last, dict) else last
    if role not in _PROMPT_ROLES:
        raise InvalidLine(
            f"the last message is of {quote(role)}; it must be of user, developer or tool, for the model to answer: "
            "put what its answer is compared with into a field of its own, such as reference_answer"
        )
    for index, message in enumerate(messages):
        if isinstance(message, dict) and "weight" in message:
            raise InvalidLine(f"messages[{index}].weight is given; nothing of a prompt is learned: remove it")
    fields = validate(ChatTemplateFields, {name: value[name] for name in CHAT_FIELDS if name in value})
    return PromptLine(fields, value)
