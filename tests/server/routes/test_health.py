"""/live, /ready and /health in every state of the engine, and generation while it is not ready."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from engine.client.interface import EngineState
from engine.errors import StartupError
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.runner import TemplateOverrun
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

PROMPT = {"prompt": "a"}


async def _probe(client: FakeClient, *, draining: bool = False) -> dict[str, Any]:
    """Status and body of each probe."""
    app = make_app(client)
    if draining:
        app.state.context.drain.stop(0.0)
    async with http(app) as api:
        responses = {name: await api.get(f"/{name}") for name in ("live", "ready", "health")}
    return {name: (response.status_code, response.json()) for name, response in responses.items()}


async def test_a_ready_engine_is_fine() -> None:
    probes = await _probe(FakeClient(says("x")))
    assert probes == {name: (200, {"status": "ok"}) for name in ("live", "ready", "health")}


async def test_loading_says_why_and_how_far() -> None:
    client = FakeClient(says("x"))
    client.state, client.reason = EngineState.LOADING, "the model is being loaded: load weights, 40 %"
    client.stage, client.progress = "load weights", 0.4
    probes = await _probe(client)
    expected = (503, {"status": "loading", "reason": client.reason, "stage": "load weights", "progress": 0.4})
    assert probes == {"live": (200, {"status": "ok"}), "ready": expected, "health": expected}


async def test_a_model_is_ready_once_its_chat_template_has_been_tried() -> None:
    class Slow(DirectTemplates):
        def render(self, source: str, variables: Mapping[str, Any]) -> str:
            assert may_render.wait(DEADLINE_S)
            return super().render(source, variables)

    may_render = threading.Event()
    app = make_app(FakeClient(says("x")), templates=Slow())
    model = app.state.context.models.default
    async with http(app) as api:
        task = model.start_text_model(model.client.info.tokenizer)
        for path in ("/ready", "/health"):
            probe = await api.get(path)
            assert (probe.status_code, probe.json()["status"], probe.json()["stage"]) == (
                503,
                "loading",
                "prepare text",
            )
            assert "retry-after" in probe.headers
        assert (await api.get("/live")).status_code == 200
        may_render.set()
        await task
        assert (await api.get("/ready")).status_code == 200


async def test_a_model_whose_chat_template_is_a_bomb_is_never_ready() -> None:
    class Bomb(DirectTemplates):
        def render(self, source: str, variables: Mapping[str, Any]) -> str:  # noqa: ARG002
            raise TemplateOverrun("it ran for more than 5 s")

    app = make_app(FakeClient(says("x")), templates=Bomb())
    model = app.state.context.models.default
    async with http(app) as api:
        with pytest.raises(StartupError, match="cannot render a short chat: it ran for more than 5 s"):
            await model.prepare_text()
        for path in ("/ready", "/health"):
            probe = await api.get(path)
            assert (probe.status_code, probe.json()["status"], "retry-after" in probe.headers) == (503, "failed", False)
        answer = await api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
    assert answer.json()["error"]["message"] == (
        "the model cannot be used until its operator changes it: the chat template cannot render a short chat: it ran "
        "for more than 5 s; give another: --chat-template"
    )
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)


async def test_a_dead_engine_is_unhealthy() -> None:
    client = FakeClient(says("x"))
    client.state, client.reason = EngineState.DEAD, "the engine process ended with exit status -9"
    probes = await _probe(client)
    assert probes["live"][0] == 200
    assert probes["health"] == probes["ready"]
    assert probes["health"] == (503, {"status": "dead", "reason": client.reason, "stage": None, "progress": None})


async def test_draining_fails_ready_and_health() -> None:
    probes = await _probe(FakeClient(says("x")), draining=True)
    assert [probes[name][0] for name in ("live", "ready", "health")] == [200, 503, 503]
    assert probes["ready"][1]["status"] == "draining"


async def test_a_full_queue_fails_ready_alone() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    probes = await _probe(client)
    assert [probes[name][0] for name in ("live", "ready", "health")] == [200, 503, 200]
    assert probes["ready"][1]["status"] == "overloaded"


@pytest.mark.parametrize(("limit", "num_waiting", "status"), [(None, 900, 200), (8, 8, 200), (8, 9, 503), (0, 1, 503)])
async def test_a_long_queue_fails_ready_where_it_should(limit: int | None, num_waiting: int, status: int) -> None:
    client = FakeClient(says("x"))
    client.num_waiting = num_waiting
    async with http(make_app(client, ready_max_waiting=limit)) as api:
        ready = await api.get("/ready")
        assert ready.status_code == status
        if status == 503:
            assert ready.json()["status"] == "overloaded"
            assert ready.json()["reason"] == f"{num_waiting} waiting, more than {limit} (--ready-max-waiting)"
        assert (await api.get("/health")).status_code == 200
        assert (await api.post("/v1/completions", json=PROMPT)).status_code == 200


@pytest.mark.parametrize(("silent_s", "status"), [(59.0, 200), (61.0, 503)])
async def test_an_engine_without_progress_is_unhealthy_after_a_minute(silent_s: float, status: int) -> None:
    client = FakeClient(says("x"))
    client.seconds_since_progress = silent_s
    probes = await _probe(client)
    assert probes["health"][0] == status
    if status == 503:
        assert probes["health"][1]["status"] == "hung"
        assert "61 s" in probes["health"][1]["reason"]
    assert probes["ready"] == probes["health"]


@pytest.mark.parametrize(("timeout_s", "status"), [(5.0, 503), (90.0, 200), (0.0, 503)])
async def test_the_option_says_when_silence_is_a_hang(timeout_s: float, status: int) -> None:
    """0 is never for the watchdog; probes say what they see all the same."""
    client = FakeClient(says("x"))
    client.seconds_since_progress = 61.0
    async with http(make_app(client, engine_hang_timeout=timeout_s)) as api:
        assert (await api.get("/health")).status_code == status


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/v1/models", "/v1/models/org/tiny"])
async def test_probes_and_models_answer_head(path: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.head(path)
    assert response.status_code == 200
    assert response.content == b""


@pytest.mark.parametrize("is_draining", [True, False])
@pytest.mark.parametrize("path", ["/ready", "/health", "/v1/completions"])
async def test_loading_and_draining_say_when_to_come_back(path: str, is_draining: bool) -> None:
    client = FakeClient(says("x"))
    app = make_app(client)
    if is_draining:
        app.state.context.drain.start(0.0)
    client.state = EngineState.READY if is_draining else EngineState.LOADING
    async with http(app) as api:
        response = await (api.post(path, json=PROMPT) if path.startswith("/v1") else api.get(path))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


async def test_a_dead_engine_gives_no_hope_to_probes() -> None:
    client = FakeClient(says("x"))
    client.state = EngineState.DEAD
    async with http(make_app(client)) as api:
        assert "retry-after" not in (await api.get("/health")).headers


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
@pytest.mark.parametrize("state", [EngineState.LOADING, EngineState.DEAD])
async def test_an_engine_that_is_not_ready_is_503(path: str, state: EngineState) -> None:
    client = FakeClient(says("x"))
    client.state, client.reason = state, "the model is being loaded"
    async with http(make_app(client)) as api:
        response = await api.post(path, json=PROMPT)
    assert response.status_code == 503
    assert response.json()["error"] == {
        "message": "the model is being loaded",
        "type": "server_error",
        "param": None,
        "code": "engine_unavailable",
    }


async def test_a_draining_server_admits_nothing_and_closes_connections() -> None:
    app = make_app(FakeClient(says("x")))
    app.state.context.drain.start(0.0)
    async with http(app) as api:
        response = await api.post("/v1/completions", json=PROMPT)
    assert response.status_code == 503
    assert response.headers["connection"] == "close"


async def test_generation_works_once_the_engine_is_ready() -> None:
    client = FakeClient(says("x"))
    client.state = EngineState.LOADING
    async with http(make_app(client)) as api:
        assert (await api.post("/v1/completions", json=PROMPT)).status_code == 503
        assert (await api.get("/v1/models")).json()["data"][0]["max_model_len"] is None
        client.state = EngineState.READY
        assert (await api.post("/v1/completions", json=PROMPT)).json()["choices"][0]["text"] == "x"
