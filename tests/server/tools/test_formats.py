"""Text that models write and that deviates from their format."""

from typing import Any

import pytest

from engine.errors import OptionError
from server.tools.format import Tool
from server.tools.reading.parser import CallArguments, CallEnd, CallStart
from server.tools.registry import FORMATS, named_format
from tests.server.tools.parsing import calls_of, parse, text_of

pytestmark = pytest.mark.fast

_SCHEMAS: dict[str, Any] = {
    "f": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "number": {"type": "integer"},
            "flag": {"type": "boolean"},
            "items": {"type": "array"},
            "either": {"type": ["string", "integer"]},
            "place": {"$ref": "#/$defs/place"},
        },
        "$defs": {"place": {"type": "object"}},
    }
}


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("hermes", '<tool_call>{"name":"f","arguments":{"text":"x"}}</tool_call>', {"text": "x"}),
        ("hermes", '<tool_call>\n\n{ "name" : "f" ,\n"arguments" : { } }\n', {}),
        ("hermes", '<tool_call>\n{"name": "f"}\n</tool_call>', {}),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": null}\n</tool_call>', {}),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": ""}\n</tool_call>', {}),
        ("hermes", '<tool_call>\n{"arguments": {"text": "x"}, "name": "f"}\n</tool_call>', {"text": "x"}),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": "{\\"text\\": \\"x\\"}"}\n</tool_call>', {"text": "x"}),
        ("hermes", '<tool_call>\n{"name": "f", "parameters": {"text": "x"}}\n</tool_call>', {"text": "x"}),
        ("hermes", "<tool_call>\n{'name': 'f', 'arguments': {'flag': True}}\n</tool_call>", {"flag": True}),
        ("hermes", '<tool_call>\n{"type": "function", "name": "f", "arguments": {}, "x": [1]}\n</tool_call>', {}),
        ("hermes", '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>', {}),
        ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"text": "x"}}', {"text": "x"}),
        ("llama3_json", '\n {"name": "f", "arguments": {"text": "x"}}', {"text": "x"}),
        ("mistral", '[TOOL_CALLS] [ {"name": "f", "arguments": {"text": "x"}} ]', {"text": "x"}),
        ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {"text": "x"}}', {"text": "x"}),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"text": "x"}', {"text": "x"}),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"text": "x"}', {"text": "x"}),
        ("mistral", '[TOOL_CALLS]f{"text": "x"}', {"text": "x"}),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>", {}),
        ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜><｜tool▁call▁end｜>", {}),
        ("kimi_k2", "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|> {} <|tool_call_end|>", {}),
        ("kimi_k3", '<|open|>call tool="f" index="3"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>', {}),
        ("olmo3", "<function_calls>\nf(text='x')\n</function_calls>", {"text": "x"}),
        ("glm47", "<tool_call>f\n<arg_key>text</arg_key>\n<arg_value>x</arg_value>\n</tool_call>", {"text": "x"}),
        ("step3p5", "<tool_call>\n<function=f><parameter=text>x</parameter></function></tool_call>", {"text": "x"}),
        ("minimax", '<tool_calls>{"name": "f", "arguments": {"text": "x"}}</tool_calls>', {"text": "x"}),
        ("granite", '<tool_call>[{"name": "f", "arguments": {"text": "x"}}]', {"text": "x"}),
        ("pythonic", "[f(text='it\\'s', items=[1, (2,)],)]", {"text": "it's", "items": [1, [2]]}),
        ("pythonic", "[f(flag=True, either=None)]", {"flag": True, "either": None}),
        ("lfm2", "<|tool_call_start|>[f( text = \"x\" )]<|tool_call_end|>", {"text": "x"}),
        ("gemma4", '<|tool_call>call:f{text:<|"|>a "b"\n{c}<|"|>}<tool_call|>', {"text": 'a "b"\n{c}'}),
        ("gemma4", '<|tool_call>call:f{ items: [<|"|>x<|"|>, {a:true}] }<tool_call|>', {"items": ["x", {"a": True}]}),
        ("gemma4", '<|tool_call>call:f{"text": "x", <|"|>flag<|"|>: false}', {"text": "x", "flag": False}),
        ("openai", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"flag": true}', {"flag": True}),
        ("openai", '<|start|>assistant<|channel|>commentary to=functions.f<|message|>{"text": "x"}', {"text": "x"}),
        ("openai", " to=functions.f<|channel|>commentary json<|message|>", {}),
        (
            "muse_glimmer",
            'to=f<|message|> <atem:function_calls><atem:invoke name="f"><atem:parameter name="text"> x\n'
            '</atem:parameter><atem:parameter name="items">[1]</atem:parameter></atem:invoke></atem:function_calls>',
            {"text": " x\n", "items": [1]},
        ),
        ("functionary_v32", 'f\n{"text": ">>>all\\n"}', {"text": ">>>all\n"}),
        ("qwen3_coder", "<function=f>\n<parameter=text>\nx\n</parameter>\n</function>", {"text": "x"}),
        ("qwen3_coder", "<tool_call><function=f><parameter=text>x</parameter></function></tool_call>", {"text": "x"}),
        ("glm45", "<tool_call>f<arg_key>text</arg_key><arg_value>x</arg_value></tool_call>", {"text": "x"}),
        ("minimax_m2", '<invoke name="f">\n<parameter name="text">x</parameter>\n</invoke>', {"text": "x"}),
    ],
)  # fmt: skip
def test_what_models_write_is_read(name: str, text: str, arguments: Any) -> None:
    found = named_format(name)

    events = parse(found, text, _SCHEMAS)

    assert calls_of(events) == [("f", arguments)]
    assert text_of(events) == ""
    assert parse(found, text, _SCHEMAS, range(1, len(text))) == events


_MARK = "]<]minimax[>["


def _element(key: str, *values: str) -> str:
    return f"{_MARK}<{key}>{''.join(values)}{_MARK}</{key}>"


def _items(*values: str) -> str:
    return "".join(_element("item", value) for value in values)


@pytest.mark.parametrize(
    ("elements", "arguments"),
    [
        (_element("text", "a <b> \n c"), {"text": "a <b> \n c"}),
        (f"{_element('number', '5')}\n{_element('flag', 'true')}", {"number": 5, "flag": True}),
        (_element("items", _items("1", _element("a", "x"))), {"items": [1, {"a": "x"}]}),
        (_element("items", "[1, 2]"), {"items": [1, 2]}),
        (_element("items") + _element("place"), {"items": [], "place": {}}),
        (_element("place", _element("item", "x")), {"place": {"item": "x"}}),
        (_element("unknown", _element("x", _items("1", "2"))), {"unknown": {"x": [1, 2]}}),
    ],
)
def test_elements_follow_the_schema(elements: str, arguments: Any) -> None:
    found = named_format("minimax_m3")
    text = f'{_MARK}<tool_call>\n{_MARK}<invoke name="f">{elements}{_MARK}</invoke>\n{_MARK}</tool_call>'

    events = parse(found, text, _SCHEMAS)

    assert calls_of(events) == [("f", arguments)]
    assert text_of(events) == ""
    assert parse(found, text, _SCHEMAS, range(1, len(text))) == events


@pytest.mark.parametrize(
    "elements",
    [
        f"{_MARK}<place>x{_element('y', '1')}{_MARK}</place>",
        f"{_MARK}<text>x{_MARK}</text",
        f"{_MARK}<a>" * 2000,
    ],
    ids=["text and elements", "a cut tag", "too deep"],
)
def test_elements_that_have_no_value_end_their_call(elements: str) -> None:
    found = named_format("minimax_m3")
    parser = found.parser(_SCHEMAS)

    events = [*parser.push(f'{_MARK}<tool_call>\n{_MARK}<invoke name="f">{elements}'), *parser.finish()]

    assert [type(event) for event in events[:3]] == [CallStart, CallArguments, CallEnd]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("text", "5", "5"),
        ("text", '"quoted"', '"quoted"'),
        ("text", "  two\n\nlines  ", "  two\n\nlines  "),
        ("number", "5", 5),
        ("number", "five", "five"),
        ("flag", "true", True),
        ("flag", "True", True),
        ("items", '[1, {"a": null}]', [1, {"a": None}]),
        ("either", "5", 5),
        ("either", "five", "five"),
        ("place", '{"x": 1}', {"x": 1}),
        ("unknown", "1.5", 1.5),
        ("unknown", "word", "word"),
    ],
)
def test_values_between_tags_follow_the_schema(key: str, value: str, expected: Any) -> None:
    text = f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"

    assert calls_of(parse(named_format("qwen3_coder"), text, _SCHEMAS)) == [("f", {key: expected})]


@pytest.mark.parametrize(
    ("name", "text", "call_id"),
    [
        ("kimi_k2", "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{}<|tool_call_end|>", "functions.f:3"),
        ("mistral", "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}", "abcdefghi"),
        ("mistral", '[TOOL_CALLS][{"id": "abcdefghi", "name": "f", "arguments": {}}]', "abcdefghi"),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "abcdefghi"}]', None),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', None),
    ],
)
def test_an_id_before_the_arguments_is_reported(name: str, text: str, call_id: str | None) -> None:
    events = parse(named_format(name), text, {"f"})

    assert events[0] == CallStart("f", call_id)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>\nget the weather"),
        ("hermes", '<tool_call>\n{"name": f}'),
        ("hermes", "a <tool_cal> b </tool_call>"),
        ("llama3_json", '{"answer": {"name": "f"}}'),
        ("llama3_json", 'Use {"name": "f", "parameters": {}}'),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[f, g]"),
        ("mistral", "[TOOL_CALLS] f is a function"),
        ("qwen3_coder", "<function=f is how it begins"),
    ],
)
def test_what_is_no_call_stays_text(name: str, text: str) -> None:
    assert text_of(parse(named_format(name), text, {"f"})) == text


def test_a_call_behind_a_broken_one_is_read() -> None:
    text = '<tool_call>\n{"name": oops\n</tool_call>\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'

    events = parse(named_format("hermes"), text, {"f"})

    assert calls_of(events) == [("f", {"a": 1})]


def test_a_known_call_behind_an_unknown_one_in_a_list_is_read() -> None:
    text = '<|tool_call|>[{"name": "g", "arguments": {"a": [1]}}, {"name": "f", "arguments": {}}]'

    events = parse(named_format("granite"), text, {"f"})

    assert calls_of(events) == [("f", {})]
    assert '"g"' in text_of(events)


def test_headers_of_harmony_are_no_text() -> None:
    text = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Done."

    assert text_of(parse(named_format("openai"), text, {"f"})) == "I look.Done."


def test_calls_are_read_in_messages_to_their_tool_alone() -> None:
    call = '<atem:function_calls>\n<atem:invoke name="f">\n</atem:invoke>\n</atem:function_calls>'
    found = named_format("muse_glimmer")

    def read(text: str) -> tuple[str, list[Any]]:
        events = parse(found, text, {"f"})
        assert parse(found, text, {"f"}, range(1, len(text))) == events
        return text_of(events), calls_of(events)

    message = f"<|start|>assistant to=f<|message|>{call}<|eom|>"
    assert read(f"I look.{message}{message}Done.") == ("I look.Done.", [("f", {}), ("f", {})])
    assert read(f"Write {call} so.") == (f"Write {call} so.", [])
    for wrong in (message.replace("to=f", "to=g"), message.replace('name="f"', 'name="g"')):
        assert read(wrong) == (wrong, [])


def test_tools_cannot_have_the_names_of_other_recipients() -> None:
    found = named_format("muse_glimmer")
    assert found.describe_unwritable(Tool("f", True, {})) is None
    for name in ("user", "self"):
        assert found.describe_unwritable(Tool(name, True, {})) == f"the name '{name}'"


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_has_the_name_it_is_registered_by(name: str) -> None:
    assert named_format(name).name == name


def test_an_unknown_format_is_a_fault_of_the_option() -> None:
    with pytest.raises(OptionError, match="--tool-call-parser 'foo' is not known; give one of apertus, "):
        named_format("foo")


def test_the_marks_of_both_of_mistrals_ways_are_kept() -> None:
    assert {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"} <= set(named_format("mistral").marks)


def test_raw_line_breaks_in_arguments_become_valid_json() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"text": "a\nb\tc"}}\n</tool_call>'

    assert calls_of(parse(named_format("hermes"), text, {"f"})) == [("f", {"text": "a\nb\tc"})]


def test_arguments_come_out_as_the_model_wrote_them() -> None:
    arguments = '{"a" :1.50,"b":"\\u00e9",  "c":[ ]}'
    text = '<tool_call>\n{"name": "f", "arguments": ' + arguments + "}\n</tool_call>"

    assert CallArguments(arguments) in parse(named_format("hermes"), text, {"f"})


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("all\nHello, world", "Hello, world", []),
        ("Hello", "Hello", []),
        ("f", "f", []),
        ("all", "all", []),
        ("all\nUse this:\n>>> f\n{}\n>>>>", "Use this:\n>>> f\n{}\n>>>>", []),
        ("all\nI look.>>>f\n{}", "I look.", [("f", {})]),
        ('f\n{"flag": true}>>>f\n{}', "", [("f", {"flag": True}), ("f", {})]),
        ("f\n{}>>>all\nDone.", "Done.", [("f", {})]),
        ("g\n{}", "g\n{}", []),
        ("all\nx>>>g\n{}", "x>>>g\n{}", []),
    ],
)
def test_answers_name_their_recipients(text: str, content: str, calls: Any) -> None:
    found = named_format("functionary_v32")

    events = parse(found, text, {"f"})

    assert text_of(events) == content
    assert calls_of(events) == calls
    assert parse(found, text, {"f"}, range(1, len(text))) == events
