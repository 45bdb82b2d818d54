"""Regular expressions: checks of their syntax, and patterns for all texts except given ones."""

import re
from collections.abc import Iterable
from typing import Any

from llguidance import LLMatcher

from engine.errors import InvalidRequest
from server.schemas.base import quote

MAX_CHECKED = 20_000  # characters; only the engine checks longer patterns, since that takes long

# The parser's errors for patterns that are valid in other dialects
_OTHER_DIALECT = ("unrecognized escape", "Unicode property not found", "look-around")

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:<?[=!]|P[=>]|>|\()|[^\\\[(]+|.", re.DOTALL)

_LOOKAROUNDS = {"(?=": "lookahead", "(?!": "lookahead", "(?<=": "lookbehind", "(?<!": "lookbehind"}
_OTHERS = {"(?P=": "backreference", "(?P>": "recursion", "(?>": "atomic group", "(?(": "condition"}
_ESCAPES = {r"\b": "word boundary", r"\B": "word boundary", r"\k": "backreference"}

_CHOICE = re.compile(r"\^(?:([\w-]+)|\((?:\?:)?([\w|-]+)\))\$", re.ASCII)
_REPEAT = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")

# Limits of the texts that `all_texts_but` excludes: characters in all, and in one, since each nests a group
MAX_EXCLUDED = 2_000
MAX_EXCLUDED_LENGTH = 100


def checked_construct(pattern: str, path: str) -> str | None:
    """Return the pattern's first construct that llguidance does not support, in words, or None.

    Raises InvalidRequest with the path if the pattern is not a regular expression, or no text matches it.
    """
    if (construct := unsupported_construct(pattern)) is not None or len(pattern) > MAX_CHECKED:
        return construct
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern}))
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        error = "error: the backslash at its end escapes nothing"
    if "lookarounds not supported" in error:
        return "^ or $ within a pattern"
    if "Regex is empty" in error:
        raise InvalidRequest(f"{path} is {quote(pattern)}; no text matches it", param=path)
    _, found, fault = error.partition("error: ")
    if not found:
        return None  # the engine reports other errors
    if fault.startswith(_OTHER_DIALECT):
        return f"a construct of another dialect ({fault})"
    raise InvalidRequest(f"{path} is {quote(pattern)}, which is not a regular expression: {fault}", param=path)


def unsupported_construct(pattern: str) -> str | None:
    """Return the first construct that no grammar can enforce, such as "the lookahead (?=", or None."""
    for match in _PART.finditer(pattern):
        part = match[0]
        name = _LOOKAROUNDS.get(part) or _OTHERS.get(part) or _ESCAPES.get(part)
        if name is None and len(part) == 2 and part[0] == "\\" and part[1] in "123456789":
            name = "backreference"
        if name is not None:
            return f"the {name} {part}"
    return None


def largest_repeat(pattern: str) -> int:
    """Return the largest repetition count in the pattern, such as 5 for a{2,5}."""
    return max((int(count) for match in _REPEAT.finditer(pattern) for count in match.groups() if count), default=0)


def texts_of(pattern: str) -> frozenset[str] | None:
    """Return all texts that a pattern of the form ^(a|b)$ matches; None for other patterns."""
    match = _CHOICE.fullmatch(pattern)
    return None if match is None else frozenset((match[1] or match[2]).split("|"))


def all_texts_but(texts: Iterable[str]) -> str:
    """Return a JSON Schema pattern for all texts except `texts`, which must be within the MAX_EXCLUDED limits."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}  # a text ends here
    return f"^{_all_but(tree)}$"


def _all_but(tree: dict[str, Any]) -> str:
    """Return a pattern for all continuations that complete no text of the trie: the end, a character that is not in the
    trie, or one in it and a continuation for its subtrie."""
    own = {escaped(character): follows for character, follows in tree.items() if character}
    other = f"[^{''.join(own)}]" if own else r"[\s\S]"
    ends = [] if "" in tree else [""]
    return "(?:" + "|".join([*ends, rf"{other}[\s\S]*", *(each + _all_but(own[each]) for each in own)]) + ")"


def escaped(character: str) -> str:
    """Return a pattern that matches exactly this character."""
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"
