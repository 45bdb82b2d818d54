"""Checks of a step's answers, each with the reason for which an answer is dropped."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import msgspec

from server.data.words import UNSPACED, normalized, shared_in_order, words_of
from server.synthesis.variables import Values, variable_text

_SENTENCE_ENDS = (*".!?…‽‼⁇⁈⁉", *"。．！？｡", *"؟۔।॥։።፧")
_CLOSING = " \t\n\"'”’»›」』）】》*_`"  # after the end of a sentence
_WHOLE = (")", "]", "}", ";", "```")  # ends of lists, JSON and code
_UNSPACED = re.compile(f"[{UNSPACED}]")
_NEAR_LIMIT = 0.05  # of a maxLength: about a word of the texts for which recipes have one


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="check"):
    """A condition on the variable `field`."""

    field: str

    @property
    def names(self) -> tuple[str, ...]:
        """Variables that the check reads."""
        return (self.field,)

    def fault(self, values: Values) -> str | None:
        """Return the reason to drop the answer, or None."""
        raise NotImplementedError


class New(Check, tag="new", frozen=True):
    """The text shares less than `threshold` of its words, in order, with each text in the pool of seeds and answers
    before; it joins the pool."""

    threshold: float = 0.7


class Occurs(Check, tag="occurs", frozen=True):
    """The text occurs in another one, but for case, character width and whitespace, and has `least_words` words."""

    within: str
    least_words: int = 3

    @property
    def names(self) -> tuple[str, ...]:
        return self.field, self.within

    def fault(self, values: Values) -> str | None:
        text, whole = (_plain(variable_text(values[name])) for name in self.names)
        if len(words_of(text)) < self.least_words:
            return f"{self.field} is too short"
        return None if text in whole else f"{self.field} is not in {self.within}"


class Least(Check, tag="least", frozen=True):
    """The number is at least `value`."""

    value: float

    def fault(self, values: Values) -> str | None:
        number = values[self.field]
        return None if isinstance(number, int | float) and number >= self.value else f"{self.field} is too low"


class Equals(Check, tag="equals", frozen=True):
    """The value is `value`: a text, a number, or true or false."""

    value: str | float | bool

    def fault(self, values: Values) -> str | None:
        return None if values[self.field] == self.value else f"{self.field} is another"


class Differs(Check, tag="differs", frozen=True):
    """The text shares at most `most` of its words, in order, with another one."""

    other: str
    most: float = 0.9

    @property
    def names(self) -> tuple[str, ...]:
        return self.field, self.other

    def fault(self, values: Values) -> str | None:
        one, two = (words_of(variable_text(values[name])) for name in self.names)
        return f"{self.field} is as {self.other}" if shared_in_order(one, two, self.most) > self.most else None


class Length(Check, tag="length", frozen=True):
    """The text has this many words; characters count as words in scripts without blanks."""

    least: int = 1
    most: int = 10_000

    def fault(self, values: Values) -> str | None:
        count = len(words_of(variable_text(values[self.field])))
        if count < self.least:
            return f"{self.field} is too short"
        return None if count <= self.most else f"{self.field} is too long"


class Lacks(Check, tag="lacks", frozen=True):
    """The text has none of these words or phrases, in any case."""

    phrases: tuple[str, ...]

    def fault(self, values: Values) -> str | None:
        text = _words(variable_text(values[self.field]))
        return next((f"{self.field} has '{each}'" for each in self.phrases if _words(each) in text), None)


class Calls(Check, tag="calls", frozen=True):
    """The calls of a step are all of the tool that the variable `tool` names."""

    tool: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.field, self.tool

    def fault(self, values: Values) -> str | None:
        is_other = any(call["function"]["name"] != values[self.tool] for call in values[self.field])
        return f"{self.field} is of another tool" if is_other else None


CHECKS = (New, Occurs, Least, Equals, Differs, Length, Lacks, Calls)
AnyCheck = New | Occurs | Least | Equals | Differs | Length | Lacks | Calls


class Pool:
    """Texts from which new ones are kept apart."""

    def __init__(self) -> None:
        self._texts: list[list[str]] = []

    def add(self, words: list[str]) -> None:
        self._texts.append(words)

    def fault(self, check: New, values: Values) -> str | None:
        """Return the reason to drop a text that is not new, or add it and return None."""
        words = words_of(variable_text(values[check.field]))
        if not words:
            return f"{check.field} is empty"
        if any(shared_in_order(each, words, check.threshold) >= check.threshold for each in self._texts):
            return f"{check.field} is not new"
        self.add(words)
        return None


def cut_fault(most_characters: Mapping[str, int], values: Values) -> str | None:
    """Return the reason to drop an answer with a text that its maxLength cut off, or None.

    A grammar closes such a text in the middle of a sentence. It may do so a few characters before the limit, if no word
    fits into the rest, so a text near its limit is also dropped unless its end is that of a whole text.
    most_characters: by field.
    """
    for name, most in most_characters.items():
        text = values[name]
        if not isinstance(text, str) or len(text) < most - int(most * _NEAR_LIMIT):
            continue
        if len(text) >= most or not _ends_whole(text):
            return f"{name} is cut off"
    return None


def _ends_whole(text: str) -> bool:
    """Return whether a text ends as sentences, code or JSON do, in an emoji, or in a script without blanks, where a
    character always fits into the rest."""
    sentence = text.rstrip(_CLOSING)
    if not sentence or text.endswith(_WHOLE) or sentence.endswith(_SENTENCE_ENDS):
        return True
    last = sentence.rstrip("\ufe0f")[-1:]  # which makes an emoji of a symbol
    return _UNSPACED.match(last) is not None or unicodedata.category(last or " ") in ("So", "Sk")


def first_fault(checks: Sequence[AnyCheck], values: Values, pool: Pool) -> str | None:
    """Return the reason of the first check that fails, or None."""
    for check in checks:
        fault = pool.fault(check, values) if isinstance(check, New) else check.fault(values)
        if fault is not None:
            return fault
    return None


def _words(text: str) -> str:
    """Return the words between blanks, also at both ends."""
    return f" {' '.join(words_of(text))} "


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", normalized(text)).strip().strip("\"'“”‘’„«»「」")
