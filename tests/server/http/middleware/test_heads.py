"""Heads of requests that are refused."""

import pytest

from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, make_app, says

pytestmark = pytest.mark.fast

TEXT_URL = "/v1/completions"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"a"), (b"host", b"b")], 400),
        ([], 400),
        ([(b"host", b"a"), (b"content-length", b"5"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"host", b"a"), (b"x", b"y" * 70_000)], 431),
        ([(b"host", b"a")] + [(b"x", b"y")] * 300, 431),
    ],
)
async def test_a_malformed_head_is_refused(headers: list[tuple[bytes, bytes]], status: int) -> None:
    request = RawRequest(make_app(FakeClient(says("x"))), TEXT_URL, {"prompt": "a"}, headers=headers)
    async with request:
        await request.ended()
    assert request.status == status


@pytest.mark.parametrize("name", [b"x" * 30_000, b"x"])
async def test_a_request_target_counts_toward_the_head(name: bytes) -> None:
    headers = [(b"host", b"a"), (name, b"y" * 30_000)]
    request = RawRequest(
        make_app(FakeClient(says("x"))), "/live", {}, method="GET", query="q=" * 4_000, headers=headers
    )
    async with request:
        await request.ended()
    assert request.status == (431 if len(name) > 1 else 200)
