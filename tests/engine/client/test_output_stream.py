"""OutputStream: what a reader gets who comes after several outputs, waits for one, or stops waiting."""

import asyncio

import msgspec
import pytest

from engine.client.output_stream import OutputStream
from engine.protocol import FinishReason, RequestOutput

pytestmark = pytest.mark.fast


async def test_a_refusal_after_tokens_that_were_not_read_stays_one() -> None:
    stream = OutputStream(on_abort=lambda _: None, on_discarded=lambda _: None)
    stream.put(RequestOutput(id="a", new_ids=[5]))
    refusal = RequestOutput(
        id="a", finish_reason=FinishReason.ERROR, error="no token is left", is_refused=True, refused_param="bad_words"
    )
    stream.put(refusal)
    assert [output async for output in stream] == [msgspec.structs.replace(refusal, new_ids=[5])]


async def test_an_output_reaches_a_waiting_reader_and_the_last_one_ends_it() -> None:
    stream = OutputStream(on_abort=lambda _: None, on_discarded=lambda _: None)
    reader = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.sleep(0)
    last = RequestOutput(id="a", new_ids=[5], finish_reason=FinishReason.LENGTH)
    stream.put(last)
    assert await reader == last
    with pytest.raises(StopAsyncIteration):
        await anext(aiter(stream))


async def test_an_output_stays_for_the_next_reader_if_one_stops_waiting() -> None:
    stream = OutputStream(on_abort=lambda _: None, on_discarded=lambda _: None)
    reader = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.sleep(0)
    reader.cancel()
    stream.put(output := RequestOutput(id="a", new_ids=[5]))
    await asyncio.sleep(0)
    assert reader.cancelled()
    assert await anext(aiter(stream)) == output
