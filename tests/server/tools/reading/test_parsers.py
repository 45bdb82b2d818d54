"""Properties of the parsers of all formats."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.tools.format import ToolFormat, WrittenCall
from server.tools.formats import mistral
from server.tools.layout import CallField, CallLayout
from server.tools.reading.parser import CallArguments, CallStart
from server.tools.registry import FORMATS, named_format
from server.tools.styles.json_format import JsonFormat
from tests.server.tools.parsing import calls_of, parse, text_of

pytestmark = pytest.mark.fast

_NAMED = CallLayout(begin="", open="[TOOL_CALLS]", body=(CallField.NAME, "[ARGS]", CallField.ARGUMENTS))
_ARGUMENTS_FIRST = CallLayout(
    begin="<tools>[",
    open='{"arguments": ',
    body=(CallField.ARGUMENTS, ', "name": "', CallField.NAME, '"}'),
    separator=", ",
    end="]",
)
_NESTED = CallLayout(
    begin="",
    open='<call>{"id": "',
    body=(
        CallField.INDEX,
        '", "function": {"name": "',
        CallField.NAME,
        '", "arguments": ',
        CallField.ARGUMENTS,
        "}}</call>",
    ),
)
_FORMATS: dict[str, ToolFormat] = {
    **{name: named_format(name) for name in FORMATS},
    "mistral, named": dataclasses.replace(mistral.FORMAT, layout=_NAMED),
    "arguments first": JsonFormat("template", _ARGUMENTS_FIRST),
    "nested": JsonFormat("template", _NESTED),
}
_MARKLESS = {"llama3_json", "pythonic", "openai", "functionary_v32"}  # whose calls no text precedes
_ONE_CALL = {"openai"}

_STRING = {"type": "string"}
_SCHEMAS: dict[str, Any] = {
    "get_weather": {"type": "object", "properties": {"city": _STRING, "note": _STRING, "days": {"type": "integer"}}},
    "now": {"type": "object", "properties": {}},
}
# Letters, quotes, escapes, brackets, the beginnings of tags, line breaks within, other alphabets and planes.
_TEXT = st.text(alphabet="aé日😀\"'\\{}[](),:;=/ ", max_size=12)
_CALLS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("get_weather"),
        st.fixed_dictionaries({"city": _TEXT}, optional={"note": _TEXT, "days": st.integers()}),
    ),
    st.tuples(st.just("now"), st.just({})),
)
_formats = pytest.mark.parametrize("name", list(_FORMATS))
_examples = settings(max_examples=30, deadline=None)


def _write(name: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    written = [
        WrittenCall(call, json.dumps(arguments, ensure_ascii=False), f"call{index:05}")
        for index, (call, arguments) in enumerate(calls)
    ]
    return _FORMATS[name].write(written)


def _cuts(data: st.DataObject, text: str) -> list[int]:
    return data.draw(st.lists(st.integers(0, len(text)), max_size=8))


@_formats
@_examples
@given(data=st.data(), calls=st.lists(_CALLS, min_size=1, max_size=3))
def test_calls_that_the_format_writes_are_read(name: str, data: st.DataObject, calls: list[Any]) -> None:
    text = _write(name, calls)

    events = parse(_FORMATS[name], text, _SCHEMAS, _cuts(data, text))

    assert calls_of(events) == (calls[:1] if name in _ONE_CALL else calls)
    assert text_of(events) == ""


@_formats
@_examples
@given(data=st.data(), calls=st.lists(_CALLS, max_size=2))
def test_text_cut_anywhere_gives_the_same_events(name: str, data: st.DataObject, calls: list[Any]) -> None:
    """Also where calls are broken: a piece of the text is missing, and another one is in the wrong place."""
    whole = _write(name, calls) if calls else ""
    if name not in _MARKLESS:
        whole = data.draw(_TEXT) + whole + data.draw(_TEXT)
    start, stop, place = (data.draw(st.integers(0, len(whole))) for _ in range(3))
    text = whole[:start] + whole[stop:] if start <= stop else whole
    text = text[:place] + whole[:stop] + text[place:] if data.draw(st.booleans()) else text

    expected = parse(_FORMATS[name], text, _SCHEMAS)

    assert parse(_FORMATS[name], text, _SCHEMAS, range(1, len(text))) == expected
    assert parse(_FORMATS[name], text, _SCHEMAS, _cuts(data, text)) == expected
    if not any(isinstance(event, CallStart) for event in expected) and name != "openai":
        assert text_of(expected) == text


@pytest.mark.parametrize("name", [name for name in _FORMATS if name not in _MARKLESS])
def test_text_before_and_after_calls_is_text(name: str) -> None:
    call = _write(name, [("now", {})])

    events = parse(_FORMATS[name], f"Let me see.{call}\n\nDone. ", _SCHEMAS)

    assert calls_of(events) == [("now", {})]
    assert text_of(events).startswith("Let me see.")
    assert text_of(events).endswith("\n\nDone. ")


@_formats
def test_a_call_of_an_unknown_name_is_text(name: str) -> None:
    text = _write(name, [("get_weather", {"city": "Paris"})])

    events = parse(_FORMATS[name], text, {"other"})

    assert text_of(events) == text


@_formats
def test_a_call_that_breaks_off_ends_with_what_came(name: str) -> None:
    text = _write(name, [("get_weather", {"city": "Paris", "note": "with some text"})])

    for size in range(len(text)):
        events = parse(_FORMATS[name], text[:size], _SCHEMAS)
        starts = sum(isinstance(event, CallStart) for event in events)
        assert len([event for event in events if type(event).__name__ == "CallEnd"]) == starts
        if starts:
            assert text_of(events) == ""


@pytest.mark.parametrize("name", [name for name in _FORMATS if name != "arguments first"])
def test_the_name_is_known_before_the_arguments_end(name: str) -> None:
    text = _write(name, [("get_weather", {"city": "Paris", "note": "x"})])
    parser = _FORMATS[name].parser(_SCHEMAS)

    events = parser.push(text[: text.index("Paris")])

    assert any(isinstance(event, CallStart) for event in events)


@pytest.mark.parametrize("name", ["hermes", "deepseek_v31", "mistral", "kimi_k2", "openai", "pythonic"])
def test_strings_are_streamed(name: str) -> None:
    text = _write(name, [("get_weather", {"city": "Paris"})])
    parser = _FORMATS[name].parser(_SCHEMAS)

    parser.push(text[: text.index("ris")])

    assert parser.push("r") == [CallArguments("r")]


@_formats
def test_long_runs_neither_recurse_nor_raise(name: str) -> None:
    call = _write(name, [("get_weather", {"city": "Paris"})])

    for piece in ("[", "{", '{"a":', "(", "<", '"', "\\", " "):
        parser = _FORMATS[name].parser(_SCHEMAS)
        # Within a string, and where a value begins.
        parser.push(call[: call.index("Paris")])
        for _ in range(1500):
            parser.push(piece)
        parser.finish()
        parse(_FORMATS[name], call[: call.index("Paris")].rstrip('"') + piece * 1500, _SCHEMAS)
        parse(_FORMATS[name], piece * 1500, _SCHEMAS)


@_formats
def test_an_opening_that_is_repeated_is_read_once(name: str) -> None:
    opening = _write(name, [("now", {})]).partition("now")[0]

    events = parse(_FORMATS[name], opening * 2000, _SCHEMAS)

    assert not any(isinstance(event, CallStart) for event in events)
