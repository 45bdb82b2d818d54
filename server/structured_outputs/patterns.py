"""Regular expressions: what their dialect here lacks, and one for all texts but a few."""

import re
from collections.abc import Iterable
from typing import Any

from llguidance import LLMatcher

from engine.errors import InvalidRequest
from server.schemas.base import quote

MAX_CHECKED = 20_000  # characters; the engine alone checks longer ones, since that takes long

# What the parser says of a pattern that other matchers may well read.
_OTHER_DIALECT = ("unrecognized escape", "Unicode property not found", "look-around")

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:<?[=!]|P[=>]|>|\()|[^\\\[(]+|.", re.DOTALL)

_LOOKAROUNDS = {"(?=": "lookahead", "(?!": "lookahead", "(?<=": "lookbehind", "(?<!": "lookbehind"}
_OTHERS = {"(?P=": "backreference", "(?P>": "recursion", "(?>": "atomic group", "(?(": "condition"}
_ESCAPES = {r"\b": "word boundary", r"\B": "word boundary", r"\k": "backreference"}

_CHOICE = re.compile(r"\^(?:([\w-]+)|\((?:\?:)?([\w|-]+)\))\$", re.ASCII)
_REPEAT = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")

# Of the texts that `all_texts_but` leaves out: characters of all, and of one, each of which nests a group.
MAX_EXCLUDED = 2_000
MAX_EXCLUDED_LENGTH = 100


def checked_construct(pattern: str, path: str) -> str | None:
    """unsupported_construct, also of what the dialect of the grammar lacks beyond that.

    Raises InvalidRequest with the path for what is not a regular expression, or matches no text.
    """
    if (construct := unsupported_construct(pattern)) is not None or len(pattern) > MAX_CHECKED:
        return construct
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern}))
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        error = "error: a backslash at its end escapes nothing"
    if "lookarounds not supported" in error:
        return "^ or $ within a pattern"
    if "Regex is empty" in error:
        raise InvalidRequest(f"{path} is {quote(pattern)}; no text matches it", param=path)
    _, found, fault = error.partition("error: ")
    if not found:
        return None  # the engine says what else there may be
    if fault.startswith(_OTHER_DIALECT):
        return f"what other dialects have and this one lacks ({fault})"
    raise InvalidRequest(f"{path} is {quote(pattern)}, which is not a regular expression: {fault}", param=path)


def unsupported_construct(pattern: str) -> str | None:
    """What no grammar can follow, with its name: "the lookahead (?="; None if there is nothing of the kind."""
    for match in _PART.finditer(pattern):
        part = match[0]
        name = _LOOKAROUNDS.get(part) or _OTHERS.get(part) or _ESCAPES.get(part)
        if name is None and len(part) == 2 and part[0] == "\\" and part[1] in "123456789":
            name = "backreference"
        if name is not None:
            return f"the {name} {part}"
    return None


def largest_repeat(pattern: str) -> int:
    """The largest number of times that a part is said to be repeated, as in a{2,5}."""
    return max((int(count) for match in _REPEAT.finditer(pattern) for count in match.groups() if count), default=0)


def texts_of(pattern: str) -> frozenset[str] | None:
    """All texts that a pattern such as ^(a|b)$ matches; None for other patterns."""
    match = _CHOICE.fullmatch(pattern)
    return None if match is None else frozenset((match[1] or match[2]).split("|"))


def all_texts_but(texts: Iterable[str]) -> str:
    """A pattern of JSON Schema for every text that is none of `texts`, which are within the limits."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}  # a text ends here
    return f"^{_all_but(tree)}$"


def _all_but(tree: dict[str, Any]) -> str:
    """What can follow so that no text of the tree is complete: the end, another character, or one of its own."""
    own = {escaped(character): follows for character, follows in tree.items() if character}
    other = f"[^{''.join(own)}]" if own else r"[\s\S]"
    ends = [] if "" in tree else [""]
    return "(?:" + "|".join([*ends, rf"{other}[\s\S]*", *(each + _all_but(own[each]) for each in own)]) + ")"


def escaped(character: str) -> str:
    """A pattern for this character alone."""
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"
