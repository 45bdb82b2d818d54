"""The start of a server with several models: their memory, which of them are loaded, and what is refused."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import pytest

from engine.command_io.weighing import Weighed
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.protocol import AdapterInfo, Loading
from server.app import create_app
from server.commands.lifespan import several_engines
from server.commands.lifespan.engines import OneEngine
from server.commands.lifespan.several_engines import SeveralEngines, engines_of
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.served.loadable_model import ModelState
from server.served.model import ServedModel
from tests.helpers.fake_client import http
from tests.helpers.several import FakeEngine

pytestmark = pytest.mark.fast

GIB = 1 << 30


class _Machine:
    """The processes that are started, none of them real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weighed = Weighed(
            weight_bytes=2 * GIB, least_kv_bytes=GIB // 4, most_kv_bytes=99 * GIB, free_bytes=20 * GIB
        )
        self.failures: dict[str, Weighed] = {}
        self.broken: set[str] = set()  # models that cannot be loaded
        self.configs: list[EngineConfig] = []
        self.engines: list[FakeEngine] = []
        self.loads_at_once = True
        self.adapters: dict[str, AdapterInfo | Exception] = {}  # of each engine
        monkeypatch.setattr(several_engines, "_weigh", self._weigh)
        monkeypatch.setattr(several_engines, "engine_client", self._client)

    async def _weigh(self, configs: Sequence[EngineConfig], show: Callable[[Loading], None]) -> list[Weighed]:
        show(Loading("look", 1, 1, "file"))
        return [self.failures.get(config.model, self.weighed) for config in configs]

    def _client(self, server: ServerConfig, config: EngineConfig, *_: object) -> FakeEngine:
        assert server.max_num_waiting == 1024
        self.configs.append(config)
        engine = FakeEngine(config.model)
        engine.failure = "its file is damaged" if config.model in self.broken else None
        engine.adapters = self.adapters
        if self.loads_at_once:
            engine.may_load.set()
        self.engines.append(engine)
        return engine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(monkeypatch)


def _engines(*entries: ModelEntry, lora: tuple[str, ...] = (), **options: object) -> SeveralEngines:
    config = ServerConfig(models=ModelsConfig(entries, **options), lora=LoraConfig(lora))  # type: ignore[arg-type]
    metrics = Metrics(entries[0].name)
    engines = engines_of(config, entries[0].engine, metrics, 0.0)
    assert isinstance(engines, SeveralEngines)
    engines.context = create_app(engines.clients, config, entries[0].engine, metrics).state.context
    return engines


def _entry(name: str, **options: object) -> ModelEntry:
    return ModelEntry((name,), EngineConfig(model=name), **options)  # type: ignore[arg-type]


def _states(engines: SeveralEngines) -> list[ModelState]:
    assert engines.context is not None
    return [model.state for model in engines.context.models]


async def test_all_are_loaded_with_their_part_of_the_memory(machine: _Machine) -> None:
    engines = _engines(_entry("a", kv_share=3.0), _entry("b"), models_memory=12 * GIB)
    await engines.start()
    await engines.wait_loaded()
    assert _states(engines) == [ModelState.LOADED] * 2
    first, second = (config.kv_cache_memory_bytes or 0 for config in machine.configs)
    assert first > 2 * second > 0
    assert engines.context is not None
    assert engines.context.models.have_started
    await engines.stop()


async def test_a_model_that_pools_texts_is_given_no_kv_cache(machine: _Machine) -> None:
    machine.failures["b"] = Weighed(
        weight_bytes=GIB, least_kv_bytes=GIB // 8, most_kv_bytes=GIB // 8, free_bytes=20 * GIB, has_kv_cache=False
    )
    engines = _engines(_entry("a"), _entry("b"))
    await engines.start()
    await engines.wait_loaded()
    assert _states(engines) == [ModelState.LOADED] * 2
    assert [config.kv_cache_memory_bytes is None for config in machine.configs] == [False, True]
    await engines.stop()


async def test_options_of_all_that_need_generated_text_do_not_apply_to_a_model_that_pools_texts(
    machine: _Machine,
) -> None:
    pooling = Weighed(
        weight_bytes=GIB, least_kv_bytes=GIB // 8, most_kv_bytes=GIB // 8, free_bytes=20 * GIB, has_kv_cache=False
    )
    machine.failures |= {"b": pooling, "c": pooling}
    options = EngineConfig(model="a", enable_lora=True, kv_cache_memory_bytes=GIB, max_num_seqs=8)
    own = dataclasses.replace(options, model="c")
    engines = _engines(
        ModelEntry(("a",), options),
        ModelEntry(("b",), dataclasses.replace(options, model="b")),
        ModelEntry(("c",), own, own_options=frozenset(["enable_lora"])),
    )
    await engines.start()
    await engines.wait_loaded()
    first, second, third = machine.configs
    assert first.generating_options() == ["enable_lora", "kv_cache_memory_bytes"]
    assert second == EngineConfig(model="b", max_num_seqs=8)
    assert third.generating_options() == ["enable_lora"]  # its own, which its engine refuses
    await engines.stop()


async def test_a_context_that_a_pooling_model_does_not_take_is_lowered_and_said(
    machine: _Machine, caplog: pytest.LogCaptureFixture
) -> None:
    pooling = msgspec.structs.replace(machine.weighed, has_kv_cache=False, longest=512)
    machine.failures |= {"b": pooling}
    entries = [ModelEntry((name,), EngineConfig(model=name, max_model_len=8192)) for name in "ab"]
    engines = _engines(*entries)
    with caplog.at_level("INFO"):
        await engines.wait_loaded()
    assert [config.max_model_len for config in machine.configs] == [8192, 512]
    assert "b takes texts of up to 512 tokens, fewer than --max-model-len 8192" in caplog.text
    await engines.stop()
    own = dataclasses.replace(entries[1], own_options=frozenset(["max_model_len"]))
    with pytest.raises(OptionError, match=r"^b: max_model_len is 8,192; this model takes texts of up to 512 tokens"):
        await _engines(entries[0], own).wait_loaded()


def _chat_and_embedding(machine: _Machine, *modules: str) -> SeveralEngines:
    """Engines of the models a and b, which --enable-lora is given for; b pools texts."""
    machine.failures["b"] = Weighed(
        weight_bytes=GIB, least_kv_bytes=GIB // 8, most_kv_bytes=GIB // 8, free_bytes=20 * GIB, has_kv_cache=False
    )
    entries = (ModelEntry((name,), EngineConfig(model=name, enable_lora=True)) for name in "ab")
    return _engines(*entries, lora=modules)


async def test_adapters_are_for_the_only_model_that_generates_text(machine: _Machine) -> None:
    engines = _chat_and_embedding(machine, "sql=/adapters/sql")
    assert engines.context is not None
    models = engines.context.models
    machine.adapters["sql"] = AdapterInfo(digest=b"S", rank=8, num_bytes=1)
    await engines.wait_loaded()
    assert [model.has_adapters for model in models] == [True, False]
    assert models.base_model(None).name == "a"
    adapter = models.adapters.current("sql")
    assert (adapter.base_name, adapter.info) == ("a", machine.adapters["sql"])
    await engines.stop()


async def test_an_adapter_for_a_model_that_pools_texts_ends_the_start(machine: _Machine) -> None:
    engines = _chat_and_embedding(machine, '{"name": "sql", "path": "/adapters/sql", "base_model_name": "b"}')
    with pytest.raises(OptionError, match="--lora-modules sql: base_model_name is 'b'; models that can have adapters"):
        await engines.wait_loaded()
    assert not machine.configs
    await engines.stop()


async def test_an_adapter_that_may_be_of_two_models_ends_the_start(machine: _Machine) -> None:
    entries = (ModelEntry((name,), EngineConfig(model=name, enable_lora=True)) for name in "ab")
    engines = _engines(*entries, lora=("sql=/adapters/sql",))
    with pytest.raises(OptionError, match="--lora-modules sql: base_model_name is missing"):
        await engines.wait_loaded()
    assert not machine.configs
    await engines.stop()


async def test_on_demand_the_pinned_ones_are_loaded_or_else_the_first(machine: _Machine) -> None:
    for entries, loaded in (
        ((_entry("a"), _entry("b")), ["a"]),
        ((_entry("a"), _entry("b", is_pinned=True)), ["b"]),
    ):
        machine.configs.clear()
        engines = _engines(*entries, load_on_demand=True)
        await engines.wait_loaded()
        assert [config.model for config in machine.configs] == loaded
        await engines.stop()


async def test_a_start_ends_though_its_model_goes_at_once_for_a_request(machine: _Machine) -> None:
    engines = _engines(_entry("a"), _entry("b"), load_on_demand=True, models_memory=4 * GIB)
    context = engines.context
    assert context is not None
    machine.loads_at_once = False
    starting = asyncio.create_task(engines.wait_loaded())
    async with asyncio.timeout(20):
        while not machine.engines:
            await asyncio.sleep(0)
        machine.loads_at_once = True
        model = context.models.find("b")
        using = asyncio.create_task(_use(model))
        while not (model.loadable and model.loadable.waiters):
            await asyncio.sleep(0)
        machine.engines[0].may_load.set()
        await starting
        await using
    assert context.models.have_started
    await engines.stop()


async def _use(model: ServedModel) -> None:
    async with model.in_use():
        pass


async def test_before_the_memory_is_known_operators_are_told_to_wait(machine: _Machine) -> None:
    del machine  # nothing is started
    config = ServerConfig(models=ModelsConfig((_entry("a"), _entry("b"))))
    engines = SeveralEngines(config.models.entries, config)
    async with http(create_app(engines.clients, config, EngineConfig(model="a"), Metrics("a"))) as api:
        answer = await api.post("/v1/models/a/load")
    assert answer.status_code == 503
    assert "finding out how much memory" in answer.json()["error"]["message"]


async def test_models_that_do_not_fit_are_refused_before_any_is_loaded(machine: _Machine) -> None:
    engines = _engines(_entry("a"), _entry("b"), models_memory=5 * GIB)
    with pytest.raises(StartupError, match=r"the models need 5.50 GiB together and may have 5.00 GiB"):
        await engines.wait_loaded()
    assert not machine.configs
    await engines.stop()


@pytest.mark.parametrize(("is_option", "kind"), [(False, StartupError), (True, OptionError)])
async def test_a_model_that_cannot_be_looked_at_ends_the_start(
    machine: _Machine, is_option: bool, kind: type[Exception]
) -> None:
    machine.failures["b"] = Weighed(failure="there is no such file", is_option=is_option)
    engines = _engines(_entry("a"), _entry("b"))
    with pytest.raises(kind, match="b: there is no such file") as refused:
        await engines.wait_loaded()
    assert isinstance(refused.value, OptionError) == is_option
    await engines.stop()


async def test_one_that_fails_leaves_the_others_and_the_failure_of_all_ends_the_start(machine: _Machine) -> None:
    machine.broken = {"a"}
    engines = _engines(_entry("a"), _entry("b"))
    await engines.wait_loaded()
    assert _states(engines) == [ModelState.FAILED, ModelState.LOADED]
    await engines.stop()
    machine.broken = {"a", "b"}
    engines = _engines(_entry("a"), _entry("b"))
    with pytest.raises(StartupError, match="a: its file is damaged; b: its file is damaged"):
        await engines.wait_loaded()
    await engines.stop()


async def test_one_model_comes_and_goes_with_all_of_the_memory(machine: _Machine) -> None:
    config = ServerConfig(models=ModelsConfig(idle_unload=1.0))
    engines = engines_of(config, EngineConfig(model="m"), Metrics("m"), 0.0)
    assert isinstance(engines, SeveralEngines)
    engines.context = create_app(engines.clients, config, EngineConfig(model="m"), Metrics("m")).state.context
    await engines.wait_loaded()
    assert _states(engines) == [ModelState.LOADED]
    assert machine.configs[0].kv_cache_memory_bytes is None
    await engines.stop()


async def test_one_model_that_stays_has_no_part_in_this() -> None:
    assert isinstance(engines_of(ServerConfig(), EngineConfig(model="m"), Metrics("m"), 0.0), OneEngine)


async def test_a_stop_while_a_model_loads_ends_it(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[FakeEngine] = []

    def make(*_: object) -> FakeEngine:
        started.append(FakeEngine("a"))  # which is never ready
        return started[-1]

    monkeypatch.setattr(several_engines, "engine_client", make)
    engines = _engines(_entry("a"), _entry("b"))
    loading = asyncio.create_task(engines.wait_loaded())
    async with asyncio.timeout(20):
        while not started:
            await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await engines.stop()
    assert started[0].has_stopped
    assert machine.configs == []
