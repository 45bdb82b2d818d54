"""benchmarks/adapters/client_times.py: each stream has its adapter, ratios are of turns, a wrong answer ends it."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.adapters.client_times import EIGHT, ONE, Contender, Load, measure, table
from benchmarks.servers import CompareError

pytestmark = pytest.mark.fast

Answer = Callable[[dict[str, Any]], httpx.Response]


def _fields(adapter: int | None) -> dict[str, Any]:
    return {"model": adapter}


def _client(answer: Answer) -> tuple[httpx.AsyncClient, list[dict[str, Any]]]:
    """A client of a server, and the bodies that this got."""
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return answer(bodies[-1])

    return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://server"), bodies


def _whole(body: dict[str, Any]) -> httpx.Response:
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
    return httpx.Response(200, json={"usage": usage})


@pytest.mark.parametrize(("adapts", "loads", "num_long"), [(True, (*ONE, *EIGHT), 2), (False, (ONE[0], EIGHT[0]), 1)])
async def test_the_streams_of_a_load_have_its_adapters(adapts: bool, loads: tuple[Load, ...], num_long: int) -> None:
    http, bodies = _client(_whole)
    async with http:
        times = await measure(http, Contender("ours", "serve", _fields, adapts), 2, 8)
    turns = [[body["model"] for body in bodies[start : start + len(bodies) // 3]] for start in (0, len(bodies) // 3)]
    assert turns[0] == turns[1] == [*(each for load in loads for each in load * 2), *(None, 0)[:num_long]]
    assert times.keys() == {*loads, *(None, 0)[:num_long]}
    assert {len(found) for found in times.values()} == {2}, "the first turn does not count"
    prompts = [tuple(body["prompt"]) for body in bodies]
    assert len(set(prompts)) == len(prompts), "no prompt is in a cache"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: httpx.Response(404, text="no such model"), "ours answers 404: no such model"),
        (lambda body: _whole({**body, "max_tokens": 0}), "ours has not generated 1 tokens from 32"),
    ],
)
async def test_what_is_not_wholly_answered_ends_the_comparison(answer: Answer, message: str) -> None:
    http, _ = _client(answer)
    async with http:
        with pytest.raises(CompareError, match=message):
            await measure(http, Contender("ours", "serve", _fields), 1, 8)


def test_a_ratio_is_the_median_of_turns() -> None:
    plain, adapted = ONE
    eight, one_adapter, eight_adapters = EIGHT
    ours = {
        **{plain: [0.010, 0.020, 0.010], adapted: [0.011, 0.024, 0.010], None: [0.5] * 3, 0: [0.6] * 3},
        **{eight: [0.02] * 3, one_adapter: [0.022] * 3, eight_adapters: [0.03] * 3},
    }
    without = {plain: [0.010], eight: [0.02], None: [0.5]}
    lines = table({"ours": ours, "without": without}).splitlines()
    assert lines[2:] == [
        "| ours | 10.0 ms | 1.10 | 20.0 ms | 1.10 | 1.50 | 500.0 ms | 1.20 |",
        "| without | 10.0 ms | - | 20.0 ms | - | - | 500.0 ms | - |",
    ]
