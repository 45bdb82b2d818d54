"""Two keys under load: what their streams have is counted as the engine weighs it."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.scheduling.two_keys import WEIGHTS, Load, Tally
from tests.helpers.fake_client import FakeClient, engine_info, says
from tests.helpers.http_serving import DEADLINE_S, serving
from tests.helpers.keys import entry, secret, write_keys


async def test_tokens_are_counted_for_their_key(tmp_path: Path) -> None:
    names = {name: secret(name) for name in WEIGHTS}
    keys = write_keys(tmp_path / "keys.json", *(entry(name, weight=weight) for name, weight in WEIGHTS.items()))
    client = FakeClient(says("12345678"), engine_info(max_model_len=4096))
    async with serving(client, api_keys_file=keys) as server:
        load = Load(f"http://127.0.0.1:{server.port}", names)
        await load.ttfts("guest", 1)
        assert load.tally.tokens["guest"] == 0
        load.tally.is_counting = True
        (first_s,) = await load.ttfts("guest", 1)
        async with load.clients("heavy", 2, 8, think_s=60):
            async with asyncio.timeout(DEADLINE_S):
                while len(client.requests) < 4 or load.tally.tokens["heavy"] < _weighed(client, 2, 3):
                    await asyncio.sleep(0)
    assert first_s > 0
    assert load.tally.tokens == {"flooder": 0, "guest": _weighed(client, 1), "heavy": _weighed(client, 2, 3)}


def _weighed(client: FakeClient, *numbers: int) -> int:
    return sum(2 * 8 + len(client.requests[number].prompt_ids) for number in numbers)


def test_a_stream_that_breaks_off_is_told() -> None:
    with pytest.raises(ValueError, match="a stream of guest breaks off"):
        Tally().add("guest", b'data: {"error": {"message": "the engine ended"}}\r\n', 0)
