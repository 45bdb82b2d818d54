"""Templates of graders: what they put in, and what is refused before any sample is graded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable
from engine.command_io.finetuning.graders.sample import Sample
from engine.command_io.finetuning.graders.templates import parse_template
from engine.errors import InvalidRequest, UnsupportedParameter

pytestmark = pytest.mark.fast

ITEM = {"answer": "Paris", "n": 2.5, "on": True, "none": None, "tags": ["a", {"b": "c"}], "a b": 1, "größe": 7}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def _rendered(text: str, sample: Sample | None = None, item: Any = None) -> str:
    return parse_template(text, "input").rendered(ITEM if item is None else item, sample or Sample("Hi"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("{{item.answer}}", "Paris"),
        ("{{ item.answer }}/{{\nsample.output_text\n}}", "Paris/Hi"),
        ('{"smiles": "{{item.answer}}"}', '{"smiles": "Paris"}'),
        ("{{item.n}} {{item.on}} {{item.none}}", "2.5 true null"),
        ("{{item.tags}}", '["a",{"b":"c"}]'),
        ("{{item.tags[1].b}}{{item.tags[0]}}", "ca"),
        ("{{item['a b']}}{{item[\"answer\"]}}{{item.größe}}", "1Paris7"),
        ("{{sample.choices[0].message.content}}", "Hi"),
        ("{{sample.choices[0].finish_reason}}", "stop"),
    ],
)
def test_a_template_puts_values_in(text: str, expected: str) -> None:
    assert _rendered(text) == expected


def test_json_of_the_sample_is_read_where_the_text_is_json() -> None:
    sample = Sample('{"x": {"y": [1, "two"]}, "z": 1.0}')
    assert _rendered("{{sample.output_json.x.y[1]}} {{sample.output_json.z}}", sample) == "two 1.0"
    assert _rendered("{{sample.output_json}}", Sample(" 7 ")) == "7"


def test_tool_calls_are_as_in_a_chat() -> None:
    sample = Sample("", [CALL])
    text = "{{sample.output_tools[0].function.name}} {{sample.output_tools[0].function.arguments}}"
    assert _rendered(text, sample) == 'f {"x": 1}'
    assert _rendered("{{sample.choices[0].message.tool_calls[0].id}}", sample) == "1"


@pytest.mark.parametrize(
    ("text", "sample", "kind", "words"),
    [
        ("{{item.other}}", "", FaultKind.INVALID_VARIABLE, "there is no {{item.other}}"),
        ("{{item.tags[2]}}", "", FaultKind.INVALID_VARIABLE, "tags"),
        ("{{item.tags.b}}", "", FaultKind.INVALID_VARIABLE, "tags"),
        ("{{item.answer.x}}", "", FaultKind.INVALID_VARIABLE, "answer"),
        ("{{item.n[0]}}", "", FaultKind.INVALID_VARIABLE, "n"),
        ("{{sample.output_json.x}}", "{}", FaultKind.INVALID_VARIABLE, "output_json.x"),
        ("{{sample.output_json.x}}", "x: 1", FaultKind.SAMPLE_PARSE, "not JSON"),
        ("{{sample.output_json.x}}", "", FaultKind.SAMPLE_PARSE, "not JSON"),
        ("{{sample.output_json.x}}", '{"x": NaN}', FaultKind.SAMPLE_PARSE, "not JSON"),
        ("{{sample.output_json.x}}", "[" * 100_000, FaultKind.SAMPLE_PARSE, "not JSON"),
        ("{{sample.output_json.x}}", "\ud800", FaultKind.SAMPLE_PARSE, "not JSON"),
        ("{{sample.output_tools[0].id}}", "", FaultKind.INVALID_VARIABLE, "output_tools"),
    ],
)
def test_what_is_missing_is_named(text: str, sample: str, kind: FaultKind, words: str) -> None:
    with pytest.raises(Ungradable) as caught:
        _rendered(text, Sample(sample))
    assert caught.value.fault.kind is kind
    assert words in caught.value.fault.message


@pytest.mark.parametrize(
    "text",
    [
        "{{item}}",
        "{{sample}}",
        "{{}}",
        "{{answer}}",
        "{{items.answer}}",
        "{{item.}}",
        "{{item..x}}",
        "{{item.x.}}",
        "{{item[0]}}",
        "{{item.x[-1]}}",
        "{{item.x[}}",
        "{{item.x + 1}}",
        "{{item.x|upper}}",
        "{{{item.x}}}",
        "{{% if x %}}",
        "a {{item.x",
        "{{item.x}} {{",
        "{{sample.text}}",
        "{{item" + ".x" * 33 + "}}",
    ],
)
def test_a_template_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_template(text, "grader.input")
    assert caught.value.param == "grader.input"


def test_audio_is_refused_as_unsupported() -> None:
    with pytest.raises(UnsupportedParameter, match="output_audio"):
        parse_template("{{sample.output_audio.transcript}}", "grader.input")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


def _paths(value: Any, path: str) -> list[tuple[str, Any]]:
    found = [(path, value)]
    if isinstance(value, dict):
        found += [each for name, inner in value.items() for each in _paths(inner, f"{path}.{name}")]
    if isinstance(value, list):
        found += [each for index, inner in enumerate(value) for each in _paths(inner, f"{path}[{index}]")]
    return found


@given(_VALUES)
def test_every_value_of_an_item_can_be_reached_and_read_again(value: Any) -> None:
    for path, expected in _paths(value, "item.field"):
        text = _rendered("{{" + path + "}}", item={"field": value})
        if isinstance(expected, str):
            assert text == expected
        elif expected not in (float("inf"), float("-inf")):  # which JSON does not have, and no line either
            assert json.loads(text) == expected or "Infinity" in json.dumps(expected)


@given(st.text())
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        template = parse_template(text, "input")
    except InvalidRequest:
        assert "{{" in text
        return
    try:
        rendered = template.rendered({}, Sample("x"))
    except Ungradable:
        assert template.references
        return
    assert template.references or rendered == text


@given(st.text(st.characters(codec="utf-8")))
def test_a_samples_text_is_never_read_as_a_template(text: str) -> None:
    assert _rendered("<{{sample.output_text}}>", Sample(text)) == f"<{text}>"


def test_what_a_template_repeats_has_a_limit() -> None:
    item = {"x": "a" * 10_000}
    assert len(_rendered("{{item.x}}" * 10, item=item)) == 100_000
    with pytest.raises(Ungradable, match="template has more than"):
        _rendered("{{item.x}}" * 1000, item=item)


def test_many_openings_without_an_end_are_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="without"):
        parse_template("{{" * 1_000_000, "input")  # in quadratic time this would take hours
