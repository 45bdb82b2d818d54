"""Calls that a model writes without its format's marks, alone, in a fence or between other tags."""

from collections.abc import Mapping
from typing import Any

import pytest

from server.tools.formats.hermes import FORMAT
from server.tools.formats.mistral import FORMAT as MISTRAL
from server.tools.reading.parser import AnswerText, CallArguments, CallEnd, CallStart, ToolEvent

pytestmark = pytest.mark.fast

CALL = '{"name": "add", "arguments": {"a": 1}}'
READ = ["call add", '{"a": 1}', "end"]


def _read(text: str, size: int, schemas: Mapping[str, Any] = {"add": True}) -> list[str]:
    parser = FORMAT.parser(schemas)
    events: list[ToolEvent] = []
    for start in range(0, len(text), size):
        events += parser.push(text[start : start + size])
    read: list[str] = []
    last: type[ToolEvent] | None = None
    for event in [*events, *parser.finish()]:
        match event:
            case CallStart(name=name):
                read.append(f"call {name}")
            case CallEnd():
                read.append("end")
            case AnswerText(text=text) | CallArguments(text=text):
                if last is type(event):
                    read[-1] += text
                else:
                    read.append(text)
        last = type(event)
    return read


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, READ),
        (f" \n{CALL}\n", READ),
        (f"{CALL}\n{CALL}", READ * 2),
        (CALL.replace('"name"', '\n  "name"'), READ),
        (f"```json\n{CALL}\n```", READ),
        (f"```json\n{CALL},\n{CALL}\n```\nThat is it.", [*READ, *READ, "\nThat is it."]),
        (f"Let me add.\n```json\n{CALL}\n```", ["Let me add.", *READ]),
        (f"<tools>\n{CALL}\n</tools>", READ),
        (f"<function_call>{CALL}</function_call>", READ),
        (f"<tool_call>\n{CALL}\n</tool_call>", READ),
    ],
)
def test_they_are_read_at_the_beginning_and_behind_other_marks(text: str, expected: list[str], size: int) -> None:
    assert _read(text, size) == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Bob", "age": 3}',
        '{"a": {"name": "add"}}',
        '```json\n{"name": "Bob"}\n```\n',
        "```json\n[1, 2]\n```",
        f"As in {CALL}, for example.",
        "```json",
        '{"na',
        CALL[:-5],
        CALL.replace("1", "4 * 3"),
        f"```json\n{CALL.replace('1', '1 // one')}\n```",
    ],
)
def test_other_json_stays_text(text: str, size: int) -> None:
    assert _read(text, size) == [text]


_ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "unit": {"enum": ["cm", "m"]}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("arguments", "is_call"),
    [
        ('{"a": 1}', True),
        ('{"a": 1, "unit": "m"}', True),
        ('"{\\"a\\": 1}"', True),  # the object as a text, which is read as the object
        ('{"a": "1"}', False),
        ('{"a": 1, "unit": "km"}', False),
        ('{"a": 1, "b": 2}', False),
        ('{"unit": "m"}', False),
        ("[1]", False),
    ],
)
def test_they_are_calls_if_they_fit_the_tools_schema(arguments: str, is_call: bool, size: int) -> None:
    text = f'```json\n{{"name": "add", "arguments": {arguments}}}\n```'
    read = _read(text, size, {"add": _ADD})
    assert read[0] == "call add" if is_call else read == [text]


@pytest.mark.parametrize(
    ("value", "is_call"),
    [
        ('"Your Name"', True),
        ('"yourself"', True),
        ('"<br>"', True),
        ('"your_username"', False),
        ('" YOUR-API-KEY "', False),
        ('"<your city>"', False),
        ('"{{user.id}}"', True),
        ('["Rome", {"key": "your_key"}]', False),
    ],
)
def test_one_with_a_placeholder_is_an_example(value: str, is_call: bool) -> None:
    text = f'```json\n{{"name": "add", "arguments": {{"a": {value}}}}}\n```'
    read = _read(text, 7)
    assert read[0] == "call add" if is_call else read == [text]


@pytest.mark.parametrize("size", [1, 1000])
def test_text_follows_those_that_fit(size: int) -> None:
    bad = '{"name": "add", "arguments": {"a": "one"}}'
    read = _read(f"```json\n{CALL}\n{bad}\n```", size, {"add": _ADD})
    assert read == [*READ, f"\n{bad}\n```"]


@pytest.mark.parametrize("size", [1, 1000])
def test_arguments_that_are_left_out_are_none(size: int) -> None:
    text = '{"name": "add"}'
    assert _read(text, size, {"add": {"type": "object"}}) == ["call add", "{}", "end"]
    assert _read(text, size, {"add": _ADD}) == [text]


def test_a_format_of_another_shape_has_none() -> None:
    parser = MISTRAL.parser({"add": True})
    assert [*parser.push(CALL), *parser.finish()] == [AnswerText(CALL)]
