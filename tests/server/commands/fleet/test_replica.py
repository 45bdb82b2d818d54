"""ReplicaServer: a whole server whose health is its engine's, and whose lifespan waits for its models."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from engine.client.fork_server import ForkServer
from engine.client.interface import EngineClient, EngineState
from engine.config import EngineConfig
from engine.errors import EngineUnavailable, StartupError
from server.commands.fleet import replica as module
from server.commands.fleet.replica import ReplicaServer
from server.commands.fleet.scaling import BUSY_SHARE, QUEUED_TOKENS
from server.commands.lifespan import lifespan
from server.config.server import ServerConfig
from server.context import ServerContext
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers.fake_client import MODEL, FakeClient, says

pytestmark = pytest.mark.fast


class Templates(DirectTemplates):
    def begin(self) -> None: ...
    def close(self) -> None: ...


class FakeEngines:
    label = MODEL

    def __init__(self, client: FakeClient) -> None:
        self.context: ServerContext | None = None
        self.clients: Mapping[str, EngineClient] = {MODEL: client}
        self.failure: StartupError | None = None
        self.is_stopped = False
        self.died = asyncio.Event()

    async def start(self) -> None: ...

    async def wait_loaded(self) -> Any:
        if self.failure is not None:
            raise self.failure
        assert self.context is not None
        return await self.context.models.default.text_model()

    async def wait_dead(self) -> str:
        await self.died.wait()
        return "the engine died too often"

    async def stop(self) -> None:
        self.is_stopped = True


class Replicas:
    """Makes replicas around fake engines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(module, "TemplateProcesses", Templates)
        monkeypatch.setattr(ForkServer, "begin", lambda *_: None)
        monkeypatch.setattr(module, "configure_logging", lambda *_: None)
        monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers])

    def make(self, engines: FakeEngines, **options: Any) -> ReplicaServer:
        self._monkeypatch.setattr(lifespan, "engines_of", lambda *_: engines)
        config = ServerConfig(served_model_name=(MODEL,), **options)
        return ReplicaServer(config, EngineConfig(model=MODEL))


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Replicas:
    return Replicas(monkeypatch)


@contextlib.asynccontextmanager
async def living(replica: ReplicaServer) -> AsyncIterator[None]:
    """The lifespan, as a host of the application runs it."""
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(replica({"type": "lifespan", "state": {}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await running


def ask(replica: ReplicaServer, client: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(replica, client=(client, 5))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def test_a_replica_answers_and_ends_its_engine_with_its_lifespan(replicas: Replicas) -> None:
    engines = FakeEngines(FakeClient(says("x")))
    replica = replicas.make(engines)
    async with living(replica), ask(replica) as api:
        await replica.check_health()
        response = await api.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert response.status_code == 200
    assert engines.is_stopped


@pytest.mark.parametrize("state", [EngineState.LOADING, EngineState.DEAD])
async def test_a_replica_without_a_ready_engine_is_unhealthy_until_it_has_one(
    replicas: Replicas, state: EngineState
) -> None:
    client = FakeClient(says("x"))
    replica = replicas.make(FakeEngines(client))
    async with living(replica):
        client.state = state
        with pytest.raises(EngineUnavailable):
            await replica.check_health()
        client.state = EngineState.READY
        await replica.check_health()


async def test_a_model_that_cannot_be_loaded_is_the_reason_of_its_health(replicas: Replicas) -> None:
    engines = FakeEngines(FakeClient(says("x")))
    engines.failure = StartupError("the file ends too early")
    replica = replicas.make(engines)
    async with living(replica):
        with pytest.raises(StartupError, match="the file ends too early"):
            await replica.check_health()


async def test_a_replica_whose_engine_died_for_good_ends_its_process(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()
    monkeypatch.setattr(os, "_exit", codes.put_nowait)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    engines = FakeEngines(FakeClient(says("x")))
    async with living(replicas.make(engines)):
        engines.died.set()
        assert await codes.get() == 1


async def test_reports_name_queued_tokens_and_the_share_of_running_places(replicas: Replicas) -> None:
    replica = replicas.make(FakeEngines(FakeClient(says("x"))))
    async with living(replica):
        assert await replica.record_autoscaling_stats() == {QUEUED_TOKENS: 0.0, BUSY_SHARE: 0.0}


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("0.0.0.0", 403)])
async def test_clients_of_a_front_that_others_reach_are_no_operators(
    replicas: Replicas, host: str, status: int
) -> None:
    replica = replicas.make(FakeEngines(FakeClient(says("x"))), host=host)
    async with living(replica), ask(replica) as api:
        assert (await api.get("/dashboard/settings")).status_code == status


async def test_a_local_page_with_a_foreign_name_is_refused(replicas: Replicas) -> None:
    replica = replicas.make(FakeEngines(FakeClient(says("x"))))
    async with living(replica), ask(replica) as api:
        assert (await api.get("/v1/models", headers={"host": "evil.example"})).status_code == 421
