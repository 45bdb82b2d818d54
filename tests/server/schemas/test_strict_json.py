"""parse_json: what a body is refused for, in which field, and how deep it may be."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.schemas.strict_json import MAX_DEPTH, parse_json

pytestmark = pytest.mark.fast


def _fault(data: bytes) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(data)
    return str(caught.value), caught.value.param


def _nested(depth: int) -> bytes:
    return (
        b'{"a":' * (depth - depth // 2)
        + b"[" * (depth // 2)
        + b"1" * (depth % 2)
        + (b"]" * (depth // 2) + b"}" * (depth - depth // 2))
    )


@pytest.mark.parametrize("data", [b"5", b"[]", b'{"a": ["\\ud83d\\ude42", "[[[", 1.5, null]}', _nested(MAX_DEPTH - 1)])
def test_what_is_json_is_taken(data: bytes) -> None:
    parse_json(data)


def test_many_lists_side_by_side_are_not_deep() -> None:
    assert parse_json(b"[" + b"[{}]," * 1000 + b"[]]")[999] == [{}]


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 501, 901])
def test_a_body_that_is_too_deep_is_refused_with_its_depth(depth: int) -> None:
    assert _fault(_nested(depth)) == (f"the body is nested {depth} levels deep; the limit is {MAX_DEPTH}", None)


def test_a_body_too_deep_to_be_decoded_is_refused() -> None:
    assert f"the limit is {MAX_DEPTH}" in _fault(_nested(60_000))[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"p": 1,}', "this line is not valid JSON: "),
        (b"NaN", "this line is not valid JSON: this line is NaN"),
        (b'{"p": "\xff"}', "this line is not valid UTF-8: "),
        (b"[" * 65 + b"]" * 65, "this line is nested 65 levels deep"),
        (_nested(60_000), "this line is nested far more than 64 levels deep"),
        (
            b"[" + b"[]," * 65_536 + b"0]",
            "this line has more than 65,536 objects and lists, which is the limit; give fewer",
        ),
        (b"[" + b"0," * 2_097_153 + b"0]", "this line has more than 2,097,152 values"),
    ],
)
def test_what_is_no_body_has_its_own_name_in_messages(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(data, "this line")
    assert str(caught.value).startswith(words)
    assert "the body" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "param", "part"),
    [
        (b'{"prompt": "a, \\"b\\"", "temperature": NaN}', "temperature", "temperature is NaN"),
        (b'{"a": {"b": [1, "x", -Infinity]}, "c": 2}', "a.b[2]", "is -Infinity"),
        (b'{"messages": [{}, {"x": 1e999}]}', "messages[1].x", "is 1e999; it must be a number that fits 64-bit"),
        (b'{"a": 0, "prompt": "\\ud800 x"}', "prompt", "prompt has the lone surrogate \\ud800"),
        (b'{"a": {"\\udc00": 1}}', "a", "a has the lone surrogate \\udc00"),
        (b'{"\\udc00": 1}', None, "the body has the lone surrogate"),
        (b"NaN", None, "the body is NaN"),
        (b'{"p": 1,}', None, "trailing comma in object (byte 8)"),
        (b'{"p": nan', None, "not valid JSON"),
        (b"}]", None, "not valid JSON"),
    ],
)
def test_a_fault_is_named_with_its_field(data: bytes, param: str | None, part: str) -> None:
    message, field = _fault(data)
    assert part in message
    assert field == param


@pytest.mark.parametrize(
    ("before", "bad", "after", "param"),
    [
        ('{"prompt": "ab', b"\xff", b'"}', "prompt"),
        ('{"é": "ü", "a": ["", "ü', b"\xed\xa0\x80", b'"]}', "a[1]"),
        ('{"ü', b"\xc3", b'": 1}', None),
        ('{"p": "', b"\xe2\x82", b"", "p"),
    ],
)
def test_invalid_utf8_is_named_with_its_position_in_the_body(
    before: str, bad: bytes, after: bytes, param: str | None
) -> None:
    message, field = _fault(before.encode() + bad + after)
    assert f"byte 0x{bad[0]:02x} at position {len(before.encode())}" in message
    assert field == param


def test_the_place_of_a_fault_is_not_looked_for_in_a_long_body() -> None:
    filler: Any = b'"' + b"x" * (1 << 16) + b'"'
    assert _fault(b'{"a": ' + filler + b', "b": NaN}')[1] is None
