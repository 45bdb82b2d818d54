"""Where a request ends: bytes that two servers could cut differently are refused, and the connection is closed.

A proxy that takes for one request what the server takes for two lets its client put a request before another one's.
"""

import functools
import json
import random

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from server.http.connections.connection_limits import CloseReason
from tests.helpers.fake_client import FakeClient, make_app, says
from tests.helpers.memory_connection import Exchange, exchange

pytestmark = pytest.mark.fast

HOST = b"host: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b'{"prompt": "a"}'


@functools.cache
def _app() -> FastAPI:
    return make_app(FakeClient(says("x")))


def _post(headers: bytes, body: bytes = b"", *, host: bytes = HOST) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\n" + host + headers + b"\r\n" + body


def _cut(data: bytes, cuts: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = cuts.choice((1, 2, 7, 40, 1000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


async def _refused(data: bytes) -> Exchange:
    """The same in one piece, and in pieces of one byte; nothing behind the refused request is read."""
    whole = await exchange(_app(), [data])
    for result in (whole, await exchange(_app(), [data[i : i + 1] for i in range(len(data))])):
        assert result.is_closed
        assert result.statuses == [400], bytes(result.written)
        assert not any(path == "/smuggled" for _, path in result.targets)
        head, _, body = bytes(result.written).partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    return whole


@pytest.mark.parametrize(
    "headers",
    [
        b"content-length: 5\r\n" + CHUNKED,
        CHUNKED + b"content-length: 5\r\n",
        b"content-length: 0\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 5\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: +5\r\n",
        b"content-length: -5\r\n",
        b"content-length: 0x5\r\n",
        b"content-length: 5 5\r\n",
        b"content-length: \r\n",
        b"content-length: 18446744073709551621\r\n",
        b"content-length : 5\r\n",
        b" content-length: 5\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: chunked, chunked\r\n",
        CHUNKED + CHUNKED,
        b"transfer-encoding:\x0bchunked\r\n",
        b"transfer-encoding: \r\n chunked\r\n",
    ],
)
async def test_a_body_whose_length_is_said_twice_or_oddly_is_refused(headers: bytes) -> None:
    await _refused(_post(headers, b"0\r\n\r\n" + SMUGGLED))


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
        b"5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx: y\nz: a\r\n\r\n",
    ],
)
async def test_chunks_that_are_not_whole_are_refused(body: bytes) -> None:
    result = await _refused(_post(CHUNKED, body + SMUGGLED))
    assert result.reasons == [CloseReason.INVALID]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\nhost: x\n\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: b\x00c\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: b\r\n folded\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: b\r\n\tfolded\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n host: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n: no name\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na[b: c\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x, y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x/y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: a@x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x:port\r\n\r\n",
        b"GET /v1/models HTTP/1.2\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/2.0\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/0.9\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTPS/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models ICE/1.0\r\nhost: x\r\n\r\n",
        b"GET /v1/ models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models\tHTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/m\xc3\xb6dels HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"get /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"NONSENSE /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/completions HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_a_head_that_is_not_http_is_refused(data: bytes) -> None:
    await _refused(data + SMUGGLED)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\r\nHOST: x:8000\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: [::1]:8000\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost:\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        b"GET http://x/v1/models HTTP/1.1\r\nhost: x\r\n\r\n",  # as a client of a proxy writes it
        b"GET http://other/v1/models HTTP/1.1\r\nhost: x\r\n\r\n",  # no answer depends on the host
        b"GET /v1/models#part HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: \xff\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na:\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: b\t c \r\n\r\n",
    ],
)
async def test_a_head_that_is_unusual_is_answered(data: bytes) -> None:
    result = await exchange(_app(), [data], num_answers=1)
    assert result.statuses == [200]
    assert result.targets == [("GET", "/v1/models")]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"content-length: 15 \r\n", BODY),
        (b"content-length: 0015\r\n", BODY),
        (CHUNKED, b"f\r\n" + BODY + b"\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: Chunked \r\n", b"00F\r\n" + BODY + b"\r\n000\r\n\r\n"),
        (CHUNKED, b"f;name=value\r\n" + BODY + b"\r\n0;last\r\ntrailer: x\r\n\r\n"),
        (CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    ],
)
async def test_a_body_is_read_and_the_next_request_begins_behind_it(headers: bytes, body: bytes) -> None:
    data = _post(headers, body) + b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    for seed in range(3):
        result = await exchange(_app(), _cut(data, random.Random(seed)), num_answers=2)
        assert result.statuses == [200, 200]
        assert result.targets == [("POST", "/v1/completions"), ("GET", "/v1/models")]


@pytest.mark.parametrize("offer", [b"h2c\r\nhttp2-settings: AAMAAABk", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize(
    ("headers", "body"), [(b"content-length: 15\r\n", BODY), (CHUNKED, b"f\r\n%b\r\n0\r\n\r\n" % BODY)]
)
async def test_an_offer_of_another_protocol_is_declined_and_the_body_read(
    headers: bytes, body: bytes, offer: bytes
) -> None:
    """Java's client makes one with each request that has no connection of HTTP/2 yet."""
    offered = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + offer + b"\r\n" + headers
    for seed in range(3):
        data = _post(offered, body) * 3
        result = await exchange(_app(), _cut(data, random.Random(seed)), num_answers=3)
        assert result.statuses == [200] * 3
        assert not result.is_closed


async def test_an_offer_does_not_hide_what_is_refused() -> None:
    await _refused(
        _post(b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED)
    )


async def test_offers_without_end_are_refused() -> None:
    offer = b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    result = await exchange(_app(), [offer * 1000])
    assert result.reasons == [CloseReason.INVALID]
    assert len(result.targets) < 10


async def test_a_close_ends_the_connection_whatever_comes_behind_it() -> None:
    data = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + SMUGGLED
    result = await exchange(_app(), [data])
    assert (result.statuses, result.targets) == ([200], [("GET", "/v1/models")])


@pytest.mark.parametrize(
    "piece", [b"1;" + b"x" * 60_000 + b"\r\na\r\n", b"1" + b";a=b" * 15_000 + b"\r\na\r\n", b"0" * 60_000]
)
async def test_lines_between_chunks_are_bounded(piece: bytes) -> None:
    """They are no part of the body, and so within none of its limits."""
    result = await exchange(_app(), [_post(CHUNKED), *([piece] * 5)])
    assert (result.statuses, result.reasons) == ([400], [CloseReason.INVALID])


async def test_a_fault_behind_an_answer_gets_no_second_one() -> None:
    """The client would take it for that of its next request."""
    app = make_app(FakeClient(says("x")), api_key=("k",))
    pieces = [_post(CHUNKED), b"", b"", b"", b"", b"", b"", b"", b"", b"zzz\r\n"]
    result = await exchange(app, pieces)
    assert result.statuses == [401]


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(
        st.sampled_from(
            [
                b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n",
                _post(b"content-length: 15\r\n", BODY),
                _post(CHUNKED, b"f\r\n" + BODY + b"\r\n0\r\n\r\n"),
                _post(b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 15\r\n", BODY),
                b"HEAD /live HTTP/1.1\r\nhost: x\r\n\r\n",
            ]
        ),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32),
)
async def test_each_request_has_its_answer_however_the_bytes_are_cut(requests: list[bytes], seed: int) -> None:
    result = await exchange(_app(), _cut(b"".join(requests), random.Random(seed)), num_answers=len(requests))
    assert result.statuses == [200] * len(requests)
    assert not result.is_closed
    assert not result.reasons


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=200) | st.text(alphabet="GET /\r\n:htp1.0x", max_size=200).map(str.encode),
    seed=st.integers(0, 2**32),
)
async def test_any_bytes_are_answered_refused_or_waited_behind(data: bytes, seed: int) -> None:
    result = await exchange(_app(), _cut(data, random.Random(seed)), num_answers=0)
    assert set(result.statuses) <= {200, 400, 404, 405, 431}
