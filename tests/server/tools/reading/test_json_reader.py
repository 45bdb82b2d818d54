import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.tools.reading.json_reader import json_of, read_value
from server.tools.reading.text_reader import TextReader

pytestmark = pytest.mark.fast

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def _scan(text: str, size: int) -> tuple[str, str]:
    """Return the text emitted for pieces of that size, and the unread text."""
    reader = TextReader()
    emitted: list[str] = []
    steps = read_value(reader, emitted.append)
    next(steps, None)
    for start in range(0, len(text), size):
        reader.feed(text[start : start + size])
        next(steps, None)
    return "".join(emitted), reader.unread


@given(_VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_json_passes_unchanged(value: Any, ensure_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    assert json_of(text) == text


@given(_VALUES, st.integers(1, 5))
def test_json_in_pieces_comes_out_the_same(value: Any, size: int) -> None:
    text = json.dumps([value])

    assert _scan(text + "}", size) == (text, "}")


@given(st.text(alphabet="{}[]():,\"'\\ \n1-.eatrufNT", max_size=30))
def test_whatever_is_accepted_is_json(text: str) -> None:
    found = json_of(text)

    assert found is None or json.loads(found) is not ...


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'a': 'it\\'s \"x\"', 'b': None}", {"a": 'it\'s "x"', "b": None}),
        ("[True, False, (1, 2)]", [True, False, [1, 2]]),
        ('{"a": [1, 2, ], }', {"a": [1, 2]}),
        ('"two\nlines"', "two\nlines"),
        (r'"C:\dir \x41 \u12"', "C:\\dir A \\u12"),
    ],
)
def test_what_models_write_instead_of_json_becomes_json(text: str, expected: Any) -> None:
    found = json_of(text)

    assert found is not None
    assert json.loads(found) == expected


@pytest.mark.parametrize(
    "text", ["", "{", '{"a"', '{"a" 1}', "{,}", "[1 2]", "[,]", '{"a":}', "nul", "1.", "NaN", "{}}"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    assert json_of(text) is None


def test_deep_brackets_need_no_recursion() -> None:
    text = "[" * 50_000 + "]" * 50_000

    assert json_of(text) == text


def test_pieces_are_emitted_as_they_come() -> None:
    assert _scan('{"a": "be', 1)[0] == '{"a": "be'
