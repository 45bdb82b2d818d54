"""Requests of the proof of exactness, and its comparison of answers."""

import asyncio
import json
from typing import Any

import pytest

from benchmarks.quality.exact_answers import compare, make_requests, send
from benchmarks.servers import CompareError

pytestmark = pytest.mark.fast


def test_requests_are_of_all_kinds() -> None:
    requests = make_requests(range(2000), 200, 24)
    lengths = [len(each["prompt"]) for each in requests]
    assert min(lengths) < 30
    assert 560 < max(lengths) <= 600
    assert sum(each["prompt"][:100] == [*range(100)] for each in requests) > 60  # shared prefixes
    assert sum(each["temperature"] == 0 for each in requests) == 100
    assert len({each["seed"] for each in requests}) == 200
    assert requests == make_requests(range(2000), 200, 24)


async def test_a_request_that_fails_is_reported() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlong")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CompareError, match=r"request [0-3] failed: 400 long"):
            await send(url, [{}] * 4, 2)


def _answer(logprob: float, token: str = "b", prompt_logprob: float = -1.0) -> bytes:
    logprobs = {"tokens": ["a", token], "token_logprobs": [-1.0, logprob], "top_logprobs": [{"a": -1.0}, {"b": -2.0}]}
    choice: dict[str, Any] = {"index": 0, "text": f"a{token}", "finish_reason": "length", "logprobs": logprobs}
    choice["prompt_logprobs"] = [None, {"5": {"logprob": prompt_logprob}}]
    return json.dumps({"object": "text_completion", "choices": [choice]}).encode()


def test_the_last_bit_is_compared() -> None:
    expected = [_answer(-0.5)] * 4
    found = compare(expected, [_answer(-0.5), _answer(-0.5000000000000001), _answer(-0.5, "c"), _answer(-0.5, "b", -2)])
    assert {number: each.what for number, each in found.items()} == {
        1: "log probability of 'b'",
        2: "token",
        3: "prompt_logprobs",
    }
