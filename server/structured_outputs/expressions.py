"""Expressions: what becomes of a regular expression, a grammar, choices or a schema in the answer's grammar."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.structured_outputs.json_schema import PreparedSchema, prepare_schema
from server.structured_outputs.patterns import checked_construct, largest_repeat

Expression = Callable[[GrammarBuilder], str]

MAX_CHOICES = 10_000
MAX_REPEATS = 10_000  # of one part of a regular expression
MAX_TEXT = 1 << 18  # characters of a regular expression, a grammar, or all choices
MAX_RULES = 300  # of an EBNF grammar: converting it takes time that grows with their square

_EBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_CONTINUED = re.compile(r'[ \t]*(?:#[^\n"]*)?(?:\n[ \t]*)+\|')
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)
# What whitespace may be written as: characters, escapes, groups, classes, and how often.
_WHITESPACE = re.compile(r"(?:\\[snrt]|\\x(?:20|0[9ADad])|\(\?:|\{[0-9]+(?:,[0-9]*)?\}|[ \t\r\n()\[\]|?*+])*")


def of_schema(schema: Any, param: str, *, is_strict: bool, whitespace: str | None) -> tuple[Expression, PreparedSchema]:
    """schema: as an object, or as its text. Raises InvalidRequest and UnsupportedParameter."""
    if isinstance(schema, str):
        schema = parsed(schema, param)
    prepared = prepare_schema(schema, param=param, is_strict=is_strict, whitespace=whitespace)
    return lambda builder: builder.json(prepared.schema), prepared


def of_regex(pattern: str, param: str) -> Expression:
    _check_length(pattern, param)
    if (repeats := largest_repeat(pattern)) > MAX_REPEATS:
        raise InvalidRequest(
            f"{param} repeats a part {repeats:,} times; the limit is {MAX_REPEATS:,}: use * or +", param=param
        )
    if (construct := checked_construct(pattern, param)) is not None:
        raise UnsupportedParameter(
            f"{param} has {construct}; no grammar can follow it: write the pattern without", param=param
        )
    return lambda builder: builder.regex(pattern)


def of_choices(choices: list[str], param: str) -> Expression:
    """Exactly one of the texts."""
    if not 0 < len(choices) <= MAX_CHOICES:
        raise InvalidRequest(f"{param} has {len(choices):,} choices; it must have 1 to {MAX_CHOICES:,}", param=param)
    for index, choice in enumerate(choices):
        if not choice:
            raise InvalidRequest(f"{param}[{index}] is empty; a choice is a text", param=f"{param}[{index}]")
    _check_length("".join(choices), param)
    return lambda builder: one_of(builder, dict.fromkeys(choices))


def of_grammar(grammar: str, param: str) -> Expression:
    """grammar: Lark's syntax as llguidance reads it, or EBNF with `::=` as GBNF and xgrammar have it."""
    _check_length(grammar, param)
    lark = _lark_of_ebnf(grammar, param) if _EBNF_RULE.search(grammar) else grammar
    return lambda builder: builder.lark(lark)


def whitespace_of(pattern: str, param: str) -> str:
    """A pattern for the whitespace in JSON, which has four characters of it."""
    if not _WHITESPACE.fullmatch(pattern) or not pattern:
        raise InvalidRequest(
            f"{param} is {quote(pattern)}; it must match whitespace and nothing else, as [ \\n]? does", param=param
        )
    return pattern.replace(r"\s", r"[ \t\r\n]")


def parsed(text: str, param: str) -> Any:
    """The JSON that a field has as a text."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply; the limit is 64 levels", param=param) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{param} is not valid JSON: {error}", param=param) from None


def _check_length(text: str, param: str) -> None:
    if not text:
        raise InvalidRequest(f"{param} is empty; leave it out to ask for nothing", param=param)
    if len(text) > MAX_TEXT:
        raise InvalidRequest(
            f"{param} has {len(text):,} characters; the limit is {MAX_TEXT:,}: shorten it", param=param
        )


def _lark_of_ebnf(grammar: str, param: str) -> str:
    num_rules = len(_EBNF_RULE.findall(grammar))
    if num_rules > MAX_RULES:
        raise InvalidRequest(
            f"{param} has {num_rules:,} rules; the limit for EBNF is {MAX_RULES:,}: use Lark's syntax", param=param
        )
    try:
        return str(gbnf_to_lark(_ESCAPE.sub(_plain, _CONTINUED.sub(" |", grammar))))
    except RecursionError:
        raise InvalidRequest(f"{param} has parentheses nested too deeply; name inner parts", param=param) from None
    except Exception as error:  # noqa: BLE001 - it raises Exception itself
        raise InvalidRequest(f"{param} is no EBNF grammar that we can read: {error}", param=param) from None


def _plain(escape: re.Match[str]) -> str:
    """The character that a Unicode escape means, where it means itself in strings and classes of Lark."""
    if escape[1] is None and escape[2] is None:
        return escape[0]
    code = int(escape[1] or escape[2], 16)
    if code < 0x80:
        return f"\\x{code:02x}"
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else escape[0]
