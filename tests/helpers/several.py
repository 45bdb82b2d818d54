"""An application with several models that come and go, whose engines are fakes that say their model's name."""

import asyncio
import dataclasses
from collections import Counter
from dataclasses import dataclass, field

from fastapi import FastAPI

from engine.client.interface import EngineState
from engine.config import EngineConfig, LoadFormat
from engine.errors import StartupError
from engine.protocol import EngineInfo
from server.app import create_app
from server.config.models import ModelEntry, ModelsConfig
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.served.engine_slot import EngineSlot
from server.served.loadable_model import LoadableModel
from server.served.model_loader import ManagedEngine, ModelLoader
from tests.helpers.fake_client import FakeClient, engine_info, says


class FakeEngine(FakeClient):
    """A FakeClient with an engine's life, which the test goes through."""

    def __init__(self, name: str, info: EngineInfo | None = None) -> None:
        super().__init__(says(name), info or engine_info(prefill_seconds_per_token=0.5))
        self.state, self.reason = EngineState.LOADING, "the model is being loaded"
        self.may_load = asyncio.Event()
        self.failure: str | Exception | None = None  # of its start
        self.has_stopped = False
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Nothing."""

    async def wait_ready(self) -> EngineInfo:
        await self.may_load.wait()
        if self.failure is not None:
            raise StartupError(self.failure) if isinstance(self.failure, str) else self.failure
        self.state, self.reason = EngineState.READY, ""
        return self.info

    async def wait_dead(self) -> str:
        return await self._dead

    def die(self, reason: str) -> None:
        self.state, self.reason = EngineState.DEAD, reason
        self._dead.set_result(reason)

    async def stop(self) -> None:
        self.has_stopped = True


@dataclass
class Several:
    """loads_at_once: engines are ready as soon as they are started."""

    app: FastAPI
    loader: ModelLoader
    loads_at_once: bool = True
    engines: dict[str, list[FakeEngine]] = field(default_factory=dict)  # each model's, the last one last
    num_loads: Counter[str] = field(default_factory=Counter)
    infos: dict[str, EngineInfo] = field(default_factory=dict)  # of engines that differ from the others

    def engine(self, name: str) -> FakeEngine:
        return self.engines[name][-1]

    def make_engine(self, name: str) -> FakeEngine:
        engine = FakeEngine(name, self.infos.get(name))
        if self.loads_at_once:
            engine.may_load.set()
        self.engines.setdefault(name, []).append(engine)
        self.num_loads[name] += 1
        return engine


def make_several(
    needs: dict[str, int],
    limit: int,
    *,
    pinned: tuple[str, ...] = (),
    load_timeout_s: float = 30.0,
    enable_lora: bool = False,
    load_format: LoadFormat = LoadFormat.AUTO,
    **options: object,
) -> Several:
    """Return a server of models that need the given memory, none of them loaded. options: of ServerConfig."""
    shared = EngineConfig(enable_lora=enable_lora, load_format=load_format)
    entries = tuple(ModelEntry((name,), dataclasses.replace(shared, model=f"/models/{name}")) for name in needs)
    config = ServerConfig(models=ModelsConfig(entries, load_on_demand=True), **options)  # type: ignore[arg-type]
    slots = {name: EngineSlot() for name in needs}
    app = create_app(slots, config, entries[0].engine, Metrics(entries[0].name))
    models = {model.name: model for model in app.state.context.models}
    several: Several

    def managed(name: str) -> ManagedEngine:
        loadable = LoadableModel(name, needs[name], config.max_num_waiting, is_pinned=name in pinned)
        return ManagedEngine(loadable, slots[name], lambda: several.make_engine(name), models[name].prepare_text)

    loader = ModelLoader({name: managed(name) for name in needs}, {"cpu": limit}, load_timeout_s=load_timeout_s)
    several = Several(app, loader)
    for model in models.values():
        model.loader = loader
    app.state.context.models.have_started = True
    return several
