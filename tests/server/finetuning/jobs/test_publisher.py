"""Adapters of jobs under their names: at once where the model is loaded, with the model where it is not."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from engine.client.interface import EngineState
from engine.errors import AdapterUnusable, EngineStopped, EngineUnavailable, QueueFull
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuningRecord
from server.served.loadable_model import LoadableModel, ModelState
from tests.helpers.deadline import until
from tests.helpers.fake_client import MODEL, make_app
from tests.helpers.fake_trainer import no_time, trained_client
from tests.helpers.several import make_several

pytestmark = pytest.mark.fast

RECORD = FinetuningRecord(
    id="ftjob-1",
    owner="me",
    created_at=1,
    model=MODEL,
    base_model=MODEL,
    training_file="file-1",
    name="ft:tiny:headrace::1",
)


class _Loader:
    """Of a model in one state; counts who has used it."""

    def __init__(self, state: ModelState) -> None:
        self._model = LoadableModel(MODEL, 0, 10)
        self._model.state = state
        self.num_acquired = 0

    def model(self, _name: str) -> LoadableModel:
        return self._model

    async def acquire(self, _name: str, *, is_batch: bool = False) -> None:  # noqa: ARG002
        self.num_acquired += 1

    def release(self, _name: str, *, is_batch: bool = False) -> None:
        """Nothing."""


def _publisher(app: FastAPI) -> Publisher:
    context = app.state.context
    return Publisher(context.models, context.config.data_dir, sleep=no_time)


def _served(app: FastAPI) -> dict[str, Any]:
    return {each.name: each for each in app.state.context.models.adapters}


async def test_an_adapter_is_served_at_once(app: FastAPI) -> None:
    assert await _publisher(app).publish(RECORD) is None
    adapter = _served(app)[RECORD.name]
    assert adapter.info is not None
    assert (adapter.owner, adapter.base_name) == ("me", MODEL)


async def test_the_job_of_a_model_that_was_named_by_its_path_is_served_by_the_models_name(tmp_path: Path) -> None:
    app = make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path), served_model_name=())
    assert await _publisher(app).publish(RECORD) is None
    assert _served(app)[RECORD.name].base_name == "tiny"
    _publisher(app).withdraw(RECORD)
    assert RECORD.name not in _served(app)


async def test_a_checkpoint_has_a_name_of_its_own(app: FastAPI) -> None:
    assert await _publisher(app).publish(RECORD, 5) is None
    assert _served(app)[f"{RECORD.name}:ckpt-step-5"].path.endswith("ftjob-1/checkpoints/step-5")


async def test_a_model_that_is_not_loaded_gets_it_later(app: FastAPI) -> None:
    model = app.state.context.models.default
    model.loader = loader = _Loader(ModelState.UNLOADED)
    assert await _publisher(app).publish(RECORD) is None
    assert _served(app)[RECORD.name].info is None
    assert loader.num_acquired == 0


async def test_a_loaded_model_reads_it_without_being_acquired(app: FastAPI) -> None:
    model = app.state.context.models.default
    model.loader = loader = _Loader(ModelState.LOADED)
    assert await _publisher(app).publish(RECORD) is None
    assert _served(app)[RECORD.name].info is not None
    assert loader.num_acquired == 0


@pytest.mark.parametrize("error", [EngineUnavailable("it is being unloaded"), EngineStopped("it was unloaded")])
async def test_a_model_that_is_unloaded_while_it_reads_gets_it_later(app: FastAPI, error: Exception) -> None:
    model = app.state.context.models.default
    model.loader = loader = _Loader(ModelState.LOADED)
    model.client.adapters["ftjob-1"] = error
    publishing = asyncio.create_task(_publisher(app).publish(RECORD))
    await asyncio.sleep(0)
    assert not publishing.done()
    loader.model("").state = ModelState.UNLOADED
    await until(publishing.done)
    assert publishing.result() is None
    assert _served(app)[RECORD.name].info is None


async def test_a_model_whose_queue_is_full_while_it_is_loaded_gets_it_later(tmp_path: Path) -> None:
    several = make_several({"alpha": 1}, 10, enable_lora=True, max_num_waiting=1)
    several.loads_at_once = False
    models = several.app.state.context.models
    models.default.has_adapters = True
    waiting = asyncio.create_task(several.loader.acquire("alpha"))
    await until(lambda: several.engines)
    with pytest.raises(QueueFull):
        await several.loader.acquire("alpha")
    record = msgspec.structs.replace(RECORD, base_model="alpha")
    assert await Publisher(models, str(tmp_path), sleep=no_time).publish(record) is None
    assert [each.name for each in models.adapters] == [RECORD.name]
    waiting.cancel()


async def test_what_was_announced_is_read_once_the_model_is_loaded(app: FastAPI) -> None:
    model = app.state.context.models.default
    model.loader = loader = _Loader(ModelState.UNLOADED)
    publisher = _publisher(app)
    await publisher.publish(RECORD)
    await publisher.publish(RECORD, 5)
    assert publisher.unread == []
    loader.model("").state = ModelState.LOADED
    assert len(publisher.unread) == 2
    model.client.adapters["step-5"] = AdapterUnusable("it has no matrices")
    await publisher.read_unread()
    assert [(each.name, each.info is not None) for each in app.state.context.models.adapters] == [(RECORD.name, True)]
    assert publisher.unread == []


async def test_an_engine_that_starts_again_is_waited_for(app: FastAPI) -> None:
    client = app.state.context.models.default.client
    client.state = EngineState.LOADING
    publishing = asyncio.create_task(_publisher(app).publish(RECORD))
    await asyncio.sleep(0)
    assert not publishing.done()
    client.state = EngineState.READY
    await until(publishing.done)
    assert publishing.result() is None


async def test_an_adapter_that_the_engine_refuses_is_not_served(app: FastAPI) -> None:
    app.state.context.models.default.client.adapters["ftjob-1"] = AdapterUnusable("rank 64 is above --max-lora-rank 16")
    assert await _publisher(app).publish(RECORD) == "rank 64 is above --max-lora-rank 16"
    assert _served(app) == {}


async def test_an_adapter_that_is_withdrawn_is_not_served(app: FastAPI) -> None:
    publisher = _publisher(app)
    await publisher.publish(RECORD)
    publisher.withdraw(RECORD)
    publisher.withdraw(RECORD)  # which is nothing
    assert _served(app) == {}
