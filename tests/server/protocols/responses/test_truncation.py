"""truncation: auto leaves out as few of the oldest items as possible, and never half of a call."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ContextLengthExceeded
from server.protocols.responses.stored import items_of
from server.protocols.responses.truncation import droppable, within_context
from server.schemas.response_items import InputItem

pytestmark = pytest.mark.fast


def _message(role: str) -> dict[str, Any]:
    return {"role": role, "content": "x"}


def _call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def _output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "5"}


def _turn(kind: str, number: int) -> list[dict[str, Any]]:
    if kind == "calls":
        ids = [f"a{number}", f"b{number}"]
        return [*map(_call, ids), *map(_output, ids)]
    return [_message(kind)]


TURNS = st.lists(st.sampled_from(["user", "assistant", "system", "developer", "calls"]), max_size=8)


def _items(kinds: list[str]) -> list[InputItem]:
    return items_of([item for number, kind in enumerate(kinds) for item in _turn(kind, number)])


def _choices(items: list[InputItem]) -> list[frozenset[int]]:
    positions, sizes = droppable(items)
    return [frozenset(positions[:size]) for size in sizes]


@given(TURNS)
def test_calls_and_outputs_go_together_and_instructions_stay(kinds: list[str]) -> None:
    items = _items(kinds)
    before: frozenset[int] = frozenset()
    for left_out in _choices(items):
        assert left_out > before
        before = left_out
        rest = [item for index, item in enumerate(items) if index not in left_out]
        calls = [item.call_id for item in rest if item.type == "function_call"]
        assert calls == [item.call_id for item in rest if item.type == "function_call_output"]
        assert [item for item in rest if getattr(item, "role", "") in ("system", "developer")] == [
            item for item in items if getattr(item, "role", "") in ("system", "developer")
        ]
        assert any(getattr(item, "role", "") not in ("system", "developer") for item in rest)


@given(TURNS, st.integers(0, 20))
async def test_the_fewest_items_are_left_out(kinds: list[str], max_items: int) -> None:
    items = _items(kinds)

    async def attempt(left_out: frozenset[int]) -> frozenset[int]:
        if len(items) - len(left_out) > max_items:
            raise ContextLengthExceeded("too long", param="input")
        return left_out

    fitting = [choice for choice in [frozenset(), *_choices(items)] if len(items) - len(choice) <= max_items]
    if fitting:
        assert await within_context(items, attempt) == fitting[0]
    else:
        with pytest.raises(ContextLengthExceeded):
            await within_context(items, attempt)


@pytest.mark.parametrize("num_kept", [1, 40, 8_000])
async def test_a_long_conversation_costs_what_it_keeps(num_kept: int) -> None:
    items = _items(["user"]) * 8_192
    tried: list[int] = []

    async def attempt(left_out: frozenset[int]) -> int:
        tried.append(len(items) - len(left_out))
        if tried[-1] > num_kept:
            raise ContextLengthExceeded("too long", param="input")
        return tried[-1]

    tracemalloc.start()
    assert await within_context(items, attempt) == num_kept
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * 2**20
    assert len(tried) < 30
    assert tried[0] == 8_192
    assert max(tried[1:]) <= max(2 * num_kept + 2, 4)
