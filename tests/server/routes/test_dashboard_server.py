"""The dashboard's report on the whole server, its settings and its log: for operators alone."""

import asyncio
import contextlib
import dataclasses
import logging
from typing import Any

import httpx2
import msgspec
import pytest
from fastapi import FastAPI

from engine.client.interface import EngineEnd, EngineState, RestartReason
from engine.config import EngineConfig
from engine.protocol import StepStats
from server.batches.running import run_body
from server.commands.lifespan.engines import note_restart
from server.commands.options.in_force import settings_in_force
from server.config.server import ServerConfig
from server.keys.caller import ANYBODY
from server.live.history import NO_KEY
from server.live.log_tail import MAX_LINES, LogTail
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, pooling_client, says
from tests.helpers.keys import bearer, entry, write_keys
from tests.helpers.several import make_several

pytestmark = pytest.mark.fast

_PATHS = ("/dashboard/server", "/dashboard/settings", "/dashboard/log")


def _app(**options: Any) -> FastAPI:
    return make_app(FakeClient(says("Because.")), **options)


async def _report(app: FastAPI) -> Any:
    async with http(app) as api:
        answer = await api.get("/dashboard/server")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    return answer.json()


async def test_a_restart_is_told_with_its_time_and_reason() -> None:
    app = _app()
    context = app.state.context
    note_restart(context, context.models.default, EngineEnd(RestartReason.HANG, "it hung for 60 s", 3, 1))
    report = await _report(app)
    assert [(each["kind"], each["model"], each["detail"]) for each in report["happenings"]] == [
        ("engine_ended", MODEL, "hang"),
        ("started", None, ""),
    ]
    happening = report["happenings"][0]
    assert (happening["cause"], happening["num_continued"], happening["num_failed"]) == ("it hung for 60 s", 3, 1)
    assert report["started_at"] - 1 <= report["happenings"][1]["at_s"] <= report["now"]


async def test_requests_are_counted_by_key(tmp_path: Any) -> None:
    keys = write_keys(tmp_path / "keys.json", entry("ann"), entry("root", admin=True))
    app = _app(api_keys_file=keys)
    async with http(app) as api:
        for model, name in ((MODEL, "ann"), (MODEL, "ann"), ("none", "root")):
            body = {"model": model, "prompt": "Hello", "max_tokens": 20}
            await api.post("/v1/completions", json=body, headers=bearer(name))
        report = (await api.get("/dashboard/server", headers=bearer("root"))).json()
    (minute,) = report["hour"]["buckets"]
    assert (minute["requests"], minute["refused"]) == (3, 1)
    assert (minute["keys"]["ann"]["requests"], minute["keys"]["ann"]["output_tokens"]) == (2, 2 * len("Because."))
    assert (minute["keys"]["root"]["requests"], minute["keys"]["root"]["refused"]) == (1, 1)
    assert report["has_keys"]


async def test_requests_with_an_invalid_key_are_counted_but_not_how_a_page_learns_that_it_needs_one(
    tmp_path: Any,
) -> None:
    app = _app(api_keys_file=write_keys(tmp_path / "keys.json", entry("root", admin=True)))
    async with http(app) as api:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert (await api.get("/v1/models", headers=headers)).status_code == 401
        report = (await api.get("/dashboard/server", headers=bearer("root"))).json()
    (minute,) = report["hour"]["buckets"]
    assert {name: use["refused"] for name, use in minute["keys"].items()} == {NO_KEY: 1}
    assert [(each["route"], each["status"], each["key"]) for each in report["failures"]] == [
        ("/v1/models", 401, NO_KEY)
    ]


async def test_one_more_user_fits_or_not_and_why() -> None:
    app = _app()
    live = app.state.context.live
    for tokens in ({"prefill_tokens": 9}, {"decode_tokens": 1}):
        live.on_step(StepStats(**tokens, running=1, step_s=0.04, blocks_total=64))
    (fit,) = (await _report(app))["fits"]
    assert (fit["reasons"], fit["running"], fit["slots"], fit["gap_s"]) == ([], 1, 8, 0.08)
    for step_s in (0.05, 0.2):  # the first one was for one request
        live.on_step(StepStats(decode_tokens=8, running=8, waiting=2, step_s=step_s, blocks_total=64, blocks_used=60))
    (fit,) = (await _report(app))["fits"]
    assert fit["reasons"] == ["waiting", "slots", "memory", "gap"]
    assert (fit["waiting"], fit["most_quick"], fit["users"]) == (2, 1, None)


async def test_no_user_fits_on_an_engine_that_is_not_ready() -> None:
    client = FakeClient(says("Because."))
    app = make_app(client)
    client.state, client.reason = EngineState.LOADING, "the model is being loaded"
    report = await _report(app)
    assert report["fits"] == []
    assert [(each["state"], each["reason"]) for each in report["models"]] == [("loading", "the model is being loaded")]


async def test_about_how_many_users_fit() -> None:
    app = _app()
    live = app.state.context.live
    async with http(app) as api:
        await api.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 20})
    for _ in range(2):
        live.on_step(StepStats(decode_tokens=3, running=3, step_s=0.05, blocks_total=64))
    (fit,) = (await _report(app))["fits"]
    assert fit["users"] == int(3 * (fit["answer_s"] + 45) / fit["answer_s"])


@pytest.mark.parametrize("path", _PATHS)
async def test_they_are_for_operators(path: str, tmp_path: Any) -> None:
    locked = _app(api_keys_file=write_keys(tmp_path / "keys.json", entry("ann"), entry("root", admin=True)))
    async with http(locked) as api:
        assert (await api.get(path)).status_code == 401
        assert (await api.get(path, headers=bearer("ann"))).status_code == 403
        assert (await api.get(path, headers=bearer("root"))).status_code == 200
    transport = httpx2.ASGITransport(_app(), client=("203.0.113.9", 5000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as elsewhere:
        assert (await elsewhere.get(path)).status_code == 403


async def test_the_figures_of_a_model_are_of_its_own_answers() -> None:
    app = make_several({"a": 1, "b": 1}, 2).app
    async with http(app) as api:
        for model, prompt in (("a", "Hi"), ("b", "Hello you")):
            await api.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 20})
    first, second = (await _report(app))["fits"]
    assert second["prompt_tokens"] - first["prompt_tokens"] == len("Hello you") - len("Hi")
    for fit in (first, second):
        assert fit["request_tokens"] == fit["prompt_tokens"] + fit["output_tokens"]


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://me:pass/word@collector/v1", "http://hidden@collector/v1"),
        ("http://me:pass@word@collector/v1", "http://hidden@collector/v1"),
        ("http://token@collector/v1", "http://hidden@collector/v1"),
        ("http://collector/v1@x", "http://collector/v1@x"),
    ],
)
def test_a_password_with_any_characters_is_hidden(endpoint: str, told: str) -> None:
    server = ServerConfig(otlp_traces_endpoint=endpoint)
    settings = {each.flag: each.value for each in settings_in_force(server, EngineConfig(model="demo"))}
    assert settings["--otlp-traces-endpoint"] == told


def test_settings_hide_secrets() -> None:
    server = ServerConfig(
        api_key=("hunter2", "swordfish"),
        otlp_traces_endpoint="http://me:hunter2@collector/v1/traces",
        port=8123,
        sse_ping_interval=600.0,
    )
    settings = {each.flag: each for each in settings_in_force(server, EngineConfig(model="demo"))}
    assert settings["--api-key"].value == "2 hidden"
    assert settings["--otlp-traces-endpoint"].value == "http://hidden@collector/v1/traces"
    assert (settings["--port"].value, settings["--port"].is_default) == ("8123", False)
    assert settings["--max-num-seqs"].is_default
    assert settings["--sse-ping-interval"].value == "600"
    assert settings["--max-request-bytes"].value.endswith(" bytes")
    told = " ".join(each.value for each in settings.values())
    assert "hunter2" not in told
    assert "swordfish" not in told


async def test_the_log_is_told_from_a_number_on() -> None:
    app = _app()
    tail: LogTail = app.state.context.log
    for number in range(3):
        tail.handle(logging.LogRecord("server.x", logging.WARNING, "f", 1, "line %d", (number,), None))
    async with http(app) as api:
        first = (await api.get("/dashboard/log")).json()
        rest = (await api.get("/dashboard/log?after=2")).json()
        assert (await api.get("/dashboard/log?after=x")).status_code == 400
    assert [each["message"] for each in first["lines"]] == ["line 0", "line 1", "line 2"]
    assert [(each["number"], each["level"], each["logger"]) for each in rest["lines"]] == [(3, "warning", "server.x")]
    assert rest["began_s"] == first["began_s"]


def test_the_kept_log_is_bounded() -> None:
    tail = LogTail()
    for number in range(2 * MAX_LINES):
        tail.handle(logging.LogRecord("x", logging.INFO, "f", 1, f"{number} " + "long " * 1000, (), None))
    lines = tail.after(0).lines
    assert (len(lines), lines[-1].number) == (MAX_LINES, 2 * MAX_LINES)
    assert max(len(each.message) for each in lines) == 2000


def test_a_traceback_is_kept_with_its_line() -> None:
    tail = LogTail()
    try:
        raise ValueError("this")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), (ValueError, error, error.__traceback__))
        tail.handle(record)
    (line,) = tail.after(0).lines
    assert line.message.startswith("failed\nTraceback")
    assert line.message.endswith("ValueError: this")


def test_a_wrong_call_of_the_logger_does_not_fail_its_caller(capsys: pytest.CaptureFixture[str]) -> None:
    tail = LogTail()
    tail.handle(logging.LogRecord("x", logging.INFO, "f", 1, "%d lines", ("no number",), None))
    assert "Logging error" in capsys.readouterr().err
    tail.handle(logging.LogRecord("x", logging.INFO, "f", 1, "next", (), None))
    assert [each.message for each in tail.after(0).lines] == ["next"]


async def test_the_lines_of_batches_in_an_engine_are_told_with_their_rate() -> None:
    app = _app()
    live = app.state.context.live

    async def told() -> tuple[int, int, float]:
        (model,) = (await _report(app))["models"]
        return model["batch_running"], model["batch_paused"], model["batch_tokens_per_s"]

    live.on_step(StepStats(batch_decode_tokens=4, running_batch=4, step_s=0.02))
    assert await told() == (4, 0, pytest.approx(200.0))
    live.on_step(StepStats(decode_tokens=1, running=1, paused_batch=4, step_s=0.02))
    assert await told() == (0, 4, 0.0)


async def test_embeddings_are_told_although_their_steps_end_with_nothing_that_runs() -> None:
    client = pooling_client()
    client.pool_gate = asyncio.Event()
    app = make_app(client)
    live = app.state.context.live
    live.on_step(StepStats(pooled_tokens=30, pooled_requests=20))
    async with http(app) as api:
        asking = asyncio.create_task(api.post("/v1/embeddings", json={"input": "Hello"}))
        while not live.requests.num_open:
            await asyncio.sleep(0)
        (model,) = (await _report(app))["models"]
        assert (model["texts_open"], model["texts_per_s"], model["batch_running"]) == (1, 2.0, 0)
        async with contextlib.aclosing(live.watch(1)) as frames:
            frame = msgspec.json.decode(await anext(frames))
        assert (frame["is_pooling"], frame["work"]["running"]) == (True, 1)
        client.pool_gate.set()
        await asking


async def test_what_each_key_has_open_is_told_with_its_lines_of_batches_apart() -> None:
    app = make_app(FakeClient(lambda _: [None]))
    context = app.state.context
    async with http(app) as api:
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 9}
        asking = asyncio.create_task(api.post("/v1/completions", json=body))
        line = asyncio.create_task(run_body(context, dataclasses.replace(ANYBODY, name="ann"), "/v1/completions", body))
        while context.live.requests.num_open < 2:
            await asyncio.sleep(0)
        report = await _report(app)
        for each in (asking, line):
            each.cancel()
        await asyncio.gather(asking, line, return_exceptions=True)
    assert sorted((each["key"], each["is_batch"], each["requests"]) for each in report["open"]) == [
        ("", False, 1),
        ("ann", True, 1),
    ]
