"""ServerLife: the application's lifespan starts and ends what a server needs, wherever the application runs."""

import logging
from collections.abc import Mapping

import pytest
from fastapi import FastAPI

from engine.client.interface import EngineClient
from engine.config import EngineConfig
from engine.errors import EngineUnavailable
from server.commands.lifespan import lifespan
from server.commands.lifespan.lifespan import ServerLife
from server.config.server import ServerConfig
from server.context import ServerContext
from server.store.opening import open_store
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers.fake_client import MODEL, FakeClient, says

pytestmark = pytest.mark.fast


class Templates(DirectTemplates):
    def begin(self) -> None: ...


class RecordedEngines:
    """Engines of one model that record what happens to them."""

    label = MODEL

    def __init__(self) -> None:
        self.context: ServerContext | None = None
        self.clients: Mapping[str, EngineClient] = {MODEL: FakeClient(says("x"))}
        self.events: list[str] = []

    async def start(self) -> None:
        self.events.append("start")

    async def wait_loaded(self) -> None:
        self.events.append("load")

    async def stop(self) -> None:
        assert self.context is not None
        with pytest.raises(EngineUnavailable):
            self.context.drain.check()
        self.events.append("stop")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> RecordedEngines:
    recorded = RecordedEngines()
    monkeypatch.setattr(lifespan, "engines_of", lambda *_: recorded)
    monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers])  # the application adds one
    return recorded


def make_life(store: object) -> tuple[ServerLife, FastAPI]:
    config = ServerConfig(served_model_name=(MODEL,))
    life = ServerLife(config, EngineConfig(model=MODEL), store, Templates(), 0.0)  # type: ignore[arg-type]
    return life, life.create_app()


async def test_lifespan_starts_engines_without_waiting_and_ends_requests_before_its_end(
    engines: RecordedEngines,
) -> None:
    with open_store(ServerConfig()) as store:
        life, app = make_life(store)
        async with app.router.lifespan_context(app):
            assert engines.events == ["start"]
            life.context.drain.check()
    assert engines.events == ["start", "stop"]


async def test_engines_start_and_stop_once_if_the_server_is_ahead_of_the_lifespan(engines: RecordedEngines) -> None:
    with open_store(ServerConfig()) as store:
        life, app = make_life(store)
        await life.start_engines()
        async with app.router.lifespan_context(app):
            await life.end_requests()
            assert engines.events == ["start", "stop"]
    assert engines.events == ["start", "stop"]


async def test_background_work_ends_with_the_lifespan(engines: RecordedEngines) -> None:
    with open_store(ServerConfig()) as store:
        life, app = make_life(store)
        async with app.router.lifespan_context(app):
            assert await life.context.workers.run(lambda: 2, size=0) == 2
        with pytest.raises(RuntimeError, match="shutdown"):
            await life.context.workers.run(lambda: 2, size=0)
    assert engines.events == ["start", "stop"]
