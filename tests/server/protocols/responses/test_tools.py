"""A response's tools as the functions of a chat: custom ones, those in namespaces, those that other servers run."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.chat.tools import OfferedTool
from server.protocols.responses.request import TranslatedResponse, translate_response
from server.protocols.responses.tools import CalledTool, chat_name
from server.schemas.base import validate
from server.schemas.responses import ResponsesRequest

pytestmark = pytest.mark.fast

NOW = {"type": "function", "name": "now"}
PATCH = {"type": "custom", "name": "patch", "description": "Changes a file."}
FILES = {"type": "namespace", "name": "files", "description": "", "tools": [{"type": "function", "name": "now"}, PATCH]}


def _request(**fields: Any) -> TranslatedResponse:
    body = validate(ResponsesRequest, {"input": "hi", **fields})
    return translate_response(body, body.input or [])


def _functions(request: TranslatedResponse) -> list[OfferedTool]:
    return list(request.chat.chat.tools.definitions)


def _parameters(function: OfferedTool) -> dict[str, Any]:
    assert function.parameters is not None
    return function.parameters


def test_a_function_is_a_function() -> None:
    schema = {"type": "object", "properties": {}}
    tool = {**NOW, "description": "The time.", "parameters": schema, "strict": True}
    (function,) = _functions(_request(tools=[tool]))
    assert (function.name, function.description, function.parameters) == ("now", "The time.", schema)
    assert function.is_strict


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    request = _request(tools=[PATCH])
    (function,) = _functions(request)
    assert (function.description or "").startswith("Changes a file.\n")
    assert _parameters(function)["properties"] == {"input": {"type": "string"}}
    assert _parameters(function)["required"] == ["input"]
    assert request.called == {"patch": CalledTool("patch", None, is_custom=True)}


def test_grammars_that_have_a_pattern_are_enforced_and_others_listed() -> None:
    formats = [("regex", "a|b"), ("lark", 'start: "a"+'), ("lark", 'start: "(" start? ")"')]
    tools = [
        {**PATCH, "name": f"t{i}", "format": {"type": "grammar", "syntax": syntax, "definition": definition}}
        for i, (syntax, definition) in enumerate(formats)
    ]
    request = _request(tools=tools)
    inputs = [_parameters(function)["properties"]["input"] for function in _functions(request)]
    assert [each.get("pattern") for each in inputs] == ["^(?:a|b)$", "^(?:(?:(?:a)+))$", None]
    assert 'start: "(" start? ")"' in (_functions(request)[2].description or "")
    assert request.ignored == ["tools[2].format"]


def test_tools_in_a_namespace_have_its_name_before_theirs() -> None:
    request = _request(tools=[NOW, FILES])
    assert [function.name for function in _functions(request)] == ["now", "files__now", "files__patch"]
    assert request.called["files__patch"] == CalledTool("patch", "files", is_custom=True)
    assert request.chat.paths["tools[2].function"] == "tools[1].tools[1]"
    assert chat_name("f", "mcp__") == "mcp__f"


def test_tools_that_other_servers_run_are_listed() -> None:
    request = _request(tools=[{"type": "web_search"}, NOW, {"type": "mcp", "server_label": "x"}])
    assert [function.name for function in _functions(request)] == ["now"]
    assert request.ignored == ["tools[0]", "tools[2]"]
    assert not _functions(_request(tools=[{"type": "web_search"}]))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", None),
        ({"type": "function", "name": "now"}, ["now"]),
        ({"type": "custom", "name": "patch"}, ["patch"]),
        ({"type": "function", "name": "now", "namespace": "files"}, ["files__now"]),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [
                    {"type": "web_search"},
                    {"type": "custom", "name": "patch"},
                    {"type": "function", "name": "now"},
                ],
            },
            ["patch", "now"],
        ),
    ],
)
def test_a_choice_names_the_chats_functions(choice: Any, expected: Any) -> None:
    chosen = _request(tools=[NOW, PATCH, FILES], tool_choice=choice).chat.chat.tools.choice
    assert chosen.mode == ("auto" if len(expected or []) > 1 else "required")
    assert chosen.names == (None if expected is None else tuple(expected))
    assert chosen.is_single == (len(expected or []) == 1)


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"tools": [NOW, NOW]}, "tools[1]", "second tool called 'now'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "is missing"),
        ({"tools": [{"type": "shovel"}]}, "tools[0]", "must be one of function, custom, namespace"),
        (
            {"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "ebnf", "definition": ""}}]},
            "tools[0].format.syntax",
            "'lark' or 'regex'",
        ),
        (
            {"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "regex", "definition": "a)|(b"}}]},
            "tools[0].format.definition",
            "is 'a)|(b', which is not a regular expression",
        ),
        ({"tools": [NOW], "tool_choice": {"type": "web_search_preview"}}, "tool_choice", "does not run that tool"),
        ({"tools": [NOW], "tool_choice": "always"}, "tool_choice", "none, auto, required"),
        (
            {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools",
            "no function and no custom tool",
        ),
        ({"messages": []}, "messages", "calls it input"),
        ({"max_tokens": 5}, "max_tokens", "calls it max_output_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format", "calls it text.format"),
        ({"n": 2}, "n", "a response is one answer"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported"),
        ({"top_logprobs": 3}, "top_logprobs", "needs include"),
        ({"stream_options": {}}, "stream_options", "needs stream: true"),
        ({"include": ["everything"]}, "include[0]", "must be"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "'kkk"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "at most 16 pairs, and has 17"),
        ({"resumable": True, "stream": True, "background": True}, "resumable", "leave out one of them"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "is missing"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "must be"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"input": None}, "input", "input is missing"),
        ({"input": []}, "input", "input is empty"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "input is without a message"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_the_clients_name(fields: dict[str, Any], param: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _request(**fields)
    assert caught.value.param == param
    assert part in str(caught.value)


def test_what_changes_nothing_is_listed() -> None:
    request = _request(
        text={"verbosity": "low", "x": 1},
        reasoning={"summary": "auto", "effort": "low"},
        include=["reasoning.encrypted_content", "file_search_call.results"],
        tools=[{**NOW, "defer_loading": True}],
        input=[{"role": "user", "content": [{"type": "input_text", "text": "x", "prompt_cache_breakpoint": {}}]}],
    )
    assert request.ignored == [
        "input[0].content[0].prompt_cache_breakpoint",
        "tools[0].defer_loading",
        "text.x",
        "text.verbosity",
        "reasoning.summary",
        "include[1]",
    ]


def test_the_greatest_effort_has_two_names() -> None:
    assert _request(reasoning={"effort": "max"}).chat.options.reasoning_effort == "xhigh"
    assert _request(reasoning={"effort": "low"}).chat.options.reasoning_effort == "low"


def test_the_sampling_extensions_of_chats_are_taken() -> None:
    chat = _request(top_k=5, seed=3, temperature=0.5, max_output_tokens=7, stop="x").chat.options
    assert (chat.top_k, chat.seed, chat.temperature, chat.stop) == (5, 3, 0.5, ["x"])
    assert chat.requested_max_tokens == 7
