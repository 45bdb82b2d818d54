"""OutputStream: what a reader gets who comes after several outputs."""

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
