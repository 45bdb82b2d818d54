"""Conversion of EBNF grammars in the syntax of llama.cpp and xgrammar to Lark's syntax, which llguidance reads."""

import re
from collections.abc import Iterable

from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.errors import InvalidRequest

MAX_RULES = 300  # the time to convert them grows with the square of their number

_MAX_WORK = 2_000_000  # tokens read to find out whether a text matches

_EBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_CONTINUED = re.compile(r'[ \t]*(?:#[^\n"]*)?(?:\n[ \t]*)+\|')
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)

# Lark's syntax: the head of a rule; comments, strings and regular expressions, repetitions, names, and brackets
_HEAD = re.compile(r"^([A-Za-z_]\w*):", re.MULTILINE)
_TOKEN = re.compile(
    r"""//[^\n]*|(?P<text>"(?:\\.|[^"\\])*"|/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])+/|<[^>\n]*>)"""
    r"|(?P<often>[*?]|\{[^}]*\})|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()|])"
)


def num_ebnf_rules(grammar: str) -> int:
    """Return the number of EBNF rules in the grammar; 0 if it is in another syntax."""
    return len(_EBNF_RULE.findall(grammar))


def lark_of_ebnf(grammar: str, param: str) -> str:
    """Convert an EBNF grammar to Lark's syntax. Raises InvalidRequest if malformed, too large, or matching no text."""
    num_rules = num_ebnf_rules(grammar)
    if num_rules > MAX_RULES:
        raise InvalidRequest(
            f"{param} has {num_rules:,} rules; the limit for EBNF is {MAX_RULES:,}; use Lark's syntax", param=param
        )
    try:
        lark = str(gbnf_to_lark(_ESCAPE.sub(_plain, _CONTINUED.sub(" |", grammar))))
    except RecursionError:
        raise InvalidRequest(f"{param} has parentheses nested too deeply; name inner parts", param=param) from None
    except Exception as error:  # noqa: BLE001 - gbnf_to_lark raises Exception itself
        raise InvalidRequest(f"{param} is not a readable EBNF grammar: {error}", param=param) from None
    if not _has_text(lark):
        raise InvalidRequest(
            f"{param} is a grammar that no text matches, because its root refers to itself endlessly; add an "
            "alternative that ends",
            param=param,
        )
    return lark


def _plain(escape: re.Match[str]) -> str:
    """Convert a Unicode escape: ASCII to \\xNN, which Lark has too, and other characters to themselves."""
    if escape[1] is None and escape[2] is None:
        return escape[0]
    code = int(escape[1] or escape[2], 16)
    if code < 0x80:
        return f"\\x{code:02x}"
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else escape[0]


def _has_text(lark: str) -> bool:
    """Return False only if it is certain that no text matches `start`."""
    _, *parts = _HEAD.split(lark)
    rules = {
        name: [(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(body)]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    ending: set[str] = set()
    for _ in range(1 + _MAX_WORK // (1 + sum(map(len, rules.values())))):
        found = {name for name in rules.keys() - ending if _ends(rules[name], rules.keys(), ending)}
        if not found:
            return "start" in ending or "start" not in rules
        ending |= found
    return True


def _ends(tokens: list[tuple[str, str]], names: Iterable[str], ending: set[str]) -> bool:
    """Whether the rule can match a finite text. ending: names of rules that are known to match a finite text."""
    # For each open group: whether an earlier alternative ends, whether this one does so far, and its last part
    groups = [[False, True, True]]
    for kind, token in tokens:
        group = groups[-1]
        match kind:
            case "often":
                group[2] |= not token.startswith("{") or token.startswith(("{0", "{,"))
                continue
            case "mark" if token == ")" and len(groups) > 1:
                groups.pop()
                has_end = group[0] or (group[1] and group[2])
                group = groups[-1]
            case "mark" if token == "(":
                groups.append([False, True, True])
                continue
            case "mark":
                group[:] = [group[0] or (group[1] and group[2]), True, True]
                continue
            case "name":
                has_end = token in ending or token not in names
            case _:
                has_end = True
        group[1], group[2] = group[1] and group[2], has_end
    group = groups[0]
    return group[0] or (group[1] and group[2])
