"""Streams beside a job: their times are those of the tokens, and limits are told from them."""

import pytest

from benchmarks.finetuning.beside_clients import Client, Streams, row
from benchmarks.raw_http import RawConnection
from tests.helpers.fake_client import FakeClient, engine_info, says
from tests.helpers.http_serving import serving


async def test_a_stream_counts_its_tokens() -> None:
    engine = FakeClient(says("12345678"), engine_info(max_model_len=4096))
    streams = Streams()
    async with serving(engine) as server, RawConnection(f"http://127.0.0.1:{server.port}") as connection:
        await Client(connection).ask(streams)
        await Client(connection, seed=1).ask(streams)
    assert (len(streams.first_s), len(streams.token_s), len(streams.gap_s)) == (2, 2, 14)
    assert engine.requests[0].prompt_ids != engine.requests[1].prompt_ids


@pytest.mark.parametrize(("later_s", "is_held"), [(0.005, True), (0.02, False)])
def test_limits_are_told_from_the_streams(later_s: float, is_held: bool) -> None:
    paused = Streams([0.02] * 3, [0.008] * 3, [0.008] * 100)
    beside = Streams([0.02 + later_s] * 3, [0.0082] * 3, [0.009] * 100)
    line, found = row("always", paused, beside, 1.5)
    assert found is is_held
    assert line == f"| always | 20.0 | {later_s * 1000:+.1f} | 8.00 | 1.025 | 8.0 | 1.12 | 1.50 |"
