"""Regular expressions: what their dialect here lacks, and one for all texts but a few."""

import re
from collections.abc import Iterable
from typing import Any

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:<?[=!]|P[=>]|>|\()|[^\\\[(]+|.", re.DOTALL)

_LOOKAROUNDS = {"(?=": "lookahead", "(?!": "lookahead", "(?<=": "lookbehind", "(?<!": "lookbehind"}
_OTHERS = {"(?P=": "backreference", "(?P>": "recursion", "(?>": "atomic group", "(?(": "condition"}
_ESCAPES = {r"\b": "word boundary", r"\B": "word boundary", r"\k": "backreference"}

_CHOICE = re.compile(r"\^(?:([\w-]+)|\((?:\?:)?([\w|-]+)\))\$", re.ASCII)
_REPEAT = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")

MAX_EXCLUDED = 2_000  # characters, of all texts that `all_texts_but` leaves out


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
    """A pattern of JSON Schema for every text that is none of `texts`, which have MAX_EXCLUDED characters at most."""
    root: dict[str, Any] = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}  # a text ends here
    # From the leaves up, without recursion: texts may be long.
    stack: list[tuple[dict[str, Any], str, list[str]]] = [(root, "", [])]
    order = []
    while stack:
        node, lead, siblings = stack.pop()
        own: list[str] = []
        order.append((node, lead, siblings, own))
        stack += [(child, character, own) for character, child in node.items() if character]
    for node, lead, siblings, own in reversed(order):
        characters = "".join(_escaped(character) for character in node if character)
        other = f"[^{characters}]" if characters else r"[\s\S]"
        ends = [] if "" in node else [""]
        follows = "|".join([*ends, rf"{other}[\s\S]*", *own])
        siblings.append(f"{_escaped(lead)}(?:{follows})")
    top: list[str] = order[0][2]
    return f"^{top[0]}$"


def _escaped(character: str) -> str:
    return character if character.isalnum() or not character else f"\\x{{{ord(character):x}}}"
