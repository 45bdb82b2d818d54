"""Reads the events of a streamed response as a client does, and asserts that they agree with each other."""

import json
from typing import Any


def events_of(body: str) -> list[dict[str, Any]]:
    """The events, whose type is said twice and whose numbers have no gap."""
    assert body.endswith("\n\n")
    decoded = []
    for number, block in enumerate(body.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        decoded.append(event)
    return decoded


_TEXTS = {"response.function_call_arguments": "arguments", "response.custom_tool_call_input": "input"}


def fold(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response at the stream's end."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"] == events[1]["response"]
    items: list[dict[str, Any]] = []
    num_done = 0
    for event in events[2:-1]:
        kind, _, change = event["type"].rpartition(".")
        if change == "added" and kind == "response.output_item":
            assert event["output_index"] == len(items) == num_done  # an item ends before the next begins
            items.append(event["item"])
            continue
        item = items[-1]
        assert event["output_index"] == len(items) - 1
        if kind == "response.output_item":
            at_once = {"status": "in_progress", **({"encrypted_content": None} if item["type"] == "reasoning" else {})}
            assert item == {**event["item"], **at_once}
            items[-1] = event["item"]
            num_done += 1
            continue
        assert event["item_id"] == item["id"]
        if kind == "response.content_part":
            if change == "added":
                item["content"].append(event["part"])
            assert item["content"][event["content_index"]] == event["part"]
            continue
        owner, name = (item, _TEXTS[kind]) if kind in _TEXTS else (item["content"][event["content_index"]], "text")
        if change == "delta":
            owner[name] += event["delta"]
            if "logprobs" in event:
                owner["logprobs"] += event["logprobs"]
        else:
            assert event[name] == owner[name]
            assert event.get("logprobs") == owner.get("logprobs")
    assert num_done == len(items)
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"]["output"] == items
    return dict(last["response"])
