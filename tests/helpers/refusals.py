"""Checks of the errors that clients receive."""

from typing import Any


def check_refusal(response: Any, status: int, param: str | None, part: str) -> None:
    """Assert that the response is OpenAI's error object with this status, field and part of its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert part in error["message"], error["message"]
