"""How long read_form waits for a body."""

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import Request
from starlette.types import Message

from server.errors import RequestTimeout
from server.http.form import read_form
from tests.helpers.virtual_loop import VirtualLoop

pytestmark = pytest.mark.fast

HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--b--\r\n"


def _read(pieces: Iterator[bytes], delay_s: float) -> tuple[bytes, float]:
    """Read a form whose pieces come one in `delay_s`; return its file, and the seconds that this took."""
    written = bytearray()

    async def write(data: bytes) -> None:
        written.extend(data)

    async def receive() -> Message:
        await asyncio.sleep(delay_s)
        piece = next(pieces, b"")
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": headers, "path": "/v1/files"}, receive)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(read_form(request, "file", write))
        return bytes(written), runner.get_loop().time()


def test_bytes_that_trickle_in_are_given_up_on() -> None:
    trickle = iter([HEAD, *[b"x"] * 1000, END])
    with pytest.raises(RequestTimeout, match="not complete after 60 s") as error:
        _read(trickle, delay_s=5.0)
    assert "/v1/uploads" in str(error.value)


def test_a_large_file_may_take_longer_than_the_timeout_of_other_bodies() -> None:
    pieces = [b"x" * (1 << 16)] * 100
    data, seconds = _read(iter([HEAD, *pieces, END]), delay_s=2.0)
    assert data == b"".join(pieces)
    assert seconds > 200
