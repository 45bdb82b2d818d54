"""How long read_form waits for a body."""

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from fastapi import Request
from starlette.types import Message

from server.errors import RequestTimeout
from server.http.form import read_form
from tests.helpers.virtual_loop import VirtualLoop

pytestmark = pytest.mark.fast

HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--b--\r\n"


def _read(pieces: Iterator[bytes], delays_s: Iterator[float]) -> tuple[bytes, float]:
    """Read a form whose pieces come after `delays_s`; return its file, and the seconds that this took."""
    written = bytearray()

    async def write(data: bytes) -> None:
        written.extend(data)

    async def receive() -> Message:
        await asyncio.sleep(next(delays_s))
        piece = next(pieces, b"")
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": headers, "path": "/v1/files"}, receive)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(read_form(request, "file", write))
        return bytes(written), runner.get_loop().time()


def test_bytes_that_trickle_in_are_given_up_on() -> None:
    trickle = iter([HEAD, *[b"x"] * 1000, END])
    with pytest.raises(RequestTimeout, match="less than 16 KiB/s for at least 60 s") as error:
        _read(trickle, repeat(5.0))
    assert "/v1/uploads" in str(error.value)


def test_a_large_file_may_take_longer_than_the_timeout_of_other_bodies() -> None:
    pieces = [b"x" * (1 << 16)] * 100
    data, seconds = _read(iter([HEAD, *pieces, END]), repeat(2.0))
    assert data == b"".join(pieces)
    assert seconds > 200


def test_bytes_sent_fast_buy_no_silence_of_more_than_a_minute() -> None:
    pieces = [HEAD, *[b"x" * (1 << 16)] * 100, END]  # 400 s at the slowest rate
    with pytest.raises(RequestTimeout, match="without pauses"):
        _read(iter(pieces), chain(repeat(0.0, 100), repeat(61.0)))
    assert _read(iter(pieces), chain(repeat(0.0, 100), [59.0], repeat(0.0)))[1] == pytest.approx(59.0)
