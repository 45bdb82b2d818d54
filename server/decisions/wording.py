"""The wording of questions: the texts that the model reads, and the labels whose probabilities are its answer.

The state comes first, so that all questions share it. The options' own texts are the labels. Letters or numbers would
be shorter, but small models then follow the position of an option more than its meaning; numbers are used only where
two options read alike. Any change here changes probabilities, and needs another VERSION.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from server.decisions.decision import Kind, LabelOption, Question

VERSION = "3"

STATE_BEGIN = "Input:\n"
# The text before and after the place where the prompt is cut into the shared part and a question's own. The cut is
# between a letter and a colon, where tokenizers cut too. All that the questions share is before it, and computed once.
QUESTION_BEGIN = (
    "\n\nAnswer the question about the input with yes or no, or with the text of the one option or level that fits "
    "best, and nothing else.\nQuestion"
)
PLAIN_END = "\nAnswer:"  # for models without a chat template

_PREDICATE = ": Is the following statement about the input true?\n{}"
_YES_OR_NO = ": {}\n{}Yes or no?"
_CHOICE = ": {}\nOptions:\n{}\nAnswer with the text of one option."
# QUESTION_BEGIN, which all questions share, asks for texts.
_NUMBERED_CHOICE = ": {}\nOptions:\n{}\nAnswer with the number of one option instead of its text."
_SCORE = ": {}\nLevels, from the lowest to the highest:\n{}"
_NUMBERED_SCORE = _SCORE + "\nAnswer with the number of one level instead of its text."
_NO_QUESTION = "Which answer fits the input best?"
_NO_CHOICE = "Which option fits the input best?"
_NO_SCORE = "Which level fits the input best?"


@dataclass(frozen=True, slots=True)
class Worded:
    """A question's text, from the cut of the prompt on, and the spellings of each of its labels."""

    text: str
    labels: Sequence[Sequence[str]]


def word(question: Question, *, is_numbered: bool) -> Worded:
    """Return the question's text and labels. is_numbered: the labels are numbers instead of the options' texts."""
    options = question.options
    if question.kind is Kind.PREDICATE:
        return Worded(_predicate(question), (("yes", "Yes"), ("no", "No")))
    is_choice = question.kind is Kind.CHOICE
    instead = _NO_CHOICE if is_choice else _NO_SCORE
    if is_numbered:
        form = _NUMBERED_CHOICE if is_choice else _NUMBERED_SCORE
        numbers = [str(number) for number in range(1, len(options) + 1)]
        lines = [
            f"{number}. {json.dumps(option.value, ensure_ascii=False)}{_description(option)}"
            for number, option in zip(numbers, options, strict=True)
        ]
        labels: list[tuple[str, ...]] = [(number,) for number in numbers]
    else:
        form = _CHOICE if is_choice else _SCORE
        lines = [f"{option.text}{_description(option)}" for option in options]
        labels = [_spellings(option.text) for option in options]
    return Worded(form.format(question.instructions.strip() or instead, "\n".join(lines)), labels)


def _predicate(question: Question) -> str:
    if not question.options:
        return _PREDICATE.format(question.instructions)
    lines = [f"- {option.text}{_description(option)}\n" for option in question.options if option.description]
    return _YES_OR_NO.format(question.instructions.strip() or _NO_QUESTION, "".join(lines))


def reads_alike(question: Question) -> bool:
    """Return whether two options differ at most in case, spaces, or as `true` and "true" do."""
    texts = [option.text.casefold() for option in question.options]
    return len(set(texts)) < len(texts)


def _description(option: LabelOption) -> str:
    return f": {' '.join(option.description.split())}" if option.description else ""


def _spellings(text: str) -> tuple[str, ...]:
    """Return the text as it is, and with the other case of its first letter."""
    other = text[0].swapcase() + text[1:]
    return (text,) if other.casefold() != text.casefold() or other == text else (text, other)
