"""Bodies that are refused before their fields are read."""

import gzip
from typing import Any

import pytest

from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.refusals import check_refusal

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"prompt": "a", "\\udc00": 1}', "not valid JSON"),
        (b'{"prompt": ' + b"[" * 60_000, "the limit is 64"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(content: bytes, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        check_refusal(await api.post(TEXT_URL, content=content, headers=JSON), 400, None, part)


@pytest.mark.parametrize(
    ("content", "param", "part"),
    [
        (b'{"prompt": "a", "temperature": NaN}', "temperature", "temperature is NaN"),
        (b'{"prompt": "a", "temperature": 1e999}', "temperature", "temperature is 1e999"),
        (b'{"prompt": "\\ud800 lone"}', "prompt", "lone surrogate \\ud800"),
        (b'{"prompt": "\xff"}', "prompt", "byte 0xff at position 12"),
    ],
)
async def test_a_value_that_is_no_json_is_named(content: bytes, param: str, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        check_refusal(await api.post(TEXT_URL, content=content, headers=JSON), 400, param, part)


@pytest.mark.parametrize("depth", [70, 500, 700, 980])
@pytest.mark.parametrize("path", [CHAT_URL, "/tokenize"])
@pytest.mark.parametrize("place", ["message", "chat_template_kwargs"])
async def test_deep_nesting_is_refused_before_anything_walks_it(
    depth: int, path: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    nested = b"[" * depth + b"]" * depth
    extra = b', "chat_template_kwargs": {"a": %b}' % nested if place == "chat_template_kwargs" else b""
    in_message = b', "a": %b' % nested if place == "message" else b""
    content = b'{"messages": [{"role": "user", "content": "hi"%b}]%b}' % (in_message, extra)
    async with http(make_app(FakeClient(says("x")))) as api:
        check_refusal(await api.post(path, content=content, headers=JSON), 400, None, "the limit is 64")
    assert not caplog.records


@pytest.mark.parametrize("browser", [{"origin": "https://page.example"}, {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused_from_a_page(content_type: str, browser: dict[str, str]) -> None:
    headers = {"content-type": content_type, **browser}
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": "a"}', headers=headers)
    check_refusal(response, 400, None, "must be application/json")


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/x-www-form-urlencoded"}])
async def test_programs_need_not_name_the_content_type(headers: dict[str, str]) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == 200


async def test_an_encoded_body_is_refused_and_one_that_says_it_is_not_is_read() -> None:
    packed = gzip.compress(b'{"prompt": "a"}')
    async with http(make_app(FakeClient(says("x")))) as api:
        refused = await api.post(TEXT_URL, content=packed, headers={**JSON, "content-encoding": "gzip"})
        read = await api.post(TEXT_URL, json={"prompt": "a"}, headers={"content-encoding": "UTF-8"})
    check_refusal(refused, 400, None, "the content-encoding is 'gzip'")
    assert read.status_code == 200


async def test_a_body_beyond_the_limit_is_not_read() -> None:
    async with http(make_app(FakeClient(says("x")), max_request_bytes=100)) as api:
        announced = await api.post(TEXT_URL, json={"prompt": "x" * 100})
        chunked = await api.post(TEXT_URL, content=_chunks(), headers=JSON)
    for response in (announced, chunked):
        check_refusal(response, 413, None, "more than 100 bytes")
        assert response.headers["connection"] == "close"


async def _chunks() -> Any:
    for _ in range(20):
        yield b"x" * 10


async def test_a_body_that_does_not_come_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.body._BODY_TIMEOUT_S", 0.01)
    request = RawRequest(make_app(FakeClient(says("x"))), TEXT_URL, {"prompt": "a"})
    request.truncate_body()
    async with request:
        await request.ended()
    assert request.status == 408
    assert b'"request_timeout"' in request.body


async def test_a_body_that_is_not_json_is_told_once() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": oops}', headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "the body is not valid JSON: invalid character (byte 11)"
