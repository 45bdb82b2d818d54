"""The dashboard's events: for operators, as long as they watch, and at no cost otherwise."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI

from engine.protocol import StepStats
from server.live import feed
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

_PATH = "/dashboard/events"
_ELSEWHERE = ("203.0.113.9", 5000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_INTERVAL_S", 0.01)


def _watch(app: FastAPI, *headers: tuple[bytes, bytes], **options: Any) -> RawRequest:
    return RawRequest(app, _PATH, {}, method="GET", headers=[*DEFAULT_HEADERS, *headers], **options)


def _frames(request: RawRequest) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in request.body.decode().split("\n") if line.startswith("data: ")]


def _has_written(frame: dict[str, Any], num_tokens: int) -> bool:
    return bool(frame["open"]) and frame["open"][0]["output_tokens"] == num_tokens


async def test_a_watcher_sees_steps_and_requests() -> None:
    client = FakeClient(lambda request: [*says("some text")(request)[:3], None])
    app = make_app(client)
    live = app.state.context.live
    async with _watch(app) as watcher, http(app) as api:
        await watcher.until(lambda: bool(_frames(watcher)))
        asked = asyncio.create_task(api.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 9}))
        await watcher.until(lambda: any(_has_written(frame, 3) for frame in _frames(watcher)))
        live.on_step(StepStats(prefill_tokens=5, decode_tokens=2, running=1, step_s=0.01))
        live.on_step(StepStats(decode_tokens=3, running=2, step_s=0.02, blocks_total=9, blocks_used=4, blocks_shared=1))
        await watcher.until(lambda: any(frame["work"]["num_steps"] == 2 for frame in _frames(watcher)))
        asked.cancel()
        await watcher.until(lambda: any(frame["recent"] for frame in _frames(watcher)))
        frames = _frames(watcher)
    (request,) = next(frame["open"] for frame in frames if _has_written(frame, 3))
    assert (request["route"], request["prompt_tokens"], request["output_tokens"]) == ("/v1/completions", 6, 3)
    work = next(frame["work"] for frame in frames if frame["work"]["num_steps"] == 2)
    assert work["steps"] == [[10.0, 5, 2, 1], [20.0, 0, 3, 2]]
    assert (work["prefill_tokens"], work["decode_tokens"], work["running"]) == (5, 5, 2)
    assert work["blocks"] == {"total": 9, "live": 3, "shared": 1, "cached": 0}
    (ended,) = next(frame["recent"] for frame in frames if frame["recent"])
    assert (ended["id"], ended["state"], ended["output_tokens"]) == (request["id"], "aborted", 3)


async def test_nothing_is_counted_or_run_while_nobody_watches() -> None:
    app = make_app(FakeClient(says("x")))
    live = app.state.context.live
    live.on_step(StepStats(decode_tokens=1))
    async with _watch(app) as watcher:
        await watcher.until(lambda: len(_frames(watcher)) > 2)
        watcher.disconnect()
        await watcher.ended()
        assert all(frame["work"]["num_steps"] == 0 for frame in _frames(watcher))
    assert "live-feed" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_watcher_of_an_idle_engine_sees_what_the_last_step_left() -> None:
    app = make_app(FakeClient(says("x")))
    app.state.context.live.on_step(StepStats(decode_tokens=1, blocks_total=9, blocks_cached=4))
    async with _watch(app) as watcher:
        await watcher.until(lambda: len(_frames(watcher)) > 2)
        work = [frame["work"] for frame in _frames(watcher)]
    assert all(each["blocks"] == {"total": 9, "live": 0, "shared": 0, "cached": 4} for each in work)
    assert all(each["decode_tokens"] == 0 for each in work)


async def test_blocks_are_known_before_the_first_step() -> None:
    async with _watch(make_app(FakeClient(says("x")))) as watcher:
        await watcher.until(lambda: bool(_frames(watcher)))
        assert _frames(watcher)[0]["work"]["blocks"] == {"total": 64, "live": 0, "shared": 0, "cached": 0}


async def test_a_slow_watcher_misses_frames_and_holds_nobody_up() -> None:
    app = make_app(FakeClient(says("x")))
    async with _watch(app) as slow, _watch(app) as quick:
        await slow.until(lambda: bool(_frames(slow)))
        slow.pause()
        seen = len(_frames(quick))
        await quick.until(lambda: len(_frames(quick)) > seen + 30)
        before = len(_frames(slow))
        slow.resume()
        await slow.until(lambda: len(_frames(slow)) > before + 1)
        times = [frame["at_ms"] for frame in _frames(slow)]
    assert times == sorted(times)


async def test_a_number_of_frames_ends_by_itself() -> None:
    app = make_app(FakeClient(says("x")))
    async with _watch(app, query="frames=2") as watcher:
        await watcher.ended()
    first, second = _frames(watcher)
    assert (first["interval_s"], second["interval_s"] > 0) == (0, True)
    assert app.state.context.live.num_watchers == 0
    async with _watch(app, query="frames=0") as refused:
        await refused.ended()
    assert refused.status == 400
    assert json.loads(refused.body)["error"]["param"] == "frames"


async def test_it_ends_with_the_server() -> None:
    app = make_app(FakeClient(says("x")))
    async with _watch(app) as watcher:
        await watcher.until(lambda: bool(_frames(watcher)))
        app.state.context.live.close()
        await watcher.ended()


async def test_frames_that_cannot_be_made_end_what_is_watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(FakeClient(says("x")))
    live = app.state.context.live
    async with _watch(app) as first, _watch(app) as second:
        await second.until(lambda: bool(_frames(first) and _frames(second)))
        with monkeypatch.context() as patched:
            patched.setattr(live, "_frame", lambda *_: 1 / 0)
            await first.ended()
            await second.ended()
    assert b'"error"' in first.body
    assert b"ZeroDivision" not in first.body + second.body
    assert "ZeroDivisionError" in caplog.text
    async with _watch(app, query="frames=3") as third:
        await third.ended()
    assert len(_frames(third)) == 3


async def test_watchers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WATCHERS", 1)
    app = make_app(FakeClient(says("x")))
    async with _watch(app) as first:
        await first.until(lambda: bool(_frames(first)))
        async with _watch(app) as second:
            await second.ended()
    assert second.status == 429
    assert second.headers[b"retry-after"] == b"5"
    assert json.loads(second.body)["error"]["code"] == "too_many_watchers"


async def _status(app: FastAPI, *headers: tuple[bytes, bytes], **options: Any) -> int | None:
    async with _watch(app, *headers, **options) as watcher:
        await watcher.until(lambda: watcher.status is not None)
        return watcher.status


async def test_it_is_for_operators() -> None:
    locked, bare = make_app(FakeClient(says("x")), api_key=("key",)), make_app(FakeClient(says("x")))
    assert await _status(locked) == 401
    assert await _status(locked, (b"authorization", b"Bearer key"), client=_ELSEWHERE) == 200
    assert await _status(bare) == 200
    assert await _status(bare, client=_ELSEWHERE) == 403


@pytest.mark.parametrize(
    ("host", "site", "expected"),
    [
        (b"127.0.0.1:8000", b"same-origin", 200),
        (b"localhost:8000", b"same-origin", 200),
        (b"[::1]:8000", b"same-origin", 200),
        (b"evil.example:8000", b"same-origin", 403),  # a name that its owner lets lead to this machine
        (b"127.0.0.1:8000", b"cross-site", 403),
        (b"127.0.0.1:8000", b"same-site", 403),
    ],
)
async def test_of_pages_only_the_servers_own_may_read_it_without_keys(host: bytes, site: bytes, expected: int) -> None:
    app = make_app(FakeClient(says("x")))
    headers = [(b"host", host), (b"sec-fetch-site", site)]
    async with RawRequest(app, _PATH, {}, method="GET", headers=headers) as watcher:
        await watcher.until(lambda: watcher.status is not None)
    assert watcher.status == expected
