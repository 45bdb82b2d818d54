"""POST /v1/decisions: bodies that are refused, by the name of the field, and fields without effect."""

from typing import Any

import pytest

from tests.helpers.decisions import BODY, CHOICE, PREDICATE, SCORE, decision_client, marked, post, refused
from tests.helpers.fake_client import pooling_client

pytestmark = pytest.mark.fast


def _questions(*questions: Any) -> dict[str, Any]:
    return {"questions": [*questions]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "a string or a list of items"),
    ({"input": "  "}, "input", "input is empty"),
    ({"input": []}, "input", "at least 1"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        "only text",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "7", "output": ""}]},
        "input[0].call_id",
        "give the call too",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_json", "data": 3}]}]},
        "input[0].content[0].data",
        "an object",
    ),
    (_questions(), "questions", "at least 1"),
    ({"questions": [PREDICATE] * 401}, "questions", "at most 400"),
    (_questions({"type": "box"}), "questions[0]", "must be one of predicate, choice, score"),
    (_questions({"type": "predicate"}), "questions[0].instructions", "is missing"),
    (_questions({**PREDICATE, "instructions": " "}), "questions[0].instructions", "needs a statement"),
    (_questions(PREDICATE, {**CHOICE, "choices": []}), "questions[1].choices", "at least 2"),
    (_questions({**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}), "questions[0].choices", "at most 255"),
    (
        _questions({**CHOICE, "choices": [{"value": "a"}, {"value": " "}]}),
        "questions[0].choices[1].value",
        "other than spaces",
    ),
    (
        _questions({**CHOICE, "choices": [{"value": "a"}, {"value": True}, {"value": "a"}]}),
        "questions[0].choices",
        "items 0 and 2",
    ),
    (_questions({**SCORE, "levels": [{"label": "a"}, {"label": "a"}]}), "questions[0].levels", "items 0 and 1"),
    (
        _questions({**SCORE, "levels": [{"label": "x" * 300}, {"label": "a"}]}),
        "questions[0].levels[0].label",
        "the limit is 256",
    ),
    (
        {"input": [{"role": "user", "content": [{**marked("a"), "prompt_cache_breakpoint": {"mode": "implicit"}}]}]},
        "input[0].content[0].prompt_cache_breakpoint.mode",
        "'explicit'",
    ),
    ({"min_mass": 1.5}, "min_mass", "at most 1"),
    ({"permutations": 0}, "permutations", "at least 1"),
    ({"permutations": 17}, "permutations", "at most 16"),
    ({"stream": True}, "stream", "not supported"),
    ({"tools": [{}]}, "tools", "not supported"),
]


@pytest.mark.parametrize(("changes", "param", "message"), BAD)
async def test_a_bad_body_is_refused_by_the_fields_name(changes: dict[str, Any], param: str, message: str) -> None:
    error = await refused(decision_client(), changes)
    assert error["param"] == param
    assert message in error["message"]


def _nested(depth: int) -> Any:
    return {} if depth == 1 else {"a": _nested(depth - 1)}


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (_nested(33), "32 levels; it has 33"),
        ({"a": [0] * 10_000}, "10,000 values; it has 10,002"),
        ({"a": "x" * 2**18}, "256 KiB) as compact JSON; it has 262,152"),
    ],
    ids=["depth", "values", "size"],
)
async def test_a_json_part_has_limits(data: Any, limit: str) -> None:
    error = await refused(
        decision_client(), {"input": [{"role": "user", "content": [{"type": "input_json", "data": data}]}]}
    )
    assert (error["param"], limit in error["message"]) == ("input[0].content[0].data", True)


async def test_a_question_beyond_the_context_is_named() -> None:
    error = await refused(decision_client(), _questions(PREDICATE, {**PREDICATE, "instructions": "x" * 5000}))
    assert (error["param"], error["code"]) == ("questions[1]", "context_length_exceeded")


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [("MAX_QUESTION_TOKENS", 300, "tokens, each"), ("MAX_SPELLING_TOKENS", 50, "tokens in the spellings of their")],
)
async def test_tokens_of_all_questions_together_are_limited(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, message: str
) -> None:
    questions = _questions(PREDICATE, SCORE, CHOICE)
    assert (await post(decision_client(), {**BODY, **questions, "permutations": 2})).status_code == 200
    monkeypatch.setattr(f"server.decisions.prompt.{limit}", most)
    assert (await post(decision_client(), {**BODY, **questions})).status_code == 200
    error = await refused(decision_client(), {**questions, "permutations": 2})
    assert error["param"] == "questions[2]"
    assert message in error["message"]
    assert f"the limit is {most}; ask fewer questions in one request" in error["message"]


async def test_a_pooling_model_is_not_suited() -> None:
    response = await post(pooling_client(), BODY)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "model_not_suited")


async def test_fields_without_effect_are_listed_or_refused() -> None:
    fields = {"prompt_cache_key": "k", "safety_identifier": "s", "unknown": 1}
    body = {**BODY, **fields, "questions": [{**PREDICATE, "instructions": [marked("It floats.")]}]}
    listed = (await post(decision_client(), body)).headers["x-ignored-parameters"].split(", ")
    assert {*listed} == {*fields, "questions[0].instructions[0].prompt_cache_breakpoint"}
    error = await refused(decision_client(), {"unknown": 1}, strict_parameters=True)
    assert error["code"] == "unknown_parameter"
