"""Ids of calls: given where they are missing, and found for the results."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage
from server.protocols.ollama.messages import messages_with_ids
from server.schemas.ollama import OllamaMessage

pytestmark = pytest.mark.fast


def _ids(*messages: dict[str, Any]) -> list[Any]:
    """The ids of each message's calls, or of the call that it answers."""
    chat = messages_with_ids([OllamaMessage.model_validate(message) for message in messages])
    return [[call.id for call in each.calls] or each.tool_call_id for each in chat]


def _calls(*names: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": {}}} for name in names]}


def test_results_answer_the_calls_of_their_tools() -> None:
    results = [{"role": "tool", "tool_name": name, "content": ""} for name in ("b", "a", "a", "c")]
    assert _ids(_calls("a", "b", "a"), *results) == [
        ["call_0_0", "call_0_1", "call_0_2"],
        "call_0_1",
        "call_0_0",
        "call_0_2",
        None,
    ]


def test_nameless_results_answer_in_order() -> None:
    assert _ids(_calls("a", "b"), {"role": "tool"}, {"role": "tool"}, {"role": "tool"})[1:] == [
        "call_0_0",
        "call_0_1",
        None,
    ]


def test_ids_of_the_client_stay() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "mine", "function": {"name": "a"}}]}
    assert _ids(call, {"role": "tool", "tool_call_id": "mine"}, {"role": "tool"}) == [["mine"], "mine", None]


def test_roles_are_read_in_any_case_and_only_tools_answer() -> None:
    chat = messages_with_ids([OllamaMessage(role="User"), OllamaMessage(role="assistant", content=None)])
    assert chat == [ChatMessage("user"), ChatMessage("assistant")]


def test_a_role_that_is_not_known_is_refused() -> None:
    with pytest.raises(
        InvalidRequest, match=r"messages\[0\].role is 'robot'; it must be 'developer', .* or 'function'"
    ):
        messages_with_ids([OllamaMessage(role="Robot")])
