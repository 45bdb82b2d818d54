"""CustomInput: a custom tool's text inside the JSON of a function's arguments."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.responses.custom_input import CustomInput, arguments_of

pytestmark = pytest.mark.fast

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _read(pieces: list[str]) -> str:
    reader = CustomInput()
    return "".join([*map(reader.push, pieces), reader.finish()])


def _cut(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(ANY_TEXT, st.booleans(), st.sampled_from(['{"input": %s}', '{"input":%s}', ' {\n "input" : %s\n}']), st.data())
def test_the_input_is_what_was_written_however_it_is_cut(
    text: str, is_ascii: bool, form: str, data: st.DataObject
) -> None:
    written = form % json.dumps(text, ensure_ascii=is_ascii)
    cuts = data.draw(st.lists(st.integers(0, len(written))))
    assert _read(_cut(written, cuts)) == text


@given(ANY_TEXT)
def test_arguments_of_an_input_are_read_again(text: str) -> None:
    assert _read([arguments_of(text)]) == text


def test_pieces_come_before_the_end() -> None:
    reader = CustomInput()
    assert [reader.push(piece) for piece in ['{"inp', 'ut": "a', "b\\", 'nc", ', '"x": 1}']] == [
        "",
        "a",
        "b",
        "\nc",
        "",
    ]


@pytest.mark.parametrize("arguments", ["{}", '{"text": "a"}', '{"input": 5}', "[1]"])
def test_arguments_without_an_input_are_the_input_as_they_are(arguments: str) -> None:
    assert _read(list(arguments)) == arguments


def test_a_text_that_breaks_off_is_given_as_far_as_it_came() -> None:
    assert _read(['{"input": "ab\\u00', ""]) == "ab"


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("\\ud83d\\ude42", "🙂"),
        ("\\ud83dx", "\ufffdx"),
        ("\\ud83d\\n", "\ufffd\n"),
        ("\\ude42", "\ufffd"),
        ("\\ud83d\\ud83d\\ude42", "\ufffd🙂"),
        ("\\ud83d", "\ufffd"),
    ],
)
def test_halves_of_a_pair_make_one_character_or_none(escaped: str, text: str) -> None:
    assert _read(list('{"input": "' + escaped + '"}')) == text
