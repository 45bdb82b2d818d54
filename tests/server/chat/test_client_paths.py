"""Paths of a chat's fields, messages and tools, as the client's request has them."""

import pytest

from engine.errors import ContextLengthExceeded, InvalidRequest
from server.chat.content import ChatMessage, EarlierCall
from server.chat.request import Chat, ClientPaths
from server.chat.tools import OfferedTool, ToolOffer

pytestmark = pytest.mark.fast

PATHS = ClientPaths(
    {
        "max_tokens": "max_output_tokens",
        "response_format": "text.format",
        "messages": "input",
        "messages[1]": "input[0]",
    }
)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("max_tokens", "max_output_tokens"),
        ("response_format.json_schema", "text.format.json_schema"),
        ("max_tokens_in_all", "max_tokens_in_all"),
        ("messages[1].content[0]", "input[0].content[0]"),
        ("messages[11].content[0]", "input[11].content[0]"),
        (None, None),
    ],
)
def test_a_field_is_renamed_with_the_path_below_it(param: str | None, expected: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught, PATHS.in_errors():
        raise InvalidRequest(f"{param} is 0; it must be at least 1", param=param)
    assert caught.value.param == expected
    assert str(caught.value) == f"{expected} is 0; it must be at least 1"


def test_the_kind_of_error_stays() -> None:
    with pytest.raises(ContextLengthExceeded) as caught, PATHS.in_errors():
        raise ContextLengthExceeded("the prompt has 9 tokens and max_tokens is 9", param="max_tokens")
    assert str(caught.value) == "the prompt has 9 tokens and max_output_tokens is 9"
    assert caught.value.code == "context_length_exceeded"


def test_a_path_is_renamed_by_its_longest_known_beginning() -> None:
    assert PATHS["messages[1].role"] == "input[0].role"
    assert PATHS["messages[2].role"] == "input[2].role"
    assert PATHS["messages"] == "input"
    assert PATHS["top_p"] == "top_p"


def test_messages_calls_and_tools_know_their_places() -> None:
    call = EarlierCall("f", "{}", "a", path="input[2]")
    messages = [ChatMessage("user"), ChatMessage("assistant", calls=[call], path="input[1]")]
    tools = ToolOffer([OfferedTool("f", paths={"": "tools[3]", ".parameters": "tools[3].input_schema"})])
    paths = ClientPaths({"messages": "input"}, Chat(messages, tools))
    assert paths["messages[0].content"] == "input[0].content"
    assert paths["messages[1].content"] == "input[1].content"
    assert paths["messages[1].tool_calls[0].function.arguments"] == "input[2].arguments"
    assert paths["tools[0].function.parameters.type"] == "tools[3].input_schema.type"
    assert paths["tools[0].function.name"] == "tools[3].name"
