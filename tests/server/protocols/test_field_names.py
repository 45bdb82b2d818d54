"""client_names: errors about a chat's fields, told in the client's words."""

import pytest

from engine.errors import ContextLengthExceeded, InvalidRequest
from server.protocols.field_names import client_names, client_path

pytestmark = pytest.mark.fast

NAMES = {
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "messages": "input",
    "messages[1]": "input[0]",
}


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
    with pytest.raises(InvalidRequest) as caught, client_names(NAMES):
        raise InvalidRequest(f"{param} is 0; it must be at least 1", param=param)
    assert caught.value.param == expected
    assert str(caught.value) == f"{expected} is 0; it must be at least 1"


def test_the_kind_of_error_stays() -> None:
    with pytest.raises(ContextLengthExceeded) as caught, client_names(NAMES):
        raise ContextLengthExceeded("the prompt has 9 tokens and max_tokens is 9", param="max_tokens")
    assert str(caught.value) == "the prompt has 9 tokens and max_output_tokens is 9"
    assert caught.value.code == "context_length_exceeded"


def test_a_path_is_renamed_by_its_longest_known_beginning() -> None:
    assert client_path(NAMES, "messages[1].role") == "input[0].role"
    assert client_path(NAMES, "messages[2].role") == "input[2].role"
    assert client_path(NAMES, "messages") == "input"
    assert client_path(NAMES, "top_p") == "top_p"
