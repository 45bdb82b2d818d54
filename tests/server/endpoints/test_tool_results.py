"""Which results of tools are refused: those that no client means."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.endpoints.chat import check_results
from server.schemas.base import validate
from server.schemas.chat import ChatCompletionRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

USER = {"role": "user", "content": "hi"}


def _calls(*ids: str | None) -> dict[str, Any]:
    function = {"name": "plus", "arguments": "{}"}
    named = [{"function": function, **({} if each is None else {"id": each})} for each in ids]
    return {"role": "assistant", "content": None, "tool_calls": named}


def _result(call_id: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": "2", **({} if call_id is None else {"tool_call_id": call_id})}


def _check(*messages: dict[str, Any]) -> None:
    check_results(validate(ChatCompletionRequest, {"messages": list(messages)}).messages)


@pytest.mark.parametrize(
    "messages",
    [
        [USER, _calls("a"), _result("a")],
        [USER, _calls("a", "b"), _result("b"), _result("a"), USER],
        [USER, _calls("a"), _result("a"), _calls("b"), _result("b")],
        [_result("gone"), USER],
        [USER, _result("gone"), _calls("a"), _result("a")],
        [USER, _calls("a"), USER, _result("a")],
        [USER, _calls("a"), _calls("b"), _result("a"), _result("b")],
        [USER, _calls("a"), USER],
        [USER, _calls(None), _result("made-up")],
        [USER, {"role": "assistant", "content": "no call"}, _result("gone")],
        [USER, {"role": "function", "name": "plus", "content": "2"}],
    ],
)
def test_a_result_that_may_be_meant_is_accepted(messages: list[dict[str, Any]]) -> None:
    _check(*messages)


@pytest.mark.parametrize(
    ("messages", "path", "words"),
    [
        ([USER, _calls("a"), _result()], "messages[2]", "is missing; a message of role tool must give the id"),
        ([USER, _calls("a"), _result("")], "messages[2]", "is empty; a message of role tool must give the id"),
        ([_result()], "messages[0]", "is missing"),
        ([USER, _calls("a"), _result("A")], "messages[2]", "is 'A', and the calls that it follows are 'a'; give"),
        ([USER, _calls("a", "b"), _result("a"), _result("c")], "messages[3]", "are 'a', 'b'; give"),
        ([USER, _calls(*"abcdef"), _result("x")], "messages[2]", "are 'a', 'b', 'c', 'd', ...; give"),
    ],
)
def test_a_result_that_answers_no_call_is_refused(messages: list[dict[str, Any]], path: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _check(*messages)
    assert refused.value.param == f"{path}.tool_call_id"
    assert words in str(refused.value)


async def test_the_route_refuses_it_before_anything_is_computed() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        answer = await api.post("/v1/chat/completions", json={"messages": [USER, _calls("a"), _result("b")]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[2].tool_call_id")
    assert client.requests == []
