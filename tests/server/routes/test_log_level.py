"""The log level while the server runs: for operators, of both processes."""

import logging
import os

import pytest

from engine import process
from engine.child_processes.log_format import LEVEL_VARIABLE
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.protocol import SetLogLevel
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def _info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "info")
    logging.getLogger().setLevel(logging.INFO)


async def test_the_level_is_told_and_changed_for_both_processes(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        assert (await api.get("/log-level")).json() == {"level": "info"}
        for level in ("error", "debug"):
            assert (await api.put("/log-level", json={"level": level})).json() == {"level": level}
            assert (await api.get("/log-level")).json() == {"level": level}
            assert client.log_level == os.environ[LEVEL_VARIABLE] == level  # of the next engine, too
    assert logging.getLogger("server.any").isEnabledFor(logging.DEBUG)
    assert "the log level is debug from now on" in caplog.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"level": "trace"}, "level is 'trace'; it must be 'debug', 'info', 'warning' or 'error'"),
        ({"level": 10}, "level is 10"),
        ({}, "level is missing"),
    ],
)
async def test_another_level_is_refused(body: dict[str, object], message: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = await api.put("/log-level", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert logging.getLogger().level == logging.INFO


async def test_what_is_unknown_is_listed() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = await api.put("/log-level", json={"level": "info", "logger": "engine"})
    assert answer.headers["x-ignored-parameters"] == "logger"


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_it_is_for_operators(method: str) -> None:
    app = make_app(FakeClient(says("x")))
    request = RawRequest(app, "/log-level", {"level": "debug"}, method=method, client=("203.0.113.9", 5000))
    async with request:
        await request.ended()
    assert request.status == 403
    assert logging.getLogger().level == logging.INFO


def test_the_engine_s_client_passes_it_on_and_the_engine_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    client = ProcessClient(EngineConfig(), max_num_waiting=1)
    client.set_log_level("debug")  # while there is no engine
    monkeypatch.setattr(client._supervisor, "_engine", type("Engine", (), {"send": staticmethod(sent.append)}))
    client.set_log_level("debug")
    assert sent == [SetLogLevel("debug")]
    assert process._handle(None, SetLogLevel("debug"), None)  # type: ignore[arg-type]
    assert logging.getLogger().level == logging.DEBUG
