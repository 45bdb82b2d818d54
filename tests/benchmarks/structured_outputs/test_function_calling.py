"""benchmarks/structured_outputs/function_calling: calls are right or wrong as BFCL has it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.structured_outputs.bfcl_cases import Case, json_schema, load_cases, to_tool
from benchmarks.structured_outputs.bfcl_rules import Call, count_fitting, find_fault
from benchmarks.structured_outputs.function_calling import Answer, Scored, ask, show

pytestmark = pytest.mark.fast

_PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "limit": {"type": "float"},
    "is_metric": {"type": "boolean"},
    "point": {"type": "tuple", "items": {"type": "float"}},
    "names": {"type": "array", "items": {"type": "string"}},
    "counts": {"type": "array", "items": {"type": "integer"}},
    "price": {"type": "dict", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}},
    "other": {"type": "any"},
}
_FUNCTION = {
    "name": "weather.get",
    "description": "Tells the weather.",
    "parameters": {"type": "dict", "properties": _PROPERTIES, "required": ["city"]},
}


def _case(*answers: dict[str, Any]) -> Case:
    """Each answer: the accepted values of each argument of one call."""
    return Case("x", [], [to_tool(_FUNCTION)], [{"weather.get": answer} for answer in answers])


def _call(arguments: dict[str, Any], name: str = "weather_get") -> Call:
    return Call(name, json.dumps(arguments))


def test_a_function_becomes_a_tool_with_a_json_schema() -> None:
    function = to_tool(_FUNCTION)["function"]
    assert function["name"] == "weather_get"
    assert function["parameters"]["type"] == "object"
    properties = function["parameters"]["properties"]
    assert properties["limit"] == {"type": "number"}
    assert properties["point"] == {"type": "array", "items": {"type": "number"}}
    assert properties["price"]["type"] == "object"
    assert properties["other"] == {}


def test_a_property_may_be_named_as_a_keyword() -> None:
    converted = json_schema({"type": "dict", "properties": {"type": {"type": "float"}, "items": {"type": "dict"}}})
    assert converted["properties"] == {"type": {"type": "number"}, "items": {"type": "object"}}


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("city", "new-york  city.", ["Boston", "New York City"]),
        ("limit", 5, [5.0]),
        ("limit", 5.0, [5]),
        ("days", 5, [5]),
        ("is_metric", True, [True]),
        ("point", [3, 4.5], [[3.0, 4.5]]),
        ("names", ["the office", "Friends"], [["The Office", "Friends"]]),
        ("price", {"min": 3, "max": 4}, [{"min": [3], "max": [5, 4]}]),
        ("price", {"min": 3}, [{"min": [3], "max": [5, ""]}]),
        ("other", "x", ["x"]),
    ],
)
def test_an_accepted_value_is_right(key: str, value: Any, accepted: list[Any]) -> None:
    assert find_fault(_case({"city": ["Rome"], key: accepted}), [_call({"city": "Rome", key: value})]) is None


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("city", "Boston", ["New York City"]),
        ("days", 5.0, [5]),
        ("days", "5", [5]),
        ("days", None, [5]),
        ("days", True, [1]),
        ("is_metric", 1, [True]),
        ("names", ["Friends", "The Office"], [["The Office", "Friends"]]),
        ("names", "Friends", [["Friends"]]),
        ("counts", [1, 2.0], [[1, 2]]),
        ("price", {"min": 3}, [{"min": [3], "max": [5]}]),
        ("price", {"min": 3, "top": 5}, [{"min": [3], "max": [""]}]),
    ],
)
def test_any_other_value_is_wrong(key: str, value: Any, accepted: list[Any]) -> None:
    fault = find_fault(_case({"city": ["Rome"], key: accepted}), [_call({"city": "Rome", key: value})])
    assert fault == f"argument {key} is {value!r}"


def test_an_argument_may_be_left_out_where_the_answers_say_so() -> None:
    assert find_fault(_case({"city": ["Rome"], "days": [3, ""]}), [_call({"city": "Rome"})]) is None
    assert find_fault(_case({"city": ["Rome"], "days": [3]}), [_call({"city": "Rome"})]) == "argument days is missing"
    assert find_fault(_case({"city": ["Rome", ""]}), [_call({})]) == "argument city is missing"


def test_an_unexpected_argument_is_wrong() -> None:
    for key in ("days", "unknown"):
        fault = find_fault(_case({"city": ["Rome"]}), [_call({"city": "Rome", key: 3})])
        assert fault == f"argument {key} is unexpected"


def test_names_must_be_equal_and_arguments_an_object() -> None:
    case = _case({"city": ["Rome"]})
    assert find_fault(case, [_call({"city": "Rome"}, "weather")]) == "called weather instead of weather_get"
    for arguments in ("[]", '{"city": "Ro', ""):
        assert find_fault(case, [Call("weather_get", arguments)]) == "the arguments are no JSON object"


def test_several_calls_are_right_in_any_order_but_each_once() -> None:
    case = _case({"city": ["Rome"]}, {"city": ["Oslo"]})
    rome, oslo = _call({"city": "Rome"}), _call({"city": "Oslo"})
    assert find_fault(case, [oslo, rome]) is None
    assert find_fault(case, [rome]) == "1 calls instead of 2"
    assert find_fault(case, [rome, oslo, oslo]) == "3 calls instead of 2"
    assert find_fault(case, [rome, rome]) == "argument city is 'Rome'"


def test_no_call_is_right_where_no_tool_helps() -> None:
    assert find_fault(_case(), []) is None
    assert find_fault(_case(), [_call({})]) == "1 calls instead of 0"


def test_calls_are_held_against_their_schemas() -> None:
    pytest.importorskip("jsonschema")
    calls = [_call({"city": "Rome", "days": 3}), _call({"city": 5}), _call({}), _call({"city": "Rome"}, "other")]
    assert count_fitting(_case(), calls) == 1


def test_cases_are_read_with_their_answers(tmp_path: Path) -> None:
    rows = [{"id": f"s_{n}", "question": [[{"role": "user", "content": "?"}]], "function": [_FUNCTION]} for n in (0, 1)]
    answers = [{"id": f"s_{n}", "ground_truth": [{"weather.get": {"city": [n]}}]} for n in (1, 0)]
    for name, written in (("multiple", rows), ("multiple.answers", answers), ("irrelevance", rows), ("parallel", rows)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, written)) + "\n")
    (case,) = load_cases(tmp_path, "multiple", 1)
    assert case.messages == [{"role": "user", "content": "?"}]
    assert case.answers == [{"weather.get": {"city": [0]}}]
    assert [case.answers for case in load_cases(tmp_path, "irrelevance", None)] == [(), ()]
    with pytest.raises(FileNotFoundError, match="parallel"):
        load_cases(tmp_path, "parallel", None)


def _ask(status: int, body: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """What is sent, and how the response is understood."""
    sent: list[dict[str, Any]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(status, json=body)

    async def run() -> Answer:
        async with httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(respond)) as client:
            return await ask(client, "model", _case(), "required")

    answer = asyncio.run(run())
    return sent[0], answer


def test_a_response_becomes_calls_and_counts() -> None:
    message = {"content": None, "tool_calls": [{"function": {"name": "weather_get", "arguments": "{}"}}]}
    sent, answer = _ask(
        200,
        {
            "choices": [{"message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        },
    )
    assert (sent["tool_choice"], sent["temperature"], sent["max_tokens"]) == ("required", 0, 256)
    assert answer == Answer([Call("weather_get", "{}")], "", "tool_calls", 7, 3)


def test_a_refusal_is_an_error() -> None:
    _, answer = _ask(400, {"error": {"message": "no tools here"}})
    assert answer.error.startswith("400 ")
    assert "no tools here" in answer.error


def test_the_table_has_a_line_for_each_category_and_one_for_all() -> None:
    right = Scored("a", Answer([Call("f", "{}")], prompt_tokens=1000, output_tokens=20), None, 1)
    wrong = Scored("b", Answer(error="400 no"), "400 no", 0)
    table = show({"multiple": [right, wrong], "parallel": [right]}, {"multiple": 2.0, "parallel": 3.0})
    assert table.splitlines()[2:] == [
        "| multiple | 1 of 2 | 1 of 1 | 1 | 1,000 | 20 | 2 |",
        "| parallel | 1 of 1 | 1 of 1 | 0 | 1,000 | 20 | 3 |",
        "| all | 2 of 3 | 2 of 2 | 1 | 2,000 | 40 | 5 |",
    ]
    unchecked = Scored("a", right.answer, None, None)
    assert "| parallel | 1 of 1 | - | 0 |" in show({"parallel": [unchecked]}, {"parallel": 1.0})
