"""Grammar expressions for an answer: from a JSON schema, a regular expression, choices or a client's grammar."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.structured_outputs.json_schema.preparation import PreparedSchema, prepare_schema
from server.structured_outputs.languages.ebnf import lark_of_ebnf, num_ebnf_rules
from server.structured_outputs.languages.patterns import checked_construct, largest_repeat

Expression = Callable[[GrammarBuilder], str]

MAX_CHOICES = 10_000
MAX_REPEATS = 10_000  # of one part of a regular expression
MAX_TEXT = 1 << 18  # characters of a regular expression, a grammar, or all choices

# A pattern of whitespace: characters, escapes, groups, classes and repetitions
_WHITESPACE = re.compile(r"(?:\\[snrt]|\\x(?:20|0[9ADad])|\(\?:|\{[0-9]+(?:,[0-9]*)?\}|[ \t\r\n()\[\]|?*+])*")


def schema_expression(
    schema: Any, param: str, *, is_strict: bool, whitespace: str | None
) -> tuple[Expression, PreparedSchema]:
    """Return a grammar expression for the values that a JSON schema (an object, or JSON text) allows, and the prepared
    schema. Raises InvalidRequest and UnsupportedParameter."""
    if isinstance(schema, str):
        schema = decode_field(schema, param)
    prepared = prepare_schema(schema, param=param, is_strict=is_strict, whitespace=whitespace)
    return lambda builder: builder.json(prepared.schema), prepared


def regex_expression(pattern: str, param: str) -> Expression:
    _check_length(pattern, param)
    if (repeats := largest_repeat(pattern)) > MAX_REPEATS:
        raise InvalidRequest(
            f"{param} repeats a part {repeats:,} times; the limit is {MAX_REPEATS:,}; use * or +", param=param
        )
    if (construct := checked_construct(pattern, param)) is not None:
        raise UnsupportedParameter(
            f"{param} has {construct}, which a grammar cannot enforce; write the pattern without it", param=param
        )
    return lambda builder: builder.regex(pattern)


def choices_expression(choices: list[str], param: str) -> Expression:
    """Return a grammar expression for exactly one of the choices. Raises InvalidRequest if there are none or too many,
    or one is empty."""
    if not 0 < len(choices) <= MAX_CHOICES:
        raise InvalidRequest(f"{param} has {len(choices):,} choices; it must have 1 to {MAX_CHOICES:,}", param=param)
    for index, choice in enumerate(choices):
        if not choice:
            raise InvalidRequest(f"{param}[{index}] is empty; a choice must be a text", param=f"{param}[{index}]")
    _check_length("".join(choices), param)
    return lambda builder: one_of(builder, dict.fromkeys(choices))


def grammar_expression(grammar: str, param: str) -> Expression:
    """Return an expression for a client's grammar, in llguidance's Lark syntax or in EBNF with `::=`, as in GBNF and
    xgrammar."""
    _check_length(grammar, param)
    lark = lark_of_ebnf(grammar, param) if num_ebnf_rules(grammar) else grammar
    return lambda builder: builder.lark(lark)


def json_whitespace(pattern: str, param: str) -> str:
    """Check a client's whitespace pattern, and return it restricted to the four whitespace characters of JSON."""
    if not _WHITESPACE.fullmatch(pattern) or not pattern:
        raise InvalidRequest(
            f"{param} is {quote(pattern)}; it must match only whitespace, such as [ \\n]?", param=param
        )
    return pattern.replace(r"\s", r"[ \t\r\n]")


def decode_field(text: str, param: str) -> Any:
    """Parse a field that holds JSON text. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply; the limit is 64 levels", param=param) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{param} is not valid JSON: {error}", param=param) from None


def _check_length(text: str, param: str) -> None:
    if not text:
        raise InvalidRequest(f"{param} is empty; leave it out for an answer without a constraint", param=param)
    if len(text) > MAX_TEXT:
        raise InvalidRequest(
            f"{param} has {len(text):,} characters; the limit is {MAX_TEXT:,}; shorten it", param=param
        )
