"""Expressions: what becomes of a regular expression, a grammar, choices or a schema in the answer's grammar."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote
from server.structured_outputs.ebnf import lark_of_ebnf, num_ebnf_rules
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.structured_outputs.json_schema import PreparedSchema, prepare_schema
from server.structured_outputs.patterns import checked_construct, largest_repeat

Expression = Callable[[GrammarBuilder], str]

MAX_CHOICES = 10_000
MAX_REPEATS = 10_000  # of one part of a regular expression
MAX_TEXT = 1 << 18  # characters of a regular expression, a grammar, or all choices

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
    lark = lark_of_ebnf(grammar, param) if num_ebnf_rules(grammar) else grammar
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
