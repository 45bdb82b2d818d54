"""Reads an event stream as a client would."""

import json
from typing import Any


def events(body: str) -> list[Any]:
    """The data of each event, decoded; the end mark as the string "[DONE]". Asserts the framing."""
    assert body.endswith("\n\n")
    decoded: list[Any] = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        assert "\n" not in block, block
        data = block.removeprefix("data: ")
        decoded.append(data if data == "[DONE]" else json.loads(data))
    return decoded


def contents(chunks: list[Any], index: int = 0) -> str:
    """The joined content of one chat choice."""
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def named_events(body: str) -> list[Any]:
    """The data of each event of a stream whose events have names, decoded; pings too. Asserts that a name is the
    type in its data."""
    assert body.endswith("\n\n")
    decoded: list[Any] = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        decoded.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {decoded[-1]['type']}", block
    return decoded
